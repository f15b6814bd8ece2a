"""Samples as arrays give back what was put in."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from perception.layout import Sample
from perception.training.samples import Samples

FOLDER = Path("data") / "toy"


def box(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


LIST = [
    Sample(FOLDER / "images/train/a.jpg"),
    Sample(FOLDER / "images/train/b/ü.png", box((1, 2, 3, 4), (5, 6, 7, 8)), ("car", "bus"), box((0, 0, 1, 1)),
           {"scene": FOLDER / "masks/seg/train/b/ü.png", "drive": FOLDER / "masks/seg/train/b/ü.png"}),
    Sample(FOLDER / "images/train/c.jpg", box(), (), masks={"scene": FOLDER / "masks/seg/train/c.png"}),
    Sample(FOLDER / "images/train/\udcff.jpg", box((1, 1, 9, 9)), ("car",), box((2, 2, 3, 3), (4, 4, 5, 5))),
]  # fmt: skip


def same(a: Sample, b: Sample) -> bool:
    arrays = np.array_equal(a.ignore, b.ignore) and (a.boxes is None) == (b.boxes is None)
    if a.boxes is not None and b.boxes is not None:
        arrays = arrays and np.array_equal(a.boxes, b.boxes) and a.boxes.dtype == b.boxes.dtype
    return arrays and (a.image, a.categories, dict(a.masks)) == (b.image, b.categories, dict(b.masks))


def test_samples_are_what_they_were() -> None:
    packed = Samples(LIST, FOLDER)
    assert len(packed) == 4 and all(same(a, b) for a, b in zip(packed, LIST, strict=True))
    assert same(packed[-1], LIST[-1]) and len(packed[1:3]) == 2 and same(packed[1:3][1], LIST[2])
    with pytest.raises(IndexError):
        packed[4]
    again = pickle.loads(pickle.dumps(packed))  # as it is sent to worker processes that are not forked
    assert all(same(a, b) for a, b in zip(again, LIST, strict=True))


def test_heads_that_share_a_folder_share_the_names() -> None:
    both = [Sample(FOLDER / "a.jpg", masks={"scene": FOLDER / "m/a.png", "drive": FOLDER / "m/a.png"})]
    packed = Samples(both, FOLDER)
    assert packed.masks["scene"] is packed.masks["drive"]
    assert Samples(LIST, FOLDER).masks["scene"] is not Samples(LIST, FOLDER).masks["drive"]


def test_no_samples_is_an_ordinary_value() -> None:
    assert list(Samples([], FOLDER)) == []


def test_a_sample_can_be_changed_without_harm_to_the_next() -> None:
    packed = Samples(LIST, FOLDER)
    boxes = packed[1].boxes
    assert boxes is not None
    boxes += 1
    assert same(packed[1], LIST[1])
