"""Features -> class maps: one light segmentation head a task, and the argmax that the ONNX graph carries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.network.features import Separable

__all__ = ["MaskHead", "class_map", "class_probabilities"]


class MaskHead(nn.Sequential):
    """p4 (B, C, h, w) -> class logits (B, classes, h, w) at stride 4."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(Separable(width, width), nn.Conv2d(width, classes, 1))


def class_map(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    """Class logits (B, classes, h, w) -> (B, H, W) uint8, the best class of each pixel of the model's input."""
    full = F.interpolate(logits, size=hw, mode="bilinear", align_corners=False)
    return full.argmax(1).to(torch.uint8)


def class_probabilities(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    """Class logits (B, classes, h, w) -> (B, classes, H, W) that add up to 1; the best of them is `class_map`."""
    return F.interpolate(logits.float(), size=hw, mode="bilinear", align_corners=False).softmax(1)
