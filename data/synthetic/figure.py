"""Jointed figures: convex parts, each the hull of a few balls, and how they are painted.

Figure space: x right, y up, z to the front, origin on the ground; metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.synthetic.camera import NEAR_M, View
from data.synthetic.canvas import Canvas
from data.synthetic.light import Look

__all__ = ["COARSE_PX_M", "Ball", "Figure", "Part", "Point", "draw_figure", "make_figure"]

ANGLES = np.linspace(0, 2 * np.pi, 9)[:-1]
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)
SLIM = np.array([0.45, 0.86], np.float32)  # of a part's lit side against the part
COARSE_PX_M = 22  # under so many pixels a metre fine parts are left out
SHADED_PX_M = 40  # and over so many there is a lit side
Point = tuple[float, float, float]
Ball = tuple[float, float, float, float]  # x, y, z, radius


@dataclass(frozen=True)
class Part:
    """A convex part: the hull of its balls."""

    balls: tuple[Ball, ...]
    colour: Point  # BGR
    shade: float = 1.0
    ring: bool = False  # a wheel: drawn as a ring, owned as a disc
    fine: bool = False  # left out when far away


@dataclass(frozen=True)
class Figure:
    """P parts as arrays over all their B balls, in painting order; `coarse` is the same without the fine parts."""

    balls: np.ndarray  # (B, 4) float32
    stops: tuple[int, ...]  # P ends in `balls`
    colours: np.ndarray  # (P, 3) float32 BGR
    rings: tuple[bool, ...]
    coarse: Figure | None = None


def make_figure(parts: list[Part]) -> Figure:
    """Parts in painting order -> figure."""
    kept = [part for part in parts if not part.fine]
    return Figure(
        np.array([ball for part in parts for ball in part.balls], np.float32),
        tuple(np.cumsum([len(part.balls) for part in parts]).tolist()),
        np.array([[value * part.shade for value in part.colour] for part in parts], np.float32),
        tuple(part.ring for part in parts),
        make_figure(kept) if len(kept) < len(parts) else None,
    )


def draw_figure(
    canvas: Canvas,
    view: View,
    look: Look,
    figure: Figure,
    place: tuple[float, float, float, float],
    yaw: float,
    owner: int,
) -> tuple[float, float, float, float]:
    """Paint a figure standing at `place` (View.place), turned by `yaw`; returns its box."""
    x, y, z, theta = place
    c, s = float(np.cos(theta + yaw)), float(np.sin(theta + yaw))
    scale = view.f / z  # pixels per metre
    if scale < COARSE_PX_M and figure.coarse:
        figure = figure.coarse
    balls = figure.balls
    grow = view.f / np.maximum(balls[:, 2] * c - balls[:, 0] * s + z, NEAR_M)  # (B,)
    centre = np.empty((len(balls), 2), np.float32)
    centre[:, 0] = view.cx + (balls[:, 0] * c + balls[:, 2] * s + x) * grow
    centre[:, 1] = view.cy + (view.height_m - y - balls[:, 1]) * grow
    radius = balls[:, 3] * grow
    outline = centre[:, None] + radius[:, None, None] * CIRCLE  # (B, 8, 2)
    low, high = outline.min((0, 1)), outline.max((0, 1))
    fixed = canvas.fixed(outline)
    colours = look.mix(figure.colours, look.light_at(x, z, 0.55), z).tolist()
    bright = 8 * float(np.sign(look.sun_dir[0])) if scale > SHADED_PX_M else 0.0
    start = 0
    for stop, colour, is_ring in zip(figure.stops, colours, figure.rings, strict=True):
        hull = fixed[start] if stop - start == 1 else cv2.convexHull(fixed[start:stop].reshape(-1, 2))[:, 0]
        if is_ring:
            canvas.line(centre[start:stop], colour, 2 * float(radius[start]), closed=True)
            canvas.own_fixed(hull, owner)
        else:
            canvas.polygon_fixed(hull, colour, owner)
            if bright:
                middle = hull.mean(0)
                lit = middle + (hull - middle) * SLIM + (bright * float(radius[start]), 0.0)
                canvas.polygon_fixed(lit.astype(np.int32), [min(value * 1.2 + 4, 255) for value in colour])
        start = stop
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
