"""Fixtures: a tiny model that sees colours, so that every stage can be tested with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, compose, helper, numpy_helper

from perception.engine import Metadata
from perception.execution import session

TINY_HW = (64, 96)
TINY = Metadata(
    input_hw=TINY_HW,
    box_names=("pedestrian", "car"),
    heads={"scene": ("other", "red", "blue"), "drive": ("dark", "bright")},
    config={"name": "tiny"},
    revision="0000000",
    data=("none",),
    step=1,
)


@pytest.fixture(autouse=True)
def auto_leaves_openvino_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where some test may load torch later; tests of OpenVINO start processes of their own."""
    monkeypatch.setattr(session, "openvino_for_auto", lambda: "OpenVINO is not taken in the process of the tests")


def save_tiny_model(
    path: Path, hw: tuple[int, int] = TINY_HW, metadata: str | None = TINY.to_json(), dtype: int = TensorProto.UINT8
) -> Path:
    """Write a model without weights that finds the red thing (a car) and the blue thing (a pedestrian) in an image.

    A pixel is red (blue) where its red (blue) value is over its green one by 64; grey, and so the border, is neither.
    boxes: (1, 4, 6), the tightest box around everything red and around everything blue, score = greatest difference
    / 255, by falling score; a colour that is absent and the two spare slots have score 0.
    scene: 1 where red, 2 where blue. drive: 1 where green is over 128.
    """
    h, w = hw
    consts = {
        "k64": np.float32(64), "k128": np.float32(128), "k255": np.float32(255), "zero": np.float32(0),
        "big": np.float32(1e4), "two": np.uint8(2), "one_f": np.float32(1), "four": np.array([4]),
        "xs": np.arange(w, dtype=np.float32), "ys": np.arange(h, dtype=np.float32),
        "box_shape": np.array([1, 1, 6]), "spare": np.zeros((1, 2, 6), np.float32), "score_at": np.int64(4),
        "class_red": np.array([1], np.float32), "class_blue": np.array([0], np.float32),
        "axis_w": np.array([2]), "axis_h": np.array([1]), "one_d": np.array([1]),
        "i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2),
    }  # fmt: skip
    nodes: list[Any] = []

    def op(kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    image = op("Cast", "image", to=TensorProto.FLOAT)  # (1, h, w, 3)
    r, g, b = (op("Gather", image, index, axis=3) for index in ("i0", "i1", "i2"))  # (1, h, w)
    op("Cast", op("Greater", g, "k128"), to=TensorProto.UINT8, out="drive")
    rows, masks = [], []
    for colour, class_id in ((r, "class_red"), (b, "class_blue")):
        difference = op("Sub", colour, g)
        mask = op("Greater", difference, "k64")
        masks.append(op("Cast", mask, to=TensorProto.UINT8))
        weight = op("Cast", mask, to=TensorProto.FLOAT)
        corners = []
        for reduce, axis, line in (("ReduceMin", "axis_h", "xs"), ("ReduceMin", "axis_w", "ys"),
                                   ("ReduceMax", "axis_h", "xs"), ("ReduceMax", "axis_w", "ys")):  # fmt: skip
            seen = op("Greater", op("ReduceMax", weight, axis, keepdims=0), "zero")  # (1, w) or (1, h)
            place = line if reduce == "ReduceMin" else op("Add", line, "one_f")
            corner = op(reduce, op("Where", seen, place, "big" if reduce == "ReduceMin" else "zero"), keepdims=0)
            corners.append(op("Reshape", corner, "one_d"))
        greatest = op("Div", op("ReduceMax", op("Mul", difference, weight), keepdims=0), "k255")
        row = op("Concat", *corners, op("Reshape", greatest, "one_d"), class_id, axis=0)
        rows.append(op("Reshape", row, "box_shape"))
    op("Add", masks[0], op("Mul", masks[1], "two"), out="scene")
    slots = op("Concat", *rows, "spare", axis=1)  # (1, 4, 6)
    scores = op("Gather", slots, "score_at", axis=2)  # (1, 4)
    nodes.append(helper.make_node("TopK", [scores, "four"], ["sorted", "order"], axis=1))
    op("Gather", slots, op("Reshape", "order", "four"), axis=1, out="boxes")

    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, [1, h, w, 3])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4, 6]),
            helper.make_tensor_value_info("scene", TensorProto.UINT8, [1, h, w]),
            helper.make_tensor_value_info("drive", TensorProto.UINT8, [1, h, w]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in consts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata is not None:
        helper.set_model_props(model, {"perception": metadata})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def batched_model(source: Path, path: Path, batch: int) -> Path:
    """Write the model `source` for `batch` images in one call: so many copies of its graph side by side."""
    model = onnx.load(source)
    graph = model.graph
    places = [compose.add_prefix_graph(graph, f"p{place}_") for place in range(batch)]
    inputs, outputs = [node.name for node in graph.input], [node.name for node in graph.output]
    nodes = [helper.make_node("Split", inputs, [f"p{i}_image" for i in range(batch)], axis=0, num_outputs=batch)]
    nodes += [node for place in places for node in place.node]
    nodes += [helper.make_node("Concat", [f"p{i}_{name}" for i in range(batch)], [name], axis=0) for name in outputs]
    constants = [tensor for place in places for tensor in place.initializer]
    for node in (*graph.input, *graph.output):
        node.type.tensor_type.shape.dim[0].dim_value = batch
    model.graph.CopyFrom(helper.make_graph(nodes, "batched", list(graph.input), list(graph.output), constants))
    (about,) = (Metadata.from_json(entry.value) for entry in model.metadata_props)
    helper.set_model_props(model, {"perception": replace(about, batch=batch).to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def tiny_batched(tiny_model: Path) -> Callable[[int], Path]:
    """`tiny_model` for so many images in one call."""
    return lambda batch: batched_model(tiny_model, tiny_model.with_name(f"tiny-{batch}.onnx"), batch)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file by the contract, 64x96: finds the red car and the blue pedestrian (see save_tiny_model)."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_metadata() -> Metadata:
    """The metadata inside `tiny_model`."""
    return TINY


@pytest.fixture
def make_tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """save_tiny_model into this test's folder; `hw`, `metadata` and `dtype` can be set wrong on purpose."""
    return lambda **changes: save_tiny_model(tmp_path / "made.onnx", **changes)
