"""Sky and far skyline: one wide picture a drive, of which each frame shows the part in its heading."""

from __future__ import annotations

import cv2
import numpy as np

from data.synthetic.camera import View
from data.synthetic.canvas import SCENE, Canvas
from data.synthetic.dice import Dice
from data.synthetic.light import Look

__all__ = ["Sky"]


def _fractal(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """(h, w) float32 cloud-like noise in about [-1, 1]."""
    total = np.zeros(hw, np.float32)
    for octave in range(5):
        cells = (2 ** (octave + 1) + 1, 2 ** (octave + 2) + 1)
        noise = rng.standard_normal(cells, np.float32)
        total += cv2.resize(noise, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    return total * 0.6


class Sky:
    """The background of one drive."""

    def __init__(self, hw: tuple[int, int], focal_px: float, horizon_px: float, look: Look, setting: str, seed: int):
        dice = Dice(seed, "sky")
        rng = dice.generator()
        self.h = max(int(horizon_px + 0.12 * hw[0]) + 2, 4)
        self.w = int(hw[1] + focal_px * 2.4)
        self.horizon, self.focal = horizon_px, focal_px
        v = (np.arange(self.h, dtype=np.float32) + 0.5) / horizon_px  # 1 at the horizon
        up = np.clip(v, 0, 1)[:, None, None] ** 1.6
        image = look.sky_top * (1 - up) + look.sky_low * up + np.zeros((self.h, self.w, 1), np.float32)
        quarter = (max(self.h // 2, 2), max(self.w // 2, 2))
        shape = np.clip(_fractal(rng, quarter) + look.clouds - 0.55, 0, 0.8)
        thick = cv2.resize(cv2.resize(shape, None, fx=1, fy=1), (self.w, self.h))[..., None] * min(look.clouds * 1.6, 1)
        lit = np.clip(look.sky_low * 0.75 + look.sun * 110, 0, 255) * (0.85 + 0.15 * rng.random())
        image += (lit - image) * thick * (1.0 - 0.5 * np.clip(v, 0, 1)[:, None, None] ** 3)
        azimuth, height = float(np.arctan2(look.sun_dir[0], look.sun_dir[2])), float(look.sun_dir[1])
        if look.condition in ("day", "dusk") and float(look.sun.sum()) > 0.5:
            su, sv = self.w / 2 + focal_px * azimuth, horizon_px - focal_px * np.tan(np.arcsin(height))
            y, x = np.mgrid[: self.h : 2, : self.w : 2].astype(np.float32)
            r = np.sqrt((x - su) ** 2 + (y - sv) ** 2) / focal_px
            halo = 150 * np.exp(-r / 0.16) + 400 * np.exp(-((r / 0.028) ** 2))
            image += cv2.resize(halo, (self.w, self.h))[..., None] * look.sun / max(float(look.sun.max()), 1e-6)
        if look.condition == "night":
            for _ in range(60):
                star = (dice.integer(0, self.h - 1), dice.integer(0, self.w - 1))
                image[star] += dice.uniform(10, 90) * (1 - look.clouds)
        self.owner = np.full((self.h, self.w), SCENE["sky"], np.uint8)
        self._skyline(image, look, setting, Dice(seed, "skyline"))
        self.image = np.clip(image + rng.normal(0, 0.7, (self.h, self.w, 1)), 0, 255).astype(np.uint8)

    def _skyline(self, image: np.ndarray, look: Look, setting: str, dice: Dice) -> None:
        """Hills, far woods, and far blocks in a city, back to front."""
        rng, windows = dice.generator(), dice.generator()
        x = np.arange(self.w, dtype=np.float32)
        rows = np.arange(self.h)[:, None]
        light = look.ambient + 0.4 * look.sun
        tall = self.focal
        for far, (green, height) in enumerate(((0.35, 0.060), (0.6, 0.034))):
            z = (900.0, 320.0)[far]
            ridge = sum(
                np.sin(x / tall * dice.uniform(2, 14) + dice.uniform(0, 6)) * dice.uniform(0.1, 0.5) for _ in range(4)
            )
            rough = cv2.resize(rng.standard_normal((1, max(self.w // (3 + 4 * (1 - far)), 2)), np.float32), (self.w, 1))
            top = self.horizon - tall * height * (0.55 + 0.3 * ridge) - rough[0] * tall * 0.003 * (1 + far)
            inside = rows > top[None]
            colour = look.mix(np.array([70, 95, 78]) * green + np.array([95, 85, 80]) * (1 - green), light, z * 0.8)
            speckle = rng.normal(0, 3.0, (self.h, self.w, 1)) * look.clear(z)
            np.copyto(image, colour + speckle, where=inside[..., None])
            self.owner[inside] = SCENE["vegetation"]
            if setting == "city" and far == 0:
                left = 0
                while left < self.w:
                    wide = int(tall * dice.uniform(0.02, 0.09)) + 1
                    if dice.chance(0.75):
                        top_px = max(int(self.horizon - tall * dice.uniform(0.02, 0.16)), 0)
                        block = (slice(top_px, self.h), slice(left, left + wide))
                        grey = dice.uniform(75, 150)
                        image[block] = look.mix(np.array([grey * 1.05, grey, grey * 0.97]), light, 420.0)
                        if look.lights > 0.2:
                            lit = windows.random(
                                (len(range(*block[0].indices(self.h))), len(range(left, min(left + wide, self.w))))
                            )
                            image[block][lit > 1 - 0.06 * look.lights] = (90, 150, 190)
                        self.owner[block] = SCENE["building"]
                    left += wide

    def draw(self, canvas: Canvas, view: View) -> None:
        """Paint the part in view, and fill below it with the colour of the far distance."""
        heading = (view.heading0 + np.pi) % (2 * np.pi) - np.pi
        left = int(np.clip(self.w / 2 + self.focal * heading - canvas.hw[1] / 2, 0, self.w - canvas.hw[1]))
        shift = round(view.cy - self.horizon)
        columns = slice(left, left + canvas.hw[1])
        first, rows = max(shift, 0), min(self.h + shift, canvas.hw[0])
        if rows > first:
            canvas.image[first:rows] = self.image[first - shift : rows - shift, columns]
            canvas.owner[first:rows] = self.owner[first - shift : rows - shift, columns]
        canvas.image[:first] = self.image[0, columns]
        canvas.image[max(rows, 0) :] = self.image[-1, columns]
        canvas.owner[max(rows, 0) :] = SCENE["vegetation"]
