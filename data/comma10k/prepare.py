"""comma10k -> the common layout: colour masks become label ids, two heads read from one mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.cli import run
from perception.imagefile import read_image
from perception.labels import IGNORE, DatasetLabels
from perception.layout import Report
from perception.prepare import PrepareConfig, images_in, mask_labels, progress

COLOURS = (0x402020, 0xFF0000, 0x808060, 0x00FF66, 0xCC00FF, 0x00CCFF)  # RGB, by label id
STATIC = {
    "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
}  # fmt: skip
MOVABLE = {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}
SCENE = {
    0: ("road", {"road"}),
    1: ("lane markings", {"lane marking"}),
    2: ("undrivable", STATIC),
    3: ("movable", MOVABLE),
    4: ("my car", ()),
    5: ("movable in my car", ()),
}
DRIVE = {
    0: ("road", {"drivable"}),
    1: ("lane markings", {"lane marking"}),
    2: ("undrivable", {"background"}),
    3: ("movable", {"background"}),
    4: ("my car", ()),
    5: ("movable in my car", ()),
}
LABELS = DatasetLabels(
    name="comma10k",
    licence="MIT",
    source="https://github.com/commaai/comma10k",
    masks={"scene": mask_labels("scene", "labels", SCENE), "drive": mask_labels("drive", "labels", DRIVE)},
)


def read_colours(path: Path, report: Report) -> np.ndarray | None:
    """A colour mask as (H, W) uint8 label ids; colours that are nobody's become 255, counted; None if unreadable."""
    try:
        image = read_image(path)
    except (ValueError, OSError):
        report.problem("missing or unreadable mask, sample skipped", str(path))
        return None
    blue, green, red = (image[..., channel].astype(np.int32) for channel in range(3))
    colours = (red << 16) | (green << 8) | blue  # (H, W)
    ids = np.full(colours.shape, IGNORE, np.uint8)
    for label, colour in enumerate(COLOURS):
        ids[colours == colour] = label
    if (unknown := ids == IGNORE).any():
        report.problem(f"mask with unknown colours, set to {IGNORE}", f"{path.name} #{colours[unknown][0]:06x}")
    return ids


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values. As is usual for comma10k, names that end in 9 are val."""
    with config.writer(LABELS) as writer:
        for image in progress(images_in(config.source / "imgs")):
            ids = read_colours(config.source / "masks" / f"{image.stem}.png", writer.report)
            if ids is not None:
                writer.add("val" if image.stem.endswith("9") else "train", image.stem, image, masks={"labels": ids})
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
