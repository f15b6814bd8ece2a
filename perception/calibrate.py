"""Calibrate a camera from shots of a chessboard: focal length, optical centre and distortion, as one JSON file.

python -m perception.calibrate IMAGES_OR_DIR --board 9x6 --out camera.json --height-m 1.4

Print a chessboard, fix it on something flat, and take 10 to 30 shots with the camera of the car, at its driving
resolution: near and far, tilted, and in every corner of the picture. `--board` counts inner corners. Shots without the
whole board, of another size, or that fit badly are refused, and told. (Zhang 2000, "A flexible new technique for
camera calibration")
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro

from perception.camera import Camera
from perception.cli import run
from perception.frames import open_source

__all__ = ["CalibrateConfig", "calibrate", "corners_of", "fit", "main"]

LEAST_SHOTS = 3
MISFIT = 3.0  # a shot whose error is so many times the median's is refused


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Options of python -m perception.calibrate."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES_OR_DIR")]
    """Pictures of the board: files, folders, or a glob in quotes."""
    board: str = "9x6"
    """Inner corners of the chessboard: columns x rows."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.json")] = Path("camera.json")
    """Where the camera is written."""
    height_m: float | None = None
    """Height of the lens over the road, metres; left out: perception.live tells no distances."""
    pitch_deg: float = 0.0
    """How far the mounted camera looks down, degrees."""
    horizon: float | None = None
    """Instead of --pitch-deg: the row of the horizon in the middle of an undistorted frame on a level road, pixels."""
    json: str | None = None
    """Write the report as one line of JSON to this file; - = last line of standard output."""


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Find the boards, fit the camera, write the file, print and return the report. Raises ValueError if it can not."""
    board = _board(config.board)
    shots = [(frame.source, frame.image) for name in config.images for frame in _frames(name)]
    refused: dict[str, str] = {}
    hw = Counter(image.shape[:2] for _, image in shots).most_common(1)[0][0] if shots else (0, 0)
    found: dict[str, np.ndarray] = {}
    for name, image in shots:
        if image.shape[:2] != hw:
            refused[name] = f"is {image.shape[1]}x{image.shape[0]}, the others are {hw[1]}x{hw[0]}"
        elif (corners := corners_of(image, board)) is None:
            refused[name] = f"the whole board of {config.board} inner corners was not found"
        else:
            found[name] = corners
    camera, errors = _fit(found, board, hw, refused)
    if median := float(np.median(list(errors.values()))):
        misfits = [name for name, error in errors.items() if error > MISFIT * median]
        if misfits and len(found) - len(misfits) >= LEAST_SHOTS:
            for name in misfits:
                refused[name] = f"fits badly: {errors[name]:.2f} px, {MISFIT:g} times the median or more"
                del found[name]
            camera, errors = _fit(found, board, hw, refused)
    camera = replace(camera, height_m=config.height_m, pitch_deg=config.pitch_deg)
    if config.horizon is not None:
        straight = camera.straight
        drop = (straight.centre_xy[1] + 0.5 - config.horizon) / straight.focal_xy[1]
        camera = replace(camera, pitch_deg=math.degrees(math.atan(drop)))
    camera.save(config.out)
    for name, reason in refused.items():
        print(f"refused {name}: {reason}")
    (fx, fy), (cx, cy) = camera.focal_xy, camera.centre_xy
    print(
        f"{len(found)} of {len(shots)} shots, RMS reprojection error {camera.rms_px:.3f} px, focal length {fx:.1f} and "
        f"{fy:.1f} px, centre ({cx:.1f}, {cy:.1f}), pitch {camera.pitch_deg:.2f} degrees\nwrote {config.out}",
        flush=True,
    )
    if config.height_m is None:
        print("no distances without the camera's height: give --height-m, or write height_m into the file", flush=True)
    return {
        "file": str(config.out), "shots": len(shots), "used": len(found), "refused": refused, "rms_px": camera.rms_px,
        "errors_px": {name: round(error, 4) for name, error in errors.items()}, "focal_xy": list(camera.focal_xy),
        "centre_xy": list(camera.centre_xy), "distortion": list(camera.distortion),
    }  # fmt: skip


def corners_of(image_bgr: np.ndarray, board: tuple[int, int]) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR -> (N, 2) float32 inner corners, row by row; None if not all are seen."""
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE
    seen, corners = cv2.findChessboardCorners(grey, board, flags=flags)
    if not seen:
        return None
    grid = corners.reshape(board[1], board[0], 2)
    apart = min(np.linalg.norm(np.diff(grid, axis=axis), axis=2).min() for axis in (0, 1))
    half = int(np.clip(0.4 * apart, 2, 11))  # the window must not reach the next corner
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-3)
    return np.asarray(cv2.cornerSubPix(grey, corners, (half, half), (-1, -1), stop).reshape(-1, 2))


def fit(corners: Sequence[np.ndarray], board: tuple[int, int], hw: tuple[int, int]) -> tuple[Camera, list[float]]:
    """The camera that explains S shots' (N, 2) corners best, and the RMS error of each shot in pixels."""
    grid = np.zeros((board[0] * board[1], 3), np.float32)
    grid[:, :2] = np.mgrid[: board[0], : board[1]].T.reshape(-1, 2)  # the size of a square cancels
    points = [shot.reshape(-1, 1, 2) for shot in corners]
    rms, matrix, distortion, turns, places = cv2.calibrateCamera(
        [grid] * len(points), points, (hw[1], hw[0]), np.eye(3), np.zeros(5)
    )
    errors = []
    for shot, turn, place in zip(points, turns, places, strict=True):
        again, _ = cv2.projectPoints(grid, turn, place, matrix, distortion)
        errors.append(float(np.sqrt(np.mean(np.sum((again.reshape(-1, 2) - shot[:, 0]) ** 2, 1)))))
    camera = Camera(
        hw=hw,
        focal_xy=(float(matrix[0, 0]), float(matrix[1, 1])),
        centre_xy=(float(matrix[0, 2]), float(matrix[1, 2])),
        distortion=tuple(float(value) for value in np.ravel(distortion)[:5]),
        rms_px=round(float(rms), 5),
    )
    return camera, errors


def _fit(
    found: dict[str, np.ndarray], board: tuple[int, int], hw: tuple[int, int], refused: dict[str, str]
) -> tuple[Camera, dict[str, float]]:
    if len(found) < LEAST_SHOTS:
        reasons = "; ".join(f"{Path(name).name} {reason}" for name, reason in list(refused.items())[:3])
        raise ValueError(
            f"expected at least {LEAST_SHOTS} usable shots of the board, but got {len(found)} "
            f"({reasons or 'no picture'}); check --board (inner corners) and take more shots"
        )
    camera, errors = fit(list(found.values()), board, hw)
    return camera, dict(zip(found, errors, strict=True))


def _board(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if not match or min(int(match[1]), int(match[2])) < 3:
        raise ValueError(f"--board must be the inner corners, such as 9x6, each 3 or more, but got {text!r}")
    return int(match[1]), int(match[2])


def _frames(name: str) -> list[Any]:
    with open_source(name) as source:
        return list(source)


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="warning: %(message)s")
    return run(CalibrateConfig, calibrate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
