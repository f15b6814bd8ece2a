"""The peers' decoding, on outputs made by hand for boxes that are known, and the merging of classes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy import GROUPS, budgets, main, merged
from benchmarks.coco_peers import NanoDet, YoloX, suppress
from perception.labels import BoxLabels, DatasetLabels
from perception.layout import LayoutWriter

HW = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
BOX = (20.0, 10.0, 60.0, 50.0)  # in model pixels
CELL = 8 * 12 + 1 * 6 + 2  # stride 16, row 1, column 2: its centre is (40, 24)


def peer(kind):
    """A peer without its file."""
    made = kind.__new__(kind)
    made.input_hw = HW
    return made


def test_yolox_decodes_a_box():
    raw = np.zeros((CELLS, 85), np.float32)
    centre, size = np.array([40.0, 30.0]), np.array([40.0, 40.0])
    raw[CELL, :2] = centre / 16 - (2, 1)
    raw[CELL, 2:4] = np.log(size / 16)
    raw[CELL, 4], raw[CELL, 5 + 2], raw[CELL, 5 + 7] = 0.5, 0.8, 0.4
    boxes, scores = peer(YoloX).decode({"output": raw})
    np.testing.assert_allclose(boxes[CELL], BOX, rtol=1e-5)
    assert scores[CELL, 2] == pytest.approx(0.4) and scores[CELL, 7] == 0  # a cell has its best class only
    np.testing.assert_allclose(boxes[0], [-4, -4, 4, 4])  # a raw zero: centred on the cell's corner, one stride wide


def test_nanodet_decodes_a_box():
    outputs = {}
    for stride, count in ((8, 96), (16, 24), (32, 6)):
        outputs[f"cls_pred_stride_{stride}"] = np.zeros((count, 80), np.float32)
        outputs[f"dis_pred_stride_{stride}"] = np.zeros((count, 32), np.float32)
    sides = np.array([40 - 20, 24 - 10, 60 - 40, 50 - 24]) / 16  # left, top, right, bottom, in strides
    raw = np.full((4, 8), -1e4, np.float32)
    for side, distance in enumerate(sides):
        low = int(distance)
        raw[side, low : low + 2] = np.log([1 - (distance - low), distance - low])
    outputs["dis_pred_stride_16"][1 * 6 + 2] = raw.ravel()
    outputs["cls_pred_stride_16"][1 * 6 + 2, 0] = 0.7
    boxes, scores = peer(NanoDet).decode(outputs)
    np.testing.assert_allclose(boxes[CELL], BOX, rtol=1e-5)
    assert scores.shape == (CELLS, 80) and scores[CELL, 0] == pytest.approx(0.7)


@pytest.mark.parametrize("kind", [YoloX, NanoDet])
@pytest.mark.parametrize("hw", [(100, 300), (300, 100), (1, 1)])
def test_what_the_peer_sees_is_where_it_says(kind, hw):
    frame = np.zeros((*hw, 3), np.uint8)
    frame[hw[0] // 2 :, hw[1] // 2 :] = 255
    tensor, scale, offset = peer(kind).frame_to_tensor(frame)
    assert tensor.shape == (*HW, 3) and tensor.dtype == np.float32
    if hw != (1, 1):
        x, y = np.array([hw[1] * 0.75, hw[0] * 0.75]) * scale + offset
        bright = tensor[int(y), int(x)]
        x, y = np.array([hw[1] * 0.25, hw[0] * 0.25]) * scale + offset
        assert (bright > tensor[int(y), int(x)]).all()


def test_suppression_keeps_the_best_and_what_is_apart():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 10]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.1, 0.0001]), 0.6, 0.001) == [1, 2]


def test_classes_are_merged_left_out_or_ignored():
    sets = {"Car": {"car"}, "Tram": {"train"}, "Cyclist": {"rider", "bicycle"}, "Bike": {"bicycle"}, "Misc": set()}
    spec = merged(BoxLabels({name: frozenset(members) for name, members in sets.items()}, frozenset()))
    assert spec.sets == {"Car": GROUPS["vehicle"], "Tram": GROUPS["vehicle"], "Cyclist": frozenset()}


@pytest.mark.parametrize("argv", [["--peer", "yolov9=a.onnx"], ["--peer", "yolox=missing.onnx"], []])
def test_mistakes_are_one_line(argv, capsys):
    assert main(["--no-ours", "--data", "missing", *argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_at_a_budget_stands_the_slowest_of_ours_that_keeps_it():
    ms = {"big": [30.0, 60.0], "small": [9.0, 18.0], "tiny": [4.0, 8.0], "peer": [10.0, 20.0], "quick": [1.0, 2.0]}
    assert budgets(ms, ["big", "small", "tiny"]) == [
        {"peer": "peer", "ms": 15.0, "ours": "small", "share": 0.9},
        {"peer": "quick", "ms": 1.5, "ours": None, "share": None},
    ]
    assert budgets({}, []) == []


def test_ours_at_two_sizes(make_tiny_model, tiny_metadata, tmp_path, capsys):
    """The tiny model sees red things as cars: AP 1 on a picture of one, at either size, each with its latency."""
    folder = tmp_path / "toy"
    labels = DatasetLabels("toy", "ours", boxes=BoxLabels({"Car": frozenset({"car"})}, frozenset({"car"})))
    image = np.full((64, 96, 3), 90, np.uint8)
    image[16:48, 32:64] = (0, 0, 255)
    with LayoutWriter(folder, labels) as writer:
        writer.add("val", "a", image, boxes=[[32, 16, 64, 48]], categories=["Car"])
    first = make_tiny_model().rename(tmp_path / "first.onnx")
    second = make_tiny_model(hw=(32, 64), metadata=replace(tiny_metadata, input_hw=(32, 64)).to_json())
    out = tmp_path / "out.json"
    argv = ["--model", str(first), str(second), "--data", str(folder), "--rounds", "2", "--frames", "2"]
    assert main([*argv, "--threads", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    rows = found["rows"]
    assert (
        rows["toy val, first: vehicle AP50"]["rounds"] == rows[f"toy val, {second.stem}: vehicle AP50"]["rounds"] == [1]
    )
    assert all(len(rows[name]["rounds"]) == 2 for name in ("first: frame", f"{second.stem}: frame", "matrix product"))
    assert found["figures"]["budgets"] == [] and "| 64x32 |" in capsys.readouterr().out
    assert main([*argv[:2], str(first), *argv[3:]]) == 2 and "two files are called 'first'" in capsys.readouterr().err
