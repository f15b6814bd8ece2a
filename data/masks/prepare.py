"""A folder of images and a folder of PNG masks, with classes of any kind -> the common layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.cli import run
from perception.labels import HEADS, IGNORE, DatasetLabels, MaskLabels
from perception.layout import IMAGE_SUFFIXES, SPLITS, Report
from perception.prepare import (
    HeldOutConfig,
    class_named,
    given_meanings,
    ids_from_colours,
    no_val_note,
    progress,
    read_mask,
    require_folder,
    summary,
)

FOLDER = "labels"  # of the masks, in our layout


@dataclass(frozen=True, kw_only=True)
class MasksConfig(HeldOutConfig):
    """Options of this converter."""

    classes: tuple[str, ...]
    """What is in the masks: ID=NAME, or #RRGGBB=NAME where they are colour pictures. Ids and colours without a name
    (ID=, or not given) are not labelled. Quote colours, and names that have spaces."""
    means: tuple[str, ...] = ()
    """NAME=CLASS or NAME=CLASS,CLASS: which classes of the head `scene` a class may be (NAME= for none). The others are
    matched by name; what matches nothing is a class of its own all the same, for perception.train --own-labels."""
    splits: tuple[str, ...] = ()
    """SPLIT=IMAGE_FOLDER:MASK_FOLDER, both in SOURCE_DIR; a split is train, val or test. Left out: images/SPLIT and
    masks/SPLIT, SPLIT/images and SPLIT/masks, or images and masks as train, whichever is there."""
    name: str | None = None
    """Name of the dataset, for dataset.json. Default: that of the folder."""
    licence: str = "not stated"
    """Its licence, for dataset.json."""

    def table(self) -> dict[int, str]:
        """Id, or colour 0xRRGGBB, -> name; "" = not labelled. Raises ValueError for an option of another form."""
        table = {}
        for option in self.classes:
            key, equals, name = option.partition("=")
            try:
                value = int(key[1:], 16) if self.coloured else int(key)
            except ValueError:
                value = -1
            if not equals or not 0 <= value <= (0xFFFFFF if self.coloured else IGNORE) or value in table:
                raise ValueError(
                    f"--classes {option!r}: expected ID=NAME with ids from 0 to {IGNORE - 1}, or #RRGGBB=NAME for all "
                    "of them, each once"
                )
            table[value] = name.strip()
        if not any(table.values()) or len(table) >= IGNORE or (not self.coloured and table.get(IGNORE)):
            raise ValueError(f"--classes: expected 1 to {IGNORE - 1} classes with a name; {IGNORE} is not labelled")
        return table

    @property
    def coloured(self) -> bool:
        """Whether the masks are colour pictures."""
        return any(option.startswith("#") for option in self.classes)

    def folders(self) -> dict[str, tuple[Path, Path]]:
        """Split -> folder of images, folder of masks. Raises ValueError if there are none, or they are not there."""
        found: dict[str, tuple[Path, Path]] = {}
        for option in self.splits:
            split, _, folders = option.partition("=")
            images, _, masks = folders.partition(":")
            if split not in SPLITS or not images or not masks or split in found:
                raise ValueError(f"--splits {option!r}: expected train|val|test=IMAGE_FOLDER:MASK_FOLDER, each once")
            found[split] = (self.source / images, self.source / masks)
        for split in SPLITS if not found else ():
            for images, masks in ((f"images/{split}", f"masks/{split}"), (f"{split}/images", f"{split}/masks")):
                if (self.source / images).is_dir():
                    found[split] = (self.source / images, self.source / masks)
        found = found or {"train": (self.source / "images", self.source / "masks")}
        for image_folder, mask_folder in found.values():
            require_folder(image_folder, "folder of images")
            require_folder(mask_folder, "folder of masks")
        return found


def labels_of(names: Mapping[int, str], config: MasksConfig) -> DatasetLabels:
    """What the label ids mean, by their names: of the heads `scene` and `drive` as far as they are known, and as they
    are in a head of their own.

    Raises ValueError for an option --means that names no class of the masks, or none of ours.
    """
    given = given_meanings("--means", config.means, set(names.values()))
    scene = {label: given.get(name, class_named(name, HEADS["scene"])) for label, name in names.items()}
    heads = {"scene": scene}
    if any("road" in members for members in scene.values()):
        heads["drive"] = drive_sets(scene)
    masks = {
        head: MaskLabels(FOLDER, dict(names), sets, HEADS[head]) for head, sets in heads.items() if any(sets.values())
    }
    own = {label: frozenset({name}) for label, name in names.items()}
    masks["own"] = MaskLabels(FOLDER, dict(names), own, tuple(dict.fromkeys(names.values())))
    return DatasetLabels(config.name or config.source.resolve().name, config.licence, masks=masks)


def drive_sets(scene: Mapping[int, frozenset[str]]) -> dict[int, frozenset[str]]:
    """The classes of the head `scene` -> those of `drive`. A road holds its markings, unless these have a class."""
    lines = frozenset({"lane marking"})
    road = frozenset({"drivable"}) | (frozenset() if lines in scene.values() else lines)
    sets = {}
    for label, members in scene.items():
        other = frozenset({"background"}) if members else frozenset()
        sets[label] = lines if members == lines else road if "road" in members else other
    return sets


def read_labels(path: Path, table: Mapping[int, str], coloured: bool, report: Report) -> np.ndarray | None:
    """A mask as (H, W) label ids; None, counted in `report`, if it is missing or broken.

    Of a colour picture the n-th colour of `table` is id n. Raises ValueError for a mask of the other kind.
    """
    mask = read_mask(path, report)
    if mask is None:
        return None
    grey = mask.ndim == 2 or bool((mask[..., :3] == mask[..., :1]).all())  # some tools save ids in three channels
    if not coloured:
        if not grey:
            raise ValueError(f"{path} is a colour picture; say --classes '#RRGGBB=NAME' instead of ID=NAME")
        ids = mask if mask.ndim == 2 else mask[..., 0]
        for label in np.setdiff1d(ids, [*table, IGNORE]).tolist()[:IGNORE]:
            report.problem(f"mask with id {label}, which --classes does not name, set to {IGNORE}", path.name)
        return np.where(np.isin(ids, [label for label, name in table.items() if name]), ids, IGNORE)
    if mask.dtype != np.uint8:
        report.problem("mask of 16 bits, sample skipped", str(path))
        return None
    picture = np.repeat(mask[..., None], 3, 2) if mask.ndim == 2 else mask[..., :3]
    nobody = len(table)
    ids = ids_from_colours(picture, {colour: n for n, colour in enumerate(table)}, nobody)
    unlabelled = [n for n, name in enumerate(table.values()) if not name]
    if (unknown := ids == nobody).any():
        b, g, r = picture[unknown][0].tolist()
        report.problem(f"mask with unknown colours, set to {IGNORE}", f"{path.name} #{r:02x}{g:02x}{b:02x}")
    return np.where(np.isin(ids, [*unlabelled, nobody]), IGNORE, ids)


def prepare(config: MasksConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    table, folders = config.table(), config.folders()
    ids = enumerate(table.values()) if config.coloured else table.items()
    labels = labels_of({label: name for label, name in ids if name}, config)
    images = {
        split: sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        for split, (folder, _) in folders.items()
    }
    with config.writer(labels) as writer:
        for split, paths in config.held_out(images).items():
            image_folder, mask_folder = folders.get(split) or folders["train"]  # of --val-share
            for image in progress(paths):
                name = image.relative_to(image_folder).with_suffix("")
                mask = read_labels(mask_folder / f"{name}.png", table, config.coloured, writer.report)
                if mask is not None:
                    writer.add(split, name.as_posix(), image, masks={FOLDER: mask})
    notes = no_val_note(writer.report)
    scene = labels.masks["scene"].sets if "scene" in labels.masks else {}
    if unknown := [name for label, name in labels.masks["own"].names.items() if not scene.get(label)]:
        notes[f"class that is none of ours, for perception.train --own-labels: {', '.join(unknown)}"] = len(unknown)
    return summary(writer.report, notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(MasksConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
