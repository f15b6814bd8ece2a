"""One training sample, and several of them as the tensors of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.labels import IGNORE
from perception.training.losses import BoxTargets

__all__ = ["Batch", "Collate", "Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """One sample in model pixels."""

    dataset: int
    image: np.ndarray  # (h, w, 3) uint8 RGB
    boxes: np.ndarray  # (N, 4) float32 xyxy
    members: np.ndarray  # (N, C) bool
    ignore: np.ndarray  # (I, 4) float32 xyxy
    exhaustive: np.ndarray  # (C,) bool
    masks: dict[str, np.ndarray]  # head -> (h, w) uint8 label ids of the dataset


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples as tensors."""

    image: Tensor  # (B, h, w, 3) uint8 RGB
    boxes: BoxTargets
    masks: dict[str, Tensor]  # head -> (B, h, w) uint8 label ids
    dataset: Tensor  # (B,) index into Mixture.names


def collate(examples: list[Example], heads: tuple[str, ...], classes: int) -> Batch:
    """Examples -> a Batch: boxes are padded to the most in it (at least 1), missing masks are all IGNORE."""
    B = len(examples)
    most = max(1, *(len(e.boxes) for e in examples))
    most_ignored = max(len(e.ignore) for e in examples)
    boxes, ignore = torch.zeros(B, most, 4), torch.zeros(B, most_ignored, 4)
    members = torch.zeros(B, most, classes, dtype=torch.bool)
    exhaustive = torch.zeros(B, classes, dtype=torch.bool)
    for b, e in enumerate(examples):
        if len(e.boxes):
            boxes[b, : len(e.boxes)] = torch.from_numpy(e.boxes)
            members[b, : len(e.boxes)] = torch.from_numpy(e.members)
        if len(e.exhaustive):
            exhaustive[b] = torch.from_numpy(e.exhaustive)
        ignore[b, : len(e.ignore)] = torch.from_numpy(e.ignore)
    blank = np.full(examples[0].image.shape[:2], IGNORE, np.uint8)
    masks = {head: torch.from_numpy(np.stack([e.masks.get(head, blank) for e in examples])) for head in heads}
    image = torch.from_numpy(np.stack([e.image for e in examples]))
    dataset = torch.tensor([e.dataset for e in examples])
    return Batch(image, BoxTargets(boxes, members, exhaustive, ignore), masks, dataset)


@dataclass(frozen=True, slots=True)
class Collate:
    """`collate` with its settings, in a form that worker processes can be sent."""

    heads: tuple[str, ...]
    classes: int

    def __call__(self, examples: list[Example]) -> Batch:
        return collate(examples, self.heads, self.classes)
