"""Four samples of one data set -> one: a mosaic (YOLOv4, arXiv:2004.10934), with small things in new surroundings.

The pieces are finished samples in model pixels. Each is shrunk by a factor of its own, and a window of it as large as
its quarter is shown, so that nothing is stretched and no gap has to be filled. All four come from the same data set,
because masks hold its own label ids and its box sets say which classes it annotates.

Legend: h, w = model pixels, n = boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from perception.labels import IGNORE
from perception.layout import Sample
from perception.training.augment import too_little, visible_share
from perception.training.batch import Example

__all__ = ["combine", "one_or_mosaic"]

CENTRE = (0.35, 0.65)  # where the four meet, as a share of height and width


def one_or_mosaic(
    example: Callable[[Sample, int], Example], sample: Sample, others: Sequence[Sample], share: float, seed: int
) -> Example:
    """`example` of the sample, or in a `share` of cases the mosaic of it and three others; `seed` decides all."""
    rng = np.random.default_rng([seed, 4])
    if share <= 0 or rng.random() >= share:
        return example(sample, seed)
    drawn = [sample, *(others[int(i)] for i in rng.integers(len(others), size=3))]
    pieces = [example(one, (seed + 7919 * k) % 2**31) for k, one in enumerate(drawn)]
    return combine([pieces[int(i)] for i in rng.permutation(4)], rng)


def combine(pieces: Sequence[Example], rng: np.random.Generator) -> Example:
    """Four examples (top left, top right, bottom left, bottom right) -> their mosaic.

    Boxes of which too little is left become ignore regions. A quarter that is not annotated for boxes, while another
    is, is one ignore region; a quarter without a head's mask is IGNORE there.
    """
    assert len(pieces) == 4 and len({piece.dataset for piece in pieces}) == 1
    h, w = pieces[0].image.shape[:2]
    cy, cx = round(h * rng.uniform(*CENTRE)), round(w * rng.uniform(*CENTRE))
    heads = sorted({head for piece in pieces for head in piece.masks})
    image = np.empty((h, w, 3), np.uint8)
    masks = {head: np.full((h, w), IGNORE, np.uint8) for head in heads}
    annotated = [piece for piece in pieces if len(piece.exhaustive)]
    boxes, members, ignore = [], [], []
    quarters = ((0, 0, cx, cy), (cx, 0, w, cy), (0, cy, cx, h), (cx, cy, w, h))
    for piece, quarter in zip(pieces, quarters, strict=True):
        x1, y1, x2, y2 = quarter
        window = draw_window((h, w), (y2 - y1, x2 - x1), rng)
        image[y1:y2, x1:x2] = window.of(piece.image, cv2.INTER_AREA)
        for head, mask in piece.masks.items():
            masks[head][y1:y2, x1:x2] = window.of(mask, cv2.INTER_NEAREST_EXACT)
        if annotated and not len(piece.exhaustive):
            ignore.append(np.array([quarter], np.float32))
            continue
        inside, share = window.of_boxes(piece.boxes)
        shift = np.array([x1, y1, x1, y1], np.float32)
        gone, small = share <= 0, too_little(inside, share)
        boxes.append(inside[~small] + shift)
        members.append(piece.members[~small])
        ignore.append(inside[small & ~gone] + shift)
        regions, share = window.of_boxes(piece.ignore)
        ignore.append(regions[share > 0] + shift)
    C = len(annotated[0].exhaustive) if annotated else 0
    return replace(
        pieces[0],
        image=image,
        boxes=joined(boxes, 4),
        members=joined([m for m in members if len(m)], C).astype(bool),
        ignore=joined(ignore, 4),
        exhaustive=annotated[0].exhaustive if annotated else pieces[0].exhaustive,
        masks=masks,
    )


def joined(parts: list[np.ndarray], columns: int) -> np.ndarray:
    """Arrays (n, columns) one after another; (0, columns) for none."""
    return np.concatenate([np.zeros((0, columns), np.float32), *parts]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Window:
    """Part of an image (h, w): it is shrunk to `size_hw`, and the window begins there at (top, left)."""

    source_hw: tuple[int, int]
    size_hw: tuple[int, int]
    top: int
    left: int
    hw: tuple[int, int]

    def of(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        """What the window shows of an image or a mask."""
        height, width = self.size_hw
        small = cv2.resize(image, (width, height), interpolation=interpolation)
        return small[self.top : self.top + self.hw[0], self.left : self.left + self.hw[1]]

    def of_boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) float32 xyxy in the window's pixels, cut at its edges, and the share of each that it shows (n,)."""
        (h, w), (height, width) = self.source_hw, self.size_hw
        scaled = boxes * np.array([width / w, height / h] * 2, np.float32)
        x, y = self.left, self.top
        edges = (x, y, x + self.hw[1], y + self.hw[0])
        share = visible_share(scaled, edges)
        cut = np.clip(scaled, edges[:2] * 2, edges[2:] * 2) - np.array([x, y] * 2, np.float32)
        return cut.astype(np.float32), share


def draw_window(source_hw: tuple[int, int], hw: tuple[int, int], rng: np.random.Generator) -> Window:
    """A window of `hw` on an image that is shrunk no further than the window asks for."""
    (h, w), (height, width) = source_hw, hw
    scale = rng.uniform(max(height / h, width / w), 1.0)
    size = max(height, round(h * scale)), max(width, round(w * scale))
    top, left = (int(rng.integers(size[i] - hw[i] + 1)) for i in (0, 1))
    return Window(source_hw, size, top, left, hw)
