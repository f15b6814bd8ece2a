"""Geometry and mosaic keep image, masks, boxes and ignore regions together; a sample is a function of (seed, n)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.labels import IGNORE, SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.training.augment import MIN_BOX_PX, MIN_VISIBLE, Augment, AugmentConfig, too_little, visible_share
from perception.training.batch import Example
from perception.training.dataset import Mixture
from perception.training.mosaic import combine

HW = (64, 112)
CAR, ROAD = 1, 0
LABELS = DatasetLabels(
    name="rectangles",
    licence="ours",
    boxes=BoxLabels({"car": frozenset({"car"}), "person": frozenset({"pedestrian"})}, frozenset({"car", "pedestrian"})),
    masks={
        "scene": MaskLabels(
            "seg", {0: "road", 1: "car"}, {0: frozenset({"road"}), 1: frozenset({"car"})}, SCENE_CLASSES
        )
    },
)


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One red rectangle on black an image: mask 1 and a box exactly where it is. The last two lack the box."""
    folder = tmp_path_factory.mktemp("data") / "rectangles"
    rng = np.random.default_rng(5)
    with LayoutWriter(folder, LABELS) as writer:
        for i in range(9):
            image, mask = np.zeros((90, 160, 3), np.uint8), np.zeros((90, 160), np.uint8)
            x, y, w, h = (int(rng.integers(*r)) for r in ((5, 90), (5, 50), (12, 60), (10, 35)))
            image[y : y + h, x : x + w], mask[y : y + h, x : x + w] = (0, 0, 255), CAR
            boxes, names = ([[x, y, x + w, y + h]], ["car"]) if i < 7 else (None, [])
            writer.add("train", f"{i}", image, masks={"seg": mask} if i != 6 else {}, boxes=boxes, categories=names)
    return folder


def extent(inside: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy of the True pixels of a (h, w) mask."""
    y, x = np.nonzero(inside)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (AugmentConfig(magnitude=0, crop=0.0), 1.0),
        (AugmentConfig(magnitude=0, crop=1.0), 1.0),
        (AugmentConfig(magnitude=0, crop=1.0, flip=1.0), 1.0),
        (AugmentConfig(magnitude=0, crop=0.5, flip=0.5, tilt=3.0), 4.0),
    ],
)
def test_picture_mask_and_box_of_a_rectangle_coincide(
    config: AugmentConfig, tolerance: float, rectangles: Path
) -> None:
    mixture = Mixture([rectangles], [1.0], 80, HW, config, seed=0)
    seen = 0
    for n in range(80):
        e = mixture[n]
        red = e.image[..., 0].astype(int) - e.image[..., 1] > 128
        if "scene" in e.masks:
            on = e.masks["scene"] == CAR
            assert (on != red).sum() <= 0.08 * red.sum() + 3 * np.sqrt(red.sum() + 1)
            red = on
        found = np.concatenate([e.boxes, e.ignore])
        if len(e.exhaustive) and red.sum() > 30:
            assert len(found) == 1
            np.testing.assert_allclose(found[0], extent(red), atol=tolerance)
            seen += 1
    assert seen > 40


def test_a_box_cut_too_small_by_the_crop_is_ignored_and_not_background() -> None:
    image, box = np.zeros((100, 200, 3), np.uint8), np.array([[0, 0, 70, 50]], np.float32)
    augment = Augment(AugmentConfig(crop=1.0, crop_area=(0.2, 0.4)), (64, 128))
    cut = 0
    for seed in range(120):
        _, left, kept, share, _ = augment.reshape(seed, image, box, [])
        assert len(left) == len(kept) == len(share)
        if len(kept) and share[0] < MIN_VISIBLE:
            assert too_little(left, share)[0]
            cut += 1
    assert cut >= 5
    assert visible_share(box, (35, 25, 200, 100)) == pytest.approx([0.25])


def test_every_sample_is_a_function_of_seed_and_number(rectangles: Path) -> None:
    config = AugmentConfig(policy="driving-2", magnitude=1.0, mosaic=0.5, flip=0.3, tilt=2.0)
    one, two = (Mixture([rectangles], [1.0], 24, HW, config, seed=3) for _ in range(2))
    for n in reversed(range(24)):
        two[n]  # another order, as workers have
    for n in range(24):
        a, b = one[n], two[n]
        for name in ("image", "boxes", "members", "ignore", "exhaustive"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.masks.keys() == b.masks.keys() and all((a.masks[h] == b.masks[h]).all() for h in a.masks)
    other = Mixture([rectangles], [1.0], 40, HW, config, seed=4)
    assert sum((one[n].image != other[n].image).any() for n in range(10)) > 5


def test_photometric_ops_leave_the_labels_alone(rectangles: Path) -> None:
    plain, strong = (
        Mixture([rectangles], [1.0], 40, HW, AugmentConfig(policy="driving-2", magnitude=m, mosaic=0.5), seed=0)
        for m in (0.0, 1.0)
    )
    different = 0
    for n in range(40):
        a, b = plain[n], strong[n]
        different += bool((a.image != b.image).any())
        for name in ("boxes", "members", "ignore"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert all((a.masks[head] == b.masks[head]).all() for head in a.masks)
    assert different > 20


# --------------------------------------------------------------------------------------------------------------- mosaic


def test_a_mosaic_of_rectangles_has_its_boxes_on_them(rectangles: Path) -> None:
    """Against a slower truth: connected red areas of each quarter, counted pixel by pixel."""
    mixture = Mixture([rectangles], [1.0], 80, HW, AugmentConfig(magnitude=0, crop=0.3, mosaic=1.0), seed=1)
    seen = 0
    for n in range(80):
        e = mixture[n]
        assert e.image.shape == (*HW, 3) and e.masks["scene"].shape == HW
        red = e.image[..., 0].astype(int) - e.image[..., 1] > 128
        assert not ((e.masks["scene"] == ROAD) & red).sum() > 0.02 * red.size
        for box, member in zip(e.boxes, e.members, strict=True):
            x1, y1, x2, y2 = box.round().astype(int)
            assert min(x2 - x1, y2 - y1) >= MIN_BOX_PX - 1 and member[2] and member.sum() == 1
            if min(x2 - x1, y2 - y1) > 5:
                assert red[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.9
            grown = red[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3]
            assert grown.mean() < 0.97 or min(x1, y1) <= 3 or x2 >= HW[1] - 3 or y2 >= HW[0] - 3
            seen += 1
        covered = np.zeros(HW, bool)
        for x1, y1, x2, y2 in np.concatenate([e.boxes, e.ignore]):
            covered[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = True
        if len(e.exhaustive):  # else none of the four is annotated for boxes
            assert (red & ~covered).sum() <= 0.01 * red.size, "every rectangle is learned or ignored"
    assert seen > 60


def example(box: list[float], mask: int | None = 0, annotated: bool = True) -> Example:
    boxes = np.array([box], np.float32) if annotated else np.zeros((0, 4), np.float32)
    return Example(
        dataset=2,
        image=np.full((*HW, 3), 0 if mask is None else 50 * mask, np.uint8),
        boxes=boxes,
        members=np.ones((len(boxes), 3), bool) if annotated else np.zeros((0, 0), bool),
        ignore=np.array([[0, 0, 112, 64]], np.float32) if mask == 3 else np.zeros((0, 4), np.float32),
        exhaustive=np.array([True, False, True]) if annotated else np.zeros(0, bool),
        masks={} if mask is None else {"scene": np.full(HW, mask, np.uint8)},
    )


def test_quarters_without_boxes_or_masks_teach_nothing_there() -> None:
    whole = [0.0, 0.0, 112.0, 64.0]
    pieces = [example(whole, 1), example(whole, None), example(whole, 2, annotated=False), example(whole, 3)]
    for seed in range(20):
        e = combine(pieces, np.random.default_rng(seed))
        assert e.dataset == 2 and e.exhaustive.tolist() == [True, False, True]
        mask = e.masks["scene"]
        cy, cx = int((mask[:, 0] == 1).sum()), int((mask[0] == 1).sum())
        assert 0.3 * HW[0] < cy < 0.7 * HW[0] and 0.3 * HW[1] < cx < 0.7 * HW[1]
        assert (mask[:cy, cx:] == IGNORE).all() and (mask[cy:, :cx] == 2).all() and (mask[cy:, cx:] == 3).all()
        assert [0, cy, cx, 64] in e.ignore.tolist(), "a quarter that is not annotated for boxes is ignored"
        assert [cx, cy, 112, 64] in e.ignore.tolist(), "an ignore region is cut at the quarter"
        assert (e.image[:cy, :cx] == 50).all() and (e.image[cy:, :cx] == 100).all()
        quarters = [[0, 0, cx, cy], [cx, 0, 112, cy], [cx, cy, 112, 64]]
        learned = [box for box in e.boxes.tolist() if box in quarters]
        assert len(learned) == len(e.boxes) == len(e.members)
        assert len(e.boxes) + len(e.ignore) == 3 + 2


def test_a_box_of_which_little_is_left_is_ignored() -> None:
    """One box in the corner of each piece, followed through 200 mosaics: learned iff enough of it is seen."""
    pieces = [example([0, 0, 30, 24], m) for m in (1, 2, 1, 2)]
    learned = ignored = 0
    for seed in range(200):
        e = combine(pieces, np.random.default_rng(seed))
        sizes = np.minimum(e.boxes[:, 2] - e.boxes[:, 0], e.boxes[:, 3] - e.boxes[:, 1])
        assert (sizes >= MIN_BOX_PX).all()
        assert ((e.ignore[:, 2:] - e.ignore[:, :2]) > 0).all()
        learned, ignored = learned + len(e.boxes), ignored + len(e.ignore)
    assert learned > 200 and ignored > 20


def test_a_dataset_without_boxes_stays_without_them() -> None:
    e = combine([example([0, 0, 9, 9], 1, annotated=False)] * 4, np.random.default_rng(0))
    assert e.boxes.shape == (0, 4) and e.ignore.shape == (0, 4) and len(e.exhaustive) == 0 and e.members.shape[0] == 0


def test_mosaics_come_as_often_as_asked_and_from_one_dataset(rectangles: Path) -> None:
    mixture = Mixture([rectangles, rectangles], [1.0, 1.0], 60, HW, AugmentConfig(magnitude=0, mosaic=0.4), seed=0)
    read: list[tuple[int, int]] = []
    single = mixture.example
    mixture.example = lambda dataset, sample, seed: read.append((n, dataset)) or single(dataset, sample, seed)  # type: ignore[method-assign, func-returns-value]
    for n in range(60):
        assert mixture[n].dataset == mixture.draw[n][0]
    counts = np.bincount([i for i, _ in read])
    assert set(counts.tolist()) == {1, 4} and 0.25 < (counts == 4).mean() < 0.55
    assert all(dataset == mixture.draw[i][0] for i, dataset in read)
