"""The one preprocessing and its inverse: nothing moves by more than half a pixel, whatever the size of the frame."""

from __future__ import annotations

import numpy as np
import pytest

from perception.structures import Letterbox
from perception.tensors import (
    PAD_VALUE,
    boxes_frame_from_model,
    boxes_model_from_frame,
    letterbox_for,
    mask_frame_from_model,
    mask_model_from_frame,
    tensor_from_frame,
)

FRAMES = (  # (height, width)
    (720, 1280), (375, 1242), (1280, 720), (500, 500), (333, 517), (256, 448), (257, 449), (255, 447), (100, 100),
    (1, 1), (3, 5), (5, 3), (2000, 7), (7, 2000), (1, 1000), (1000, 1),
)  # fmt: skip
MODELS = ((256, 448), (448, 256), (63, 97), (2, 2))

every_frame = pytest.mark.parametrize("frame_hw", FRAMES, ids=str)
every_model = pytest.mark.parametrize("model_hw", MODELS, ids=str)


def content_of(image: np.ndarray, box: Letterbox) -> np.ndarray:
    h, w = box.content_hw
    return image[box.top : box.top + h, box.left : box.left + w]


def inner_box(frame_hw: tuple[int, int], box: Letterbox) -> tuple[int, int, int, int]:
    """A box in frame pixels, off the centre, that can be measured in model pixels; whole along a short axis."""
    sides = []
    for frame, content in zip(frame_hw[::-1], box.content_hw[::-1], strict=True):
        few = min(frame, content) < 10
        sides.append((0, frame) if few else (frame // 3, frame - frame // 5))
    (x1, x2), (y1, y2) = sides
    return x1, y1, x2, y2


def measured_box(bright: np.ndarray) -> list[int]:
    """xyxy of the True pixels of an (H, W) array."""
    xs, ys = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    return [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]


@every_model
@every_frame
def test_the_letterbox_keeps_the_aspect_fits_and_is_centred(frame_hw, model_hw):
    box = letterbox_for(frame_hw, model_hw)
    scale = min(model_hw[0] / frame_hw[0], model_hw[1] / frame_hw[1])
    starts = (box.top, box.left)
    for frame, model, content, start in zip(frame_hw, model_hw, box.content_hw, starts, strict=True):
        assert 1 <= content <= model
        assert abs(content - frame * scale) <= 0.5 or content == 1
        assert 0 <= model - content - 2 * start <= 1
    assert box.content_hw[0] == model_hw[0] or box.content_hw[1] == model_hw[1]


@every_model
@every_frame
def test_the_tensor_is_rgb_on_grey(frame_hw, model_hw):
    image = np.full((*frame_hw, 3), (10, 20, 30), np.uint8)  # blue, green, red
    tensor, box = tensor_from_frame(image, model_hw)
    assert tensor.shape == (*model_hw, 3) and tensor.dtype == np.uint8
    assert (content_of(tensor, box) == (30, 20, 10)).all()
    border = tensor.copy()
    content_of(border, box)[:] = PAD_VALUE
    assert (border == PAD_VALUE).all()
    assert (image == (10, 20, 30)).all()  # the frame is left alone


@every_model
@every_frame
def test_boxes_survive_model_frame_model_and_back(frame_hw, model_hw):
    box = letterbox_for(frame_hw, model_hw)
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (2, 50, 2)) * frame_hw[::-1]
    frame = np.concatenate([np.minimum(a, b), np.maximum(a, b)], 1)
    model = boxes_model_from_frame(frame, box)
    assert model.dtype == np.float32
    scale = np.array(box.scale_xy * 2)
    np.testing.assert_allclose(boxes_frame_from_model(model, box), frame, atol=1e-4 / scale.min())
    np.testing.assert_allclose(boxes_model_from_frame(boxes_frame_from_model(model, box), box), model, atol=1e-3)


@every_model
@every_frame
def test_the_box_over_the_whole_frame_is_the_content(frame_hw, model_hw):
    box = letterbox_for(frame_hw, model_hw)
    whole = [[0, 0, frame_hw[1], frame_hw[0]]]
    content = [[box.left, box.top, box.left + box.content_hw[1], box.top + box.content_hw[0]]]
    np.testing.assert_allclose(boxes_model_from_frame(whole, box), content, atol=1e-4)
    np.testing.assert_allclose(boxes_frame_from_model(content, box), whole, rtol=1e-6, atol=1e-4)


@every_model
@every_frame
def test_pixels_go_where_their_box_goes(frame_hw, model_hw):
    image = np.zeros((*frame_hw, 3), np.uint8)
    x1, y1, x2, y2 = inner_box(frame_hw, letterbox_for(frame_hw, model_hw))
    image[y1:y2, x1:x2] = 255
    tensor, box = tensor_from_frame(image, model_hw)
    content = np.zeros(model_hw, bool)
    content_of(content, box)[:] = content_of(tensor, box)[..., 0] >= 128
    expected = boxes_model_from_frame([[x1, y1, x2, y2]], box)[0]
    assert np.abs(measured_box(content) - expected).max() <= 0.5 + 1e-3


@every_model
@every_frame
def test_masks_go_where_their_box_goes_and_back(frame_hw, model_hw):
    box = letterbox_for(frame_hw, model_hw)
    x1, y1, x2, y2 = inner_box(frame_hw, box)
    mask = np.zeros(frame_hw, np.uint8)
    mask[y1:y2, x1:x2] = 7
    in_model = mask_model_from_frame(mask, box)
    assert in_model.shape == model_hw and set(np.unique(in_model)) <= {0, 7, 255}
    expected = boxes_model_from_frame([[x1, y1, x2, y2]], box)[0]
    assert np.abs(measured_box(in_model == 7) - expected).max() <= 0.5 + 1e-3

    in_model = np.zeros(model_hw, np.uint8)
    corners = np.rint(expected).astype(int)
    in_model[corners[1] : corners[3], corners[0] : corners[2]] = 7
    back = mask_frame_from_model(in_model, box)
    expected = boxes_frame_from_model(corners[None], box)[0]
    assert back.shape == frame_hw
    assert np.abs(measured_box(back == 7) - expected).max() <= 0.5 + 1e-3


@every_model
@every_frame
def test_masks_survive_a_round_trip_through_the_finer_side(frame_hw, model_hw):
    box = letterbox_for(frame_hw, model_hw)
    rng = np.random.default_rng(0)
    if box.content_hw[0] <= frame_hw[0] and box.content_hw[1] <= frame_hw[1]:
        mask = np.full(model_hw, 255, np.uint8)
        content_of(mask, box)[:] = rng.integers(0, 20, box.content_hw)
        np.testing.assert_array_equal(mask_model_from_frame(mask_frame_from_model(mask, box), box), mask)
    else:
        mask = rng.integers(0, 20, frame_hw).astype(np.uint8)
        np.testing.assert_array_equal(mask_frame_from_model(mask_model_from_frame(mask, box), box), mask)


def test_the_border_of_a_mask_is_filled():
    box = letterbox_for((10, 10), (10, 20))
    assert (mask_model_from_frame(np.zeros((10, 10), np.uint8), box)[:, :5] == 255).all()
    assert (mask_model_from_frame(np.zeros((10, 10), np.uint8), box, fill=9)[:, 15:] == 9).all()


def test_nothing_changes_at_the_models_own_size():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    tensor, box = tensor_from_frame(image, (64, 96))
    np.testing.assert_array_equal(tensor, image[..., ::-1])
    assert box == Letterbox((64, 96), (64, 96), (64, 96), 0, 0)
    mask = image[..., 0]
    np.testing.assert_array_equal(mask_model_from_frame(mask, box), mask)
    np.testing.assert_array_equal(mask_frame_from_model(mask, box), mask)


def test_shrinking_averages_instead_of_skipping_pixels():
    image = np.zeros((128, 192, 3), np.uint8)
    image[:, ::2] = 200  # stripes of one pixel
    tensor, _ = tensor_from_frame(image, (64, 96))
    assert (tensor == 100).all()


def test_a_reused_buffer_shows_nothing_of_the_last_frame():
    buffer = np.full((2, 64, 96, 3), 77, np.uint8)
    for hw in ((64, 96), (200, 50), (50, 200), (3, 5)):
        image = np.full((*hw, 3), 200, np.uint8)
        tensor, box = tensor_from_frame(image, (64, 96), out=buffer[1])
        assert np.shares_memory(tensor, buffer)
        fresh, fresh_box = tensor_from_frame(image, (64, 96))
        np.testing.assert_array_equal(buffer[1], fresh)
        assert box == fresh_box
    assert (buffer[0] == 77).all()


@pytest.mark.parametrize("hw,dtype", [((64, 95), np.uint8), ((64, 96), np.float32)])
def test_a_buffer_of_another_shape_or_type_is_our_bug(hw, dtype):
    with pytest.raises(AssertionError):
        tensor_from_frame(np.zeros((10, 10, 3), np.uint8), (64, 96), out=np.zeros((*hw, 3), dtype))


def test_images_and_masks_in_any_memory_order():
    base = np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(np.uint8)
    for view in (
        base[::-1], base[:, ::-1], base[..., ::-1], base[10:80, 20:100], base[::2, ::3], base.transpose(1, 0, 2),
        np.asfortranarray(base),
    ):  # fmt: skip
        assert not view.flags.c_contiguous
        copy = np.ascontiguousarray(view)
        np.testing.assert_array_equal(tensor_from_frame(view, (64, 96))[0], tensor_from_frame(copy, (64, 96))[0])
        box = letterbox_for(view.shape[:2], (64, 96))
        in_model = mask_model_from_frame(view[..., 0], box)
        np.testing.assert_array_equal(in_model, mask_model_from_frame(copy[..., 0].copy(), box))
        flipped = in_model[::-1, ::-1]
        np.testing.assert_array_equal(mask_frame_from_model(flipped, box), mask_frame_from_model(flipped.copy(), box))


def test_a_read_only_frame_is_fine():
    image = np.zeros((10, 10, 3), np.uint8)
    image.flags.writeable = False
    assert tensor_from_frame(image, (64, 96))[0].shape == (64, 96, 3)


def test_no_boxes_and_boxes_beyond_the_frame():
    box = letterbox_for((100, 100), (50, 100))
    for convert in (boxes_model_from_frame, boxes_frame_from_model):
        empty = convert(np.zeros((0, 4), np.float32), box)
        assert empty.shape == (0, 4) and empty.dtype == np.float32
    outside = boxes_frame_from_model([[0, -20, 100, 70], [0, 0, 10, 10]], box)  # the second lies in the border
    np.testing.assert_array_equal(outside, [[0, 0, 100, 100], [0, 0, 0, 20]])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8), np.zeros((1, 10, 10, 3), np.uint8), None, [[0, 0, 0]],
    ],
)  # fmt: skip
def test_what_is_not_an_image_is_refused(image):
    with pytest.raises(ValueError, match="BGR"):
        tensor_from_frame(image, (64, 96))


def test_a_mask_of_another_size_is_our_bug_and_not_stretched():
    box = letterbox_for((100, 200), (64, 96))
    with pytest.raises(AssertionError):
        mask_model_from_frame(np.zeros((100, 100), np.uint8), box)
    with pytest.raises(AssertionError):
        mask_frame_from_model(np.zeros((100, 200), np.uint8), box)
