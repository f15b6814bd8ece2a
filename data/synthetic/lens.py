"""What the lens, the weather before it and the sensor do to a picture."""

from __future__ import annotations

import cv2
import numpy as np

from data.synthetic.canvas import SCENE, Canvas
from data.synthetic.dice import Dice
from data.synthetic.light import Look

__all__ = ["Lens"]

NOISES = 4


class Lens:
    """Reflections on a wet road, rain, bloom, vignette, contrast and noise of one drive."""

    def __init__(self, hw: tuple[int, int], look: Look, seed: int) -> None:
        dice = Dice(seed, "lens")
        rng = dice.generator()
        h, w = hw
        self.hw, self.look = hw, look
        strength = {"night": 5.0, "dusk": 3.2, "rain": 2.6, "fog": 2.2}.get(look.condition, 1.8) * dice.uniform(
            0.5, 1.5
        )
        grain = rng.normal(0, strength, (h + 64, w + 64, 1)) + rng.normal(0, strength * 0.5, (h + 64, w + 64, 3))
        self.noise = np.clip(grain + 128, 0, 255).astype(np.uint8)
        y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        fall = 1 - dice.uniform(0.05, 0.28) * np.clip(x * x + y * y, 0, 2) / 2
        self.vignette = np.repeat(np.clip(fall * 255, 0, 255)[..., None], 3, 2).astype(np.uint8)
        steps = np.arange(256) / 255
        gamma, contrast = dice.uniform(0.88, 1.12), dice.uniform(0.0, 0.5)
        curve = steps**gamma
        curve = curve * (1 - contrast) + (curve * curve * (3 - 2 * curve)) * contrast
        tint = np.array([dice.uniform(0.95, 1.05), 1.0, dice.uniform(0.95, 1.05)])
        self.curve = np.clip(curve[:, None] * tint * 255, 0, 255).astype(np.uint8)[None]
        self.blur = dice.uniform(0.0, 0.75) if min(hw) > 64 else 0.0
        self.rain = [self._streaks(rng) for _ in range(3)] if look.condition == "rain" else []

    def _streaks(self, rng: np.random.Generator) -> np.ndarray:
        h, w = self.hw
        image = np.zeros((h, w), np.uint8)
        for _ in range(int(h * w / 900)):
            x, y, length = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.02, 0.09) * h
            cv2.line(
                image,
                (int(x), int(y)),
                (int(x + 0.12 * length), int(y + length)),
                int(rng.uniform(14, 60)),
                1,
                cv2.LINE_AA,
            )
        return np.repeat(cv2.GaussianBlur(image, (3, 3), 0)[..., None], 3, 2)

    def expose(self, canvas: Canvas, horizon: float, frame: int, seed: int) -> None:
        """Turn the painted picture into a photograph, in place."""
        dice = Dice(seed, "exposure", frame)
        image = canvas.image
        if self.look.wet > 0.2:
            self._reflect(canvas, horizon)
        if self.look.lights > 0.4:
            small = (
                cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) if min(self.hw) >= 16 else image
            )
            bright = cv2.GaussianBlur(cv2.subtract(small, np.full_like(small, 170)), (0, 0), 4)
            cv2.add(image, cv2.resize(bright, (self.hw[1], self.hw[0])), dst=image)
        if self.rain:
            streaks = self.rain[dice.integer(0, 2)]
            cv2.add(image, np.roll(streaks, dice.integer(0, self.hw[1]), 1), dst=image)
        if self.blur > 0.3:
            cv2.GaussianBlur(image, (3, 3), self.blur, dst=image)
        cv2.multiply(image, self.vignette, dst=image, scale=1 / 255)
        cv2.LUT(image, self.curve, dst=image)
        y, x = dice.integer(0, 63), dice.integer(0, 63)
        h, w = self.hw
        cv2.addWeighted(image, 1, self.noise[y : y + h, x : x + w], 1, -128, dst=image)

    def _reflect(self, canvas: Canvas, horizon: float) -> None:
        """Mirror what stands above the horizon in the wet road."""
        h, w = self.hw
        row = int(np.clip(horizon, 1, h - 1)) + max(h // 60, 1)
        depth = min(row, h - row)
        if depth < 2:
            return
        small = cv2.resize(
            canvas.image[row - depth : row], (max(w // 4, 1), max(depth // 2, 1)), interpolation=cv2.INTER_AREA
        )
        mirror = cv2.blur(small[::-1], (3, max(depth // 10, 1)))
        mirror = cv2.resize(mirror, (w, depth))
        area = canvas.image[row : row + depth]
        strength = 0.38 * self.look.wet * np.linspace(1, 0, depth, dtype=np.float32) ** 0.6
        ground = canvas.owner[row : row + depth]
        road = (ground == SCENE["road"]) | (ground == SCENE["lane marking"])
        keep = cv2.resize(((1 - strength) * 255).astype(np.uint8)[:, None], (w, depth))
        keep = cv2.merge([keep] * 3)
        mixed = cv2.add(
            cv2.multiply(area, keep, scale=1 / 255), cv2.multiply(mirror, cv2.bitwise_not(keep), scale=1 / 255)
        )
        cv2.copyTo(mixed, road.view(np.uint8), area)
