"""Figures of the `drive` head as questions of yes and no: is it a lane marking, can it be driven on?

Labels are sets of our classes (perception/labels.py), so a pixel's truth is yes, no, or not said; what is not said does
not count.

    lane marking   yes: the label means a marking and nothing else. No: it can not be one.
    drivable       yes: the label means the road's surface, with its paint or without. No: it can be neither. A pixel
                   labelled as a marking and nothing else does not count, because it may lie on either side of what can
                   be driven on. A predicted marking is paint on the surface.

Everything is counted over the whole dataset. The mIoU of "drivable" is that of two classes, drivable and the rest,
which is what YOLOP (arXiv:2108.11250) and its successors call the mIoU of the drivable area.

**Line width.** The IoU of lane markings depends on how wide the truth is drawn more than on the model, so the width is
stated with the figure: as annotated, or the centreline of what is annotated, drawn N pixels of the frame wide. What is
left over of a wider marking is then background, as in the published tables. Of the habit on BDD100K, "we dilate
ground-truth lanes of the training set as 8 pixels ... keeping these of testing set unchanged (2 pixels)" was read from
an author of ENet-SAD (issues 127, 233 and 300 of cardwing/Codes-for-Lane-Detection); whether these are pixels of the
1280x720 frame or of the 640x360 input is not said there: the asker of 127 takes them for pixels of the frame. YOLOP's
code reads its lane masks ready-made, shrinks them to 640 pixels with INTER_AREA, and takes what is left of any line for
lane (threshold 1 of 255, lib/dataset/AutoDriveDataset.py), so that a line of 2 pixels stays at 1 to 2 of 640.

Legend: H, W = height, width of the frame; C = classes of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from perception.evaluation.percent import percent
from perception.labels import MaskLabels

__all__ = ["DRIVABLE", "LANE", "NOT_SAID", "Counts", "DriveEvaluation", "centreline", "drive_lines", "lines_of_width"]

DRIVABLE, LANE = "drivable", "lane marking"
NO, YES, NOT_SAID = 0, 1, 2
MARGIN = 8  # pixels


@dataclass(slots=True)
class Counts:
    """Pixels of a question of yes and no. A rate without a pixel behind it is None."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """(H, W) bool, and (H, W) uint8 of NO, YES or NOT_SAID."""
        counts = np.bincount((truth * np.uint8(2) + predicted).ravel(), minlength=6)
        self.tn, self.fp, self.fn, self.tp = (
            int(old + new) for old, new in zip((self.tn, self.fp, self.fn, self.tp), counts[:4], strict=True)
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def iou(self) -> float | None:
        return rate(self.tp, self.tp + self.fp + self.fn)

    @property
    def rest_iou(self) -> float | None:
        """IoU of the other class, "no"."""
        return rate(self.tn, self.tn + self.fp + self.fn)

    @property
    def miou(self) -> float | None:
        """Mean IoU of the two classes; one that is neither there nor predicted is left out."""
        found = [iou for iou in (self.iou, self.rest_iou) if iou is not None]
        return sum(found) / len(found) if found else None

    @property
    def recall(self) -> float | None:
        return rate(self.tp, self.tp + self.fn)

    @property
    def precision(self) -> float | None:
        return rate(self.tp, self.tp + self.fp)

    @property
    def specificity(self) -> float | None:
        return rate(self.tn, self.tn + self.fp)

    @property
    def balanced_accuracy(self) -> float | None:
        """(recall + specificity) / 2; None if one of them is."""
        recall, specificity = self.recall, self.specificity
        return None if recall is None or specificity is None else (recall + specificity) / 2


def rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class Questions:
    """A dataset's labels and a head's classes -> truth and answer of the two questions, pixel by pixel."""

    def __init__(self, labels: MaskLabels, class_names: Sequence[str]) -> None:
        """`class_names` are the classes of the model's head by id."""
        sets = {label: members for label, members in labels.sets.items() if members}
        surface = frozenset({DRIVABLE, LANE})
        self._lane, self._drivable = (np.full(256, NOT_SAID, np.uint8) for _ in range(2))
        for label, members in sets.items():
            self._lane[label] = YES if members == {LANE} else NOT_SAID if LANE in members else NO
            if members != {LANE}:
                self._drivable[label] = YES if members <= surface else NOT_SAID if members & surface else NO
        self.labelled = np.isin(np.arange(256), list(sets))  # (256,) bool
        self.says_lane = YES in self._lane  # False: the dataset does not tell markings from the road
        self.says_drivable = YES in self._drivable
        self._class_is = {name: np.array([n == name for n in class_names], bool) for name in (LANE, DRIVABLE)}

    def lane(self, predicted: np.ndarray, true: np.ndarray, width: int | None) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) uint8 class ids and label ids -> (H, W) bool answer, and (H, W) uint8 truth with lines of `width`."""
        truth = np.take(self._lane, true)
        if width is not None:
            lines = lines_of_width(truth == YES, width)
            truth = np.where(self.labelled[true] & (lines | (truth == YES)), lines.astype(np.uint8), truth)
        return np.take(self._class_is[LANE], predicted), truth

    def drivable(self, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) uint8 class ids and label ids -> (H, W) bool answer, and (H, W) uint8 truth."""
        return np.take(self._class_is[LANE] | self._class_is[DRIVABLE], predicted), np.take(self._drivable, true)


class DriveEvaluation:
    """Counts one class map of the drive head after the other, then says the figures."""

    def __init__(self, labels: MaskLabels, class_names: Sequence[str], lane_width: int | None = None) -> None:
        """`class_names` are the model's, by id; `lane_width` is in pixels of the frame, None = as annotated.

        Raises ValueError for a width below 1.
        """
        if lane_width is not None and lane_width < 1:
            raise ValueError(
                f"--lane-width must be 1 pixel or more, but got {lane_width}; leave it out for as annotated"
            )
        self.questions = Questions(labels, class_names)
        self.lane_width = lane_width
        self.lane, self.drivable = Counts(), Counts()

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """One image: (H, W) uint8 predicted class ids, and (H, W) uint8 label ids of the dataset."""
        if self.questions.says_lane:
            self.lane.add(*self.questions.lane(predicted, true, self.lane_width))
        if self.questions.says_drivable:
            self.drivable.add(*self.questions.drivable(predicted, true))

    def result(self) -> dict[str, Any]:
        """lane_width_px (None = as annotated), lane and drivable: each None where the dataset does not label it."""
        return {
            "lane_width_px": self.lane_width,
            "lane": rates(self.lane) if self.questions.says_lane else None,
            "drivable": {**rates(self.drivable), "mIoU": self.drivable.miou} if self.questions.says_drivable else None,
        }


def rates(counts: Counts) -> dict[str, float | int | None]:
    return {
        "IoU": counts.iou,
        "recall": counts.recall,
        "precision": counts.precision,
        "specificity": counts.specificity,
        "balanced_accuracy": counts.balanced_accuracy,
        "pixels": counts.tp + counts.fn,
    }


def lines_of_width(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool of markings -> (H, W) bool: their centrelines, `width` pixels wide."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return cv2.dilate(centreline(mask).astype(np.uint8), kernel) > 0


def centreline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) bool, thinned to lines of one pixel (Zhang and Suen, doi:10.1145/357994.358023)."""
    thin = np.pad(mask.astype(np.uint8), MARGIN, "edge")  # lines go on beyond the frame: thinning shortens free ends
    for _ in range(max(mask.shape)):
        before = cv2.countNonZero(thin)
        for stays in _STAYS:
            neighbours = cv2.filter2D(thin, -1, _WEIGHTS, borderType=cv2.BORDER_CONSTANT)  # each pixel's 8, as bits
            np.bitwise_and(thin, cv2.LUT(neighbours, stays), out=thin, casting="unsafe")
        if cv2.countNonZero(thin) == before:
            break
    inner: np.ndarray = thin[MARGIN:-MARGIN, MARGIN:-MARGIN] > 0
    return inner


def _stays() -> tuple[np.ndarray, np.ndarray]:
    """(256,) uint8 for the two passes: 1 = a pixel stays, given its neighbours as bits, clockwise from the top."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8): top, top right, right ... top left
    north, east, south, west = (bits[:, index] for index in (0, 2, 4, 6))
    neighbours, begins = bits.sum(1), ((bits == 0) & (np.roll(bits, -1, 1) == 1)).sum(1)
    edge = (neighbours >= 2) & (neighbours <= 6) & (begins == 1)
    return (
        (~(edge & (north * east * south == 0) & (east * south * west == 0))).astype(np.uint8),
        (~(edge & (north * east * west == 0) & (north * south * west == 0))).astype(np.uint8),
    )


_WEIGHTS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
_STAYS = _stays()


def drive_lines(figures: dict[str, Any]) -> list[str]:
    """The figures of DriveEvaluation as lines of a table, in percent."""
    columns = {"IoU": "IoU", "mIoU": "mIoU", "recall": "recall", "precision": "prec.", "specificity": "spec."}
    columns |= {"balanced_accuracy": "bal.acc"}
    width = figures["lane_width_px"]
    names = {
        "lane": "lanes " + ("as annotated" if width is None else f"{width} px wide"),
        "drivable": "drivable or not",
    }
    lines = [f"  {'drive, yes or no':20} " + "".join(f"{title:>8}" for title in columns.values())]
    for key, name in names.items():
        if row := figures[key]:
            cells = (row.get(column) for column in columns)
            lines.append(f"  {name:20} " + "".join(percent(value) for value in cells))
    return lines if len(lines) > 1 else []
