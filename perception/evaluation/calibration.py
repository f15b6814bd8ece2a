"""Is a score worth its number? Of the boxes that score 0.7, seven in ten should be right.

Scores are sorted into 15 bins of equal width. The expected calibration error (ECE; Guo et al., arXiv:1706.04599) is
the mean distance between a bin's mean score and its share of right answers, weighted by the bin's count; the maximum is
that of the worst bin with at least MIN_COUNT answers.

Boxes, after Kueppers et al. (arXiv:2004.13546), by score alone: a box is right if, among the boxes of its evaluation
class by falling score, it is the first to overlap an object of that class by an IoU of 0.5 or more. A box that overlaps
no object that is left, but lies in a region to be ignored, is neither right nor wrong. Classes of which the dataset
does not label every instance are left out, because a box on an unlabelled object would count as wrong. A detector gives
many boxes with scores near 0 that are rightly near 0: they make the ECE small and say little, so it is given twice,
over all boxes and over those that live would show (score 0.3 or more).

Class maps: the answer is the predicted class, right if it is in the set of the pixel's label. Its confidence is the
probability of the set that the prediction counts as in the dataset's label space (the first label with that class),
since the dataset can not tell the classes within it apart. Some PIXELS pixels of an image, on a grid.

Legend: N = boxes; C = classes of the head; h, w = model pixels; H, W = frame pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.evaluation.boxes import box_classes, iou_matrix, once
from perception.evaluation.percent import percent
from perception.labels import BoxLabels, MaskLabels
from perception.structures import Detections, Letterbox
from perception.tensors import mask_frame_from_model

__all__ = ["BINS", "BoxCalibration", "MaskCalibration", "Reliability", "calibration_lines"]

BINS = 15
RIGHT_IOU = 0.5
SHOWN = 0.3  # score from which live shows a box
MIN_COUNT = 10  # answers that a bin needs before it may be the worst
PIXELS = 10_000  # of an image


class Reliability:
    """Counts scores and whether they were right, bin by bin."""

    def __init__(self) -> None:
        self.counts, self.scores, self.right = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS)

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """(N,) scores from 0 to 1, and (N,) bool."""
        index = np.clip((np.asarray(scores, np.float64) * BINS).astype(np.int64), 0, BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)
        self.scores += np.bincount(index, scores, BINS)
        self.right += np.bincount(index, right, BINS)

    def result(self) -> dict[str, Any]:
        """ECE, maximum, count, mean_score, precision, and the same of each bin with its borders."""
        total = int(self.counts.sum())
        gaps = np.abs(self.scores - self.right)  # count x distance
        worst = np.divide(gaps, self.counts, out=np.zeros(BINS), where=self.counts >= MIN_COUNT)
        return {
            "ECE": float(gaps.sum() / total) if total else None,
            "maximum": float(worst.max()) if (self.counts >= MIN_COUNT).any() else None,
            "count": total,
            "mean_score": float(self.scores.sum() / total) if total else None,
            "precision": float(self.right.sum() / total) if total else None,
            "bins": [
                {
                    "from": index / BINS,
                    "to": (index + 1) / BINS,
                    "count": int(count),
                    "mean_score": float(score / count) if count else None,
                    "precision": float(right / count) if count else None,
                }
                for index, (count, score, right) in enumerate(zip(self.counts, self.scores, self.right, strict=True))
            ],
        }


class BoxCalibration:
    """Collects the boxes of one image after the other, then says how far their scores can be believed."""

    def __init__(self, labels: BoxLabels, box_names: Sequence[str]) -> None:
        """`box_names` are the model's box classes by id."""
        groups = box_classes(labels)
        self.left_out = [group.name for group in groups if not group.exhaustive]
        self._group_of_category = {name: k for k, group in enumerate(groups) for name in group.categories}
        first = [next((k for k, group in enumerate(groups) if name in group.members), -1) for name in box_names]
        judged = [k if k >= 0 and groups[k].exhaustive else -1 for k in first]
        self._group_of_prediction = np.array(judged, np.int64)  # (model's classes,), -1 = not judged
        self.all, self.shown = Reliability(), Reliability()

    def add(self, found: Detections, boxes: np.ndarray, categories: Sequence[str], ignore: np.ndarray) -> None:
        """One image in frame pixels, as BoxEvaluation.add takes it."""
        true_groups = np.array([self._group_of_category[category] for category in categories], np.int64)
        groups = self._group_of_prediction[found.classes]
        for k in np.unique(groups[groups >= 0]):
            rows = once(found[groups == k])
            predicted = np.array([box for box, _ in rows], np.float64).reshape(-1, 4)
            scores = np.array([score for _, score in rows], np.float64)
            right, ignored = judge(predicted, np.asarray(boxes).reshape(-1, 4)[true_groups == k], ignore)
            counted = right | ~ignored
            self.all.add(scores[counted], right[counted])
            shown = counted & (scores >= SHOWN)
            self.shown.add(scores[shown], right[shown])

    def result(self) -> dict[str, Any]:
        """The figures over all boxes; "shown": the same over those of SHOWN or more; "left_out": classes not judged."""
        return {**self.all.result(), "shown": self.shown.result(), "left_out": self.left_out}


def judge(predicted: np.ndarray, objects: np.ndarray, ignore: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes of one class by falling score, (M, 4) objects, regions to be ignored -> (N,) bool right, ignored.

    Greedy: each box takes the object that it overlaps most among those that are left, from an IoU of RIGHT_IOU on.
    A box is ignored if that share of its own area lies in one region (as in COCO).
    """
    right, ignored = np.zeros(len(predicted), bool), np.zeros(len(predicted), bool)
    if len(predicted) and len(objects):
        iou = iou_matrix(predicted, objects)
        for index in range(len(predicted)):
            best = int(iou[index].argmax())
            if iou[index, best] >= RIGHT_IOU:
                right[index] = True
                iou[:, best] = -1  # taken
    if len(predicted) and len(ignore):
        regions = np.asarray(ignore, np.float64).reshape(-1, 4)
        sides = np.minimum(predicted[:, None, 2:], regions[None, :, 2:]) - np.maximum(
            predicted[:, None, :2], regions[None, :, :2]
        )
        area = np.maximum((predicted[:, 2:] - predicted[:, :2]).prod(-1), 1e-9)
        ignored = (np.clip(sides, 0, math.inf).prod(-1) / area[:, None] >= RIGHT_IOU).any(1)
    return right, ignored


class MaskCalibration:
    """Collects the probabilities of one image after the other, then says how far they can be believed."""

    def __init__(self, labels: MaskLabels, class_names: Sequence[str]) -> None:
        """`class_names` are the classes of the model's head by id."""
        members = [labels.sets[label] for label in sorted(labels.sets)]
        self._counted, self._right = np.zeros(256, bool), np.zeros((256, len(class_names)), bool)
        for label, names in labels.sets.items():
            self._counted[label] = bool(names)
            self._right[label] = [name in names for name in class_names]
        counts_as = [next((names for names in members if name in names), {name}) for name in class_names]
        self._set_of_class = np.array([[other in names for other in class_names] for names in counts_as], np.float32)
        self.reliability = Reliability()

    def add(self, probabilities: np.ndarray, letterbox: Letterbox, true: np.ndarray) -> None:
        """One image: (C, h, w) float32 in model pixels that add up to 1, and (H, W) uint8 label ids of the dataset."""
        C, h, w = probabilities.shape
        flat = probabilities.reshape(C, -1)
        predicted = flat.argmax(0)
        of_set = np.take_along_axis(self._set_of_class @ flat, predicted[None], 0)  # (1, h * w)
        confidence = mask_frame_from_model(of_set.reshape(h, w).astype(np.float32), letterbox)
        answer = mask_frame_from_model(predicted.reshape(h, w).astype(np.uint8), letterbox)
        step = max(1, math.ceil(math.sqrt(true.size / PIXELS)))
        grid = (slice(step // 2, None, step), slice(step // 2, None, step))
        labels, answer, confidence = true[grid].ravel(), answer[grid].ravel(), confidence[grid].ravel()
        counted = self._counted[labels]
        self.reliability.add(confidence[counted], self._right[labels[counted], answer[counted]])

    def result(self) -> dict[str, Any]:
        """The figures of Reliability.result; `precision` is the share of pixels that are right."""
        return self.reliability.result()


def calibration_lines(figures: dict[str, Any]) -> list[str]:
    """The figures of one dataset (boxes, masks; each may be None) as lines of a table, in percent."""
    rows = {}
    if boxes := figures["boxes"]:
        rows = {"boxes": boxes, f"boxes of {SHOWN} or more": boxes["shown"]}
    rows |= {f"{head}, pixels": mask for head, mask in (figures["masks"] or {}).items()}
    titles = ("ECE", "maximum", "mean_score", "precision")
    lines = [f"  {'calibration':22}     ECE     max   score   right       count"] if rows else []
    for name, row in rows.items():
        cells = "".join(percent(row[key]) for key in titles)
        lines.append(f"  {name:22}{cells}{row['count']:12}")
    if boxes and boxes["left_out"]:
        lines.append(f"  left out, because not every instance is labelled: {', '.join(boxes['left_out'])}")
    if figures["masks"] is None:
        lines.append("  class maps: no probabilities from an ONNX file; name the run directory or --provider torch")
    return lines
