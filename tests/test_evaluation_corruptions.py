"""Corruptions: worse with severity, the same every time, for frames of any size, and like their names."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from perception.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def street(hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A frame like a street: bright sky, dark sides with texture, grey road with white marks, a red lamp."""
    scale, dice = 8, np.random.default_rng(seed)
    h, w = 120, 200
    image = np.full((h, w, 3), (60, 70, 65), np.uint8)
    image[: h * 2 // 5] = (235, 215, 200)
    image[h // 4 : h // 2, : w // 3] = (40, 60, 50)
    image[h // 2 :] = 110
    for row in range(h // 2, h, 14):
        cv2.rectangle(image, (w // 2 - 2, row), (w // 2 + 2, row + 7), (240, 240, 240), -1)
    cv2.rectangle(image, (60, 66), (63, 69), (30, 30, 255), -1)
    texture = cv2.resize(dice.normal(0, 14, (h // scale, w // scale, 3)).astype(np.float32), (w, h))
    textured = np.clip(image + texture, 0, 255).astype(np.uint8)
    return cv2.resize(textured, hw[::-1], interpolation=cv2.INTER_AREA)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


@pytest.mark.parametrize("hw", [(120, 200), (300, 500)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_worse_than_the_one_before(name, hw):
    frames = [street(hw, seed) for seed in range(3)]
    changes = [
        np.mean([difference(frame, corrupt(frame, name, severity, index)) for index, frame in enumerate(frames)])
        for severity in (0, *SEVERITIES)
    ]
    assert changes[0] == 0 and changes[1] > 0.5
    assert all(after > 1.01 * before for before, after in pairwise(changes))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_severity_means_the_same_for_a_frame_of_any_size(name):
    small, large = (difference(frame := street(hw), corrupt(frame, name, 3)) for hw in ((260, 430), (780, 1290)))
    assert large == pytest.approx(small, rel=0.35)


@pytest.mark.parametrize("hw", [(1, 1), (2, 3), (1, 90), (37, 21), (64, 96)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_frames_of_any_size_come_back_in_their_form(name, hw):
    frame = street(hw)
    before = frame.copy()
    for severity in (0, 1, 5):
        out = corrupt(frame, name, severity, 7)
        assert out.shape == frame.shape and out.dtype == np.uint8 and not np.shares_memory(out, frame)
        np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_every_time_and_another_for_another_frame(name):
    frame = street((60, 100))
    once = corrupt(frame, name, 4, 11)
    corrupt(frame, "noise", 2, 3)
    np.testing.assert_array_equal(corrupt(frame, name, 4, 11), once)
    if name != "jpeg":  # which has no chance in it
        assert not np.array_equal(corrupt(frame, name, 4, 12), once)


def test_fog_takes_what_is_far():
    frame = street((120, 200))
    kept = [np.ptp(corrupt(frame, "fog", 3)[rows].astype(float)) / np.ptp(frame[rows].astype(float))
            for rows in (slice(30, 54), slice(66, 80), slice(100, 120))]  # fmt: skip
    assert kept[0] < 0.35 < kept[1] < kept[2] and kept[2] > 0.7


def test_night_is_dark_bluish_and_noisy_but_lamps_stay():
    frame = street((240, 400))
    out = corrupt(frame, "night", 4)
    assert out.mean() < 0.35 * frame.mean() and out[:80].mean() < 45  # the sky, too
    blue, red = (float(out[..., channel].mean()) / frame[..., channel].mean() for channel in (0, 2))
    assert blue > 1.2 * red
    sky = out[5:40, 300:395].astype(float)
    assert sky.std() > frame[5:40, 300:395].std() * 0.2 and np.abs(np.diff(sky, axis=1)).mean() > 0.5
    lamp = (slice(134, 138), slice(122, 126))
    assert out[lamp][..., 2].mean() > 0.65 * frame[lamp][..., 2].mean()


def test_rain_adds_bright_streaks_that_are_upright():
    out = corrupt(np.full((256, 448, 3), 60, np.uint8), "rain", 3).astype(float).mean(2)
    down, across = (np.abs(np.diff(out, axis=axis)).mean() for axis in (0, 1))
    assert out.max() > 110 and across > 1.5 * down


def test_motion_blur_moves_nothing_and_keeps_the_light():
    frame = np.zeros((256, 256, 3), np.uint8)
    frame[126:131, 126:131] = 250
    out = corrupt(frame, "motion_blur", 3).astype(float)[..., 0]
    y, x = np.mgrid[:256, :256]
    assert (y * out).sum() / out.sum() == pytest.approx(128, abs=0.6)
    assert (x * out).sum() / out.sum() == pytest.approx(128, abs=0.6)
    assert out.sum() == pytest.approx(250 * 25, rel=0.05)
    columns = np.flatnonzero(out.any(0))
    assert 10 <= np.ptp(columns) <= 18


def test_noise_has_the_stated_strength():
    grey = np.full((256, 300, 3), 128, np.uint8)
    assert corrupt(grey, "noise", 1).astype(float).std() / 255 == pytest.approx(0.05, rel=0.1)
    large = np.full((900, 1000, 3), 128, np.uint8)
    assert corrupt(large, "noise", 1).astype(float).std() / 255 == pytest.approx(0.05, rel=0.1)


def test_what_is_no_corruption():
    frame = street((8, 8))
    with pytest.raises(ValueError, match="unknown corruption 'snow'; expected one of fog, rain"):
        corrupt(frame, "snow", 1)
    for severity in (-1, 6, 1.5):
        with pytest.raises(ValueError, match="severity must be 0 to 5"):
            corrupt(frame, "fog", severity)
