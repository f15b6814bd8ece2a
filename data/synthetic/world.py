"""What stands and moves along the road: a pure function of the seed, the time and where one looks.

Everything lives in numbered slots, on lanes whose traffic shares one mean speed, so that nothing has a history: slot k of
a lane is where it is at time t, in a drive of any length, and its number makes its track id.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.synthetic.dice import Dice
from data.synthetic.road import TILE_M, Road
from data.synthetic.roadside import Roadside
from data.synthetic.thing import Thing, thing_id

__all__ = ["World"]

AHEAD_M, BEHIND_M = 170.0, 6.0


class World:
    """The things along one road."""

    def __init__(self, road: Road, seed: int, density: float | None = None) -> None:
        """`density` scales how much is about: 0 leaves the road and nothing else, None lets the seed choose."""
        self.road, self.seed = road, seed
        dice = Dice(seed, "world")
        self.density = dice.uniform(0.5, 1.3) if density is None else density
        fast = {"city": 10.0, "suburb": 11.5, "rural": 19.0, "highway": 27.0}[road.setting]
        self.speed = fast * dice.uniform(0.8, 1.15)
        self.lane = dice.integer(0, road.lanes_right - 1)
        self.start = dice.uniform(0, 5000)
        self.sway = dice.uniform(0, 6.28)
        self.people = {"city": 1.0, "suburb": 0.5, "rural": 0.05, "highway": 0.0}[road.setting] * self.density
        self.roadside = Roadside(road, seed, self.density)

    def ego(self, t: float) -> tuple[float, float]:
        """(s, d) of the camera at time t."""
        s = self.start + self.speed * t + 2.5 * np.sin(0.35 * t + self.sway)
        return float(s), float(self.road.lane_d(self.lane) + 0.18 * np.sin(0.5 * t + self.sway))

    def things(self, t: float) -> Iterator[Thing]:
        """All that may be seen at time t, in no order."""
        here = self.ego(t)[0]
        if self.density <= 0:
            return
        yield from self._traffic(t, here)
        yield from self._walkers(t, here)
        yield from self._junctions(t, here)
        yield from self.roadside.near(here - BEHIND_M - 20, here + AHEAD_M)

    def _slots(self, here: float, spacing: float, moved: float = 0.0, ahead: float = AHEAD_M) -> range:
        return range(int((here - BEHIND_M - moved) // spacing) - 1, int((here + ahead - moved) // spacing) + 1)

    def _traffic(self, t: float, here: float) -> Iterator[Thing]:
        road = self.road
        for lane in range(-road.lanes_left, road.lanes_right):
            dice = Dice(self.seed, "lane", lane)
            along = 1 if lane >= 0 else -1
            speed = self.speed * (1.0 if lane == self.lane else dice.uniform(0.85, 1.2)) * along
            spacing = (
                dice.uniform(16, 34) * (1.8 if road.setting in ("rural", "highway") else 1.0) / max(self.density, 0.3)
            )
            moved = speed * t
            for k in self._slots(here, spacing, moved):
                slot = Dice(self.seed, "vehicle", lane, k)
                if slot.chance(0.3):
                    continue
                wobble = slot.uniform(0.5, 2.0) * np.sin(slot.uniform(0.2, 0.5) * t + slot.uniform(0, 6.28))
                s = k * spacing + moved + wobble + slot.uniform(-0.15, 0.15) * spacing
                if lane == self.lane and abs(s - here) < 7.5:
                    continue  # that is us
                two = slot.chance(0.10 if road.setting != "highway" else 0.05)
                kind = (
                    "motorcycle"
                    if two
                    else slot.choice(
                        ("car",) * 15
                        + ("truck",) * (3 if road.setting != "highway" else 5)
                        + ("bus",) * (2 if road.setting == "city" else 1)
                    )
                )
                d = road.lane_d(lane) + slot.uniform(-0.25, 0.25)
                yield Thing(kind, s, d, slot.integer(0, 1 << 30) % 4096, thing_id(20 + lane, k), 0.0 if along > 0 else np.pi,
                            phase=3.0 * s, braking=slot.chance(0.2))  # fmt: skip

    def _walkers(self, t: float, here: float) -> Iterator[Thing]:
        road = self.road
        if road.sidewalk_m:
            for side in (-1, 1):
                edge = road.right_m if side > 0 else road.left_m
                for way in (-1, 1):
                    spacing = 9.0 / max(self.people, 0.1)
                    moved = 1.3 * way * t
                    for k in self._slots(here, spacing, moved, 90):
                        slot = Dice(self.seed, "walker", side, way, k)
                        if not slot.chance(0.55):
                            continue
                        standing = slot.chance(0.12)
                        s = k * spacing + slot.uniform(0, spacing) + (moved if not standing else moved)
                        d = edge + side * slot.uniform(0.5, max(road.sidewalk_m - 0.3, 0.6))
                        for n in range(2 if slot.chance(0.2) else 1):
                            yield Thing("pedestrian", s + 0.1 * n, d + 0.55 * n * side, slot.integer(0, 4095), thing_id(60 + 2 * side + way, 2 * k + n),
                                        (0.0 if way > 0 else np.pi) + slot.uniform(-0.2, 0.2), phase=4.6 * t + slot.uniform(0, 6.28))  # fmt: skip
        if road.setting != "highway":
            for way in (-1, 1):
                spacing = 55.0 / max(self.density, 0.3)
                moved = 4.6 * way * t
                for k in self._slots(here, spacing, moved, 110):
                    slot = Dice(self.seed, "cyclist", way, k)
                    if not slot.chance(0.55):
                        continue
                    edge = (
                        (road.right_m - road.shoulder_m - 0.45) if way > 0 else (road.left_m + road.shoulder_m + 0.45)
                    )
                    s = k * spacing + moved + slot.uniform(0, 0.5) * spacing
                    if abs(s - here) < 3:
                        continue
                    yield Thing(
                        "cyclist",
                        s,
                        edge + slot.uniform(-0.15, 0.25),
                        slot.integer(0, 4095),
                        thing_id(70 + 2 * way, 2 * k),
                        0.0 if way > 0 else np.pi,
                        phase=5.5 * t + slot.uniform(0, 6),
                    )

    def _junctions(self, t: float, here: float) -> Iterator[Thing]:
        road = self.road
        for tile in range(int((here - 10) // TILE_M), int((here + AHEAD_M) // TILE_M) + 1):
            if not road.is_crossing(tile):
                continue
            slot = Dice(self.seed, "junction", tile)
            middle = road.crossing_s(tile)
            arrive = (middle - self.start) / self.speed - t  # seconds until we are there
            left, right = road.left_m - 0.7, road.right_m + 0.7
            lit = slot.chance(0.75)
            walk_s = middle - 4.5 - 2.1
            if lit:
                state = 2.0 if arrive < slot.uniform(2.5, 7) or slot.chance(0.3) else (1.0 if arrive < 4 else 0.0)
                for n, (ds, d) in enumerate(((-9.4, right), (7.0, right), (7.0, left))):
                    yield Thing(
                        "light",
                        middle + ds,
                        d,
                        slot.integer(0, 99),
                        thing_id(80, 8 * tile + n),
                        phase=state,
                        variant="post",
                    )
                if road.lanes_right > 1 or slot.chance(0.4):
                    yield Thing(
                        "light", middle + 7.2, right, 1, thing_id(80, 8 * tile + 4), phase=state, variant="mast"
                    )
                yield Thing("light", middle - 7.0, left, 2, thing_id(80, 8 * tile + 5), phase=state, variant="post")
            else:
                yield Thing(
                    "sign",
                    middle - 10.0,
                    right,
                    slot.integer(0, 99),
                    thing_id(81, tile),
                    variant=slot.choice(("priority", "yield", "stop", "zebra")),
                )
            for n in range(slot.integer(0, 5)):  # people crossing before we come
                pace, way = slot.uniform(1.1, 1.6), slot.choice((-1, 1))
                begin = slot.uniform(4.0, 11.0) + abs(right - left) / pace
                d = (left if way > 0 else right) + way * pace * (begin - arrive)
                if not lit:
                    d = left - 0.2 if way > 0 else right + 0.2
                waiting = d < left or d > right
                yield Thing("pedestrian", walk_s + slot.uniform(-1.0, 1.0), float(np.clip(d, left - 0.3, right + 0.3)), slot.integer(0, 4095),
                            thing_id(82, 8 * tile + n), way * 1.57, phase=4.8 * t + n, variant="standing" if waiting else "")  # fmt: skip
            for n, way in enumerate((-1, 1)):  # cars from the side
                if not slot.chance(0.6 * self.density):
                    continue
                begin = slot.uniform(5.0, 9.0) + 20 / 8
                stop = (left - 8.0) if way > 0 else (right + 8.0)
                d = stop + way * max(begin - arrive, 0.0) * 8.0 if slot.chance(0.6) and lit else stop
                if abs(d) < 45:
                    yield Thing(
                        "car", middle - way * 1.9, d, slot.integer(0, 4095), thing_id(83, 2 * tile + n), way * 1.57
                    )
