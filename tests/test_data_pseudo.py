"""Pseudo-labels with a made-up YOLOX: raw grid outputs that a test can predict."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data.pseudo.prepare import EXHAUSTIVE, Yolox, main
from perception.labels import DRIVE_CLASSES, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter, read_layout

SIDE = 64  # 8x8 + 4x4 + 2x2 cells
CELLS = 84


def detector(path: Path, rows: dict[int, tuple[float, ...]]) -> Path:
    """An ONNX file that answers (dx, dy, log w, log h, objectness, class, class score) in the given cells, always."""
    out = np.zeros((1, CELLS, 85), np.float32)
    for cell, (dx, dy, w, h, objectness, index, score) in rows.items():
        out[0, cell, :5] = dx, dy, np.log(w), np.log(h), objectness
        out[0, cell, 5 + int(index)] = score
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CELLS, 85])
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["low"], keepdims=0),
        helper.make_node("Mul", ["low", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output"]),
    ]
    constants = [numpy_helper.from_array(out, "rows"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(nodes, "yolox", [image], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


CAR = (0.5, 0.5, 2.0, 1.0, 0.9, 2, 1.0)  # in the cell's units: centre half a cell in, 2 cells wide, 1 high
UNSURE = (0.5, 0.5, 1.0, 1.0, 0.5, 0, 0.5)  # a person, 0.25


def test_grid_is_decoded_into_frame_pixels(tmp_path: Path) -> None:
    yolox = Yolox(detector(tmp_path / "d.onnx", {8 * 3 + 2: CAR, 64 + 1: UNSURE}))
    boxes, scores, classes = yolox(np.zeros((128, 64, 3), np.uint8), 0.1)  # portrait: scale 1/2
    order = np.argsort(-scores)
    np.testing.assert_allclose(boxes[order[0]], [(20 - 8) * 2, (28 - 4) * 2, (20 + 8) * 2, (28 + 4) * 2])
    np.testing.assert_allclose(boxes[order[1]], [(24 - 8) * 2, 0, (24 + 8) * 2, 32])  # stride 16, clipped by nothing
    assert classes[order].tolist() == [2, 0] and scores[order] == pytest.approx([0.9, 0.25])


def test_duplicates_are_removed_whatever_their_class(tmp_path: Path) -> None:
    truck = (0.5, 0.5, 2.0, 1.0, 0.8, 7, 1.0)
    shifted = (-0.5, 0.5, 2.0, 1.0, 0.8, 7, 1.0)  # from the next cell, the same place
    yolox = Yolox(detector(tmp_path / "d.onnx", {8: CAR, 9: shifted, 40: truck}))
    _, scores, classes = yolox(np.zeros((64, 64, 3), np.uint8), 0.1)
    assert sorted(classes.tolist()) == [2, 7] and len(scores) == 2


@pytest.fixture
def masks_only(tmp_path: Path) -> Path:
    spec = MaskLabels(
        "m", {0: "off", 1: "on"}, {0: frozenset({"background"}), 1: frozenset({"drivable"})}, DRIVE_CLASSES
    )
    with LayoutWriter(tmp_path / "masks", DatasetLabels("toy", "ours", masks={"drive": spec})) as writer:
        for split in ("train", "val"):
            writer.add(split, "a", np.zeros((64, 64, 3), np.uint8), masks={"m": np.ones((64, 64), np.uint8)})
    return tmp_path / "masks"


def test_sure_boxes_are_labels_and_suspects_are_ignored(masks_only: Path, tmp_path: Path) -> None:
    model = detector(tmp_path / "d.onnx", {8 * 3 + 2: CAR, 64 + 1: UNSURE})
    out = tmp_path / "boxes"
    assert main([str(masks_only), str(out), "--detector", str(model), "--json", str(tmp_path / "r.json")]) == 0
    labels, samples = read_layout(out, "train")
    assert samples[0].categories == ("car",) and len(samples[0].ignore) == 1
    assert labels.boxes is not None and labels.boxes.exhaustive == EXHAUSTIVE
    mask = cv2.imread(str(samples[0].masks["drive"]), cv2.IMREAD_UNCHANGED)
    assert mask is not None and (np.asarray(mask) == 1).all()
    assert not (out / "images" / "val").exists(), "pseudo-labels are not for evaluation"
    assert json.loads((tmp_path / "r.json").read_text())["boxes"] == {"car": 1}


def test_mistakes(masks_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = detector(tmp_path / "d.onnx", {0: CAR})
    boxes = tmp_path / "boxes"
    assert main([str(masks_only), str(boxes), "--detector", str(tmp_path / "none.onnx")]) == 2
    assert main([str(masks_only), str(boxes), "--detector", str(model), "--keep", "0.1"]) == 2
    assert main([str(masks_only), str(boxes), "--detector", str(model)]) == 0
    assert main([str(boxes), str(tmp_path / "again"), "--detector", str(model)]) == 2
    errors = capsys.readouterr().err
    for words in ("no detector", "--suspect", "has boxes of its own"):
        assert words in errors
