"""The figures of published tables on BDD100K, each by its own definition, side by side with ours.

Papers print "mIoU", "accuracy" and "mAP50" of drivable area, lanes and vehicles in one table and mean different things.
Each function here is one definition, written anew from what the named code does; none of that code is copied. Where a
definition has a trap, the docstring says so.

What is the same for all of them here, and not as it was there: we count in the pixels of the frame and with the truth
of perception/evaluation/lanes.py; YOLOP, TwinLiteNet+ and HybridNets count at the size of the network's input
(640x384), with masks shrunk to it, YOLOP and TwinLiteNet+ without the letterbox's border and HybridNets with it. So a
figure from here compares definitions on one model exactly, and models across papers only nearly.

Legend: N = detections, M = objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.evaluation.boxes import BoxEvaluation, iou_matrix
from perception.evaluation.lanes import DRIVABLE, LANE, NO, NOT_SAID, YES, Counts, Questions
from perception.evaluation.percent import percent
from perception.labels import BoxLabels, MaskLabels
from perception.structures import Detections

__all__ = [
    "VEHICLES", "LegacyEvaluation", "MapCounts", "MapFigures", "average_precision", "hybridnets_boxes",
    "hybridnets_maps", "legacy_lines", "twinlitenet_plus_maps", "yolop_boxes", "yolop_maps",
]  # fmt: skip

VEHICLES = frozenset({"car", "bus", "truck", "train"})  # one class "vehicle" in all of these tables
NMS_IOU, MAX_BOXES, RIGHT_IOU = 0.6, 300, 0.5
BATCH = 24


@dataclass(frozen=True, slots=True)
class MapCounts:
    """Pixels of one image: what can be driven on, what is a lane marking, and what is neither."""

    drivable: Counts
    lane: Counts
    neither: Counts


@dataclass(frozen=True, slots=True)
class MapFigures:
    """What a table prints of the class maps, each from 0 to 1."""

    drivable_miou: float
    lane_accuracy: float
    lane_iou: float


def yolop_maps(images: Sequence[MapCounts], batch: int = BATCH) -> MapFigures:
    """YOLOP: every figure is taken of a batch, then averaged over the batches, weighted by their images.

    Lane "accuracy" is the recall of the lane class, TP / (TP + FN). A class that a batch neither has nor predicts has
    IoU 0 in it and is not left out. The batch is 24 images a GPU, so the figures depend on a setting of the loader.

    Read in hustvl/YOLOP: lib/core/evaluate.py (SegmentationMetric), lib/core/function.py (validate, AverageMeter),
    lib/config/default.py. TwinLiteNet (chequanghuy/TwinLiteNet IOUEval.py) has the same lane accuracy.
    """
    return _per_batch(images, batch, lambda lane: lane.recall or 0.0)


def twinlitenet_plus_maps(images: Sequence[MapCounts], batch: int = BATCH) -> MapFigures:
    """TwinLiteNet+: as YOLOP, but lane "accuracy" is (sensitivity + specificity) / 2 of a batch.

    Nearly all pixels are not lane, so specificity is close to 1 and the figure close to (1 + recall) / 2: with YOLOP's
    recall of 70.5 % it would print some 85 %.

    chequanghuy/TwinLiteNetPlus itself is stored without IOUEval.py and val.py. Read were the same author's later
    chequanghuy/KDTwin IOUEval.py, which has YOLOP's line commented out above this one, and the fork
    lmhoang06/TwinLiteNetPlus-Mamba (IOUEval.py, utils.py, val.py), whose batch is 16. A-YOLOM
    (JiayuanWang-JW/YOLOv8-multi-task issue 6) says that it took balanced accuracy too, and got 84.8 % for YOLOP.
    """
    return _per_batch(images, batch, lambda lane: ((lane.recall or 0.0) + (lane.specificity or 0.0)) / 2)


def hybridnets_maps(images: Sequence[MapCounts]) -> MapFigures:
    """HybridNets: every figure is taken of an image, then averaged over the images.

    The mIoU of the drivable area is the mean of two of its three classes, road and background, where background is
    neither road nor lane. Lane accuracy is the balanced accuracy, (sensitivity + specificity) / 2. A figure of 0 / 0
    is 1: an image without any lane, and none predicted, has lane IoU 1 and accuracy 1; an image without any lane in
    which one is predicted has IoU 0 and still accuracy 1.

    Read in datvuthanh/HybridNets: val.py and utils/smp_metrics.py (zero_division = 1.0), in the versions stored.
    """

    def mean(figure: Callable[[MapCounts], float]) -> float:
        return float(np.mean([figure(image) for image in images]))

    return MapFigures(
        mean(lambda image: (_or_one(image.neither.iou) + _or_one(image.drivable.iou)) / 2),
        mean(lambda image: _or_one(image.lane.balanced_accuracy)),
        mean(lambda image: _or_one(image.lane.iou)),
    )


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _per_batch(images: Sequence[MapCounts], batch: int, accuracy: Callable[[Counts], float]) -> MapFigures:
    """Mean over the batches, weighted by their number of images; 0 / 0 is 0."""
    rows, weights = [], []
    for group in (images[start : start + batch] for start in range(0, len(images), batch)):
        lane = sum((image.lane for image in group), Counts())
        drivable = sum((image.drivable for image in group), Counts())
        rows.append((((drivable.iou or 0.0) + (drivable.rest_iou or 0.0)) / 2, accuracy(lane), lane.iou or 0.0))
        weights.append(len(group))
    return MapFigures(*(float(value) for value in np.average(rows, axis=0, weights=weights)))


def yolop_boxes(scores: np.ndarray, right: np.ndarray, objects: int) -> tuple[float, float]:
    """(N,) scores, (N,) bool right, objects in all -> recall and AP50 of YOLOP.

    Vehicles are one class; boxes score at least 0.001; NMS at IoU 0.6; at most 300 an image. A box is right if the
    object that it overlaps most, by more than 0.5, is not yet taken by a box that scores higher; regions to be ignored
    do not exist. "Recall" is that of all these boxes together, so it grows with the number of boxes an image.
    AP is the area under 101 points of the precision envelope, which falls to 0 right after the last recall reached.

    Read in hustvl/YOLOP: lib/core/function.py, lib/core/general.py (ap_per_class and compute_ap, which function.py
    imports from here and not from evaluate.py), lib/config/default.py, lib/dataset/bdd.py (single_cls = True; the list
    of the four classes is in lib/dataset/convert.py, which is not stored).
    """
    return _recall_and_ap(scores, right, objects, last=None)


def hybridnets_boxes(scores: np.ndarray, right: np.ndarray, objects: int) -> tuple[float, float]:
    """As `yolop_boxes`, but the precision envelope is drawn on from the last recall reached to 0 at recall 1.

    So AP counts a triangle of recalls that the model never reached: with recall 0.6 at precision 0.5 that is 0.1.

    Read in datvuthanh/HybridNets: val.py (confidence 0.001, NMS IoU 0.6) and utils/utils.py (process_batch,
    ap_per_class, compute_ap).
    """
    return _recall_and_ap(scores, right, objects, last=1.0)


def _recall_and_ap(scores: np.ndarray, right: np.ndarray, objects: int, last: float | None) -> tuple[float, float]:
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    if not objects or not len(found) or not found[-1]:
        return 0.0, 0.0
    recall = found / objects
    return float(recall[-1]), average_precision(recall, found / np.arange(1, len(found) + 1), last)


def average_precision(recall: np.ndarray, precision: np.ndarray, last: float | None) -> float:
    """(N,) recall and precision by falling score -> area under the precision envelope, by 101 points and trapezoids.

    The envelope begins at precision 1 and falls to 0 at recall `last`; None = 0.001 beyond the last recall reached.
    """
    recall = np.concatenate([[0.0], recall, [recall[-1] + 1e-3 if last is None else last]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    points = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(points, recall, envelope), points))


class LegacyEvaluation:
    """Collects one image after the other, then says the figures of every definition."""

    def __init__(
        self,
        boxes: BoxLabels | None,
        box_names: Sequence[str],
        drive: MaskLabels | None,
        class_names: Sequence[str],
        lane_width: int | None = None,
        batch: int = BATCH,
    ) -> None:
        """`boxes` and `drive` are the dataset's labels, None = not judged; names are the model's, by id.

        Raises ValueError for a batch below 1.
        """
        if batch < 1:
            raise ValueError(f"--legacy-batch must be 1 image or more, but got {batch}")
        self.batch, self.lane_width = batch, lane_width
        self.questions = Questions(drive, class_names) if drive else None
        self._neither = _neither(drive, class_names) if drive else None
        self._maps: list[MapCounts] = []
        self._is_vehicle = np.array([name in VEHICLES for name in box_names], bool)
        self._categories = (
            {c for c, members in boxes.sets.items() if members and members <= VEHICLES} if boxes else set()
        )
        self._merged: BoxEvaluation | None = None
        if boxes and self._categories and self._is_vehicle.any():
            vehicles = VEHICLES & set(boxes.classes)  # a dataset's own labels need not have all of them
            sets = {c: vehicles if c in self._categories else frozenset[str]() for c in boxes.sets}
            self._merged = BoxEvaluation(BoxLabels(sets, boxes.exhaustive, boxes.classes), box_names)
        self._scores: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._objects = 0

    def add_map(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """One image: (H, W) uint8 predicted class ids of the drive head, and (H, W) uint8 label ids."""
        assert self.questions is not None and self._neither is not None
        truth, classes = self._neither
        counts = MapCounts(Counts(), Counts(), Counts())
        counts.drivable.add(*self.questions.drivable(predicted, true))
        counts.lane.add(*self.questions.lane(predicted, true, self.lane_width))
        counts.neither.add(np.take(classes, predicted), np.take(truth, true))
        self._maps.append(counts)

    def add_boxes(self, found: Detections, boxes: np.ndarray, categories: Sequence[str], ignore: np.ndarray) -> None:
        """One image: what was found, and the dataset's boxes (M, 4) xyxy of `categories`, in frame pixels."""
        if self._merged is None:
            return
        vehicles = np.array([category in self._categories for category in categories], bool)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[vehicles]
        found = found[self._is_vehicle[found.classes]]
        self._merged.add(found, boxes, [c for c in categories if c in self._categories], ignore)
        found = suppressed(found)
        self._scores.append(found.scores)
        self._right.append(first_come(found.boxes, boxes))
        self._objects += len(boxes)

    def result(self) -> dict[str, Any]:
        """batch; definitions: by name, figures from 0 to 1 (None where the definition or the dataset has none).

        `vehicle_AP50` is COCO's AP50 of the one class "vehicle", for comparison.
        """
        maps: dict[str, MapFigures] = {}
        if self.questions and self._maps:
            maps = {
                "YOLOP": yolop_maps(self._maps, self.batch),
                "TwinLiteNet+": twinlitenet_plus_maps(self._maps, self.batch),
                "HybridNets": hybridnets_maps(self._maps),
            }
        boxes: dict[str, tuple[float, float]] = {}
        if self._objects:
            scores, right = np.concatenate(self._scores), np.concatenate(self._right)
            boxes["YOLOP"] = yolop_boxes(scores, right, self._objects)
            boxes["HybridNets"] = hybridnets_boxes(scores, right, self._objects)
        return {
            "batch": self.batch,
            "vehicle_AP50": self._merged.result()["AP50"] if self._merged else None,
            "definitions": {name: self._row(maps.get(name), boxes.get(name)) for name in ROWS},
        }

    def _row(self, maps: MapFigures | None, boxes: tuple[float, float] | None) -> dict[str, float | None]:
        lane = maps if self.questions and self.questions.says_lane else None
        drivable = maps if self.questions and self.questions.says_drivable else None
        return {
            "drivable_mIoU": drivable.drivable_miou if drivable else None,
            "lane_accuracy": lane.lane_accuracy if lane else None,
            "lane_IoU": lane.lane_iou if lane else None,
            "recall": boxes[0] if boxes else None,
            "mAP50": boxes[1] if boxes else None,
        }


def _neither(labels: MaskLabels, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(256,) uint8 truth of "neither drivable nor lane" for each label id, and (C,) bool of the classes that say so."""
    surface = {DRIVABLE, LANE}
    truth = np.full(256, NOT_SAID, np.uint8)
    for label, members in labels.sets.items():
        if members:
            truth[label] = NO if members <= surface else NOT_SAID if members & surface else YES
    return truth, np.array([name not in surface for name in class_names], bool)


def suppressed(found: Detections) -> Detections:
    """The best boxes by falling score, without those that overlap a better one by more than NMS_IOU."""
    found = found[np.argsort(-found.scores, kind="stable")]
    overlaps = iou_matrix(found.boxes, found.boxes) > NMS_IOU
    keep = np.ones(len(found), bool)
    for index in range(len(found)):
        if keep[index]:
            keep[index + 1 :] &= ~overlaps[index, index + 1 :]
    return found[np.flatnonzero(keep)[:MAX_BOXES]]


def first_come(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(N, 4) by falling score, (M, 4) -> (N,) bool: overlaps its best object by more than RIGHT_IOU, as the first."""
    right = np.zeros(len(boxes), bool)
    if len(boxes) and len(objects):
        iou = iou_matrix(boxes, objects)
        best = np.where(iou.max(1) > RIGHT_IOU, iou.argmax(1), -1)
        taken, first = np.unique(best, return_index=True)
        right[first[taken >= 0]] = True
    return right


ROWS = {  # what each row of the table means
    "YOLOP": "mean over batches of {batch}; lane acc = recall; vehicles as one class",
    "TwinLiteNet+": "mean over batches of {batch}; lane acc = (recall + specificity) / 2",
    "HybridNets": "mean over images; lane acc = (recall + specificity) / 2; vehicles as one class",
}
COLUMNS = {
    "drivable_mIoU": "drivable mIoU",
    "lane_accuracy": "lane acc",
    "lane_IoU": "lane IoU",
    "recall": "recall",
    "mAP50": "mAP50",
}


def legacy_lines(result: dict[str, Any]) -> list[str]:
    """The figures of one dataset as lines of a table, ours on top, in percent. `result` is that of figures.evaluate."""
    lines = [f"  {'definition':14} " + " ".join(f"{title:>13}" for title in COLUMNS.values()) + "   what is meant"]
    for name, row, meaning in _rows(result):
        cells = (row.get(key) for key in COLUMNS)
        numbers = " ".join(f"{percent(value):>13}" for value in cells)
        lines.append(f"  {name:14} {numbers}   {meaning}")
    return lines


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, float | None], str]]:
    legacy, drive = result["legacy"], result.get("drive") or {}
    drivable, lane = drive.get("drivable") or {}, drive.get("lane") or {}
    ours = {"drivable_mIoU": drivable.get("mIoU"), "lane_IoU": lane.get("IoU")}
    classes = {"lane_accuracy": lane.get("recall"), "mAP50": (result["boxes"] or {}).get("AP50")}
    merged = {"lane_accuracy": lane.get("balanced_accuracy"), "mAP50": legacy["vehicle_AP50"]}
    yield "ours", ours | classes, "whole dataset; lane acc = recall; COCO AP50, mean over the dataset's classes"
    yield "ours, merged", ours | merged, "lane acc = (recall + specificity) / 2; COCO AP50 of vehicles as one class"
    for name, row in legacy["definitions"].items():
        yield name, row, ROWS[name].format(batch=legacy["batch"])
