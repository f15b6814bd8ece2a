"""Frames -> an endless, reproducible stream of views: a part of a frame, maybe mirrored, in the model's size.

Which view comes n-th is a pure function of the seed and n, as in training. A view knows where it lies in its frame, so
that what was computed once for the whole frame (a teacher's features) can be cut out to match it.

Legend: B = batch, h, w = height and width of the model's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perception.tensors import tensor_from_frame
from perception.training.dataset import one_thread
from perception.training.decode import read_frame
from perception.training.order import shuffled
from perception.training.policy import load_policy, photometric

__all__ = ["ViewConfig", "ViewStream", "Views", "batches", "stretched"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """How a view is cut out of a frame and changed."""

    area: tuple[float, float] = (0.3, 1.0)  # share that it keeps of the largest part with the model's aspect ratio
    stretch: float = 1.2  # largest change of the aspect ratio
    flip: float = 0.5  # share that is mirrored: no labels, so no traffic rule is broken
    magnitude: float = 0.3  # of the photometric policy driving-1, 0..1; 0 = the frame's own colours

    def __post_init__(self) -> None:
        low, high = self.area
        if not (0 < low <= high <= 1 and self.stretch >= 1 and 0 <= self.flip <= 1 and 0 <= self.magnitude <= 1):
            raise ValueError(
                f"--views: expected area within 0..1, stretch from 1, flip and magnitude in 0..1, but got {self}"
            )


@dataclass(frozen=True, slots=True)
class Views:
    """B views as tensors."""

    image: Tensor  # (B, h, w, 3) uint8 RGB
    frame: Tensor  # (B,) int64, number of the frame in the collection
    place: Tensor  # (B, 4) float32, left, top, right, bottom in its frame, as shares; left > right: mirrored

    def to(self, device: torch.device) -> Views:
        """The same on another device."""
        return Views(self.image.to(device), self.frame.to(device), self.place.to(device))


class ViewStream(Dataset[tuple[np.ndarray, int, tuple[float, float, float, float]]]):
    """The n-th view of a run: every frame comes once before any comes again."""

    def __init__(self, files: list[Path], hw: tuple[int, int], config: ViewConfig, total: int, seed: int) -> None:
        self.files, self.hw, self.config, self.total, self.seed = files, hw, config, total, seed
        self.colours = photometric(load_policy("driving-1"), config.magnitude) if config.magnitude else None

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, n: int) -> tuple[np.ndarray, int, tuple[float, float, float, float]]:
        epoch, position = divmod(n, len(self.files))
        number = shuffled(position, len(self.files), self.seed, epoch)
        rng = np.random.default_rng([self.seed, n])
        aspect = self.hw[1] / self.hw[0]
        spread = (aspect / self.config.stretch, aspect * self.config.stretch)
        image, _ = read_frame(self.files[number], self.hw, self.config.area[0] / 2, spread)
        left, top, right, bottom = place_of(rng, (image.shape[0], image.shape[1]), self.hw, self.config)
        view = stretched(image[top:bottom, left:right], self.hw)
        x1, x2 = left / image.shape[1], right / image.shape[1]
        if rng.random() < self.config.flip:
            view, x1, x2 = np.ascontiguousarray(view[:, ::-1]), x2, x1
        if self.colours is not None:
            self.colours.set_random_seed(int(rng.integers(2**31)))
            view = self.colours(image=view)["image"]
        return view, number, (x1, top / image.shape[0], x2, bottom / image.shape[0])


def place_of(
    rng: np.random.Generator, frame_hw: tuple[int, int], hw: tuple[int, int], config: ViewConfig
) -> tuple[int, int, int, int]:
    """left, top, right, bottom in frame pixels of a random part with about the aspect ratio of `hw`."""
    height, width = frame_hw
    stretch = math.exp(rng.uniform(-1, 1) * math.log(config.stretch))
    aspect = hw[1] / hw[0] * stretch
    side = math.sqrt(rng.uniform(*config.area))
    w = max(1, round(side * min(width, height * aspect)))
    h = max(1, min(height, round(w / aspect)))
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return left, top, left + w, top + h


def stretched(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (h, w, 3) uint8 RGB without a border: the aspect ratio gives way."""
    shrinks = image.shape[1] > hw[1] or image.shape[0] > hw[0]
    image = cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return tensor_from_frame(image, hw)[0]


def collate(items: list[tuple[np.ndarray, int, tuple[float, float, float, float]]]) -> Views:
    """Single views -> Views."""
    images, frames, places = zip(*items, strict=True)
    return Views(torch.from_numpy(np.stack(images)), torch.tensor(frames), torch.tensor(places, dtype=torch.float32))


def batches(stream: ViewStream, batch_size: int, start_step: int, workers: int) -> DataLoader[Views]:
    """The batches of a run from `start_step` on."""
    return DataLoader(
        stream,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=range(start_step * batch_size, len(stream)),
        num_workers=workers,
        drop_last=True,
        collate_fn=collate,
        worker_init_fn=one_thread,
    )
