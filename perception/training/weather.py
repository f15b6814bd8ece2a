"""Driving weather, night, dirt and grain, painted on a frame: what albumentations lacks or takes too long for.

Every function takes an image (h, w, 3) uint8 RGB, a strength in 0..1 (0 leaves it as it is) and a generator, and
returns a new image of that kind. Smooth things are computed on a coarse grid and enlarged. They are cheap pictures of
the effect, not physics; what light there is comes from the image itself, so that fog at dusk is dark and not white.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

__all__ = ["Painter", "dirt", "fog", "glare", "grain", "night", "rain", "shadow", "snow"]

Painter = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

COARSE = 8  # pixels of the image to one of the coarse grid
DIRT_MASKS = 16  # different dirty windscreens
WHITE = np.array([255, 255, 255], np.float32)


def fog(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Koschmieder's law, I t + A (1 - t) with t = exp(-beta distance), on a flat road below a horizon drawn anew."""
    y, _ = coarse_grid(image)
    horizon = rng.uniform(0.35, 0.5)
    sharp = 0.5 / np.maximum(y - horizon, 0.05)  # 1 near the bottom, 10 at the horizon and above
    distance = cv2.GaussianBlur(sharp, (0, 0), 1.5)  # no edge at the horizon
    beta = 0.3 * strength * (0.5 + smooth_noise(rng, y.shape))
    light = min(daylight(image), 235) * rng.uniform(0.75, 0.92) * np.array([0.97, 1.0, 1.02], np.float32)
    return blend(image, light, 1 - np.exp(-beta * distance))


def rain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Slanted streaks, near ones long and blurred, under a dull sky."""
    h, w = image.shape[:2]
    dull = saturate(image, 1 - 0.4 * strength)
    dull = cv2.convertScaleAbs(dull, alpha=1 - 0.25 * strength, beta=18 * strength)
    n, slant = int(strength * h * w / 150), rng.uniform(-0.35, 0.35)
    start = rng.uniform((-0.1 * w, -0.1 * h), (1.1 * w, h), (n, 2))
    length = h * (0.02 + 0.1 * rng.random((n, 1)) ** 3)  # most are far away
    ends = np.stack([start, start + length * [slant, 1.0]], axis=1)  # (n, 2, 2) xy
    streaks = np.zeros((h, w), np.uint8)
    cv2.polylines(streaks, list((ends * 16).astype(np.int32)), False, 255, 1, cv2.LINE_AA, shift=4)
    mist = 0.35 * strength * (1 - coarse_grid(image)[0])  # denser towards what is far away
    alpha = cv2.blur(streaks, (1, 3)).astype(np.float32) * (rng.uniform(0.3, 0.55) / 255) + enlarge(mist, image)
    return blend(dull, np.minimum(daylight(image) * 1.1, 235) * WHITE / 255, alpha)


def snow(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Flakes of several sizes, the nearest out of focus, in a thin haze."""
    h, w = image.shape[:2]
    near, far = np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8)
    n = int(strength * h * w / 120)
    for layer, count, radius in ((far, n, (0.3, 0.9)), (near, n // 12, (1.0, 3.0))):
        places = rng.uniform((0, 0), (w * 16, h * 16), (count, 2)).astype(int).tolist()
        radii = (rng.uniform(*radius, count) * h / 256 * 16).astype(int).tolist()
        for place, r in zip(places, radii, strict=True):
            cv2.circle(layer, place, r, 255, -1, cv2.LINE_AA, shift=4)
    soft = np.maximum(cv2.blur(far, (2, 2)), cv2.GaussianBlur(near, (0, 0), 0.004 * h + 0.3))
    flakes = soft.astype(np.float32) / 255
    light = np.minimum(daylight(image) * 1.25, 245)
    hazy = blend(image, light * WHITE / 255, np.float32(0.25 * strength))
    return blend(hazy, light * WHITE / 255, 0.85 * flakes)


def glare(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A low sun in the picture: a burnt-out disc, a wide halo, and a veil over everything."""
    y, x = coarse_grid(image)
    centre_y, centre_x = rng.uniform(0.05, 0.45), rng.uniform(0.0, 1.0)
    aspect = image.shape[1] / image.shape[0]
    far = np.hypot(y - centre_y, (x - centre_x) * aspect)  # 1 = the image's height
    size = rng.uniform(0.7, 1.3)
    light = 0.9 * np.exp(-((far / (0.10 * size)) ** 2)) + 0.75 * np.exp(-far / (0.28 * size)) + 0.12
    warm = np.array([1.0, rng.uniform(0.9, 0.98), rng.uniform(0.75, 0.95)], np.float32)
    alpha = enlarge(np.minimum(strength * light, 1.0), image)[..., None]
    out = image.astype(np.float32)
    return (out + (255 - out) * alpha * warm).astype(np.uint8)  # screen: light is added, nothing gets darker


def shadow(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What stands beside the road keeps the sun off a band of it, in any direction, straight or frayed by leaves."""
    y, x = coarse_grid(image)
    angle, width = rng.uniform(0, np.pi), rng.uniform(0.12, 0.5)
    across = (x - rng.uniform(0.1, 0.9)) * np.cos(angle) + (y - rng.uniform(0.5, 0.9)) * np.sin(angle)
    leaves = rng.choice([0.0, 0.5]) * (smooth_noise(rng, y.shape, (12, 20)) - 0.5)
    inside = 1 / (1 + np.exp((np.abs(across) + leaves * width - width / 2) * 90))
    below = 1 / (1 + np.exp((rng.uniform(0.35, 0.5) - y) * 30))  # the sky has no shadows
    return blend(image, np.array([0, 4, 12], np.float32), 0.75 * strength * inside * below)


def night(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Dark, a dark sky, a little colour left with the cast of lamps or of dusk, own headlights, and grain."""
    y, x = coarse_grid(image)
    sky = 1 / (1 + np.exp((y - rng.uniform(0.35, 0.5)) * 14))  # 1 at the top, 0 on the road
    lamps = rng.uniform(0.2, 0.5) * np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.8) / 0.22) ** 2)
    gain = 1 - strength * (0.58 + 0.33 * sky - lamps)
    cast = np.array([[1.08, 1.0, 0.72], [0.82, 0.95, 1.15]], np.float32)[int(rng.integers(2))]
    levels = 255 * (np.arange(256) / 255) ** (1 + 0.25 * strength)  # shadows sink faster than lights
    out = cv2.LUT(saturate(image, 1 - 0.5 * strength), levels.round().astype(np.uint8)).astype(np.float32)
    out *= enlarge(gain, image)[..., None] * (1 + strength * (cast - 1))
    return grain(np.clip(out, 0, 255).astype(np.uint8), 0.5 * strength, rng)


def grain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise at high gain: fine in brightness, coarse in colour, stronger in the dark."""
    h, w = image.shape[:2]
    fine = rng.standard_normal((h, w), np.float32)
    coarse = rng.standard_normal((h // 2 + 1, w // 2 + 1, 3), np.float32)
    noise = 0.7 * fine[..., None] + 0.8 * cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    out = image.astype(np.float32)
    out += 22 * strength * noise * (1.2 - out / 320)
    return np.clip(out, 0, 255).astype(np.uint8)


def dirt(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Mud or drops on the glass before the lens: out of focus, and so soft blobs, dark or milky."""
    mask = dirt_mask(int(rng.integers(DIRT_MASKS)))
    mask = mask[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    mud = rng.random() < 0.6
    colour = rng.uniform(25, 75) * np.array([1.0, 0.9, 0.75]) if mud else np.full(3, 0.9 * daylight(image))
    return blend(image, colour.astype(np.float32), (1.0 if mud else 0.8) * strength**0.5 * mask)


@lru_cache(maxsize=DIRT_MASKS)
def dirt_mask(number: int) -> np.ndarray:
    """(48, 84) float32 in 0..1: a few blobs of different size. The same for the same number, everywhere."""
    rng = np.random.default_rng([number, 77])
    rows, columns = 48, 84
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    mask = np.zeros((rows, columns), np.float32)
    for _ in range(int(rng.integers(6, 16))):
        r = rng.gamma(2.0, 2.0) + 1.5
        stretch, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
        dx, dy = x - rng.uniform(0, columns), y - rng.uniform(0, rows)
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        blob = np.exp(-((np.hypot(u / stretch, v * stretch) / r) ** 4))  # flat within, soft at the edge
        mask = np.maximum(mask, rng.uniform(0.6, 1.0) * blob)
    return mask * (0.75 + 0.25 * smooth_noise(rng, mask.shape))


# ---------------------------------------------------------------------------------------------------------------- tools


def coarse_grid(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and x, both (rows, columns) float32 in 0..1, of a grid COARSE times smaller than the image."""
    h, w = image.shape[:2]
    rows, columns = max(2, h // COARSE), max(2, w // COARSE)
    y, x = (np.arange(rows, dtype=np.float32) + 0.5) / rows, (np.arange(columns, dtype=np.float32) + 0.5) / columns
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    return grid_y, grid_x


def smooth_noise(rng: np.random.Generator, hw: tuple[int, ...], cells: tuple[int, int] = (4, 6)) -> np.ndarray:
    """(h, w) float32, about 0..1: random values on a few cells, enlarged."""
    return cv2.resize(rng.random(cells, np.float32), (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)


def enlarge(grid: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A coarse grid -> (h, w) float32, as large as the image."""
    return cv2.resize(grid.astype(np.float32), (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray | np.float32) -> np.ndarray:
    """`colour` (3,) over the image with `alpha` in 0..1: one number, or a map of the image's or a coarser size."""
    if isinstance(alpha, np.ndarray) and alpha.ndim == 2:
        alpha = (enlarge(alpha, image) if alpha.shape != image.shape[:2] else alpha)[..., None]
    out = image.astype(np.float32)
    return np.clip(out + alpha * (colour.astype(np.float32) - out) + 0.5, 0, 255).astype(np.uint8)


def daylight(image: np.ndarray) -> float:
    """The brightness, 0..255, that a tenth of the image exceeds: what fog, rain and snow are lit by; never black."""
    grey = cv2.cvtColor(image[::COARSE, ::COARSE], cv2.COLOR_RGB2GRAY)
    return float(max(np.percentile(grey, 90), 50.0))


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation times `factor` in 0..1."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)
