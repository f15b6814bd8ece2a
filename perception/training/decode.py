"""An image file -> a frame, decoded at a half, a quarter or an eighth of its size where training needs no more of it.

A JPEG is made of 8x8 blocks of frequencies, and leaving out the high ones is faster than decoding them and scaling
down. Only as much is left out as no crop would show.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from perception.imagefile import decode_image, flaw, read_header

__all__ = ["read_frame", "reduction"]

FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_frame(
    path: Path, model_hw: tuple[int, int], crop_area: float, crop_aspect: tuple[float, float]
) -> tuple[np.ndarray, int]:
    """(H / n, W / n, 3) uint8 BGR, turned as EXIF says, and n: 1, 2, 4 or 8 (see `reduction`).

    Raises ValueError if it can't be read.
    """
    content = path.read_bytes() if path.is_file() else b""
    header = read_header(content)
    jpeg = header is not None and header.kind == "jpeg"  # other formats must be decoded whole
    n = reduction(header.hw, model_hw, crop_area, crop_aspect) if header and jpeg else 1
    image = decode_image(content, FLAGS[n])
    if image is None:
        problem = flaw(content) or "can not be decoded"
        raise ValueError(f"can't read {path}, which {problem}; run the dataset's prepare.py again")
    return image, n


def reduction(
    frame_hw: tuple[int, int], model_hw: tuple[int, int], crop_area: float, crop_aspect: tuple[float, float]
) -> int:
    """The largest of 1, 2, 4, 8 that divides a frame and leaves its smallest crop as large as the model's input.

    `crop_area` is the smallest share of the frame that a crop keeps, `crop_aspect` its smallest and largest width over
    height; a frame may also be used whole, and then is scaled to fit.
    """
    (frame_h, frame_w), (model_h, model_w) = frame_hw, model_hw
    area = crop_area * frame_h * frame_w
    low, high = crop_aspect
    crop_w = min(math.sqrt(area * low), frame_h * high, frame_w)  # a crop is never larger than the frame
    crop_h = min(math.sqrt(area / high), frame_w / low, frame_h)
    fits = min(crop_w / model_w, crop_h / model_h, max(frame_h / model_h, frame_w / model_w))
    return max(n for n in FLAGS if n == 1 or (n <= fits and frame_h % n == 0 and frame_w % n == 0))
