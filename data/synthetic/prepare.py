"""Render a synthetic dataset in the common layout, or a film of a synthetic drive."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, whose data/ is no part of the wheel

from data.synthetic.drive import Drive, SyntheticFrame
from data.synthetic.light import Condition
from perception.cli import run
from perception.labels import BOX_CLASSES, DRIVE_CLASSES, SCENE_CLASSES, DatasetLabels
from perception.layout import LayoutWriter
from perception.prepare import box_labels, mask_labels, progress
from perception.video import VideoWriter

FRAMES_A_DRIVE, STEP_S = 4, 3.0  # a few frames of each drive, far apart
DRIVE_OFFSET = {"train": 0, "val": 500_000}  # no seed is in both splits
LABELS = DatasetLabels(
    name="synthetic",
    licence="Apache-2.0",
    source="data/synthetic/prepare.py",
    boxes=box_labels({name: {name} for name in BOX_CLASSES}, BOX_CLASSES),
    masks={
        "scene": mask_labels("scene", "scene", {i: (name, {name}) for i, name in enumerate(SCENE_CLASSES)}),
        "drive": mask_labels("drive", "drive", {i: (name, {name}) for i, name in enumerate(DRIVE_CLASSES)}),
    },
)


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Options of the renderer: OUT_DIR for a dataset, --video for a film, or both."""

    out: tyro.conf.Positional[Path | None] = None
    """Folder to make, in the common layout. It appears only when it is complete."""
    frames_train: int = 1000
    """Images of the train split."""
    frames_val: int = 120
    """Images of the val split, from other seeds."""
    hw: tuple[int, int] = (360, 640)
    """Height and width in pixels."""
    seed: int = 0
    """Another seed makes other drives."""
    condition: Condition = "any"
    """Light and weather; "any" varies them from drive to drive."""
    video: Path | None = None
    """MP4 to write: one drive as a film."""
    seconds: float = 10.0
    """Length of the film."""
    fps: float = 25.0
    """Frames per second of the film."""
    overwrite: bool = False
    """Replace OUT_DIR if it is a dataset in the common layout."""
    json: str | None = None
    """Write the summary there as one line of JSON; "-" is standard output."""


def frames(
    count: int, seed: int, hw: tuple[int, int], condition: Condition
) -> Iterator[tuple[str, str, SyntheticFrame]]:
    """`count` varied frames, each with its name and the condition of its drive: a few from each of many drives."""
    for number in range(count):
        index = number % FRAMES_A_DRIVE
        if index == 0:
            drive = Drive(seed + number // FRAMES_A_DRIVE, hw, 1 / STEP_S, FRAMES_A_DRIVE, condition)
        yield f"{drive.seed:06d}_{drive.look.condition}_{index}", drive.look.condition, drive[index]


def dataset(config: SyntheticConfig, out: Path) -> dict[str, Any]:
    """Render the dataset; the report as JSON values."""
    with LayoutWriter(out, LABELS, overwrite=config.overwrite) as writer:
        for split, count in (("train", config.frames_train), ("val", config.frames_val)):
            seed = config.seed * 1_000_000 + DRIVE_OFFSET[split]
            source = frames(count, seed, config.hw, config.condition)
            for _ in progress(range(count)):
                name, shown, frame = next(source)
                writer.add(
                    split, name, frame.image, boxes=frame.boxes, categories=[BOX_CLASSES[c] for c in frame.classes],
                    ignore=frame.ignore, masks={"scene": frame.scene, "drive": frame.drive},
                    attributes={"condition": shown},
                )  # fmt: skip
    return writer.report.to_json()


def film(config: SyntheticConfig, path: Path) -> dict[str, Any]:
    """Render one drive as an MP4."""
    drive = Drive(config.seed, config.hw, config.fps, max(round(config.seconds * config.fps), 1), config.condition)
    with VideoWriter(path, config.fps, config.hw) as video:
        for index in progress(range(len(drive))):
            frame = drive[index]
            video.write(frame.image, frame.timestamp_s)
    print(f"{path}: {len(drive)} frames, {drive.road.setting}, {drive.look.condition}")
    return {"video": str(path), "frames": len(drive)}


def prepare(config: SyntheticConfig) -> dict[str, Any]:
    """Do what the options ask for. Raises ValueError if they ask for nothing."""
    if config.out is None and config.video is None:
        raise ValueError("nothing to do: expected OUT_DIR for a dataset, or --video FILE.mp4 for a film")
    if min(config.frames_train, config.frames_val) < 0:
        raise ValueError("--frames-train and --frames-val must be 0 or more")
    if not 0 < config.seconds < 36_000:
        raise ValueError(f"--seconds must be above 0 and under 36000, but got {config.seconds}")
    cv2.setNumThreads(1)
    summary: dict[str, Any] = {}
    if config.out is not None:
        summary |= dataset(config, config.out)
    if config.video is not None:
        summary |= film(config, config.video)
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(SyntheticConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
