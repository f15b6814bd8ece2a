"""A sample -> a varied sample, by albumentations: geometry in frame pixels, then colour and weather in model pixels.

Between the two stands the one preprocessing (tensors.py): the network trains on what it will drive on.
"""

from __future__ import annotations

from dataclasses import dataclass

import albumentations as A
import cv2
import numpy as np

__all__ = ["Augment", "AugmentConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far training frames are varied."""

    crop: float = (
        0.7  # share of frames that are cropped to the model's aspect (the rest is letterboxed, as when driving)
    )
    crop_area: tuple[float, float] = (0.3, 1.0)  # share of the frame's area that a crop keeps
    crop_aspect: tuple[float, float] = (1.3, 2.3)  # width over height of a crop
    flip: float = 0.5  # share that is mirrored
    colour: float = 0.6  # share with other brightness, contrast, saturation, hue
    degrade: float = 0.25  # share with blur, noise or JPEG artefacts
    weather: float = 0.15  # share with fog, rain, shadows, night or glare


class Augment:
    """Two albumentations pipelines, seeded anew for every sample, so that its number alone decides the result."""

    def __init__(self, config: AugmentConfig, hw: tuple[int, int]) -> None:
        crop = A.RandomResizedCrop(
            size=hw,
            scale=config.crop_area,
            ratio=config.crop_aspect,
            interpolation=cv2.INTER_AREA,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,
            p=config.crop,
        )
        self.geometry = A.Compose(
            [crop, A.HorizontalFlip(p=config.flip)],
            bbox_params=A.BboxParams("pascal_voc", label_fields=["index"], min_visibility=0.25, clip=True),
        )
        self.colours = A.Compose(
            [
                A.ColorJitter(0.3, 0.3, 0.3, 0.04, p=config.colour),
                A.OneOf(
                    [
                        A.GaussianBlur((3, 5)),
                        A.MotionBlur((3, 7)),
                        A.ISONoise(),
                        A.ImageCompression(quality_range=(40, 90)),
                    ],
                    p=config.degrade,
                ),
                A.OneOf(
                    [
                        A.RandomFog(fog_coef_range=(0.1, 0.4), alpha_coef=0.08),
                        A.RandomRain(blur_value=3),
                        A.RandomShadow(shadow_roi=(0, 0.4, 1, 1)),
                        A.RandomGamma((40, 220)),
                    ],
                    p=config.weather,
                ),
            ]
        )

    def reshape(
        self, seed: int, image: np.ndarray, boxes: np.ndarray, masks: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Geometry of an image (H, W, 3), boxes (N, 4) xyxy, masks (H, W); also which of the boxes are left (n,)."""
        self.geometry.set_random_seed(seed)
        out = self.geometry(image=image, bboxes=boxes, index=np.arange(len(boxes)), masks=masks)
        left = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        return out["image"], left, np.asarray(out["index"], int).reshape(-1), list(out["masks"])

    def recolour(self, seed: int, image: np.ndarray) -> np.ndarray:
        """Colour, blur, noise and weather: RGB (h, w, 3) uint8 -> the same."""
        self.colours.set_random_seed(seed)
        return self.colours(image=image)["image"]
