"""The definitions of published tables, each on small cases with the figure worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perception.evaluation.lanes import Counts
from perception.evaluation.legacy import (
    LegacyEvaluation,
    MapCounts,
    average_precision,
    first_come,
    hybridnets_boxes,
    hybridnets_maps,
    legacy_lines,
    suppressed,
    twinlitenet_plus_maps,
    yolop_boxes,
    yolop_maps,
)
from perception.labels import BOX_CLASSES, DRIVE_CLASSES, BoxLabels, MaskLabels
from perception.structures import Detections

SETS = (("background",), ("drivable",), ("lane marking",))
DRIVE = MaskLabels("m", dict(enumerate(DRIVE_CLASSES)), {k: frozenset(s) for k, s in enumerate(SETS)}, DRIVE_CLASSES)
BOXES = BoxLabels(
    {"car": frozenset({"car"}), "lorry": frozenset({"truck"}), "man": frozenset({"pedestrian"})},
    frozenset({"car", "truck", "pedestrian"}),
)
NONE = np.zeros((0, 4), np.float32)
G, R, L = 0, 1, 2

# Two images of one row and 10 pixels. Lane in A: 3 of 4 found, 1 false of 6. Lane in B: none there, none predicted.
A_TRUE, A_FOUND = [L, L, L, L, R, R, G, G, G, G], [L, L, L, R, L, R, G, G, G, G]
B_TRUE, B_FOUND = [R, R, R, R, G, G, G, G, G, G], [R, R, R, G, R, R, G, G, G, G]
# Drivable, where pixels labelled as lane are not said: A 2 of 2 found, 0 of 4 false; B 3 of 4 found, 2 of 6 false.
A = MapCounts(Counts(2, 0, 0, 4), Counts(3, 1, 1, 5), Counts(4, 0, 0, 6))
B = MapCounts(Counts(3, 2, 1, 4), Counts(0, 0, 0, 10), Counts(4, 1, 2, 3))
# C has a lane that is missed altogether: recall 0 of 2.
C = MapCounts(Counts(0, 0, 0, 10), Counts(0, 0, 2, 8), Counts(10, 0, 0, 0))


def found(*table: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, class id."""
    values = np.array(table, np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int64))


def mask(pixels: list[int]) -> np.ndarray:
    return np.array([pixels], np.uint8)


def test_the_counts_of_masks():
    evaluation = LegacyEvaluation(None, (), DRIVE, DRIVE_CLASSES)
    evaluation.add_map(mask(A_FOUND), mask(A_TRUE))
    evaluation.add_map(mask(B_FOUND), mask(B_TRUE))
    assert evaluation._maps == [A, B]


def test_yolop_averages_over_batches():
    one = yolop_maps([A, C], batch=2)  # one batch: lane 3 of 6 found, 1 false; drivable 2 of 2, rest 14 of 14
    assert one.lane_accuracy == 3 / 6 and one.lane_iou == 3 / 7 and one.drivable_miou == 1
    two = yolop_maps([A, C], batch=1)  # lane recall 3/4 and 0, IoU 3/5 and 0; C has nothing drivable: IoU (0 + 1) / 2
    assert two.lane_accuracy == (3 / 4 + 0) / 2 and two.lane_iou == (3 / 5 + 0) / 2
    assert two.drivable_miou == (1 + 1 / 2) / 2
    assert two.lane_accuracy != one.lane_accuracy, "so the figure depends on the batch size"


def test_yolop_counts_a_batch_without_lanes_as_zero():
    assert yolop_maps([A, B], batch=1).lane_iou == (3 / 5 + 0) / 2
    assert yolop_maps([A, B], batch=2).lane_iou == 3 / 5


def test_a_last_batch_weighs_by_its_images():
    figures = yolop_maps([A, A, C], batch=2)
    assert figures.lane_accuracy == pytest.approx((2 * 3 / 4 + 1 * 0) / 3)


def test_twinlitenet_plus_has_another_lane_accuracy_on_the_same_pixels():
    assert yolop_maps([A], 1).lane_accuracy == 3 / 4
    plus = twinlitenet_plus_maps([A], 1)
    assert plus.lane_accuracy == pytest.approx((3 / 4 + 5 / 6) / 2)
    assert plus.lane_iou == 3 / 5 and plus.drivable_miou == 1
    assert twinlitenet_plus_maps([B], 1).lane_accuracy == (0 + 1) / 2, "no lane there: sensitivity counts as 0"


def test_hybridnets_averages_over_images_and_takes_0_by_0_for_1():
    figures = hybridnets_maps([A, B])
    assert figures.lane_accuracy == pytest.approx(((3 / 4 + 5 / 6) / 2 + 1) / 2)
    assert figures.lane_iou == pytest.approx((3 / 5 + 1) / 2)
    # A: background 4 of 4, road 2 of 2. B: background 4 / (4 + 1 + 2), road 3 / (3 + 2 + 1).
    assert figures.drivable_miou == pytest.approx((1 + (4 / 7 + 3 / 6) / 2) / 2)
    false = MapCounts(Counts(), Counts(0, 2, 0, 8), Counts())
    assert hybridnets_maps([false]).lane_iou == 0 and hybridnets_maps([false]).lane_accuracy == 1


def test_the_area_under_the_envelope_and_the_two_tails():
    # One box, right, of two objects: precision 1 up to recall 0.5.
    recall, precision = np.array([0.5]), np.array([1.0])
    # From 0 to 0.5 it is 1; the trapezoid from 0.50 to 0.51 adds half a step, for it has fallen to 0 by 0.501.
    assert average_precision(recall, precision, None) == pytest.approx(0.5 + 0.005)
    # On a straight line from (0.5, 1) to (1, 0): a triangle of 0.25 that nobody found.
    assert average_precision(recall, precision, 1.0) == pytest.approx(0.75)


def test_recall_and_ap_of_boxes():
    scores, right = np.array([0.2, 0.9, 0.5]), np.array([True, True, False])
    recall, ap = yolop_boxes(scores, right, 4)
    assert recall == 2 / 4
    # By score: right, wrong, right: precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4; the envelope falls from 1 to 2/3 at
    # recall 1/4 (a step of the trapezoid is shared), and to 0 after 2/4.
    assert ap == pytest.approx(0.25 + 0.25 * 2 / 3, abs=0.006)
    assert hybridnets_boxes(scores, right, 4)[1] == pytest.approx(0.25 + 0.25 * 2 / 3 + 0.5 * 2 / 3 / 2, abs=0.006)
    assert yolop_boxes(np.array([]), np.array([], bool), 4) == (0, 0) == yolop_boxes(scores, ~right & False, 4)


def test_a_box_has_only_its_best_object():
    objects = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], np.float64)
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]], np.float64)
    assert first_come(boxes, objects).tolist() == [True, False, False], "the second's best object is taken"
    assert first_come(boxes, objects[:0]).tolist() == [False] * 3
    half = np.array([[0, 0, 10, 20]], np.float64)  # IoU 0.5 exactly is not more than 0.5
    assert first_come(half, objects[:1]).tolist() == [False]


def test_overlapping_boxes_are_suppressed():
    kept = suppressed(found((1, 0, 11, 10, 0.5, 2), (0, 0, 10, 10, 0.9, 3), (40, 0, 50, 10, 0.1, 2)))
    assert kept.scores.tolist() == pytest.approx([0.9, 0.1])


def test_vehicles_are_one_class_and_the_rest_is_none():
    car, lorry, man = BOX_CLASSES.index("car"), BOX_CLASSES.index("truck"), BOX_CLASSES.index("pedestrian")
    evaluation = LegacyEvaluation(BOXES, BOX_CLASSES, None, ())
    objects = np.array([[0, 0, 40, 40], [60, 0, 100, 40], [200, 0, 240, 40]], np.float32)
    # The lorry is taken for a car; the man is found, and counts for nothing; one vehicle is false.
    seen = found(
        (0, 0, 40, 40, 0.9, car),
        (60, 0, 100, 40, 0.8, car),
        (200, 0, 240, 40, 0.95, man),
        (300, 0, 340, 40, 0.7, lorry),
    )
    evaluation.add_boxes(seen, objects, ["car", "lorry", "man"], NONE)
    result = evaluation.result()
    assert result["definitions"]["YOLOP"]["recall"] == 1
    # Both are found first, at precision 1; the false one below them costs half the last of 100 steps: 2/3 for 1.
    assert result["definitions"]["YOLOP"]["mAP50"] == pytest.approx(1 - 0.01 / 2 * (1 - 2 / 3))
    assert result["vehicle_AP50"] == pytest.approx(1)
    assert (
        result["definitions"]["YOLOP"]["lane_IoU"] is None and result["definitions"]["TwinLiteNet+"]["recall"] is None
    )


def test_a_datasets_own_labels_need_not_have_every_vehicle():
    own = BoxLabels({name: frozenset({name}) for name in ("car", "cone")}, frozenset({"car", "cone"}), ("car", "cone"))
    evaluation = LegacyEvaluation(own, own.classes, None, ())
    evaluation.add_boxes(found((0, 0, 40, 40, 0.9, 0)), np.array([[0, 0, 40, 40]], np.float32), ["car"], NONE)
    assert evaluation.result()["vehicle_AP50"] == pytest.approx(1)


def test_the_table_has_ours_on_top():
    legacy = LegacyEvaluation(BOXES, BOX_CLASSES, DRIVE, DRIVE_CLASSES, batch=7)
    legacy.add_map(mask(A_FOUND), mask(A_TRUE))
    lane = {"IoU": 0.5, "recall": 0.6, "balanced_accuracy": 0.7}
    result = {"legacy": legacy.result(), "drive": {"lane": lane, "drivable": {"mIoU": 0.8}}, "boxes": {"AP50": 0.4}}
    head, *lines = legacy_lines(result)
    assert head.split()[:8] == ["definition", "drivable", "mIoU", "lane", "acc", "lane", "IoU", "recall"]
    assert lines[0].split()[:6] == ["ours", "80.0", "60.0", "50.0", "-", "40.0"]
    assert lines[1].split()[:7] == ["ours,", "merged", "80.0", "70.0", "50.0", "-", "-"]
    assert [line.split()[0] for line in lines[2:]] == ["YOLOP", "TwinLiteNet+", "HybridNets"]
    assert "batches of 7" in lines[2] and "75.0" in lines[2] and "79.2" in lines[3]


def test_a_batch_needs_an_image():
    with pytest.raises(ValueError, match="--legacy-batch must be 1 image or more"):
        LegacyEvaluation(BOXES, BOX_CLASSES, DRIVE, DRIVE_CLASSES, batch=0)
