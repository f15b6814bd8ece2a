"""Classes to colours: the one palette, class maps as pictures, and a legend. All colours are BGR."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from perception.labels import IGNORE

__all__ = ["BOX_COLOURS", "MAP_COLOURS", "Colour", "colour_map", "colour_of", "legend", "rgb"]

Colour = tuple[int, int, int]  # B, G, R


def rgb(code: int) -> Colour:
    """0xRRGGBB, as colours are written everywhere else -> BGR."""
    return code & 255, code >> 8 & 255, code >> 16


BOX_COLOURS: dict[str, Colour] = {  # bright enough for a night drive, and apart from each other
    "car": rgb(0x4FC3F7), "truck": rgb(0x7C9CFF), "bus": rgb(0xB388FF), "train": rgb(0xD7A6FF),
    "pedestrian": rgb(0xFF6B6B), "person": rgb(0xFF6B6B), "rider": rgb(0xFF8FA3),
    "motorcycle": rgb(0xFF9F43), "bicycle": rgb(0xFFC36B),
    "traffic light": rgb(0xFFE066), "traffic sign": rgb(0xF2F27A),
}  # fmt: skip
MAP_COLOURS: dict[str, Colour] = {  # as Cityscapes paints its classes, and ours of the drive head
    "road": rgb(0x804080), "sidewalk": rgb(0xF423E8), "building": rgb(0x464646), "wall": rgb(0x66669C),
    "fence": rgb(0xBE9999), "pole": rgb(0x999999), "traffic light": rgb(0xFAAA1E), "traffic sign": rgb(0xDCDC00),
    "vegetation": rgb(0x6B8E23), "terrain": rgb(0x98FB98), "sky": rgb(0x4682B4), "person": rgb(0xDC143C),
    "rider": rgb(0xFF0000), "car": rgb(0x00008E), "truck": rgb(0x000046), "bus": rgb(0x003C64),
    "train": rgb(0x005064), "motorcycle": rgb(0x0000E6), "bicycle": rgb(0x770B20),
    "lane marking": rgb(0xFFFFFF), "drivable": rgb(0x1FE0B4), "background": rgb(0x1E2226),
}  # fmt: skip


def colour_of(name: str, palette: Mapping[str, Colour] = MAP_COLOURS) -> Colour:
    """BGR of a class; a name that the palette lacks has a colour made from the name, the same in every run."""
    if name in palette:
        return palette[name]
    hue = zlib.crc32(name.encode()) % 180
    b, g, r = cv2.cvtColor(np.array([[[hue, 150, 235]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return b, g, r


def colour_map(class_map: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(H, W) uint8 of class ids -> (H, W, 3) uint8 BGR; ids without a name (255 = not labelled) are black."""
    if class_map.ndim != 2 or class_map.dtype != np.uint8:
        raise ValueError(f"expected a class map (H, W) uint8, but got {class_map.shape} {class_map.dtype}")
    table = np.zeros((256, 1, 3), np.uint8)
    for i, name in enumerate(names[:IGNORE]):
        table[i, 0] = colour_of(name)
    return np.asarray(cv2.applyColorMap(np.ascontiguousarray(class_map), table), np.uint8)


def legend(names: Sequence[str], palette: Mapping[str, Colour] = MAP_COLOURS, row_px: int = 24) -> np.ndarray:
    """One row for each class, a patch and the name: (row_px * len(names), W, 3) uint8 BGR, for pictures in docs."""
    scale = row_px / 48
    width = max((cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for name in names), default=0)
    image = np.full((row_px * max(len(names), 1), width + 2 * row_px, 3), (26, 22, 18), np.uint8)
    for i, name in enumerate(names):
        top, pad = i * row_px, row_px // 5
        image[top + pad : top + row_px - pad, pad:row_px] = colour_of(name, palette)
        cv2.putText(
            image,
            name,
            (row_px + 2 * pad, top + row_px * 2 // 3),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return image
