"""A dataset in the common layout -> its labels and samples (numpy only; pixels are not read).

Legend: N = boxes of an image, M = ignore regions of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from perception.jsonfile import read_object
from perception.labels import DatasetLabels

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "Attribute", "Sample", "read_layout", "split_weight"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "val", "test")
Attribute = str | int | float | bool  # the value of an attribute


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image of a dataset and what is annotated on it."""

    image: Path
    boxes: np.ndarray | None = None  # (N, 4) float32 xyxy, frame pixels; None = not annotated for boxes
    categories: tuple[str, ...] = ()  # N names, the dataset's own
    ignore: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # (M, 4) float32 xyxy
    masks: Mapping[str, Path] = field(default_factory=dict)  # head name -> index PNG
    attributes: Mapping[str, Attribute] = field(default_factory=dict)  # of the image, such as weather: fog
    box_attributes: tuple[Mapping[str, Attribute], ...] = ()  # N, such as occlusion: 1; or none at all


def read_layout(
    folder: str | Path, split: str, own_space: bool = False, keep_own: bool = False
) -> tuple[DatasetLabels, list[Sample]]:
    """The labels of the dataset in `folder` and its samples of one split, ordered by file name.

    With `own_space` the labels are classes of their own (DatasetLabels.own_space) instead of sets of ours. Without it,
    boxes of BoxLabels.own are left out, unless `keep_own` asks for them.
    Boxes of a category whose label set is empty, and those with iscrowd, are in `ignore`. Pixels are not read.
    Raises ValueError for: not a folder, no or a broken dataset.json, no such split or an empty one, a broken COCO or
    attributes file, a box without an area inside its image, and an image that one of these files lists but the folder
    lacks.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; expected a dataset in the common layout (data/<name>/prepare.py)")
    if not (root / "dataset.json").is_file():
        raise ValueError(
            f"{root} has no dataset.json, so it is not in the common layout; data/<name>/prepare.py {root} OUT_DIR "
            "converts it (data/README.md says which)"
        )
    saved = read_object(root / "dataset.json")
    try:
        labels = DatasetLabels.from_json(saved)
    except ValueError as error:
        raise ValueError(f"{root / 'dataset.json'}: {error}") from None
    labels = labels.own_space() if own_space else labels
    images = root / "images" / split
    paths = [path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    names = sorted(path.relative_to(images).as_posix() for path in paths)
    if not names or not split:
        state = "no image in" if split and images.is_dir() else "no"
        found = sorted(entry.name for entry in (root / "images").glob("*") if entry.is_dir())
        raise ValueError(f"{root} has {state} split {split!r}; it has: {', '.join(found) or 'none'}")
    boxes_file = root / "boxes" / f"{split}.json"
    boxes = _read_coco(boxes_file, labels, keep_own) if labels.boxes and boxes_file.is_file() else {}
    attributes_file = root / "attributes" / f"{split}.json"
    attributes = _read_attributes(attributes_file) if attributes_file.is_file() else {}
    for path, listed in ((boxes_file, set(boxes)), (attributes_file, set(attributes))):
        if missing := sorted(listed - set(names)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"{path} lists {missing[0]}{more}, but {images} has no such image")

    folders = {head: root / "masks" / spec.folder / split for head, spec in labels.masks.items()}
    samples = []
    for name in names:
        masks = {head: path / PurePosixPath(name).with_suffix(".png") for head, path in folders.items()}
        masks = {head: path for head, path in masks.items() if path.is_file()}
        sample = Sample(images / name, masks=masks, attributes=attributes.get(name, {}))
        samples.append(replace(sample, **boxes[name]) if name in boxes else sample)
    return labels, samples


def split_weight(entry: str) -> tuple[Path, float]:
    """DIR or DIR:WEIGHT, as front doors take datasets -> (folder, weight)."""
    folder, colon, weight = entry.rpartition(":")
    try:
        return (Path(folder), float(weight)) if colon else (Path(entry), 1.0)
    except ValueError:
        return Path(entry), 1.0


def _attributes(values: Any) -> dict[str, Attribute]:
    """The attributes of one image or box; nested ones, which other tools may write, are left out.

    Raises ValueError if it is not an object.
    """
    if not isinstance(values, dict):
        raise ValueError(f"attributes must be an object such as {{'occlusion': 1}}, but are {values!r}")
    return {name: value for name, value in values.items() if isinstance(value, Attribute)}


def _read_attributes(path: Path) -> dict[str, dict[str, Attribute]]:
    """File name -> attributes of the image."""
    try:
        return {name: _attributes(values) for name, values in read_object(path).items()}
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}") from None


def _read_coco(path: Path, labels: DatasetLabels, keep_own: bool) -> dict[str, dict[str, Any]]:
    """COCO file -> file name -> `boxes`, `categories`, `ignore` and `box_attributes` of its Sample."""
    assert labels.boxes is not None
    data = read_object(path)
    where = "images"
    try:
        images = {entry["id"]: entry for entry in data["images"]}
        rows: dict[Any, list[tuple[list[float], str, dict[str, Attribute]]]] = {image: [] for image in images}
        crowds: dict[Any, list[list[float]]] = {image: [] for image in images}
        category_names = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        for number, entry in enumerate(data["annotations"]):
            where = f"annotations[{number}]"
            image, category = images[entry["image_id"]], category_names[entry["category_id"]]
            x, y, w, h = (float(value) for value in entry["bbox"])
            x2, y2 = min(x + w, float(image.get("width", np.inf))), min(y + h, float(image.get("height", np.inf)))
            x, y = max(x, 0.0), max(y, 0.0)
            if not (x2 > x and y2 > y and np.isfinite([x, y, x2, y2]).all()):
                raise ValueError(f"box {entry['bbox']} has no area inside its image {image['file_name']}")
            ignored, own = bool(entry.get("iscrowd")), category in labels.boxes.own
            if not ignored and category not in labels.boxes.categories:
                raise ValueError(f"category {category!r} is not in dataset.json")
            if own and not ignored and not keep_own:
                continue
            if ignored or not (own or labels.boxes.sets[category]):
                crowds[image["id"]].append([x, y, x2, y2])
            else:
                rows[image["id"]].append(([x, y, x2, y2], category, _attributes(entry.get("attributes") or {})))
        where = "images"
        if len({entry["file_name"] for entry in images.values()}) < len(data["images"]):
            raise ValueError("an id or a file_name is there twice")
        return {
            str(entry["file_name"]): {
                "boxes": np.array([row[0] for row in rows[image]], np.float32).reshape(-1, 4),
                "categories": tuple(row[1] for row in rows[image]),
                "ignore": np.array(crowds[image], np.float32).reshape(-1, 4),
                "box_attributes": tuple(row[2] for row in rows[image]),
            }
            for image, entry in images.items()
        }
    except KeyError as error:
        raise ValueError(f"{path} is broken: {where}: missing key or unknown id {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is broken: {where}: {error}; data/coco/prepare.py drops and counts such") from None
