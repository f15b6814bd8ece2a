"""Frames decoded at reduced size: only as far as no crop shows it, with their labels in the same place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.tensors import tensor_from_frame
from perception.training.augment import AugmentConfig
from perception.training.dataset import Mixture
from perception.training.decode import read_frame, reduction

AREA, ASPECT = AugmentConfig().crop_area[0], AugmentConfig().crop_aspect
HW = (64, 96)


def picture(h: int, w: int) -> np.ndarray:
    """Something smooth, so that JPEG and scaling change it little."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    waves = [127 + 100 * np.sin(7 * x / w + k) * np.cos(5 * y / h + 2 * k) for k in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("frame_hw", "n"),
    [
        ((1080, 1920), 2),
        ((720, 1280), 1),  # its smallest crop is 599 x 347
        ((2160, 3840), 4),
        ((4320, 7680), 8),
        ((1082, 1922), 2),
        ((1081, 1920), 1),  # an odd number of rows has no half
        ((2162, 3840), 2),
        ((360, 640), 1),
        ((4000, 600), 1),  # a crop of an upright frame is no wider than the frame
        ((1, 1), 1),
    ],
)
def test_no_more_is_left_out_than_the_smallest_crop_can_spare(frame_hw: tuple[int, int], n: int) -> None:
    assert reduction(frame_hw, (256, 448), AREA, ASPECT) == n


def test_every_crop_keeps_the_pixels_that_the_model_sees() -> None:
    """Against crops as they are drawn, with frames of all shapes."""
    import albumentations as A

    rng = np.random.default_rng(0)
    for _ in range(60):
        h, w = (int(v) * 8 for v in rng.integers(20, 160, 2))
        n = reduction((h, w), HW, AREA, ASPECT)
        crop = A.RandomResizedCrop(size=HW, scale=(AREA, 1.0), ratio=ASPECT)
        for _ in range(20):
            x1, y1, x2, y2 = crop.get_params_dependent_on_data({"shape": (h // n, w // n)}, {})["crop_coords"]
            assert n == 1 or (x2 - x1 >= HW[1] - 1 and y2 - y1 >= HW[0] - 1), (h, w, n, x2 - x1, y2 - y1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_frame_shows_the_same(tmp_path: Path, suffix: str, turned: bool) -> None:
    path, image = tmp_path / f"a{suffix}", picture(480, 640)
    exif = Image.Exif()
    exif[274] = 6 if turned else 1  # a quarter turn
    Image.fromarray(image[..., ::-1].copy()).save(path, exif=exif, quality=95)
    frame, n = read_frame(path, HW, AREA, ASPECT)
    whole = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert n == (1 if suffix == ".png" else 2)
    assert frame.shape[:2] == (whole.shape[0] // n, whole.shape[1] // n)
    assert (whole.shape[0] > whole.shape[1]) == (turned and suffix == ".jpg") or suffix == ".png"
    a, b = tensor_from_frame(frame, HW)[0], tensor_from_frame(whole, HW)[0]
    assert np.abs(a.astype(int) - b).max() <= 4


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image at all")
    (tmp_path / "b.jpg").write_bytes(b"")
    for name in ("a.jpg", "b.jpg", "none.jpg"):
        with pytest.raises(ValueError, match="can't read"):
            read_frame(tmp_path / name, HW, AREA, ASPECT)


def test_labels_stay_on_a_reduced_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = DatasetLabels(
        "big", "ours", "", BoxLabels({"car": frozenset({"car"})}, frozenset({"car"})),
        {"scene": MaskLabels("seg", {0: "a", 1: "b"}, {0: frozenset({"road"}), 1: frozenset({"car"})}, SCENE_CLASSES)},
    )  # fmt: skip
    image, mask = np.full((720, 1080, 3), 60, np.uint8), np.zeros((720, 1080), np.uint8)
    x1, y1, x2, y2 = 301, 333, 702, 531
    image[y1:y2, x1:x2], mask[y1:y2, x1:x2] = 220, 1
    with LayoutWriter(tmp_path / "big", labels) as writer:
        writer.add("train", "a", image, boxes=[[x1, y1, x2, y2]], categories=["car"], masks={"seg": mask})
    plain = AugmentConfig(magnitude=0)
    mixture = Mixture([tmp_path / "big"], [1.0], 30, HW, plain, seed=0)
    assert read_frame(mixture.samples[0][0].image, HW, *mixture.smallest_crop)[1] == 4
    reduced = [mixture[n] for n in range(30)]
    monkeypatch.setattr("perception.training.decode.reduction", lambda *_: 1)
    seen = 0
    for example, whole in zip(reduced, (mixture[n] for n in range(30)), strict=True):
        bright = example.image[..., 0] > 140
        assert (bright != (example.masks["scene"] == 1)).mean() < 0.03
        assert len(example.boxes) == len(whole.boxes)
        if len(example.boxes):
            np.testing.assert_allclose(example.boxes, whole.boxes, atol=2.0)
            (left, top, right, bottom), (rows, columns) = example.boxes[0], np.nonzero(bright)
            assert abs(left - columns.min()) < 1.5 and abs(right - 1 - columns.max()) < 1.5
            assert abs(top - rows.min()) < 1.5 and abs(bottom - 1 - rows.max()) < 1.5
            seen += 1
    assert seen > 20
