"""The converter of COCO JSON, on files in the layout of COCO 2017 and of a user's own set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.coco.prepare import main
from perception.layout import read_layout

NAMES = {1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 6: "bus", 7: "train", 8: "truck", 10: "traffic light",
         13: "stop sign", 18: "dog"}  # fmt: skip


def annotation(image: Any, category: Any, bbox: Any, crowd: int = 0) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0, "iscrowd": crowd,
            "segmentation": []}  # fmt: skip


def write_coco(path: Path, images: dict[int, str], annotations: list[Any], names: dict[int, str] = NAMES) -> None:
    """A COCO file for images of 60x40."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"license": 4, "file_name": file, "height": 40, "width": 60, "id": id_} for id_, file in images.items()]
    categories = [{"supercategory": "thing", "id": id_, "name": name} for id_, name in names.items()]
    content = {"info": {}, "licenses": [], "images": entries, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def photo(path: Path, hw: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))


def coco_2017(root: Path) -> Path:
    """Two good images in train, one in val."""
    for name in ("train2017/000000000009.jpg", "train2017/000000000025.jpg", "val2017/000000000139.jpg"):
        photo(root / name)
    rows = [
        annotation(9, 1, [10.5, 5.25, 20.0, 30.0]) | {"attributes": {"occluded": True, "rotation": 0.0}},  # as of CVAT
        annotation(9, 13, [40, 0, 10, 10]),
        annotation(9, 18, [0, 0, 10, 10]),
        annotation(9, 1, [0, 20, 60, 20], crowd=1),
        annotation(9, 18, [0, 0, 60, 40], crowd=1),
        annotation(25, 18, [5, 5, 10, 10]),
    ]
    train = {9: "000000000009.jpg", 25: "000000000025.jpg"}
    write_coco(root / "annotations/instances_train2017.json", train, rows)
    val = {139: "000000000139.jpg"}
    write_coco(root / "annotations/instances_val2017.json", val, [annotation(139, 7, [0, 0, 60, 40])])
    return root


def test_coco_2017(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(coco_2017(tmp_path / "coco")), str(out), "--strict", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2, "val": 1} and not summary["problems"]
    assert any("dog" in note for note in summary["notes"])

    labels, samples = read_layout(out, "train")
    assert labels.name == "coco" and "CC BY 4.0" in labels.licence and labels.boxes
    assert labels.boxes.sets == {
        "person": {"pedestrian", "rider"},
        "stop sign": {"traffic sign"},
        **{name: {name} for name in NAMES.values() if name not in ("person", "stop sign", "dog")},
    }
    everything = {"pedestrian", "rider", "bicycle", "car", "motorcycle", "bus", "train", "truck", "traffic light"}
    assert labels.boxes.exhaustive == everything  # but not traffic signs, of which only stop signs are labelled
    first, second = samples
    assert first.image.stem == "000000000009" and first.categories == ("person", "stop sign")
    np.testing.assert_allclose(first.boxes, [[10.5, 5.25, 30.5, 35.25], [40, 0, 50, 10]])
    np.testing.assert_allclose(first.ignore, [[0, 20, 60, 40]])  # the crowd of people, not that of dogs
    assert first.box_attributes == ({"occluded": True, "rotation": 0.0}, {})
    assert second.boxes is not None and len(second.boxes) == 0  # annotated: nothing of ours
    assert read_layout(out, "val")[1][0].categories == ("train",)


def test_only_relevant_images(tmp_path):
    out = tmp_path / "out"
    assert main([str(coco_2017(tmp_path / "coco")), str(out), "--only-relevant"]) == 0
    assert [sample.image.stem for sample in read_layout(out, "train")[1]] == ["000000000009"]


def test_malformed_labels_are_counted_and_left_out(tmp_path, capsys):
    root, out = coco_2017(tmp_path / "coco"), tmp_path / "out"
    photo(root / "train2017/other_size.jpg", (20, 60))
    rows = [
        annotation(1, 3, [10, 10, -5, 5]),
        annotation(1, 3, [100, 100, 10, 10]),
        annotation(1, 3, [50, 30, 20, 20]),
        annotation(1, 3, [10, 10, 5]),
        annotation(1, 3, None),
        annotation(1, 3, ["a", 0, 1, 1]),
        annotation(1, 99, [0, 0, 5, 5]),
        annotation(77, 3, [0, 0, 5, 5]),
        annotation([1], {"a": 1}, [0, 0, 5, 5]),
        {},
    ]
    images = {1: "000000000009.jpg", 2: "gone.jpg", 3: "other_size.jpg", 4: "../secret.jpg", 5: ""}
    write_coco(root / "annotations/instances_train2017.json", images, rows)
    assert main([str(root), str(out), "--strict"]) == 2 and not out.exists()
    capsys.readouterr()
    assert main([str(root), str(out), "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert {kind: entry["count"] for kind, entry in problems.items()} == {
        "annotation of an unknown category id, dropped": 3,
        "annotation of an unknown image id, dropped": 1,
        "inverted box, dropped": 1,
        "box outside the image, dropped": 1,
        "box partly outside the image, clipped": 1,
        "box that is not four numbers, dropped": 3,
        "missing image, skipped": 1,
        "image of another size than annotated, skipped": 1,
        "image without a plain relative file_name, skipped": 2,
    }
    (sample,) = read_layout(out, "train")[1]
    np.testing.assert_allclose(sample.boxes, [[50, 30, 60, 40]])


OWN = ["--splits", "train=my.json:pictures"]


def own_set(root: Path) -> Path:
    photo(root / "pictures/a/1.png")
    names = {0: "Lorry", 1: "traffic_light", 2: "rider", 3: "Person", 4: "tuk-tuk", 5: "blur"}
    rows = [annotation(7, category, [10 * category, 0, 10, 10]) for category in names]
    write_coco(root / "my.json", {7: "a/1.png"}, rows, names)
    return root


def test_own_set_with_categories_by_name(tmp_path):
    out = tmp_path / "out"
    assert main([str(own_set(tmp_path / "mine")), str(out), *OWN]) == 0
    labels, (sample,) = read_layout(out, "train")
    assert labels.name == "mine" and labels.licence == "not stated" and labels.boxes
    assert labels.boxes.sets == {
        "Lorry": {"truck"},
        "traffic_light": {"traffic light"},
        "rider": {"rider"},
        "Person": {"pedestrian"},  # riders have a category of their own here
    }
    assert labels.boxes.exhaustive == {"truck", "traffic light", "rider", "pedestrian"}
    assert sample.image.relative_to(out).as_posix() == "images/train/a/1.png"


def test_own_set_with_categories_given(tmp_path):
    out = tmp_path / "out"
    given = ["--categories", "tuk-tuk=car,motorcycle", "blur=", "--exhaustive", "truck", "traffic light"]
    assert main([str(own_set(tmp_path / "mine")), str(out), *OWN, *given, "--name", "m", "--licence", "MIT"]) == 0
    labels, (sample,) = read_layout(out, "train")
    assert (labels.name, labels.licence) == ("m", "MIT") and labels.boxes
    assert labels.boxes.sets["tuk-tuk"] == {"car", "motorcycle"}
    assert labels.boxes.exhaustive == {"truck", "traffic light"}
    np.testing.assert_allclose(sample.ignore, [[50, 0, 60, 10]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--categories", "zebra=car"], "'zebra=car'"),
        (["--categories", "Lorry"], "NAME=CLASS"),
        (["--categories", "Lorry=tank"], "unknown class 'tank'"),
        (["--exhaustive", "tank"], "unknown class 'tank'"),
        (["--splits", "train=my.json"], "FILE.json:IMAGE_FOLDER"),
        (["--splits", "dev=my.json:pictures"], "train|val|test"),
        (["--splits", "val=gone.json:pictures"], "gone.json is missing"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path, capsys, options, message):
    assert main([str(own_set(tmp_path / "mine")), str(tmp_path / "out"), *OWN, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "is not JSON"),
        ("[]", "is not COCO"),
        ('{"images": [], "annotations": [3], "categories": []}', "'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "without id or name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}', "map them with --categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}]}', "no image"),
    ],
)
def test_broken_files_are_one_clear_line(tmp_path, capsys, content, message):
    (tmp_path / "my.json").write_text(content)
    assert main([str(tmp_path), str(tmp_path / "out"), *OWN]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
