"""BDD100K -> the common layout: boxes, semantic masks, and drivable area with lane markings as one mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.cli import run
from perception.labels import IGNORE, SCENE_CLASSES, DatasetLabels
from perception.layout import Attribute, LayoutWriter, Report
from perception.prepare import (
    PrepareConfig,
    box_labels,
    ids_from_colours,
    images_in,
    mask_labels,
    number,
    progress,
    read_json,
    read_mask,
    summary,
)

CLASSES = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)
BOXES: dict[str, tuple[str, ...]] = {name: (name,) for name in CLASSES} | {
    "other person": (),
    "other vehicle": (),
    "trailer": (),
}
NAMES_OF_2018 = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"}
SCENE = {label: (name, {name}) for label, name in enumerate(SCENE_CLASSES[:19])} | {
    0: ("road", {"road", "lane marking"})
}

DIRECT, ALTERNATIVE, BACKGROUND, LINE, CROSSWALK, DRIVABLE_OR_LINE, BACKGROUND_OR_LINE, NO_LINE = range(8)
DRIVE = {  # ours, made of the drivable and the lane masks
    DIRECT: ("direct", {"drivable"}),
    ALTERNATIVE: ("alternative", {"drivable"}),
    BACKGROUND: ("background", {"background"}),
    LINE: ("lane marking", {"lane marking"}),
    CROSSWALK: ("crosswalk", {"drivable", "lane marking"}),
    DRIVABLE_OR_LINE: ("drivable or line", {"drivable", "lane marking"}),
    BACKGROUND_OR_LINE: ("background or line", {"background", "lane marking"}),
    NO_LINE: ("no line", {"background", "drivable"}),
}
LABELS = DatasetLabels(
    name="bdd100k",
    licence="BDD100K licence: free for educational, research and not-for-profit purposes",
    source="http://bdd-data.berkeley.edu",
    boxes=box_labels(BOXES, exhaustive=CLASSES),
    masks={"scene": mask_labels("scene", "scene", SCENE), "drive": mask_labels("drive", "drive", DRIVE)},
)

# A lane byte: bits 0-2 category, bit 3 background, bit 4 style, bit 5 direction.
LANE_CATEGORY, LANE_BACKGROUND = 0b111, 0b1000
CROSSWALK_CATEGORY, KERB_CATEGORY = 0, 4
LANE_GAP_PX = 15  # a marking is annotated as its two edges, up to this far apart
DRIVABLE_COLOURS = {0xDB5E56: 0, 0x56D3DB: 1, 0x000000: 2}
LANE_COLOURS = {  # by category
    0xDB5E56: 0, 0xDBC256: 1, 0x91DB56: 2, 0x56DB7F: 3, 0x56D3DB: 4, 0x566FDB: 5, 0xA056DB: 6, 0xDB56B2: 7,
}  # fmt: skip


def ids_as_stored(mask: np.ndarray) -> np.ndarray:
    """Masks of 2020 hold the ids that we use."""
    return mask


def drivable_from_2018(mask: np.ndarray) -> np.ndarray:
    """0 background, 1 direct, 2 alternative -> 0 direct, 1 alternative, 2 background."""
    table = np.full(256, IGNORE, np.uint8)
    table[:3] = 2, 0, 1
    return np.take(table, mask)


def drivable_from_colours(mask: np.ndarray) -> np.ndarray:
    """A colour map -> 0 direct, 1 alternative, 2 background."""
    return ids_from_colours(mask[..., :3], DRIVABLE_COLOURS, IGNORE)


def lanes_from_colours(mask: np.ndarray) -> np.ndarray:
    """A colour map -> lane bytes; what has no lane's colour is background."""
    return ids_from_colours(mask[..., :3], LANE_COLOURS, IGNORE)


# Kind -> (folder with train/ and val/, end of the file names, how to read it), the best first.
MASKS: dict[str, tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray]], ...]] = {
    "scene": (("labels/sem_seg/masks", ".png", ids_as_stored), ("seg/labels", "_train_id.png", ids_as_stored)),
    "drivable": (
        ("labels/drivable/masks", ".png", ids_as_stored),
        ("drivable_maps/labels", "_drivable_id.png", drivable_from_2018),
        ("labels/drivable/colormaps", ".png", drivable_from_colours),
    ),
    "lane": (("labels/lane/masks", ".png", ids_as_stored), ("labels/lane/colormaps", ".png", lanes_from_colours)),
}
IMAGE_ATTRIBUTES, BOX_ATTRIBUTES = ("weather", "scene", "timeofday"), ("occluded", "truncated")
BOX_FILES = ("labels/det_20/det_{split}.json", "labels/bdd100k_labels_images_{split}.json")
PACKAGES = {"100k": ("boxes", "drivable", "lane"), "10k": ("scene",)}  # images/<package> -> what is labelled on it


def closed(mask: np.ndarray, gap: int) -> np.ndarray:
    """(H, W) bool with gaps of up to `gap` pixels closed, as if it went on beyond the border."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    padded = np.pad(mask.astype(np.uint8), gap, "edge")  # OpenCV would close the gap between a line and the border
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap] > 0


def drive_mask(drivable: np.ndarray | None, lane: np.ndarray | None) -> np.ndarray:
    """(H, W) uint8 ids of DRIVE from (H, W) drivable ids and (H, W) lane bytes, one of which may be absent.

    Kerbs are left as the drivable mask has them. Between the two edges of a marking, and where no lanes are labelled,
    a pixel may be a marking whatever the drivable mask says.
    """
    uncertain = np.arange(256, dtype=np.uint8)
    uncertain[[DIRECT, ALTERNATIVE, BACKGROUND]] = DRIVABLE_OR_LINE, DRIVABLE_OR_LINE, BACKGROUND_OR_LINE
    if lane is None:
        assert drivable is not None
        return np.take(uncertain, drivable)
    category = lane & LANE_CATEGORY
    lines = ((lane & LANE_BACKGROUND) == 0) & (category != KERB_CATEGORY)
    ids = np.full(lane.shape, NO_LINE, np.uint8) if drivable is None else drivable.astype(np.uint8)
    between = closed(lines, LANE_GAP_PX) & ~lines
    ids[between] = IGNORE if drivable is None else uncertain[ids[between]]
    ids[lines] = np.where(category[lines] == CROSSWALK_CATEGORY, CROSSWALK, LINE)
    return ids


def read_frames(source: Path, split: str, report: Report) -> dict[str, dict[str, Any]]:
    """Image stem -> Scalabel frame, of the newest box file there is; empty without one."""
    path = next((path for name in BOX_FILES if (path := source / name.format(split=split)).is_file()), None)
    if path is None:
        return {}
    data = read_json(path)
    frames = data.get("frames") if isinstance(data, dict) else data
    if not isinstance(frames, list):
        raise ValueError(f"{path}: expected a list of frames (Scalabel format), but got a {type(frames).__name__}")
    by_stem = {}
    for frame in frames:
        sound = isinstance(frame, dict) and isinstance(frame.get("labels") or [], list)
        if sound and isinstance(frame.get("name"), str):
            by_stem[Path(frame["name"]).stem] = frame
        else:
            report.problem("frame without a name or a list of labels, dropped", str(frame)[:100])
    return by_stem


def known(attributes: Any, names: Sequence[str]) -> dict[str, Attribute]:
    """Those of a Scalabel object's attributes that we keep; "undefined" says nothing."""
    values = attributes if isinstance(attributes, dict) else {}
    return {name: values[name] for name in names if values.get(name) not in (None, "", "undefined")}


def read_boxes(frame: dict[str, Any], report: Report) -> dict[str, Any]:
    """The arguments of LayoutWriter.add about boxes, and `attributes`. Labels without a box are lanes and areas."""
    boxes, categories, ignore, box_attributes = [], [], [], []
    for label in frame.get("labels") or []:
        if isinstance(label, dict) and label.get("box2d") is None:
            continue
        if not isinstance(label, dict) or not isinstance(box2d := label["box2d"], dict):
            report.problem("label that is not a Scalabel object, dropped", f"{frame['name']}: {str(label)[:80]}")
            continue
        box = [number(str(box2d.get(key))) for key in ("x1", "y1", "x2", "y2")]
        attributes = label["attributes"] if isinstance(label.get("attributes"), dict) else {}
        if attributes.get("crowd") or attributes.get("ignore") or attributes.get("ignored"):
            ignore.append(box)
        else:
            category = str(label.get("category"))
            boxes.append(box)
            categories.append(NAMES_OF_2018.get(category, category))
            box_attributes.append(known(attributes, BOX_ATTRIBUTES))
    found = {"boxes": boxes, "categories": categories, "ignore": ignore, "box_attributes": box_attributes}
    return {**found, "attributes": known(frame.get("attributes"), IMAGE_ATTRIBUTES)}


def find_masks(source: Path, kind: str, split: str) -> dict[str, tuple[Path, Callable[[np.ndarray], np.ndarray]]]:
    """Image stem -> mask file and how to read it."""
    for folder, suffix, reader in MASKS[kind]:
        if (source / folder / split).is_dir():
            files = (source / folder / split).glob(f"*{suffix}")
            return {path.name.removesuffix(suffix): (path, reader) for path in files}
    return {}


def read_masks(
    files: dict[str, tuple[Path, Callable[[np.ndarray], np.ndarray]]], stem: str, report: Report
) -> dict[str, np.ndarray] | None:
    """Folder -> (H, W) ids, from the masks that one image has; None, counted in `report`, if one of them is unsound."""
    raw = {}
    for kind, (path, reader) in files.items():
        mask = read_mask(path, report)
        if mask is None:
            return None
        wants_colours = reader in (drivable_from_colours, lanes_from_colours)
        if mask.dtype != np.uint8 or mask.ndim != (3 if wants_colours else 2):
            report.problem("mask of another form than expected, sample skipped", f"{path} {mask.shape} {mask.dtype}")
            return None
        raw[kind] = reader(mask)
    drivable, lane = raw.pop("drivable", None), raw.pop("lane", None)
    if drivable is not None and lane is not None and drivable.shape != lane.shape:
        report.problem("drivable and lane masks of different sizes, sample skipped", stem)
        return None
    return raw if drivable is None and lane is None else {**raw, "drive": drive_mask(drivable, lane)}


def add_package(writer: LayoutWriter, source: Path, package: str, split: str, held_out: set[str]) -> Counter[str]:
    """Add images/<package>/<split> with all labels there are; what was left out without being wrong."""
    notes: Counter[str] = Counter()
    folder = source / "images" / package / split
    if not folder.is_dir():
        return notes
    kinds = PACKAGES[package]
    images = {path.stem: path for path in images_in(folder)}
    frames = read_frames(source, split, writer.report) if "boxes" in kinds else {}
    masks = {kind: find_masks(source, kind, split) for kind in kinds if kind != "boxes"}
    for stem in progress(sorted({*images, *frames, *(stem for found in masks.values() for stem in found)})):
        files = {kind: found[stem] for kind, found in masks.items() if stem in found}
        if stem in held_out:
            notes["training image that the other package holds out, left out"] += 1
        elif stem not in frames and not files:
            notes["image without any label, left out"] += 1
        elif (ids := read_masks(files, stem, writer.report)) is not None:
            image = images.get(stem, folder / f"{stem}.jpg")
            boxes = read_boxes(frames[stem], writer.report) if stem in frames else {}
            writer.add(split, f"{package}/{stem}", image, masks=ids, **boxes)
    return notes


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values.

    The 100k and the 10k images overlap but are split differently: what one holds out, the other must not train on.
    """
    packages = [package for package in PACKAGES if (config.source / "images" / package).is_dir()]
    if config.source.is_dir() and not packages:
        raise ValueError(
            f"{config.source} has neither images/100k nor images/10k; data/bdd100k/README.md draws the layout"
        )
    stems = {
        package: {
            path.stem for split in ("val", "test") for path in (config.source / "images" / package / split).glob("*")
        }
        for package in packages
    }
    notes: Counter[str] = Counter()
    with config.writer(LABELS) as writer:
        for package in packages:
            others = set().union(*(found for other, found in stems.items() if other != package))
            notes += add_package(writer, config.source, package, "train", others)
            notes += add_package(writer, config.source, package, "val", set())
    return summary(writer.report, notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
