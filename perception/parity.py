"""Do two engines answer alike? Stages by their largest error, class maps by agreement, boxes by matching (numpy).

Legend: N = boxes of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Parity", "compare", "matched_share"]

STAGE_TOLERANCE = 2e-3  # largest error over the largest value; float32 sums in another order give about 1e-5
MAP_AGREEMENT = 0.999  # share of pixels with the same class
BOX_IOU = 0.99  # of each box with its partner
BOX_SCORE = 0.05  # boxes above this must have a partner, unless the K best end within the tolerance
SCORE_TOLERANCE = 0.01  # between a box and its partner
SHOWN_SCORE, SAME_OBJECT_IOU = 0.3, 0.8  # of `matched_share`: a box that would be shown, and one that is as good


@dataclass(frozen=True, slots=True)
class Parity:
    """The worst figures over all images."""

    stages: Mapping[str, float]  # float output -> largest |a - b| over the largest |a|
    maps: Mapping[str, float]  # class map -> share of pixels that agree, over all images
    boxes_iou: float  # smallest IoU of a box with its partner; 1 if there is no box, 0 if one has no partner
    boxes: int  # how many boxes were compared

    def require(self) -> None:
        """Raise ValueError that names the first stage, in the order of the data flow, that differs too much."""
        for name, error in self.stages.items():
            if not error <= STAGE_TOLERANCE:
                raise ValueError(
                    f"{name} differs from torch by {error:.2g} of its range; at most {STAGE_TOLERANCE} is allowed"
                )
        for name, share in self.maps.items():
            if not share > MAP_AGREEMENT:
                raise ValueError(
                    f"class map {name} agrees with torch on {share:.3%} of pixels; {MAP_AGREEMENT:.1%} is asked"
                )
        if not self.boxes_iou > BOX_IOU:
            raise ValueError(
                f"a box overlaps its partner in torch by IoU {self.boxes_iou:.3f}; over {BOX_IOU} is asked"
            )

    def with_final(self, final: Parity) -> Parity:
        """These stages, with the answers of the file as it is kept."""
        return replace(final, stages=self.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"stages": dict(self.stages), "maps": dict(self.maps), "boxes_iou": self.boxes_iou, "boxes": self.boxes}

    def __str__(self) -> str:
        lines = [f"  {name}: largest error {error:.1e} of its range" for name, error in self.stages.items()]
        lines += [f"  {name}: {share:.4%} of pixels agree" for name, share in self.maps.items()]
        return "\n".join([*lines, f"  boxes: {self.boxes} compared, smallest IoU {self.boxes_iou:.4f}"])


def compare(truth: Sequence[Mapping[str, np.ndarray]], other: Sequence[Mapping[str, np.ndarray]]) -> Parity:
    """Outputs of each image from two engines -> Parity. `boxes` are (1, K, 6), class maps uint8, the rest float."""
    stages: dict[str, float] = {}
    maps: dict[str, list[float]] = {}
    worst, count = 1.0, 0
    for a, b in zip(truth, other, strict=True):
        for name, value in a.items():
            if name == "boxes":
                iou, boxes = match(value[0], b[name][0])
                worst, count = min(worst, iou), count + boxes
            elif value.dtype == np.uint8:
                maps.setdefault(name, []).append(float((value == b[name]).mean()))
            else:
                error = float(np.abs(value - b[name]).max() / max(float(np.abs(value).max()), 1e-6))
                stages[name] = max(stages.get(name, 0.0), error) if np.isfinite(error) else float("inf")
    return Parity(stages, {name: float(np.mean(shares)) for name, shares in maps.items()}, worst, count)


def match(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """(N, 6) boxes of two engines -> smallest IoU of a box with its best partner of the same class, and how many.

    Boxes of either side need a partner: one that only `b` has is as wrong as one that it lacks. Those of `a` count.
    """
    lowest = max((float(boxes[:, 4].min()) for boxes in (a, b) if len(boxes)), default=0.0)  # the last of the K best
    least = max(BOX_SCORE, lowest + SCORE_TOLERANCE)
    worst = 1.0
    for ours, theirs in ((a, b), (b, a)):
        for box in ours[ours[:, 4] > least]:
            same = theirs[(theirs[:, 5] == box[5]) & (np.abs(theirs[:, 4] - box[4]) < SCORE_TOLERANCE)]
            worst = min(worst, float(overlaps(box, same).max(initial=0.0)))
    return worst, int((a[:, 4] > least).sum())


def matched_share(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """(N, 6) boxes of two engines that need not be equal -> share of boxes with a partner, and how many boxes.

    Boxes of either side over SHOWN_SCORE count; a partner has the same class, an IoU over SAME_OBJECT_IOU, and a score
    that is at most 0.1 lower than SHOWN_SCORE: being just below the threshold is no difference.
    """
    paired = count = 0
    for ours, theirs in ((a, b), (b, a)):
        for box in ours[ours[:, 4] > SHOWN_SCORE]:
            same = theirs[(theirs[:, 5] == box[5]) & (theirs[:, 4] > SHOWN_SCORE - 0.1)]
            paired += float(overlaps(box, same).max(initial=0.0)) > SAME_OBJECT_IOU
            count += 1
    return (paired / count if count else 1.0), count


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of one box with (N, 6) others -> (N,)."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:4], box[2:4])
    shared = (high - low).clip(min=0).prod(1)
    area = (others[:, 2:4] - others[:, :2]).prod(1) + (box[2:4] - box[:2]).prod() - shared
    return np.asarray(shared / np.maximum(area, 1e-9))
