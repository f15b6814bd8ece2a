"""Figures of parts of a dataset: images by their attributes, objects by what they are like.

Images: for each value of each attribute (weather: fog, rain, ...) the AP of boxes and the mIoU of every head over the
images that have it. Objects: the part that is found, by size, height, occlusion, truncation and distance. AP has no
such slices, since a false box has no distance. An object is found if a box of its class overlaps it by IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perception.evaluation.masks import MaskEvaluation
from perception.evaluation.measure import Truth
from perception.evaluation.percent import percent
from perception.labels import DatasetLabels
from perception.layout import Attribute, Sample
from perception.model import SCORE_THRESHOLD as SHOWN  # what the live loop shows by default
from perception.structures import Result

if TYPE_CHECKING:  # needs pycocotools, which the base install lacks
    from perception.evaluation.boxes import BoxEvaluation

__all__ = ["SliceMeasure", "band", "object_slices", "slice_tables"]

FOUND_IOU = 0.5
MOST_VALUES = 24  # an attribute with more values tells images apart instead of grouping them
AREA_BANDS = ((32**2, "small"), (96**2, "medium"), (np.inf, "large"))  # COCO's, in frame pixels
HEIGHT_BANDS_PX = ((16, "<16"), (32, "16-32"), (64, "32-64"), (128, "64-128"), (np.inf, ">128"))
DISTANCE_BANDS_M = ((10, "0-10"), (20, "10-20"), (40, "20-40"), (60, "40-60"), (np.inf, ">60"))
TRUNCATION_BANDS = ((0.15, "<0.15"), (0.30, "0.15-0.30"), (0.50, "0.30-0.50"), (np.inf, ">0.50"))  # KITTI's borders
OCCLUSION = {0: "0 none", 1: "1 partly", 2: "2 largely", 3: "3 unknown"}  # KITTI's levels


def band(value: float, bands: Sequence[tuple[float, str]]) -> str:
    """The name of the first band whose upper border is above `value`."""
    return next(name for border, name in bands if value < border)


def object_slices(box: np.ndarray, attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """What slices an object with `box` (4,) xyxy in frame pixels belongs to: how it is cut -> the name of its slice.

    An object of which something is not known is in no slice of that kind.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    found = {"size": band(width * height, AREA_BANDS), "height px": band(height, HEIGHT_BANDS_PX)}
    occlusion = attributes.get("occlusion")
    if occlusion in OCCLUSION and not isinstance(occlusion, bool):
        found["occlusion"] = OCCLUSION[int(occlusion)]
    for name in ("occluded", "truncated"):  # BDD100K and CVAT know yes and no
        if isinstance(value := attributes.get(name), bool):
            found[name] = "yes" if value else "no"
    for key, name, bands in (
        ("truncation", "truncation", TRUNCATION_BANDS),
        ("distance_m", "distance m", DISTANCE_BANDS_M),
    ):
        if isinstance(value := attributes.get(key), int | float) and value < np.inf:
            found[name] = band(value, bands)
    return found


ORDER = {  # of slices in figures and tables
    "size": [name for _, name in AREA_BANDS],
    "height px": [name for _, name in HEIGHT_BANDS_PX],
    "occlusion": list(OCCLUSION.values()),
    "occluded": ["no", "yes"],
    "truncation": [name for _, name in TRUNCATION_BANDS],
    "truncated": ["no", "yes"],
    "distance m": [name for _, name in DISTANCE_BANDS_M],
}


class SliceMeasure:
    """A measure (figures.Measure) of images by their attributes, and of objects by what they are like."""

    def __init__(
        self,
        samples: Iterable[Sample],
        labels: DatasetLabels,
        heads: Mapping[str, Sequence[str]],
        boxes: BoxEvaluation | None,
    ) -> None:
        """`samples` are all that will be seen; `heads` the model's classes by id.

        `boxes` has been given the boxes of every image just before this measure sees it: all matching is there.
        """
        self.boxes = boxes
        values: dict[str, dict[str, None]] = {}
        for sample in samples:
            for name, value in sample.attributes.items():
                values.setdefault(name, {}).setdefault(_text(value))
        self.too_many = sorted(name for name, found in values.items() if len(found) > MOST_VALUES)
        self._slices = {
            name: {value: _ImageSlice(labels, heads) for value in sorted(found)}
            for name, found in sorted(values.items())
            if name not in self.too_many
        }
        self._objects: list[dict[str, str]] = []  # of every box, in the order of boxes.matched_scores

    def add(self, found: Result, truth: Truth) -> None:
        """One image."""
        sample = truth.sample
        for name, value in sample.attributes.items():
            if name in self._slices:
                part = self._slices[name][_text(value)]
                part.images += 1
                part.numbers += [self.boxes.images] if self.boxes and sample.boxes is not None else []
                for head, mask in truth.masks.items():
                    part.masks[head].add(found.class_maps[head], mask)
        if self.boxes and sample.boxes is not None:
            known: Sequence[Mapping[str, Attribute]] = sample.box_attributes or [{}] * len(sample.boxes)
            self._objects += [object_slices(box, values) for box, values in zip(sample.boxes, known, strict=True)]

    def result(self) -> dict[str, Any]:
        """images: attribute -> value -> figures; objects: kind -> slice -> figures; too_many_values: attributes.

        Of images: images; instances, AP, AP50 (None without boxes); masks: head -> mIoU and IoU of each label. A label
        that is not there in a slice is left out of its mIoU. Of objects: instances, and the part of them that is found
        by any box (recall) and by boxes that score at least SHOWN (recall_shown).
        """
        return {
            "images": {
                name: {value: part.result(self.boxes) for value, part in parts.items()}
                for name, parts in self._slices.items()
            },
            "objects": self._recalls(),
            "too_many_values": self.too_many,
        }

    def _recalls(self) -> dict[str, dict[str, dict[str, Any]]]:
        if not self.boxes or not self._objects:
            return {}
        scores = self.boxes.matched_scores(FOUND_IOU)
        assert len(scores) == len(self._objects)
        recalls = {"all": {"all": _recall(scores)}}
        for kind, names in ORDER.items():
            slices = [(name, [part.get(kind) == name for part in self._objects]) for name in names]
            if any(any(inside) for _, inside in slices):
                recalls[kind] = {name: _recall(scores[inside]) for name, inside in slices}
        return recalls


class _ImageSlice:
    """The images that share one value of an attribute."""

    def __init__(self, labels: DatasetLabels, heads: Mapping[str, Sequence[str]]) -> None:
        self.images = 0
        self.numbers: list[int] = []  # in the BoxEvaluation
        self.masks = {head: MaskEvaluation(labels.masks[head], names) for head, names in heads.items()}

    def result(self, boxes: BoxEvaluation | None) -> dict[str, Any]:
        figures = boxes.result(self.numbers) if boxes and self.numbers else {}
        masks = {head: evaluation.result() for head, evaluation in self.masks.items() if evaluation.images}
        return {
            "images": self.images,
            **{key: figures.get(key) for key in ("instances", "AP", "AP50")},
            "masks": {
                head: {"mIoU": mask["mIoU"], "labels": {name: row["IoU"] for name, row in mask["labels"].items()}}
                for head, mask in masks.items()
            },
        }


def _text(value: Attribute) -> str:
    """The name of a slice: JSON's word for it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _recall(scores: np.ndarray) -> dict[str, Any]:
    """(instances,) score of the box that found each, nan = missed -> figures."""
    n = len(scores)
    found, shown = int((scores >= 0).sum()), int((scores >= SHOWN).sum())  # nan is neither
    return {"instances": n, "recall": found / n if n else None, "recall_shown": shown / n if n else None}


def slice_tables(slices: Mapping[str, Any]) -> list[str]:
    """The lines of two tables, in percent: images by attribute, objects by what they are like."""
    lines = []
    if slices["images"]:
        rows = [(name, value, row) for name, parts in slices["images"].items() for value, row in parts.items()]
        heads = list(dict.fromkeys(head for *_, row in rows for head in row["masks"]))
        width = max(len(f"{name}: {value}") for name, value, _ in rows)
        lines.append(
            f"  {'images':{width}} {'images':>8}{'AP':>8}{'AP50':>8}" + "".join(f"{h + ' mIoU':>13}" for h in heads)
        )
        for name, value, row in rows:
            figures = f"{percent(row['AP'])}{percent(row['AP50'])}"
            figures += "".join(f"{percent(row['masks'].get(head, {}).get('mIoU')):>13}" for head in heads)
            lines.append(f"  {f'{name}: {value}':{width}} {row['images']:8}{figures}")
    if slices["objects"]:
        lines.append(f"  {'objects':28}{'instances':>10}  found of them: at any score, from {SHOWN}")
        for kind, parts in slices["objects"].items():
            for name, row in parts.items():
                figures = f"{row['instances']:10}{percent(row['recall']):>29}{percent(row['recall_shown']):>10}"
                lines.append(f"  {name if kind == name else f'{kind}: {name}':28}{figures}")
    if not slices["images"]:
        lines.append("  images have no attributes to slice them by; the dataset's prepare.py may write them")
    lines += [
        f"  attribute with more than {MOST_VALUES} values, not sliced: {name}" for name in slices["too_many_values"]
    ]
    return lines
