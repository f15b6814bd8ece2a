"""Test-time augmentation: one frame, seen several times in slightly different ways, and one answer from all of them.

A view is a window on the frame, mirrored or not, that goes through the one preprocessing like any frame. Scale 1 is the
frame itself. A window larger than the frame (scale below 1) shows it smaller, with more of the grey border. Four
windows smaller than the frame (scale above 1), one in each corner, show it larger. So the network's input keeps its
size, to which its position embedding belongs.

Class maps: the probabilities of every view, brought back to the model's pixels of the plain view, are averaged; then
the best class is taken. It can not be had from the class maps of an ONNX file.

Boxes: those of different views that overlap by more than SAME_IOU are one object. Its corners are their mean, weighted
by score (weighted boxes fusion, arXiv:1910.13302). Its score is the sum over the views, each with its best box of that
object, divided by their number, so that one that only some of them see scores less. A box that is cut by the edge of a
corner window is left out of that window.

Legend: h, w = model pixels; C = classes of a head; V = views; N = boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from perception.engine import Metadata
from perception.evaluation.boxes import iou_matrix
from perception.model import Model, detections_from_boxes
from perception.structures import Detections, Letterbox, Result
from perception.tensors import PAD_VALUE, letterbox_for, mask_frame_from_model, tensor_from_frame

__all__ = ["ProbableEngine", "ProbableModel", "ProbableResult", "View", "parse_views"]

SAME_IOU = 0.6  # as in the network's own suppression, perception/network/boxes.py
CUT_PX = 2.0  # model pixels: a box that comes this close to an inner edge of a window is taken for cut


class ProbableEngine(Protocol):
    """An engine that knows probabilities: TorchEngine of a run directory."""

    @property
    def metadata(self) -> Metadata: ...

    @property
    def input_hw(self) -> tuple[int, int]: ...

    def run(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]: ...

    def probabilities(self, tensor: np.ndarray) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
        """(1, h, w, 3) uint8 RGB -> the outputs of `run`, and each head's (1, C, h, w) float32."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ProbableResult(Result):
    """A Result that also says how sure it is of its class maps."""

    probabilities: Mapping[str, np.ndarray] | None = None  # head -> (C, h, w) float32, model pixels
    letterbox: Letterbox | None = None  # that leads from model pixels to the frame


@dataclass(frozen=True, slots=True)
class View:
    """One way to see a frame: its scale, and whether it is mirrored."""

    scale: float = 1.0
    flip: bool = False

    def windows(self, hw: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """x1, y1, x2, y2 in pixels of the frame of each window; beyond the frame is grey."""
        h, w = hw
        window_h, window_w = math.ceil(h / self.scale), math.ceil(w / self.scale)
        if self.scale <= 1:
            x1, y1 = (w - window_w) // 2, (h - window_h) // 2
            return [(x1, y1, x1 + window_w, y1 + window_h)]
        corners = [(x, y) for y in (0, h - window_h) for x in (0, w - window_w)]
        return [(x, y, x + window_w, y + window_h) for x, y in corners]


def parse_views(text: str) -> tuple[View, ...]:
    """ "flip,0.75" -> the plain view, the view of scale 0.75, and both of them mirrored; "" -> the plain view.

    Raises ValueError for any other word, and for scales outside 0.5 to 2, whose four windows would leave gaps.
    """
    scales, flips = [1.0], [False]
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == "flip":
            flips = [False, True]
            continue
        try:
            scale = float(word)
        except ValueError:
            raise ValueError(f"--tta takes flip and scales, such as flip,0.75,1.25, but got {word!r}") from None
        if not 0.5 <= scale <= 2:
            raise ValueError(f"--tta takes scales from 0.5 to 2, but got {word}")
        if scale not in scales:
            scales.append(scale)
    return tuple(View(scale, flip) for flip in flips for scale in scales)


class ProbableModel(Model):
    """A Model whose Result knows probabilities, from one view or from several."""

    def __init__(self, engine: ProbableEngine, score_threshold: float, views: Sequence[View] = (View(),)) -> None:
        super().__init__(engine, score_threshold)
        self.probable, self.views = engine, tuple(views)

    def __call__(self, frame_bgr: np.ndarray) -> ProbableResult:
        """(H, W, 3) uint8 BGR -> ProbableResult in frame pixels."""
        if self.views == (View(),):
            tensor, letterbox = tensor_from_frame(frame_bgr, self.engine.input_hw)
            outputs, maps = self.probable.probabilities(tensor[None])
            plain = self.result(outputs, letterbox)
            averages = {head: probabilities[0] for head, probabilities in maps.items()}
            return ProbableResult(
                plain.detections, plain.class_maps, plain.box_names, plain.map_names, averages, letterbox
            )
        hw = (frame_bgr.shape[0], frame_bgr.shape[1])
        home, metadata = letterbox_for(hw, self.engine.input_hw), self.engine.metadata
        totals = {head: np.zeros((len(names), *home.model_hw), np.float32) for head, names in metadata.heads.items()}
        weight = np.zeros(home.model_hw, np.float32)
        found = []
        for view in self.views:
            boxes = []
            for window in view.windows(hw):
                tensor, letterbox = tensor_from_frame(seen(frame_bgr, window, view.flip), self.engine.input_hw)
                outputs, maps = self.probable.probabilities(tensor[None])
                if metadata.box_names:
                    part = detections_from_boxes(outputs["boxes"][0], letterbox, self.score_threshold)
                    boxes.append(brought_back(part, window, hw, view.flip, CUT_PX / min(letterbox.scale_xy)))
                matrix, inside = view_from_home(home, letterbox, window, view.flip), content(letterbox)
                weight += warped(inside, matrix)
                for head, probabilities in maps.items():
                    for total, plane in zip(totals[head], probabilities[0], strict=True):
                        total += warped(plane * inside, matrix)
            found.append(suppressed(joined(boxes)))
        averages = {head: total / np.maximum(weight, 1e-6) for head, total in totals.items()}
        classes = {head: average.argmax(0).astype(np.uint8) for head, average in averages.items()}
        class_maps = {head: mask_frame_from_model(ids, home) for head, ids in classes.items()}
        return ProbableResult(fused(found), class_maps, metadata.box_names, metadata.heads, averages, home)


def seen(frame: np.ndarray, window: tuple[int, int, int, int], flip: bool) -> np.ndarray:
    """(H, W, 3) -> the window's pixels, grey where it leaves the frame, mirrored if asked."""
    (h, w), (x1, y1, x2, y2) = frame.shape[:2], window
    top, left, bottom, right = max(0, -y1), max(0, -x1), max(0, y2 - h), max(0, x2 - w)
    part = frame[max(0, y1) : y2, max(0, x1) : x2]
    if top or left or bottom or right:
        part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(PAD_VALUE,) * 3)
    return np.ascontiguousarray(part[:, ::-1]) if flip else part


def view_from_home(home: Letterbox, view: Letterbox, window: tuple[int, int, int, int], flip: bool) -> np.ndarray:
    """(2, 3): pixel centres of the plain view's model pixels -> those of another view's."""
    rows = []
    for axis, (home_offset, view_offset) in enumerate(((home.left, view.left), (home.top, view.top))):
        scale, shift = 1 / home.scale_xy[axis], -home_offset / home.scale_xy[axis] - window[axis]  # -> window pixels
        if flip and axis == 0:
            scale, shift = -scale, view.frame_hw[1] - shift
        scale, shift = scale * view.scale_xy[axis], shift * view.scale_xy[axis] + view_offset
        rows.append((scale, shift + 0.5 * scale - 0.5))  # edges -> centres
    (scale_x, shift_x), (scale_y, shift_y) = rows
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]], np.float64)


def content(letterbox: Letterbox) -> np.ndarray:
    """(h, w) float32: 1 where the letterbox shows its image, 0 in the border."""
    (h, w), inside = letterbox.content_hw, np.zeros(letterbox.model_hw, np.float32)
    inside[letterbox.top : letterbox.top + h, letterbox.left : letterbox.left + w] = 1
    return inside


def warped(plane: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(h, w) float32 of a view -> (h, w) float32 in the pixels of the plain view, 0 where it sees nothing."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(plane, matrix, plane.shape[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT)


def brought_back(
    found: Detections, window: tuple[int, int, int, int], hw: tuple[int, int], flip: bool, margin: float
) -> Detections:
    """Boxes in a window's pixels -> in the frame's, without those within `margin` pixels of an inner edge."""
    (h, w), (x1, y1, x2, y2) = hw, window
    boxes = found.boxes.copy()
    if flip:
        boxes[:, [0, 2]] = (x2 - x1) - boxes[:, [2, 0]]
    boxes += np.array([x1, y1, x1, y1], np.float32)
    cut = (boxes[:, 0] < x1 + margin) & (x1 > 0) | (boxes[:, 2] > x2 - margin) & (x2 < w)
    cut |= (boxes[:, 1] < y1 + margin) & (y1 > 0) | (boxes[:, 3] > y2 - margin) & (y2 < h)
    boxes = np.clip(boxes, 0, np.array([w, h, w, h], np.float32))
    keep = ~cut & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Detections(boxes[keep], found.scores[keep], found.classes[keep])


def joined(parts: Sequence[Detections]) -> Detections:
    """All of them, by falling score."""
    if not parts:
        return Detections.empty()
    boxes, scores, classes = (np.concatenate([getattr(p, f) for p in parts]) for f in ("boxes", "scores", "classes"))
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], classes[order])


def suppressed(found: Detections) -> Detections:
    """By falling score -> without those that overlap a better one by more than SAME_IOU, whatever their classes."""
    keep = np.ones(len(found), bool)
    again = iou_matrix(found.boxes, found.boxes) > SAME_IOU
    for index in range(len(found)):
        if keep[index]:
            keep[index + 1 :] &= ~again[index, index + 1 :]
    return found[keep]


def fused(views: Sequence[Detections]) -> Detections:
    """The boxes of V views, each without duplicates, in frame pixels -> one set of boxes, by falling score."""
    every = joined(views)
    owner = np.concatenate([np.full(len(view), index) for index, view in enumerate(views)])
    owner = owner[np.argsort(-np.concatenate([view.scores for view in views]), kind="stable")]
    same, left = iou_matrix(every.boxes, every.boxes) > SAME_IOU, np.ones(len(every), bool)
    boxes, scores, classes = [], [], []
    for seed in range(len(every)):
        if left[seed]:
            group = np.flatnonzero((same[seed] & left) | (np.arange(len(every)) == seed))
            left[group] = False
            group = group[np.unique(owner[group], return_index=True)[1]]  # the best of each view
            weights = every.scores[group]
            boxes.append((every.boxes[group] * weights[:, None]).sum(0) / weights.sum())
            scores.append(weights.sum() / len(views))
            classes.append(every.classes[seed])
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.array(classes, np.int64)[order],
    )
