"""The converter of the Ultralytics YOLO format, on files in its layouts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.layout import read_layout

pytest.importorskip("yaml")
from data.yolo.prepare import main

YAML = """
path: ../datasets/mine  # a folder of the author's machine
train: images/train
val: images/val
test:
names:
  0: person
  1: bicycle
  2: car
  3: cat
license: CC BY 4.0
"""


def photo(path: Path, hw: tuple[int, int] = (40, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))


def label(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def dataset(root: Path, yaml: str = YAML) -> Path:
    """Two images in train, one of them portrait, and one in val without a label file."""
    photo(root / "images/train/1.jpg")
    label(root / "labels/train/1.txt", "2 0.5 0.5 0.2 0.5\n3 0.5 0.5 0.2 0.5\n\n")
    photo(root / "images/train/night/2.png", (100, 50))
    label(root / "labels/train/night/2.txt", "0 0.1 0.2 0.5 0.2 0.3 0.9\n")
    photo(root / "images/val/3.jpg", (7, 1))
    (root / "data.yaml").write_text(yaml)
    return root


def test_boxes_and_polygons(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(dataset(tmp_path / "mine")), str(out), "--strict", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2, "val": 1} and summary["boxes"] == {"car": 1, "person": 1}
    assert any("cat" in note for note in summary["notes"])
    assert summary["notes"]["image without a label file: background"] == 1

    labels, samples = read_layout(out, "train")
    assert (labels.name, labels.licence) == ("mine", "CC BY 4.0") and labels.boxes
    assert labels.boxes.sets == {"person": {"pedestrian", "rider"}, "bicycle": {"bicycle"}, "car": {"car"}}
    by_name = {sample.image.relative_to(out / "images/train").as_posix(): sample for sample in samples}
    np.testing.assert_allclose(by_name["1.jpg"].boxes, [[40, 10, 60, 30]])
    np.testing.assert_allclose(by_name["night/2.png"].boxes, [[5, 20, 25, 90]])  # width 50, height 100
    (background,) = read_layout(out, "val")[1]
    assert background.boxes is not None and len(background.boxes) == 0


def test_names_as_a_list_and_roboflow_folders(tmp_path):
    out = tmp_path / "out"
    photo(tmp_path / "s/train/images/1.jpg")
    label(tmp_path / "s/train/labels/1.txt", "1 0.5 0.5 1 1")
    photo(tmp_path / "s/valid/images/1.jpg")
    label(tmp_path / "s/valid/labels/1.txt", "0 0.5 0.5 1 1")
    text = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cyclist', 'Traffic-Light']\n"
    (tmp_path / "s/data.yaml").write_text(text)
    assert main([str(tmp_path / "s"), str(out)]) == 0
    labels, (sample,) = read_layout(out, "train")
    assert sample.image.name == "1.jpg" and sample.categories == ("Traffic-Light",)
    assert labels.boxes and labels.boxes.sets["cyclist"] == {"rider", "bicycle"}
    assert labels.boxes.exhaustive == {"traffic light"}  # people and bicycles apart are not labelled


@pytest.mark.parametrize(
    ("names", "images", "labels"),
    [
        ("classes.txt", "images", "labels"),  # Label Studio
        ("obj.names", "obj_train_data", "obj_train_data"),  # CVAT, YOLO 1.1
        ("classes.txt", ".", "."),  # labelImg
    ],
)
def test_a_list_of_names_serves_for_a_data_yaml(tmp_path, names, images, labels):
    root, out = tmp_path / "s", tmp_path / "out"
    for name in "ab":
        photo(root / images / f"{name}.jpg")
        label(root / labels / f"{name}.txt", "1 0.5 0.5 1 1\n")
    (root / names).write_text("person\ncar\n")
    assert main([str(root), str(out), "--val-share", "0.5", "--strict"]) == 0
    for split, name in (("train", "a"), ("val", "b")):
        (sample,) = read_layout(out, split)[1]
        assert sample.image.stem == name and sample.categories == ("car",)


def test_lists_of_images(tmp_path, capsys):
    root, out = dataset(tmp_path / "mine"), tmp_path / "out"
    (root / "train.txt").write_text("./images/train/1.jpg\nimages/train/gone.jpg\n")
    text = YAML.replace("train: images/train", "train: [train.txt, images/val]").replace("val: images/val", "")
    (root / "own.yaml").write_text(text)
    assert main([str(root), str(out), "--yaml", "own.yaml", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2}
    assert {kind: entry["count"] for kind, entry in summary["problems"].items()} == {"missing image, skipped": 1}


def test_categories_given(tmp_path):
    out = tmp_path / "out"
    given = ["--categories", "cat=", "person=pedestrian", "--exhaustive", "car"]
    assert main([str(dataset(tmp_path / "mine")), str(out), *given]) == 0
    labels, (sample, _) = read_layout(out, "train")
    assert labels.boxes and labels.boxes.sets["person"] == {"pedestrian"} and labels.boxes.exhaustive == {"car"}
    assert sample.categories == ("car",) and len(sample.ignore) == 1


def test_malformed_labels_are_counted_and_left_out(tmp_path, capsys):
    root, out = dataset(tmp_path / "mine"), tmp_path / "out"
    lines = [
        "2 0.5 0.5 0.2",
        "2 0.5 0.5 0.2 0.5 0.9",
        "2 0.1 0.1 0.2 0.2 0.3 nan",
        "2 0.5 x 0.2 0.5",
        "car 0.5 0.5 0.2 0.5",
        "9 0.5 0.5 0.2 0.5",
        "2 0.5 0.5 -0.2 0.5",
        "2 0.5 0.5 0 0",
        "2 50 20 20 20",
        "2 1.0 0.5 0.2 0.5",
        "2.0 0.25 0.5 0.5 1",
    ]
    label(root / "labels/train/1.txt", "\n".join(lines))
    (root / "images/val/3.jpg").write_bytes(b"not an image")
    assert main([str(root), str(out), "--strict"]) == 2 and not out.exists()
    capsys.readouterr()
    assert main([str(root), str(out), "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert {kind: entry["count"] for kind, entry in problems.items()} == {
        "label line that is neither a box nor a polygon, dropped": 4,
        "label line of a class id that data.yaml does not name, dropped": 2,
        "inverted box, dropped": 1,
        "empty box, dropped": 1,
        "box outside the image, dropped": 1,
        "box partly outside the image, clipped": 1,
        "unreadable image, skipped": 1,
    }
    sample = next(sample for sample in read_layout(out, "train")[1] if sample.image.stem == "1")
    np.testing.assert_allclose(sample.boxes, [[90, 10, 100, 30], [0, 0, 50, 40]])


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (YAML.replace("images/val", "images/gone"), "images/gone is not in"),
        ("names: [car", "is not YAML"),
        ("train: images/train", "expected 'names'"),
        ("train: images/train\nnames: {a: car}", "expected 'names'"),
        ("train: images/train\nnames: [zebra]", "map them with --categories"),
        ("train: images/val\nnames: [car]", "no image has a label file"),
        ("names: [car]", "no image"),
    ],
)
def test_broken_data_yaml_is_one_clear_line(tmp_path, capsys, yaml, message):
    assert main([str(dataset(tmp_path / "mine", yaml)), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_data_yaml_is_one_clear_line(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "name it with --yaml" in capsys.readouterr().err


def test_a_folder_above_the_source_may_be_called_images(tmp_path):
    root = tmp_path / "images" / "export"
    photo(root / "obj_train_data/1.jpg")
    label(root / "obj_train_data/1.txt", "0 0.5 0.5 0.2 0.5\n")
    label(root / "obj.names", "car\n")
    assert main([str(root), str(tmp_path / "out"), "--strict"]) == 0
    (sample,) = read_layout(tmp_path / "out", "train")[1]
    assert sample.categories == ("car",)
