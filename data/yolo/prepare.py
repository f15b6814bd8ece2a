"""A dataset in the Ultralytics YOLO format (data.yaml, images/, labels/*.txt) -> the common layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from perception.cli import run
from perception.labels import DatasetLabels
from perception.layout import IMAGE_SUFFIXES, LayoutWriter, Report
from perception.prepare import (
    NamedCategoriesConfig,
    count_orphans,
    image_hw,
    images_in,
    number,
    progress,
    read_lines,
    split_and_category_notes,
    summary,
)

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # key in data.yaml -> ours
FOLDERS = {"images", *SPLITS}  # parts of a path that say nothing about the image
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "obj.names")  # one class a line, in the order of its id, where there is no data.yaml


@dataclass(frozen=True, kw_only=True)
class YoloConfig(NamedCategoriesConfig):
    """Options of this converter."""

    yaml: str | None = None
    """Name of the data.yaml in SOURCE_DIR. Default: data.yaml, dataset.yaml, or the only .yaml there."""

    def described(self) -> tuple[dict[str, Any], dict[int, str]]:
        """What the data.yaml says, or a list of names in its place, and its class id -> name.

        Raises ValueError if there is none, or no way to choose, or it is broken.
        """
        names = (self.yaml,) if self.yaml else YAML_NAMES
        found = [self.source / name for name in names if (self.source / name).is_file()]
        if not found and not self.yaml:
            found = sorted(self.source.glob("*.y*ml"))
            found = found if len(found) == 1 else []
            if not found and (listed := read_name_list(self.source)):
                return listed
        if not found:
            raise ValueError(
                f"{self.source} has no {' or '.join(names)}; name it with --yaml, or write one, with lines such as "
                "'train: images' and 'names: [car, person]', or classes.txt with a class a line"
            )
        return read_yaml(found[0])


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """A data.yaml and its class id -> name. Raises ValueError that names the file if it is broken."""
    try:
        import yaml
    except ImportError:
        raise ValueError("data.yaml needs the package PyYAML: pip install pyyaml (the train extra has it)") from None
    try:
        data = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    names = data.get("names") if isinstance(data, dict) else None
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise ValueError(f"{path}: expected 'names' to be a list, or class ids with their names")
    return data, {key: str(name) for key, name in names.items()}


def read_name_list(root: Path) -> tuple[dict[str, Any], dict[int, str]] | None:
    """What a data.yaml would say of a folder that has a list of names instead, and its class id -> name; None without.

    All images are train: those in images/ (Label Studio), in obj_train_data/ (CVAT), or beside the list (labelImg).
    """
    path = next((root / name for name in NAME_LISTS if (root / name).is_file()), None)
    names = {number: line.strip() for number, line in enumerate(read_lines(path)) if line.strip()} if path else {}
    folder = next((name for name in ("images", "obj_train_data") if (root / name).is_dir()), ".")
    return ({"train": folder}, names) if names else None


def listed_images(data: dict[str, Any], key: str, root: Path) -> list[Path]:
    """The images of one split: its entry is a folder, a .txt list of files, or a list of these.

    Entries are relative to `path`, which names a folder of the author's machine more often than not, or else to `root`.
    Raises ValueError if an entry is at neither.
    """
    entries = data[key] if isinstance(data[key], list) else [data[key]]
    bases = [root / str(data.get("path") or "."), root]
    images: list[Path] = []
    for entry in map(str, entries):
        inside = entry.lstrip("./") or "."  # some tools write ../train/images for train/images
        found = next((path for path in (*(base / entry for base in bases), root / inside) if path.exists()), None)
        if found is None:
            raise ValueError(f"data.yaml: {key}: {entry} is not in {root}; unpack it there or mend the entry")
        if found.is_dir():
            images += sorted(path for path in found.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        else:
            lines = [line.strip() for line in read_lines(found) if line.strip()]
            images += [next((base / line for base in bases if (base / line).exists()), root / line) for line in lines]
    return images


def label_file(image: Path, root: Path) -> Path:
    """.../images/x/1.jpg -> .../labels/x/1.txt; beside the image where no folder in `root` on its way is called images.

    What lies above `root` is the user's own: a folder called images there says nothing.
    """
    above = root if image.is_relative_to(root) else Path()
    parts = list(image.relative_to(above).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return above.joinpath(*parts).with_suffix(".txt")


def layout_name(image: Path, root: Path) -> str:
    """A name for the image in our layout: its path in the dataset without images/ and the split."""
    inside = image.relative_to(root) if image.is_relative_to(root) else Path(image.name)
    return PurePosixPath(*(part for part in inside.parts if part not in FOLDERS)).with_suffix("").as_posix()


def read_boxes(
    path: Path, names: dict[int, str], hw: tuple[int, int], report: Report
) -> tuple[list[list[float]], list[str]]:
    """Boxes (N, 4) xyxy in pixels and category names of one label file; malformed lines are counted in `report`."""
    height, width = hw
    boxes, categories = [], []
    for line in read_lines(path):
        label, *values = (number(field) for field in line.split()) if line.strip() else (None,)
        if label is None:
            continue
        form = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        if not form or not all(map(math.isfinite, values)):
            report.problem("label line that is neither a box nor a polygon, dropped", f"{path.name}: {line[:80]!r}")
        elif label not in names:
            report.problem(
                "label line of a class id that data.yaml does not name, dropped", f"{path.name}: {line[:80]!r}"
            )
        else:
            if len(values) == 4:
                cx, cy, w, h = values
                x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            else:  # x1 y1 x2 y2 ... of a polygon
                xs, ys = values[::2], values[1::2]
                x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
            boxes.append([x1 * width, y1 * height, x2 * width, y2 * height])
            categories.append(names[int(label)])
    return boxes, categories


def add_image(writer: LayoutWriter, split: str, image: Path, root: Path, names: dict[int, str]) -> bool:
    """Add one image with the boxes that mean something to us; whether it has a label file."""
    assert writer.labels.boxes
    labels = label_file(image, root)
    if labels.is_dir():
        writer.report.problem("folder called like a label file, image taken as background", str(labels))
    hw = image_hw(image) or (1, 1)  # the writer counts an image that can't be read
    boxes, categories = read_boxes(labels, names, hw, writer.report) if labels.is_file() else ([], [])
    kept = [index for index, category in enumerate(categories) if category in writer.labels.boxes.categories]
    writer.add(
        split,
        layout_name(image, root),
        image,
        boxes=[boxes[index] for index in kept],
        categories=[categories[index] for index in kept],
    )
    return labels.is_file()


def prepare(config: YoloConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    data, names = config.described()
    splits = config.held_out(
        {SPLITS[key]: sorted(listed_images(data, key, config.source)) for key in SPLITS if data.get(key)}
    )
    boxes = config.box_labels(list(names.values()))
    notes: Counter[str] = Counter()
    name = config.name or config.source.resolve().name
    licence = config.licence or str(data.get("license") or "not stated")
    with config.writer(DatasetLabels(name, licence, boxes=boxes)) as writer:
        for split, images in splits.items():
            for image in progress(images):
                labelled = add_image(writer, split, image, config.source, names)
                notes["image with a label file" if labelled else "image without a label file: background"] += 1
        listed = [image for images in splits.values() for image in images]
        folders = {(image.parent, label_file(image, config.source).parent) for image in listed}
        for image_folder, label_folder in sorted(folders):
            if image_folder != label_folder and image_folder.is_dir():  # a .txt list may name a part of the images
                labels = [path for path in label_folder.glob("*.txt") if path.name != "classes.txt"]
                count_orphans(labels, images_in(image_folder), writer.report)
        if notes and not notes.pop("image with a label file", 0):
            expected = label_file(listed[0], config.source)
            raise ValueError(f"no image has a label file; expected for {listed[0]} {expected}")
    return summary(writer.report, {**notes, **split_and_category_notes(writer.report, boxes, list(names.values()))})


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(YoloConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
