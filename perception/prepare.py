"""What every data/<name>/prepare.py shares: options, label tables, reading of sources that may be malformed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from perception.labels import HEADS, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import IMAGE_SUFFIXES, LayoutWriter, Report

__all__ = [
    "PrepareConfig",
    "box_labels",
    "images_in",
    "mask_labels",
    "number",
    "progress",
    "read_mask",
    "require_folder",
]

Item = TypeVar("Item")


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
    """The JPEG and PNG files right in `folder`, by name. Raises ValueError if it is not a folder."""
    require_folder(folder, "folder of images")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_mask(path: Path, report: Report) -> np.ndarray | None:
    """An index PNG as (H, W) integers (anything else as it is stored); None, counted in `report`, if there is none."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if mask is None:
        report.problem("missing or unreadable mask, sample skipped", str(path))
    return mask


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
