"""One pass over a split: counts, sizes and what looks wrong. One image is in memory at a time.

Legend: N = boxes of an image, H, W = its height and width.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from perception.imagefile import decode_ids, decode_image, flaw, read_header
from perception.inspection.likeness import Print, fingerprint
from perception.labels import IGNORE, DatasetLabels, MaskLabels
from perception.layout import Sample
from perception.tensors import boxes_model_from_frame, letterbox_for
from perception.tracks import iou

__all__ = ["Findings", "Survey", "survey"]

TINY_PX = 3.0  # model pixels; training ignores boxes of a smaller side
WHOLE_FRAME = 0.9  # of the frame's area
EXTREME_ASPECT = 10.0
SAME_OBJECT_IOU = 0.95
FEW_LABELLED = 0.05  # of a mask's pixels
ONE_COLOUR = 1.0  # greatest standard deviation, grey values
EXAMPLES = 20  # that are kept of each kind of finding


@dataclass(slots=True)
class Findings:
    """What looks wrong: how often, and the first examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count one finding."""
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(example.encode("utf-8", "backslashreplace").decode())

    def to_json(self) -> dict[str, Any]:
        """Kind -> count and examples, the most frequent first."""
        return {kind: {"count": n, "examples": self.examples[kind]} for kind, n in self.counts.most_common()}


@dataclass(slots=True)
class Survey:
    """What one split holds."""

    split: str
    names: list[str] = field(default_factory=list)  # file name inside the split, of every image that can be read
    prints: list[Print] = field(default_factory=list)  # of the same images
    sizes: Counter[str] = field(default_factory=Counter)  # "1920x1080", as shown
    files: Counter[str] = field(default_factory=Counter)  # "JPEG, colour, 8 bits"
    annotated: Counter[str] = field(default_factory=Counter)  # task -> images
    boxes: Counter[str] = field(default_factory=Counter)  # category -> boxes
    box_images: Counter[str] = field(default_factory=Counter)  # category -> images with one
    ignore_regions: int = 0
    heights_px: list[float] = field(default_factory=list)  # of boxes, frame pixels
    model_px: list[float] = field(default_factory=list)  # heights of boxes, pixels of the model's input
    aspects: list[float] = field(default_factory=list)  # width / height of boxes
    pixels: dict[str, Counter[str]] = field(default_factory=dict)  # head -> label name -> pixels
    mask_images: dict[str, Counter[str]] = field(default_factory=dict)  # head -> label name -> images
    findings: Findings = field(default_factory=Findings)


def survey(folder: Path, split: str, labels: DatasetLabels, samples: list[Sample], model_hw: tuple[int, int]) -> Survey:
    """Read every image and mask of one split."""
    found = Survey(split)
    root = folder / "images" / split
    for sample in tqdm(samples, split, unit="image", leave=False, disable=not sys.stderr.isatty()):
        name = sample.image.relative_to(root).as_posix()
        content = sample.image.read_bytes()
        header, grey = read_header(content), decode_image(content, cv2.IMREAD_REDUCED_GRAYSCALE_2)
        if header is None or grey is None:
            found.findings.add("image that can not be read", f"{name} {flaw(content) or 'can not be decoded'}")
            continue
        turned = ", turned by EXIF" if header.orientation != 1 else ""
        found.names.append(name)
        found.prints.append(fingerprint(content, grey))
        found.sizes[f"{header.hw[1]}x{header.hw[0]}"] += 1
        found.files[f"{header.kind.upper()}, {header.colour}, {header.bits} bits{turned}"] += 1
        if float(grey.std()) < ONE_COLOUR:
            found.findings.add("image of one colour", name)
        if sample.boxes is None and not sample.masks:
            found.findings.add("image with nothing annotated", name)
        _look_at_boxes(found, sample, name, header.hw, model_hw)
        _look_at_masks(found, labels, sample, name, header.hw)
    return found


def _look_at_boxes(found: Survey, sample: Sample, name: str, hw: tuple[int, int], model_hw: tuple[int, int]) -> None:
    if sample.boxes is None:
        return
    found.annotated["boxes"] += 1
    found.ignore_regions += len(sample.ignore)
    found.boxes.update(sample.categories)
    found.box_images.update(set(sample.categories))
    boxes = sample.boxes.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]  # (N, 2) width, height
    scaled = boxes_model_from_frame(boxes, letterbox_for(hw, model_hw)).astype(np.float64)
    small = scaled[:, 2:] - scaled[:, :2]
    found.heights_px += sides[:, 1].tolist()
    found.model_px += small[:, 1].tolist()
    found.aspects += (sides[:, 0] / sides[:, 1]).tolist()
    for index, category in enumerate(sample.categories):
        (w, h), text = sides[index], f"{name} {category} {[round(value) for value in boxes[index].tolist()]}"
        if small[index].min() < TINY_PX:
            found.findings.add(f"box with a side under {TINY_PX:g} px in the model's input, not learned", text)
        if w * h > WHOLE_FRAME * hw[0] * hw[1]:
            found.findings.add(f"box over {WHOLE_FRAME:.0%} of the frame", text)
        if max(w / h, h / w) > EXTREME_ASPECT:
            found.findings.add(f"box longer than {EXTREME_ASPECT:g} times its other side", text)
    names = np.array(sample.categories)
    same = (iou(boxes, boxes) > SAME_OBJECT_IOU) & (names[:, None] == names) if len(boxes) else np.zeros((0, 0), bool)
    for i, j in np.argwhere(np.triu(same, 1)).tolist():
        text = f"{name} {sample.categories[i]} {[round(value) for value in boxes[j].tolist()]}"
        found.findings.add(f"two boxes of one label on one object (IoU over {SAME_OBJECT_IOU})", text)


def _look_at_masks(found: Survey, labels: DatasetLabels, sample: Sample, name: str, hw: tuple[int, int]) -> None:
    counts: dict[Path, np.ndarray | None] = {}  # a mask that two heads read is opened once
    for head, path in sample.masks.items():
        found.annotated[head] += 1
        if path not in counts:
            counts[path] = _id_counts(found, path, f"{name} ({labels.masks[head].folder})", hw)
        ids = counts[path]
        if ids is None:
            continue
        spec = labels.masks[head]
        pixels, images = found.pixels.setdefault(head, Counter()), found.mask_images.setdefault(head, Counter())
        for label in np.flatnonzero(ids).tolist():
            text = label_name(spec, label)
            pixels[text] += int(ids[label])
            images[text] += 1
            if label != IGNORE and label not in spec.sets:
                found.findings.add(f"{head} mask with an id that dataset.json does not name", f"{name} id {label}")
        share = sum(int(ids[label]) for label, members in spec.sets.items() if members) / ids.sum()
        if share < FEW_LABELLED:
            found.findings.add(
                f"{head} mask with under {FEW_LABELLED:.0%} of its pixels labelled", f"{name} {share:.1%}"
            )


def label_name(spec: MaskLabels, label: int) -> str:
    """The dataset's name of a label id; ids that say nothing are told apart too."""
    if label == IGNORE:
        return "not labelled (255)"
    return spec.names.get(label, f"unknown id {label}")


def _id_counts(found: Survey, path: Path, where: str, hw: tuple[int, int]) -> np.ndarray | None:
    """(256,) pixels of each label id; None, counted, if training would refuse the mask."""
    content = path.read_bytes()
    ids, header = decode_ids(content), read_header(content)
    if ids is None or header is None:
        found.findings.add("mask that can not be read", f"{where} {flaw(content) or 'can not be decoded'}")
    elif ids.ndim != 2 or ids.dtype != np.uint8 or header.colour == "palette":
        text = f"{where} {header.kind.upper()}, {header.colour}, {header.bits} bits"
        found.findings.add("mask that is not one grey channel of 8 bits", text)
    elif ids.shape != hw:
        text = f"{where} is {ids.shape[1]}x{ids.shape[0]}, the image {hw[1]}x{hw[0]}"
        found.findings.add("mask of another size than its image", text)
    else:
        return np.bincount(ids.ravel(), minlength=256)
    return None
