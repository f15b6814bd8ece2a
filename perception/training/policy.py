"""A policy: which photometric changes training frames get, how often each, and how strong; by name or from a JSON file.

One dial, magnitude in 0..1, scales all of them, as in RandAugment (arXiv:1909.13719). Ops come in groups, in the order
in which light reaches a file: night, weather, the lens, the camera's colours, what degrades its picture. Of each group
at most one op is applied, and an op's weight is the share of samples that get it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np

from perception.jsonfile import read_json
from perception.training.weather import Painter, dirt, fog, glare, grain, night, rain, shadow, snow

__all__ = ["GROUPS", "OPS", "POLICIES", "Policy", "load_policy", "photometric", "save_policy"]

GROUPS = ("night", "weather", "lens", "colour", "degrade")


class Painted(A.ImageOnlyTransform):
    """A function of weather.py as an albumentations transform: its strength is 0.4 to 1 times the magnitude."""

    def __init__(self, paint: Painter, magnitude: float) -> None:
        super().__init__(p=1.0)
        self.paint, self.magnitude = paint, magnitude

    def get_params(self) -> dict[str, Any]:
        return {"seed": self.py_random.randrange(2**32)}

    def apply(self, img: np.ndarray, seed: int, **_: Any) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return self.paint(img, self.magnitude * rng.uniform(0.4, 1.0), rng)


@dataclass(frozen=True, slots=True)
class Op:
    """A change of the picture: its group, and the transform that it is at a magnitude over 0 and up to 1."""

    group: str
    at: Callable[[float], A.BasicTransform]


def painted(group: str, paint: Painter) -> Op:
    return Op(group, lambda m: Painted(paint, m))


OPS: dict[str, Op] = {  # m = magnitude
    "night": painted("night", night),
    "fog": painted("weather", fog),
    "rain": painted("weather", rain),
    "snow": painted("weather", snow),
    "glare": painted("weather", glare),
    "shadow": painted("weather", shadow),
    "dirt": painted("lens", dirt),
    "jitter": Op("colour", lambda m: A.ColorJitter(0.6 * m, 0.6 * m, 0.6 * m, 0.06 * m)),
    "gamma": Op("colour", lambda m: A.RandomGamma((100 * math.exp(-0.9 * m), 100 * math.exp(0.9 * m)))),
    "temperature": Op("colour", lambda m: A.PlanckianJitter(temperature_limit=temperatures(m))),
    "gaussian_blur": Op("degrade", lambda m: A.GaussianBlur(blur_limit=0, sigma_limit=(0.2 * m, 2.4 * m))),
    "motion_blur": Op("degrade", lambda m: A.MotionBlur(blur_limit=(3, 3 + 2 * round(5 * m)))),
    "grain": painted("degrade", grain),
    "jpeg": Op("degrade", lambda m: A.ImageCompression(quality_range=(round(95 - 80 * m), round(98 - 30 * m)))),
    "downscale": Op(
        "degrade",
        lambda m: A.Downscale(
            scale_range=(1 - 0.7 * m, 1 - 0.3 * m),
            interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
        ),
    ),
}


def temperatures(magnitude: float) -> tuple[int, int]:
    """Kelvin around the 6000 of daylight: 3000, almost a lamp's, to 13000, a blue sky's, at magnitude 1."""
    return math.floor(6000 - 3000 * magnitude), math.ceil(6000 + 7000 * magnitude)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What is done to training frames, mirroring excepted: no policy mirrors traffic."""

    name: str
    weights: Mapping[str, float] = field(default_factory=dict)  # op -> share of samples; a group's sum is at most 1
    magnitude: float = 0.5  # 0 = no photometric change, 1 = the strongest
    crop: float = 0.7  # share of frames that are cropped to the model's aspect (the rest is letterboxed)
    mosaic: float = 0.0  # share of samples that are four put together

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(OPS)):
            raise ValueError(f"policy {self.name}: unknown op {unknown[0]!r}; expected any of {', '.join(OPS)}")
        numbers = {f"weight of {op}": weight for op, weight in self.weights.items()}
        numbers |= {"magnitude": self.magnitude, "crop": self.crop, "mosaic": self.mosaic}
        for what, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
                raise ValueError(f"policy {self.name}: {what} must be a number in 0..1, but got {number!r}")
        for group, share in self.shares().items():
            if share > 1 + 1e-6:
                raise ValueError(
                    f"policy {self.name}: weights of the group {group} must add up to at most 1, but got {share:g}"
                )

    def shares(self) -> dict[str, float]:
        """{group: share of samples that get one of its ops}, for groups that have ops."""
        total: dict[str, float] = defaultdict(float)
        for op, weight in self.weights.items():
            total[OPS[op].group] += weight
        return {group: total[group] for group in GROUPS if group in total}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `load_policy` reads them back."""
        fields = {name: getattr(self, name) for name in ("name", "magnitude", "crop", "mosaic")}
        return fields | {"weights": dict(self.weights)}


POLICIES: dict[str, Policy] = {
    "driving-1": Policy(  # colours often, a little of the rest
        name="driving-1",
        weights={
            "fog": 0.04, "rain": 0.04, "shadow": 0.04,
            "jitter": 0.6, "gamma": 0.04,
            "gaussian_blur": 0.06, "motion_blur": 0.06, "grain": 0.06, "jpeg": 0.06,
        },
    ),
    "driving-2": Policy(  # every op: weather, night and dirt for what the data sets show seldom
        name="driving-2",
        weights={
            "night": 0.10,
            "fog": 0.06, "rain": 0.06, "snow": 0.02, "glare": 0.05, "shadow": 0.06,
            "dirt": 0.08,
            "jitter": 0.45, "gamma": 0.10, "temperature": 0.10,
            "gaussian_blur": 0.06, "motion_blur": 0.06, "grain": 0.06, "jpeg": 0.06, "downscale": 0.06,
        },
    ),
}  # fmt: skip


def load_policy(name: str) -> Policy:
    """A policy of POLICIES by its name, or from a JSON file that `save_policy` wrote. Raises ValueError."""
    if name in POLICIES:
        return POLICIES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no policy {name!r}; expected {', '.join(POLICIES)}, or a JSON file")
    data = read_json(path)
    allowed = ("name", "magnitude", "crop", "mosaic", "weights")
    if not isinstance(data, dict) or not {"name", "weights"} <= set(data) <= set(allowed):
        found = ", ".join(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path} is not a policy: expected the keys {', '.join(allowed)}, but got {found}")
    if not isinstance(data["weights"], dict) or not isinstance(data["name"], str):
        raise ValueError(f"{path} is not a policy: name must be a text, and weights an object, op: share of samples")
    try:
        return Policy(**data)
    except ValueError as error:
        raise ValueError(f"{path} is not a policy: {error}") from None


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy as JSON, for --augment.policy."""
    path.write_text(json.dumps(policy.to_json(), indent=1) + "\n", encoding="utf-8")


def photometric(policy: Policy, magnitude: float) -> A.Compose:
    """The albumentations pipeline of a policy at a magnitude in 0..1; seed it anew for each image (uint8 RGB)."""
    stages = []
    for group, share in policy.shares().items():
        chosen = {op: weight for op, weight in policy.weights.items() if OPS[op].group == group and weight > 0}
        transforms = [weighted(OPS[op].at(magnitude), weight) for op, weight in chosen.items() if magnitude > 0]
        if transforms:
            stages.append(A.OneOf(transforms, p=min(share, 1.0)))
    return A.Compose(stages)


def weighted(transform: A.BasicTransform, weight: float) -> A.BasicTransform:
    """The transform with its weight within OneOf, which chooses in proportion to p."""
    transform.p = weight
    return transform
