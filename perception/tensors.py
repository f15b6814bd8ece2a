"""The one preprocessing, model_from_frame, and its inverse, frame_from_model, for images, boxes and class maps.

Training, evaluation, export check, live and benchmarks all call this file, so that they can not disagree. It stops at
uint8: the cast and the mean/std normalisation are the first nodes of the network (and so of the ONNX graph).

A frame is scaled to fit the model's input, centred, and padded with grey: aspect ratio is kept, nothing is cropped.
Both scalings align pixel edges (OpenCV's half-pixel centres), so boxes map by scale and offset alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from perception.camera import Camera
from perception.structures import Letterbox, require_bgr

__all__ = [
    "PAD_VALUE",
    "boxes_frame_from_model",
    "boxes_model_from_frame",
    "letterbox_for",
    "mask_frame_from_model",
    "mask_model_from_frame",
    "tensor_from_frame",
]

PAD_VALUE = 114  # grey of the border, as in YOLO


def letterbox_for(frame_hw: tuple[int, int], model_hw: tuple[int, int]) -> Letterbox:
    """The centred Letterbox that fits a frame of `frame_hw` pixels into `model_hw` pixels."""
    (frame_h, frame_w), (model_h, model_w) = frame_hw, model_hw
    scale = min(model_h / frame_h, model_w / frame_w)
    content_h = min(model_h, max(1, round(frame_h * scale)))
    content_w = min(model_w, max(1, round(frame_w * scale)))
    return Letterbox(frame_hw, model_hw, (content_h, content_w), (model_h - content_h) // 2, (model_w - content_w) // 2)


def tensor_from_frame(
    image: np.ndarray, model_hw: tuple[int, int], out: np.ndarray | None = None, camera: Camera | None = None
) -> tuple[np.ndarray, Letterbox]:
    """BGR frame (H, W, 3) uint8 -> the model's input (h, w, 3) uint8 RGB, and the Letterbox that leads back.

    With a `camera` the frame is undistorted first, and the Letterbox leads back to the undistorted frame.
    `out`, where given, is the (h, w, 3) uint8 buffer to fill and return.
    Raises ValueError if `image` is not (H, W, 3) uint8.
    """
    require_bgr(image)
    if camera is not None:
        image = camera.undistort(image)
    box = letterbox_for((image.shape[0], image.shape[1]), model_hw)
    tensor = np.empty((*model_hw, 3), np.uint8) if out is None else out
    assert tensor.shape == (*model_hw, 3) and tensor.dtype == np.uint8
    h, w = box.content_hw
    shrinks = h < image.shape[0] or w < image.shape[1]
    content = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    tensor[: box.top] = PAD_VALUE
    tensor[box.top + h :] = PAD_VALUE
    tensor[box.top : box.top + h, : box.left] = PAD_VALUE
    tensor[box.top : box.top + h, box.left + w :] = PAD_VALUE
    tensor[box.top : box.top + h, box.left : box.left + w] = cv2.cvtColor(content, cv2.COLOR_BGR2RGB)
    return tensor, box


def boxes_model_from_frame(boxes: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """(N, 4) xyxy in frame pixels -> (N, 4) float32 xyxy in model pixels."""
    scale = np.array(letterbox.scale_xy * 2, np.float64)
    offset = np.array([letterbox.left, letterbox.top] * 2, np.float64)
    return (np.asarray(boxes, np.float64).reshape(-1, 4) * scale + offset).astype(np.float32)


def boxes_frame_from_model(boxes: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """(N, 4) xyxy in model pixels -> (N, 4) float32 xyxy in frame pixels, clipped to the frame."""
    scale = np.array(letterbox.scale_xy * 2, np.float64)
    offset = np.array([letterbox.left, letterbox.top] * 2, np.float64)
    frame_h, frame_w = letterbox.frame_hw
    boxes = (np.asarray(boxes, np.float64).reshape(-1, 4) - offset) / scale
    return np.clip(boxes, 0, [frame_w, frame_h, frame_w, frame_h]).astype(np.float32)


def mask_model_from_frame(mask: np.ndarray, letterbox: Letterbox, fill: int = 255) -> np.ndarray:
    """(H, W) uint8 of label ids in frame pixels -> (h, w) uint8 in model pixels, `fill` in the border."""
    assert mask.shape == letterbox.frame_hw, f"mask {mask.shape}, frame {letterbox.frame_hw}"
    h, w = letterbox.content_hw
    out = np.full(letterbox.model_hw, fill, np.uint8)
    content = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    out[letterbox.top : letterbox.top + h, letterbox.left : letterbox.left + w] = content
    return out


def mask_frame_from_model(mask: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """(h, w) uint8 of class ids in model pixels -> (H, W) uint8 in frame pixels."""
    assert mask.shape == letterbox.model_hw, f"mask {mask.shape}, model {letterbox.model_hw}"
    (h, w), (frame_h, frame_w) = letterbox.content_hw, letterbox.frame_hw
    content = mask[letterbox.top : letterbox.top + h, letterbox.left : letterbox.left + w]
    return cv2.resize(content, (frame_w, frame_h), interpolation=cv2.INTER_NEAREST_EXACT)
