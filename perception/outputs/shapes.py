"""What the formats for viewers share: names of classes, and class maps small enough to be sent with every frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = ["MAP_WIDTH", "class_name", "small_map"]

MAP_WIDTH = 480  # pixels; the class maps come from a model about as wide


def class_name(names: Sequence[str], class_id: int) -> str:
    """The name of a class, or "class 7" where it has none."""
    return names[class_id] if 0 <= class_id < len(names) else f"class {class_id}"


def small_map(class_map: np.ndarray) -> np.ndarray:
    """(H, W) uint8 class ids -> a copy, (h, w) uint8 and at most MAP_WIDTH wide; every pixel keeps a true class."""
    height, width = class_map.shape
    w = min(width, MAP_WIDTH)
    h = max(1, round(height * w / width))
    if (h, w) == (height, width):
        return class_map.copy()
    return np.asarray(cv2.resize(class_map, (w, h), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
