"""What stands and moves along the road: a pure function of the seed, the time and where one looks.

Everything lives in numbered slots, on lanes whose traffic shares one mean speed, so that nothing has a history: slot k
of a lane is where it is at time t, in a drive of any length, and its number makes its track id.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
        self.density = dice.uniform(0.5, 1.15) if density is None else density
        fast = {"city": 10.0, "suburb": 11.5, "rural": 19.0, "highway": 27.0}[road.setting]
        self.speed = fast * dice.uniform(0.8, 1.15)
        self.lane = dice.integer(0, road.lanes_right - 1)
        self.start = dice.uniform(0, 5000)
        self.sway = dice.uniform(0, 6.28)
        self.people = {"city": 1.0, "suburb": 0.5, "rural": 0.05, "highway": 0.0}[road.setting] * self.density
        self.roadside = Roadside(road, seed, self.density)

    def ego(self, t: float) -> tuple[float, float]:
        """(s, d) of the camera at time t."""
        s = self.start + self.speed * t + 2.5 * math.sin(0.35 * t + self.sway)
        return s, self.road.lane_d(self.lane) + 0.18 * math.sin(0.5 * t + self.sway)

    def things(self, t: float) -> Iterator[Thing]:
        """All that may be seen at time t, in no order."""
        here = self.ego(t)[0]
        if self.density <= 0:
            return
        yield from self._traffic(t, here)
        yield from self._walkers(t, here)
        yield from self._cyclists(t, here)
        yield from self._junctions(t, here)
        yield from self.roadside.near(here - BEHIND_M - 20, here + AHEAD_M)

    def _slots(self, here: float, spacing: float, moved: float = 0.0, ahead: float = AHEAD_M) -> range:
        return range(int((here - BEHIND_M - moved) // spacing) - 1, int((here + ahead - moved) // spacing) + 1)

    def _traffic(self, t: float, here: float) -> Iterator[Thing]:
        """Vehicles in their lanes. In ours the slots around us stay empty."""
        road = self.road
        apart = 1.8 if road.setting in ("rural", "highway") else 1.0
        kinds = ("car",) * 15 + ("truck",) * (5 if road.setting == "highway" else 3)
        kinds += ("bus",) * (2 if road.setting == "city" else 1)
        for lane in range(-road.lanes_left, road.lanes_right):
            dice = Dice(self.seed, "lane", lane)
            along = 1 if lane >= 0 else -1
            speed = self.speed * (1.0 if lane == self.lane else dice.uniform(0.85, 1.2)) * along
            spacing = dice.uniform(22, 36) * apart / min(max(self.density, 0.3), 1.1)
            moved = speed * t
            for k in self._slots(here, spacing, moved):
                slot = Dice(self.seed, "vehicle", lane, k)
                if slot.chance(0.2):
                    continue
                kind = "motorcycle" if slot.chance(0.1 / apart) else slot.choice(kinds)
                rest = k * spacing + slot.uniform(-0.08, 0.08) * spacing  # where it would be at t = 0
                if lane == self.lane and abs(rest - self.start) < (17.0 if kind in ("truck", "bus") else 12.0):
                    continue
                s = rest + moved + slot.uniform(0.2, 1.2) * math.sin(slot.uniform(0.2, 0.5) * t + slot.uniform(0, 6.28))
                d, seed, yaw = (
                    road.lane_d(lane) + slot.uniform(-0.25, 0.25),
                    slot.integer(0, 4095),
                    math.pi * (along < 0),
                )
                yield Thing(kind, s, d, seed, thing_id(20 + lane, k), yaw, braking=slot.chance(0.2))

    def _walkers(self, t: float, here: float) -> Iterator[Thing]:
        """People on the sidewalks, alone or in pairs."""
        road = self.road
        if not road.sidewalk_m:
            return
        spacing = 10.0 / max(self.people, 0.1)
        for side, way in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            edge = road.right_m if side > 0 else road.left_m
            moved = 1.3 * way * t
            for k in self._slots(here, spacing, moved, 75):
                slot = Dice(self.seed, "walker", side, way, k)
                if not slot.chance(0.45):
                    continue
                s = (k + slot.uniform()) * spacing + moved
                d = edge + side * slot.uniform(0.5, max(road.sidewalk_m - 0.3, 0.6))
                pair = slot.chance(0.2)
                for n in range(1 + pair):
                    seed, yaw = slot.integer(0, 4095), (0.0 if way > 0 else math.pi) + slot.uniform(-0.2, 0.2)
                    phase, number = 4.6 * t + slot.uniform(0, 6.28), thing_id(60 + 2 * side + way, 2 * k + n)
                    yield Thing("pedestrian", s + 0.1 * n, d + 0.55 * n * side, seed, number, yaw, phase)

    def _cyclists(self, t: float, here: float) -> Iterator[Thing]:
        """Cyclists at the edges of the outer lanes."""
        road = self.road
        if road.setting == "highway":
            return
        spacing = 55.0 / max(self.density, 0.3)
        for way in (-1, 1):
            moved = 4.6 * way * t
            edge = road.right_m - road.shoulder_m - 0.45 if way > 0 else road.left_m + road.shoulder_m + 0.45
            for k in self._slots(here, spacing, moved, 110):
                slot = Dice(self.seed, "cyclist", way, k)
                if not slot.chance(0.55):
                    continue
                s, d = (k + slot.uniform(0, 0.5)) * spacing + moved, edge + slot.uniform(-0.15, 0.25)
                seed, phase = slot.integer(0, 4095), 5.5 * t + slot.uniform(0, 6)
                if abs(s - here) > 3:
                    yaw = 0.0 if way > 0 else math.pi
                    yield Thing("cyclist", s, d, seed, thing_id(70 + 2 * way, k), yaw, phase)

    def _junctions(self, t: float, here: float) -> Iterator[Thing]:
        """Traffic lights or a sign, people who cross, and cars from the side."""
        road = self.road
        for tile in range(int((here - 10) // TILE_M), int((here + AHEAD_M) // TILE_M) + 1):
            if not road.is_crossing(tile):
                continue
            slot = Dice(self.seed, "junction", tile)
            middle = road.crossing_s(tile)
            arrive = (middle - self.start) / self.speed - t  # seconds until we are there
            left, right = road.left_m - 0.7, road.right_m + 0.7
            lit, early, always = slot.chance(0.75), slot.uniform(2.5, 7.0), slot.chance(0.3)
            mast, priority = slot.chance(0.4), slot.choice(("priority", "yield", "stop", "zebra"))
            if lit:
                state = 2.0 if arrive < early or always else 1.0 if arrive < early + 1.2 else 0.0
                posts = [(-9.4, right, "post"), (7.0, right, "post"), (7.0, left, "post"), (-7.0, left, "post")]
                posts += [(7.2, right, "mast")] * (road.lanes_right > 1 or mast)
                for n, (ds, d, variant) in enumerate(posts):
                    yield Thing("light", middle + ds, d, n, thing_id(80, 8 * tile + n), phase=state, variant=variant)
            else:
                yield Thing("sign", middle - 10.0, right, tile % 7, thing_id(81, tile), variant=priority)
            for n in range(slot.integer(0, 5)):  # people crossing before we come, or waiting
                pace, way, begin = slot.uniform(1.1, 1.6), slot.choice((-1, 1)), slot.uniform(4.0, 11.0)
                ds, seed = slot.uniform(-1.0, 1.0), slot.integer(0, 4095)
                gone = way * pace * (begin + (right - left) / pace - arrive) if lit else -1.0 * way
                d = min(max((left if way > 0 else right) + gone, left - 0.3), right + 0.3)
                variant = "standing" if d < left or d > right else ""
                at, number = middle - 6.6 + ds, thing_id(82, 8 * tile + n)
                yield Thing("pedestrian", at, d, seed, number, way * 1.57, phase=4.8 * t + n, variant=variant)
            for n, way in enumerate((-1, 1)):  # cars from the side, which pass before we come, or wait
                here_too, passes, begin = slot.chance(0.6 * self.density), slot.chance(0.6), slot.uniform(7.5, 11.5)
                seed = slot.integer(0, 4095)
                d = (left - 8.0) if way > 0 else (right + 8.0)
                if passes and lit:
                    d += way * max(begin - arrive, 0.0) * 8.0
                if here_too and abs(d) < 45:
                    yield Thing("car", middle - way * 1.9, d, seed, thing_id(83, 2 * tile + n), way * 1.57)
