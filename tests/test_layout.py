"""The common layout: what is written comes back, what is malformed is counted, what is interrupted leaves nothing."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from perception.labels import DRIVE_CLASSES, IGNORE, SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter, read_layout

ROAD = {0: "rest", 1: "road", 7: "unlabelled"}
LABELS = DatasetLabels(
    name="town",
    licence="CC0",
    source="https://example.org",
    boxes=BoxLabels(
        {"Car": frozenset({"car"}), "Person": frozenset({"pedestrian", "rider"}), "DontCare": frozenset()},
        frozenset({"car"}),
    ),
    masks={
        "scene": MaskLabels(
            "seg", ROAD, {0: frozenset({"sky"}), 1: frozenset({"road"}), 7: frozenset()}, SCENE_CLASSES
        ),
        "drive": MaskLabels(
            "seg", ROAD, {0: frozenset({"background"}), 1: frozenset({"drivable"}), 7: frozenset()}, DRIVE_CLASSES
        ),
    },
)
SIZES = [(5, 7), (9, 4), (1, 1), (6, 6)]  # (height, width): landscape and odd, portrait, one pixel, square


def picture(hw: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(hw[0] * 100 + hw[1]).integers(0, 256, (*hw, 3), np.uint8)


def image_file(path, hw=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(hw))
    return path


def written(tmp_path, **arguments):
    """The report and the only sample of a dataset of one 8x6 image, written with `arguments`."""
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        assert writer.add("train", "a", picture(), **arguments)
    return writer.report, read_layout(tmp_path / "out", "train")[1][0]


# ----------------------------------------------------------------------------------------------------------- round trip


def test_round_trip(tmp_path, capsys):
    source = tmp_path / "source"
    masks = {}
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        for number, hw in enumerate(SIZES):
            masks[number] = np.random.default_rng(number).choice([0, 1, 7, IGNORE], hw).astype(np.uint8)
            image = image_file(source / f"{number}{'.png' if number % 2 else '.JPEG'}", hw)
            box = [0, 0, hw[1], hw[0]]
            added = writer.add(
                "val",
                f"{number}",
                image,
                boxes=[box, box],
                categories=["Person", "DontCare"],
                masks={"seg": masks[number]},
            )
            assert added
    assert "4 val" in (out := capsys.readouterr().out) and "problems: none" in out

    labels, samples = read_layout(tmp_path / "out", "val")
    assert labels == LABELS
    assert [sample.image.name for sample in samples] == ["0.jpg", "1.png", "2.jpg", "3.png"]
    for number, (sample, hw) in enumerate(zip(samples, SIZES, strict=True)):
        original = source / f"{number}{'.png' if number % 2 else '.JPEG'}"
        assert sample.image.read_bytes() == original.read_bytes()
        assert sample.boxes.dtype == sample.ignore.dtype == np.float32
        assert sample.boxes.tolist() == sample.ignore.tolist() == [[0, 0, hw[1], hw[0]]]
        assert sample.categories == ("Person",)
        assert sample.masks["scene"] == sample.masks["drive"]  # two heads, one mask
        mask = cv2.imread(str(sample.masks["scene"]), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, masks[number])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_partial_annotation(tmp_path):
    """Not annotated (None) is another thing than annotated as empty; masks may be there for some images only."""
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        writer.add("train", "empty", picture(), boxes=[])
        writer.add("train", "none", picture())
        writer.add("train", "town/mask", picture(), masks={"seg": np.ones((6, 8), np.int64)})
    _, samples = read_layout(tmp_path / "out", "train")
    empty, none, mask = samples
    assert empty.boxes.shape == empty.ignore.shape == (0, 4) and empty.categories == () and not empty.masks
    assert none.boxes is None and none.ignore.shape == (0, 4)
    assert set(mask.masks) == {"scene", "drive"} and mask.image.parent.name == "town"


def test_attributes_come_back_with_their_image_and_box(tmp_path):
    """Also where boxes before them are dropped or ignored; what other tools write beside them is left alone."""
    known = [{"occlusion": 1, "distance_m": 23.4}, {"occlusion": 2}, {"occlusion": 3}, {}, {"late": True}]
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        writer.add(
            "train", "town/a", picture(), boxes=[[1, 1, 4, 4], [4, 4, 1, 1], [0, 0, 9, 9], [0, 0, 2, 2], [0, 0, 3, 3]],
            categories=["Car", "Car", "DontCare", "Person", "Car"], box_attributes=known, ignore=[[0, 0, 5, 5]],
            attributes={"weather": "fog", "speed": 3.5},
        )  # fmt: skip
        writer.add("train", "b", picture(), boxes=[[0, 0, 2, 2]], categories=["Car"])
        writer.add("val", "c", picture(), boxes=[])
    b, a = read_layout(tmp_path / "out", "train")[1]
    assert a.box_attributes == ({"occlusion": 1, "distance_m": 23.4}, {}, {"late": True})
    assert a.attributes == {"weather": "fog", "speed": 3.5} and type(a.box_attributes[0]["occlusion"]) is int
    assert b.attributes == {} and b.box_attributes == ({},)
    assert read_layout(tmp_path / "out", "val")[1][0].box_attributes == ()
    rows = json.loads((tmp_path / "out/boxes/train.json").read_text())["annotations"]
    assert ["attributes" in row for row in rows] == [False, True, True, False, True, False]
    assert sorted(path.name for path in (tmp_path / "out/attributes").iterdir()) == ["train.json"]
    assert json.loads((tmp_path / "out/attributes/train.json").read_text()) == {"town/a.jpg": a.attributes}


def test_attributes_that_json_can_not_hold_are_counted(tmp_path):
    report, sample = written(tmp_path, attributes={"x": float("nan"), "y": [1], "z": "kept"})
    assert sample.attributes == {"z": "kept"}
    assert report.problems == {"attribute that is not text or a number, dropped": 2}


def test_coco_file_is_what_other_tools_read(tmp_path):
    written(tmp_path, boxes=[[1, 2, 4, 6], [0, 0, 2, 2]], categories=["Car", "DontCare"], ignore=[[4, 0, 8, 3]])
    data = json.loads((tmp_path / "out/boxes/train.json").read_text())
    assert data["images"] == [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}]
    names = {entry["id"]: entry["name"] for entry in data["categories"]}
    rows = [(names[row["category_id"]], row["bbox"], row["area"], row["iscrowd"]) for row in data["annotations"]]
    assert rows == [
        ("Car", [1, 2, 3, 4], 12, 0),
        ("DontCare", [0, 0, 2, 2], 4, 1),
        ("ignore region", [4, 0, 4, 3], 12, 1),
    ]
    assert [row["id"] for row in data["annotations"]] == [1, 2, 3]


def test_output_does_not_depend_on_the_order_of_adding(tmp_path):
    for out, names in (("one", "abc"), ("two", "cab")):
        with LayoutWriter(tmp_path / out, LABELS) as writer:
            for name in names:
                writer.add("train", name, picture(), boxes=[[0, 0, 3, 3]], categories=["Car"])
    assert (tmp_path / "one/boxes/train.json").read_text() == (tmp_path / "two/boxes/train.json").read_text()


def test_other_formats_become_png(tmp_path):
    image = image_file(tmp_path / "a.bmp")
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        writer.add("train", "a", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out/images/train/a.png")), picture())


# ------------------------------------------------------------------------------------------------------------ malformed


@pytest.mark.parametrize(
    ("box", "category", "problem", "kept"),
    [
        ([-5, 1, 4, 5], "Car", "partly outside", [0, 1, 4, 5]),
        ([1, 1, 8.6, 5], "Car", None, [1, 1, 8, 5]),  # rounding: clipped without a word
        ([4, 1, 1, 5], "Car", "inverted", None),
        ([1, 5, 4, 1], "Car", "inverted", None),
        ([3, 1, 3, 5], "Car", "empty", None),
        ([1, 1, 1.5, 5], "Car", "empty", None),
        ([8, 0, 12, 3], "Car", "outside the image, dropped", None),
        ([0, -9, 5, -2], "Car", "outside the image, dropped", None),
        ([float("nan"), 0, 4, 4], "Car", "not four numbers", None),
        ([0, 0, float("inf"), 4], "Car", "not four numbers", None),
        ([0, 0, 4, 4], "Zebra", "unknown class 'Zebra'", None),
    ],
)
def test_malformed_boxes_are_counted(tmp_path, box, category, problem, kept):
    report, sample = written(tmp_path, boxes=[[2, 2, 5, 5], box], categories=["Car", category])
    assert sample.boxes.tolist() == [[2, 2, 5, 5], *([kept] if kept else [])]
    assert list(report.problems.values()) == ([1] if problem else [])
    assert not problem or (problem in next(iter(report.problems)) and "train/a" in str(report))


def test_malformed_ignore_region_is_counted(tmp_path):
    report, sample = written(tmp_path, boxes=[], ignore=[[5, 5, 1, 1], [-4, 0, 3, 3]])
    assert sample.ignore.tolist() == [[0, 0, 3, 3]]
    assert len(report.problems) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_unknown_mask_ids_become_255(tmp_path, dtype):
    mask = np.array([[0, 1, 7, 2, 255, 200, 0, 0]] * 6).astype(dtype)
    if dtype != np.uint8:
        mask[0, :2] = [256, 300]  # would wrap to 0 and 44
    report, sample = written(tmp_path, masks={"seg": mask})
    expected = np.where(np.isin(mask, [0, 1, 7]), mask, IGNORE)
    np.testing.assert_array_equal(cv2.imread(str(sample.masks["drive"]), cv2.IMREAD_UNCHANGED), expected)
    assert report.problems == {"mask with unknown label ids, set to 255": 1}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"masks": {"seg": np.zeros((8, 6), np.uint8)}}, "mask of another size"),
        ({"masks": {"seg": np.zeros((6, 8, 3), np.uint8)}}, "not one channel"),
        ({"masks": {"seg": np.zeros((6, 8), np.float32)}}, "not one channel"),
        ({"annotated_hw": (8, 6)}, "another size than annotated"),
    ],
)
def test_unusable_samples_are_skipped_whole(tmp_path, arguments, problem):
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        assert writer.add("train", "good", picture())
        assert not writer.add("train", "bad", picture(), **arguments)
    assert [sample.image.stem for sample in read_layout(tmp_path / "out", "train")[1]] == ["good"]
    assert len(writer.report.problems) == 1 and problem in next(iter(writer.report.problems))


def test_missing_unreadable_and_repeated_images_are_skipped(tmp_path):
    for name, content in (("empty.jpg", b""), ("text.jpg", b"no image")):
        (tmp_path / name).write_bytes(content)
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        assert writer.add("train", "a", picture())
        assert not writer.add("train", "a", picture())
        for name in ("empty", "text", "missing"):
            assert not writer.add("train", name, tmp_path / f"{name}.jpg")
        assert writer.add("val", "a", picture())  # another split may have the name
    assert writer.report.images == {"train": 1, "val": 1}
    assert sum(writer.report.problems.values()) == 4
    assert writer.report.to_json()["problems"]["missing image, skipped"] == {
        "count": 1,
        "first": str(tmp_path / "missing.jpg"),
    }


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a//b", "."])
def test_a_name_can_not_leave_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="plain relative path"), LayoutWriter(tmp_path / "out", LABELS) as writer:
        writer.add("train", name, picture())
    assert not list(tmp_path.iterdir())


def test_strict_writes_nothing(tmp_path, capsys):
    with (
        pytest.raises(ValueError, match=r"--strict: 1 x inverted box"),
        LayoutWriter(tmp_path / "out", LABELS, strict=True) as writer,
    ):
        writer.add("train", "a", picture(), boxes=[[4, 4, 1, 1]], categories=["Car"])
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupt_leaves_nothing(tmp_path, error):
    with pytest.raises(error), LayoutWriter(tmp_path / "out", LABELS) as writer:
        writer.add("train", "a", picture(), masks={"seg": np.zeros((6, 8), np.uint8)})
        assert not (tmp_path / "out").exists()
        raise error
    assert not list(tmp_path.iterdir())


def test_nothing_to_write_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match=r"no image .* missing image"),
        LayoutWriter(tmp_path / "out", LABELS) as writer,
    ):
        writer.add("train", "a", tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_existing_folders_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="not a dataset"):
            LayoutWriter(tmp_path / "mine", LABELS, overwrite=overwrite)
    written(tmp_path)
    with pytest.raises(ValueError, match="--overwrite"):
        LayoutWriter(tmp_path / "out", LABELS)
    assert (tmp_path / "mine/thesis.txt").exists() and (tmp_path / "out/images/train/a.jpg").exists()


def test_overwrite_replaces_at_the_end_only(tmp_path):
    written(tmp_path)
    with pytest.raises(RuntimeError), LayoutWriter(tmp_path / "out", LABELS, overwrite=True) as writer:
        writer.add("train", "b", picture())
        raise RuntimeError
    assert [sample.image.stem for sample in read_layout(tmp_path / "out", "train")[1]] == ["a"]
    with LayoutWriter(tmp_path / "out", LABELS, overwrite=True) as writer:
        writer.add("train", "b", picture())
    assert [sample.image.stem for sample in read_layout(tmp_path / "out", "train")[1]] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# -------------------------------------------------------------------------------------------------------------- reading


def test_own_space(tmp_path):
    """In the dataset's own label space an ignored category is still an ignore region."""
    written(tmp_path, boxes=[[0, 0, 3, 3], [1, 1, 5, 5]], categories=["Car", "DontCare"])
    labels, (sample,) = read_layout(tmp_path / "out", "train", own_space=True)
    assert sample.categories == ("Car",) and sample.ignore.tolist() == [[1, 1, 5, 5]]
    assert set(labels.boxes.classes) >= {"Car", "Person"}


def test_reading_what_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        read_layout(tmp_path / "none", "train")
    with pytest.raises(ValueError, match=r"no dataset\.json"):
        read_layout(tmp_path, "train")
    written(tmp_path)
    for split in ("test", ""):
        with pytest.raises(ValueError, match=rf"no split '{split}'; it has: train"):
            read_layout(tmp_path / "out", split)
    for text, message in (("{", "not JSON"), ("[]", "JSON object"), ("{}", "missing key 'name'")):
        (tmp_path / "out/dataset.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_layout(tmp_path / "out", "train")


def test_reading_a_listed_image_that_is_missing(tmp_path):
    with LayoutWriter(tmp_path / "out", LABELS) as writer:
        for name in "abc":
            writer.add("train", name, picture(), boxes=[])
    for name in "bc":
        (tmp_path / f"out/images/train/{name}.jpg").unlink()
    with pytest.raises(ValueError, match=r"lists b\.jpg and 1 more, but .* has no such image"):
        read_layout(tmp_path / "out", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("images"), "missing key"),
        (lambda data: data.pop("categories"), "missing key"),
        (lambda data: data["images"].append(data["images"][0]), "twice"),
        (lambda data: data["images"][0].pop("file_name"), "file_name"),
        (lambda data: data["annotations"][0].update(image_id=99), r"annotations\[0\].* 99"),
        (lambda data: data["annotations"][0].update(category_id=99), r"annotations\[0\].* 99"),
        (lambda data: data["annotations"][0].update(bbox=[1, 2, 3]), "broken"),
        (lambda data: data["annotations"][0].update(bbox=None), "broken"),
        (lambda data: data["annotations"][0].update(bbox=["x", 0, 1, 1]), "broken"),
        (lambda data: data["annotations"][0].update(bbox=[1, 1, -3, 3]), "no area"),
        (lambda data: data["annotations"][0].update(bbox=[1, 1, 0, 3]), "no area"),
        (lambda data: data["annotations"][0].update(bbox=[float("nan"), 1, 3, 3]), "no area"),
        (lambda data: data["annotations"][0].update(bbox=[20, 20, 3, 3]), "no area"),
        (lambda data: data["annotations"][0].update(attributes=["new"]), r"annotations\[0\]: attributes must be"),
        (lambda data: data["categories"][0].update(name="Zebra"), "'Zebra' is not in dataset.json"),
    ],
)
def test_reading_broken_coco(tmp_path, change, message):
    written(tmp_path, boxes=[[1, 2, 4, 6]], categories=["Car"])
    path = tmp_path / "out/boxes/train.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        read_layout(tmp_path / "out", "train")
    assert str(path) in str(error.value)


def test_reading_broken_attributes(tmp_path):
    written(tmp_path, attributes={"weather": "fog"})
    path = tmp_path / "out/attributes/train.json"
    for text, message in (
        ("[]", "JSON object"),
        ('{"a.jpg": "fog"}', "attributes must be an object"),
        ('{"b.jpg": {}, "c.jpg": {}}', r"lists b\.jpg and 1 more"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            read_layout(tmp_path / "out", "train")
        assert str(path) in str(error.value)


def test_reading_ready_made_coco(tmp_path):
    """COCO JSON of another tool: subfolders, no sizes, iscrowd left out, a category that is used by crowds only."""
    written(tmp_path)
    shutil.rmtree(tmp_path / "out/images")
    image_file(tmp_path / "out/images/val/night/x.PNG")
    data = {
        "images": [{"id": "x", "file_name": "night/x.PNG"}],
        "categories": [{"id": 3, "name": "Person"}, {"id": 9, "name": "crowd"}],
        "annotations": [
            {"image_id": "x", "category_id": 3, "bbox": [-1, 0, 3.5, 2], "attributes": {"occluded": True, "tags": [1]}},
            {"image_id": "x", "category_id": 9, "bbox": [4, 4, 2, 2], "iscrowd": 1},
        ],
    }
    (tmp_path / "out/boxes").mkdir()
    (tmp_path / "out/boxes/val.json").write_text(json.dumps(data))
    (sample,) = read_layout(tmp_path / "out", "val")[1]
    assert sample.boxes.tolist() == [[0, 0, 2.5, 2]] and sample.categories == ("Person",)
    assert sample.ignore.tolist() == [[4, 4, 6, 6]]
    assert sample.box_attributes == ({"occluded": True},)
