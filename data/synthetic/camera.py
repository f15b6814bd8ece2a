"""The camera: where points of the road's world fall in the picture, and which ground each picture row sees.

Camera space: x right, y up from the road under the camera, z forward; metres. Picture: u right, v down; pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic.road import Road

__all__ = ["FAR_M", "NEAR_M", "GroundRows", "View"]

NEAR_M, FAR_M = 0.4, 240.0
STEPS_M = np.concatenate([np.arange(-24, 40, 2.0), np.arange(40, 120, 4.0), np.arange(120, 321, 8.0)])  # s from the ego


@dataclass(frozen=True)
class GroundRows:
    """For R picture rows from `top` down to the bottom: the ground that they see along the middle of the road."""

    top: int
    z: np.ndarray  # (R,) float32 depth
    s: np.ndarray  # (R,) float64 along the road
    x: np.ndarray  # (R,) float32 x of the middle of the road
    cos: np.ndarray  # (R,) float32 of the heading
    sin: np.ndarray  # (R,) float32


class View:
    """What the camera sees at one moment: the course of the road in camera space and the projection."""

    def __init__(
        self, road: Road, hw: tuple[int, int], s: float, d: float, *, focal: float, horizon: float, height_m: float,
        yaw: float = 0.0,
    ) -> None:  # fmt: skip
        """Stand at (s, d) on `road`; `focal` in picture widths (the longer side), `horizon` as a part of the height.

        `yaw` is how far the camera looks to the right of the road's course, radians.
        """
        self.hw, self.road, self.s, self.d, self.height_m = hw, road, s, d, height_m
        self.f = focal * max(hw[1], hw[0] * 1.2)
        self.cx, self.cy = hw[1] / 2, hw[0] * horizon
        self.grid_s = s + STEPS_M
        here = np.array([s, s + 0.5])
        self.heading0 = float(road.heading(here)[0]) + yaw
        height = road.height(here)
        slope = float(height[1] - height[0]) * 2
        theta = road.heading(self.grid_s) - self.heading0
        step = np.diff(STEPS_M)
        zero = int(np.flatnonzero(STEPS_M == 0)[0])
        x = np.concatenate([[0.0], np.cumsum(0.5 * (np.sin(theta[1:]) + np.sin(theta[:-1])) * step)])
        z = np.concatenate([[0.0], np.cumsum(0.5 * (np.cos(theta[1:]) + np.cos(theta[:-1])) * step)])
        self.grid_theta = theta
        self.grid_x, self.grid_z = x - x[zero] - d * np.cos(yaw), z - z[zero] - d * np.sin(yaw)
        self.grid_y = road.height(self.grid_s) - float(height[0]) - 0.9 * slope * STEPS_M
        ahead = self.grid_z > NEAR_M
        rows = self.cy + self.f * (height_m - self.grid_y[ahead]) / self.grid_z[ahead]
        self._z_ahead, self._crest = self.grid_z[ahead], np.minimum.accumulate(rows)

    def place(self, s: float, d: float) -> tuple[float, float, float, float]:
        """(x, y, z, heading) in camera space of the ground at (s, d)."""
        x, y, z, theta = self.place_many(np.array([s]), np.array([d]))[0].tolist()
        return x, y, z, theta

    def place_many(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """(N, 4) x, y, z, heading in camera space of the ground at N places."""
        position = s - self.s
        theta = np.interp(position, STEPS_M, self.grid_theta)
        x = np.interp(position, STEPS_M, self.grid_x) + d * np.cos(theta)
        z = np.interp(position, STEPS_M, self.grid_z) - d * np.sin(theta)
        return np.stack([x, np.interp(position, STEPS_M, self.grid_y), z, theta], 1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) camera space -> (..., 2) pixels; points behind the camera are pulled in front of it."""
        grow = self.f / np.maximum(points[..., 2], NEAR_M)
        flat = np.empty((*points.shape[:-1], 2), np.float32)
        flat[..., 0] = points[..., 0] * grow + self.cx
        flat[..., 1] = (self.height_m - points[..., 1]) * grow + self.cy
        return flat.clip(-6000, 6000, out=flat)

    def crest_rows(self, z: np.ndarray) -> np.ndarray:
        """(N,) rows below which hills before N depths hide what stands there; nothing hides what is near."""
        rows = np.where(z < 8, self.hw[0], np.interp(z * 0.97 - 1, self._z_ahead, self._crest) + 2)
        return rows.clip(0, self.hw[0]).astype(np.int64)

    def ground(self) -> GroundRows:
        """The rows that see ground."""
        first = max(int(np.ceil(self._crest[-1])), 0)
        rows = np.arange(min(first, self.hw[0]), self.hw[0]) + 0.5
        keep = np.concatenate([[True], np.diff(self._crest) < -1e-9])  # a row sees the nearest ground that reaches it
        inverse_z = np.interp(rows, self._crest[keep][::-1], 1 / self._z_ahead[keep][::-1])
        z = 1 / inverse_z
        steps = np.interp(z, self.grid_z, STEPS_M)
        theta = np.interp(steps, STEPS_M, self.grid_theta)
        x = np.interp(steps, STEPS_M, self.grid_x)
        f32 = np.float32
        return GroundRows(first, z.astype(f32), steps + self.s, x.astype(f32), np.cos(theta).astype(f32),
                          np.sin(theta).astype(f32))  # fmt: skip
