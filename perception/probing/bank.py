"""A labelled split -> the frozen features of its images and their labels, once, for every probe.

Legend: I = images, D = width of the transformer, h, w = its grid, s = label cells along each side of a patch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from perception.engine import Metadata
from perception.imagefile import read_ids, read_image
from perception.labels import IGNORE, MaskLabels
from perception.layout import read_layout
from perception.network.tokens import Tokens
from perception.tensors import mask_model_from_frame, tensor_from_frame

__all__ = ["CELLS", "Bank", "ProbeEngine", "fill_bank"]

CELLS = 4  # label cells along each side of a patch


@dataclass(frozen=True, slots=True)
class Bank:
    """Features and labels of I images."""

    features: Tensor  # (I, D, h, w) float32, standardised over the bank
    labels: Tensor  # (I, s h, s w) int64 class ids; IGNORE = none
    classes: tuple[str, ...]
    head: str  # the head's name
    mean: Tensor  # (D, 1, 1) of the features before they were standardised
    std: Tensor

    def standard(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> the same in the bank's scale."""
        return (features - self.mean) / self.std


def fill_bank(tokens: Tokens, folder: Path, hw: tuple[int, int], limit: int | None = None) -> Bank:
    """The train split of a dataset in its own label space, whole images letterboxed to `hw`.

    Raises ValueError if the dataset has no masks, or can't be read.
    """
    labels, samples = read_layout(folder, "train", own_space=True)
    if not labels.masks:
        raise ValueError(
            f"{folder} has no masks; the probes read segmentation; name a dataset such as data/camvid makes"
        )
    head, spec = next(iter(labels.masks.items()))
    samples = [sample for sample in samples if head in sample.masks][:limit]
    if not samples:
        raise ValueError(f"{folder}: no train image has a mask")
    table, (grid_h, grid_w) = class_of_label(spec), tokens.grid_hw
    features, targets = [], []
    for sample in tqdm(samples, "features", unit="image", leave=False, disable=not sys.stderr.isatty()):
        tensor, box = tensor_from_frame(read_image(sample.image), hw)
        mask = mask_model_from_frame(read_ids(sample.masks[head]), box, IGNORE)
        features.append(see(tokens, tensor[None])[0])
        cells = cv2.resize(mask, (CELLS * grid_w, CELLS * grid_h), interpolation=cv2.INTER_NEAREST_EXACT)  # middles
        targets.append(torch.from_numpy(table[cells].astype(np.int64)))
    stack = torch.stack(features)
    mean, std = stack.mean((0, 2, 3))[:, None, None], stack.std((0, 2, 3))[:, None, None] + 1e-6
    return Bank((stack - mean) / std, torch.stack(targets), spec.classes, head, mean, std)


def class_of_label(spec: MaskLabels) -> np.ndarray:
    """(256,) uint8: the class of each label id of a dataset in its own space; IGNORE = none."""
    table = spec.membership()
    return np.where(table.any(1), table.argmax(1), IGNORE).astype(np.uint8)


def see(tokens: Tokens, images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, D, h, w) float32."""
    with torch.inference_mode():
        out: Tensor = tokens(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    return out


class ProbeEngine:
    """A frozen transformer and what a probe reads from it, behind the interface of perception.engine.Engine."""

    provider = "torch"

    def __init__(self, tokens: Tokens, bank: Bank, hw: tuple[int, int], read: Callable[[Tensor], Tensor]) -> None:
        """`read`: (1, D, h, w) standardised features -> (1, H, W) class ids."""
        self.tokens, self.bank, self.input_hw, self.read = tokens, bank, hw, read
        self.metadata = Metadata(
            input_hw=hw, box_names=(), heads={bank.head: bank.classes}, config={}, revision="", data=(), step=0
        )

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(1, H, W, 3) uint8 RGB -> {head: (1, H, W) uint8}."""
        features = self.bank.standard(see(self.tokens, tensor))
        with torch.inference_mode():
            return {self.bank.head: self.read(features).to(torch.uint8).numpy()}
