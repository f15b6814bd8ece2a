"""Calibration on cases with a known answer: bins, matching, ignore regions, sets of labels, and the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from perception.evaluation.calibration import (
    BINS,
    BoxCalibration,
    MaskCalibration,
    Reliability,
    calibration_lines,
    judge,
)
from perception.evaluation.reliability import OVER, UNDER, reliability_plot, save_plot
from perception.labels import DRIVE_CLASSES, BoxLabels, MaskLabels
from perception.structures import Detections
from perception.tensors import letterbox_for

NAMES = ("car", "truck", "pedestrian")
CAR, TRUCK, MAN = range(3)
LABELS = BoxLabels(
    {"Car": frozenset({"car"}), "Lorry": frozenset({"truck"}), "Man": frozenset({"pedestrian"})},
    frozenset({"car", "truck"}),
)
NONE = np.zeros((0, 4), np.float32)
BOX, FAR = (0, 0, 40, 40), (100, 0, 140, 40)


def found(*table: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, class id."""
    values = np.array(table, np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int64))


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_bins_ece_and_the_worst_bin():
    reliability = Reliability()
    reliability.add(np.full(10, 0.9), np.arange(10) < 7)  # claimed 0.9, right 0.7
    reliability.add(np.full(30, 0.1), np.arange(30) < 6)  # claimed 0.1, right 0.2
    reliability.add(np.array([0.5]), np.array([True]))  # too few to be the worst
    figures = reliability.result()
    assert figures["ECE"] == pytest.approx((10 * 0.2 + 30 * 0.1 + 1 * 0.5) / 41)
    assert figures["maximum"] == pytest.approx(0.2)
    assert figures["count"] == 41 and figures["precision"] == pytest.approx(14 / 41)
    assert len(figures["bins"]) == BINS and sum(row["count"] for row in figures["bins"]) == 41
    assert figures["bins"][13] == {
        "from": pytest.approx(13 / 15), "to": pytest.approx(14 / 15), "count": 10,
        "mean_score": pytest.approx(0.9), "precision": pytest.approx(0.7),
    }  # fmt: skip
    assert figures["bins"][14]["precision"] is None


def test_the_borders_of_the_scale_and_nothing_at_all():
    reliability = Reliability()
    reliability.add(np.array([0.0, 1.0]), np.array([False, True]))
    figures = reliability.result()
    assert figures["bins"][0]["count"] == figures["bins"][-1]["count"] == 1
    assert figures["ECE"] == 0 and figures["maximum"] is None
    assert Reliability().result()["ECE"] is None


def test_perfect_scores_have_no_error_and_random_ones_agree_with_a_plain_sum():
    rng = np.random.default_rng(0)
    scores = rng.random(5000)
    right = rng.random(5000) < scores
    reliability = Reliability()
    for part in range(5):
        reliability.add(scores[part::5], right[part::5])
    plain = 0.0
    for index in range(BINS):
        inside = (scores >= index / BINS) & (scores < (index + 1) / BINS)
        plain += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
    assert reliability.result()["ECE"] == pytest.approx(plain)
    assert plain < 0.03, "scores that mean what they say"


def test_matching_is_greedy_by_score_and_within_the_class():
    calibration = BoxCalibration(LABELS, NAMES)
    seen = found((*BOX, 0.8, CAR), (2, 0, 42, 40, 0.6, CAR), (*FAR, 0.9, TRUCK), (*FAR, 0.2, MAN))
    calibration.add(seen, boxes(BOX, FAR), ["Car", "Car"], NONE)
    figures = calibration.result()
    assert figures["count"] == 3, "pedestrians are not all labelled, so they are not judged"
    assert figures["left_out"] == ["pedestrian"]
    rows = {row["mean_score"]: row["precision"] for row in figures["bins"] if row["count"]}
    assert {round(score, 4): right for score, right in rows.items()} == {0.6: 0.0, 0.8: 1.0, 0.9: 0.0}
    assert figures["ECE"] == pytest.approx((0.2 + 0.6 + 0.9) / 3)


def test_the_next_best_object_is_taken_when_the_best_is_gone():
    objects = boxes((0, 0, 40, 40), (12, 0, 52, 40))
    predicted = np.array([[0, 0, 40, 40], [2, 0, 42, 40]], np.float64)  # both overlap the first most
    assert judge(predicted, objects, NONE)[0].tolist() == [True, True]
    half = np.array([[0, 0, 40, 20]], np.float64)
    assert judge(half, objects[:1], NONE)[0].tolist() == [True], "an IoU of 0.5 will do"


def test_a_region_to_be_ignored_forgives_and_does_not_forbid():
    calibration = BoxCalibration(LABELS, NAMES)
    seen = found((*BOX, 0.9, CAR), (110, 0, 130, 20, 0.7, CAR), (300, 0, 320, 20, 0.5, CAR))
    calibration.add(seen, boxes(BOX), ["Car"], boxes((0, 0, 60, 60), FAR))
    figures = calibration.result()
    assert figures["count"] == 2 and figures["precision"] == 0.5, "right, neither, wrong"


def test_faint_boxes_are_told_apart():
    calibration = BoxCalibration(LABELS, NAMES)
    calibration.add(
        found((*BOX, 0.9, CAR), *((*FAR[:2], 120 + k, 40, 0.01, CAR) for k in range(8))), boxes(BOX), ["Car"], NONE
    )
    figures = calibration.result()
    assert figures["shown"]["count"] == 1 and figures["shown"]["ECE"] == pytest.approx(0.1)
    assert figures["ECE"] < figures["shown"]["ECE"]


def drive_labels(*sets: tuple[str, ...]) -> MaskLabels:
    return MaskLabels(
        "m", {k: str(k) for k in range(len(sets))}, {k: frozenset(s) for k, s in enumerate(sets)}, DRIVE_CLASSES
    )


def test_class_maps_are_sure_of_the_set_that_the_dataset_can_tell():
    labels = drive_labels(("background",), ("drivable", "lane marking"), ())
    probabilities = np.zeros((3, 32, 32), np.float32)
    probabilities[:, :16] = np.array([0.2, 0.5, 0.3])[:, None, None]  # drivable; the dataset's "road" has 0.8
    probabilities[:, 16:] = np.array([0.7, 0.2, 0.1])[:, None, None]  # background 0.7
    true = np.ones((32, 32), np.uint8)
    true[24:] = 0
    true[:, 30:] = 2  # ignored
    calibration = MaskCalibration(labels, DRIVE_CLASSES)
    calibration.add(probabilities, letterbox_for((32, 32), (32, 32)), true)
    figures = calibration.result()
    assert figures["count"] == 32 * 30
    filled = [(round(row["mean_score"], 4), row["precision"]) for row in figures["bins"] if row["count"]]
    assert filled == [(0.7, 0.5), (0.8, 1.0)]
    assert figures["ECE"] == pytest.approx((0.2 + 0.2) / 2, abs=1e-6)


def test_class_maps_in_frame_pixels_on_a_grid():
    labels = drive_labels(("background",), ("drivable",))
    probabilities = np.zeros((3, 64, 96), np.float32)
    probabilities[0] = 1
    letterbox = letterbox_for((400, 400), (64, 96))  # portrait in landscape: grey left and right
    probabilities[:, :, : letterbox.left] = 0  # what the border says plays no part
    calibration = MaskCalibration(labels, DRIVE_CLASSES)
    calibration.add(probabilities, letterbox, np.zeros((400, 400), np.uint8))
    figures = calibration.result()
    assert figures["count"] == 100 * 100 and figures["ECE"] == 0 and figures["precision"] == 1


def test_a_class_that_the_dataset_lacks_is_wrong_and_sure_of_itself_alone():
    calibration = MaskCalibration(drive_labels(("background",)), DRIVE_CLASSES)
    probabilities = np.zeros((3, 8, 8), np.float32)
    probabilities[:] = np.array([0.4, 0.6, 0.0])[:, None, None]
    calibration.add(probabilities, letterbox_for((8, 8), (8, 8)), np.zeros((8, 8), np.uint8))
    assert calibration.result()["precision"] == 0 and calibration.result()["mean_score"] == pytest.approx(0.6)


def test_the_picture_shows_every_task_and_which_way_it_errs(tmp_path):
    sure, modest = Reliability(), Reliability()
    sure.add(np.full(50, 0.9), np.arange(50) < 10)
    modest.add(np.full(50, 0.3), np.arange(50) < 40)
    figures = {"boxes": {**sure.result(), "shown": sure.result(), "left_out": []}, "masks": {"drive": modest.result()}}
    image = reliability_plot(figures)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    left, right = image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]
    for half, colour, absent in ((left, OVER, UNDER), (right, UNDER, OVER)):
        assert (half == colour).all(-1).sum() > 100 and not (half == absent).all(-1).any()
    assert reliability_plot({**figures, "masks": None}).shape[1] * 2 == image.shape[1]
    save_plot([figures, {**figures, "masks": None}], tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"writes a \.png file"):
        save_plot([figures], tmp_path / "plot.pdf")
    nothing = {"boxes": None, "masks": None}
    with pytest.raises(ValueError, match="no calibration to draw"):
        reliability_plot(nothing)
    with pytest.raises(ValueError, match="no calibration to draw"):
        save_plot([nothing, nothing], tmp_path / "plot.png")
    save_plot([nothing, figures], tmp_path / "plot.png")  # another dataset of the same evaluation has something
    assert (cv2.imread(str(tmp_path / "plot.png")) == image).all()


def test_lines_say_what_is_missing():
    text = "\n".join(calibration_lines({"boxes": BoxCalibration(LABELS, NAMES).result(), "masks": None}))
    assert "name the run directory" in text and "left out" in text and "pedestrian" in text
