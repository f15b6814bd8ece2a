"""Light and weather: what a colour looks like at a distance. Colours are BGR, 0 to 255."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data.synthetic.dice import Dice

__all__ = ["BEAM", "CONDITIONS", "Condition", "Look", "make_look"]

Condition = Literal["day", "dusk", "night", "rain", "fog", "any"]
CONDITIONS: tuple[Condition, ...] = tuple(name for name in get_args(Condition) if name != "any")
BEAM = np.array([0.85, 0.97, 1.0], np.float32)  # colour of headlights


@dataclass(frozen=True, eq=False)
class Look:
    """The light of one drive."""

    condition: str
    ambient: np.ndarray  # (3,) light from everywhere, 1 = white paper looks white
    sun: np.ndarray  # (3,) colour and strength of the sun
    sun_dir: np.ndarray  # (3,) unit vector to the sun in camera space at heading 0
    fog: np.ndarray  # (3,) colour of the far distance
    fog_m: float  # distance at which 63 % is gone
    sky_top: np.ndarray  # (3,)
    sky_low: np.ndarray  # (3,)
    clouds: float  # 0 to 1
    shadow: float  # how dark shadows under cars are, 0 to 1
    headlights: float  # of the ego, 0 to 1
    lights: float  # how bright lamps glow, 0 to 1
    wet: float  # 0 dry to 1

    def clear(self, z: float) -> float:
        """Part of the light that reaches the camera from depth z."""
        return math.exp(-z / self.fog_m)

    def beam(self, x: float, z: float) -> float:
        """Light of the ego's headlights at (x, z) of camera space."""
        if not self.headlights or z <= 0:
            return 0.0
        return self.headlights * 1.25 * min(z / 7, 1) * math.exp(-z / 32 - (x / (1.6 + 0.16 * z)) ** 2)

    def clear_many(self, z: np.ndarray) -> np.ndarray:
        """`clear` at many depths."""
        return np.exp(z * np.float32(-1 / self.fog_m))

    def beam_many(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """`beam` at many places."""
        if not self.headlights:
            return np.zeros_like(z)
        reach = np.minimum(z / 7, 1) * np.exp(-z / 32 - np.square(x / (1.6 + 0.16 * z)))
        return np.asarray(self.headlights * 1.25 * reach)

    def mix(self, colour: np.ndarray, light: np.ndarray | float, z: float) -> np.ndarray:
        """Colours (..., 3) under `light`, seen at depth z."""
        t = self.clear(z)
        return np.minimum(colour * light * t + self.fog * (1 - t), 255)

    def light_at(self, x: float, z: float, direct: float = 0.5) -> np.ndarray:
        """(3,) light at a place, `direct` being the part of the sun that falls on the surface."""
        return self.ambient + self.sun * direct + BEAM * self.beam(x, z)

    def plain(self, colour: Sequence[float], x: float, z: float, direct: float = 0.5) -> list[float]:
        """One colour as OpenCV's drawing functions want it."""
        mixed: list[float] = self.mix(np.array(colour, np.float32), self.light_at(x, z, direct), z).tolist()
        return mixed


def make_look(seed: int, condition: Condition) -> Look:
    """The light of a seed under a condition ("any": the seed chooses)."""
    if condition not in get_args(Condition):
        raise ValueError(f"condition must be one of {', '.join(get_args(Condition))}, but got {condition!r}")
    dice = Dice(seed, "light")
    if condition == "any":
        condition = dice.choice(("day", "day", "day", "dusk", "night", "night", "rain", "fog"))
    azimuth, up = dice.uniform(-3.14, 3.14), dice.uniform(0.3, 1.2)
    if condition == "dusk":
        up = dice.uniform(0.05, 0.2)
    sun_dir = np.array([np.sin(azimuth) * np.cos(up), np.sin(up), np.cos(azimuth) * np.cos(up)], np.float32)

    def a(*bgr: float) -> np.ndarray:
        return np.array(bgr, np.float32)

    if condition == "day":
        warm = dice.uniform(-0.05, 0.05)
        overcast = dice.chance(0.35)
        ambient = a(0.66 - warm, 0.62, 0.60 + warm) * (1.12 if overcast else 0.95) * dice.uniform(0.9, 1.1)
        sun = a(0.44, 0.52, 0.56) * (0.15 if overcast else dice.uniform(0.8, 1.15))
        top, low = (a(205, 190, 175), a(225, 220, 215)) if overcast else (a(205, 140, 80), a(240, 222, 200))
        top, low = top * dice.uniform(0.85, 1.1), low * dice.uniform(0.95, 1.05)
        return Look(condition, ambient, sun, sun_dir, low * 0.97, dice.uniform(300, 900), top, low,
                    0.9 if overcast else dice.uniform(0, 0.8), 0.45 if overcast else 0.62, 0, 0.12, 0)  # fmt: skip
    if condition == "dusk":
        low = a(dice.uniform(110, 160), dice.uniform(140, 170), dice.uniform(215, 245))
        top = a(dice.uniform(120, 160), dice.uniform(80, 105), dice.uniform(80, 110))
        return Look(condition, a(0.44, 0.38, 0.38), a(0.15, 0.28, 0.42), sun_dir, low * 0.8, dice.uniform(180, 450),
                    top, low, dice.uniform(0.2, 0.8), 0.5, 0.25, 0.6, 0)  # fmt: skip
    if condition == "night":
        glow = dice.uniform(0.8, 1.6)
        return Look(condition, a(0.17, 0.15, 0.15) * glow, a(0.02, 0.02, 0.02), sun_dir, a(32, 26, 24) * glow,
                    dice.uniform(120, 350), a(26, 16, 12) * glow, a(52, 40, 38) * glow, dice.uniform(0, 0.5), 0.5,
                    1.0, 1.0, float(dice.chance(0.25)) * 0.7)  # fmt: skip
    if condition == "rain":
        grey = dice.uniform(0.6, 1.0)
        return Look(condition, a(0.62, 0.58, 0.55) * grey, a(0.04, 0.04, 0.04), sun_dir, a(178, 170, 164) * grey,
                    dice.uniform(90, 220), a(150, 142, 138) * grey, a(192, 184, 178) * grey, 1.0, 0.4,
                    0.15, 0.5, 1.0)  # fmt: skip
    grey = dice.uniform(0.75, 1.05)
    fog = a(208, 204, 200) * grey
    return Look(condition, a(0.74, 0.71, 0.69) * grey, a(0.06, 0.06, 0.06), sun_dir, fog, dice.uniform(22, 70),
                fog * 0.95, fog, 0.3, 0.3, 0.1, 0.4, dice.uniform(0, 0.4))  # fmt: skip
