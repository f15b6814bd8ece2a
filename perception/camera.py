"""The camera: where a pixel looks, and frames without the curvature of the lens.

The model is OpenCV's: a pinhole and five coefficients of distortion (k1, k2, p1, p2, k3; Brown 1971).
`perception.calibrate` writes the file:

    {"schema": 1, "hw": [720, 1280], "focal_xy": [1158.8, 1154.1], "centre_xy": [670.7, 388.1],
     "distortion": [-0.25, ...], "rms_px": 0.8, "height_m": 1.4, "height_std_m": 0.05,
     "pitch_deg": 0.0, "pitch_std_deg": 0.3}

Road space, in which rays are given: x right, y down, z forward and level; metres. As in OpenCV, `centre_xy` counts from
the middle of the first pixel; points and boxes count from its edge, as everywhere else here.

Legend: N = points; H, W = the frame.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from perception.jsonfile import from_json, read_json, write_json
from perception.structures import require_bgr

__all__ = ["SCHEMA", "Camera"]

SCHEMA = 1
CAMERAS = 32  # that may be in use at once without computing their maps again


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A calibrated camera; the height and the pitch say how it is mounted. Raises ValueError for nonsense."""

    hw: tuple[int, int]
    """Height and width of the frames that it was calibrated for, pixels."""
    focal_xy: tuple[float, float]
    """Focal lengths, pixels."""
    centre_xy: tuple[float, float]
    """Where the optical axis meets the picture, pixels."""
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    """k1, k2, p1, p2, k3; all 0: straight lines are straight."""
    rms_px: float | None = None
    """Root mean square error of reprojection of the calibration."""
    height_m: float | None = None
    """Height of the lens over the road; None = unknown, and then there are no distances."""
    height_std_m: float = 0.05
    """Standard deviation of the height: load, springs, slopes of the road across."""
    pitch_deg: float = 0.0
    """How far the camera looks down; 0 = its axis is level."""
    pitch_std_deg: float = 0.3
    """Standard deviation of the pitch against the road: braking, bumps, hills."""

    def __post_init__(self) -> None:
        numbers = [*self.hw, *self.focal_xy, *self.centre_xy, *self.distortion, self.height_std_m, self.pitch_deg,
                   self.pitch_std_deg, self.height_m or 0.0, self.rms_px or 0.0]  # fmt: skip
        if (len(self.hw), len(self.focal_xy), len(self.centre_xy), len(self.distortion)) != (2, 2, 2, 5):
            raise ValueError("Camera: expected 2 numbers in hw, focal_xy and centre_xy, and 5 in distortion")
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("Camera: expected finite numbers only; calibrate again")
        if min(*self.hw, *self.focal_xy) <= 0 or min(self.height_std_m, self.pitch_std_deg) < 0:
            raise ValueError("Camera: sizes and focal lengths must be over 0, standard deviations 0 or more")
        if self.height_m is not None and self.height_m <= 0:
            raise ValueError(f"Camera.height_m must be over 0, but got {self.height_m}")
        if abs(self.pitch_deg) > 60:
            raise ValueError(f"Camera.pitch_deg must be within 60 degrees of level, but got {self.pitch_deg}")

    @classmethod
    def load(cls, path: str | Path) -> Camera:
        """Read a camera file. Raises OSError if it can not be read, ValueError if it is not one of this schema."""
        try:
            values = read_json(Path(path))
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise ValueError(
                f"{path}: expected a camera file of schema {SCHEMA}; make one: python -m perception.calibrate IMAGES"
            )
        known = {field.name for field in fields(cls)}
        camera = from_json(
            cls, {name: value for name, value in values.items() if name in known}, f"{path}: not a camera"
        )
        try:
            camera.straight  # noqa: B018 (it is kept)
        except (ValueError, cv2.error):
            raise ValueError(f"{path}: not a camera: its distortion can't be taken out; calibrate again") from None
        return camera

    def save(self, path: str | Path) -> None:
        """Write the camera file. Raises OSError if that is not possible."""
        write_json(Path(path), {"schema": SCHEMA, **asdict(self)})

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64, OpenCV's camera matrix."""
        (fx, fy), (cx, cy) = self.focal_xy, self.centre_xy
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    @property
    def horizon(self) -> float:
        """Row of the horizon in the middle of undistorted frames, pixels from the upper edge."""
        return self.centre_xy[1] + 0.5 - self.focal_xy[1] * math.tan(math.radians(self.pitch_deg))

    def scaled(self, hw: tuple[int, int]) -> Camera:
        """The same camera giving frames of `hw` pixels. Raises ValueError if their shape is another (more than 1 %)."""
        if hw == self.hw:
            return self
        y, x = hw[0] / self.hw[0], hw[1] / self.hw[1]
        if abs(x / y - 1) > 0.01:
            raise ValueError(
                f"the camera file is for frames {self.hw[1]}x{self.hw[0]}, but these are {hw[1]}x{hw[0]}, of another "
                "shape; calibrate with pictures of this camera at this resolution"
            )
        (fx, fy), (cx, cy) = self.focal_xy, self.centre_xy
        centre = ((cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5)
        return replace(self, hw=hw, focal_xy=(fx * x, fy * y), centre_xy=centre)

    @property
    def straight(self) -> Camera:
        """The camera without distortion that took the frames that `undistort` returns."""
        return _straight(self)

    def undistort(self, image_bgr: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR as the camera gives it -> the same size, straight lines straight, no empty corners.

        The maps are computed once. Without distortion the image itself is returned. Raises ValueError for an image of
        another shape than the camera's.
        """
        require_bgr(image_bgr)
        camera = self.scaled((image_bgr.shape[0], image_bgr.shape[1]))
        if not any(camera.distortion):
            return image_bgr
        return cv2.remap(image_bgr, *_maps(camera), cv2.INTER_LINEAR)

    def rays(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) x, y in pixels of this camera's frames, distorted if it is -> (N, 3) unit rays in road space."""
        centres = np.asarray(points, np.float64).reshape(-1, 1, 2) - 0.5
        flat = (centres[:, 0] - self.centre_xy) / self.focal_xy  # (N, 2)
        if any(self.distortion) and len(flat):
            flat = np.asarray(cv2.undistortPoints(centres, self.matrix, np.array(self.distortion))[:, 0], np.float64)
        sin, cos = math.sin(math.radians(self.pitch_deg)), math.cos(math.radians(self.pitch_deg))
        ray = np.stack([flat[:, 0], flat[:, 1] * cos + sin, cos - flat[:, 1] * sin], 1)
        return np.asarray(ray / np.linalg.norm(ray, axis=1, keepdims=True))


@lru_cache(maxsize=CAMERAS)
def _straight(camera: Camera) -> Camera:
    if not any(camera.distortion):
        return camera
    size = (camera.hw[1], camera.hw[0])
    matrix, _ = cv2.getOptimalNewCameraMatrix(camera.matrix, np.array(camera.distortion), size, 0)
    zoom = max(
        matrix[0, 0] / camera.focal_xy[0], matrix[1, 1] / camera.focal_xy[1]
    )  # one for both: nothing is stretched
    focal = (float(camera.focal_xy[0] * zoom), float(camera.focal_xy[1] * zoom))
    centre = (float(matrix[0, 2]), float(matrix[1, 2]))
    return replace(camera, focal_xy=focal, centre_xy=centre, distortion=(0.0,) * 5)


@lru_cache(maxsize=CAMERAS)
def _maps(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the straight frame comes from, in OpenCV's fixed point."""
    size = (camera.hw[1], camera.hw[0])
    straight = _straight(camera).matrix
    first, second = cv2.initUndistortRectifyMap(
        camera.matrix, np.array(camera.distortion), np.eye(3), straight, size, cv2.CV_16SC2
    )
    return first, second
