"""The road: how it bends and rises, and what lies across it.

Lengths are metres; s runs along the road, d to the right of its middle. Traffic keeps to the right: ours is at d > 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.synthetic.dice import Dice

__all__ = ["TILE_M", "Road", "make_road"]

TILE_M = 48.0  # the surface repeats (with variants) in tiles of this length; dash periods divide it
Setting = Literal["city", "suburb", "rural", "highway"]


@dataclass(frozen=True)
class Road:
    """Cross-section and course of a road."""

    setting: Setting
    lane_m: float
    lanes_right: int
    lanes_left: int
    shoulder_m: float  # asphalt beyond the outer lane: shoulder or parking bay
    parking: bool  # cars stand on the shoulder
    sidewalk_m: float  # 0 = none
    median_m: float  # half width of a median with a barrier; 0 = a painted line
    yellow: bool  # colour of the middle line
    middle: Literal["double", "solid", "dashed", "mixed", "none"]
    edge_lines: bool
    dash_m: float
    dash_period_m: float
    bends: tuple[tuple[float, float, float], ...]  # (heading amplitude rad, wave length / 2 pi m, phase)
    hills: tuple[tuple[float, float, float], ...]  # (height amplitude m, wave length / 2 pi m, phase)
    crossing_every: int  # a junction in every n-th tile; 0 = never
    crossing_phase: int

    @property
    def right_m(self) -> float:
        """d of the right edge of the asphalt."""
        return self.median_m + self.lanes_right * self.lane_m + self.shoulder_m

    @property
    def left_m(self) -> float:
        """d of the left edge of the asphalt (negative)."""
        return -(self.median_m + self.lanes_left * self.lane_m + self.shoulder_m)

    def lane_d(self, lane: int) -> float:
        """d of the middle of a lane: 0, 1 ... to the right from the middle line, -1, -2 ... to the left."""
        return self.median_m + (lane + 0.5) * self.lane_m if lane >= 0 else -self.median_m + (lane + 0.5) * self.lane_m

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Heading in radians at s, positive to the right."""
        return np.asarray(sum(a * np.sin(s / length + p) for a, length, p in self.bends))

    def height(self, s: np.ndarray) -> np.ndarray:
        """Height in metres at s."""
        return np.asarray(sum(a * np.sin(s / length + p) for a, length, p in self.hills))

    def is_crossing(self, tile: int) -> bool:
        """Whether the tile of the surface with this number is a junction."""
        return bool(self.crossing_every) and tile % self.crossing_every == self.crossing_phase

    def near_crossing(self, s: float, margin: float) -> bool:
        """Whether the middle of a junction is nearer than `margin` metres along the road."""
        tile = int(s // TILE_M)
        return self.is_crossing(tile) and abs(s - self.crossing_s(tile)) < margin

    def crossing_s(self, tile: int) -> float:
        """s of the middle of the junction in a tile."""
        return (tile + 0.5) * TILE_M


def make_road(seed: int) -> Road:
    """The road of a seed."""
    dice = Dice(seed, "road")
    settings: tuple[Setting, ...] = ("city", "city", "city", "suburb", "suburb", "rural", "highway")
    setting = dice.choice(settings)
    yellow = dice.chance(0.5)
    dash_m, period_m = dice.choice(((3.0, 12.0), (3.0, 8.0), (4.0, 12.0), (2.0, 6.0)))
    bendy = {"city": 0.5, "suburb": 0.9, "rural": 1.3, "highway": 0.6}[setting]
    steep = {"city": 0.2, "suburb": 0.6, "rural": 1.0, "highway": 0.5}[setting]
    bends, hills = [], []
    for _ in range(2):
        length = dice.uniform(60, 160)
        bends.append((bendy * length * dice.uniform(0.0, 1 / 500), length, dice.uniform(0, 6.28)))
        length = dice.uniform(40, 90)
        hills.append((steep * dice.uniform(0, 1.2) * length / 60, length, dice.uniform(0, 6.28)))
    median = 0.0
    if setting == "highway":
        lanes, oncoming, shoulder, median = dice.integer(2, 3), 2, dice.uniform(1.5, 2.2), dice.uniform(0.6, 1.2)
        lane, sidewalk, parking = dice.uniform(3.5, 3.7), 0.0, False
    elif setting == "rural":
        lanes, oncoming, shoulder = 1, 1, dice.uniform(0.2, 0.8)
        lane, sidewalk, parking = dice.uniform(3.1, 3.6), 0.0, False
    else:
        lanes = dice.integer(1, 2 if setting == "city" else 1)
        oncoming = lanes if dice.chance(0.8) else 1
        parking = dice.chance(0.6)
        shoulder = 2.2 if parking else dice.uniform(0.2, 0.6)
        lane, sidewalk = dice.uniform(3.0, 3.5), dice.uniform(1.8, 3.6)
    middle: Literal["double", "solid", "dashed", "mixed", "none"]
    middle = dice.choice(("double", "double", "solid", "dashed", "dashed", "mixed"))
    if setting == "suburb" and dice.chance(0.15):
        middle = "none"
    every = {"city": 3, "suburb": 4, "rural": 0, "highway": 0}[setting]
    edge = (setting in ("rural", "highway") and dice.chance(0.9)) or (setting == "city" and dice.chance(0.25))
    return Road(
        setting, lane, lanes, oncoming, shoulder, parking, sidewalk, median, yellow, middle, edge, dash_m, period_m,
        tuple(bends), tuple(hills), every, dice.integer(0, max(every - 1, 0)),
    )  # fmt: skip
