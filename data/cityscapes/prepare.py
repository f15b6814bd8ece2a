"""Cityscapes (leftImg8bit, gtFine) -> the common layout: masks of label ids, boxes from polygons or instance ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from perception.cli import run
from perception.imagefile import read_ids as read_png
from perception.labels import IGNORE, SCENE_CLASSES, BoxLabels, DatasetLabels
from perception.layout import LayoutWriter, Report
from perception.prepare import (
    PrepareConfig,
    box_labels,
    mask_labels,
    number,
    progress,
    read_json,
    read_mask,
    require_folder,
)

NAMES = (  # by label id
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
INSTANCES = ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")
TRAIN_NAMES = SCENE_CLASSES[:19]  # by train id

SCENE = {
    label: (name, {"road", "lane marking"} if name == "road" else {name} if name in TRAIN_NAMES else set[str]())
    for label, name in enumerate(NAMES)
}
NOT_TO_SAY = {"unlabeled", "ego vehicle", "rectification border", "out of roi", "ground", "parking"}
DRIVE = {
    label: (name, {"drivable", "lane marking"} if name == "road" else set() if name in NOT_TO_SAY else {"background"})
    for label, name in enumerate(NAMES)
}
BOXES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in (*INSTANCES, "traffic light", "traffic sign")},
    "person": ("pedestrian",),
    "caravan": (),
    "trailer": (),
    **{f"{name}group": () for name in INSTANCES},
}
EXHAUSTIVE = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
POLYGON_BOXES = box_labels(BOXES, exhaustive=(*EXHAUSTIVE, "traffic light", "traffic sign"))
INSTANCE_BOXES = box_labels({name: v for name, v in BOXES.items() if not name.startswith("traffic")}, EXHAUSTIVE)
WITHOUT_BOXES = {*NAMES, "license plate"} - set(BOXES)


@dataclass(frozen=True, kw_only=True)
class CityscapesConfig(PrepareConfig):
    """Options of this converter."""

    boxes: Literal["polygons", "instances"] = "polygons"
    """Boxes round the polygons (ten classes, reaching behind what hides a thing), or round the visible pixels of
    instanceIds.png (eight classes: no traffic lights and signs)."""


def labels(boxes: BoxLabels) -> DatasetLabels:
    """The content of dataset.json."""
    return DatasetLabels(
        name="cityscapes",
        licence="Cityscapes licence: non-commercial purposes, no redistribution",
        source="https://www.cityscapes-dataset.com",
        boxes=boxes,
        masks={"scene": mask_labels("scene", "labels", SCENE), "drive": mask_labels("drive", "labels", DRIVE)},
    )


def read_ids(folder: Path, frame: str, report: Report) -> np.ndarray | None:
    """(H, W) label ids from *_labelIds.png, or else from *_labelTrainIds.png; None, counted, if there is neither."""
    path = folder / f"{frame}_gtFine_labelIds.png"
    train_path = folder / f"{frame}_gtFine_labelTrainIds.png"
    if path.is_file() or not train_path.is_file():
        return read_mask(path, report)
    train_ids = read_mask(train_path, report)
    if train_ids is None or train_ids.dtype != np.uint8:
        return train_ids
    table = np.full(256, IGNORE, np.uint8)
    table[: len(TRAIN_NAMES)] = [NAMES.index(name) for name in TRAIN_NAMES]
    return np.take(table, train_ids)


def boxes_from_polygons(path: Path, report: Report) -> dict[str, Any]:
    """The arguments of LayoutWriter.add that a *_polygons.json gives; none, counted in `report`, if it is broken."""
    try:
        data = read_json(path)
        height, width, objects = int(data["imgHeight"]), int(data["imgWidth"]), data["objects"]
        things = [(str(item["label"]), item["polygon"]) for item in objects if not item.get("deleted")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.problem("missing or broken polygons, image has no boxes", f"{path.name}: {error}")
        return {}
    boxes, categories = [], []
    for name, polygon in things:
        if name in WITHOUT_BOXES:
            continue
        boxes.append(box_from_polygon(polygon))
        categories.append(name)
    return {"boxes": boxes, "categories": categories, "annotated_hw": (height, width)}


def box_from_polygon(polygon: Any) -> list[float]:
    """[[x, y], ...] -> [x1, y1, x2, y2]; NaNs if it is anything else, so that the writer drops and counts it."""
    try:
        points = np.array([[number(str(x)), number(str(y))] for x, y in polygon]).reshape(-1, 2)
    except (TypeError, ValueError):
        points = np.empty((0, 2))
    return [*points.min(0), *points.max(0)] if len(points) else [float("nan")] * 4


def boxes_from_instances(path: Path, report: Report) -> dict[str, Any]:
    """The same from a 16-bit *_instanceIds.png: label id * 1000 + number, or the plain label id of a group."""
    try:
        ids = read_png(path)
    except (ValueError, OSError):
        ids = np.zeros(0, np.uint16)
    if ids.ndim != 2:
        report.problem("missing or broken instance ids, image has no boxes", path.name)
        return {}
    boxes, categories = [], []
    for value in np.unique(ids).tolist():
        name = NAMES[label] if (label := value // 1000 or value) < len(NAMES) else f"label id {label}"
        if name in NAMES and name not in INSTANCES:
            continue
        pixels = (ids == value).astype(np.uint8)
        if value < 1000:  # a group: one box a connected region
            _, _, stats, _ = cv2.connectedComponentsWithStats(pixels)
            regions = [row[:4] for row in stats[1:].tolist()]
        else:
            regions = [list(cv2.boundingRect(pixels))]
        boxes += [[x, y, x + w, y + h] for x, y, w, h in regions]
        categories += [name if value >= 1000 else f"{name}group"] * len(regions)
    return {"boxes": boxes, "categories": categories}


def add_frame(writer: LayoutWriter, config: CityscapesConfig, split: str, city: str, frame: str) -> None:
    """Add one image with its masks and boxes."""
    folder = config.source / "gtFine" / split / city
    ids = read_ids(folder, frame, writer.report)
    if ids is None:
        return
    if config.boxes == "polygons":
        boxes = boxes_from_polygons(folder / f"{frame}_gtFine_polygons.json", writer.report)
    else:
        boxes = boxes_from_instances(folder / f"{frame}_gtFine_instanceIds.png", writer.report)
    image = config.source / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png"
    writer.add(split, frame, image, masks={"labels": ids}, **boxes)


def prepare(config: CityscapesConfig) -> dict[str, Any]:
    """Convert train and val of `config.source`; the summary as JSON values. The labels of test are not public."""
    with config.writer(labels(POLYGON_BOXES if config.boxes == "polygons" else INSTANCE_BOXES)) as writer:
        for split in ("train", "val"):
            images = require_folder(config.source / "leftImg8bit" / split, "images")
            truth = require_folder(config.source / "gtFine" / split, "labels")
            found = [(path, "_leftImg8bit.png") for path in images.glob("*/*_leftImg8bit.png")]
            found += [(path, "_gtFine_labelIds.png") for path in truth.glob("*/*_gtFine_labelIds.png")]
            frames = sorted({(path.parent.name, path.name.removesuffix(suffix)) for path, suffix in found})
            for city, frame in progress(frames):
                add_frame(writer, config, split, city, frame)
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(CityscapesConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
