"""IDD-Lite -> the common layout: 7 coarse classes of Indian streets, two heads read from one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perception.cli import run
from perception.labels import DatasetLabels
from perception.prepare import PrepareConfig, images_in, mask_labels, progress, read_mask, require_folder

SCENE = {
    0: ("drivable", {"road", "lane marking"}),
    1: ("non-drivable", {"sidewalk", "terrain"}),
    2: ("living things", {"person", "rider"}),
    3: ("vehicles", {"car", "truck", "bus", "train", "motorcycle", "bicycle"}),
    4: ("roadside objects", {"wall", "fence", "pole", "traffic light", "traffic sign"}),
    5: ("far objects", {"building", "vegetation"}),
    6: ("sky", {"sky"}),
}
DRIVE = {label: (name, {"background"}) for label, (name, _) in SCENE.items()}
DRIVE |= {0: ("drivable", {"drivable", "lane marking"})}
LABELS = DatasetLabels(
    name="idd_lite",
    licence="unknown; the publishers ask for registration",
    source="https://idd.insaan.iiit.ac.in/",
    masks={"scene": mask_labels("scene", "labels", SCENE), "drive": mask_labels("drive", "labels", DRIVE)},
)


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values. The test split has no masks."""
    with config.writer(LABELS) as writer:
        for split in ("train", "val", "test"):
            folder = require_folder(config.source / "leftImg8bit" / split, f"images of {split}")
            sequences = sorted(path for path in folder.iterdir() if path.is_dir())
            for image in progress([image for sequence in sequences for image in images_in(sequence)]):
                sequence, frame = image.parent.name, image.stem.removesuffix("_image")
                masks = {}
                if split != "test":
                    path = config.source / "gtFine" / split / sequence / f"{frame}_label.png"
                    mask = read_mask(path, writer.report)
                    if mask is None:
                        continue
                    masks["labels"] = mask
                writer.add(split, f"{sequence}_{frame}", image, masks=masks)
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
