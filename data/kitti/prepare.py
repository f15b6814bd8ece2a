"""KITTI 2D object detection -> the common layout. Frames whose id ends in 0 or 5 are held out as val."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.cli import run
from perception.labels import DatasetLabels
from perception.layout import Report
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


def read_boxes(path: Path, report: Report) -> tuple[list[list[float]], list[str]]:
    """The boxes (N, 4) xyxy and categories of one label file; lines that are not KITTI's are counted in `report`."""
    boxes, categories = [], []
    for line in read_lines(path):
        fields = line.split()  # type truncated occluded alpha x1 y1 x2 y2, then seven of the 3D box
        if len(fields) < 8:
            report.problem("label line with less than 8 fields, dropped", f"{path.name}: {line!r}")
        else:
            boxes.append([number(value) for value in fields[4:8]])
            categories.append(fields[0])
    return boxes, categories


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
            boxes, categories = read_boxes(label_file, writer.report)
            split = "val" if image.stem.endswith(("0", "5")) else "train"
            writer.add(split, image.stem, image, boxes=boxes, categories=categories)
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
