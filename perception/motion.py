"""How the camera turned between two frames, so that tracks can be moved along before they meet new detections.

Corners of the still world are followed by sparse optical flow (Lucas and Kanade 1981, pyramids as in Bouguet 2001) on
a small grey frame, and a similarity transform is fitted to them with RANSAC; only its shift at the middle of the frame
is used. A turning camera (yaw, pitch) shifts everything alike, whatever its distance, and does so abruptly; how things
spread as the camera drives on depends on their distance, and the Kalman filter of each track knows its own. Camera
motion compensation in tracking: BoT-SORT (Aharon et al. 2022, arXiv:2206.14651).
"""

from __future__ import annotations

import cv2
import numpy as np

from perception.structures import require_bgr

__all__ = ["CameraMotion"]

WIDTH = 160  # pixels of the small frame; flow is good to a fraction of one
CORNERS, QUALITY, APART_PX = 80, 0.01, 6.0
WINDOW, LEVELS = (13, 13), 2  # of the flow: shifts up to about a quarter of the small frame
SKY_AND_FAR = 0.55  # corners are taken from this upper share of the frame: the road below streams by
MIN_CORNERS, MIN_AGREE, AGREE_PX = 8, 0.4, 1.0


class CameraMotion:
    """Shift of the picture from one frame to the next; one instance a source. Costs one or two milliseconds."""

    def __init__(self) -> None:
        self._grey: np.ndarray | None = None  # (h, w) uint8, the frame before
        self._frame_hw = (0, 0)

    def reset(self) -> None:
        """Forget the frame before."""
        self._grey = None

    def update(self, image_bgr: np.ndarray, boxes: np.ndarray) -> tuple[float, float]:
        """Where the still world went since the frame before: (x, y) in frame pixels; (0, 0) where that is unknown.

        Args:
            image_bgr: (H, W, 3) uint8, the new frame.
            boxes: (T, 4) xyxy in frame pixels of what moves by itself in the frame before; it is left out.

        Unknown are the first frame, another size, a scene without corners, and a cut, after which corners disagree.
        Raises ValueError if `image_bgr` is no such image.
        """
        require_bgr(image_bgr)
        hw = image_bgr.shape[:2]
        grey, before = _small_grey(image_bgr), self._grey
        same = self._frame_hw == hw
        self._grey, self._frame_hw = grey, (hw[0], hw[1])
        if before is None or not same:
            return 0.0, 0.0
        scale = hw[1] / grey.shape[1]  # frame pixels a small pixel
        shift = _shift(before, grey, boxes / scale)
        return shift[0] * scale, shift[1] * scale


def _small_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR -> (h, w) grey, at most WIDTH wide."""
    h, w = image.shape[:2]
    step = max(w // (4 * WIDTH), 1)
    image = image[::step, ::step]  # of a large frame a part of the pixels is enough
    size = (min(WIDTH, image.shape[1]), max(round(h * min(WIDTH, image.shape[1]) / w), 1))
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)


def _shift(before: np.ndarray, now: np.ndarray, boxes: np.ndarray) -> tuple[float, float]:
    """The robust shift between two small grey frames, in their pixels; (0, 0) if the corners do not agree on one."""
    h, w = before.shape
    if min(h, w) < 4 * WINDOW[0]:
        return 0.0, 0.0
    mask = np.zeros((h, w), np.uint8)
    mask[: int(SKY_AND_FAR * h)] = 255
    edges = np.concatenate([np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1], 1).clip(0, [w, h, w, h])
    for left, top, right, bottom in edges.astype(int).tolist():
        mask[top:bottom, left:right] = 0
    corners = cv2.goodFeaturesToTrack(before, CORNERS, QUALITY, APART_PX, mask=mask)  # (N, 1, 2) float32
    if corners is None or len(corners) < MIN_CORNERS:
        return 0.0, 0.0
    corners = corners.reshape(-1, 1, 2)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, np.empty_like(corners), winSize=WINDOW,
                                               maxLevel=LEVELS)  # fmt: skip
    kept = found.ravel() > 0
    if kept.sum() < MIN_CORNERS:
        return 0.0, 0.0
    middle = np.array([w, h], np.float32) / 2
    start, end = corners[kept, 0] - middle, moved[kept, 0] - middle  # (N, 2)
    cv2.setRNGSeed(0)  # RANSAC draws from it: the same frames give the same tracks
    similarity, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=AGREE_PX, maxIters=200)
    if similarity is None or inliers.mean() < MIN_AGREE:
        return 0.0, 0.0
    x, y = similarity[:, 2].tolist()
    return (x, y) if max(abs(x) / w, abs(y) / h) < 0.3 else (0.0, 0.0)
