"""The converter of Cityscapes, on files in its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.cityscapes.prepare import NAMES, main
from perception.labels import IGNORE
from perception.layout import read_layout

HW = (32, 64)
AACHEN, ZURICH, FRANKFURT = "aachen_000000_000019", "zurich_000121_000019", "frankfurt_000000_000294"
ROAD, SKY, CAR, PARKING, BRIDGE = (NAMES.index(name) for name in ("road", "sky", "car", "parking", "bridge"))


def photo(root: Path, split: str, frame: str, hw: tuple[int, int] = HW) -> None:
    path = root / "leftImg8bit" / split / frame.split("_")[0] / f"{frame}_leftImg8bit.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))


def truth(root: Path, split: str, frame: str, end: str) -> Path:
    path = root / "gtFine" / split / frame.split("_")[0] / f"{frame}_gtFine_{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def label_ids() -> np.ndarray:
    ids = np.full(HW, ROAD, np.uint8)
    ids[:10], ids[10:20, 5:15], ids[10:12, 20:30], ids[:4, 50:], ids[-2:] = SKY, CAR, PARKING, BRIDGE, 1
    return ids


def instance_ids() -> np.ndarray:
    """A car of two parts, two regions that belong to groups of people, and stuff."""
    ids = label_ids().astype(np.uint16)
    ids[ids == CAR] = CAR * 1000
    ids[10:20, 9:11] = 17  # a pole in front of it
    ids[12:16, 30:34] = ids[12:16, 40:44] = NAMES.index("person")
    ids[20:24, 50:54] = NAMES.index("trailer") * 1000 + 1
    return ids


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[list[float]]:
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def polygons(objects: list[Any], hw: tuple[int, int] = HW) -> str:
    items = [{"label": item[0], "polygon": item[1]} if isinstance(item, tuple) else item for item in objects]
    return json.dumps({"imgHeight": hw[0], "imgWidth": hw[1], "objects": items})


def cityscapes(root: Path) -> Path:
    """Two images in train and one in val, with everything; the test split has images only."""
    for split, frame in (("train", AACHEN), ("train", ZURICH), ("val", FRANKFURT), ("test", "berlin_000000_000019")):
        photo(root, split, frame)
        if split == "test":
            continue
        assert cv2.imwrite(str(truth(root, split, frame, "labelIds.png")), label_ids())
        assert cv2.imwrite(str(truth(root, split, frame, "instanceIds.png")), instance_ids())
        objects: list[Any] = [
            ("road", rectangle(0, 0, 64, 32)),
            ("car", [[5, 12], [10, 10], [15, 12], [15, 20], [5, 20]]),
            ("person", rectangle(30, 12, 33.5, 20)),
            ("cargroup", rectangle(40, 10, 60, 20)),
            ("trailer", rectangle(50, 20, 54, 24)),
            ("traffic sign", rectangle(1, 1, 4, 4)),
            ("license plate", rectangle(6, 17, 8, 18)),
            {"label": "car", "polygon": rectangle(0, 0, 9, 9), "deleted": 1},
        ]
        truth(root, split, frame, "polygons.json").write_text(polygons(objects))
    return root


def test_masks_and_boxes_from_polygons(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(cityscapes(tmp_path / "cityscapes")), str(out), "--strict", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2, "val": 1} and not summary["problems"]
    labels, samples = read_layout(out, "train")
    assert [sample.image.stem for sample in samples] == [AACHEN, ZURICH] and labels.boxes
    sample = samples[0]
    assert sample.categories == ("car", "person", "traffic sign")
    np.testing.assert_allclose(sample.boxes, [[5, 10, 15, 20], [30, 12, 33.5, 20], [1, 1, 4, 4]])
    np.testing.assert_allclose(sample.ignore, [[40, 10, 60, 20], [50, 20, 54, 24]])
    assert labels.boxes.sets["person"] == {"pedestrian"} and len(labels.boxes.exhaustive) == 10
    assert sample.masks["scene"] == sample.masks["drive"]
    np.testing.assert_array_equal(cv2.imread(str(sample.masks["scene"]), cv2.IMREAD_UNCHANGED), label_ids())


def test_label_sets(tmp_path):
    assert main([str(cityscapes(tmp_path / "cityscapes")), str(tmp_path / "out")]) == 0
    labels = read_layout(tmp_path / "out", "val")[0]
    scene, drive = labels.masks["scene"].sets, labels.masks["drive"].sets
    assert scene[ROAD] == {"road", "lane marking"} and scene[CAR] == {"car"} and scene[33] == {"bicycle"}
    assert sum(bool(members) for members in scene.values()) == 19 and not scene[PARKING] and not scene[BRIDGE]
    assert drive[ROAD] == {"drivable", "lane marking"} and drive[CAR] == drive[BRIDGE] == {"background"}
    assert not drive[PARKING] and not drive[1]


def test_boxes_from_instance_ids(tmp_path):
    out = tmp_path / "out"
    assert main([str(cityscapes(tmp_path / "cityscapes")), str(out), "--strict", "--boxes", "instances"]) == 0
    labels, (sample, _) = read_layout(out, "train")
    assert sample.categories == ("car",)
    np.testing.assert_allclose(sample.boxes, [[5, 10, 15, 20]])
    assert sorted(sample.ignore.tolist()) == [[30, 12, 34, 16], [40, 12, 44, 16], [50, 20, 54, 24]]
    assert labels.boxes and labels.boxes.exhaustive.isdisjoint({"traffic light", "traffic sign"})


def test_train_ids_give_the_same_mask(tmp_path):
    root, out = cityscapes(tmp_path / "cityscapes"), tmp_path / "out"
    truth(root, "val", FRANKFURT, "labelIds.png").unlink()
    train_ids = np.full(HW, 255, np.uint8)
    ids = label_ids()
    train_ids[ids == ROAD], train_ids[ids == SKY], train_ids[ids == CAR] = 0, 10, 13
    assert cv2.imwrite(str(truth(root, "val", FRANKFURT, "labelTrainIds.png")), train_ids)
    assert main([str(root), str(out), "--strict"]) == 0
    (sample,) = read_layout(out, "val")[1]
    expected = np.where(np.isin(ids, [ROAD, SKY, CAR]), ids, IGNORE)
    np.testing.assert_array_equal(cv2.imread(str(sample.masks["scene"]), cv2.IMREAD_UNCHANGED), expected)


def test_malformed_labels_are_counted_and_left_out(tmp_path, capsys):
    root, out = cityscapes(tmp_path / "cityscapes"), tmp_path / "out"
    objects = [
        ("car", rectangle(50, 10, 90, 20)),
        ("car", rectangle(70, 10, 90, 20)),
        ("car", []),
        ("car", [[1, 2], [3]]),
        ("car", "polygon"),
        ("car", rectangle(5, 5, 5, 9)),
        ("zebra", rectangle(1, 1, 9, 9)),
    ]
    truth(root, "train", AACHEN, "polygons.json").write_text(polygons(objects))
    truth(root, "train", ZURICH, "polygons.json").write_text('{"imgHeight": 32,')
    for number, frame in enumerate(f"ulm_00000{index}_000019" for index in range(5)):
        if number != 0:
            photo(root, "train", frame, (16, 64) if number == 1 else HW)
        if number != 2:
            assert cv2.imwrite(str(truth(root, "train", frame, "labelIds.png")), label_ids())
        hw = (1024, 2048) if number == 3 else HW
        if number != 4:
            truth(root, "train", frame, "polygons.json").write_text(polygons([], hw))
    assert main([str(root), str(out), "--strict"]) == 2 and not out.exists()
    capsys.readouterr()
    assert main([str(root), str(out), "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert {kind: entry["count"] for kind, entry in problems.items()} == {
        "box partly outside the image, clipped": 1,
        "box outside the image, dropped": 1,
        "box that is not four numbers, dropped": 3,
        "empty box, dropped": 1,
        "box of unknown class 'zebra', dropped": 1,
        "missing or broken polygons, image has no boxes": 2,
        "missing image, skipped": 1,
        "image of another size than annotated, skipped": 2,
        "missing or unreadable mask, sample skipped": 1,
    }
    samples = {sample.image.stem: sample for sample in read_layout(out, "train")[1]}
    assert set(samples) == {AACHEN, ZURICH, "ulm_000004_000019"}
    np.testing.assert_allclose(samples[AACHEN].boxes, [[50, 10, 64, 20]])
    assert samples[ZURICH].boxes is None and "scene" in samples[ZURICH].masks


def test_mask_of_another_size_is_skipped(tmp_path, capsys):
    root, out = cityscapes(tmp_path / "cityscapes"), tmp_path / "out"
    assert cv2.imwrite(str(truth(root, "val", FRANKFURT, "labelIds.png")), label_ids()[:16])
    assert main([str(root), str(out), "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2}
    assert list(summary["problems"]) == ["mask of another size than the image, sample skipped"]


def test_broken_instance_ids_leave_the_masks(tmp_path, capsys):
    root, out = cityscapes(tmp_path / "cityscapes"), tmp_path / "out"
    truth(root, "val", FRANKFURT, "instanceIds.png").write_bytes(b"")
    ids = instance_ids()
    ids[0, 0] = 60_000
    assert cv2.imwrite(str(truth(root, "train", AACHEN, "instanceIds.png")), ids)
    assert main([str(root), str(out), "--boxes", "instances", "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    kinds = {"missing or broken instance ids, image has no boxes", "box of unknown class 'label id 60', dropped"}
    assert set(problems) == kinds
    (sample,) = read_layout(out, "val")[1]
    assert sample.boxes is None and set(sample.masks) == {"scene", "drive"}


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine"])
def test_a_missing_folder_is_one_clear_line(tmp_path, capsys, missing):
    root = cityscapes(tmp_path / "cityscapes")
    (root / missing).rename(root / "elsewhere")
    assert main([str(root), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert missing in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
