"""Add boxes to a dataset that has only masks, with a detector trained on COCO as the teacher (pseudo-labels).

python data/pseudo/prepare.py LAYOUT_DIR OUT_DIR --detector yolox_nano.onnx

LAYOUT_DIR is a dataset in the common layout. OUT_DIR becomes a copy of its train split with boxes: what the detector is
sure of is a box, what it only suspects is an ignore region, so that its misses teach as little as possible.
The detector is a YOLOX (Ge et al., arXiv:2107.08430) with raw grid outputs, BGR 0 to 255, letterboxed to the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from perception.cli import run
from perception.imagefile import read_image
from perception.labels import BOX_CLASSES, BoxLabels
from perception.layout import read_layout
from perception.prepare import PrepareConfig, progress, read_mask

STRIDES = (8, 16, 32)
BORDER = 114  # grey of the letterbox
NMS_IOU = 0.6
COCO = {  # the driving classes of COCO by their index among its 80, with the set of ours that each may be
    0: ("person", {"pedestrian", "rider"}),
    1: ("bicycle", {"bicycle"}),
    2: ("car", {"car"}),
    3: ("motorcycle", {"motorcycle"}),
    5: ("bus", {"bus"}),
    6: ("train", {"train"}),
    7: ("truck", {"truck"}),
    9: ("traffic light", {"traffic light"}),
}
EXHAUSTIVE = frozenset(BOX_CLASSES) - {
    "traffic sign",
    "traffic light",
    "train",
}  # nano misses too many of the small ones


@dataclass(frozen=True, kw_only=True)
class PseudoConfig(PrepareConfig):
    """Add pseudo-labelled boxes to a dataset in the common layout."""

    detector: Path
    """YOLOX as ONNX."""
    keep: float = 0.45
    """Score from which a detection becomes a box."""
    suspect: float = 0.12
    """Score from which it becomes an ignore region instead."""


class Yolox:
    """BGR image -> boxes (N, 4) xyxy in its pixels, scores (N,), COCO class ids (N,)."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no detector {path}; expected a YOLOX exported to ONNX")
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entry = self.session.get_inputs()[0]
        self.name, self.side = entry.name, int(entry.shape[2])

    def __call__(self, image: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        padded = np.full((self.side, self.side, 3), BORDER, np.float32)
        padded[: small.shape[0], : small.shape[1]] = small
        out = self.session.run(None, {self.name: padded.transpose(2, 0, 1)[None]})[0][0]  # (A, 5 + 80)
        cells, strides = grid(self.side)
        centre, size = (out[:, :2] + cells) * strides, np.exp(out[:, 2:4]) * strides
        classes = np.array(list(COCO))
        scores = out[:, 4:5] * out[:, 5 + classes]
        best = scores.argmax(1)
        score = scores[np.arange(len(best)), best]
        boxes = np.concatenate([centre - size / 2, centre + size / 2], 1) / scale
        boxes = np.clip(boxes, 0, [width, height, width, height])
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        found = cv2.dnn.NMSBoxes(xywh.tolist(), score.tolist(), threshold, NMS_IOU)  # a car is no bus too
        kept = np.array(found, np.int64).reshape(-1)
        return boxes[kept].astype(np.float32), score[kept], classes[best[kept]]


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """((A, 2) xy of each cell in cells, (A, 1) pixels a cell) over all strides."""
    cells, strides = [], []
    for stride in STRIDES:
        n = side // stride
        y, x = np.mgrid[:n, :n]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((n * n, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def prepare(config: PseudoConfig) -> dict[str, Any]:
    """Copy the train split with boxes added; the summary as JSON values."""
    if not 0 < config.suspect <= config.keep < 1:
        raise ValueError(f"expected 0 < --suspect <= --keep < 1, but got {config.suspect} and {config.keep}")
    detect = Yolox(config.detector)
    labels, samples = read_layout(config.source, "train")
    if labels.boxes:
        raise ValueError(f"{config.source} has boxes of its own; pseudo-labels are for datasets without")
    sets = {name: frozenset(members) for name, members in COCO.values()}
    labels = replace(labels, boxes=BoxLabels(sets, EXHAUSTIVE))
    with config.writer(labels) as writer:
        for sample in progress(samples):
            try:
                image = read_image(sample.image)
            except ValueError as error:
                writer.report.problem("unreadable image, skipped", str(error))
                continue
            boxes, scores, classes = detect(image, config.suspect)
            sure = scores >= config.keep
            names = [COCO[int(index)][0] for index in classes[sure]]
            by_folder = {labels.masks[head].folder: path for head, path in sample.masks.items()}
            read = {folder: read_mask(path, writer.report) for folder, path in by_folder.items()}
            masks = {folder: mask for folder, mask in read.items() if mask is not None}
            name = sample.image.relative_to(config.source / "images" / "train").with_suffix("").as_posix()
            writer.add(
                "train", name, sample.image, boxes=boxes[sure], categories=names, ignore=boxes[~sure], masks=masks,
                attributes=sample.attributes,
            )  # fmt: skip
    return writer.report.to_json()


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(PseudoConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
