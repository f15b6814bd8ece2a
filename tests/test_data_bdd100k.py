"""The converter of BDD100K, on files in its layout of 2020 and that of 2018."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.bdd100k import prepare as bdd100k
from data.bdd100k.prepare import drive_mask, main
from perception.layout import read_layout

HW = (36, 64)
SOLID_WHITE, DASHED_VERTICAL_YELLOW, CROSSWALK, KERB, NO_LANE = 6, 7 | 1 << 4 | 1 << 5, 0, 4, 255  # lane bytes


def photo(path: Path, hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))


def mask(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def drivable() -> np.ndarray:
    """Background on top, then the alternative lane, then the direct one."""
    ids = np.full(HW, 2, np.uint8)
    ids[12:24], ids[24:] = 1, 0
    return ids


def lane() -> np.ndarray:
    """One column of each kind, far enough apart."""
    ids = np.full(HW, NO_LANE, np.uint8)
    for column, value in ((5, SOLID_WHITE), (25, DASHED_VERTICAL_YELLOW), (45, CROSSWALK), (60, KERB)):
        ids[:, column] = value
    return ids


def box(category: str, x1: Any, y1: Any, x2: Any, y2: Any, **attributes: Any) -> dict[str, Any]:
    known = {"occluded": False, "truncated": False, "trafficLightColor": "NA", **attributes}
    box2d = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return {"id": "1", "category": category, "attributes": known, "manualShape": True, "box2d": box2d}


def frame(stem: str, labels: Any) -> dict[str, Any]:
    attributes = {"weather": "clear", "scene": "highway", "timeofday": "daytime"}
    return {"name": f"{stem}.jpg", "attributes": attributes, "timestamp": 10000, "labels": labels}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def release_of_2020(root: Path) -> Path:
    """100k: `both` has everything, `boxed` only boxes, `empty` a frame without labels, `bare` no labels."""
    for stem in ("both", "boxed", "empty", "bare"):
        photo(root / f"images/100k/train/{stem}.jpg")
    photo(root / "images/100k/val/v.jpg")
    photo(root / "images/100k/test/t.jpg")
    labels = [box("pedestrian", 1, 2, 11.5, 12), box("traffic light", 20, 0, 24, 6), box("trailer", 30, 10, 60, 30)]
    labels += [box("other vehicle", 0, 20, 5, 30), box("car", 40, 20, 50, 30, crowd=True)]
    unlabelled = {key: value for key, value in frame("empty", None).items() if key != "labels"}
    frames = [frame("both", labels), frame("boxed", [box("motorcycle", 0, 0, 9, 9, occluded=True)]), unlabelled]
    frames[1]["attributes"] = {"weather": "undefined", "scene": "tunnel"}
    write_json(root / "labels/det_20/det_train.json", frames)
    write_json(root / "labels/det_20/det_val.json", {"frames": [frame("v", [])], "groups": None, "config": {}})
    mask(root / "labels/drivable/masks/train/both.png", drivable())
    mask(root / "labels/lane/masks/train/both.png", lane())
    mask(root / "labels/drivable/masks/val/v.png", drivable())

    for split, stem in (("train", "s"), ("train", "v"), ("val", "w")):  # v: val of the 100k images
        photo(root / f"images/10k/{split}/{stem}.jpg")
        ids = np.full(HW, 255, np.uint8)
        ids[:10], ids[10:20], ids[20:30] = 10, 0, 18
        mask(root / f"labels/sem_seg/masks/{split}/{stem}.png", ids)
    return root


def by_name(out: Path, split: str) -> dict[str, Any]:
    samples = read_layout(out, split)[1]
    return {sample.image.relative_to(out / "images" / split).with_suffix("").as_posix(): sample for sample in samples}


def read(path: Path) -> np.ndarray:
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert ids is not None
    return ids


def test_release_of_2020(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(release_of_2020(tmp_path / "bdd100k")), str(out), "--strict", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 4, "val": 2} and not summary["problems"]
    assert sorted(summary["notes"].values()) == [1, 1]  # 100k/bare has no labels; 10k train/v is held out by 100k
    train, val = by_name(out, "train"), by_name(out, "val")
    assert set(train) == {"100k/both", "100k/boxed", "100k/empty", "10k/s"} and set(val) == {"100k/v", "10k/w"}

    both = train["100k/both"]
    assert both.categories == ("pedestrian", "traffic light") and set(both.masks) == {"drive"}
    np.testing.assert_allclose(both.boxes, [[1, 2, 11.5, 12], [20, 0, 24, 6]])
    assert sorted(both.ignore[:, 0].tolist()) == [0, 30, 40]  # other vehicle, trailer, crowd of cars
    assert both.attributes == {"weather": "clear", "scene": "highway", "timeofday": "daytime"}
    assert both.box_attributes == ({"occluded": False, "truncated": False},) * 2
    assert train["100k/boxed"].box_attributes == ({"occluded": True, "truncated": False},)
    assert train["100k/boxed"].attributes == {"scene": "tunnel"} and train["10k/s"].attributes == {}
    assert train["100k/boxed"].categories == ("motorcycle",) and not train["100k/boxed"].masks
    assert len(train["100k/empty"].boxes) == 0
    assert train["10k/s"].boxes is None and set(train["10k/s"].masks) == {"scene"}
    labels = read_layout(out, "train")[0]
    assert labels.boxes and len(labels.boxes.exhaustive) == 10
    scene = labels.masks["scene"]
    assert scene.sets[0] == {"road", "lane marking"} and scene.sets[18] == {"bicycle"} and len(scene.sets) == 19
    np.testing.assert_array_equal(np.unique(read(train["10k/s"].masks["scene"])), [0, 10, 18, 255])


def meaning(ids: np.ndarray) -> np.ndarray:
    """Label ids -> their set of classes as text, "d"rivable, "b"ackground, "l"ane marking; "" where not labelled."""
    texts = {label: "".join(sorted(name[0] for name in members)) for label, (_, members) in bdd100k.DRIVE.items()}
    return np.vectorize({**texts, 255: ""}.get)(ids)


def test_drive_mask_of_drivable_and_lanes():
    found = meaning(drive_mask(drivable(), lane()))
    assert (found[:, [5, 25]] == "l").all()
    assert (found[:, 45] == "dl").all()  # crosswalk
    others = np.delete(found, [5, 25, 45], 1)  # the kerb stays what the drivable mask says
    assert (others[:12] == "b").all() and (others[12:] == "d").all()


def test_drive_mask_between_the_edges_of_a_marking():
    lanes = np.full(HW, NO_LANE, np.uint8)
    lanes[:, 20] = lanes[:, 26] = SOLID_WHITE
    found = meaning(drive_mask(drivable(), lanes))
    assert (found[:12, 21:26] == "bl").all() and (found[12:, 21:26] == "dl").all()
    assert (found[12:, 27:] == "d").all() and (found[12:, :20] == "d").all()
    assert (meaning(drive_mask(None, lanes))[:, 21:26] == "").all()


def test_drive_mask_of_one_kind_claims_nothing_about_the_other():
    found = meaning(drive_mask(drivable(), None))
    assert (found[:12] == "bl").all() and (found[12:] == "dl").all()
    found = meaning(drive_mask(None, lane()))
    assert (found[:, 5] == "l").all() and (found[:, 60] == "bd").all() and (found[:, 0] == "bd").all()


def test_unknown_values_stay_unlabelled():
    ids = np.full((1, 1), 255, np.uint8)
    assert drive_mask(ids, None)[0, 0] == 255 and drive_mask(ids, ids)[0, 0] == 255


def test_release_of_2018(tmp_path):
    root, out = tmp_path / "bdd100k", tmp_path / "out"
    photo(root / "images/100k/train/a.jpg")
    poly = {
        "category": "lane",
        "attributes": {"laneStyle": "solid"},
        "poly2d": [{"vertices": [[0, 0], [9, 9]]}],
        "id": 3,
    }
    labels = [box("person", 0, 0, 9, 9), box("bike", 1, 1, 9, 9), box("motor", 2, 2, 9, 9), poly]
    write_json(root / "labels/bdd100k_labels_images_train.json", [frame("a", labels)])
    mask(root / "drivable_maps/labels/train/a_drivable_id.png", np.array([0, 1, 2], np.uint8)[(drivable() + 1) % 3])
    assert main([str(root), str(out), "--strict"]) == 0
    (sample,) = read_layout(out, "train")[1]
    assert sample.categories == ("pedestrian", "bicycle", "motorcycle")
    np.testing.assert_array_equal(read(sample.masks["drive"]), drive_mask(drivable(), None))


def test_colour_maps(tmp_path):
    root, out = tmp_path / "bdd100k", tmp_path / "out"
    photo(root / "images/100k/val/a.jpg")
    bgr = np.zeros((*HW, 3), np.uint8)
    bgr[12:24], bgr[24:] = (219, 211, 86), (86, 94, 219)
    mask(root / "labels/drivable/colormaps/val/a.png", bgr)
    lines = np.zeros((*HW, 3), np.uint8)
    lines[:, 5], lines[:, 25], lines[:, 45], lines[:, 60] = (
        (219, 86, 160),
        (178, 86, 219),
        (86, 94, 219),
        (219, 211, 86),
    )
    mask(root / "labels/lane/colormaps/val/a.png", lines)
    assert main([str(root), str(out), "--strict"]) == 0
    (sample,) = read_layout(out, "val")[1]
    np.testing.assert_array_equal(read(sample.masks["drive"]), drive_mask(drivable(), lane()))


def test_malformed_labels_are_counted_and_left_out(tmp_path, capsys):
    root, out = release_of_2020(tmp_path / "bdd100k"), tmp_path / "out"
    labels = [box("car", 9, 9, 1, 1), box("car", 70, 0, 90, 10), box("car", 50, 10, 80, 20), box("zebra", 1, 1, 9, 9)]
    labels += [box("car", "a", None, 1, 1), {"category": "car", "box2d": [1, 2, 3, 4]}, "label"]
    frames = [frame("boxed", labels), frame("gone", []), {"labels": []}, "frame", frame("odd", 3)]
    write_json(root / "labels/det_20/det_train.json", frames)
    photo(root / "images/100k/train/small.jpg")
    mask(root / "labels/drivable/masks/train/small.png", drivable()[:20])
    photo(root / "images/100k/train/unlike.jpg")
    mask(root / "labels/drivable/masks/train/unlike.png", drivable())
    mask(root / "labels/lane/masks/train/unlike.png", lane()[:20])
    photo(root / "images/10k/train/colour.jpg")
    mask(root / "labels/sem_seg/masks/train/colour.png", np.zeros((*HW, 3), np.uint8))
    photo(root / "images/10k/train/broken.jpg")
    (root / "labels/sem_seg/masks/train/broken.png").write_bytes(b"\x89PNG")
    mask(root / "labels/sem_seg/masks/train/alone.png", np.zeros(HW, np.uint8))
    ids = np.full(HW, 40, np.uint8)
    mask(root / "labels/sem_seg/masks/train/s.png", ids)
    assert main([str(root), str(out), "--strict"]) == 2 and not out.exists()
    capsys.readouterr()
    assert main([str(root), str(out), "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert {kind: entry["count"] for kind, entry in problems.items()} == {
        "inverted box, dropped": 1,
        "box outside the image, dropped": 1,
        "box partly outside the image, clipped": 1,
        "box of unknown class 'zebra', dropped": 1,
        "box that is not four numbers, dropped": 1,
        "label that is not a Scalabel object, dropped": 2,
        "frame without a name or a list of labels, dropped": 3,
        "missing image, skipped": 2,
        "mask of another size than the image, sample skipped": 1,
        "drivable and lane masks of different sizes, sample skipped": 1,
        "mask of another form than expected, sample skipped": 1,
        "missing or unreadable mask, sample skipped": 1,
        "mask with unknown label ids, set to 255": 1,
    }
    np.testing.assert_allclose(by_name(out, "train")["100k/boxed"].boxes, [[50, 10, 64, 20]])


@pytest.mark.parametrize(("content", "message"), [("[{", "is not JSON"), ('{"a": 1}', "expected a list of frames")])
def test_broken_json_is_one_clear_line(tmp_path, capsys, content, message):
    root = release_of_2020(tmp_path / "bdd100k")
    (root / "labels/det_20/det_val.json").write_text(content)
    assert main([str(root), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and "det_val.json" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_one_clear_line(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "neither images/100k nor images/10k" in capsys.readouterr().err
    assert main([str(tmp_path / "gone"), str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err
