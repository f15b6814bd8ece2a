"""perception.camera: projection and its inverse, straight frames, the file."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from perception.camera import Camera
from perception.tensors import tensor_from_frame

PINHOLE = Camera(hw=(360, 640), focal_xy=(500.0, 510.0), centre_xy=(322.0, 171.0), height_m=1.5)
LENS = Camera(
    hw=(360, 640), focal_xy=(500.0, 510.0), centre_xy=(322.0, 171.0), distortion=(-0.25, 0.05, 1e-3, -5e-4, -0.01)
)


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Road space -> frame pixels, by OpenCV."""
    turn = np.array([np.radians(camera.pitch_deg), 0, 0])
    pixels, _ = cv2.projectPoints(points, turn, np.zeros(3), camera.matrix, np.array(camera.distortion))
    return pixels.reshape(-1, 2) + 0.5


@pytest.mark.parametrize("camera", [PINHOLE, LENS])
@pytest.mark.parametrize("pitch", [0.0, 3.0, -2.0])
def test_rays_invert_the_projection(camera, pitch):
    camera = Camera(hw=camera.hw, focal_xy=camera.focal_xy, centre_xy=camera.centre_xy, distortion=camera.distortion,
                    pitch_deg=pitch)  # fmt: skip
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-4, 4, 50), rng.uniform(-2, 2, 50), rng.uniform(8, 60, 50)], 1)
    rays = camera.rays(project(camera, points))
    np.testing.assert_allclose(rays, points / np.linalg.norm(points, axis=1, keepdims=True), atol=2e-5)


def test_the_horizon_is_where_rays_are_level():
    for pitch in (0.0, 2.5, -1.0):
        camera = Camera(hw=(360, 640), focal_xy=(500.0, 510.0), centre_xy=(322.0, 171.0), pitch_deg=pitch)
        assert camera.rays(np.array([[322.5, camera.horizon]]))[0, 1] == pytest.approx(0, abs=1e-9)
    assert camera.rays(np.zeros((0, 2))).shape == (0, 3)


def test_looking_down_raises_the_horizon():
    down = Camera(hw=(360, 640), focal_xy=(500.0, 510.0), centre_xy=(322.0, 171.0), pitch_deg=2.0)
    assert down.horizon < PINHOLE.horizon


def test_another_resolution_sees_along_the_same_rays():
    half = LENS.scaled((180, 320))
    points = np.array([[10.0, 20], [320, 180], [600, 300]])
    np.testing.assert_allclose(half.rays(points / 2), LENS.rays(points), atol=1e-6)
    with pytest.raises(ValueError, match="of another shape"):
        LENS.scaled((480, 640))


def test_undistorted_lines_are_straight_and_where_the_straight_camera_says():
    points = np.stack([np.linspace(-2.6, 2.6, 9), np.full(9, 1.6), np.full(9, 5.0)], 1)
    image = np.zeros((360, 640, 3), np.uint8)
    for x, y in (project(LENS, points) - 0.5).tolist():
        cv2.circle(image, (round(16 * x), round(16 * y)), 16 * 4, (255, 255, 255), -1, cv2.LINE_AA, 4)
    straight = LENS.undistort(image)
    assert straight.shape == image.shape and straight.dtype == np.uint8
    count, _, _, centres = cv2.connectedComponentsWithStats((straight[..., 0] > 100).astype(np.uint8))
    expected = project(LENS.straight, points)
    inside = ((expected > 6) & (expected < (634, 354))).all(1)
    found = centres[1:][np.argsort(centres[1:, 0])] + 0.5
    found = found[((found > 6) & (found < (634, 354))).all(1)]
    assert count > 5
    np.testing.assert_allclose(found, expected[inside], atol=0.6)
    bent = project(LENS, points)[:, 1]
    assert np.ptp(bent) > 5 and np.ptp(expected[:, 1]) < 1e-6


def test_undistorted_frames_have_no_empty_corners_and_keep_proportions():
    white = LENS.undistort(np.full((360, 640, 3), 255, np.uint8))
    assert white.min() > 200
    ratio = LENS.focal_xy[0] / LENS.focal_xy[1]
    assert LENS.straight.focal_xy[0] / LENS.straight.focal_xy[1] == pytest.approx(ratio)
    assert LENS.straight.distortion == (0.0,) * 5


def test_without_distortion_nothing_is_copied_and_tensors_agree():
    image = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    assert PINHOLE.undistort(image) is image and PINHOLE.straight == PINHOLE
    given, box = tensor_from_frame(image, (96, 160), camera=LENS)
    by_hand, same = tensor_from_frame(LENS.undistort(image), (96, 160))
    np.testing.assert_array_equal(given, by_hand)
    assert box == same and (given != tensor_from_frame(image, (96, 160))[0]).any()
    with pytest.raises(ValueError, match="uint8 BGR"):
        LENS.undistort(image[..., 0])


def test_file_round_trip(tmp_path):
    LENS.save(tmp_path / "new" / "camera.json")
    assert Camera.load(tmp_path / "new" / "camera.json") == LENS
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["camera.json"]


@pytest.mark.parametrize("change", [
    {"schema": 2}, {"schema": None}, {"focal_xy": [0, 1]}, {"focal_xy": None}, {"distortion": [1, 2]}, {"height_m": -1},
    {"centre_xy": [float("nan"), 3]}, {"pitch_deg": 80}, {"hw": "720x1280"},
])  # fmt: skip
def test_broken_files_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "camera.json"
    LENS.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"camera\.json"):
        Camera.load(path)


def test_not_json(tmp_path):
    path = tmp_path / "camera.json"
    for text in ("", "[]", "{", "3"):
        path.write_text(text)
        with pytest.raises(ValueError, match="schema 1"):
            Camera.load(path)
    with pytest.raises(OSError):
        Camera.load(tmp_path / "none.json")
