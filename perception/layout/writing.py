"""Images and their labels -> a dataset in the common layout (numpy and OpenCV only).

Legend: N = boxes of an image, M = ignore regions of an image, H, W = its height and width.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np

from perception.imagefile import decode_image, encode_image, flaw, orientation
from perception.labels import IGNORE, DatasetLabels
from perception.layout.reading import IMAGE_SUFFIXES, SPLITS, Attribute
from perception.layout.report import Report

__all__ = ["LayoutWriter"]

IGNORE_CATEGORY = "ignore region"  # COCO wants a category for every annotation, so regions without one are called this
MIN_SIDE_PX = 1.0  # a box that is thinner than a pixel inside the image is empty
ROUNDING_PX = 1.0  # boxes may stick out this far by rounding; it is clipped and not worth a word


class LayoutWriter:
    """Writes a dataset in the common layout: `with LayoutWriter(out, labels) as writer: writer.add(...)`.

    Everything goes to a hidden folder beside `out_dir`, which takes its name when the block ends well, and `report` is
    printed; after an error or an interrupt nothing is left. Malformed labels are never passed on: they are clipped,
    dropped or skipped and counted in `report`; with `strict` any of them is a ValueError at the end.

    Raises ValueError if `out_dir` exists, unless `overwrite` is set and it is a dataset in the common layout.
    """

    def __init__(
        self, out_dir: str | Path, labels: DatasetLabels, *, overwrite: bool = False, strict: bool = False
    ) -> None:
        self.out, self.labels, self.strict, self.report = Path(out_dir), labels, strict, Report()
        if self.out.exists() or self.out.is_symlink():
            if not (self.out / "dataset.json").is_file():
                raise ValueError(f"{self.out} exists and is not a dataset in the common layout; name a new folder")
            if not overwrite:
                raise ValueError(f"{self.out} exists; name a new folder, or replace it with --overwrite")
        self._partial = self.out.absolute().with_name(f".{self.out.absolute().name}.partial-{os.getpid()}")
        self._annotated: dict[str, dict[str, dict[str, Any]]] = {}  # split -> file name -> boxes of one image
        self._attributes: dict[str, dict[str, dict[str, Attribute]]] = {}  # split -> file name -> attributes
        self._names: set[tuple[str, str]] = set()
        self._known_ids: dict[str, np.ndarray] = {}  # folder -> (256,) uint8 table: known ids stay, others are 255
        for spec in labels.masks.values():
            table = self._known_ids.setdefault(spec.folder, np.full(256, IGNORE, np.uint8))
            ids = [*spec.sets, *spec.names]
            table[ids] = ids

    def __enter__(self) -> Self:
        self._partial.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        if kind is None:
            print(f"{self.out}: {self.labels.name}\n{self.report}")

    def add(
        self,
        split: str,
        name: str,
        image: Path | np.ndarray,
        *,
        boxes: np.ndarray | Sequence[Sequence[float]] | None = None,
        categories: Sequence[str] = (),
        ignore: np.ndarray | Sequence[Sequence[float]] = (),
        masks: Mapping[str, np.ndarray] = MappingProxyType({}),
        annotated_hw: tuple[int, int] | None = None,
        attributes: Mapping[str, Attribute] = MappingProxyType({}),
        box_attributes: Sequence[Mapping[str, Attribute]] = (),
    ) -> bool:
        """Add one image with its labels; False if it was skipped (and counted in `report`).

        `name` is the file name without its suffix. `image` is a file (JPEG and PNG are copied byte for byte) or
        (H, W, 3) uint8 BGR. `boxes` (N, 4) and `ignore` (M, 4) are xyxy in frame pixels; None says: not annotated.
        `masks` are (H, W) integer label ids by folder. `annotated_hw`, where the source states it, is the size that the
        annotator saw: an image of another size is skipped. `attributes` are those of the image, `box_attributes` (N, or
        none) of its boxes: text, numbers and truth values.
        """
        assert split in SPLITS and len(categories) == (0 if boxes is None else len(boxes))
        assert len(box_attributes) in (0, len(categories))
        assert boxes is None or self.labels.boxes is not None, "boxes without box labels"
        where = f"{split}/{name}"
        if PurePosixPath(name).is_absolute() or not name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"an image's name must be a plain relative path, but got {name!r}")
        if (split, name) in self._names:
            self.report.problem("image of the same name twice, skipped", where)
            return False
        if any("\udc80" <= letter <= "\udcff" for letter in name):  # how Python shows a byte that it can't decode
            self.report.problem("file name that is not UTF-8, skipped", where)
            return False
        loaded = self._load(image, where)
        if loaded is None:
            return False
        content, suffix, (height, width) = loaded
        turned = " upright (EXIF)" if orientation(content) != 1 else ""
        if annotated_hw and annotated_hw != (height, width):
            text = f"{where} is {width}x{height}{turned}, annotated as {annotated_hw[1]}x{annotated_hw[0]}"
            self.report.problem("image of another size than annotated, skipped", text)
            return False
        for folder, mask in masks.items():
            if mask.ndim != 2 or mask.dtype.kind not in "iu":
                self.report.problem("mask that is not one channel of ids, sample skipped", f"{where} {mask.shape}")
                return False
            if mask.shape != (height, width):
                text = f"{where} is {width}x{height}{turned}, its {folder} mask {mask.shape[1]}x{mask.shape[0]}"
                self.report.problem("mask of another size than the image, sample skipped", text)
                return False

        if turned and (masks or (boxes is not None and len(boxes))):
            self.report.problem("image with an EXIF orientation, whose labels are taken as of the upright image", where)
        self._names.add((split, name))
        path = self._partial / "images" / split / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.report.images[split] += 1
        for folder, mask in masks.items():
            self._write_mask(folder, f"{split}/{name}", mask)
        if known := self._checked_attributes(attributes, where):
            self._attributes.setdefault(split, {})[f"{name}{suffix}"] = known
        if boxes is not None:
            extra = [self._checked_attributes(values, where) for values in box_attributes or [{}] * len(boxes)]
            rows = self._checked_boxes(boxes, categories, extra, (height, width), where)
            regions = len(ignore)
            rows += self._checked_boxes(ignore, [IGNORE_CATEGORY] * regions, [{}] * regions, (height, width), where)
            entry = {"width": width, "height": height, "rows": rows}
            self._annotated.setdefault(split, {})[f"{name}{suffix}"] = entry
        return True

    def _load(self, image: Path | np.ndarray, where: str) -> tuple[bytes, str, tuple[int, int]] | None:
        """The encoded file, its suffix and (height, width); None, counted, if there is no such image."""
        if isinstance(image, np.ndarray):
            return encode_image(image, ".jpg"), ".jpg", image.shape[:2]
        if not image.is_file():
            self.report.problem(
                f"{'folder called like an' if image.is_dir() else 'missing'} image, skipped", str(image)
            )
            return None
        content = image.read_bytes()
        pixels = decode_image(content)
        if pixels is None:
            self.report.problem("unreadable image, skipped", f"{image} {flaw(content)}")
            return None
        suffix = image.suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            content, suffix = encode_image(pixels, ".png"), ".png"
        return content, suffix.replace("jpeg", "jpg"), pixels.shape[:2]

    def _write_mask(self, folder: str, name: str, mask: np.ndarray) -> None:
        """Write the label ids as an index PNG; ids that the dataset does not declare become 255."""
        ids = np.where((mask >= 0) & (mask <= IGNORE), mask, IGNORE).astype(np.uint8)
        known = self._known_ids[folder][ids]
        if (unknown := (known == IGNORE) & (mask != IGNORE)).any():
            self.report.problem(f"mask with unknown label ids, set to {IGNORE}", f"{name} id {mask[unknown][0]}")
        path = self._partial / "masks" / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(known, ".png"))
        self.report.masks[folder] += 1

    def _checked_attributes(self, attributes: Mapping[str, Attribute], where: str) -> dict[str, Attribute]:
        """The attributes that JSON can hold; the others are counted."""
        sound = {}
        for name, value in attributes.items():
            if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
                sound[name] = value
            else:
                self.report.problem("attribute that is not text or a number, dropped", f"{where} {name}: {value!r}")
        return sound

    def _checked_boxes(
        self,
        boxes: np.ndarray | Sequence[Sequence[float]],
        categories: Iterable[str],
        attributes: Iterable[dict[str, Attribute]],
        hw: tuple[int, int],
        where: str,
    ) -> list[tuple[str, list[float], bool, dict[str, Attribute]]]:
        """(category, [x1, y1, x2, y2] inside the image, ignored, attributes) of every sound box; others are counted."""
        assert self.labels.boxes is not None
        height, width = hw
        rows = []
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        for box, category, known in zip(corners, categories, attributes, strict=True):
            example = f"{where} {category} {[round(float(value), 1) for value in box]} in {width}x{height}"
            inside = np.clip(box, 0, [width, height, width, height])
            if category != IGNORE_CATEGORY and category not in self.labels.boxes.categories:
                self.report.problem(f"box of unknown class {category!r}, dropped", example)
            elif not np.isfinite(box).all():
                self.report.problem("box that is not four numbers, dropped", example)
            elif box[2] < box[0] or box[3] < box[1]:
                self.report.problem("inverted box, dropped", example)
            elif (box[2:] - box[:2]).min() < MIN_SIDE_PX:
                self.report.problem("empty box, dropped", example)
            elif (inside[2:] - inside[:2]).min() < MIN_SIDE_PX:
                self.report.problem("box outside the image, dropped", example)
            else:
                if np.abs(inside - box).max() > ROUNDING_PX:
                    self.report.problem("box partly outside the image, clipped", example)
                ignored = category not in self.labels.boxes.own and not self.labels.boxes.sets.get(category)
                if ignored:
                    self.report.ignore_regions += 1
                else:
                    self.report.boxes[category] += 1
                rows.append((category, [round(float(value), 3) for value in inside], ignored, known))
        return rows

    def _finish(self) -> None:
        """Write the JSON files and give the folder its name. Raises ValueError if there is nothing to name."""
        problems = "; ".join(self.report.problem_lines())
        if not self._names:
            raise ValueError(f"no image for {self.out}: {problems or 'the source folder has none'}")
        if self.strict and problems:
            raise ValueError(f"{self.out} was not written, because of --strict: {problems}")
        for split, images in self._annotated.items():
            path = self._partial / "boxes" / f"{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(self._coco(images)))
        for split, known in self._attributes.items():
            path = self._partial / "attributes" / f"{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(dict(sorted(known.items()))))
        (self._partial / "dataset.json").write_text(json.dumps(self.labels.to_json(), indent=1) + "\n")
        old = self._partial.with_name(self._partial.name.replace(".partial-", ".old-"))
        if self.out.exists():
            self.out.rename(old)
        self._partial.rename(self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _coco(self, images: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The COCO content of one split; ids count from 1 in the order of the file names."""
        assert self.labels.boxes is not None
        names = self.labels.boxes.categories
        used = {row[0] for entry in images.values() for row in entry["rows"]}
        categories = {name: number for number, name in enumerate([*names, *sorted(used - set(names))], 1)}
        listed: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, (file_name, entry) in enumerate(sorted(images.items()), 1):
            listed.append({"id": image_id, "file_name": file_name, "width": entry["width"], "height": entry["height"]})
            for category, (x1, y1, x2, y2), ignored, attributes in entry["rows"]:
                w, h = round(x2 - x1, 3), round(y2 - y1, 3)
                row: dict[str, Any] = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[category],
                }
                row |= {"bbox": [x1, y1, w, h], "area": round(w * h, 3), "iscrowd": int(ignored)}
                annotations.append(row | ({"attributes": attributes} if attributes else {}))
        return {
            "images": listed,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
