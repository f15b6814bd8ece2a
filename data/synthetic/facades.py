"""Buildings, walls and fences: textured upright faces along the road."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from data.synthetic.camera import NEAR_M, View
from data.synthetic.canvas import SCENE, SHIFT, Canvas
from data.synthetic.dice import Dice
from data.synthetic.light import BEAM, Look

__all__ = ["Facade", "draw_face", "make_facade", "make_fence"]

WALLS = [(150, 175, 195), (110, 140, 175), (95, 115, 150), (165, 170, 172), (130, 135, 140), (190, 205, 212),
         (120, 150, 190), (85, 95, 120), (175, 180, 165), (140, 165, 205), (105, 110, 112)]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Facade:
    """A face's picture (rows from the top) at falling sizes, with its own light beside it."""

    levels: tuple[np.ndarray, ...]  # (h, w, 3) uint8 under white light
    glow: tuple[np.ndarray, ...]  # (h, w, 3) uint8 light of its own (windows at night); empty if none
    solid: tuple[np.ndarray, ...]  # (h, w) uint8, 0 where one sees through; empty if nowhere
    scene: int
    roof: tuple[float, float, float]


def _levels(image: np.ndarray) -> tuple[np.ndarray, ...]:
    levels = [image]
    while min(levels[-1].shape[:2]) >= 16:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


@lru_cache(maxsize=96)
def make_facade(seed: int, length_m: float, height_m: float, lights: float, shop: bool) -> Facade:
    """A house front with windows, sills, a door or shops, and at night some lit windows."""
    dice = Dice(seed, "facade")
    rng = dice.generator()
    px = min(16.0, 320 / max(length_m, height_m))
    h, w = max(int(height_m * px), 8), max(int(length_m * px), 8)
    wall = np.array(dice.choice(WALLS), np.float32) * dice.uniform(0.8, 1.1)
    image = wall + rng.normal(0, 4, (h, w, 1)).astype(np.float32) + np.zeros((h, w, 3), np.float32)
    stains = cv2.resize(rng.standard_normal((5, 9), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    image += stains[..., None] * 5
    if dice.chance(0.35):  # bricks
        image[:: max(int(px * 0.22), 2)] *= 0.9
    glow = np.zeros((h, w, 3), np.float32)
    storey, bay = dice.uniform(2.9, 3.5), dice.uniform(1.7, 3.2)
    floors, bays = max(int(height_m / storey), 1), max(int(length_m / bay), 1)
    ww, wh = bay * dice.uniform(0.4, 0.75), storey * dice.uniform(0.42, 0.62)
    ribbon = dice.chance(0.2)
    glass = np.array(dice.choice(((105, 85, 65), (70, 62, 55), (125, 110, 90), (60, 55, 52))), np.float32)
    frame = np.array(dice.choice(((225, 228, 230), (60, 60, 62), (90, 105, 130))), np.float32)
    for floor in range(floors):
        base = h - (floor + 0.32) * storey * px
        if floor and dice.chance(0.25):
            image[int(h - floor * storey * px) - 1 : int(h - floor * storey * px) + 1] *= 0.82
        for column in range(bays):
            cx = (column + 0.5) * w / bays
            half = w / bays * 0.5 if ribbon else ww * px / 2
            x1, x2, y1, y2 = int(cx - half), int(cx + half), int(base - wh * px), int(base)
            if floor == 0 and shop:
                x1, x2, y1, y2 = (
                    int(cx - w / bays * 0.44),
                    int(cx + w / bays * 0.44),
                    int(h - 2.6 * px),
                    int(h - 0.3 * px),
                )
            if y1 < 1 or x2 <= x1:
                continue
            image[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = frame
            tone = np.linspace(1.45, 0.75, max(y2 - y1, 1), dtype=np.float32)[:, None, None] * dice.uniform(0.8, 1.2)
            image[y1:y2, x1:x2] = glass * tone
            if x2 - x1 > 6 and not (floor == 0 and shop):
                image[y1:y2, (x1 + x2) // 2] = frame
            image[y2 + 1 : y2 + 2, max(x1 - 2, 0) : x2 + 2] = wall * 0.6
            if dice.chance((0.42 if floor or not shop else 0.95) * min(lights, 1)):
                warm = np.array(dice.choice(((120, 190, 235), (150, 205, 240), (190, 210, 225))), np.float32)
                glow[y1:y2, x1:x2] = warm * dice.uniform(0.35, 0.9) * np.clip(tone, 0.7, 1.2)
    if shop:
        sign = np.array([dice.uniform(40, 200), dice.uniform(40, 180), dice.uniform(40, 200)], np.float32)
        top, low = int(h - 3.25 * px), int(h - 2.75 * px)
        image[max(top, 0) : low] = sign
        glow[max(top, 0) : low] = sign * 0.5 * (lights > 0.5)
        for _ in range(bays):  # letters
            x = dice.integer(0, max(w - 12, 1))
            image[max(top + 2, 0) : max(low - 2, 0), x : x + dice.integer(4, 12)] = 235 - sign * 0.4
    else:
        door = dice.integer(0, max(w - int(px) - 1, 1))
        image[int(h - 2.1 * px) :, door : door + int(px)] = (45, 55, 75)
    image[: max(int(0.25 * px), 1)] *= 0.75  # cornice
    image *= np.linspace(1.05, 0.88, h, dtype=np.float32)[:, None, None]
    picture = np.clip(image, 0, 255).astype(np.uint8)
    lit = _levels(np.clip(glow, 0, 255).astype(np.uint8)) if lights > 0.2 else ()
    roof = dice.choice(((62, 72, 118), (70, 74, 80), (58, 66, 92), (84, 90, 98)))
    return Facade(_levels(picture), lit, (), SCENE["building"], roof)


@lru_cache(maxsize=32)
def make_fence(seed: int, kind: str) -> Facade:
    """8 m of a guard rail, a concrete or brick wall, a picket or wire fence, or a hedge."""
    dice = Dice(seed, "fence", kind)
    rng = dice.generator()
    h, w = 32, 192
    solid = np.full((h, w), 255, np.uint8)
    scene = SCENE["fence"]
    image = np.full((h, w, 3), 150, np.float32)
    if kind == "rail":
        solid[:] = 0
        band = np.array([0.75, 1.0, 1.1, 0.8, 0.62, 0.9, 1.1, 1.0, 0.72, 0.55])
        image[6:16] = (172 * band)[:, None, None] * np.array([1.02, 1.0, 0.98])
        solid[6:16] = 255
        for x in range(8, w, 48):
            solid[6:, x : x + 4] = 255
            image[16:, x : x + 4] = 105
    elif kind == "wall":
        scene = SCENE["wall"]
        image[:] = dice.choice(((150, 156, 160), (100, 120, 160), (125, 140, 150)))
        image += (
            cv2.resize(rng.standard_normal((6, 24), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)[..., None] * 8
        )
        image[:, ::48] *= 0.75
        image[:3] *= 1.12
    elif kind == "picket":
        image[:] = dice.choice(((215, 220, 222), (70, 95, 130), (60, 62, 64)))
        solid[:] = 0
        solid[8:11], solid[24:27] = 255, 255
        for x in range(0, w, 6):
            solid[2:, x : x + 4] = 255
            image[:, x + 3 : x + 4] *= 0.7
    elif kind == "hedge":
        scene = SCENE["vegetation"]
        image[:] = (42, 92, 66)
        image += cv2.resize(rng.standard_normal((16, 96), np.float32), (w, h))[..., None] * 16
        image *= np.linspace(1.25, 0.6, h)[:, None, None]
        bumps = np.cumsum(rng.normal(0, 0.8, w))
        solid[np.arange(h)[:, None] < (2 + 2 * np.sin(bumps))[None]] = 0
    image += rng.normal(0, 4, (h, w, 1))
    return Facade(_levels(np.clip(image, 0, 255).astype(np.uint8)), (), _levels(solid), scene, (0, 0, 0))


def draw_face(
    canvas: Canvas, view: View, look: Look, facade: Facade, ends: np.ndarray, height_m: float, direct: float
) -> None:
    """Paint a face over the ground line `ends` (2, 3) in camera space, from its left end to its right one."""
    (xa, ya, za), (xb, yb, zb) = ends.tolist()
    near = NEAR_M + 0.6
    if max(za, zb) < near:
        return
    ta, tb = 0.0, 1.0  # the part of the face before the camera
    if za < near:
        ta = (near - za) / (zb - za)
    elif zb < near:
        tb = (near - za) / (zb - za)
    base = np.array([[xa + (xb - xa) * t, ya + (yb - ya) * t, za + (zb - za) * t] for t in (ta, tb)])
    low = view.project(base)
    high = view.project(base + np.array([0, height_m, 0]))
    if low[1, 0] < low[0, 0]:  # seen from behind: mirror it
        base, low, high, ta, tb = base[::-1], low[::-1], high[::-1], tb, ta
    if low[1, 0] - low[0, 0] < 0.4:
        return
    where = canvas.window(low[0, 0], min(high[0, 1], high[1, 1]), low[1, 0], max(low[0, 1], low[1, 1]))
    if where is None:
        return
    left, top, right, bottom = where
    tallest = max(low[0, 1] - high[0, 1], low[1, 1] - high[1, 1])
    index = 0
    while index + 1 < len(facade.levels) and (
        facade.levels[index].shape[0] > 1.6 * tallest
        or facade.levels[index].shape[1] * abs(tb - ta) > 4 * (low[1, 0] - low[0, 0])
    ):
        index += 1
    pixels = _lit(facade, index, look, (za, zb), (xa, xb), direct)
    h, w = pixels.shape[:2]
    source = np.array([[ta * w, 0], [tb * w, 0], [tb * w, h], [ta * w, h]], np.float32)
    corners = np.array([high[0], high[1], low[1], low[0]], np.float32)
    matrix = cv2.getPerspectiveTransform(source - 0.5, corners - np.array([left, top], np.float32) - 0.5)
    patch = cv2.warpPerspective(pixels, matrix, (right - left, bottom - top), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, canvas.fixed(corners - np.array([left, top], np.float32)), (1,), cv2.LINE_8, SHIFT)
    if facade.solid:
        solid = cv2.warpPerspective(facade.solid[index], matrix, patch.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        mask &= solid > 100
        np.copyto(canvas.owner[top:bottom, left:right], facade.scene, where=mask.view(bool))
    else:
        canvas.own_fixed(canvas.fixed(corners), facade.scene)
    cv2.copyTo(patch, mask, canvas.image[top:bottom, left:right])


def _lit(
    facade: Facade, index: int, look: Look, z: tuple[float, float], x: tuple[float, float], direct: float
) -> np.ndarray:
    """A level of the face's picture under the light and the distance of its two ends."""
    pixels = facade.levels[index]
    near, far = (look.clear(max(end, 1.0)) for end in z)
    base = look.ambient + look.sun * direct
    if abs(near - far) < 0.08 and not look.headlights > 0.2:  # alike everywhere
        pixels = _evenly_lit(facade, index, look, round((near + far) * 20), round(direct, 2))
    else:
        w = pixels.shape[1]
        t = (np.arange(w, dtype=np.float32) + 0.5) / w
        depth = np.maximum(z[0] + (z[1] - z[0]) * t, 1.0)
        fade = look.clear_many(depth)[:, None]
        light = base + look.beam_many(x[0] + (x[1] - x[0]) * t, depth)[:, None] * BEAM
        gain, veil = np.minimum(light * fade * 100, 255)[None], (look.fog * (1 - fade))[None]
        pixels = cv2.multiply(pixels, cv2.resize(gain.astype(np.uint8), pixels.shape[1::-1]), scale=1 / 100)
        pixels = cv2.add(pixels, cv2.resize(veil.astype(np.uint8), pixels.shape[1::-1]))
    if facade.glow:
        pixels = cv2.addWeighted(pixels, 1, facade.glow[index], (near + far) / 2, 0)
    return pixels


@lru_cache(maxsize=128)
def _evenly_lit(facade: Facade, index: int, look: Look, clear_40: int, direct: float) -> np.ndarray:
    """A level of the face's picture at one distance, where clear_40 / 40 of the light arrives."""
    clear = clear_40 / 40
    table = np.arange(256, dtype=np.float32)[:, None] * ((look.ambient + look.sun * direct) * clear)
    table += look.fog * (1 - clear)
    return cv2.LUT(facade.levels[index], np.minimum(table, 255).astype(np.uint8)[None])
