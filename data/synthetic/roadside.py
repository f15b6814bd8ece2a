"""What stands along the road: houses, fences, trees, lamps, signs, parked cars; a function of seed and place."""

from __future__ import annotations

import math
from collections.abc import Iterator

from data.synthetic.dice import Dice
from data.synthetic.road import TILE_M, Road
from data.synthetic.thing import Thing, thing_id

__all__ = ["Roadside"]

HOUSE_M = {"city": 18.0, "suburb": 22.0}  # length of a building's slot


class Roadside:
    """The standing things of one road, a tile at a time."""

    def __init__(self, road: Road, seed: int, density: float) -> None:
        self.road, self.seed, self.density = road, seed, density
        dice = Dice(seed, "roadside")
        self.tree_kinds = [dice.choice(("round", "round", "tall", "cone")) for _ in range(2)]
        self.trees = dice.uniform(0.2, 0.9)
        self.fence = dice.choice(("picket", "wall", "hedge", "hedge", "none"))
        self.american = dice.chance(0.4)
        self.lamps = road.setting != "rural" or dice.chance(0.4)
        self._tiles: dict[int, list[Thing]] = {}

    def near(self, first: float, last: float) -> Iterator[Thing]:
        """The things of all tiles between two places."""
        if len(self._tiles) > 64:
            self._tiles.clear()
        for tile in range(int(first // TILE_M), int(last // TILE_M) + 1):
            if tile not in self._tiles:
                self._tiles[tile] = [*self._parked(tile), *self._walls(tile), *self._furniture(tile)]
            yield from self._tiles[tile]

    def _slots(self, tile: int, spacing: float) -> range:
        """The numbers of the slots that begin in a tile."""
        return range(math.ceil(tile * TILE_M / spacing), math.ceil((tile + 1) * TILE_M / spacing))

    def _parked(self, tile: int) -> Iterator[Thing]:
        road = self.road
        for side in (-1, 1):
            edge = road.right_m if side > 0 else road.left_m
            if road.parking:
                for k in self._slots(tile, 6.2):
                    slot = Dice(self.seed, "parked", side, k)
                    s = k * 6.2
                    if self.road.near_crossing(s, 15) or not slot.chance(0.55 * min(self.density, 1.2)):
                        continue
                    yaw = (0.0 if side > 0 or slot.chance(0.2) else math.pi) + slot.uniform(-0.05, 0.05)
                    yield Thing(
                        "car",
                        s + slot.uniform(-0.4, 0.4),
                        edge - side * 1.1,
                        slot.integer(0, 4095),
                        thing_id(40 + side, k),
                        yaw,
                    )
            if road.setting in ("suburb", "city", "rural"):
                for k in self._slots(tile, 27.0):
                    slot = Dice(self.seed, "drive", side, k)
                    if self.road.near_crossing(k * 27.0, 16) or not slot.chance(0.22 * self.density):
                        continue
                    d, number = edge + side * (road.sidewalk_m + 3.2), thing_id(45 + side, k)
                    yield Thing("car", k * 27.0, d, slot.integer(0, 4095), number,
                                side * slot.choice((1.57, -1.57, 1.2, -1.9)))  # fmt: skip
            if road.sidewalk_m:
                for k in self._slots(tile, 31.0):
                    slot = Dice(self.seed, "rack", side, k)
                    if slot.chance(0.16 * self.density):
                        for n in range(slot.integer(1, 4)):
                            yield Thing(
                                "bicycle",
                                k * 31.0 + 0.7 * n,
                                edge + side * 0.6,
                                slot.integer(0, 4095),
                                thing_id(50 + side * 2, 8 * k + n),
                                1.57 + slot.uniform(-0.25, 0.25),
                            )

    def _house(self, side: int, k: int) -> tuple[float, float, float, str, int] | None:
        """Distance from the sidewalk, gap to the neighbours, height, kind and seed of the house in a slot, if any."""
        city = self.road.setting == "city"
        step = HOUSE_M[self.road.setting]
        slot = Dice(self.seed, "house", side, k)
        middle = (k + 0.5) * step
        if self.road.near_crossing(middle, 5.6 + step / 2) or not slot.chance(0.92 if city else 0.8):
            return None
        ends = (middle - step / 2 + 1, middle + step / 2 - 1)
        if any(self.road.near_crossing(end, 5.6) for end in ends):
            return None
        if city:
            back, gap, tall = slot.uniform(1.0, 4.0), slot.choice((0.0, 0.0, 1.5)), slot.uniform(9, 26)
            return back, gap, tall, "shop" if slot.chance(0.5) else "flat", slot.integer(0, 63)
        return slot.uniform(6, 11), slot.uniform(3, 7), slot.uniform(4.5, 7), "house", slot.integer(0, 63)

    def _walls(self, tile: int) -> Iterator[Thing]:
        """Houses and fences."""
        road = self.road
        setting = road.setting
        for side in (-1, 1):
            edge = (road.right_m if side > 0 else road.left_m) + side * road.sidewalk_m
            step = HOUSE_M.get(setting, 0.0)
            for k in self._slots(tile, step) if step else ():
                if (house := self._house(side, k)) is None:
                    continue
                back, gap, tall, variant, seed = house
                before = self._house(side, k - 1)
                hidden = before is not None and not gap and not before[1] and before[0] <= back and before[2] >= tall
                s, d, length = k * step + gap, edge + side * back, step - 2 * gap
                yield Thing("building", s, d, seed, 0, 0.0, float(hidden), length, tall, variant)
            kind = {"highway": "rail"}.get(setting, self.fence if setting != "city" else "none")
            if setting == "highway" and Dice(self.seed, "barrier", side).chance(0.3):
                kind = "wall"
            if kind != "none":
                for k in self._slots(tile, 8.0):
                    slot = Dice(self.seed, "fence", side, k // 4)
                    if self.road.near_crossing(k * 8.0 + 4, 12) or (setting != "highway" and not slot.chance(0.6)):
                        continue
                    tall = {"rail": 0.8, "wall": 1.6, "picket": 1.1, "hedge": 1.5}[kind]
                    yield Thing(
                        "fence",
                        k * 8.0,
                        edge + side * (0.9 if setting == "highway" else 0.5),
                        slot.integer(0, 3),
                        length=8.0,
                        height=tall,
                        variant=kind,
                    )
        if road.median_m:
            for k in self._slots(tile, 8.0):
                yield Thing("fence", k * 8.0, 0.0, 2, length=8.0, height=0.85, variant=("rail", "wall")[self.seed % 2])

    def _furniture(self, tile: int) -> Iterator[Thing]:
        """Trees, lamps, signs and gantries."""
        road = self.road
        setting = road.setting
        for side in (-1, 1):
            edge = (road.right_m if side > 0 else road.left_m) + side * road.sidewalk_m
            step = 9.0
            for k in self._slots(tile, step):
                slot = Dice(self.seed, "tree", side, k)
                s = k * step + slot.uniform(-2.5, 2.5)
                if self.road.near_crossing(s, 13) or not slot.chance(
                    self.trees * {"city": 0.45, "suburb": 0.8, "rural": 0.9, "highway": 0.8}[setting]
                ):
                    continue
                back = {
                    "city": -0.8,
                    "suburb": slot.uniform(1.0, 5.0),
                    "rural": slot.uniform(2.5, 14),
                    "highway": slot.uniform(4, 18),
                }[setting]
                bush = slot.chance(0.25) and setting != "city"
                kind = "bush" if bush else slot.choice(self.tree_kinds)
                tall = slot.uniform(0.9, 2.0) if bush else slot.uniform(4.5, 9.5)
                yield Thing("tree", s, edge + side * back, slot.integer(0, 5), height=tall, variant=kind)
            for k in self._slots(tile, 30.0):
                if (k + side) % 2 or (not self.lamps):
                    continue
                if not self.road.near_crossing(k * 30.0, 6.0):
                    yield Thing(
                        "lamp",
                        k * 30.0,
                        (road.right_m if side > 0 else road.left_m) + side * 0.55,
                        k,
                        yaw=float(side),
                        height=7.5,
                    )
            for k in self._slots(tile, 24.0):
                slot = Dice(self.seed, "sign", side, k)
                s = k * 24.0 + slot.uniform(-6, 6)
                if self.road.near_crossing(s, 12) or not slot.chance(0.45 if side > 0 else 0.18):
                    continue
                common = (
                    ("limit_us", "diamond", "warning", "stop")
                    if self.american
                    else ("limit", "warning", "no_parking", "blue", "priority", "no_entry")
                )
                urban = ("parking", "zebra", "street", "no_parking") if road.sidewalk_m else ("guide", "chevron")
                yield Thing(
                    "sign",
                    s,
                    (road.right_m if side > 0 else road.left_m) + side * 0.6,
                    slot.integer(0, 99),
                    thing_id(90 + side, k),
                    variant=slot.choice(common + urban),
                )
        if road.median_m:
            for k in self._slots(tile, 190.0):
                yield Thing("gantry", k * 190.0 + 60, road.lane_d(0), k % 50, thing_id(95, 4 * k), height=5.6)
