"""What a way to judge is, and what it is shown: the plan of a dataset, the truth of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from perception.labels import DatasetLabels
from perception.layout import Sample
from perception.structures import Result

__all__ = ["SCORE_THRESHOLD", "Measure", "Plan", "Truth"]

SCORE_THRESHOLD = 0.001  # AP wants the whole curve, down to the boxes that hardly anyone believes in


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be judged on one dataset."""

    labels: DatasetLabels
    samples: list[Sample]
    boxes: bool
    heads: tuple[str, ...]
    missing: tuple[str, ...]  # tasks that the dataset has and the model lacks


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is annotated on one image."""

    sample: Sample
    image: np.ndarray  # (H, W, 3) uint8 BGR
    masks: Mapping[str, np.ndarray]  # head -> (H, W) uint8 label ids of the dataset, of the heads that are judged


class Measure(Protocol):
    """One way to judge."""

    def add(self, found: Result, truth: Truth) -> None:
        """One image. `found` has every box that scores at least SCORE_THRESHOLD."""
        ...

    def result(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        ...
