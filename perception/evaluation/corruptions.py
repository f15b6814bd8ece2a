"""A camera frame under bad weather, in bad light, through a bad camera: six corruptions at five severities.

In the manner of ImageNet-C (Hendrycks & Dietterich, arXiv:1903.12261), made for road scenes: how far away a pixel is
follows from its row, as on a flat road. Lengths, grain and blocks are given for a frame whose short side is 256 pixels
and grow with the frame, so that a severity hurts a small frame and a large one alike. A corruption is a pure function
of (image, severity, frame index): an index gets the same drops and grain at every severity, only more of them.

Legend: H, W = height, width of the frame; h, w = of the frame scaled to a short side of REFERENCE_PX, if it is larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args
from zlib import crc32

import cv2
import numpy as np

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt"]

Corruption = Literal["fog", "rain", "night", "motion_blur", "noise", "jpeg"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
SEVERITIES = (1, 2, 3, 4, 5)  # 0 is the clean frame

REFERENCE_PX = 256
HORIZON = 0.45  # row of the horizon as part of the height: cameras look about straight ahead
NEAR_M = 6.0  # distance of the road at the bottom row
FAR_M = 80.0  # what stands at or above the horizon is taken to be this far: the sky is farther, trees are nearer

# One value for each severity.
FOG_VISIBILITY_M = (300.0, 190.0, 120.0, 80.0, 50.0)  # where contrast falls to 5 %
RAIN_STREAKS = (200, 350, 550, 800, 1100)  # on a frame of 256x448
RAIN_VEIL = (0.10, 0.17, 0.25, 0.33, 0.42)  # grey over everything, more of it far away
RAIN_DROPS = (0, 4, 8, 14, 22)  # on the windscreen
NIGHT_AMBIENT = (0.62, 0.44, 0.30, 0.20, 0.12)  # part of the daylight that is left
BLUR_PX = (5.0, 8.0, 12.0, 17.0, 23.0)
NOISE_STD = (0.05, 0.09, 0.14, 0.20, 0.28)  # of a grey pixel, whole range = 1
JPEG_QUALITY = (25, 16, 11, 8, 5)


def corrupt(image: np.ndarray, name: Corruption, severity: int, index: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 BGR, any size -> the frame number `index` under the corruption, of the same form; a copy.

    Raises ValueError for an unknown name, and for a severity that is not 0 (the clean frame) to 5.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; expected one of {', '.join(CORRUPTIONS)}")
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity must be 0 to {SEVERITIES[-1]}, but got {severity}")
    if severity == 0:
        return image.copy()
    return FUNCTIONS[name](image, severity - 1, np.random.default_rng((crc32(name.encode()), index)))


def fog(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """Koschmieder's law: with distance, a pixel fades into the airlight; fog is patchy."""
    H, W = image.shape[:2]
    patches = _stretched(dice.uniform(0.75, 1.25, (4, 7)), (H, W))  # (H, W)
    clear = np.exp(-3.0 / FOG_VISIBILITY_M[level] * _distance_m(H)[:, None] * patches)  # (H, W), 1 = nothing between
    return _blended(image, np.full(3, _airlight(image), np.float32), 1 - clear)


def rain(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """Dull light, a veil of spray with distance, drops on the windscreen and streaks in the air."""
    H, W = image.shape[:2]
    far = np.sqrt(_distance_m(H) / FAR_M)[:, None]  # (H, 1)
    dull = cv2.convertScaleAbs(image, alpha=1 - 0.05 * (level + 1))
    out = _blended(
        dull, np.full(3, 0.8 * _airlight(image), np.float32), np.tile(RAIN_VEIL[level] * (0.4 + far), (1, W))
    )
    out = _through_drops(out, RAIN_DROPS[level], dice)
    unit = min(H, W) / REFERENCE_PX
    slant = dice.normal(0, 0.12)
    count = round(RAIN_STREAKS[-1] * max(H, W) / min(H, W) / 1.75)  # all that there will be, as for the worst severity
    start = dice.uniform(-0.1, 1.1, (count, 2)) * (W, H)
    length = unit * dice.gamma(4.0, 5.0, (count, 1))
    ends = np.stack([start, start + length * (slant, 1.0)], 1)  # (count, 2 points, xy)
    ends = ends[: round(count * RAIN_STREAKS[level] / RAIN_STREAKS[-1])]
    streaks = np.zeros((H, W), np.uint8)
    for part, (width, strength) in enumerate(((0.7, 65), (0.9, 90), (1.4, 115))):  # the nearer, the thicker
        lines = np.round(ends[part::3] * 16).astype(np.int32)  # in sixteenths of a pixel
        cv2.polylines(streaks, list(lines), False, strength, max(1, round(width * unit)), cv2.LINE_AA, shift=4)
    soft = cv2.GaussianBlur(streaks, (0, 0), 0.5 * max(unit, 0.5))
    return _blended(out, np.array((225, 220, 215), np.float32), soft.astype(np.float32) / 255)


def night(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """Little and bluish light, an own headlight on the road, a sky gone dark, a noisy sensor; lamps stay and bloom."""
    H, W = image.shape[:2]
    h, w = _reference_hw(H, W)
    ambient = NIGHT_AMBIENT[level]
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    peak = small.max(2)  # (h, w)
    wide = cv2.GaussianBlur(peak, (0, 0), max(1.0, min(h, w) * 0.05))
    # A lamp is bright, small (an opening takes it away) and amid what is darker; the sky between leaves is not.
    size = max(3, round(min(h, w) * 0.04)) | 1
    spot = peak - cv2.morphologyEx(peak, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    lamp = np.clip((spot - 0.2) / 0.2, 0, 1) * np.clip((peak - 0.6) / 0.25, 0, 1) * np.clip((0.55 - wide) / 0.15, 0, 1)
    lamp = cv2.GaussianBlur(lamp, (0, 0), 0.6)
    # Bright and wide is daylight from above: of it the least is left.
    sky = 1 - 0.85 * np.clip((wide - 0.4) / 0.3, 0, 1) * _above_horizon(h)[:, None]
    x, y = np.linspace(-1, 1, w, dtype=np.float32)[None], np.linspace(0, 1, h, dtype=np.float32)[:, None]
    beam = 0.5 * np.exp(-((x / 0.55) ** 2) - ((y - 0.72) / 0.2) ** 2) * (1 - ambient)
    gain = _stretched(ambient * sky + beam, (H, W))[..., None]  # (H, W, 1)
    blue = np.array((1.25, 1.0, 0.85), np.float32)  # BGR
    day = image.astype(np.float32) / 255
    dark = day**1.2 * gain * blue
    shown = _stretched(lamp, (H, W))[..., None]
    bloom = _stretched(cv2.GaussianBlur(small * lamp[..., None], (0, 0), max(1.0, min(h, w) * 0.02)), (H, W))
    out = dark * (1 - shown) + day * shown + 0.8 * bloom
    out += _grain(dice, (H, W)) * (0.012 + 0.010 * level) * (0.5 + np.sqrt(np.clip(out, 0, 1)))
    return _uint8(out * 255)


def motion_blur(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """The camera shakes, mostly sideways, while the shutter is open. What is where stays: the blur is centred."""
    length = BLUR_PX[level] * min(image.shape[:2]) / REFERENCE_PX
    angle = dice.normal(0, math.radians(20))
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * side)
    x, y = side // 2 + steps * math.cos(angle), side // 2 + steps * math.sin(angle)
    for dx in (0, 1):  # every step is shared out among four cells
        for dy in (0, 1):
            weight = (1 - np.abs(x - np.floor(x) - dx)) * (1 - np.abs(y - np.floor(y) - dy))
            at = (
                np.clip(np.floor(y).astype(int) + dy, 0, side - 1),
                np.clip(np.floor(x).astype(int) + dx, 0, side - 1),
            )
            np.add.at(kernel, at, weight.astype(np.float32))
    blurred: np.ndarray = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return blurred


def noise(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """A sensor at high gain: noise of every pixel that grows with the root of its light, in grains."""
    values = image.astype(np.float32) / 255
    return _uint8(255 * (values + _grain(dice, image.shape[:2]) * NOISE_STD[level] * (0.4 + 0.85 * np.sqrt(values))))


def jpeg(image: np.ndarray, level: int, dice: np.random.Generator) -> np.ndarray:
    """A starved encoder: what it loses on the frame of reference size is taken from the frame itself."""
    H, W = image.shape[:2]
    h, w = _reference_hw(H, W)
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY[level]])
    lost = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32) - small
    return _uint8(image + cv2.resize(lost, (W, H), interpolation=cv2.INTER_LINEAR))


FUNCTIONS: dict[Corruption, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "fog": fog, "rain": rain, "night": night, "motion_blur": motion_blur, "noise": noise, "jpeg": jpeg,
}  # fmt: skip


def _reference_hw(H: int, W: int) -> tuple[int, int]:
    """(h, w) of the frame with its short side at REFERENCE_PX; smaller frames stay as they are."""
    scale = min(1.0, REFERENCE_PX / min(H, W))
    return max(1, round(H * scale)), max(1, round(W * scale))


def _distance_m(H: int) -> np.ndarray:
    """(H,) float32 distance of each row on a flat road, FAR_M above it, without an edge at the horizon.

    An edge would cut through whatever stands on the road.
    """
    below = np.maximum((np.arange(H, dtype=np.float32) + 0.5) / H - HORIZON, 0)
    height = NEAR_M * (1 - HORIZON)  # distance times rows below the horizon is the same everywhere
    sharp = (height / (below + height / FAR_M)).astype(np.float32)
    return cv2.GaussianBlur(sharp[:, None], (1, 0), 1.0, sigmaY=max(0.06 * H, 0.5), borderType=cv2.BORDER_REPLICATE)[
        :, 0
    ]


def _above_horizon(H: int) -> np.ndarray:
    """(H,) float32, 1 above the horizon, 0 well below it."""
    rows = (np.arange(H, dtype=np.float32) + 0.5) / H
    return np.clip((HORIZON + 0.15 - rows) / 0.15, 0, 1).astype(np.float32)


def _airlight(image: np.ndarray) -> float:
    """Grey of the far distance: as bright as the frame's bright parts, so that fog at night is dark."""
    return float(np.clip(np.percentile(image[::4, ::4], 90), 90, 225))


def _blended(image: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The image with a share (H, W), 0 to 1, of each pixel replaced by a BGR colour (3,)."""
    part = np.clip(share, 0, 1)[..., None].astype(np.float32)
    return _uint8(image * (1 - part) + colour * part)


def _stretched(values: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """A small field as a float32 one of size `hw`."""
    out: np.ndarray = cv2.resize(values.astype(np.float32), hw[::-1], interpolation=cv2.INTER_LINEAR)
    return out


def _grain(dice: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float32 noise of deviation 1, whose grains are a pixel of the frame of reference size."""
    h, w = _reference_hw(*hw)
    field = _stretched(dice.standard_normal((h, w, 3), np.float32), hw)
    return field if (h, w) == hw else field / max(float(field.std()), 1e-6)


def _through_drops(image: np.ndarray, count: int, dice: np.random.Generator) -> np.ndarray:
    """The image seen through `count` drops on the windscreen: blurred and lit from above inside each."""
    H, W = image.shape[:2]
    unit = min(H, W) / REFERENCE_PX
    places, radii = dice.uniform(0, 1, (RAIN_DROPS[-1], 2)) * (W, H), unit * dice.uniform(3, 10, RAIN_DROPS[-1])
    mask = np.zeros((H, W), np.uint8)
    for (x, y), radius in zip(places[:count], radii[:count], strict=True):
        cv2.circle(mask, (round(x), round(y)), max(1, round(radius)), 255, -1, cv2.LINE_AA)
    share = cv2.GaussianBlur(mask, (0, 0), max(0.5, unit))[..., None].astype(np.float32) / 255
    inside = cv2.GaussianBlur(image, (0, 0), max(0.5, 5 * unit)).astype(np.float32)
    return _uint8(image * (1 - share) + (inside * 1.06 + 6) * share)


def _uint8(values: np.ndarray) -> np.ndarray:
    """Rounded and cut to 0 to 255."""
    out: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return out
