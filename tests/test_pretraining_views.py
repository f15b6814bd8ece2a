"""Views: reproducible, and in the place that they name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.pretraining.views import ViewConfig, ViewStream, batches, place_of

HW = (64, 96)


@pytest.fixture
def ramps(tmp_path: Path) -> list[Path]:
    """Three frames whose red says where a pixel is from left to right, and green from top to bottom."""
    files = []
    for number, (h, w) in enumerate(((128, 192), (120, 400), (300, 160))):
        image = np.zeros((h, w, 3), np.uint8)
        image[..., 2] = np.linspace(0, 255, w).round()
        image[..., 1] = np.linspace(0, 255, h).round()[:, None]
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), image)
    return files


def test_a_view_shows_what_its_place_says(ramps: list[Path]) -> None:
    stream = ViewStream(ramps, HW, ViewConfig(magnitude=0.0), 60, 3)
    mirrored = 0
    for n in range(30):
        view, _, (left, top, right, bottom) = stream[n]
        assert view.shape == (*HW, 3) and view.dtype == np.uint8
        middle_of = (np.arange(HW[1]) + 0.5) / HW[1]
        assert np.abs(view[..., 0].mean(0) / 255 - (left + (right - left) * middle_of)).max() < 0.02
        middle_of = (np.arange(HW[0]) + 0.5) / HW[0]
        assert np.abs(view[..., 1].mean(1) / 255 - (top + (bottom - top) * middle_of)).max() < 0.02
        mirrored += left > right
    assert 5 < mirrored < 25


def test_every_frame_comes_once_before_any_comes_again(ramps: list[Path]) -> None:
    stream = ViewStream(ramps, HW, ViewConfig(magnitude=0.0), 60, 3)
    order = [stream[n][1] for n in range(12)]
    for epoch in range(4):
        assert sorted(order[3 * epoch : 3 * epoch + 3]) == [0, 1, 2]


def test_the_nth_view_does_not_depend_on_where_one_starts(ramps: list[Path]) -> None:
    stream = ViewStream(ramps, HW, ViewConfig(), 24, 3)
    whole = list(batches(stream, 4, 0, 0))
    later = list(batches(stream, 4, 2, 1))
    assert len(whole) == 6 and len(later) == 4
    for a, b in zip(whole[2:], later, strict=True):
        assert (a.image == b.image).all() and (a.place == b.place).all() and (a.frame == b.frame).all()


def test_places_stay_inside_and_keep_about_the_aspect() -> None:
    rng = np.random.default_rng(0)
    for hw in ((100, 400), (400, 100), (7, 5)):
        for _ in range(50):
            left, top, right, bottom = place_of(rng, hw, HW, ViewConfig())
            assert 0 <= left < right <= hw[1] and 0 <= top < bottom <= hw[0]
            if min(hw) > 50:
                assert 1.5 / 1.25 < (right - left) / (bottom - top) < 1.5 * 1.25


def test_impossible_views_are_refused() -> None:
    with pytest.raises(ValueError, match=r"area within 0\.\.1"):
        ViewConfig(area=(0.5, 1.5))
