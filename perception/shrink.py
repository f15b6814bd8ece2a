"""Pictures and class maps small enough to be sent with every frame."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["IMAGE_WIDTH", "MAP_WIDTH", "shrunk"]

IMAGE_WIDTH = 960  # pixels
MAP_WIDTH = 480  # the class maps come from a model about as wide


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> a copy at most IMAGE_WIDTH wide; (H, W) uint8 class ids -> one at most MAP_WIDTH wide.

    Every pixel of a class map keeps a true class. What is small enough stays as it is.
    """
    height, width = pixels.shape[:2]
    w = min(width, MAP_WIDTH if pixels.ndim == 2 else IMAGE_WIDTH)
    if w == width:
        return pixels.copy()
    how = cv2.INTER_NEAREST_EXACT if pixels.ndim == 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, (w, max(1, round(height * w / width))), interpolation=how), np.uint8)
