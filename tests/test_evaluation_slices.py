"""Slices: images by their attributes, objects by what they are like; on cases whose answers are counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.evaluation.measure import Truth
from perception.evaluation.slices import MOST_VALUES, SliceMeasure, object_slices, slice_tables
from perception.labels import BoxLabels, DatasetLabels, MaskLabels
from perception.layout import Sample
from perception.structures import Detections, Result

boxes_module = pytest.importorskip("perception.evaluation.boxes")
CLASSES = ("car", "person")
BOXES = BoxLabels(
    {"Car": frozenset({"car"}), "Man": frozenset({"person"})}, frozenset(CLASSES), classes=CLASSES
)  # fmt: skip
DRIVE = MaskLabels("m", {0: "off", 1: "on"}, {0: frozenset({"off"}), 1: frozenset({"on"})}, ("off", "on"))
LABELS = DatasetLabels("town", "CC0", boxes=BOXES, masks={"drive": DRIVE})
HEADS = {"drive": ("off", "on")}
BLANK = np.zeros((4, 4), np.uint8)


def sample(boxes, categories, attributes=None, box_attributes=()) -> Sample:
    return Sample(
        Path("a.jpg"), np.array(boxes, np.float32).reshape(-1, 4), tuple(categories),
        attributes=attributes or {}, box_attributes=tuple(box_attributes),
    )  # fmt: skip


def answer(rows, drive=BLANK) -> Result:
    """rows: (box, score, class id)."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    return Result(
        Detections(boxes, scores, np.array([row[2] for row in rows], np.int64)), {"drive": drive}, CLASSES, HEADS
    )


def judged(cases, masks=None):
    """SliceMeasure's figures of (sample, answer) pairs, and the BoxEvaluation."""
    evaluation = boxes_module.BoxEvaluation(BOXES, CLASSES)
    measure = SliceMeasure([s for s, _ in cases], LABELS, HEADS, evaluation)
    for number, (truth, found) in enumerate(cases):
        evaluation.add(found.detections, truth.boxes, truth.categories, truth.ignore)
        measure.add(found, Truth(truth, np.zeros((4, 4, 3), np.uint8), {"drive": masks[number]} if masks else {}))
    return measure.result(), evaluation


@pytest.mark.parametrize(
    ("box", "attributes", "expected"),
    [
        ((0, 0, 31, 33), {}, {"size": "small", "height px": "32-64"}),
        ((5, 5, 37, 37), {}, {"size": "medium", "height px": "32-64"}),
        ((0, 0, 96, 96), {}, {"size": "large", "height px": "64-128"}),
        ((0, 0, 9, 15.5), {"occlusion": 0}, {"size": "small", "height px": "<16", "occlusion": "0 none"}),
        ((0, 0, 9, 16), {"occlusion": 3}, {"size": "small", "height px": "16-32", "occlusion": "3 unknown"}),
        ((0, 0, 1, 128), {"occlusion": True}, {"size": "small", "height px": ">128"}),
        ((0, 0, 9, 9), {"distance_m": 10}, {"size": "small", "height px": "<16", "distance m": "10-20"}),
        ((0, 0, 9, 9), {"distance_m": 60.1}, {"size": "small", "height px": "<16", "distance m": ">60"}),
        ((0, 0, 9, 9), {"distance_m": float("nan")}, {"size": "small", "height px": "<16"}),
        ((0, 0, 9, 9), {"distance_m": "far"}, {"size": "small", "height px": "<16"}),
        ((0, 0, 9, 9), {"truncation": 0.3}, {"size": "small", "height px": "<16", "truncation": "0.30-0.50"}),
        ((0, 0, 9, 9), {"occluded": False}, {"size": "small", "height px": "<16", "occluded": "no"}),
    ],
)  # fmt: skip
def test_which_slices_an_object_is_in(box, attributes, expected):
    assert object_slices(np.array(box, np.float32), attributes) == expected


def test_recall_of_objects_by_hand():
    near, far, man = (0, 0, 40, 40), (100, 0, 110, 10), (50, 50, 60, 70)
    cases = [
        (
            sample([near, far, man], ["Car", "Car", "Man"], None, [{"distance_m": 5.0}, {"distance_m": 50.0}, {}]),
            # near: found, shown; far: found, but faintly; the man: seen as a car, which is another class
            answer([(near, 0.9, 0), (far, 0.1, 0), (man, 0.8, 0)]),
        ),
        (sample([near], ["Car"], None, [{"distance_m": 5.0}]), answer([((0, 0, 40, 19), 0.9, 0)])),  # IoU under 0.5
    ]  # fmt: skip
    objects = judged(cases)[0]["objects"]
    assert objects["all"]["all"] == {"instances": 4, "recall": 2 / 4, "recall_shown": 1 / 4}
    assert objects["size"]["medium"] == {"instances": 2, "recall": 1 / 2, "recall_shown": 1 / 2}
    assert objects["size"]["small"] == {"instances": 2, "recall": 1 / 2, "recall_shown": 0.0}
    assert objects["size"]["large"] == {"instances": 0, "recall": None, "recall_shown": None}
    assert objects["distance m"]["0-10"]["recall"] == 1 / 2 and objects["distance m"]["40-60"]["recall"] == 1
    assert sum(row["instances"] for row in objects["distance m"].values()) == 3  # of the man it is not known
    assert "occlusion" not in objects


def test_one_prediction_finds_one_object_and_the_surest_chooses_first():
    left, right = (0, 0, 20, 20), (4, 0, 24, 20)  # overlap each other by IoU 2/3
    both = sample([left, right], ["Car", "Car"])
    objects = judged([(both, answer([(left, 0.9, 0)]))])[0]["objects"]
    assert objects["all"]["all"]["recall"] == 1 / 2
    _, evaluation = judged([(both, answer([(right, 0.4, 0), (left, 0.9, 0)]))])
    np.testing.assert_allclose(evaluation.matched_scores(), [0.9, 0.4])
    _, evaluation = judged([(both, answer([(right, 0.9, 0), (right, 0.5, 0)]))])
    np.testing.assert_allclose(evaluation.matched_scores(), [0.5, 0.9])  # the second takes what is left


def greedy(truths, found, iou) -> list[float]:
    """The slow truth: scores of the predictions that find each of `truths` (box, class), by falling score."""
    scores = [float("nan")] * len(truths)
    for box, score, k in sorted(found, key=lambda row: -row[1]):
        free = [i for i, (_, c) in enumerate(truths) if c == k and np.isnan(scores[i])]
        overlaps = {i: boxes_module.iou_matrix(np.array([box]), np.array([truths[i][0]]))[0, 0] for i in free}
        best = max(overlaps, key=lambda i: overlaps[i], default=None)
        if best is not None and overlaps[best] >= iou:
            scores[best] = score
    return scores


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_matches_like_a_loop_also_among_the_surest_only(threshold):
    """A found box's score says at which threshold it is found: matching the surest alone gives the same."""
    dice = np.random.default_rng(3)
    cases, expected = [], []
    for _ in range(8):
        corner = dice.uniform(0, 40, (9, 2))
        truth = np.concatenate([corner, corner + dice.uniform(8, 30, (9, 2))], 1).astype(np.float32)
        kinds = dice.integers(0, 2, 9)
        moved = truth[dice.integers(0, 9, 14)] + dice.normal(0, 2, (14, 4)).astype(np.float32)
        rows = [
            (box, float(np.float32(score)), int(k))
            for box, score, k in zip(moved, dice.uniform(0, 1, 14), dice.integers(0, 2, 14), strict=True)
        ]
        cases.append((sample(truth, [("Car", "Man")[k] for k in kinds]), answer(rows)))
        sure = [row for row in rows if row[1] >= threshold]
        expected += greedy(list(zip(truth, kinds.tolist(), strict=True)), sure, 0.5)
    scores = judged(cases)[1].matched_scores(0.5)
    scores[scores < threshold] = np.nan
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.isfinite(expected).any() and np.isnan(expected).any()


def test_ignore_regions_are_no_objects():
    truth = Sample(Path("a"), np.array([[0, 0, 9, 9]], np.float32), ("Man",), np.array([[20, 20, 40, 40]], np.float32))
    result, evaluation = judged([(truth, answer([((0, 0, 9, 9), 0.5, 1), ((20, 20, 40, 40), 0.9, 1)]))])
    assert evaluation.matched_scores().tolist() == [0.5] and result["objects"]["all"]["all"]["instances"] == 1
    assert evaluation.result()["ignore_regions"] == 1


def test_images_by_attribute_are_figures_of_these_images_alone():
    box = (0, 0, 20, 20)
    fog = {"weather": "fog", "night": False}
    cases = [
        (sample([box], ["Car"], fog), answer([], BLANK)),
        (sample([box], ["Car"], {"weather": "rain", "night": True}), answer([(box, 0.9, 0)], BLANK + 1)),
        (sample([box], ["Car"], {"weather": "rain"}), answer([(box, 0.9, 0), ((50, 0, 70, 20), 0.95, 0)], BLANK)),
        (sample([], [], {}), answer([(box, 0.99, 0)], BLANK)),
    ]
    masks = [BLANK, BLANK + 1, BLANK + 1, BLANK]
    result, evaluation = judged(cases, masks)
    weather = result["images"]["weather"]
    assert list(weather) == ["fog", "rain"] and list(result["images"]["night"]) == ["false", "true"]
    assert (weather["fog"]["images"], weather["fog"]["instances"], weather["fog"]["AP50"]) == (1, 1, 0)
    assert weather["fog"]["masks"]["drive"] == {"mIoU": 1, "labels": {"off": 1, "on": None}}
    assert weather["rain"]["instances"] == 2 and weather["rain"]["masks"]["drive"]["labels"] == {"off": 0, "on": 0.5}
    alone = judged(cases[1:3])[1].result()
    assert weather["rain"]["AP50"] == alone["AP50"] and 0.5 < alone["AP50"] < 1
    assert evaluation.result([2, 3]) == alone
    assert result["images"]["night"]["true"]["AP50"] == 1
    text = "\n".join(slice_tables(result))
    assert "weather: fog" in text and "drive mIoU" in text and "size: small" in text


def test_without_attributes_boxes_or_objects():
    measure = SliceMeasure([], LABELS, HEADS, None)
    measure.add(answer([]), Truth(sample([], []), np.zeros((4, 4, 3), np.uint8), {"drive": BLANK}))
    assert measure.result() == {"images": {}, "objects": {}, "too_many_values": []}
    assert "no attributes" in slice_tables(measure.result())[0]
    result, _ = judged([(sample([], [], {"weather": "fog"}), answer([]))])
    assert result["objects"] == {} and result["images"]["weather"]["fog"]["AP50"] is None


def test_an_attribute_that_tells_every_image_apart_is_not_sliced():
    cases = [(sample([], [], {"speed": number / 2, "sun": "low"}), answer([])) for number in range(MOST_VALUES + 1)]
    result, _ = judged(cases)
    assert list(result["images"]) == ["sun"] and result["too_many_values"] == ["speed"]
    assert "not sliced: speed" in "\n".join(slice_tables(result))
