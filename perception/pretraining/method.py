"""What the methods of pretraining have in common: an encoder that is kept, and a loss on views without labels.

Legend: B = batch, D = width of the transformer, N = tokens, h, w = height and width of the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from perception.network.tokens import Tokens
from perception.pretraining.views import Views

__all__ = ["Method", "Picture", "as_image", "sheet"]

TITLE_PX = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """One row of what a method shows of itself: equally large images and what they are."""

    titles: tuple[str, ...]
    images: tuple[np.ndarray, ...]  # (h, w, 3) uint8 RGB each


class Method(nn.Module):
    """A way to learn from views. All its weights are trained and resumed; only those of `tokens` are its product."""

    tokens: Tokens

    def losses(self, views: Views, draw: torch.Generator) -> dict[str, Tensor]:
        """{name: scalar}: their sum is trained. What is random comes from `draw`, so a resumed run repeats it."""
        raise NotImplementedError

    def pictures(self, views: Views, draw: torch.Generator) -> list[Picture]:
        """What it makes of these views, one row each."""
        raise NotImplementedError


def as_image(values: Tensor) -> np.ndarray:
    """(3, h, w) or (h, w, 3) float in 0..255 -> (h, w, 3) uint8."""
    values = values.permute(1, 2, 0) if values.shape[0] == 3 and values.shape[-1] != 3 else values
    return values.detach().float().clamp(0, 255).round().to(torch.uint8).cpu().numpy()


def sheet(rows: list[Picture]) -> np.ndarray:
    """Rows of equally large images under their titles, (H, W, 3) uint8 RGB."""
    width = rows[0].images[0].shape[1]
    head = np.full((TITLE_PX, width * len(rows[0].titles), 3), 24, np.uint8)
    for column, title in enumerate(rows[0].titles):
        place = (column * width + 4, TITLE_PX - 4)
        cv2.putText(head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([head, *(np.concatenate(row.images, 1) for row in rows)])
