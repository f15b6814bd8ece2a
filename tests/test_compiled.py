"""OpenVINO as the second engine: ONNX Runtime's answers up to its arithmetic, and clear words where it can not run.

It runs in processes of its own here: beside torch and forked workers in one process it has hung and crashed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perception.engine import Engine
from perception.execution import compiled, session
from perception.execution.compiled import for_auto

ANSWERS = """
import sys
import numpy as np
from perception.engine import Engine
from perception.model import load

frame = np.full((80, 120, 3), 114, np.uint8)
frame[20:40, 30:60] = (10, 10, 250)  # red: a car
frame[50:70, 80:100] = (250, 10, 10)  # blue: a pedestrian
a, b = load(sys.argv[1], "cpu")(frame), load(sys.argv[1], "openvino", threads=1)(frame)
assert len(a.boxes) == 2
np.testing.assert_array_equal(a.classes, b.classes)
np.testing.assert_allclose(a.boxes, b.boxes, atol=0.5)
np.testing.assert_allclose(a.scores, b.scores, atol=0.01)
for head, class_map in a.class_maps.items():
    np.testing.assert_array_equal(class_map, b.class_maps[head])

engine = Engine(sys.argv[1], "openvino")
image = np.zeros((1, *engine.input_hw, 3), np.uint8)
first = engine.run(image)["drive"]
kept = first.copy()
assert (engine.run(image + 255)["drive"] != kept).any()
np.testing.assert_array_equal(first, kept)  # an answer stays what it is
try:
    engine.run(image[:, 1:])
except ValueError as error:
    assert "expected an input" in str(error)
print(engine.provider, engine.provider_reason, sep="|")
"""

TALKS = """
import json, socket, sys
from perception.engine import Engine
asked = []
socket.socket.connect = lambda self, address: asked.append(address)
socket.getaddrinfo = lambda host, *rest, **more: asked.append(host) or []
Engine(sys.argv[1], "openvino").warm_up()
print(json.dumps(asked))
"""

AUTO = """
import sys
from perception.engine import Engine

assert "torch" not in sys.modules
first = Engine(sys.argv[1], "auto")
sys.modules["torch"] = sys  # whatever it is: its name is there
second = Engine(sys.argv[1], "auto")
print(first.provider_reason, second.provider_reason, sep="|")
"""

FORKS = """
import gc, os, sys, time
from perception.engine import Engine

engine = Engine(sys.argv[1], "openvino")
engine.warm_up()
loop = [engine]
loop.append(loop)  # only the collector of garbage can free it
del engine
for _ in range(3):
    child = os.fork()
    if child == 0:
        del loop
        gc.collect()
        os._exit(0)
    until, ended = time.monotonic() + 20, 0
    while not ended and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not ended:
        os.kill(child, 9)
        sys.exit("a forked child hangs")
    assert status == 0, status
loop[0].warm_up()  # the parent goes on
print("ok")
"""

BROKEN = """
import sys
from pathlib import Path
from perception.execution.compiled import Compiled
try:
    Compiled(Path(sys.argv[1]), 0)
except ValueError as error:
    print(error)
"""


def in_its_own_process(code: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_answers_like_onnx_runtime_and_says_how_it_computes(tiny_model: Path) -> None:
    provider, reason = in_its_own_process(ANSWERS, tiny_model).split("|")
    assert provider == "openvino" and reason.startswith("OpenVINO: as asked for; 20")
    assert reason.endswith(("computing in bf16", "computing in f32"))


def test_nothing_is_reported_to_anyone(tiny_model: Path) -> None:
    """Its wheel brings openvino-telemetry, for conversion tools that we do not use: no connection is asked for."""
    assert json.loads(in_its_own_process(TALKS, tiny_model)) == []


def test_a_file_that_it_can_not_compile_is_one_clear_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    assert "broken.onnx: OpenVINO can not compile it" in in_its_own_process(BROKEN, broken)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_leave_it_be(tiny_model: Path) -> None:
    """Such as the workers of torch's loader: they would wait for threads that only their parent has."""
    assert in_its_own_process(FORKS, tiny_model) == "ok"


def test_without_it_the_remedy_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "openvino_obstacle", lambda: ("it is not installed", compiled.INSTALL))
    with pytest.raises(ValueError, match="can not run here: it is not installed; pip install openvino"):
        Engine(tiny_model, "openvino")


@pytest.mark.parametrize(
    ("installed", "loaded", "words"),
    [
        (True, {"numpy", "perception.live"}, None),
        (True, {"numpy", "torch"}, "not taken beside torch"),
        (True, {"torchvision_of_mine", "numpy.torch"}, None),
        (False, {"numpy"}, "not installed (pip install openvino)"),
        (False, {"torch"}, "not installed"),
    ],
)
def test_when_auto_takes_it(installed: bool, loaded: set[str], words: str | None) -> None:
    found = for_auto(installed, loaded)
    assert found is None if words is None else words in (found or "")


class Fake:
    """A session of OpenVINO that was never compiled."""

    description = "2026.9, computing in bf16"

    def __init__(self, path: Path, threads: int) -> None:
        if path.stem == "strange":
            raise ValueError("OpenVINO can not compile it (an operator)")


def test_auto_falls_back_to_the_cpu_and_says_why(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "why_not", lambda provider: "no NVIDIA GPU")
    monkeypatch.setattr(session, "Compiled", Fake)
    assert Engine(tiny_model).provider_reason == (
        "CPU: no NVIDIA GPU; OpenVINO is not taken in the process of the tests"
    )
    monkeypatch.setattr(session, "openvino_for_auto", lambda: None)
    engine = Engine(tiny_model)
    assert (engine.provider, engine.provider_reason) == (
        "openvino",
        "OpenVINO: no NVIDIA GPU; 2026.9, computing in bf16",
    )
    strange = shutil.copy(tiny_model, tmp_path / "strange.onnx")
    assert Engine(strange).provider_reason == "CPU: no NVIDIA GPU; OpenVINO can not compile it (an operator)"


def test_auto_in_a_process_without_torch_and_in_one_with_it(tiny_model: Path) -> None:
    first, second = in_its_own_process(AUTO, tiny_model).split("|")
    if not first.startswith("CUDA: "):
        assert first.startswith("OpenVINO: ") and "computing in" in first
        assert second.startswith("CPU: ") and second.endswith("; OpenVINO is not taken beside torch in one process")
