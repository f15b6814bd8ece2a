"""Yes-or-no figures of the drive head on masks whose figures are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perception.evaluation.lanes import (
    NOT_SAID,
    Counts,
    DriveEvaluation,
    Questions,
    centreline,
    drive_lines,
    lines_of_width,
)
from perception.evaluation.masks import MaskEvaluation
from perception.labels import DRIVE_CLASSES, MaskLabels

NAMES = ("ground", "road", "line", "road or line", "void", "ground or road")
SETS = (("background",), ("drivable",), ("lane marking",), ("drivable", "lane marking"), (), ("background", "drivable"))
LABELS = MaskLabels("m", dict(enumerate(NAMES)), {k: frozenset(s) for k, s in enumerate(SETS)}, DRIVE_CLASSES)
G, R, L = 0, 1, 2  # predicted classes: ground, road, line


def rows(*pixels: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true) pairs -> two masks of one row."""
    table = np.array(pixels, np.uint8)
    return table[None, :, 0].copy(), table[None, :, 1].copy()


def test_known_figures():
    evaluation = DriveEvaluation(LABELS, DRIVE_CLASSES)
    # Lane: 2 found, 1 missed, 1 false of 5 that are not lane ("road or line" is not said, void and 255 do not count).
    evaluation.add(
        *rows((L, 2), (L, 2), (R, 2), (L, 1), (R, 1), (G, 0), (R, 0), (G, 5), (L, 3), (R, 3), (L, 4), (L, 255))
    )
    result = evaluation.result()
    assert result["lane_width_px"] is None
    lane = result["lane"]
    assert lane["IoU"] == 2 / 4 and lane["recall"] == lane["precision"] == 2 / 3 and lane["pixels"] == 3
    assert lane["specificity"] == 4 / 5 and lane["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # Drivable: labels 1 and 3 are (4 pixels, a predicted marking is paint on it), label 0 is not (1 of 2 right); the
    # pixels labelled as line, and "ground or road", are not said.
    drivable = result["drivable"]
    assert drivable["IoU"] == 4 / 5 and drivable["recall"] == 1 and drivable["specificity"] == 1 / 2
    assert drivable["mIoU"] == pytest.approx((4 / 5 + 1 / 2) / 2) and drivable["pixels"] == 4


def test_the_lane_iou_as_annotated_is_that_of_the_datasets_confusion():
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 3, (40, 60), np.uint8), rng.choice(np.array([0, 1, 2, 3, 4], np.uint8), (40, 60))
    drive, masks = DriveEvaluation(LABELS, DRIVE_CLASSES), MaskEvaluation(LABELS, DRIVE_CLASSES)
    for evaluation in (drive, masks):
        evaluation.add(predicted, true)
    assert drive.result()["lane"]["IoU"] == pytest.approx(masks.result()["labels"]["line"]["IoU"])


def test_labels_without_markings_give_drivable_figures_only():
    sets = {0: frozenset({"drivable", "lane marking"}), 1: frozenset({"background"})}
    evaluation = DriveEvaluation(MaskLabels("m", {0: "road", 1: "rest"}, sets, DRIVE_CLASSES), DRIVE_CLASSES)
    evaluation.add(*rows((R, 0), (L, 0), (G, 0), (G, 1)))
    result = evaluation.result()
    assert result["lane"] is None and result["drivable"]["IoU"] == 2 / 3
    assert len(drive_lines(result)) == 2 and "drivable" in drive_lines(result)[1]


def test_nothing_seen_has_no_figures():
    result = DriveEvaluation(LABELS, DRIVE_CLASSES).result()
    assert result["lane"]["IoU"] is None and result["drivable"]["mIoU"] is None
    assert "-" in drive_lines(result)[1]
    assert Counts().balanced_accuracy is None and Counts(tn=3).miou == 1


def test_a_stated_width_draws_the_truth_anew():
    true = np.ones((30, 40), np.uint8)
    true[:, 10:12] = 2  # a line of 2 pixels
    true[:, 30:] = 4  # void
    predicted = np.ones((30, 40), np.uint8)
    predicted[:, 7:15] = 2  # found as 8 pixels
    figures = {}
    for width in (None, 2, 4, 8):
        evaluation = DriveEvaluation(LABELS, DRIVE_CLASSES, width)
        evaluation.add(predicted, true)
        figures[width] = evaluation.result()["lane"]
    assert figures[None]["IoU"] == figures[2]["IoU"] == 2 / 8, "the same line, whether annotated or asked for"
    assert figures[4]["IoU"] == 4 / 8 and figures[4]["recall"] == 1
    assert figures[8]["pixels"] == 8 * 30 and figures[8]["IoU"] >= 7 / 9  # centred to one pixel
    assert all(f["pixels"] + 0 <= 8 * 30 for f in figures.values())


def test_a_line_does_not_grow_into_what_is_not_labelled_and_what_is_left_over_is_background():
    true = np.full((20, 20), 255, np.uint8)
    true[:, 8:14] = 2  # a marking of 6 pixels in unlabelled ground
    _, truth = Questions(LABELS, DRIVE_CLASSES).lane(np.zeros_like(true), true, 2)
    assert (truth[:, :8] == NOT_SAID).all() and (truth[:, 14:] == NOT_SAID).all()
    assert (truth[6:14, 8:14].sum(1) == 2).all(), "2 of 6 pixels are lane, 4 are not"
    _, wide = Questions(LABELS, DRIVE_CLASSES).lane(np.zeros_like(true), true, 12)
    assert (wide[:, :8] == NOT_SAID).all() and (wide[6:14, 8:14] == 1).all()


@pytest.mark.parametrize("width", [0, -2])
def test_a_width_below_a_pixel_is_refused(width):
    with pytest.raises(ValueError, match="--lane-width must be 1 pixel or more"):
        DriveEvaluation(LABELS, DRIVE_CLASSES, width)


def test_a_centreline_is_thin_and_inside_and_keeps_the_length():
    mask = np.zeros((60, 80), bool)
    mask[5:55, 20:27] = True
    for row in range(50):
        mask[5 + row, 40 + row // 3 : 45 + row // 3] = True
    thin = centreline(mask)
    assert (mask | ~thin).all()
    for part in (thin[10:50, 15:35], thin[10:50, 36:]):
        assert (part.sum(1) == 1).all(), "one pixel a row"
    assert (np.flatnonzero(thin[30, :35]) == [23]).all(), "in the middle"
    assert not centreline(np.zeros((5, 5), bool)).any()
    assert (centreline(mask.T[:, ::-1]).sum() - thin.sum()) in range(-3, 4)


def test_lines_have_the_width_asked_for():
    mask = np.zeros((40, 60), bool)
    mask[:, 20:29] = True
    for width in (1, 2, 5, 8):
        assert (lines_of_width(mask, width)[15:25].sum(1) == width).all()
