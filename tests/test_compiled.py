"""OpenVINO as the second engine: ONNX Runtime's answers up to its arithmetic, and clear words where it can not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perception import engine as engine_module
from perception.engine import Engine
from perception.execution import compiled, session
from perception.model import load


def test_it_answers_like_onnx_runtime(tiny_model: Path) -> None:
    frame = np.full((80, 120, 3), 114, np.uint8)
    frame[20:40, 30:60] = (10, 10, 250)  # red: a car
    frame[50:70, 80:100] = (250, 10, 10)  # blue: a pedestrian
    a, b = load(tiny_model, "cpu")(frame), load(tiny_model, "openvino", threads=1)(frame)
    np.testing.assert_array_equal(a.classes, b.classes)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=0.5)
    np.testing.assert_allclose(a.scores, b.scores, atol=0.01)
    for head, class_map in a.class_maps.items():
        np.testing.assert_array_equal(class_map, b.class_maps[head])


def test_it_says_how_it_computes_and_keeps_answers_apart(tiny_model: Path) -> None:
    engine = Engine(tiny_model, "openvino")
    assert engine.provider == "openvino" and engine.provider_reason.startswith("OpenVINO: as asked for; 20")
    assert "computing in bf16" in engine.provider_reason or "computing in f32" in engine.provider_reason
    image = engine_input(engine)
    first = engine.run(image)["drive"]
    kept = first.copy()
    image[:] = 255
    assert (engine.run(image)["drive"] != kept).any()
    np.testing.assert_array_equal(first, kept)
    with pytest.raises(ValueError, match="expected an input"):
        engine.run(image[:, 1:])


def test_auto_takes_it_where_there_is_no_gpu(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "why_not", lambda provider: "no GPU here")
    assert Engine(tiny_model).provider_reason.startswith("OpenVINO: no GPU here; 20")
    monkeypatch.setattr(session, "openvino_obstacle", lambda: ("it is not installed", compiled.INSTALL))
    assert Engine(tiny_model).provider_reason == "CPU: no GPU here"


def test_auto_goes_on_with_onnx_runtime_where_a_file_can_not_be_compiled(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("OpenVINO can not compile it")

    monkeypatch.setattr(engine_module, "Compiled", fails)
    engine = Engine(tiny_model)
    assert engine.provider_reason == "CPU: OpenVINO can not compile it" and engine.run(engine_input(engine))
    with pytest.raises(ValueError, match="can not compile"):
        Engine(tiny_model, "openvino")


def engine_input(engine: Engine) -> np.ndarray:
    return np.zeros((1, *engine.input_hw, 3), np.uint8)


def test_without_it_the_remedy_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "openvino_obstacle", lambda: ("it is not installed", compiled.INSTALL))
    with pytest.raises(ValueError, match="can not run here: it is not installed; pip install openvino"):
        Engine(tiny_model, "openvino")


def test_a_file_that_it_can_not_compile_is_one_clear_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken\.onnx: OpenVINO can not compile it"):
        compiled.Compiled(broken, ["boxes"], 0)


TALKS = """
import socket, sys
from perception import engine as engine_module
from perception.engine import Engine
asked = []
socket.socket.connect = lambda self, address: asked.append(address)
socket.getaddrinfo = lambda host, *rest, **more: asked.append(host) or []
Engine(sys.argv[1], "openvino").warm_up()
print(asked)
"""


def test_nothing_is_reported_to_anyone(tiny_model: Path) -> None:
    """Its wheel brings openvino-telemetry, for conversion tools that we do not use: no connection is asked for."""
    done = subprocess.run([sys.executable, "-c", TALKS, str(tiny_model)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
