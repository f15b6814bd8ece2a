"""A sample -> a varied sample, by albumentations: geometry in frame pixels, then colour and weather in model pixels.

Between the two stands the one preprocessing (tensors.py): the network trains on what it will drive on. What is done to
colours, and how often, is a policy (policy.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import albumentations as A
import cv2
import numpy as np

from perception.jsonfile import from_json
from perception.labels import IGNORE
from perception.structures import Letterbox
from perception.tensors import PAD_VALUE
from perception.training.policy import load_policy, photometric

__all__ = ["MIN_BOX_PX", "MIN_VISIBLE", "Augment", "AugmentConfig", "too_little", "visible_share"]

MIN_BOX_PX = 3.0  # boxes thinner than this, in model pixels, are ignored instead of learned
MIN_VISIBLE = 0.25  # so are boxes of which less than this share of the area is left in the picture


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far training frames are varied."""

    policy: str = "driving-1"  # driving-1, driving-2, or a JSON file such as perception.search writes
    magnitude: float | None = None  # strength of colour, weather and noise, 0..1; None = the policy's own
    crop: float | None = None  # share of frames cropped to the model's aspect, not letterboxed; None = the policy's own
    crop_area: tuple[float, float] = (0.3, 1.0)  # share of the frame's area that a crop keeps
    crop_aspect: tuple[float, float] = (1.3, 2.3)  # width over height of a crop
    tilt: float = 0.0  # largest rotation, in degrees; boxes become a little loose
    # Share of frames that are mirrored. Mind that a mirrored frame breaks traffic rules: it swaps the side that one
    # drives on, and mirrors signs and arrows.
    flip: float = 0.0
    mosaic: float | None = None  # share of samples that are four of one data set put together; None = the policy's own

    def __post_init__(self) -> None:
        shares = {"magnitude": self.magnitude, "crop": self.crop, "flip": self.flip, "mosaic": self.mosaic}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"--augment.{name} must be in 0..1, but got {share}")

    @classmethod
    def from_json(cls, saved: Any, where: str = "augment") -> AugmentConfig:
        """The options in a run's config.json. Raises ValueError for those of an older version."""
        if isinstance(saved, dict) and (old := sorted({"colour", "degrade", "weather"} & set(saved))):
            raise ValueError(
                f"the run was started before there were policies (its augmentation has {old[0]!r}) and can't go on "
                "as it began; start a new one from it with --init RUN"
            )
        return from_json(cls, saved, where)


class Augment:
    """Two albumentations pipelines, seeded anew for every sample, so that its number alone decides the result."""

    def __init__(self, config: AugmentConfig, hw: tuple[int, int]) -> None:
        policy = load_policy(config.policy)
        self.mosaic = policy.mosaic if config.mosaic is None else config.mosaic
        tilt = A.Affine(
            rotate=(-config.tilt, config.tilt),
            rotate_method="ellipse",
            fill=PAD_VALUE,
            fill_mask=IGNORE,
            p=float(config.tilt > 0),
        )
        crop = A.RandomResizedCrop(
            size=hw,
            scale=config.crop_area,
            ratio=config.crop_aspect,
            interpolation=cv2.INTER_AREA,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,
            p=policy.crop if config.crop is None else config.crop,
        )
        self.geometry = A.Compose(
            [tilt, crop, A.HorizontalFlip(p=config.flip)],
            bbox_params=A.BboxParams("pascal_voc", label_fields=["index"], clip=True),
            save_applied_params=True,
        )
        self.colours = photometric(policy, policy.magnitude if config.magnitude is None else config.magnitude)

    def reshape(
        self, seed: int, image: np.ndarray, boxes: np.ndarray, masks: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Geometry of an image (H, W, 3), boxes (N, 4) xyxy and masks (H, W).

        Also says which of the boxes are left (n,), and which share of each is still in the picture (n,).
        """
        self.geometry.set_random_seed(seed)
        out = self.geometry(image=image, bboxes=boxes, index=np.arange(len(boxes)), masks=masks)
        left = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        kept = np.asarray(out["index"], int).reshape(-1)
        windows = [params["crop_coords"] for _, params in out["applied_transforms"] if "crop_coords" in params]
        share = visible_share(boxes[kept], windows[0]) if windows else np.ones(len(kept), np.float32)
        return out["image"], left, kept, share, list(out["masks"])

    def recolour(self, seed: int, image: np.ndarray, letterbox: Letterbox) -> np.ndarray:
        """Colour, blur, noise and weather: RGB (h, w, 3) uint8 -> the same, whose grey border stays as it is."""
        (h, w), top, left = letterbox.content_hw, letterbox.top, letterbox.left
        content = np.ascontiguousarray(image[top : top + h, left : left + w])
        self.colours.set_random_seed(seed)
        image[top : top + h, left : left + w] = self.colours(image=content)["image"]
        return image


def visible_share(boxes: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """(n,) float32: which share of the area of each box (n, 4) xyxy is inside the window xyxy."""
    x1, y1, x2, y2 = window
    inside = np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2])
    return box_areas(inside) / np.maximum(box_areas(boxes), 1e-6)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(n,) areas of boxes (n, 4) xyxy."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def too_little(boxes: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(n,) bool: boxes (n, 4) xyxy in model pixels too small, or cut too small, to learn from: they are ignored."""
    thinner = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return (thinner < MIN_BOX_PX) | (share < MIN_VISIBLE)
