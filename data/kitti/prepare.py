"""KITTI 2D object detection -> the common layout. Frames whose id ends in 0 or 5 are held out as val."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.cli import run
from perception.labels import DatasetLabels
from perception.layout import Attribute, Report
from perception.prepare import PrepareConfig, box_labels, count_orphans, images_in, number, progress, read_lines

LABELS = DatasetLabels(
    name="kitti",
    licence="CC BY-NC-SA 3.0",
    source="https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=2d",
    boxes=box_labels(
        {
            "Car": {"car"},
            "Van": {"car"},
            "Truck": {"truck"},
            "Pedestrian": {"pedestrian"},
            "Person_sitting": {"pedestrian"},
            "Cyclist": {"rider", "bicycle"},  # one box round both
            "Tram": {"train"},
            "Misc": (),
            "DontCare": (),
        },
        exhaustive={"pedestrian", "rider", "car", "truck", "train"},  # not bicycle: parked ones are not labelled
    ),
)
UNKNOWN_M = -1000.0  # stands for a distance that nobody knows


def attributes(fields: Sequence[str]) -> dict[str, Attribute]:
    """What a label line says about its box: occlusion 0 to 3, truncation 0 to 1, distance_m along the camera's axis.

    `fields` are: type truncated occluded alpha x1 y1 x2 y2, then height width length x y z yaw of the 3D box. What is
    absent or unknown (-1, z of -1000) is left out.
    """
    known: dict[str, Attribute] = {}
    truncation, occlusion, z = (number(fields[i] if i < len(fields) else None) for i in (1, 2, 13))
    if occlusion in (0, 1, 2, 3):  # 3 = unknown
        known["occlusion"] = int(occlusion)
    if 0 <= truncation <= 1:
        known["truncation"] = truncation
    if z > UNKNOWN_M:
        known["distance_m"] = z
    return known


def read_boxes(path: Path, report: Report) -> dict[str, Any]:
    """The arguments `boxes`, `categories`, `box_attributes` of LayoutWriter.add, from one label file.

    Lines that are not KITTI's are counted in `report`.
    """
    boxes, categories, known = [], [], []
    for line in read_lines(path):
        fields = line.split()
        if len(fields) < 8:
            report.problem("label line with less than 8 fields, dropped", f"{path.name}: {line!r}")
        else:
            boxes.append([number(value) for value in fields[4:8]])
            categories.append(fields[0])
            known.append(attributes(fields))
    return {"boxes": boxes, "categories": categories, "box_attributes": known}


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    folder = config.source / "training"
    with config.writer(LABELS) as writer:
        images = images_in(folder / "image_2")
        count_orphans(list((folder / "label_2").glob("*.txt")), images, writer.report)
        for image in progress(images):
            label_file = folder / "label_2" / f"{image.stem}.txt"
            if not label_file.is_file():
                writer.report.problem("image without a label file, skipped", image.name)
                continue
            split = "val" if image.stem.endswith(("0", "5")) else "train"
            writer.add(split, image.stem, image, **read_boxes(label_file, writer.report))
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
