"""Folders with Pascal VOC annotations -> the common layout: DAWN, Road Sign Detection, CARLA traffic objects."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2

from perception.cli import run
from perception.imagefile import decode_image
from perception.inspection.likeness import fingerprint, near_pairs
from perception.labels import DatasetLabels
from perception.layout import LayoutWriter
from perception.prepare import PrepareConfig, box_labels, images_in, number, progress

DAWN = DatasetLabels(
    name="dawn",
    licence="unclear; web photographs, for research",
    source="https://data.mendeley.com/datasets/766ygrbt8y/3",
    boxes=box_labels(
        {
            "car": {"car"},
            "truck": {"truck"},
            "bus": {"bus"},
            "person": {"pedestrian", "rider"},
            "motorcycle": {"motorcycle"},
            "bicycle": {"bicycle"},
        },
        exhaustive={"car", "truck", "bus", "pedestrian", "rider", "motorcycle", "bicycle"},
    ),
)
ROAD_SIGN = DatasetLabels(
    name="road_sign",
    licence="CC0",
    source="https://www.kaggle.com/datasets/andrewmvd/road-sign-detection",
    boxes=box_labels(
        {
            "trafficlight": {"traffic light"},
            "speedlimit": {"traffic sign"},
            "crosswalk": {"traffic sign"},
            "stop": {"traffic sign"},
        },
        exhaustive={"traffic light"},  # other signs, cars and people are in the pictures but not labelled
    ),
)
CARLA = DatasetLabels(
    name="carla",
    licence="MIT",
    source="https://github.com/DanielHfnr/Carla-Object-Detection-Dataset",
    boxes=box_labels(
        {
            "vehicle": {"car", "truck", "bus"},
            "bike": {"bicycle", "rider"},  # one box round both
            "motobike": {"motorcycle", "rider"},
            "motorbike": {"motorcycle", "rider"},
            "traffic_light": {"traffic light"},
            "traffic_sign": {"traffic sign"},
        },
        # Pedestrians are not labelled, few signs are, and traffic lights only from their front.
        exhaustive={"car", "truck", "bus", "motorcycle", "bicycle", "rider"},
    ),
)
SETS = {"dawn": DAWN, "road_sign": ROAD_SIGN, "carla": CARLA}


@dataclass(frozen=True, kw_only=True)
class VocConfig(PrepareConfig):
    """Options of this converter."""

    set: Literal["dawn", "road_sign", "carla"]
    """Which dataset SOURCE_DIR is: it decides the label sets and the split."""


def find_folder(root: Path, *names: str) -> Path:
    """The first of the folders `names` that `root` has. Raises ValueError if it has none."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{root} has no folder {' or '.join(names)}; data/voc/README.md draws the expected layout")


def add_annotated(writer: LayoutWriter, split: str, image: Path, annotation: Path) -> None:
    """Add one image with the boxes of its VOC file; malformed ones are counted in the writer's report."""
    try:
        root = ElementTree.parse(annotation).getroot()
    except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:  # an encoding that nobody knows, too
        writer.report.problem("missing or broken annotation, image skipped", f"{annotation.name}: {error}")
        return
    objects = root.findall("object")
    width, height = (number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    writer.add(
        split,
        image.stem,
        image,
        boxes=[[number(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")] for item in objects],
        categories=[(item.findtext("name") or "").strip() for item in objects],
        annotated_hw=(int(height), int(width)) if width > 0 and height > 0 else None,
    )


def seen_in_val(files: Mapping[str, Path], splits: Mapping[str, str]) -> set[str]:
    """The train images that are the same as an image of val, or nearly so; images of one colour say nothing."""
    stems, prints = [], []
    for stem, path in sorted(files.items()):
        content = path.read_bytes() if path.is_file() else b""
        grey = decode_image(content, cv2.IMREAD_REDUCED_GRAYSCALE_2)
        look = None if grey is None else fingerprint(content, grey)
        if look is not None and not look.flat:
            stems.append(stem)
            prints.append(look)
    out = set()
    for pair in near_pairs(prints):
        first, second = stems[pair.first], stems[pair.second]
        if splits[first] != splits[second]:
            out.add(first if splits[first] == "train" else second)
    return out


def prepare(config: VocConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values.

    CARLA keeps its own train and test (as val), two different towns. Of the others every fifth by name is val, and
    a train image that looks like one of val is left out: web photos come under several names.
    """
    parts = {"train": "train", "test": "val"} if config.set == "carla" else {".": None}
    with config.writer(SETS[config.set]) as writer:
        for part, own_split in parts.items():
            folder = find_folder(config.source / part, "JPEGImages", "images")
            annotations = find_folder(config.source / part, "Annotations", "annotations")
            files = {
                path.stem: path for path in images_in(folder)
            }  # an annotation may name its image with another suffix
            stems = sorted({*files, *(path.stem for path in annotations.glob("*.xml"))})
            splits = {stem: own_split or ("val" if n % 5 == 4 else "train") for n, stem in enumerate(stems)}
            leaked = set() if own_split else seen_in_val(files, splits)
            for stem in progress(stems):
                if stem in leaked:
                    writer.report.problem("train image that is in val too, left out", stem)
                    continue
                split = splits[stem]
                add_annotated(writer, split, files.get(stem, folder / stem), annotations / f"{stem}.xml")
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(VocConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
