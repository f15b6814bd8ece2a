"""A toy dataset of all tasks, and how tests train on it in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from perception.labels import DRIVE_CLASSES, SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.training import checkpoint

LABELS = DatasetLabels(
    name="toy",
    licence="ours",
    boxes=BoxLabels(
        {"vehicle": frozenset({"car", "truck"}), "person": frozenset({"pedestrian"})},
        frozenset({"car", "truck", "pedestrian"}),
    ),
    masks={
        "scene": MaskLabels(
            "seg", {0: "road", 1: "sky"}, {0: frozenset({"road", "lane marking"}), 1: frozenset({"sky"})}, SCENE_CLASSES
        ),
        "drive": MaskLabels(
            "seg", {0: "road", 1: "sky"}, {0: frozenset({"drivable"}), 1: frozenset({"background"})}, DRIVE_CLASSES
        ),
    },
)
CAR_LABELS = replace(
    LABELS,
    boxes=BoxLabels({"car": frozenset({"car"})}, frozenset({"car"})),
    masks={"drive": LABELS.masks["drive"]},
)


def write_toy(folder: Path) -> Path:
    """Red vehicles and green people on a grey road under a blue sky, 48x80."""
    rng = np.random.default_rng(0)
    with LayoutWriter(folder, LABELS) as writer:
        for split, count in (("train", 6), ("val", 2)):
            for i in range(count):
                image, mask = np.full((48, 80, 3), 90, np.uint8), np.zeros((48, 80), np.uint8)
                image[:20], mask[:20] = (220, 150, 60), 1
                boxes, categories = [], []
                for kind, colour in (("vehicle", (0, 0, 230)), ("person", (0, 220, 0)))[: i % 3]:
                    x, y = int(rng.integers(0, 50)), int(rng.integers(18, 26))
                    image[y : y + 20, x : x + 24] = colour
                    boxes.append([x, y, x + 24, y + 20])
                    categories.append(kind)
                writer.add(split, f"{i:03d}", image, boxes=np.array(boxes).reshape(-1, 4), categories=categories,
                           masks={"seg": mask})  # fmt: skip
    return folder


def options(data: Path, out: Path, steps: int, *more: str) -> list[str]:
    small = ["--hw", "64", "96", "--loop.batch-size", "2", "--loop.workers", "0", "--loop.warmup", "2"]
    often = ["--loop.log-every", "2", "--loop.eval-every", "0", "--loop.save-every", "3", "--loop.steps", str(steps)]
    return ["--data", str(data), "--out", str(out), "--threads", "1", *small, *often, *more]


def weights(run: Path, kind: str = "network") -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(run) / f"{kind}.safetensors")
