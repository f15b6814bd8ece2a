"""The worst frames of a dataset, each as truth | prediction: where to look first.

Ranking, for each task by itself:
  masks   the IoU of every label of the one image, weighted by the label's true pixels; lowest first. Images of which
          less than 1 % is labelled are not ranked.
  false   boxes that score 0.3 or more and match nothing (IoU under 0.5 with every true box of their class, less than
          half in an ignore region), by the highest score. Only classes that the dataset labels in full can be false.
  missed  true boxes that no box of at least 0.3 matches, by their share of the frame; largest first.

Only the K worst of each are kept, as compressed pictures: memory does not grow with the dataset.
Legend: N = boxes of an image, H, W = its height and width.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from perception.colours import BOX_COLOURS, Colour, colour_of, rgb
from perception.evaluation.masks import MaskEvaluation, iou_from_confusion
from perception.evaluation.measure import Truth
from perception.imagefile import encode_image
from perception.inspection.sheets import blend, box_colours, caption, grid, label_colours, legend_strip
from perception.labels import BoxLabels, DatasetLabels
from perception.overlay import OverlayStyle, draw_boxes
from perception.structures import Detections, Result
from perception.tracks import iou

__all__ = ["Frame", "WorstFrames", "match"]

SCORE = 0.3
MATCH_IOU = 0.5
MIN_LABELLED = 0.01  # of an image's pixels
WIDTH = 760  # pixels of one picture
QUALITY = 88  # JPEG
RED = rgb(0xFF2D2D)


@dataclass(order=True, slots=True)
class Frame:
    """One bad frame; the larger `badness`, the worse."""

    badness: float
    order: int  # earlier images win ties
    name: str = field(compare=False)
    text: str = field(compare=False)  # what is bad about it
    picture: bytes = field(compare=False, repr=False)  # JPEG: truth | prediction


class WorstFrames:
    """A measure (see figures.py) that keeps the `count` worst frames of each task."""

    def __init__(
        self, labels: DatasetLabels, box_names: Sequence[str], heads: Mapping[str, Sequence[str]], count: int = 6
    ) -> None:
        """`box_names` are the model's box classes (none = boxes are not judged), `heads` the judged heads' classes."""
        self.labels, self.box_names, self.heads, self.count = labels, tuple(box_names), dict(heads), count
        self._heaps: dict[str, list[Frame]] = {}
        self._seen = 0

    def add(self, found: Result, truth: Truth) -> None:
        """One image."""
        self._seen += 1
        for head, true in truth.masks.items():
            self._judge_map(head, found.class_maps[head], true, truth)
        if self.labels.boxes and self.box_names and truth.sample.boxes is not None:
            self._judge_boxes(self.labels.boxes, found.above(SCORE).detections, truth)

    def result(self) -> dict[str, Any]:
        """Task -> the worst frames, the worst first: name, and what is bad about it."""
        return {task: [{"image": frame.name, "why": frame.text} for frame in self.frames(task)] for task in self._heaps}

    @property
    def tasks(self) -> list[str]:
        """The tasks with at least one bad frame."""
        return list(self._heaps)

    def frames(self, task: str) -> list[Frame]:
        """The worst frames of a task, the worst first."""
        return sorted(self._heaps.get(task, []), reverse=True)

    def _is_among_the_worst(self, task: str, badness: float) -> bool:
        heap = self._heaps.get(task, [])
        return len(heap) < self.count or badness > heap[0].badness

    def _keep(self, task: str, badness: float, name: str, text: str, truth: np.ndarray, found: np.ndarray) -> None:
        picture = grid([caption(truth, f"truth: {name}"), caption(found, f"prediction: {text}")], 2)
        frame = Frame(badness, -self._seen, name, text, encode_image(picture, ".jpg", QUALITY))
        heap = self._heaps.setdefault(task, [])
        (heapq.heappush if len(heap) < self.count else heapq.heapreplace)(heap, frame)

    def _judge_map(self, head: str, predicted: np.ndarray, true: np.ndarray, truth: Truth) -> None:
        evaluation = MaskEvaluation(self.labels.masks[head], self.heads[head])
        evaluation.add(predicted, true)
        matrix = evaluation.confusion()
        pixels = matrix.sum(1)
        if pixels.sum() < MIN_LABELLED * true.size:
            return
        weighted = float((np.nan_to_num(iou_from_confusion(matrix)) * pixels).sum() / pixels.sum())
        if not self._is_among_the_worst(head, -weighted):
            return
        image = _shown(truth.image)
        colours = label_colours(self.labels.masks[head])
        wanted = blend(image, true, colours)
        answer = blend(image, predicted, {i: colour_of(name) for i, name in enumerate(self.heads[head])})
        legend = {self.labels.masks[head].names[label]: colour for label, colour in colours.items()}
        seen = np.unique(predicted).tolist()
        named = {self.heads[head][i]: colour_of(self.heads[head][i]) for i in seen}
        wanted = np.concatenate([wanted, legend_strip(legend, wanted.shape[1])])
        answer = np.concatenate([answer, legend_strip(named, answer.shape[1])])
        self._keep(head, -weighted, truth.sample.image.name, f"IoU {100 * weighted:.1f} %", wanted, answer)

    def _judge_boxes(self, labels: BoxLabels, found: Detections, truth: Truth) -> None:
        sample = truth.sample
        assert sample.boxes is not None
        false, missed = match(labels, self.box_names, found, sample.boxes, sample.categories, sample.ignore)
        if false.any():
            best = float(found.scores[false].max())
            text = f"{int(false.sum())} false, up to score {best:.2f}"
            self._keep_boxes("false boxes", best, text, labels, found, truth, false, missed)
        if missed.any():
            H, W = truth.image.shape[:2]
            shares = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1) / (H * W)
            most = float(shares[missed].max())
            text = f"{int(missed.sum())} missed, up to {100 * most:.1f} % of the frame"
            self._keep_boxes("missed boxes", most, text, labels, found, truth, false, missed)

    def _keep_boxes(
        self,
        task: str,
        badness: float,
        text: str,
        labels: BoxLabels,
        found: Detections,
        truth: Truth,
        false: np.ndarray,
        missed: np.ndarray,
    ) -> None:
        if not self._is_among_the_worst(task, badness):
            return
        sample, scale = truth.sample, WIDTH / truth.image.shape[1]
        assert sample.boxes is not None
        wanted, answer = _shown(truth.image), _shown(truth.image)
        own = box_colours(labels)
        grey = [rgb(0x8A939C)] * len(sample.ignore)
        colours: list[Colour] = [
            RED if gone else own[name] for gone, name in zip(missed, sample.categories, strict=True)
        ]
        texts = [f"missed {name}" if gone else name for gone, name in zip(missed, sample.categories, strict=True)]
        everything = np.concatenate([sample.boxes, sample.ignore]) * scale
        draw_boxes(wanted, everything, [*texts, *[""] * len(grey)], [*colours, *grey], OverlayStyle())
        names = [self.box_names[index] for index in found.classes.tolist()]
        tints = [RED if wrong else colour_of(name, BOX_COLOURS) for wrong, name in zip(false, names, strict=True)]
        marks = [
            f"{'false ' * wrong}{name} {score:.2f}"
            for name, score, wrong in zip(names, found.scores.tolist(), false.tolist(), strict=True)
        ]
        draw_boxes(answer, found.boxes * scale, marks, tints, OverlayStyle())
        self._keep(task, badness, sample.image.name, text, wanted, answer)


def match(
    labels: BoxLabels,
    box_names: Sequence[str],
    found: Detections,
    boxes: np.ndarray,
    categories: Sequence[str],
    ignore: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which found boxes are false, and which true ones (N, 4) xyxy are missed: two arrays of bool.

    As in COCO: by falling score, a box takes the free true box of its class that it overlaps most, at IoU 0.5 or more.
    A class fits a true box if it is in the set of its category. A second box on an object that is taken is not called
    false if it has another class than the first, nor is anything half inside `ignore` (M, 4).
    """
    fits = np.array([[name in labels.sets[category] for category in categories] for name in box_names], bool)
    fits = fits.reshape(len(box_names), len(categories))[found.classes]  # (found, N)
    overlap = iou(found.boxes, boxes) * fits if len(boxes) else np.zeros((len(found), 0))
    taken = np.full(len(boxes), -1)  # class that took the true box
    full = np.array([name in labels.exhaustive for name in box_names], bool)
    false = full[found.classes] & (_inside(found.boxes, ignore) < 0.5)
    for index in np.argsort(-found.scores, kind="stable").tolist():
        near = np.flatnonzero(overlap[index] >= MATCH_IOU)
        free = near[taken[near] < 0]
        if len(free):
            taken[free[overlap[index, free].argmax()]] = found.classes[index]
            false[index] = False
        elif (taken[near] != found.classes[index]).any():
            false[index] = False
    return false, taken < 0


def _inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) xyxy -> (N,) the greatest share of each box that lies in one region."""
    if not len(boxes) or not len(regions):
        return np.zeros(len(boxes))
    sides = np.minimum(boxes[:, None, 2:], regions[None, :, 2:]) - np.maximum(boxes[:, None, :2], regions[None, :, :2])
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    return np.asarray((sides.clip(0).prod(2) / areas[:, None]).max(1))


def _shown(image: np.ndarray) -> np.ndarray:
    """The image at the width of the pictures, a copy."""
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    shrinks = image.shape[1] > WIDTH
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.array(cv2.resize(image, (WIDTH, height), interpolation=interpolation))
