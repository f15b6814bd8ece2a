"""A model and a dataset -> figures: every image of a split goes through the model once, and past every measure.

A measure is one way to judge. It sees the answer and the truth of one image after the other, and has its figures at the
end; a new way to judge is a class with these two methods and a line in `measures_for`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from perception.evaluation.extra import Extra, extra_measures, judged_model
from perception.evaluation.masks import MaskEvaluation
from perception.evaluation.measure import SCORE_THRESHOLD, Measure, Plan, Truth
from perception.evaluation.slices import SliceMeasure
from perception.imagefile import read_ids, read_image
from perception.labels import DatasetLabels
from perception.layout import read_layout
from perception.model import Model
from perception.structures import Result

__all__ = ["NothingToCompare", "Selection", "evaluate", "plan", "truths"]


class NothingToCompare(ValueError):
    """A dataset, or the chosen part of it, and a model have no task in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which images of a dataset are judged, and in whose labels."""

    split: str = "val"
    limit: int | None = None  # that many images, spread evenly over the split; None = all
    only: str = ""  # text that the image's name must hold, such as one sequence
    own_space: bool = False  # for a model whose classes are this dataset's own labels

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit must be 1 or more, but got {self.limit}")


class BoxMeasure:
    """COCO AP."""

    def __init__(self, labels: DatasetLabels, box_names: Sequence[str]) -> None:
        try:
            from perception.evaluation.boxes import BoxEvaluation
        except ImportError:
            raise ValueError("COCO AP needs pycocotools, of the train extra: pip install pycocotools") from None
        assert labels.boxes is not None
        self.evaluation = BoxEvaluation(labels.boxes, box_names)

    def add(self, found: Result, truth: Truth) -> None:
        sample = truth.sample
        if sample.boxes is not None:
            self.evaluation.add(found.detections, sample.boxes, sample.categories, sample.ignore)

    def result(self) -> dict[str, Any]:
        return self.evaluation.result()


class MaskMeasure:
    """IoU of every head."""

    def __init__(self, labels: DatasetLabels, heads: Mapping[str, Sequence[str]]) -> None:
        self.heads = {head: MaskEvaluation(labels.masks[head], names) for head, names in heads.items()}

    def add(self, found: Result, truth: Truth) -> None:
        for head, mask in truth.masks.items():
            self.heads[head].add(found.class_maps[head], mask)

    def result(self) -> dict[str, Any]:
        return {head: evaluation.result() for head, evaluation in self.heads.items()}


def plan(model: Model, folder: str | Path, select: Selection) -> Plan:
    """Read a dataset and compare its tasks with the model's.

    Raises NothingToCompare if they have none in common or no image of the split is annotated, ValueError for a broken
    dataset.
    """
    metadata = model.engine.metadata
    labels, samples = read_layout(folder, select.split, select.own_space)
    wanted = ["boxes"] if labels.boxes and labels.boxes.has_classes else []
    wanted += [head for head, spec in labels.masks.items() if any(spec.sets.values())]
    present = (["boxes"] if metadata.box_names else []) + list(metadata.heads)
    common = [task for task in wanted if task in present]
    if not common:
        raise NothingToCompare(
            f"{folder} is annotated for {', '.join(wanted) or 'none of our classes'}, "
            f"but the model gives {', '.join(present)}: there is nothing to compare; "
            "train a model with that task or name another dataset"
        )
    samples = [s for s in samples if ("boxes" in common and s.boxes is not None) or set(s.masks) & set(common)]
    samples = [s for s in samples if select.only in s.image.name]
    if not samples:
        raise NothingToCompare(
            f"{folder}: no image of split {select.split!r} is annotated for {', '.join(common)}"
            + (f" and has {select.only!r} in its name; change --only" if select.only else "; choose another split")
        )
    if select.limit is not None and select.limit < len(samples):
        samples = [samples[index] for index in np.linspace(0, len(samples) - 1, select.limit).round().astype(int)]
    missing = tuple(task for task in wanted if task not in present)
    return Plan(labels, samples, "boxes" in common, tuple(task for task in common if task != "boxes"), missing)


def measures_for(todo: Plan, model: Model, extra: Extra) -> dict[str, Measure]:
    """The measures of one dataset, by the name of their figures, in the order in which they see an image."""
    metadata = model.engine.metadata
    measures: dict[str, Measure] = {}
    if todo.boxes:
        measures["boxes"] = BoxMeasure(todo.labels, metadata.box_names)
    heads = {head: metadata.heads[head] for head in todo.heads}
    measures["masks"] = MaskMeasure(todo.labels, heads)
    if extra.slices:
        boxes = measures.get("boxes")
        matches = boxes.evaluation if isinstance(boxes, BoxMeasure) else None
        measures["slices"] = SliceMeasure(todo.samples, todo.labels, heads, matches)
    return measures | extra_measures(todo, model, extra)


def evaluate(
    model: Model,
    folder: str | Path,
    select: Selection | None = None,
    extra: Extra | None = None,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
    more: Mapping[str, Measure] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run the model on every annotated image of a split and compare; plain JSON values.

    `model`'s own score threshold plays no part: AP is taken over all boxes. `change` makes of every
    image (H, W, 3) uint8 BGR, and its number from 0, what the model sees. `more` are further measures, by the name of
    their figures.

    Returns:
        dataset, folder, split, images; missing: tasks that the model lacks; the figures of every measure by its name:
        boxes (of BoxEvaluation.result, None without boxes), masks (head name -> figures of MaskEvaluation.result),
        drive (of DriveEvaluation.result), and what `extra` asks for.

    Raises:
        ValueError: see `plan` and `judged_model`; or an image or mask can not be read, or has not the size it should.
    """
    select, extra = select or Selection(), extra or Extra()
    todo = plan(model, folder, select)
    measures = {**measures_for(todo, model, extra), **more}
    everything = judged_model(model, SCORE_THRESHOLD, extra)
    for truth in truths(todo, change):
        found = everything(truth.image)
        for measure in measures.values():
            measure.add(found, truth)
    return {
        "dataset": todo.labels.name,
        "folder": str(folder),
        "split": select.split,
        "images": len(todo.samples),
        "missing": list(todo.missing),
        "boxes": None,
        **{name: measure.result() for name, measure in measures.items()},
    }


def truths(todo: Plan, change: Callable[[np.ndarray, int], np.ndarray] | None = None) -> Iterator[Truth]:
    """Every image of the plan, changed if so wished, with its masks, read from disk."""
    bar = tqdm(todo.samples, todo.labels.name, unit="image", leave=False, disable=not sys.stderr.isatty())
    for number, sample in enumerate(bar):
        image = read_image(sample.image)
        masks = {head: _read_mask(path, image.shape[:2]) for head, path in sample.masks.items() if head in todo.heads}
        yield Truth(sample, change(image, number) if change else image, masks)


def _read_mask(path: Path, hw: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8 label ids of an image of size `hw`."""
    mask = read_ids(path)
    if mask.shape != hw or mask.dtype != np.uint8:
        found = f"is {mask.shape} {mask.dtype}"
        raise ValueError(f"{path} {found}; expected an index PNG {hw} uint8; run the dataset's prepare.py again")
    return mask
