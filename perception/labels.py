"""One taxonomy for every dataset: a dataset's label is a SET of our classes.

Boxes use the 10 classes of BDD100K. The `scene` head uses the 19 classes of Cityscapes plus lane marking. The `drive`
head answers the driver's question: what can be driven on, and where are the lines.

A dataset says, for each of its own labels, which of our classes it may be: IDD-Lite's "vehicles" is
{car, truck, bus, train, motorcycle, bicycle}. Training maximises the probability summed over that set, so many small,
differently labelled datasets train one model. A label with an empty set is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "BOX_CLASSES",
    "DRIVE_CLASSES",
    "HEADS",
    "IGNORE",
    "SCENE_CLASSES",
    "BoxLabels",
    "DatasetLabels",
    "MaskLabels",
]

IGNORE = 255  # label id in a mask that always means: not labelled

BOX_CLASSES = (  # BDD100K, arXiv:1805.04687
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign",
)  # fmt: skip
SCENE_CLASSES = (  # Cityscapes' 19 training classes in their order, arXiv:1604.01685, plus lane marking
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "lane marking",
)  # fmt: skip
DRIVE_CLASSES = ("background", "drivable", "lane marking")
HEADS: dict[str, tuple[str, ...]] = {"scene": SCENE_CLASSES, "drive": DRIVE_CLASSES}


def _checked(classes: Iterable[str], allowed: tuple[str, ...], where: str) -> frozenset[str]:
    found = frozenset(classes)
    if unknown := sorted(found - set(allowed)):
        raise ValueError(f"{where}: unknown class {unknown[0]!r}; expected some of: {', '.join(allowed)}")
    return found


def _listed(names: Any, where: str) -> frozenset[str]:
    """The names of a JSON list; a bare string would be taken for a list of letters."""
    if not isinstance(names, list | tuple):
        raise ValueError(f"{where}: expected a list of class names, but got {names!r}")
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class MaskLabels:
    """What the label ids in a dataset's index masks mean for one segmentation head."""

    folder: str  # masks/<folder>/<split>/<name>.png
    names: Mapping[int, str]  # label id in the mask -> the dataset's own name for it
    sets: Mapping[int, frozenset[str]]  # label id -> the set of our classes that it may be; empty = ignored
    classes: tuple[str, ...] = ()  # classes of the head that the sets speak of, by id

    def __post_init__(self) -> None:
        for label, members in self.sets.items():
            if not 0 <= label < IGNORE:
                raise ValueError(f"mask label ids must be 0 to {IGNORE - 1} ({IGNORE} = not labelled), but got {label}")
            _checked(members, self.classes, f"mask label {label} ({self.names.get(label, '?')})")

    def membership(self) -> np.ndarray:
        """(256, C) bool: which classes a mask's label id may be. An all-False row is ignored."""
        table = np.zeros((256, len(self.classes)), bool)
        for label, members in self.sets.items():
            for name in members:
                table[label, self.classes.index(name)] = True
        return table

    def label_from_class(self) -> np.ndarray:
        """(C,) int: the dataset's label that a predicted class counts as (the first whose set has it), or -1."""
        table = self.membership()
        return np.where(table.any(0), table.argmax(0), -1)


@dataclass(frozen=True, slots=True)
class BoxLabels:
    """What a dataset's box categories mean, and which of our classes it annotates in full."""

    sets: Mapping[str, frozenset[str]]  # the dataset's category name -> the set of our classes; empty = ignore region
    exhaustive: frozenset[str]  # our classes of which every instance is labelled: only these give negatives
    classes: tuple[str, ...] = BOX_CLASSES
    own: tuple[str, ...] = ()  # further categories, none of our classes: they count in the dataset's own space alone

    def __post_init__(self) -> None:
        if twice := [name for name in self.own if name in self.sets]:
            raise ValueError(f"box category {twice[0]!r} is among the categories and among the own ones; name it once")
        for name, members in self.sets.items():
            _checked(members, self.classes, f"box category {name!r}")
        _checked(self.exhaustive, self.classes, "exhaustive")

    @property
    def categories(self) -> tuple[str, ...]:
        """All names that a box may have."""
        return (*self.sets, *self.own)

    @property
    def has_classes(self) -> bool:
        """Whether any category is one of the classes; else there are own ones and ignore regions alone."""
        return any(self.sets.values())

    def membership(self, category: str) -> np.ndarray:
        """(C,) bool: which of our classes a box of this category may be. Raises KeyError for an unknown category."""
        return np.array([name in self.sets[category] for name in self.classes], bool)


@dataclass(frozen=True, slots=True)
class DatasetLabels:
    """The content of a dataset's `dataset.json`: what it is, and what its labels mean."""

    name: str
    licence: str
    source: str = ""  # where to get it
    boxes: BoxLabels | None = None
    masks: Mapping[str, MaskLabels] = field(default_factory=dict)  # by head name

    @property
    def names_ours(self) -> bool:
        """Whether any label may be one of our classes; else only the dataset's own space has something to learn."""
        heads = (spec for head, spec in self.masks.items() if head in HEADS)
        return bool(self.boxes and self.boxes.has_classes) or any(any(spec.sets.values()) for spec in heads)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DatasetLabels:
        """Parse `dataset.json`. Raises ValueError that names the missing key or the unknown class."""
        try:
            boxes = None
            if spec := data.get("boxes"):
                sets = {
                    name: _listed(members, f"box category {name!r}") for name, members in spec["categories"].items()
                }
                own = spec.get("own", [])
                _listed(own, "own")
                boxes = BoxLabels(sets, _listed(spec["exhaustive"], "exhaustive"), own=tuple(own))
            masks = {}
            for head, spec in data.get("masks", {}).items():
                labels = {int(label): entry for label, entry in spec["labels"].items()}
                names = {label: str(entry["name"]) for label, entry in labels.items()}
                classes = HEADS.get(head) or tuple(names.values())  # a head that is not ours: the dataset's own space
                sets_by_id = {
                    label: _listed(entry["classes"], f"mask label {label}") for label, entry in labels.items()
                }
                masks[head] = MaskLabels(spec["folder"], names, sets_by_id, classes)
            if any(
                not isinstance(spec.folder, str) or ".." in spec.folder or spec.folder[:1] in "/\\"
                for spec in masks.values()
            ):
                raise TypeError("folder must be the name of a folder of masks")
            for what in ("name", "licence"):
                if not isinstance(data[what], str):
                    raise TypeError(f"{what} must be a text")
            return cls(data["name"], data["licence"], data.get("source", ""), boxes, masks)
        except KeyError as error:
            raise ValueError(f"dataset.json of {data.get('name', '?')}: missing key {error}") from None
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"dataset.json of {data.get('name', '?')}: not of the expected form ({error})") from None

    def own_space(self) -> DatasetLabels:
        """The same labels as classes of their own, for figures that compare with publications on this dataset alone.

        One segmentation head a mask folder, named after it; one box class a category. A label that no head uses stays
        ignored.
        """
        boxes = None
        if self.boxes:
            kept = (*(name for name, members in self.boxes.sets.items() if members), *self.boxes.own)
            sets = {name: frozenset({name} if name in kept else ()) for name in self.boxes.categories}
            boxes = BoxLabels(sets, frozenset(kept), kept)
        masks = {}
        for folder in dict.fromkeys(spec.folder for spec in self.masks.values()):
            heads = [spec for spec in self.masks.values() if spec.folder == folder]  # they may declare different labels
            names = dict(sorted((label, name) for spec in heads for label, name in spec.names.items()))
            used = {label: name for label, name in names.items() if any(spec.sets.get(label) for spec in heads)}
            own = {label: frozenset({name} if label in used else ()) for label, name in names.items()}
            masks[folder] = MaskLabels(folder, names, own, tuple(dict.fromkeys(used.values())))
        return DatasetLabels(self.name, self.licence, self.source, boxes, masks)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`, with sets as sorted lists."""
        data: dict[str, Any] = {"name": self.name, "licence": self.licence, "source": self.source}
        if self.boxes:
            data["boxes"] = {
                "categories": {name: sorted(members) for name, members in self.boxes.sets.items()},
                "exhaustive": sorted(self.boxes.exhaustive),
            }
            if self.boxes.own:
                data["boxes"]["own"] = list(self.boxes.own)
        if self.masks:
            data["masks"] = {
                head: {
                    "folder": spec.folder,
                    "labels": {
                        str(label): {"name": spec.names[label], "classes": sorted(spec.sets[label])}
                        for label in sorted(spec.sets)
                    },
                }
                for head, spec in self.masks.items()
            }
        return data
