"""The vocabulary refuses what is malformed where it is made, and is happy with nothing."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.structures import Detections, Frame, Letterbox, Result, Track, require_bgr


def three() -> Detections:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(boxes, np.array([0.9, 0.5, 0.1], np.float32), np.array([2, 0, 1]))


def test_a_frame_knows_its_size():
    frame = Frame(np.zeros((3, 5, 3), np.uint8), 0, 0.0)
    assert frame.hw == (3, 5) and frame.source == ""
    assert Frame(np.zeros((1, 1, 3), np.uint8), 7, 1.5, "a.mp4").hw == (1, 1)


@pytest.mark.parametrize(
    "image,said",
    [
        (np.zeros((4, 4), np.uint8), r"\(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        ([1, 2, 3], "list"),
        (None, "NoneType"),
    ],
)
def test_a_frame_wants_bgr_pixels(image, said):
    with pytest.raises(ValueError, match=said):
        Frame(image, 0, 0.0)


GREY = np.full((4, 6), 77, np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[..., None],
        np.full((4, 6, 4), 77, np.uint8),
        np.full((3, 4, 6), 77, np.uint8),
        np.full((4, 6, 3), 77 / 255, np.float32),
        np.full((4, 6, 3), 77 << 8, np.uint16),
        np.full((4, 6, 3), 77, np.int32),
        Image.fromarray(GREY),
        Image.new("RGBA", (6, 4), (77, 77, 77, 255)),
    ],
    ids=["grey", "one channel", "alpha", "channels first", "float", "16 bits", "int32", "PIL grey", "PIL RGBA"],
)
def test_the_remedy_for_a_picture_of_another_kind_mends_it(image):
    with pytest.raises(ValueError, match="expected an image") as caught:
        require_bgr(image)
    remedy = str(caught.value).split("; ")[1].removesuffix(" makes one").split(": ")[-1]
    mended = eval(remedy, {"cv2": cv2, "np": np, "image": image})
    require_bgr(mended)
    assert mended.shape == (4, 6, 3) and (mended == 77).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "cv2.imread gives None"),
        ("frame.png", r"perception\.open_source\(path\)"),
        (Path("frame.png"), r"perception\.open_source\(path\)"),
        ([np.zeros((4, 6, 3), np.uint8)], "one by one"),
        (np.zeros((2, 4, 6, 3), np.uint8), "one by one"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
    ],
)
def test_what_can_not_be_mended_is_told_apart(image, said):
    with pytest.raises(ValueError, match=said):
        require_bgr(image)


def test_a_frame_counts_from_0():
    with pytest.raises(ValueError, match="-1"):
        Frame(np.zeros((1, 1, 3), np.uint8), -1, 0.0)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_detections_of_any_number(n):
    found = Detections(np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64))
    assert len(found) == n


def test_no_detections():
    empty = Detections.empty()
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)
    assert (empty.boxes.dtype, empty.scores.dtype, empty.classes.dtype) == (np.float32, np.float32, np.int64)
    assert len(empty[np.zeros(0, bool)]) == 0 and len(empty[:5]) == 0


@pytest.mark.parametrize(
    "boxes,scores,classes,said",
    [
        ((4,), (1,), (1,), r"boxes.*\(N, 4\).*\(4,\)"),
        ((2, 5), (2,), (2,), r"boxes.*\(2, 5\)"),
        ((2, 4), (3,), (2,), r"scores.*\(2,\).*\(3,\)"),
        ((2, 4), (2,), (2, 1), r"classes.*\(2,\).*\(2, 1\)"),
        ((0,), (0,), (0,), r"boxes.*\(0,\)"),
    ],
)
def test_detections_that_do_not_fit_together(boxes, scores, classes, said):
    with pytest.raises(ValueError, match=said):
        Detections(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), np.zeros(classes, np.int64))


@pytest.mark.parametrize(
    "keep,classes", [(np.array([True, False, True]), [2, 1]), (np.array([2, 0]), [1, 2]), (slice(1, None), [0, 1])]
)
def test_selecting_detections(keep, classes):
    found = three()[keep]
    np.testing.assert_array_equal(found.classes, classes)
    np.testing.assert_array_equal(found.boxes, three().boxes[keep])
    np.testing.assert_array_equal(found.scores, three().scores[keep])


def test_values_do_not_change_after_they_are_made():
    for value, name in ((three(), "boxes"), (Track(1, (0, 0, 1, 1), 0.5, 0, 0.0), "id")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)


def test_a_letterbox_knows_its_scale_along_each_axis():
    assert Letterbox((100, 200), (64, 96), (48, 96), 8, 0).scale_xy == (96 / 200, 48 / 100)


@pytest.mark.parametrize("name", ["frame_hw", "model_hw", "content_hw"])
def test_a_letterbox_has_no_empty_side(name):
    sizes = {"frame_hw": (4, 4), "model_hw": (4, 4), "content_hw": (4, 4)} | {name: (4, 0)}
    with pytest.raises(ValueError, match=name):
        Letterbox(**sizes, top=0, left=0)


def test_a_result_is_a_shortcut_to_its_detections():
    result = Result(three(), {"scene": np.zeros((2, 2), np.uint8)}, ("a", "b", "c"))
    assert result.boxes is result.detections.boxes
    assert result.scores is result.detections.scores
    assert result.classes is result.detections.classes
    assert len(Result(Detections.empty(), {}).boxes) == 0


def test_a_result_as_plain_values():
    track = Track(3, (1.0, 2.0, 30.06, 20.0), 0.5, 1, 1.23456, 0.04, (-3.14159, 0.0), distance_m=12.345)
    seen = Result(three(), {"scene": np.array([[0, 1], [1, 9]], np.uint8)}, ("a", "b"), {"scene": ("road", "sky")})
    assert seen.names == ["2", "a", "b"]  # a class without a name shows its number
    values = seen.to_dict([track])
    assert json.loads(json.dumps(values)) == values
    assert values["boxes"][1] == {"xyxy": [4.0, 5.0, 6.0, 7.0], "score": 0.5, "class": "a", "class_id": 0}
    assert (values["tracks"][0]["id"], values["tracks"][0]["class"], values["tracks"][0]["distance_m"]) == (
        3,
        "b",
        12.35,
    )
    assert "ttc_s" not in values["tracks"][0] and values["areas"] == {"scene": {"road": 0.25, "sky": 0.5, "9": 0.25}}
    assert Result(Detections.empty(), {}).to_dict() == {"boxes": [], "tracks": [], "areas": {}}


def test_a_result_is_shown_in_one_line():
    seen = Result(three(), {"scene": np.zeros((720, 1280), np.uint8)}, ("car", "bus", "bus"))
    assert repr(seen) == "Result(boxes: 2 bus, 1 car; class maps: scene 1280x720)"
    assert repr(Result(Detections.empty(), {})) == "Result(boxes: none; class maps: none)"
