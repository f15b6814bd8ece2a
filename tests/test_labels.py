"""Label sets: what a dataset says about our classes, and what it can not say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perception.labels import (
    BOX_CLASSES,
    DRIVE_CLASSES,
    HEADS,
    IGNORE,
    SCENE_CLASSES,
    BoxLabels,
    DatasetLabels,
    MaskLabels,
)

SPEC = {
    "name": "town",
    "licence": "CC0",
    "source": "https://example.org",
    "boxes": {
        "categories": {"Car": ["car"], "Van": ["car", "truck"], "DontCare": []},
        "exhaustive": ["car"],
    },
    "masks": {
        "scene": {
            "folder": "town",
            "labels": {
                "0": {"name": "Road", "classes": ["lane marking", "road"]},
                "3": {"name": "Bicyclist", "classes": ["bicycle", "rider"]},
                "11": {"name": "Unlabelled", "classes": []},
            },
        },
        "drive": {"folder": "town", "labels": {"0": {"name": "Road", "classes": ["drivable"]}}},
    },
}


def spec_without(*path: str) -> dict:
    """A copy of SPEC with one key left out."""
    data = json.loads(json.dumps(SPEC))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return data


def test_the_taxonomy():
    assert (len(BOX_CLASSES), len(SCENE_CLASSES), len(DRIVE_CLASSES)) == (10, 20, 3)
    assert {"scene": SCENE_CLASSES, "drive": DRIVE_CLASSES} == HEADS
    for classes in (BOX_CLASSES, SCENE_CLASSES, DRIVE_CLASSES):
        assert len(set(classes)) == len(classes) < IGNORE


def test_json_round_trip():
    labels = DatasetLabels.from_json(SPEC)
    assert labels.to_json() == SPEC
    assert DatasetLabels.from_json(json.loads(json.dumps(labels.to_json()))) == labels


def test_a_dataset_may_have_no_labels_at_all():
    labels = DatasetLabels.from_json({"name": "frames", "licence": "MIT"})
    assert labels.boxes is None and labels.masks == {} and labels.source == ""
    assert DatasetLabels.from_json(labels.to_json()) == labels


def test_boxes_say_which_classes_they_may_be():
    boxes = DatasetLabels.from_json(SPEC).boxes
    assert boxes is not None
    assert [BOX_CLASSES[i] for i in np.flatnonzero(boxes.membership("Van"))] == ["car", "truck"]
    assert boxes.membership("DontCare").shape == (10,) and not boxes.membership("DontCare").any()
    with pytest.raises(KeyError, match="Tram"):
        boxes.membership("Tram")


def test_mask_ids_say_which_classes_they_may_be():
    table = DatasetLabels.from_json(SPEC).masks["scene"].membership()
    assert table.shape == (256, 20) and table.dtype == bool
    assert [SCENE_CLASSES[i] for i in np.flatnonzero(table[0])] == ["road", "lane marking"]
    assert [SCENE_CLASSES[i] for i in np.flatnonzero(table[3])] == ["rider", "bicycle"]
    assert not table[[1, 2, 11, 254, IGNORE]].any()


def test_a_predicted_class_counts_as_the_first_label_that_has_it():
    sets = {5: frozenset({"a", "b"}), 2: frozenset({"b"}), 9: frozenset()}
    labels = MaskLabels("x", {2: "two", 5: "five", 9: "nine"}, sets, ("a", "b", "c"))
    np.testing.assert_array_equal(labels.label_from_class(), [5, 2, -1])


def test_label_0_is_a_label():
    labels = MaskLabels("x", {0: "zero"}, {0: frozenset({"a"})}, ("a", "b"))
    np.testing.assert_array_equal(labels.label_from_class(), [0, -1])


def test_a_head_that_is_not_ours_has_the_datasets_own_classes():
    names = {"0": "kerb", "4": "tram track"}
    labels = {label: {"name": name, "classes": [name]} for label, name in names.items()}
    spec = {"name": "x", "licence": "y", "masks": {"own": {"folder": "own", "labels": labels}}}
    own = DatasetLabels.from_json(spec).masks["own"]
    assert own.classes == ("kerb", "tram track")
    np.testing.assert_array_equal(own.label_from_class(), [0, 4])


def test_own_space_makes_every_label_a_class_of_its_own():
    own = DatasetLabels.from_json(SPEC).own_space()
    assert own.boxes is not None and own.boxes.classes == ("Car", "Van")
    assert own.boxes.sets == {"Car": {"Car"}, "Van": {"Van"}, "DontCare": set()}
    assert list(own.masks) == ["town"] and own.masks["town"].classes == ("Road", "Bicyclist")
    assert own.masks["town"].sets[11] == frozenset()
    np.testing.assert_array_equal(own.masks["town"].label_from_class(), [0, 3])


@pytest.mark.parametrize(
    "path",
    [
        ("name",), ("licence",), ("boxes", "categories"), ("boxes", "exhaustive"), ("masks", "scene", "folder"),
        ("masks", "scene", "labels"), ("masks", "scene", "labels", "0", "name"),
        ("masks", "drive", "labels", "0", "classes"),
    ],
    ids=".".join,
)  # fmt: skip
def test_a_missing_key_is_named(path):
    with pytest.raises(ValueError, match=f"missing key '{path[-1]}'"):
        DatasetLabels.from_json(spec_without(*path))


@pytest.mark.parametrize(
    "change,said",
    [
        ({"boxes": {"categories": {"Car": ["auto"]}, "exhaustive": []}}, "'Car': unknown class 'auto'.*pedestrian"),
        ({"boxes": {"categories": {}, "exhaustive": ["auto"]}}, "exhaustive: unknown class 'auto'"),
        ({"masks": {"scene": {"folder": "x", "labels": {"0": {"name": "R", "classes": ["car", "x"]}}}}}, "'x'.*road"),
        (
            {"masks": {"drive": {"folder": "x", "labels": {"1": {"name": "R", "classes": ["road"]}}}}},
            "label 1 .R.*drivable",
        ),
        ({"masks": {"drive": {"folder": "x", "labels": {"255": {"name": "R", "classes": []}}}}}, "0 to 254.*255"),
        ({"masks": {"drive": {"folder": "x", "labels": {"-1": {"name": "R", "classes": []}}}}}, "-1"),
        ({"masks": {"drive": {"folder": "x", "labels": {"road": {"name": "R", "classes": []}}}}}, "road"),
        ({"boxes": "all"}, "town"),
        ({"boxes": {"categories": ["Car"], "exhaustive": []}}, "town"),
        ({"masks": ["scene"]}, "town"),
        ({"masks": {"scene": {"folder": "x", "labels": {"0": "road"}}}}, "town"),
        ({"boxes": {"categories": {"Car": None}, "exhaustive": []}}, "Car.*list"),
        ({"boxes": {"categories": {"Car": "car"}, "exhaustive": []}}, "Car.*list"),
    ],
)
def test_a_broken_dataset_json_is_one_clear_error(change, said):
    with pytest.raises(ValueError, match=said):
        DatasetLabels.from_json(SPEC | change)


def test_labels_made_in_code_are_checked_too():
    with pytest.raises(ValueError, match="unknown class 'auto'"):
        BoxLabels({"Car": frozenset({"auto"})}, frozenset())
    with pytest.raises(ValueError, match="unknown class 'auto'"):
        MaskLabels("x", {0: "Car"}, {0: frozenset({"auto"})}, SCENE_CLASSES)
