"""What the converters share: options, guards, and reading of sources that may be malformed."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.labels import DatasetLabels
from perception.layout import Report
from perception.prepare import PrepareConfig, box_labels, images_in, mask_labels, number, progress, read_mask

LABELS = DatasetLabels("town", "CC0")


def test_a_source_that_would_be_replaced_is_refused(tmp_path):
    source = tmp_path / "set/raw"
    source.mkdir(parents=True)
    for out in (source, tmp_path / "set", tmp_path / "set/raw/../../set"):
        with pytest.raises(ValueError, match="holds SOURCE_DIR"):
            PrepareConfig(source=source, out=out, overwrite=True).writer(LABELS)
    with pytest.raises(ValueError, match=r"SOURCE_DIR: .* is not a folder"):
        PrepareConfig(source=tmp_path / "none", out=tmp_path / "out").writer(LABELS)
    assert PrepareConfig(source=source, out=tmp_path / "out", strict=True).writer(LABELS).strict


def test_tables_become_label_sets():
    masks = mask_labels("drive", "seg", {0: ("road", {"drivable", "lane marking"}), 9: ("unlabelled", ())})
    assert masks.membership()[0].tolist() == [False, True, True]
    assert not masks.membership()[1:].any() and masks.names[9] == "unlabelled" and masks.folder == "seg"
    boxes = box_labels({"Car": {"car"}, "Misc": ()}, exhaustive={"car"})
    assert boxes.membership("Car").sum() == 1 and not boxes.membership("Misc").any() and boxes.exhaustive == {"car"}
    with pytest.raises(ValueError, match="unknown class 'zebra'"):
        box_labels({"Zebra": {"zebra"}}, exhaustive=())


@pytest.mark.parametrize("text", [None, "", "x", "1,5", "nan"])
def test_what_is_no_number_is_nan(text):
    assert math.isnan(number(text))


def test_numbers():
    assert [number(text) for text in ("3", " -2.5 ", "1e2")] == [3, -2.5, 100]


def test_images_in(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.jpeg", "notes.txt", "sub.d"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["a.jpg", "b.PNG", "c.jpeg"]
    assert [path.name for path in progress(images_in(tmp_path))] == ["a.jpg", "b.PNG", "c.jpeg"]
    with pytest.raises(ValueError, match="README"):
        images_in(tmp_path / "none")


def test_masks_that_can_not_be_read_are_counted(tmp_path):
    report = Report()
    assert cv2.imwrite(str(tmp_path / "good.png"), np.array([[1, 2, 255]], np.uint8))
    mask = read_mask(tmp_path / "good.png", report)
    assert mask is not None and mask.tolist() == [[1, 2, 255]] and not report.problems
    (tmp_path / "text.png").write_text("no image")
    assert read_mask(tmp_path / "text.png", report) is None
    assert read_mask(tmp_path / "none.png", report) is None
    assert list(report.problems.values()) == [2] and str(Path("text.png")) in str(report)
