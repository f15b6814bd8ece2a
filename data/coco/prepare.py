"""COCO 2017, or any boxes in COCO JSON -> the common layout. Categories are matched to our classes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from perception.cli import run
from perception.labels import BoxLabels, DatasetLabels
from perception.layout import SPLITS, Attribute, LayoutWriter, Report
from perception.prepare import (
    NamedCategoriesConfig,
    number,
    progress,
    read_json,
    require_folder,
    split_and_category_notes,
    summary,
)

COCO = ("coco", "annotations CC BY 4.0; images under the Flickr terms of use", "https://cocodataset.org")
COCO_2017 = (
    "train=annotations/instances_train2017.json:train2017",
    "val=annotations/instances_val2017.json:val2017",
)
SUBSETS = {"train": "train", "default": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def usual_splits(root: Path) -> tuple[str, ...]:
    """The --splits of a folder as COCO 2017, CVAT or Roboflow pack it.

    Raises ValueError that says what JSON files are there, if it is none of these.
    """
    if (root / "annotations/instances_train2017.json").is_file():
        return COCO_2017
    found = []
    for path in sorted(root.glob("*/_annotations.coco.json")):  # Roboflow, as RF-DETR takes it
        if subset := SUBSETS.get(path.parent.name.lower()):
            found.append(f"{subset}={path.relative_to(root).as_posix()}:{path.parent.name}")
    for path in sorted(root.glob("annotations/instances_*.json")):  # CVAT
        name = path.stem.removeprefix("instances_")
        images = next((folder for folder in (f"images/{name}", "images", name) if (root / folder).is_dir()), None)
        if images and (subset := SUBSETS.get(name.lower())):
            found.append(f"{subset}={path.relative_to(root).as_posix()}:{images}")
    if not found:
        require_folder(root, "SOURCE_DIR")
        listed = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.json"))
        raise ValueError(
            f"{root} is not packed as COCO 2017, CVAT or Roboflow do; say --splits train=FILE.json:IMAGE_FOLDER; "
            f"its JSON files: {', '.join(listed[:5]) or 'none'}{' ...' * (len(listed) > 5)}"
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class CocoConfig(NamedCategoriesConfig):
    """Options of this converter."""

    splits: tuple[str, ...] = ()
    """SPLIT=FILE.json:IMAGE_FOLDER, both in SOURCE_DIR; a split is train, val or test. Left out: what is there, packed
    as COCO 2017, CVAT or Roboflow do."""
    only_relevant: bool = False
    """Leave out images without any object of ours."""

    def files(self) -> dict[str, tuple[Path, Path]]:
        """Split -> COCO file, folder of its images. Raises ValueError for an option of another form."""
        found = {}
        for option in self.splits:
            split, _, files = option.partition("=")
            annotations, _, images = files.partition(":")
            if split not in SPLITS or not annotations or not images:
                raise ValueError(f"--splits {option!r}: expected train|val|test=FILE.json:IMAGE_FOLDER")
            if split in found:
                raise ValueError(f"--splits: {split} is there twice; merge the files, or convert them one by one")
            found[split] = (self.source / annotations, self.source / images)
        return found


class Row(NamedTuple):
    """An annotation whose category means something to us."""

    category: str
    xyxy: list[float]
    crowd: bool
    attributes: dict[str, Attribute]  # CVAT and others add them; COCO itself has none


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A COCO file whose parts have been checked to be lists of objects."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    names: dict[str, str]  # category id, as text -> name


def read_coco(path: Path) -> CocoFile:
    """Read a COCO file. Raises ValueError that names it and what it lacks."""
    data = read_json(path)
    parts = [data.get(key) if isinstance(data, dict) else None for key in ("images", "annotations", "categories")]
    for key, part in zip(("images", "annotations", "categories"), parts, strict=True):
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
            raise ValueError(f"{path} is not COCO: expected a list of objects as {key!r}; is it instances_*.json?")
    images, annotations, categories = (part or [] for part in parts)
    if broken := [entry for entry in categories if "id" not in entry or "name" not in entry]:
        raise ValueError(f"{path} is not COCO: a category without id or name: {broken[0]}")
    ids = Counter(str(entry["id"]) for entry in categories)
    if twice := [entry for entry in categories if ids[str(entry["id"])] > 1]:
        raise ValueError(f"{path} is not COCO: two categories with the id {twice[0]['id']!r}; give each its own")
    return CocoFile(images, annotations, {str(entry["id"]): str(entry["name"]) for entry in categories})


def xyxy_from_bbox(bbox: Any) -> list[float]:
    """COCO [x, y, w, h] -> [x1, y1, x2, y2]; NaNs if it is anything else, so that the writer drops and counts it."""
    values = [number(str(value)) for value in bbox] if isinstance(bbox, list) else []
    if len(values) != 4:
        return [float("nan")] * 4
    x, y, w, h = values
    return [x, y, x + w, y + h]


def rows_by_image(coco: CocoFile, labels: BoxLabels, report: Report) -> dict[str, list[Row]]:
    """Image id, as text -> its annotations; ids that two images have, or none, are left out."""
    uses = Counter(str(entry["id"]) for entry in coco.images if "id" in entry)
    rows: dict[str, list[Row]] = {image: [] for image, count in uses.items() if count == 1}
    for entry in coco.annotations:
        category_id, image_id = str(entry.get("category_id")), str(entry.get("image_id"))
        if category_id not in coco.names:
            report.problem("annotation of an unknown category id, dropped", str(entry)[:100])
        elif image_id not in uses:
            report.problem("annotation of an unknown image id, dropped", str(entry)[:100])
        elif (name := coco.names[category_id]) in labels.categories and image_id in rows:
            attributes = entry.get("attributes")
            kept = attributes if isinstance(attributes, dict) else {}
            rows[image_id].append(Row(name, xyxy_from_bbox(entry.get("bbox")), bool(entry.get("iscrowd")), kept))
    return rows


def add_split(
    writer: LayoutWriter,
    split: str,
    entries: Sequence[dict[str, Any]],
    rows: Mapping[str, list[Row]],
    images: Path,
    only_relevant: bool,
) -> Counter[str]:
    """Add the images `entries` with their `rows`; what was left out without being wrong."""
    notes: Counter[str] = Counter()
    for entry in progress(entries):
        if "id" not in entry or str(entry["id"]) not in rows:  # nobody knows whose its annotations are
            writer.report.problem("image without an id of its own, skipped", str(entry)[:100])
            continue
        found = rows[str(entry["id"])]
        file_name = PurePosixPath(str(entry.get("file_name") or ""))
        if not file_name.name or file_name.is_absolute() or ".." in file_name.parts:
            writer.report.problem("image without a plain relative file_name, skipped", str(entry)[:100])
            continue
        if only_relevant and not found:
            notes["image without any object of ours, left out"] += 1
            continue
        objects = [row for row in found if not row.crowd]
        height, width = entry.get("height"), entry.get("width")
        writer.add(
            split,
            file_name.with_suffix("").as_posix(),
            images / file_name,
            boxes=[row.xyxy for row in objects],
            categories=[row.category for row in objects],
            ignore=[row.xyxy for row in found if row.crowd],
            box_attributes=[row.attributes for row in objects],
            annotated_hw=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        )
    return notes


def prepare(config: CocoConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    config = replace(config, splits=config.splits or usual_splits(config.source))
    files = {split: (read_coco(annotations), images) for split, (annotations, images) in config.files().items()}
    splits = config.held_out(
        {
            split: sorted(coco.images, key=lambda entry: str(entry.get("file_name")))
            for split, (coco, _) in files.items()
        }
    )
    names = list(dict.fromkeys(name for coco, _ in files.values() for name in coco.names.values()))
    used = {coco.names.get(str(row.get("category_id"))) for coco, _ in files.values() for row in coco.annotations}
    boxes = config.box_labels(names)
    boxes = replace(boxes, own=tuple(name for name in boxes.own if name in used))  # Roboflow lists the project's name
    is_coco = config.splits == COCO_2017 and not config.name
    name, licence, source = COCO if is_coco else (config.name or config.source.resolve().name, "not stated", "")
    notes: Counter[str] = Counter()
    with config.writer(DatasetLabels(name, config.licence or licence, source, boxes)) as writer:
        rows = {split: rows_by_image(coco, boxes, writer.report) for split, (coco, _) in files.items()}
        for split, entries in splits.items():
            origin = split if split in files else "train"  # of --val-share
            notes += add_split(writer, split, entries, rows[origin], files[origin][1], config.only_relevant)
    return summary(writer.report, {**notes, **split_and_category_notes(writer.report, boxes, names)})


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(CocoConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
