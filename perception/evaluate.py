"""How good is a model? COCO AP of its boxes and mIoU of its class maps on datasets in the common layout.

    python -m perception.evaluate --model FILE.onnx --data DATASETS/camvid DATASETS/kitti --split val

Each dataset is judged in its own label space (see perception/evaluation/), in the pixels of its own images, through the
preprocessing that the live loop uses. A run directory is evaluated in torch, an ONNX file in ONNX Runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

from perception.cli import run
from perception.engine import Provider
from perception.evaluation.masks import MaskEvaluation
from perception.labels import DatasetLabels
from perception.layout import Sample, read_layout
from perception.model import BUNDLED_MODEL, Model, load

if TYPE_CHECKING:
    from perception.evaluation.boxes import BoxEvaluation

__all__ = ["EvaluateConfig", "evaluate", "main", "open_model", "tables"]

SCORE_THRESHOLD = 0.001  # AP wants the whole curve, down to the boxes that hardly anyone believes in


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of `python -m perception.evaluate`."""

    data: tuple[Path, ...]
    """Datasets in the common layout, one or more folders (made by data/NAME/prepare.py)."""
    model: Path | None = None
    """Run directory of perception.train, or ONNX file of perception.export; the bundled model if left out."""
    split: str = "val"
    """Which images: train, val or test."""
    own_space: bool = False
    """For a model trained with --own-space: its classes are the dataset's own labels."""
    provider: Provider = "auto"
    """What computes an ONNX file. A run directory is always computed by torch on the CPU."""
    limit: int | None = None
    """Evaluate on this many images of each dataset, spread evenly over the split, instead of on all."""
    only: str = ""
    """Evaluate only on images with this text in their name, such as one sequence."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be evaluated on one dataset."""

    labels: DatasetLabels
    samples: list[Sample]
    boxes: bool
    heads: tuple[str, ...]
    missing: tuple[str, ...]  # tasks that the dataset has and the model lacks


def plan(
    model: Model,
    folder: str | Path,
    split: str,
    limit: int | None = None,
    own_space: bool = False,
    only: str = "",
) -> Plan:
    """Read a dataset and compare its tasks with the model's.

    Raises ValueError if they have none in common, if no image of the split is annotated, and for a broken dataset.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, but got {limit}")
    metadata = model.engine.metadata
    labels, samples = read_layout(folder, split, own_space)
    wanted = (["boxes"] if labels.boxes else []) + list(labels.masks)
    present = (["boxes"] if metadata.box_names else []) + list(metadata.heads)
    common = [task for task in wanted if task in present]
    if not common:
        raise ValueError(
            f"{folder} is annotated for {', '.join(wanted) or 'nothing'}, but the model gives {', '.join(present)}: "
            "there is nothing to compare; train a model with that task or name another dataset"
        )
    samples = [s for s in samples if ("boxes" in common and s.boxes is not None) or set(s.masks) & set(common)]
    samples = [s for s in samples if only in s.image.name]
    if not samples:
        raise ValueError(
            f"{folder}: no image of split {split!r} is annotated for {', '.join(common)}"
            + (f" and has {only!r} in its name; change --only" if only else "; choose another split")
        )
    if limit is not None and limit < len(samples):
        samples = [samples[index] for index in np.linspace(0, len(samples) - 1, limit).round().astype(int)]
    missing = tuple(task for task in wanted if task not in present)
    return Plan(labels, samples, "boxes" in common, tuple(task for task in common if task != "boxes"), missing)


def evaluate(
    model: Model,
    folder: str | Path,
    split: str,
    limit: int | None = None,
    own_space: bool = False,
    only: str = "",
) -> dict[str, Any]:
    """Run the model on every annotated image of a split and compare; plain JSON values.

    `model`'s own score threshold plays no part: AP is taken over all boxes. With `limit`, that many images are taken,
    spread evenly. `own_space` is for a model whose classes are this dataset's own labels. `only` keeps the images with
    this text in their name.

    Returns:
        dataset, folder, split, images; missing: tasks that the model lacks;
        boxes: figures of BoxEvaluation.result, or None; masks: head name -> figures of MaskEvaluation.result.

    Raises:
        ValueError: see `plan`; or an image or mask can not be read, or has another size than it should.
    """
    todo = plan(model, folder, split, limit, own_space, only)
    metadata = model.engine.metadata
    everything = Model(model.engine, SCORE_THRESHOLD)
    boxes = _box_evaluation(todo.labels, metadata.box_names) if todo.boxes else None
    masks = {head: MaskEvaluation(todo.labels.masks[head], metadata.heads[head]) for head in todo.heads}
    for sample in tqdm(todo.samples, todo.labels.name, unit="image", leave=False, disable=not sys.stderr.isatty()):
        image = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"can't read the image {sample.image}; run the dataset's prepare.py again")
        result = everything(image)
        if boxes and sample.boxes is not None:
            boxes.add(result.detections, sample.boxes, sample.categories, sample.ignore)
        for head, path in sample.masks.items():
            if head in masks:
                masks[head].add(result.class_maps[head], _read_mask(path, image.shape[:2]))
    return {
        "dataset": todo.labels.name,
        "folder": str(folder),
        "split": split,
        "images": len(todo.samples),
        "missing": list(todo.missing),
        "boxes": boxes.result() if boxes else None,
        "masks": {head: mask.result() for head, mask in masks.items()},
    }


def _box_evaluation(labels: DatasetLabels, box_names: Sequence[str]) -> BoxEvaluation:
    try:
        from perception.evaluation.boxes import BoxEvaluation
    except ImportError:
        raise ValueError("COCO AP needs pycocotools, of the train extra: pip install pycocotools") from None
    assert labels.boxes is not None
    return BoxEvaluation(labels.boxes, box_names)


def _read_mask(path: Path, hw: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8 label ids of an image of size `hw`."""
    mask: np.ndarray | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.shape != hw or mask.dtype != np.uint8:
        found = "is not an image" if mask is None else f"is {mask.shape} {mask.dtype}"
        raise ValueError(f"{path} {found}; expected an index PNG {hw} uint8; run the dataset's prepare.py again")
    return mask


def open_model(path: Path | None, provider: Provider) -> Model:
    """The Model of an ONNX file (None = the bundled one), or, through torch, of a run directory.

    Raises ValueError or OSError that says what is wrong with it.
    """
    if path is None or not path.is_dir():
        return load(path, provider, SCORE_THRESHOLD)
    if provider != "auto":
        raise ValueError(
            f"{path} is a run directory, computed by torch on the CPU; --provider {provider} is for ONNX files"
        )
    try:
        from perception.training.checkpoint import open_run
    except ImportError as error:
        raise ValueError(f"a run directory needs the train extra ({error}); install it or name an ONNX file") from None
    return Model(open_run(path), SCORE_THRESHOLD)


# --------------------------------------------------------------------------------------------------------------- tables

COLUMNS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


def tables(result: dict[str, Any]) -> str:
    """The figures of one dataset, in percent, for people to read."""
    lines = [f"{result['dataset']} {result['split']}: {result['images']} images"]
    lines += [f"  not evaluated, because the model lacks it: {task}" for task in result["missing"]]
    if boxes := result["boxes"]:
        rows = [(name + "*" * (not row["exhaustive"]), row) for name, row in boxes["classes"].items()] + [
            ("all", boxes)
        ]
        width = max(len(name) for name, _ in rows)
        lines.append(f"  {'boxes':{width}} " + "".join(f"{title:>8}" for title in COLUMNS.values()) + "   instances")
        for name, row in rows:
            lines.append(
                f"  {name:{width}} " + "".join(_percent(row[key]) for key in COLUMNS) + f"{row['instances']:12}"
            )
        if not all(row["exhaustive"] for row in boxes["classes"].values()):
            lines.append("  * not every instance is labelled: the figure is lower than the truth")
    for head, mask in result["masks"].items():
        rows = [*mask["labels"].items(), ("mean", {"IoU": mask["mIoU"], "pixels": mask["pixels"]})]
        width = max(len(head), *(len(name) for name, _ in rows))
        lines.append(f"  {head:{width}} {'IoU':>8}   % of pixels")
        for name, row in rows:
            share = row["pixels"] / mask["pixels"] if mask["pixels"] else None
            lines.append(f"  {name:{width}} {_percent(row['IoU'])}{_percent(share):>14}")
        lines.append(f"  {'pixel accuracy':{width}} {_percent(mask['pixel_accuracy'])}")
    return "\n".join(lines)


def summary_table(results: Sequence[dict[str, Any]]) -> str:
    """One line for each dataset."""
    heads = list(dict.fromkeys(head for result in results for head in result["masks"]))
    width = max(len("dataset"), *(len(result["dataset"]) for result in results))
    lines = [
        f"{'dataset':{width}} {'split':>6} {'images':>7}      AP    AP50" + "".join(f"{h + ' mIoU':>13}" for h in heads)
    ]
    for result in results:
        boxes = result["boxes"] or {"AP": None, "AP50": None}
        figures = _percent(boxes["AP"]) + _percent(boxes["AP50"])
        figures += "".join(f"{_percent(result['masks'].get(head, {}).get('mIoU')):>13}" for head in heads)
        lines.append(f"{result['dataset']:{width}} {result['split']:>6} {result['images']:7}{figures}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return f"{'-' if value is None else f'{100 * value:.1f}':>8}"


def body(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate on every dataset; all of them are checked before the first image."""
    if not config.data:
        raise ValueError("--data names no dataset; give one or more folders in the common layout")
    model = open_model(config.model, config.provider)
    for folder in config.data:
        plan(model, folder, config.split, config.limit, config.own_space, config.only)
    results = []
    for folder in config.data:
        results.append(evaluate(model, folder, config.split, config.limit, config.own_space, config.only))
        print(tables(results[-1]) + "\n", flush=True)
    print(summary_table(results))
    metadata = model.engine.metadata
    return {
        "model": str(config.model or BUNDLED_MODEL.name),
        "computed_by": getattr(model.engine, "provider", "unknown"),
        "revision": metadata.revision,
        "step": metadata.step,
        "input_hw": list(metadata.input_hw),
        "limit": config.limit,
        "only": config.only,
        "datasets": results,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(EvaluateConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
