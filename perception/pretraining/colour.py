"""Colourisation (Zhang, Isola and Efros 2016, arXiv:1603.08511): lightness in, a distribution over colours out.

A network that knows that skies are blue, trees green and brake lights red has learned what they look like without
colour. The plane of a and b (CIE Lab) is cut into squares of 10; the target is soft over the nearest squares, and rare
colours weigh more, since most of a street is grey.

Legend: B = batch, D = width of the transformer, N = tokens, Q = colours, k = cells along each side of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.imagefile import read_image
from perception.network.tokens import Tokens
from perception.pretraining.method import Method, Picture, as_image
from perception.pretraining.views import Views

__all__ = ["Colour", "ColourConfig", "gamut", "prior_of"]

SQUARE = 10.0  # side of a colour, in a and b
NEAREST = 5  # colours that share a cell's target
SIGMA = 5.0  # width of that share, in a and b
TEMPERATURE = 0.38  # of the mean that is shown: between the mean (grey) and the mode (patchy)
PRIOR_FRAMES = 500  # that colours are counted on


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourConfig:
    """How fine the colours are asked for, and how much rare ones weigh."""

    cells: int = 2  # along each side of a patch
    uniform: float = 0.5  # share of a uniform distribution in the prior that weights are the inverse of

    def __post_init__(self) -> None:
        if not 0 < self.uniform <= 1:
            raise ValueError(f"--colour.uniform must be above 0 and at most 1, but is {self.uniform:g}")


class Colour(Method):
    """Cross-entropy between the told and the true distribution of each cell's colour, weighted by its rarity."""

    colours: Tensor  # (Q, 2) a and b
    weights: Tensor  # (Q,)

    def __init__(self, tokens: Tokens, config: ColourConfig, files: list[Path]) -> None:
        super().__init__()
        if config.cells < 1 or tokens.stride % config.cells:
            raise ValueError(f"--colour.cells must divide the patch of {tokens.stride} pixels, but is {config.cells}")
        self.tokens, self.cells = tokens, config.cells
        colours = gamut()
        self.register_buffer("colours", torch.from_numpy(colours))
        prior = prior_of(files[:: max(1, len(files) // PRIOR_FRAMES)], colours)
        weights = 1.0 / ((1 - config.uniform) * prior + config.uniform / len(colours))
        self.register_buffer("weights", torch.from_numpy(weights / (weights * prior).sum()).float())  # mean 1
        self.head = nn.Linear(tokens.width, config.cells**2 * len(colours))

    def losses(self, views: Views, draw: torch.Generator) -> dict[str, Tensor]:
        grey, ab = self.split(views)
        logits = self.see(grey).float()  # (B, k h, k w, Q)
        near, share = self.target(ab)
        told = F.log_softmax(logits, -1).gather(-1, near)
        weight = self.weights[near[..., 0]]  # of the nearest colour
        return {"colour": -(weight * (share * told).sum(-1)).mean()}

    def see(self, grey: Tensor) -> Tensor:
        """(B, 3, H, W) grey in 0..255 -> (B, k h, k w, Q) logits of the colours of each cell."""
        h, w = self.tokens.grid_hw
        k = self.cells
        x = self.head(self.tokens(grey).flatten(2).transpose(1, 2))  # (B, N, k k Q)
        x = x.view(len(x), h, w, k, k, -1).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(len(x), h * k, w * k, -1)

    def split(self, views: Views) -> tuple[Tensor, Tensor]:
        """Lightness as a grey image (B, 3, H, W) in 0..255, and the mean a and b of each cell (B, k h, k w, 2)."""
        lab = np.stack([lab_of(image) for image in views.image.cpu().numpy()])
        lab_cells = torch.from_numpy(lab).permute(0, 3, 1, 2).to(views.image.device)  # (B, 3, H, W)
        grey = (lab_cells[:, :1] * 2.55).expand(-1, 3, -1, -1)
        ab = F.avg_pool2d(lab_cells[:, 1:], self.tokens.stride // self.cells)
        return grey, ab.permute(0, 2, 3, 1)

    def target(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """(B, y, x, 2) a and b -> the numbers of the nearest colours (B, y, x, 5) and the share of each."""
        distance, near = torch.cdist(ab.reshape(-1, 2), self.colours).topk(NEAREST, largest=False)
        share = torch.softmax(-(distance**2) / (2 * SIGMA**2), -1)
        return near.view(*ab.shape[:3], NEAREST), share.view(*ab.shape[:3], NEAREST)

    def pictures(self, views: Views, draw: torch.Generator) -> list[Picture]:
        grey, _ = self.split(views)
        told = torch.softmax(self.see(grey).float() / TEMPERATURE, -1) @ self.colours  # (B, y, x, 2)
        ab = F.interpolate(told.permute(0, 3, 1, 2), size=grey.shape[2:], mode="bilinear", align_corners=False)
        lab = torch.cat([grey[:, :1] / 2.55, ab], 1).permute(0, 2, 3, 1).cpu().numpy()
        rows = []
        for one, light, image in zip(lab, grey, views.image, strict=True):
            painted = cv2.cvtColor(np.ascontiguousarray(one, np.float32), cv2.COLOR_LAB2RGB)
            rows.append(
                Picture(
                    ("lightness", "colourised", "frame"),
                    (as_image(light), as_image(torch.from_numpy(255 * painted)), as_image(image.float())),
                )
            )
        return rows


def lab_of(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 3) float32 CIE Lab: L in 0..100, a and b in about -110..110."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def gamut() -> np.ndarray:
    """(Q, 2) float32: the middles of all squares of the ab plane that some RGB colour falls into."""
    steps = np.arange(0, 256, 5).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 1, 3)
    squares = np.round(lab_of(cube)[:, 0, 1:] / SQUARE)
    return (np.unique(squares, axis=0) * SQUARE).astype(np.float32)


def prior_of(files: list[Path], colours: np.ndarray) -> np.ndarray:
    """(Q,) how often each colour is the nearest one in these frames, as shares that add up to 1."""
    counts = np.zeros(len(colours))
    table = {tuple(square): number for number, square in enumerate(np.round(colours / SQUARE).astype(int).tolist())}
    for path in files:
        small = cv2.resize(read_image(path), (64, 48), interpolation=cv2.INTER_AREA)
        squares = np.round(lab_of(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))[..., 1:] / SQUARE).astype(int).reshape(-1, 2)
        unique, found = np.unique(squares, axis=0, return_counts=True)
        for square, count in zip(unique.tolist(), found.tolist(), strict=True):
            if (number := table.get(tuple(square))) is not None:
                counts[number] += count
    return counts / counts.sum()
