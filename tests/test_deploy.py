"""deploy/: what can be checked of images, services and servers without a container engine, a GPU or Triton."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from deploy import agreement, triton_client, triton_repository
from perception.engine import Engine, Metadata
from perception.imagefile import encode_image
from perception.model import Model, load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def model_config(text: str) -> Any:
    """Triton's own schema reads the text: it knows every field, and the type of each."""
    spec = importlib.util.find_spec("tritonclient")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"  # its package would want grpcio
    schema_spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert schema_spec is not None and schema_spec.loader is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its code was generated for the protobuf before ours
        schema = importlib.util.module_from_spec(schema_spec)
        if "model_config_pb2" in sys.modules:
            schema = sys.modules["model_config_pb2"]
        else:
            schema_spec.loader.exec_module(schema)
            sys.modules["model_config_pb2"] = schema
    return text_format.Parse(text, schema.ModelConfig())


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_triton_understands_the_repository(tiny_model: Path, tmp_path: Path, provider: str) -> None:
    folder = tmp_path / "repository"
    argv = [str(tiny_model), str(folder), "--name", "toy", "--provider", provider, "--instances", "2"]
    assert triton_repository.main(argv) == 0
    config = model_config((folder / "toy" / "config.pbtxt").read_text())
    assert (folder / "toy" / "1" / "model.onnx").read_bytes() == tiny_model.read_bytes()
    assert (config.name, config.backend, config.max_batch_size) == ("toy", "onnxruntime", 0)
    engine = Engine(tiny_model, "cpu")
    image = np.zeros((1, *engine.input_hw, 3), np.uint8)
    assert [(i.name, list(i.dims)) for i in config.input] == [("image", list(image.shape))]
    assert {o.name: list(o.dims) for o in config.output} == {k: list(v.shape) for k, v in engine.run(image).items()}
    types = {
        o.name: type(o).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[o.data_type].name
        for o in config.output
    }
    assert types.pop("boxes") == "TYPE_FP32" and set(types.values()) == {"TYPE_UINT8"}
    group = config.instance_group[0]
    kinds = type(group).DESCRIPTOR.enum_types_by_name["Kind"].values_by_name
    assert group.count == 2 and group.kind == kinds["KIND_CPU" if provider == "cpu" else "KIND_GPU"].number
    accelerators = [a.name for a in config.optimization.execution_accelerators.gpu_execution_accelerator]
    assert accelerators == ([] if provider == "cpu" else [provider])
    assert config.model_warmup[0].inputs["image"].dims == list(image.shape)
    about = config.parameters["perception"].string_value
    assert Metadata.from_json(about) == engine.metadata, "a client needs no copy of the file"
    assert sorted(path.name for path in (folder / "toy").iterdir()) == ["1", "config.pbtxt"], "nothing half-written"


def test_a_file_with_an_open_batch_may_be_batched_by_the_server() -> None:
    config = triton_repository.TritonConfig(model=Path("x"), repository=Path("y"), max_batch=4)
    shapes = {"boxes": (1, 4, 6), "scene": (1, 64, 96)}
    meta = Metadata(input_hw=(64, 96), box_names=('a "quoted" name',), heads={"scene": ("road",)})
    parsed = model_config(triton_repository.config_pbtxt(config, "toy", meta, None, shapes))
    assert parsed.max_batch_size == 4 and parsed.HasField("dynamic_batching")
    assert list(parsed.input[0].dims) == [64, 96, 3] and [list(o.dims) for o in parsed.output] == [[4, 6], [64, 96]]
    assert Metadata.from_json(parsed.parameters["perception"].string_value) == meta


def test_a_version_that_is_there_stays(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tiny_model), str(tmp_path)]
    assert triton_repository.main(argv) == 0
    model = tmp_path / tiny_model.stem / "1" / "model.onnx"
    model.write_text("mine")
    assert triton_repository.main(argv) == 2 and model.read_text() == "mine"
    assert "--version" in capsys.readouterr().err
    assert triton_repository.main([*argv, "--version", "2"]) == 0 and model.read_text() == "mine"
    assert triton_repository.main([*argv, "--name", "a/b"]) == 2
    for wrong in (["--instances", "0"], ["--precision", "fp16"]):
        with pytest.raises(SystemExit, match="2"):
            triton_repository.main([*argv, *wrong])


class V2Handler(BaseHTTPRequestHandler):
    """The part of the KServe v2 protocol, with Triton's binary tensors, that a client needs; our engine answers."""

    engine: Engine
    about: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v2/models/other/config":
            return self.answer(400, b'{"error": "Request for unknown model"}')
        config: dict[str, Any] = {"input": [{"name": "image", "dims": [str(n) for n in (1, *self.engine.input_hw, 3)]}]}
        if self.path == "/v2/models/toy/config":
            config["parameters"] = {"perception": {"string_value": self.about}}
        return self.answer(200, json.dumps(config).encode())

    def do_POST(self) -> None:
        assert self.path == "/v2/models/toy/infer"
        length, header = (int(self.headers[key]) for key in ("Content-Length", "Inference-Header-Content-Length"))
        body = self.rfile.read(length)
        asked = json.loads(body[:header])
        [image] = asked["inputs"]
        assert image["name"] == "image" and image["datatype"] == "UINT8"
        assert image["parameters"]["binary_data_size"] == length - header
        tensor = np.frombuffer(body[header:], np.uint8).reshape(image["shape"])
        found = self.engine.run(tensor)
        blobs = {o["name"]: found[o["name"]].tobytes() for o in asked["outputs"]}
        outputs = [
            {
                "name": name,
                "shape": found[name].shape,
                "datatype": {"uint8": "UINT8", "float32": "FP32"}[found[name].dtype.name],
                "parameters": {"binary_data_size": len(blob)},
            }
            for name, blob in blobs.items()
        ]
        head = json.dumps({"model_name": "toy", "model_version": "1", "outputs": outputs}).encode()
        return self.answer(200, head + b"".join(blobs.values()), len(head))

    def answer(self, status: int, body: bytes, header: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if header is not None:
            self.send_header("Inference-Header-Content-Length", str(header))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny_model: Path) -> Iterator[str]:
    """HOST:PORT of something that answers like Triton."""
    engine = Engine(tiny_model, "cpu")
    handler = type("Handler", (V2Handler,), {"engine": engine, "about": engine.metadata.to_json()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_on_a_server_answers_like_the_local_one(tiny_model: Path, server: str) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)
    local = load(tiny_model, "cpu", score_threshold=0.0)
    engine = triton_client.TritonEngine(server, "toy")
    remote = Model(engine, score_threshold=0.0)
    a, b = local(frame), remote(frame)
    engine.close()
    assert len(a.boxes) and a.class_maps.keys() == b.class_maps.keys()
    np.testing.assert_array_equal(a.boxes, b.boxes)
    for head, class_map in a.class_maps.items():
        np.testing.assert_array_equal(class_map, b.class_maps[head])


def test_the_loop_runs_on_a_server(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        image = np.full((60, 90, 3), 40 * number, np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode_image(image, ".png"))
    argv = [str(tmp_path), "--server", server, "--model", "toy", "--out", str(tmp_path / "run"), "--json", "-"]
    assert triton_client.main(argv) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 3
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) >= 3


@pytest.mark.parametrize(
    ("model", "message"), [("other", "unknown model"), ("strange", "triton_repository.py writes it")]
)
def test_a_server_without_the_model(server: str, model: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert triton_client.main(["x.mp4", "--server", server, "--model", model]) == 2
    assert message in capsys.readouterr().err


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert triton_client.main(["x.mp4", "--server", "127.0.0.1:9"]) == 2
    assert "is tritonserver running" in capsys.readouterr().err
    assert triton_client.main(["x.mp4", "--server", "nowhere"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_agreement_of_a_file_with_itself(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "frame.png"
    picture.write_bytes(encode_image(np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8), ".png"))
    argv = [str(tiny_model), str(tiny_model), "--provider", "cpu", "--source", str(picture), "--json", "-"]
    assert agreement.main(argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["frames"] == 1 and set(summary["maps"].values()) == {1.0} and summary["boxes_iou"] == 1.0


def stages() -> dict[str, list[str]]:
    """Stage of the Dockerfile -> its instructions."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = [line]
        elif line and not line.startswith("#") and found:
            next(reversed(found.values())).append(line)
    return found


def test_images_are_pinned_small_and_not_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+-", text, re.M), "the base image's version is named in full"
    assert "torch" not in re.sub(r"#.*", "", text)
    found = stages()
    assert list(found)[-1] == "cpu", "what `docker build` makes if nothing is said"
    assert found["cpu"][0].startswith("FROM runtime ") and found["gpu"][0].startswith("FROM runtime ")
    users = [line for line in found["runtime"] if line.startswith("USER ")]
    assert users == ["USER 10001"] and not any(line.startswith(("USER", "RUN")) for line in found["cpu"] + found["gpu"])
    module = re.search(r'CMD \["([\w.]+)"\]', text)
    assert module and importlib.util.find_spec(module[1]) is not None


def test_the_cpu_image_gets_one_onnx_runtime_of_the_tested_version() -> None:
    [line] = [line for line in stages()["build-cpu"] if "sed" in line]
    command = re.search(r"RUN (sed .*?) > cpu.txt", line)
    assert command
    done = subprocess.run(command[1], shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    before = (ROOT / "requirements" / "base.txt").read_text().splitlines()
    version = next(line.split("==")[1].split(" ")[0] for line in before if line.startswith("onnxruntime-gpu=="))
    assert [line for line in done.stdout.splitlines() if "onnxruntime" in line] == [f"onnxruntime=={version}"]
    assert len(done.stdout.splitlines()) == len(before) - 1


def test_all_that_is_copied_into_the_image_is_there_and_not_ignored() -> None:
    ignore = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in "#"]
    assert ignore[0] == "*"
    kept = [line[1:] for line in ignore if line.startswith("!")]
    for line in stages()["build"]:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source.split("/")[0], pattern) for pattern in kept), source


def test_the_service_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    text = (DEPLOY / "perception-live.service").read_text()
    assert "DynamicUser=yes" in text and "ProtectSystem=strict" in text and "\nUser=" not in text
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "perception-live.service"
    unit.write_text(text.replace("/opt/perception/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about = [line for line in (done.stdout + done.stderr).splitlines() if "perception-live" in line]
    assert not about


FAKE_PYTHON = """#!/bin/bash
# stands in for an environment: the real interpreter where the script computes, else one answer for each command
if [[ $1 == -c || $1 == - ]]; then exec "{python}" "$@"; fi
echo "$*" >> "{log}"
out="${{@: -1}}"
case "$*" in
  *doctor*) echo '{{"schema": 1}}' > "$out" ;;
  *"--precision int8"*) echo "error: no int8 here" >&2; exit 2 ;;
  *"--precision fp16"*) touch "$5"; echo '{{}}' > "$out" ;;
  *"--provider cuda"*) echo "error: provider cuda can not run here: no driver" >&2; exit 2 ;;
  *) echo '{{"p50": 1.5}}' > "$out" ;;
esac
"""


def test_gpu_check_goes_on_after_a_failure_and_writes_one_file(tmp_path: Path) -> None:
    fake, log, out = tmp_path / "python", tmp_path / "log", tmp_path / "check.json"
    fake.write_text(FAKE_PYTHON.format(python=sys.executable, log=log))
    fake.chmod(0o755)
    command = ["bash", "deploy/gpu_check.sh", "--python", str(fake), "--out", str(out), "--quick", "cpu", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(out.read_text())
    steps = {step["step"]: step for step in report["steps"]}
    assert steps["doctor"]["exit"] == 0 and steps["doctor"]["result"] == {"schema": 1}
    assert steps["export int8"]["said"] == ["error: no int8 here"]
    for kind in ("agreement", "latency", "live"):
        for precision in ("drive-n", "fp16"):
            assert steps[f"{kind} cpu {precision}"]["result"] == {"p50": 1.5}
            assert "no driver" in steps[f"{kind} cuda {precision}"]["said"][0]
    assert len(steps) == 3 + 12 and f"{len(steps)} steps failed" in done.stdout
    assert not list(tmp_path.glob("*.part"))
    assert "--runs 5" in log.read_text()


def test_gpu_check_names_only_options_that_exist() -> None:
    """Every command in it is one that the fake interpreter of the test above would not tell from a wrong one."""
    text = (DEPLOY / "gpu_check.sh").read_text()
    for script in re.findall(r'"\$python" ((?:benchmarks|deploy)/\w+\.py|-m [\w.]+)', text):
        source = ROOT / (f"{script[3:].replace('.', '/')}.py" if script.startswith("-m ") else script)
        assert source.is_file(), source
    calls = re.findall(r'"\$python" (?:-m )?([\w./]+)([^\n]*)', text)
    assert any("--" in rest for _, rest in calls), "no command is found any more"
    for script, rest in calls:
        source = ROOT / (script if script.endswith(".py") else f"{script.replace('.', '/')}.py")
        for option in re.findall(r"--([a-z-]+)", rest):
            assert re.search(rf"^    {option.replace('-', '_')}: ", source.read_text(), re.M), f"{source} --{option}"


def test_gpu_check_says_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    wrong = {
        "unknown option": ["--nonsense"],
        "no model file": ["--model", str(tmp_path / "no.onnx")],
        "can not import perception": ["--python", "/bin/false"],
    }
    for message, extra in wrong.items():
        command = ["bash", "deploy/gpu_check.sh", "--python", sys.executable, *extra]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and message in done.stderr
