"""The ground: a textured road surface with its markings, seen in perspective, and the class of every point of it.

The surface is a few tiles of TILE_M, each painted from above once, at four levels of detail. A picture row sees one
depth, so that one `remap` a level paints it. Levels get four times coarser along the road and twice across, as
perspective wants.
"""

from __future__ import annotations

import cv2
import numpy as np

from data.synthetic.camera import View
from data.synthetic.canvas import SCENE, Canvas
from data.synthetic.dice import Dice
from data.synthetic.light import BEAM, Look
from data.synthetic.road import TILE_M, Road

__all__ = ["Ground"]

HALF_M = 16.0  # the finest level covers this much on either side
ACROSS_M, ALONG_M = 0.025, 0.05  # a texel of the finest level, for pictures of the usual size
LEVELS = 4
PLAIN, WORN, CROSSING = range(3)  # kinds of tile
PAD = 2  # rows repeated on either side of a tile, for interpolation


def _blotches(rng: np.random.Generator, hw: tuple[int, int], cells: tuple[int, int], strength: float) -> np.ndarray:
    """(h, w) float32 smooth noise of mean 0."""
    small = rng.standard_normal(cells, np.float32)
    return cv2.resize(small, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC) * strength


class Ground:
    """The surface of one road."""

    def __init__(self, road: Road, look: Look, seed: int, width_px: int = 640) -> None:
        """`width_px` of the pictures: small ones need less detail."""
        self.road, self.look = road, look
        coarse = 1 if width_px > 400 else 2 if width_px > 128 else 4
        self.across_m, self.along_m = ACROSS_M * coarse, ALONG_M * coarse
        self.rows, self.cols = round(TILE_M / self.along_m), round(2 * HALF_M / self.across_m)
        dice = Dice(seed, "ground")
        self.rng = dice.generator()
        self.asphalt = dice.uniform(70, 125) * (0.72 if look.wet else 1.0) + dice.uniform(-4, 4) * np.array([1, 0, -1])
        self.pavement = np.array(dice.choice(((150, 156, 160), (128, 138, 150), (120, 128, 132), (140, 150, 170))))
        grass = [(52, 110, 88), (60, 125, 110), (70, 140, 140), (85, 120, 130), (48, 92, 70)]
        self.verge = np.array(dice.choice(grass)) if road.setting != "city" else np.array(
            dice.choice([*grass, (120, 130, 135), (105, 115, 125)])
        )  # fmt: skip
        self.verge_class = SCENE["terrain"]
        self.white = dice.uniform(205, 240)
        self.wear = dice.uniform(0.0, 0.45)
        tiles = [self._tile(kind, dice) for kind in (PLAIN, WORN, CROSSING)]
        self.labels = np.concatenate([label for _, label in tiles])
        self.levels = self._levels([image for image, _ in tiles])

    # ------------------------------------------------------------------------------------------ painting from above

    def _col(self, d: float) -> int:
        return int(np.clip(round((d + HALF_M) / self.across_m), 0, self.cols))

    def _tile(self, kind: int, dice: Dice) -> tuple[np.ndarray, np.ndarray]:
        """One tile from above: (rows, cols, 3) uint8 image and (rows, cols) uint8 scene classes. Rows go along s."""
        road, rows, cols = self.road, self.rows, self.cols
        left, right = self._col(road.left_m), self._col(road.right_m)
        label = np.full((rows, cols), self.verge_class, np.uint8)
        label[:, left:right] = SCENE["road"]
        image = np.empty((rows, cols, 3), np.float32)
        image[:] = self.verge
        rng = self.rng
        image += (_blotches(rng, (rows, cols), (40, 54), 9) + _blotches(rng, (rows, cols), (240, 320), 11))[..., None]
        image[:, left:right] = self.asphalt
        grain = rng.standard_normal((rows, right - left), np.float32) * 5.0
        grain += _blotches(rng, grain.shape, (12, 9), 3.0)
        d = (np.arange(left, right) + 0.5) * self.across_m - HALF_M
        for lane in range(-road.lanes_left, road.lanes_right):
            offset = d - road.lane_d(lane)
            for track in (-0.8, 0.8):
                grain -= 6.0 * np.exp(-(((offset - track) / 0.28) ** 2))
            grain -= 4.0 * np.exp(-((offset / 0.25) ** 2))
        surface = image[:, left:right]
        surface += grain[..., None]
        for _ in range(dice.integer(0, 2) + 3 * (kind == WORN)):  # repairs
            y, x = dice.integer(0, rows - 1), dice.integer(0, right - left)
            h, w = dice.integer(30, 200), dice.integer(20, 120)
            surface[y : y + h, x : x + w] += dice.uniform(-16, 12)
        for _ in range(3 + 8 * (kind == WORN)):  # cracks
            walk = np.cumsum(rng.normal([dice.uniform(-3, 3), 4], [4, 3], (dice.integer(8, 40), 2)), 0)
            walk += [dice.integer(0, right - left), dice.integer(0, rows)]
            cv2.polylines(surface, [walk.astype(np.int32)], False, (self.asphalt * 0.62).tolist(), 1, cv2.LINE_AA)
        for _ in range(2 if road.sidewalk_m else 0):  # manholes
            centre = (dice.integer(right // 9, right - left - right // 9), dice.integer(20, rows - 20))
            cv2.ellipse(surface, centre, (13, 7), 0, 0, 360, (self.asphalt * 0.6).tolist(), -1, cv2.LINE_AA)
            cv2.ellipse(surface, centre, (11, 6), 0, 0, 360, (self.asphalt * 0.8).tolist(), 1, cv2.LINE_AA)
        self._sides(image, label)
        self._markings(image, label, kind)
        return np.clip(image, 0, 255).astype(np.uint8), label

    def _sides(self, image: np.ndarray, label: np.ndarray) -> None:
        """Kerb and sidewalk, or a gravel shoulder; the median of a highway."""
        road, rng = self.road, self.rng
        for side, edge in ((-1, road.left_m), (1, road.right_m)):
            if road.sidewalk_m:
                a, b = sorted((self._col(edge), self._col(edge + side * road.sidewalk_m)))
                slabs = np.zeros((self.rows, b - a), np.float32) + _blotches(rng, (self.rows, b - a), (32, 6), 5)
                slabs += rng.standard_normal(slabs.shape, np.float32) * 3
                slabs[:: round(0.9 / self.along_m)] -= 22
                slabs[:, :: round(0.6 / self.across_m)] -= 16
                image[:, a:b] = self.pavement + slabs[..., None]
                label[:, a:b] = SCENE["sidewalk"]
                k, m = sorted((self._col(edge), self._col(edge + side * 0.2)))
                image[:, k:m] = self.pavement * 1.12 + 6
                image[:: round(1.2 / self.along_m), k:m] -= 35
                g, e = sorted((self._col(edge), self._col(edge - side * 0.1)))
                image[:, g:e] *= 0.6
            else:
                a, b = sorted((self._col(edge), self._col(edge + side * 0.7)))
                gravel = np.array([118, 128, 138]) + rng.standard_normal((self.rows, b - a, 1)) * 14
                ramp = np.linspace(1, 0, b - a)[::side, None] * 0.8
                image[:, a:b] = image[:, a:b] * (1 - ramp) + gravel * ramp
        if road.median_m:
            a, b = self._col(-road.median_m + 0.35), self._col(road.median_m - 0.35)
            image[:, a:b] = np.array([105, 112, 115]) + rng.standard_normal((self.rows, b - a, 1)) * 6
            label[:, a:b] = SCENE["terrain"]

    def _markings(self, image: np.ndarray, label: np.ndarray, kind: int) -> None:
        """Lines along the road and, in a crossing, what junctions have."""
        road = self.road
        paint = np.zeros(label.shape, np.uint8)  # 1 white, 2 yellow

        def line(d: float, dashed: bool, colour: int = 1, width: float = 0.14) -> None:
            a = self._col(d - width / 2)
            strip = paint[:, a : a + max(round(width / self.across_m), 1)]
            if dashed:
                s = (np.arange(self.rows) + 0.5) * self.along_m % road.dash_period_m
                strip[s < road.dash_m] = colour
            else:
                strip[:] = colour

        middle = 2 if road.yellow else 1
        if road.median_m:
            line(road.median_m - 0.1, False, middle, 0.18)
            line(-road.median_m + 0.1, False, middle, 0.18)
        elif road.middle in ("double", "mixed"):
            line(-0.14, road.middle == "mixed", middle)
            line(0.14, False, middle)
        elif road.middle != "none":
            line(0.0, road.middle == "dashed", middle)
        for lane in range(1, road.lanes_right):
            line(road.median_m + lane * road.lane_m, True)
        for lane in range(1, road.lanes_left):
            line(-road.median_m - lane * road.lane_m, True)
        if road.edge_lines or road.parking:
            line(road.right_m - road.shoulder_m, road.parking and not road.edge_lines)
            line(road.left_m + road.shoulder_m, road.parking and not road.edge_lines)
        if kind == CROSSING:
            self._crossing(image, label, paint)
        rows, cols = np.nonzero(paint)
        worn = _blotches(self.rng, (self.rows, self.cols), (120, 160), 1.0)[rows, cols]
        keep = np.clip(1 - self.wear * (0.6 + worn), 0.25, 1)[:, None]
        colours = np.array([[0, 0, 0], [self.white] * 3, [60, 190, 235]], np.float32)[paint[rows, cols]]
        image[rows, cols] = image[rows, cols] * (1 - keep) + (colours + self.rng.normal(0, 5, (len(rows), 1))) * keep
        label[rows, cols] = SCENE["lane marking"]

    def _crossing(self, image: np.ndarray, label: np.ndarray, paint: np.ndarray) -> None:
        """A side road across, zebra crossings before and behind it, and stop lines."""
        road = self.road

        def row(s: float) -> int:
            return round((s + TILE_M / 2) / self.along_m)

        half = 4.5  # of the side road
        left, right = self._col(road.left_m), self._col(road.right_m)
        paint[row(-half - 5) : row(half + 5)] = 0
        band = slice(row(-half), row(half))
        for a, b in ((0, left), (right, self.cols)):
            image[band, a:b] = self.asphalt + self.rng.standard_normal((band.stop - band.start, b - a, 1)) * 6
            label[band, a:b] = SCENE["road"]
        for s0 in (-half - 3.6, half + 0.6):
            bars = np.arange(left, right) * self.across_m % 1.0 < 0.5
            paint[row(s0) : row(s0 + 3.0), left:right][:, bars] = 1
        paint[row(-half - 5.2) : row(-half - 4.8), self._col(road.median_m + 0.1) : right] = 1
        paint[row(half + 4.8) : row(half + 5.2), left : self._col(-road.median_m - 0.1)] = 1

    def _levels(self, tiles: list[np.ndarray]) -> list[np.ndarray]:
        """Coarser and coarser tiles, stacked with padding; each as wide in texels as the first."""
        levels = []
        for level in range(LEVELS):
            rows, cols = max(self.rows // 4**level, 4), self.cols // 2**level
            stacked = []
            for index, tile in enumerate(tiles):
                small = cv2.resize(tile, (cols, rows), interpolation=cv2.INTER_AREA)
                if level:
                    wide = (self.cols - cols) // 2
                    spread = 10.0 if level < 3 else 5.0
                    noise = _blotches(self.rng, (rows, wide * 2), (max(rows // 2, 2), wide), spread)[..., None]
                    fill = np.clip(self.verge + noise, 0, 255)
                    small = np.concatenate([fill[:, :wide], small, fill[:, wide:]], 1).astype(np.uint8)
                    if index == CROSSING:
                        band = slice(int(rows * 0.41), max(int(rows * 0.59), int(rows * 0.41) + 1))
                        small[band, :wide] = self.asphalt
                        small[band, -wide:] = self.asphalt
                stacked.append(np.concatenate([small[-PAD:], small, small[:PAD]]))
            levels.append(np.concatenate(stacked))
        return levels

    # ------------------------------------------------------------------------------------------ seen by the camera

    def _tile_of(self, s: np.ndarray) -> np.ndarray:
        """Kind of tile at s."""
        numbers = np.floor(s / TILE_M).astype(np.int64)
        kinds = {int(n): CROSSING if self.road.is_crossing(int(n)) else int(n) % 2 for n in np.unique(numbers)}
        return np.array([kinds[int(n)] for n in numbers])

    def draw(self, canvas: Canvas, view: View) -> None:
        """Paint all rows that see ground."""
        rows = view.ground()
        if not len(rows.z):
            return
        ray = ((np.arange(canvas.hw[1], dtype=np.float32) + 0.5 - view.cx) / view.f)[None]  # (1, W)
        x = rows.z[:, None] * ray  # (R, W) camera space
        offset = x - rows.x[:, None]
        d = offset * rows.cos[:, None]
        tile = self._tile_of(rows.s)
        within = (rows.s % TILE_M).astype(np.float32)[:, None] + offset * rows.sin[:, None]
        np.clip(within, 0, TILE_M - 1e-3, out=within)
        image, owner = canvas.image[rows.top :], canvas.owner[rows.top :]
        footprint = rows.z**2 / (view.f * view.height_m)  # metres along the road in a pixel
        level_of = np.clip(np.round(np.log(np.maximum(footprint / self.along_m, 1e-3)) / np.log(4)), 0, LEVELS - 1)
        for level in range(LEVELS):
            chosen = np.flatnonzero(level_of == level)
            if not len(chosen):
                continue
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            size = max(self.rows // 4**level, 4)
            across = d[part] * np.float32(1 / (self.across_m * 2**level)) + np.float32(self.cols / 2 - 0.5)
            along = within[part] * np.float32(size / TILE_M)
            along += (tile[part] * (size + 2 * PAD) + PAD - 0.5).astype(np.float32)[:, None]
            image[part] = cv2.remap(self.levels[level], across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        across = d * np.float32(1 / self.across_m) + np.float32(self.cols / 2 - 0.5)
        along = within * np.float32(1 / self.along_m) + (tile * self.rows - 0.5).astype(np.float32)[:, None]
        owner[:] = cv2.remap(self.labels, across, along, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        self._light(image, x, rows.z)

    def _light(self, image: np.ndarray, x: np.ndarray, z: np.ndarray) -> None:
        """Light and distance, in place."""
        look = self.look
        base = look.ambient + look.sun * max(float(look.sun_dir[1]), 0.15)
        clear = look.clear_many(z)[:, None]  # (R, 1)
        light = np.broadcast_to(base * clear, (len(z), 3))[:, None]  # (R, 1, 3)
        if look.headlights > 0.2:
            coarse = x[:, ::4]
            beam = look.beam_many(coarse, np.broadcast_to(z[:, None], coarse.shape)) * clear
            light = light + beam[..., None] * BEAM
        gain = (np.minimum(light, 2) * 127.5).astype(np.uint8)
        cv2.multiply(image, cv2.resize(gain, image.shape[1::-1]), dst=image, scale=1 / 127.5)
        veil = (look.fog * (1 - clear))[:, None].astype(np.uint8)
        cv2.add(image, cv2.resize(veil, image.shape[1::-1], interpolation=cv2.INTER_NEAREST), dst=image)
