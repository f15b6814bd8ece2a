"""perception.motion: the shift of a picture whose shift is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from perception.motion import CameraMotion

NONE = np.zeros((0, 4))


def texture(hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth noise with corners everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (hw[0] // 12 + 2, hw[1] // 12 + 2, 3), np.uint8)
    return cv2.resize(noise, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)


def shifted(image: np.ndarray, x: float, y: float, zoom: float = 1.0) -> np.ndarray:
    h, w = image.shape[:2]
    matrix = np.array([[zoom, 0, x + (1 - zoom) * w / 2], [0, zoom, y + (1 - zoom) * h / 2]])
    return cv2.warpAffine(image, matrix, (w, h), borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("hw", [(360, 640), (1080, 1920), (241, 333)])
@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (20.0, 0.0), (-13.0, 6.0), (3.0, -15.0)])
def test_finds_the_shift_in_frame_pixels(hw, x, y):
    x, y = x * hw[1] / 640, y * hw[1] / 640
    motion, before = CameraMotion(), texture(hw)
    assert motion.update(before, NONE) == (0.0, 0.0)
    assert motion.update(shifted(before, x, y), NONE) == pytest.approx((x, y), abs=0.9 * hw[1] / 640)


def test_driving_on_is_not_a_shift():
    motion, before = CameraMotion(), texture((360, 640))
    motion.update(before, NONE)
    assert motion.update(shifted(before, 0, 0, zoom=1.04), NONE) == pytest.approx((0, 0), abs=1.5)


def test_what_moves_by_itself_is_left_out():
    before, things = texture((360, 640)), texture((360, 640), 1)
    now = before.copy()
    boxes = np.array([[100.0, 10, 560, 250]])  # nearly all that is looked at
    before[10:250, 100:560], now[10:250, 112:572] = things[10:250, 100:560], things[10:250, 100:560]
    answers = []
    for masked in (boxes, NONE):
        motion = CameraMotion()
        motion.update(before, NONE)
        answers.append(motion.update(now, masked)[0])
    assert answers == [pytest.approx(0, abs=1.0), pytest.approx(12, abs=1.0)]


def test_unknown_is_no_shift():
    motion = CameraMotion()
    flat = np.full((360, 640, 3), 90, np.uint8)
    for image in (flat, flat, texture((360, 640), 2), texture((360, 640), 3), texture((300, 640), 3)):  # cut, new size
        assert motion.update(image, NONE) == (0.0, 0.0)
    for hw in ((1, 1), (16, 16), (40, 900), (900, 40)):
        motion = CameraMotion()
        motion.update(texture(hw), NONE)
        assert np.isfinite(motion.update(shifted(texture(hw), 1, 0), NONE)).all()


def test_reset_forgets_and_the_same_frames_give_the_same_shift():
    motion, before = CameraMotion(), texture((360, 640))
    now = shifted(before, 8, 3)
    motion.update(before, NONE)
    first = motion.update(now, NONE)
    motion.reset()
    assert motion.update(before, NONE) == (0.0, 0.0)
    assert motion.update(now, NONE) == first != (0.0, 0.0)
