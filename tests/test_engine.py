"""perception.engine: what runs is what was asked for, and a file that is not ours is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from perception.engine import Engine, Metadata
from perception.execution import libraries, session
from perception.execution.providers import ORT_NAMES


def image(hw: tuple[int, int] = (64, 96), **areas: tuple[slice, slice]) -> np.ndarray:
    """(1, h, w, 3) uint8 RGB of grey 90 with pure red, green or blue areas."""
    out = np.full((1, *hw, 3), 90, np.uint8)
    for colour, area in areas.items():
        out[0][area] = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[colour]
    return out


def changed(metadata: Metadata, **changes: Any) -> str:
    return json.dumps(json.loads(metadata.to_json()) | changes)


def test_run_gives_named_outputs_of_the_declared_shapes(tiny_model: Path) -> None:
    engine = Engine(tiny_model, "cpu")
    outputs = engine.run(image(red=np.s_[10:20, 30:50], blue=np.s_[40:41, 5:6]))
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "boxes": ((1, 4, 6), "float32"),
        "scene": ((1, 64, 96), "uint8"),
        "drive": ((1, 64, 96), "uint8"),
    }
    assert outputs["boxes"][0, :2].tolist() == [[30, 10, 50, 20, 1, 1], [5, 40, 6, 41, 1, 0]]
    assert (outputs["scene"] == 1).sum() == 200 and (outputs["scene"] == 2).sum() == 1


def test_another_image_gives_another_answer_and_keeps_the_first(tiny_model: Path) -> None:
    engine = Engine(tiny_model, "cpu")
    first = engine.run(image(red=np.s_[10:20, 30:50], green=np.s_[0:5, 0:5]))
    kept = {name: array.copy() for name, array in first.items()}
    second = engine.run(image(red=np.s_[11:20, 30:50]))
    assert all(not np.array_equal(first[name], second[name]) for name in kept)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_input_that_is_not_contiguous_is_read_right(tiny_model: Path) -> None:
    engine = Engine(tiny_model, "cpu")
    tensor = image(red=np.s_[10:20, 30:50])
    assert np.array_equal(engine.run(tensor[:, ::-1])["scene"], engine.run(tensor)["scene"][:, ::-1])


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((1, 96, 64, 3), np.uint8),
        np.zeros((64, 96, 3), np.uint8),
        np.zeros((2, 64, 96, 3), np.uint8),
        np.zeros((1, 64, 96, 3), np.float32),
        np.zeros((), np.uint8),
    ],
)
def test_run_refuses_another_shape_or_dtype(tiny_model: Path, tensor: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected an input \(1, 64, 96, 3\) uint8 RGB, but got .*tensor_from_frame"):
        Engine(tiny_model, "cpu").run(tensor)


def test_metadata_survives_the_file(tiny_model: Path, tiny_metadata: Metadata) -> None:
    engine = Engine(tiny_model, "cpu")
    assert engine.metadata == tiny_metadata
    assert engine.input_hw == (64, 96) and engine.batch == 1


def test_a_model_without_boxes_gives_maps_only(make_tiny_model: Callable[..., Path], tiny_metadata: Metadata) -> None:
    path = make_tiny_model(metadata=changed(tiny_metadata, boxes=None, heads={"drive": ["dark", "bright"]}))
    engine = Engine(path, "cpu")
    engine.warm_up(2)
    assert list(engine.run(image())) == ["drive"] and engine.metadata.box_names == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, but this version reads schema 1"),
        ({"heads": {"road": ["a"]}}, "its metadata names `road`, but the graph's outputs are boxes, scene, drive"),
        ({"heads": {"boxes": ["a"]}}, "`boxes` is .* tensor.uint8., but in the graph"),
        ({"input": {"height": 96, "width": 64, "colour": "RGB", "layout": "NHWC"}}, "`image` is .any, 96, 64, 3."),
        ({"input": {"height": 64, "width": 96, "colour": "BGR", "layout": "NHWC"}}, "input colour must be RGB"),
        ({"input": {"height": 64}}, "key 'colour' is missing"),
        ({"input": 7}, "not readable"),
        ({"boxes": None, "heads": {}}, "neither boxes nor heads"),
    ],
)
def test_metadata_that_disagrees_is_refused(
    make_tiny_model: Callable[..., Path], tiny_metadata: Metadata, changes: dict[str, Any], message: str
) -> None:
    path = make_tiny_model(metadata=changed(tiny_metadata, **changes))
    with pytest.raises(ValueError, match=f"made.onnx: not a model of this project: .*{message}"):
        Engine(path, "cpu")


def test_foreign_models_are_refused(make_tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="has no `perception` metadata"):
        Engine(make_tiny_model(metadata=None), "cpu")
    with pytest.raises(ValueError, match="not readable"):
        Engine(make_tiny_model(metadata="{"), "cpu")
    with pytest.raises(ValueError, match=r"`image` is .* tensor.uint8., but in the graph .* tensor.float."):
        Engine(make_tiny_model(dtype=TensorProto.FLOAT), "cpu")


@pytest.mark.parametrize("content", [b"", b"not a model\n", b"\x08\x09", b"\x00" * 100])
def test_files_that_are_not_onnx_are_refused_in_one_line(tmp_path: Path, capfd: Any, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx") as caught:
        Engine(path, "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(tiny_model.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"half\.onnx: not a"):
        Engine(path, "cpu")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model file not found: .*none\.onnx"):
        Engine(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"is a folder; of a run, python -m perception\.export .* --out FILE\.onnx"):
        Engine(tmp_path)


def test_cpu_says_that_it_was_asked_for(tiny_model: Path) -> None:
    engine = Engine(tiny_model, "cpu", threads=1)
    assert (engine.provider, engine.provider_reason) == ("cpu", "CPU: as asked for")


def test_unknown_provider_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="provider must be one of auto, tensorrt, cuda, openvino, cpu, but got 'npu'"):
        Engine(tiny_model, "npu")  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntime_without_gpu_support_is_named(
    tiny_model: Path, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=rf"provider {provider} can not run here: .* install .*onnxruntime-gpu"):
        Engine(tiny_model, provider)
    engine = Engine(tiny_model, "auto")
    assert engine.provider == "cpu" and engine.provider_reason.startswith(
        "CPU: this onnxruntime was built without CUDA"
    )


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_driver_is_named(tiny_model: Path, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ORT_NAMES.values()))
    monkeypatch.setattr(libraries.ctypes, "CDLL", no_library)
    with pytest.raises(
        ValueError, match=r"no NVIDIA GPU/driver found \((libcuda.so.1|nvcuda.dll)\); or use --provider"
    ):
        Engine(tiny_model, provider)
    assert Engine(tiny_model, "auto").provider_reason.startswith("CPU: no NVIDIA GPU/driver found")


def test_a_listed_provider_that_does_not_start_is_an_error_and_never_the_cpu(
    tiny_model: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing speaks against CUDA beforehand, but ONNX Runtime can not start it: no silent fallback, no noise."""
    monkeypatch.setattr(session, "why_not", lambda provider: None)
    if Engine(tiny_model, "auto").provider != "cpu":
        pytest.skip("this machine has a working GPU")
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ValueError, match=r"(CUDA|TensorRT) (failed|could not be started)"):
            Engine(tiny_model, provider)  # type: ignore[arg-type]
    assert Engine(tiny_model, "auto").provider_reason.startswith("CPU: CUDA ")
    assert capfd.readouterr() == ("", "")
