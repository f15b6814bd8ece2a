"""The worst frames of an evaluation, and the page that shows them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perception.evaluation.measure import Truth
from perception.evaluation.report import write_report
from perception.evaluation.worst import WorstFrames, match
from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import Sample
from perception.structures import Detections, Result

NAMES = ("pedestrian", "car", "truck")
BOXES = BoxLabels(
    {"Car": frozenset({"car"}), "Big": frozenset({"car", "truck"}), "Man": frozenset({"pedestrian"})},
    frozenset({"car", "truck"}),
)
SEG = MaskLabels("seg", {0: "a", 1: "b"}, {0: frozenset({"road"}), 1: frozenset({"sky"})}, SCENE_CLASSES)
LABELS = DatasetLabels("town", "CC0", boxes=BOXES, masks={"scene": SEG})
HEAD = {"scene": ("road", "sky")}
A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NONE = np.zeros((0, 4), np.float32)


def detections(*rows) -> Detections:
    """(box, score, class name) each."""
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    classes = np.array([NAMES.index(name) for _, _, name in rows], np.int64)
    return Detections(boxes, np.array([score for _, score, _ in rows], np.float32), classes)


@pytest.mark.parametrize(
    ("found", "boxes", "categories", "ignore", "false", "missed"),
    [
        ([], [], [], [], [], []),
        ([], [A], ["Car"], [], [], [True]),
        ([(A, 0.9, "car")], [], [], [], [True], []),
        ([(A, 0.9, "car")], [A], ["Car"], [], [False], [False]),
        ([(A, 0.5, "car"), (A, 0.9, "car")], [A], ["Car"], [], [True, False], [False]),  # twice the same
        ([(A, 0.9, "car"), (A, 0.8, "truck")], [A], ["Big"], [], [False, False], [False]),  # two names of one object
        ([(A, 0.9, "truck")], [A], ["Car"], [], [True], [True]),  # the wrong class is both
        ([(A, 0.9, "pedestrian")], [], [], [], [False], []),  # not labelled in full: nobody knows
        ([(A, 0.9, "car")], [], [], [[0, 0, 6, 10]], [False], []),  # more than half ignored
        ([(A, 0.9, "car")], [], [], [[0, 0, 4, 10]], [True], []),
        (
            [(B, 0.9, "car"), (A, 0.8, "car")],
            [A, B, C],
            ["Car", "Big", "Man"],
            [],
            [False, False],
            [False, False, True],
        ),
    ],
)
def test_match(found, boxes, categories, ignore, false, missed):
    boxes, ignore = np.array(boxes, np.float32).reshape(-1, 4), np.array(ignore, np.float32).reshape(-1, 4)
    wrong, gone = match(BOXES, NAMES, detections(*found), boxes, categories, ignore)
    assert wrong.tolist() == false and gone.tolist() == missed


def frame(tmp_path, name: str, wrong_rows: int, boxes=NONE, categories=(), found=(), labelled: int = 40):
    """A 40x60 image, of which the first `labelled` rows are road and `wrong_rows` of these are predicted to be sky."""
    true, predicted = np.full((40, 60), 255, np.uint8), np.zeros((40, 60), np.uint8)
    true[:labelled] = 0
    predicted[:wrong_rows] = 1
    sample = Sample(tmp_path / f"{name}.png", np.array(boxes, np.float32).reshape(-1, 4), tuple(categories))
    result = Result(detections(*found), {"scene": predicted}, NAMES, HEAD)
    return result, Truth(sample, np.full((40, 60, 3), 90, np.uint8), {"scene": true})


def test_the_worst_are_kept_in_order(tmp_path):
    worst = WorstFrames(LABELS, NAMES, HEAD, count=3)
    for number, rows in enumerate((4, 20, 0, 8, 36, 12)):
        worst.add(*frame(tmp_path, f"{number}", rows))
        assert len(worst.frames("scene")) <= 3
    worst.add(*frame(tmp_path, "hardly labelled", 0, labelled=0))
    assert [found.name for found in worst.frames("scene")] == ["4.png", "1.png", "5.png"]
    assert worst.result()["scene"][0] == {"image": "4.png", "why": "IoU 10.0 %"}
    assert worst.tasks == ["scene"]  # without boxes there is nothing false or missed


def test_boxes_are_ranked_by_score_and_by_size(tmp_path):
    worst = WorstFrames(LABELS, NAMES, HEAD, count=2)
    worst.add(*frame(tmp_path, "sure", 0, found=[(A, 0.8, "car"), (B, 0.1, "car")]))
    worst.add(*frame(tmp_path, "unsure", 0, found=[(A, 0.4, "car")]))
    worst.add(*frame(tmp_path, "faint", 0, found=[(A, 0.2, "car")]))  # under 0.3: no box
    worst.add(*frame(tmp_path, "small", 0, [A], ["Car"]))
    worst.add(*frame(tmp_path, "large", 0, [[0, 0, 60, 20]], ["Car"], found=[([0, 0, 60, 20], 0.2, "car")]))
    assert [found.name for found in worst.frames("false boxes")] == ["sure.png", "unsure.png"]
    assert worst.result()["missed boxes"] == [
        {"image": "large.png", "why": "1 missed, up to 50.0 % of the frame"},
        {"image": "small.png", "why": "1 missed, up to 4.2 % of the frame"},
    ]
    assert worst.result()["false boxes"][0]["why"] == "1 false, up to score 0.80"


def test_a_report_shows_figures_that_it_does_not_know(tmp_path):
    worst = WorstFrames(LABELS, NAMES, HEAD)
    worst.add(*frame(tmp_path, "a<b", 10, [A], ["Car"]))
    label = {"IoU": 0.5, "pixels": 10}
    scene = {
        "mIoU": 0.5, "pixel_accuracy": 0.6, "images": 1, "pixels": 20,
        "labels": {"a": label, "b": {**label, "IoU": None}},
        "confusion": [[5, 5, 0], [1, 8, 1]],
    }  # fmt: skip
    result = {
        "dataset": "town", "folder": "x", "split": "val", "images": 1, "missing": ["lanes"], "boxes": None,
        "masks": {"scene": scene}, "worst": worst.result(),
        "weather": {"fog": {"AP": 0.25, "deep": [{"x": None}, [1, 2]]}, "none": {}},
    }  # fmt: skip
    path = write_report(tmp_path / "report", [result], [worst], {"model": "m.onnx"})
    text = path.read_text()
    for part in ("<h3", "weather", "<th>fog</th>", "0.25", "1, 2", "lacks it: lanes", "1. a&lt;b.png: IoU", "m.onnx"):
        assert part in text, part
    names = {file.name for file in path.parent.iterdir()}
    assert {"town_scene_confusion.png", "town_scene_iou.png", "town_scene_1.jpg", "town_missed_boxes_1.jpg"} <= names
    assert json.dumps(worst.result())
