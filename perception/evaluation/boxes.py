"""COCO AP of boxes against a dataset that labels them in its own way (pycocotools does the matching and the averaging).

The evaluation classes are the dataset's: categories that mean the same set of our classes are one. A prediction counts
as the first evaluation class whose set holds its class, and is dropped if none does: the dataset does not label such.
Where a set has several of our classes, one object predicted under two of those names is one prediction, the better.

Legend: N = boxes of an image, M = its ignore regions, T = 10 IoU thresholds, R = 101 recalls, K = evaluation classes.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perception.labels import BoxLabels
from perception.structures import Detections

__all__ = ["BoxClass", "BoxEvaluation", "box_classes", "iou_matrix", "once"]

SAME_OBJECT_IOU = 0.7  # above it, boxes of two of our classes within one evaluation class are one object named twice
MAX_DETECTIONS = 100  # of one class in one image, as in COCO
AREAS = ("all", "small", "medium", "large")  # COCO's: borders at 32x32 and 96x96 frame pixels


@dataclass(frozen=True, slots=True)
class BoxClass:
    """One class of the dataset's label space."""

    name: str  # our classes of the set joined by |, in our order
    members: frozenset[str]  # our classes
    categories: tuple[str, ...]  # the dataset's categories that mean this set
    exhaustive: bool  # False: not every instance is labelled, so AP is too low by an unknown amount


def box_classes(labels: BoxLabels) -> list[BoxClass]:
    """The evaluation classes, in the order of the dataset's categories; empty sets (ignore regions) are none."""
    categories: dict[frozenset[str], list[str]] = {}
    for category, members in labels.sets.items():
        if members:
            categories.setdefault(members, []).append(category)
    return [
        BoxClass(
            "|".join(n for n in labels.classes if n in members), members, tuple(names), members <= labels.exhaustive
        )
        for members, names in categories.items()
    ]


class BoxEvaluation:
    """Collects the boxes of one image after the other, then says the AP."""

    def __init__(self, labels: BoxLabels, box_names: Sequence[str]) -> None:
        """`box_names` are the model's box classes by id.

        Raises ValueError if the dataset's labels speak of none of them.
        """
        self.classes = box_classes(labels)
        self.images = 0
        self._class_of_category = {name: k for k, group in enumerate(self.classes) for name in group.categories}
        first = [next((k for k, group in enumerate(self.classes) if name in group.members), -1) for name in box_names]
        if set(first) == {-1}:
            raise ValueError(
                f"the model finds {', '.join(box_names)}, but the dataset's boxes are {', '.join(labels.sets)}: "
                "no class in common; a model trained with --own-labels is judged on the dataset that it was trained on"
            )
        self._class_of_prediction = np.array(first, np.int64)  # (model's classes,), -1 = not labelled by the dataset
        self._truths: list[dict[str, Any]] = []
        self._predictions: list[dict[str, Any]] = []

    def add(self, detections: Detections, boxes: np.ndarray, categories: Sequence[str], ignore: np.ndarray) -> None:
        """One image: what was found, and what is there, all in frame pixels.

        `boxes` (N, 4) xyxy are of the dataset's `categories` (N names); in the regions `ignore` (M, 4) xyxy
        nothing counts as false. Raises KeyError for a category that the labels do not have.
        """
        self.images += 1
        for box, category in zip(boxes, categories, strict=True):
            self._truths.append(self._annotation(box, self._class_of_category[category], len(self._truths)))
        for k in range(len(self.classes)):
            for box in ignore:
                self._truths.append(self._annotation(box, k, len(self._truths)) | {"iscrowd": 1})
        groups = self._class_of_prediction[detections.classes]
        for k in np.unique(groups[groups >= 0]):
            for box, score in once(detections[groups == k]):
                self._predictions.append(self._annotation(box, int(k), len(self._predictions)) | {"score": score})

    def _annotation(self, box: np.ndarray, k: int, index: int) -> dict[str, Any]:
        """One box in COCO's form. COCO reads id 0 as "no match", so ids count from 1."""
        x1, y1, x2, y2 = (float(value) for value in box)
        w, h = x2 - x1, y2 - y1
        row = {"id": index + 1, "image_id": self.images, "category_id": k + 1}
        return {**row, "bbox": [x1, y1, w, h], "area": w * h, "iscrowd": 0}

    def result(self, images: Collection[int] | None = None) -> dict[str, Any]:
        """AP (mean over IoU 0.50 to 0.95), AP50, AP75, AP_small, AP_medium, AP_large; the same for each class.

        Of all images, or of some: the n-th that was added is number n, from 1. A figure without any instance behind it
        is None; the mean over classes leaves it out.
        """
        chosen = set(range(1, self.images + 1) if images is None else images)
        evaluation = self._evaluated(sorted(chosen))
        precision = evaluation.eval["precision"][..., -1]  # (T, R, K, areas); -1 where a class has no instance
        instances, ignored = [0] * len(self.classes), 0
        for truth in self._truths:
            if truth["image_id"] in chosen:
                instances[truth["category_id"] - 1] += not truth["iscrowd"]
                ignored += truth["iscrowd"] and truth["category_id"] == 1  # a region is there once for each class
        return {
            **_figures(precision),
            "images": len(chosen),
            "instances": sum(instances),
            "ignore_regions": ignored,
            "classes": {
                group.name: {
                    **_figures(precision[:, :, k : k + 1]),
                    "instances": instances[k],
                    "categories": list(group.categories),
                    "exhaustive": group.exhaustive,
                }
                for k, group in enumerate(self.classes)
            },
        }

    def matched_scores(self, iou: float = 0.5) -> np.ndarray:
        """(all boxes that were added,) the score of the prediction that found each, nan where none did.

        COCO's matching: within a class, predictions choose by falling score, each the free box that it overlaps most,
        by `iou` or more. So a box was found among the predictions of at least some score if its own score is as high.
        """
        scores = np.full(len(self._truths), np.nan)
        for entry in self._evaluated(range(1, self.images + 1), [iou], AREAS[:1]).evalImgs:
            for truth, prediction in zip(entry["gtIds"], entry["gtMatches"][0], strict=True) if entry else ():
                if prediction:
                    scores[truth - 1] = self._predictions[int(prediction) - 1]["score"]
        return scores[[not truth["iscrowd"] for truth in self._truths]]

    def _evaluated(
        self, chosen: Sequence[int], ious: Sequence[float] | None = None, areas: Sequence[str] = AREAS
    ) -> COCOeval:
        """pycocotools' matches and interpolated precision over the images `chosen`; `ious` = None are the T of COCO."""
        images = [{"id": number} for number in range(1, self.images + 1)]
        categories = [{"id": k + 1, "name": group.name} for k, group in enumerate(self.classes)]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            truths, predictions = COCO(), COCO()
            for coco, annotations in ((truths, self._truths), (predictions, self._predictions)):
                coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
                coco.createIndex()
            evaluation = COCOeval(truths, predictions, "bbox")
            evaluation.params.maxDets, evaluation.params.imgIds = [MAX_DETECTIONS], list(chosen)
            evaluation.params.areaRng = evaluation.params.areaRng[: len(areas)]
            evaluation.params.iouThrs = evaluation.params.iouThrs if ious is None else np.array(ious)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation


def _figures(precision: np.ndarray) -> Mapping[str, float | None]:
    """(T, R, K, areas) -> the six figures of COCO."""
    figures = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    figures |= {f"AP_{name}": precision[..., index] for index, name in enumerate(AREAS) if index}
    return {name: _mean(values[values > -1]) for name, values in figures.items()}


def _mean(values: np.ndarray) -> float | None:
    """None if empty. Rounded, because pycocotools adds an epsilon that makes a perfect AP 0.9999999999999998."""
    return round(float(values.mean()), 9) if values.size else None


def once(found: Detections) -> list[tuple[np.ndarray, float]]:
    """(box, score) of every detection but those that name an object again, under another class and a lower score."""
    found = found[np.argsort(-found.scores, kind="stable")]
    if len(np.unique(found.classes)) < 2:
        return list(zip(found.boxes, found.scores.tolist(), strict=True))
    again = (iou_matrix(found.boxes, found.boxes) > SAME_OBJECT_IOU) & (found.classes[:, None] != found.classes)
    keep = np.ones(len(found), bool)
    for index in range(len(found)):
        if keep[index]:
            keep[index + 1 :] &= ~again[index, index + 1 :]
    return list(zip(found.boxes[keep], found.scores[keep].tolist(), strict=True))


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) xyxy -> (N, M) float intersection over union; 0 for boxes without an area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.clip(sides, 0, math.inf).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None] - common
    iou: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou
