"""The samples of a dataset in a few flat arrays, so that a million of them fit, and worker processes share them.

A Python object is written to whenever it is looked at (its reference count), and so every worker would end up with its
own copy of a list of a million of them. Arrays stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from perception.layout import Sample

__all__ = ["Samples"]


class Texts:
    """N texts end to end in one array of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [os.fsencode(text) for text in texts]  # a file's name may be no valid text
        self.data = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)  # (N + 1,)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.data[self.ends[index] : self.ends[index + 1]].tobytes())


class Samples(Sequence[Sample]):
    """A read-only list of Samples under `folder`, kept as arrays; each Sample is made when it is asked for."""

    def __init__(self, samples: Sequence[Sample], folder: Path) -> None:
        self.folder = folder
        self.images = Texts(_below(sample.image, folder) for sample in samples)
        self.masks: dict[str, Texts] = {}  # head -> files, "" = none
        for head in sorted({head for sample in samples for head in sample.masks}):
            files = Texts(_below(s.masks[head], folder) if head in s.masks else "" for s in samples)
            same = (t for t in self.masks.values() if np.array_equal(t.data, files.data))
            self.masks[head] = next((t for t in same if np.array_equal(t.ends, files.ends)), files)  # heads may share
        self.names = sorted({name for sample in samples for name in sample.categories})
        numbers = {name: number for number, name in enumerate(self.names)}
        none = np.zeros((0, 4), np.float32)
        boxes = [none if sample.boxes is None else sample.boxes for sample in samples]
        self.annotated = np.array([sample.boxes is not None for sample in samples], bool)
        self.box_ends = np.cumsum([0, *map(len, boxes)], dtype=np.int64)
        self.boxes = np.concatenate([none, *boxes])
        self.categories = np.array([numbers[name] for s in samples for name in s.categories], np.uint16)
        self.ignore_ends = np.cumsum([0, *(len(sample.ignore) for sample in samples)], dtype=np.int64)
        self.ignore = np.concatenate([none, *(sample.ignore for sample in samples)])

    def __len__(self) -> int:
        return len(self.annotated)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        i = index % len(self)
        rows = slice(self.box_ends[i], self.box_ends[i + 1])
        return Sample(
            self.folder / self.images[i],
            self.boxes[rows].copy() if self.annotated[i] else None,
            tuple(self.names[number] for number in self.categories[rows]),
            self.ignore[self.ignore_ends[i] : self.ignore_ends[i + 1]].copy(),
            {head: self.folder / file for head, files in self.masks.items() if (file := files[i])},
        )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
