"""What every data/<name>/prepare.py shares: options, label tables, reading of sources that may be malformed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from perception import jsonfile
from perception.imagefile import decode_image, read_ids
from perception.labels import BOX_CLASSES, HEADS, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import IMAGE_SUFFIXES, LayoutWriter, Report

__all__ = [
    "HeldOutConfig",
    "NamedCategoriesConfig",
    "PrepareConfig",
    "box_labels",
    "class_named",
    "count_orphans",
    "given_meanings",
    "ids_from_colours",
    "image_hw",
    "images_in",
    "mask_labels",
    "no_val_note",
    "number",
    "progress",
    "read_json",
    "read_lines",
    "read_mask",
    "require_folder",
    "split_and_category_notes",
    "summary",
]

Item = TypeVar("Item")

# What the usual names of box categories mean, beside our own class names: these cover their classes ...
_VEHICLES = ("car", "truck", "bus", "train", "motorcycle", "bicycle")
_WHOLE: dict[str, tuple[str, ...]] = {name: (name,) for name in BOX_CLASSES} | {
    "automobile": ("car",), "walker": ("pedestrian",), "streetcar": ("train",),
    "person": ("pedestrian", "rider"), "people": ("pedestrian", "rider"), "human": ("pedestrian", "rider"),
    "bike": ("bicycle", "motorcycle"), "motorbike": ("motorcycle",), "motor": ("motorcycle",), "lorry": ("truck",),
    "tram": ("train",), "vehicle": _VEHICLES, "trafficlight": ("traffic light",), "trafficsign": ("traffic sign",),
    "road sign": ("traffic sign",), "sign": ("traffic sign",),
}  # fmt: skip
# ... and these are only some of theirs, so whoever labels them has left others of the class unlabelled.
_PART: dict[str, tuple[str, ...]] = {
    "cyclist": ("rider", "bicycle"), "bicyclist": ("rider", "bicycle"), "motorcyclist": ("rider", "motorcycle"),
    "van": ("car",), "suv": ("car",), "taxi": ("car",), "pickup": ("car", "truck"), "scooter": ("motorcycle",),
    "coach": ("bus",), "stop sign": ("traffic sign",), "stop": ("traffic sign",), "speed limit": ("traffic sign",),
    "speedlimit": ("traffic sign",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Options of a converter: native layout in, common layout out."""

    source: tyro.conf.Positional[Path]
    """Folder of the dataset as its publishers pack it (the README beside this script draws it)."""
    out: tyro.conf.Positional[Path]
    """Folder to make, in the common layout. It appears only when it is complete."""
    overwrite: bool = False
    """Replace OUT if it is a dataset in the common layout."""
    strict: bool = False
    """Write nothing and exit with an error if any label is malformed, instead of counting and leaving it out."""
    json: str | None = None
    """Write the summary there as one line of JSON; "-" is standard output."""

    def writer(self, labels: DatasetLabels) -> LayoutWriter:
        """The writer of `out`. Raises ValueError if `source` is not a folder, or lies inside `out`."""
        require_folder(self.source, "SOURCE_DIR")
        if self.out.resolve() in (self.source.resolve(), *self.source.resolve().parents):
            raise ValueError(f"OUT_DIR {self.out} holds SOURCE_DIR {self.source}; name a folder elsewhere")
        return LayoutWriter(self.out, labels, overwrite=self.overwrite, strict=self.strict)


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(PrepareConfig):
    """Options of a converter whose source may have one split only, as annotation tools export it."""

    val_share: float = 0.0
    """Share of the train images that becomes val, where the source has no val, such as 0.2: the last ones by name, so
    that neighbouring frames of a drive stay together."""

    def held_out(self, splits: Mapping[str, Sequence[Item]]) -> dict[str, Sequence[Item]]:
        """The images of each split, those of train by name, with the last of them as val if that is asked for.

        Raises ValueError for a share that is none, where there is a val already, and where too few images are there.
        """
        if not 0 <= self.val_share < 1:
            raise ValueError(f"--val-share must be 0 or more and below 1, but got {self.val_share:g}")
        if not self.val_share:
            return dict(splits)
        train = splits.get("train", ())
        if splits.get("val"):
            raise ValueError("--val-share is for a source without val, but this one has it; leave it out")
        if len(train) < 2:
            raise ValueError(f"--val-share needs 2 images of train or more, but got {len(train)}")
        first = len(train) - min(len(train) - 1, max(1, round(self.val_share * len(train))))
        return {**splits, "train": train[:first], "val": train[first:]}


@dataclass(frozen=True, kw_only=True)
class NamedCategoriesConfig(HeldOutConfig):
    """Options of a converter whose box categories are only known from the files: they are matched by name."""

    categories: tuple[str, ...] = ()
    """What categories mean: NAME=CLASS, NAME=CLASS,CLASS (it may be any of these) or NAME= (ignore region). The others
    are matched by name, and those that match nothing are left out. Quote names that have spaces."""
    own_labels: bool = False
    """Keep those that match nothing too, as classes for perception.train --own-labels; any other training passes over
    them."""
    exhaustive: tuple[str, ...] | None = None
    """Classes of which every instance is labelled; only these teach what is background. Default: those that a category
    covers (a "stop sign" does not cover "traffic sign")."""
    name: str | None = None
    """Name of the dataset, for dataset.json. Default: that of the folder."""
    licence: str | None = None
    """Its licence, for dataset.json."""

    def box_labels(self, names: Collection[str]) -> BoxLabels:
        """What the categories `names` mean; those that mean nothing to us are not in it, or are its own ones.

        A class that has a category of its own is not what a broader one means: beside "rider", "person" is pedestrian.
        Raises ValueError for an option that is not NAME=CLASS, names no category or no class, and if nothing is left.
        """
        given = given_meanings("--categories", self.categories, names)
        usual = {name: frozenset(_usual(name, _WHOLE) or _usual(name, _PART)) for name in names}
        own = frozenset().union(*(members for members in usual.values() if len(members) == 1))
        by_name = {name: members - own or members for name, members in usual.items() if members and name not in given}
        by_name |= {name: usual[name] for name in by_name if len(usual[name]) == 1}
        sets = {name: {**by_name, **given}[name] for name in names if name in by_name or name in given}
        kept = tuple(name for name in names if name not in sets) if self.own_labels else ()
        if not kept and not any(sets.values()):
            raise ValueError(
                f"no category is one of ours ({', '.join(sorted(names)[:20])}); map them with --categories, "
                "or keep them as they are with --own-labels"
            )
        covered = (members for name, members in sets.items() if name in given or _usual(name, _WHOLE))
        exhaustive = frozenset().union(*covered) if self.exhaustive is None else frozenset(self.exhaustive)
        return BoxLabels(sets, exhaustive, own=kept)


def _plain(name: str) -> str:
    """ "Traffic_Light" -> "traffic light"."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _usual(name: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What `table` says of a name in any spelling, also of more than one ("buses"); nothing if it does not know it."""
    plain = _plain(name)
    found = (table.get(plain.removesuffix(end)) for end in ("", "s", "es"))
    return next((classes for classes in found if classes), ())


def given_meanings(flag: str, options: Iterable[str], names: Collection[str]) -> dict[str, frozenset[str]]:
    """The texts NAME=CLASS,CLASS of the option `flag` -> name: the classes it may be.

    Raises ValueError for a text of another form, or a name that is not one of `names`.
    """
    given = {}
    for option in options:
        name, equals, members = option.partition("=")
        if not equals or name not in names:
            known = ", ".join(sorted(names)[:20])
            raise ValueError(f"{flag} {option!r}: expected NAME=CLASS,CLASS with NAME one of: {known}")
        given[name] = frozenset(member.strip() for member in members.split(",") if member.strip())
    return given


def class_named(name: str, classes: Collection[str]) -> frozenset[str]:
    """The one of `classes` that is called `name` in any spelling; empty if none is."""
    return frozenset({_plain(name)} & set(classes))


def box_labels(sets: Mapping[str, Collection[str]], exhaustive: Iterable[str]) -> BoxLabels:
    """BoxLabels from a literal table: the dataset's category -> our classes that it may be (none = ignore region)."""
    return BoxLabels({name: frozenset(members) for name, members in sets.items()}, frozenset(exhaustive))


def mask_labels(head: str, folder: str, labels: Mapping[int, tuple[str, Collection[str]]]) -> MaskLabels:
    """MaskLabels from a literal table: label id -> (the dataset's name, our classes that it may be; none = ignored)."""
    names = {label: name for label, (name, _) in labels.items()}
    return MaskLabels(folder, names, {label: frozenset(members) for label, (_, members) in labels.items()}, HEADS[head])


def require_folder(folder: Path, what: str) -> Path:
    """`folder` itself. Raises ValueError that says what was expected there, if it is not a folder."""
    if not folder.is_dir():
        raise ValueError(f"{what}: {folder} is not a folder; the README beside prepare.py draws the expected layout")
    return folder


def images_in(folder: Path) -> list[Path]:
    """What is called .jpg, .jpeg or .png right in `folder`, by name. Raises ValueError if it is not a folder."""
    require_folder(folder, "folder of images")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_mask(path: Path, report: Report) -> np.ndarray | None:
    """An index PNG as (H, W) integers (anything else as it is stored); None, counted in `report`, if there is none.

    A PNG with a palette gives its indices, whatever their colours.
    """
    try:
        return read_ids(path)
    except ValueError as error:
        report.problem("missing or unreadable mask, sample skipped", str(error))
        return None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, with or without a BOM.

    A byte that is no UTF-8 becomes U+FFFD, so that whoever parses the line drops and counts it, and no other.
    """
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def count_orphans(labels: Collection[Path], images: Collection[Path], report: Report) -> None:
    """Count in `report` the label files that no image has the stem of: the images were lost on the way."""
    stems = {path.stem for path in images}
    for path in sorted(labels):
        if path.stem not in stems:
            report.problem("label file without an image", str(path))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError that names the file if it is none, or broken."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; the README beside prepare.py draws the expected layout")
    try:
        return jsonfile.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; is the download complete?") from None


def ids_from_colours(image: np.ndarray, colours: Mapping[int, int], unknown: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR colours -> (H, W) uint8 ids, by a table 0xRRGGBB -> id; other colours become `unknown`."""
    blue, green, red = (image[..., channel].astype(np.int32) for channel in range(3))
    rgb = (red << 16) | (green << 8) | blue  # (H, W)
    ids = np.full(rgb.shape, unknown, np.uint8)
    for colour, label in colours.items():
        ids[rgb == colour] = label
    return ids


def image_hw(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image file as it will be shown (EXIF rotation applied); None if it can't be read."""
    image = decode_image(path.read_bytes()) if path.is_file() else None
    return None if image is None else (image.shape[0], image.shape[1])


def split_and_category_notes(report: Report, labels: BoxLabels, names: Collection[str]) -> dict[str, int]:
    """Notes on the source's box categories `names` that are none of our classes, and on a val that is missing."""
    notes = {}
    if left_out := [name for name in names if name not in labels.categories]:
        text = "category that means nothing to us, left out (--categories maps it, --own-labels keeps it)"
        notes[f"{text}: {', '.join(left_out)}"] = len(left_out)
    if labels.own:
        text = "category that is none of our classes, kept for perception.train --own-labels"
        notes[f"{text}: {', '.join(labels.own)}"] = len(labels.own)
    return notes | no_val_note(report)


def no_val_note(report: Report) -> dict[str, int]:
    """A note, if nothing of what was written is val."""
    text = "split val is missing, so nothing can be evaluated (--val-share 0.2 makes one of train)"
    return {} if report.images["val"] else {text: 1}


def summary(report: Report, notes: Mapping[str, int]) -> dict[str, Any]:
    """The report as JSON values with `notes`, which are printed: what was left out though nothing is wrong with it."""
    for note, count in Counter(notes).most_common():
        print(f"note: {count} x {note}")
    return {**report.to_json(), "notes": dict(notes)}


def number(text: str | None) -> float:
    """A number from an annotation; NaN where it is missing or not a number, so that the writer drops its box."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def progress(items: Collection[Item]) -> Iterable[Item]:
    """`items` with a progress bar on a terminal."""
    bar: Iterable[Item] = tqdm(items, unit="image", disable=None, leave=False)
    return bar
