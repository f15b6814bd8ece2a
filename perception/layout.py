"""The common dataset layout, read and written in this one place (numpy and OpenCV only).

    OUT/dataset.json                        DatasetLabels.to_json()
    OUT/images/<split>/<name>.jpg           or .png; splits are "train", "val", "test"
    OUT/boxes/<split>.json                  COCO: the dataset's own categories; iscrowd = 1 marks an ignore region
    OUT/masks/<folder>/<split>/<name>.png   the dataset's own label ids, one channel uint8, 255 = not labelled

An image that is not in the COCO file is not annotated for boxes; one without a mask file, not for that head.
Legend: N = boxes of an image, M = ignore regions of an image, H, W = its height and width.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np

from perception.imagefile import decode_image, encode_image, flaw, orientation
from perception.labels import IGNORE, DatasetLabels

__all__ = ["IMAGE_SUFFIXES", "LayoutWriter", "Report", "Sample", "read_layout", "split_weight"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "val", "test")
IGNORE_CATEGORY = "ignore region"  # COCO wants a category for every annotation, so regions without one are called this
MIN_SIDE_PX = 1.0  # a box that is thinner than a pixel inside the image is empty
ROUNDING_PX = 1.0  # boxes may stick out this far by rounding; it is clipped and not worth a word


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image of a dataset and what is annotated on it."""

    image: Path
    boxes: np.ndarray | None = None  # (N, 4) float32 xyxy, frame pixels; None = not annotated for boxes
    categories: tuple[str, ...] = ()  # N names, the dataset's own
    ignore: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # (M, 4) float32 xyxy
    masks: Mapping[str, Path] = field(default_factory=dict)  # head name -> index PNG


# -------------------------------------------------------------------------------------------------------------- reading


def read_layout(folder: str | Path, split: str, own_space: bool = False) -> tuple[DatasetLabels, list[Sample]]:
    """The labels of the dataset in `folder` and its samples of one split, ordered by file name.

    With `own_space` the labels are classes of their own (DatasetLabels.own_space) instead of sets of ours.
    Boxes of a category whose label set is empty, and those with iscrowd, are in `ignore`. Pixels are not read.
    Raises ValueError for: not a folder, no or a broken dataset.json, no such split or an empty one, a broken COCO file,
    a box without an area inside its image, and an image that the COCO file lists but the folder lacks.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; expected a dataset in the common layout (data/<name>/prepare.py)")
    if not (root / "dataset.json").is_file():
        raise ValueError(f"{root} has no dataset.json; data/<name>/prepare.py SOURCE_DIR {root} makes one")
    labels = DatasetLabels.from_json(_read_json(root / "dataset.json"))
    labels = labels.own_space() if own_space else labels
    images = root / "images" / split
    paths = [path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    names = sorted(path.relative_to(images).as_posix() for path in paths)
    if not names or not split:
        state = "no image in" if split and images.is_dir() else "no"
        found = sorted(entry.name for entry in (root / "images").glob("*") if entry.is_dir())
        raise ValueError(f"{root} has {state} split {split!r}; it has: {', '.join(found) or 'none'}")
    boxes_file = root / "boxes" / f"{split}.json"
    boxes = _read_coco(boxes_file, labels) if labels.boxes and boxes_file.is_file() else {}
    if missing := sorted(set(boxes) - set(names)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{boxes_file} lists {missing[0]}{more}, but {images} has no such image")

    folders = {head: root / "masks" / spec.folder / split for head, spec in labels.masks.items()}
    samples = []
    for name in names:
        masks = {head: path / PurePosixPath(name).with_suffix(".png") for head, path in folders.items()}
        masks = {head: path for head, path in masks.items() if path.is_file()}
        annotated = boxes.get(name)
        samples.append(Sample(images / name, *annotated, masks) if annotated else Sample(images / name, masks=masks))
    return labels, samples


def split_weight(entry: str) -> tuple[Path, float]:
    """DIR or DIR:WEIGHT, as front doors take datasets -> (folder, weight)."""
    folder, colon, weight = entry.rpartition(":")
    try:
        return (Path(folder), float(weight)) if colon else (Path(entry), 1.0)
    except ValueError:
        return Path(entry), 1.0


def _read_json(path: Path) -> Any:
    """The content of a JSON object. Raises ValueError that names the file."""
    try:
        data = json.loads(path.read_bytes())  # UTF-8, with or without a BOM, or UTF-16
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, but got a {type(data).__name__}")
    return data


def _read_coco(path: Path, labels: DatasetLabels) -> dict[str, tuple[np.ndarray, tuple[str, ...], np.ndarray]]:
    """COCO file -> file name -> (boxes (N, 4) float32 xyxy, N categories, ignore regions (M, 4) float32 xyxy)."""
    assert labels.boxes is not None
    data = _read_json(path)
    where = "images"
    try:
        images = {entry["id"]: entry for entry in data["images"]}
        rows: dict[Any, list[tuple[list[float], str]]] = {image: [] for image in images}
        crowds: dict[Any, list[list[float]]] = {image: [] for image in images}
        category_names = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        for number, entry in enumerate(data["annotations"]):
            where = f"annotations[{number}]"
            image, category = images[entry["image_id"]], category_names[entry["category_id"]]
            x, y, w, h = (float(value) for value in entry["bbox"])
            x2, y2 = min(x + w, float(image.get("width", np.inf))), min(y + h, float(image.get("height", np.inf)))
            x, y = max(x, 0.0), max(y, 0.0)
            if not (x2 > x and y2 > y and np.isfinite([x, y, x2, y2]).all()):
                raise ValueError(f"box {entry['bbox']} has no area inside its image {image['file_name']}")
            ignored = bool(entry.get("iscrowd"))
            if not ignored and category not in labels.boxes.sets:
                raise ValueError(f"category {category!r} is not in dataset.json")
            if ignored or not labels.boxes.sets[category]:
                crowds[image["id"]].append([x, y, x2, y2])
            else:
                rows[image["id"]].append(([x, y, x2, y2], category))
        where = "images"
        if len({entry["file_name"] for entry in images.values()}) < len(data["images"]):
            raise ValueError("an id or a file_name is there twice")
        return {
            str(entry["file_name"]): (
                np.array([box for box, _ in rows[image]], np.float32).reshape(-1, 4),
                tuple(category for _, category in rows[image]),
                np.array(crowds[image], np.float32).reshape(-1, 4),
            )
            for image, entry in images.items()
        }
    except KeyError as error:
        raise ValueError(f"{path} is broken: {where}: missing key or unknown id {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is broken: {where}: {error}; data/coco/prepare.py drops and counts such") from None


# -------------------------------------------------------------------------------------------------------------- writing


@dataclass(slots=True)
class Report:
    """What a conversion wrote, and every problem it met: how often, and the first example."""

    images: Counter[str] = field(default_factory=Counter)  # split -> images
    boxes: Counter[str] = field(default_factory=Counter)  # category -> boxes
    ignore_regions: int = 0
    masks: Counter[str] = field(default_factory=Counter)  # folder -> masks
    problems: Counter[str] = field(default_factory=Counter)  # kind -> count
    examples: dict[str, str] = field(default_factory=dict)  # kind -> the first example

    def problem(self, kind: str, example: str) -> None:
        """Count one problem."""
        self.problems[kind] += 1
        self.examples.setdefault(kind, example.encode("utf-8", "backslashreplace").decode())  # file names may be bytes

    def problem_lines(self) -> list[str]:
        """One line a kind of problem, the most frequent first."""
        return [f"{count} x {kind} (first: {self.examples[kind]})" for kind, count in self.problems.most_common()]

    def __str__(self) -> str:
        lines = ["images: " + ", ".join(f"{self.images[split]} {split}" for split in SPLITS if self.images[split])]
        if self.boxes or self.ignore_regions:
            counts = ", ".join(f"{count} {category}" for category, count in self.boxes.most_common())
            lines.append(f"boxes: {counts or 'none'}; {self.ignore_regions} ignore regions")
        if self.masks:
            lines.append("masks: " + ", ".join(f"{count} {folder}" for folder, count in sorted(self.masks.items())))
        lines += ["problems:", *(f"  {line}" for line in self.problem_lines())] if self.problems else ["problems: none"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "images": dict(self.images),
            "boxes": dict(self.boxes),
            "ignore_regions": self.ignore_regions,
            "masks": dict(self.masks),
            "problems": {kind: {"count": n, "first": self.examples[kind]} for kind, n in self.problems.items()},
        }


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
    ) -> bool:
        """Add one image with its labels; False if it was skipped (and counted in `report`).

        `name` is the file name without its suffix. `image` is a file (JPEG and PNG are copied byte for byte) or
        (H, W, 3) uint8 BGR. `boxes` (N, 4) and `ignore` (M, 4) are xyxy in frame pixels; None says: not annotated.
        `masks` are (H, W) integer label ids by folder. `annotated_hw`, where the source states it, is the size that the
        annotator saw: an image of another size is skipped.
        """
        assert split in SPLITS and len(categories) == (0 if boxes is None else len(boxes))
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
        if boxes is not None:
            rows = self._checked_boxes(boxes, categories, (height, width), where)
            rows += self._checked_boxes(ignore, [IGNORE_CATEGORY] * len(ignore), (height, width), where)
            entry = {"width": width, "height": height, "rows": rows}
            self._annotated.setdefault(split, {})[f"{name}{suffix}"] = entry
        return True

    def _load(self, image: Path | np.ndarray, where: str) -> tuple[bytes, str, tuple[int, int]] | None:
        """The encoded file, its suffix and (height, width); None, counted, if there is no such image."""
        if isinstance(image, np.ndarray):
            return encode_image(image, ".jpg"), ".jpg", image.shape[:2]
        if not image.is_file():
            kind = "folder called like an image" if image.is_dir() else "missing image"
            self.report.problem(f"{kind}, skipped", str(image))
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

    def _checked_boxes(
        self, boxes: np.ndarray | Sequence[Sequence[float]], categories: Iterable[str], hw: tuple[int, int], where: str
    ) -> list[tuple[str, list[float], bool]]:
        """(category, [x1, y1, x2, y2] inside the image, ignored) of every sound box; the others are counted."""
        assert self.labels.boxes is not None
        height, width = hw
        rows = []
        for box, category in zip(np.asarray(boxes, np.float64).reshape(-1, 4), categories, strict=True):
            example = f"{where} {category} {[round(float(value), 1) for value in box]} in {width}x{height}"
            inside = np.clip(box, 0, [width, height, width, height])
            if category != IGNORE_CATEGORY and category not in self.labels.boxes.sets:
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
                ignored = category == IGNORE_CATEGORY or not self.labels.boxes.sets[category]
                if ignored:
                    self.report.ignore_regions += 1
                else:
                    self.report.boxes[category] += 1
                rows.append((category, [round(float(value), 3) for value in inside], ignored))
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
        (self._partial / "dataset.json").write_text(json.dumps(self.labels.to_json(), indent=1) + "\n")
        old = self._partial.with_name(self._partial.name.replace(".partial-", ".old-"))
        if self.out.exists():
            self.out.rename(old)
        self._partial.rename(self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _coco(self, images: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The COCO content of one split; ids count from 1 in the order of the file names."""
        assert self.labels.boxes is not None
        names = self.labels.boxes.sets
        used = {row[0] for entry in images.values() for row in entry["rows"]}
        categories = {name: number for number, name in enumerate([*names, *sorted(used - set(names))], 1)}
        listed: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, (file_name, entry) in enumerate(sorted(images.items()), 1):
            listed.append({"id": image_id, "file_name": file_name, "width": entry["width"], "height": entry["height"]})
            for category, (x1, y1, x2, y2), ignored in entry["rows"]:
                w, h = round(x2 - x1, 3), round(y2 - y1, 3)
                row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": categories[category]}
                annotations.append({**row, "bbox": [x1, y1, w, h], "area": round(w * h, 3), "iscrowd": int(ignored)})
        return {
            "images": listed,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
