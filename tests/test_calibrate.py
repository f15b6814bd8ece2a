"""perception.calibrate: a rendered chessboard gives back the camera that rendered it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.calibrate import corners_of, main
from perception.camera import Camera

BOARD = (9, 6)
TRUE = Camera(hw=(360, 640), focal_xy=(480.0, 470.0), centre_xy=(325.0, 176.0), distortion=(-0.22, 0.06, 0.0, 0.0, 0.0))


def shot(turn: tuple[float, float, float], place: tuple[float, float, float]) -> np.ndarray:
    """The board (squares of 1) as TRUE sees it: every pixel's ray is followed to the board."""
    rotation, _ = cv2.Rodrigues(np.array(turn, np.float64))
    v, u = np.mgrid[:720, :1280] / 2 + 0.25  # four rays a pixel
    rays = TRUE.rays(np.stack([u.ravel(), v.ravel()], 1))
    origin = -rotation.T @ np.array(place)
    along = rays @ rotation  # in board space
    hit = origin + along * (-origin[2] / along[:, 2])[:, None]
    cell = np.floor(hit[:, :2]).astype(int)
    inside = ((cell >= -1) & (cell < BOARD)).all(1)
    paper = ((hit[:, :2] > -2) & (hit[:, :2] < np.array(BOARD) + 1)).all(1)
    value = np.where(inside & ((cell.sum(1) % 2) == 0), 20, np.where(paper, 235, 120)).astype(np.float32)
    small = cv2.resize(value.reshape(720, 1280), (640, 360), interpolation=cv2.INTER_AREA)
    return cv2.merge([small.astype(np.uint8)] * 3)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven good shots, one without a board, one of another size."""
    folder = tmp_path_factory.mktemp("board")
    poses = [((0, 0, 0), (-4, -2.5, 12)), ((0.5, 0, 0), (-5, -2.6, 14)), ((-0.5, 0.1, 0), (-4, -2.2, 14)),
             ((0, 0.5, 0.1), (-3, -3.0, 15)), ((0.1, -0.5, 0), (-4.5, -2, 15)), ((0.3, 0.3, 0.2), (-3, -2.8, 14)),
             ((-0.3, 0.3, -0.2), (-4, -1.5, 14))]  # fmt: skip
    for i, (turn, place) in enumerate(poses):
        cv2.imwrite(str(folder / f"{i}.png"), shot(turn, place))
    cv2.imwrite(str(folder / "7.png"), np.full((360, 640, 3), 90, np.uint8))
    cv2.imwrite(str(folder / "8.png"), np.zeros((100, 100, 3), np.uint8))
    return folder


def test_gives_back_the_camera(shots, tmp_path, capsys):
    out = tmp_path / "camera.json"
    code = main(
        [str(shots), "--board", "9x6", "--out", str(out), "--height-m", "1.4", "--pitch-deg", "1", "--json", "-"]
    )
    printed = capsys.readouterr().out.strip().splitlines()
    report = json.loads(printed[-1])
    assert code == 0 and (report["shots"], report["used"]) == (9, 7)
    reasons = {name.rsplit("/", 1)[-1]: reason for name, reason in report["refused"].items()}
    assert "not found" in reasons["7.png"] and "100x100" in reasons["8.png"]
    camera = Camera.load(out)
    assert camera.rms_px is not None and camera.rms_px < 0.15
    assert (camera.height_m, camera.pitch_deg) == (1.4, 1.0)
    grid = np.stack(np.meshgrid(np.linspace(120, 520, 8), np.linspace(80, 280, 6)), 2).reshape(-1, 2)
    level = Camera(hw=camera.hw, focal_xy=camera.focal_xy, centre_xy=camera.centre_xy, distortion=camera.distortion)
    apart = np.degrees(np.arccos(np.clip((level.rays(grid) * TRUE.rays(grid)).sum(1), -1, 1)))
    assert apart.max() < 0.3  # degrees, wherever a shot showed the board


def test_corners_are_in_the_order_of_the_board(shots):
    corners = corners_of(cv2.imread(str(shots / "0.png")), BOARD)
    assert corners is not None and corners.shape == (54, 2) and corners.dtype == np.float32
    row = corners[:9]
    assert np.ptp(row[:, 1]) < np.ptp(row[:, 0])


def test_horizon_instead_of_pitch(shots, tmp_path):
    out = tmp_path / "camera.json"
    assert main([str(shots), "--horizon", "150", "--out", str(out)]) == 0
    assert Camera.load(out).straight.horizon == pytest.approx(150)


@pytest.mark.parametrize("arguments", [["--board", "9"], ["--board", "2x6"], ["--board", "7x5"]])
def test_mistakes_are_one_line(shots, tmp_path, capsys, arguments):
    assert main([str(shots), *arguments, "--out", str(tmp_path / "camera.json")]) == 2
    assert "--board" in capsys.readouterr().err
    assert not (tmp_path / "camera.json").exists()
