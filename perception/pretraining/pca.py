"""Feature maps -> pictures: the three directions in which they vary most as red, green and blue (as DINOv2 shows them).

Legend: B = batch, C = channels, h, w = grid of the features, H, W = size of the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["pca_images"]


def pca_images(features: Tensor, hw: tuple[int, int]) -> list[np.ndarray]:
    """(B, C, h, w) -> B pictures (H, W, 3) uint8 RGB with one set of directions for all; `hw` = (H, W).

    Each direction is scaled so that 2 to 98 % of its values fill the range; its sign is that of its mean's skewness,
    so that two runs of the same features look the same.
    """
    B, C, h, w = features.shape
    rows = features.detach().float().permute(0, 2, 3, 1).reshape(-1, C).cpu()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T.double() @ rows.double())  # rising
    shown = rows @ vectors[:, -3:].flip(1).float()  # (B * h * w, 3)
    shown = shown * torch.sign(shown.pow(3).mean(0) + 1e-12)
    low, high = torch.quantile(shown[:: max(1, len(shown) // 100_000)], torch.tensor([0.02, 0.98]), dim=0)
    scaled = ((shown - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).reshape(B, h, w, 3)
    return [
        cv2.resize((255 * image.numpy()).astype(np.uint8), hw[::-1], interpolation=cv2.INTER_CUBIC) for image in scaled
    ]
