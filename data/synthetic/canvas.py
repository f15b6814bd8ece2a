"""What everything is painted on: the picture, and who owns each pixel. Painting goes from far to near.

Owners below 256 are scene class ids (perception.labels.SCENE_CLASSES); from 256 on they are objects with a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from perception.labels import IGNORE, SCENE_CLASSES

__all__ = ["FIRST_OBJECT", "SCENE", "SHIFT", "Canvas", "Seen", "Sprite", "make_sprite"]

SCENE = {name: index for index, name in enumerate(SCENE_CLASSES)} | {"ignore": IGNORE}
FIRST_OBJECT = 256
SHIFT = 4  # drawing works in 1/16 pixel


@dataclass
class Seen:
    """One object as it was painted."""

    track_id: int
    box_class: int
    scene_class: int
    box: tuple[float, float, float, float]  # xyxy, within the frame
    painted_px: int = 0  # pixels in the frame before nearer things came
    depth_m: float = math.nan  # forward, of the nearest ground that it stands on


@dataclass(frozen=True)
class Sprite:
    """A premultiplied BGRA picture at falling sizes, each half of the one before."""

    levels: tuple[np.ndarray, ...]


def make_sprite(bgra: np.ndarray) -> Sprite:
    """(h, w, 4) uint8 BGRA, not premultiplied -> sprite."""
    pixels = bgra.astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    levels = [np.clip(pixels + 0.5, 0, 255).astype(np.uint8)]
    while min(levels[-1].shape[:2]) > 4:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return Sprite(tuple(levels))


class Canvas:
    """An (H, W, 3) uint8 BGR picture and its (H, W) uint16 owners."""

    def __init__(self, hw: tuple[int, int]) -> None:
        self.hw = hw
        self.image = np.zeros((*hw, 3), np.uint8)
        self.owner = np.full(hw, SCENE["sky"], np.uint16)
        self.seen: list[Seen] = []
        self.behind_crest(hw[0])

    def behind_crest(self, row: int) -> None:
        """What is painted from now on stops at this row (a hill hides the rest)."""
        self._limit = row
        self._image, self._owner = self.image[:row], self.owner[:row]

    @staticmethod
    def fixed(points: np.ndarray) -> np.ndarray:
        """Pixels -> int32 in the drawing functions' fixed point."""
        return np.rint(points * (1 << SHIFT) - (1 << SHIFT) / 2).astype(np.int32)

    def polygon(self, points: np.ndarray, colour: Sequence[float], owner: int | None = None) -> None:
        """A convex polygon (N, 2) in pixels."""
        self.polygon_fixed(self.fixed(points), colour, owner)

    def polygon_fixed(self, points: np.ndarray, colour: Sequence[float], owner: int | None = None) -> None:
        """A convex polygon (N, 2) int32 in fixed point."""
        cv2.fillConvexPoly(self._image, points, colour, cv2.LINE_AA, SHIFT)
        if owner is not None:
            cv2.fillConvexPoly(self._owner, points, (owner,), cv2.LINE_8, SHIFT)

    def own_fixed(self, points: np.ndarray, owner: int) -> None:
        """A convex polygon (N, 2) int32 in fixed point, into the owners alone."""
        cv2.fillConvexPoly(self._owner, points, (owner,), cv2.LINE_8, SHIFT)

    def polygons(self, points: np.ndarray, colours: np.ndarray) -> None:
        """P convex polygons (P, N, 2) with their colours (P, 3), into the picture alone."""
        for polygon, colour in zip(self.fixed(points), colours.tolist(), strict=True):
            cv2.fillConvexPoly(self._image, polygon, colour, cv2.LINE_AA, SHIFT)

    def line(self, points: np.ndarray, colour: Sequence[float], width_px: float, closed: bool = False) -> None:
        """A polyline (N, 2) into the picture alone; thinner than a pixel it fades no further."""
        width = max(round(width_px), 1)
        cv2.polylines(self._image, [self.fixed(points)], closed, colour, width, cv2.LINE_AA, SHIFT)

    def window(self, x1: float, y1: float, x2: float, y2: float) -> tuple[int, int, int, int] | None:
        """The whole pixels of the canvas that a rectangle touches, or None."""
        left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
        right, bottom = min(int(np.ceil(x2)), self.hw[1]), min(int(np.ceil(y2)), self._limit)
        return (left, top, right, bottom) if right > left and bottom > top else None

    def blit(
        self, sprite: Sprite, box: Sequence[float], gain: np.ndarray, veil: np.ndarray, owner: int | None = None
    ) -> None:
        """Paint a sprite into the rectangle `box` (xyxy): pixels * gain (3,) + veil (3,)."""
        x1, y1, x2, y2 = box
        if (where := self.window(x1, y1, x2, y2)) is None or x2 - x1 < 0.3 or y2 - y1 < 0.3:
            return
        left, top, right, bottom = where
        index = 0
        while index + 1 < len(sprite.levels) and sprite.levels[index].shape[0] > 1.5 * (y2 - y1):
            index += 1
        pixels = sprite.levels[index]
        h, w = pixels.shape[:2]
        sx, sy = w / (x2 - x1), h / (y2 - y1)
        matrix = np.array([[sx, 0, (left + 0.5 - x1) * sx - 0.5], [0, sy, (top + 0.5 - y1) * sy - 0.5]], np.float32)
        patch = cv2.warpAffine(
            pixels, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        colour = np.zeros((3, 4), np.float32)
        colour[[0, 1, 2], [0, 1, 2]] = gain
        colour[:, 3] = veil / 255
        keep = cv2.transform(patch, np.array([[0, 0, 0, -1, 255]] * 3, np.float32))
        area = self.image[top:bottom, left:right]
        cv2.add(cv2.multiply(area, keep, scale=1 / 255), cv2.transform(patch, colour), dst=area)
        if owner is not None:
            np.copyto(self.owner[top:bottom, left:right], owner, where=patch[..., 3] > 110)

    def glow(self, u: float, v: float, radius_u: float, radius_v: float, colour: np.ndarray) -> None:
        """Add a soft light (3,) around a point."""
        if (where := self.window(u - radius_u, v - radius_v, u + radius_u, v + radius_v)) is None:
            return
        left, top, right, bottom = where
        su, sv = len(GLOW) / (2 * radius_u), len(GLOW) / (2 * radius_v)
        matrix = np.array(
            [[su, 0, (left + 0.5 - u + radius_u) * su - 0.5], [0, sv, (top + 0.5 - v + radius_v) * sv - 0.5]],
            np.float32,
        )
        patch = cv2.warpAffine(
            GLOW, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        area = self.image[top:bottom, left:right]
        cv2.add(area, cv2.transform(patch, (colour / 255).astype(np.float32).reshape(3, 1)), dst=area)

    def shade(self, corners: np.ndarray, strength: float) -> None:
        """Darken a soft-edged quadrilateral (4, 2), as a shadow on the ground."""
        lowest, highest = corners.min(0), corners.max(0)
        if (where := self.window(lowest[0], lowest[1], highest[0], highest[1])) is None:
            return
        left, top, right, bottom = where
        size = len(SHADOW)
        source = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners - (left, top)).astype(np.float32))
        dark = cv2.warpPerspective(SHADOW, matrix, (right - left, bottom - top))
        keep = cv2.transform(dark, np.array([[-strength, 255]] * 3, np.float32))
        area = self.image[top:bottom, left:right]
        cv2.multiply(area, keep, dst=area, scale=1 / 255)

    def begin(self, track_id: int, box_class: int, scene_class: int) -> int:
        """Announce an object; returns its owner number."""
        self.seen.append(Seen(track_id, box_class, scene_class, (0, 0, 0, 0)))
        return FIRST_OBJECT + len(self.seen) - 1

    def end(self, owner: int, box: tuple[float, float, float, float], depth_m: float = math.nan) -> None:
        """State the extent of the object's outline (xyxy), now that it is painted, and how far off it stands.

        What the frame or a hill cuts off does not count: the box is then that of the pixels.
        """
        seen = self.seen[owner - FIRST_OBJECT]
        seen.depth_m = depth_m
        if (where := self.window(box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)) is None:
            return
        left, top, right, bottom = where
        mine = (self.owner[top:bottom, left:right] == owner).view(np.uint8)
        seen.painted_px = cv2.countNonZero(mine)
        if box[0] < 0 or box[1] < 0 or box[2] > self.hw[1] or box[3] > self._limit:
            x, y, w, h = cv2.boundingRect(mine)
            x, y = x + left, y + top
            box = (max(x, box[0]), max(y, box[1]), min(x + w, box[2]), min(y + h, box[3]))
        seen.box = box


def _glow() -> np.ndarray:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    r = np.sqrt(x * x + y * y)
    light = 255 * (np.exp(-((r / 0.16) ** 2)) + 0.35 * np.clip(1 - r, 0, 1) ** 2.5)
    return np.asarray(np.minimum(light, 255), np.uint8)


def _shadow() -> np.ndarray:
    image = np.zeros((48, 48), np.uint8)
    image[7:-7, 7:-7] = 255
    return cv2.GaussianBlur(image, (0, 0), 3.2)


GLOW, SHADOW = _glow(), _shadow()
