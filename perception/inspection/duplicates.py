"""Pairs of alike images -> what to say of them: within splits, and between two, where they flatter the figures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from perception.inspection.likeness import Likeness, near_pairs
from perception.inspection.survey import Survey

__all__ = ["Duplicates", "duplicates"]

SHOWN = 12  # pairs in the figures


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Alike images of two splits, or of one (then `first` and `second` are the same)."""

    first: str  # split
    second: str
    exact: int  # pairs of the same bytes
    near: int  # other pairs
    images: int  # images of `second` with at least one like it in `first`
    of: int  # images of `second`
    pairs: list[tuple[str, str, bool, float]]  # the first of them: name, name, exact, grey difference of 255

    def line(self) -> str:
        """One line for people."""
        where = f"within {self.first}" if self.first == self.second else f"{self.second} against {self.first}"
        return (
            f"{where}: {self.images} of {self.of} images ({self.images / max(self.of, 1):.1%}) have a duplicate: "
            f"{self.exact} exact and {self.near} near pairs"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        pairs = [{"first": a, "second": b, "exact": exact, "grey": round(grey, 2)} for a, b, exact, grey in self.pairs]
        return {
            "splits": [self.first, self.second], "exact_pairs": self.exact, "near_pairs": self.near,
            "images": self.images, "of": self.of, "share": self.images / max(self.of, 1), "first_pairs": pairs,
        }  # fmt: skip


def duplicates(surveys: list[Survey]) -> list[Duplicates]:
    """What is alike within each split and between every two of them; the splits stand in the order train, val, test."""
    places = [(survey.split, name) for survey in surveys for name in survey.names]
    found: defaultdict[tuple[str, str], list[Likeness]] = defaultdict(list)
    for like in near_pairs([entry for survey in surveys for entry in survey.prints]):
        found[places[like.first][0], places[like.second][0]].append(like)
    sizes = {survey.split: len(survey.names) for survey in surveys}
    splits = list(sizes)
    rows = []
    for first, second in [*combinations(splits, 2), *((split, split) for split in splits)]:
        likes = sorted(found[first, second], key=lambda like: (not like.exact, like.grey))
        seconds = {like.second for like in likes} | ({like.first for like in likes} if first == second else set())
        exact = sum(like.exact for like in likes)
        pairs = [(places[p.first][1], places[p.second][1], p.exact, p.grey) for p in likes[:SHOWN]]
        rows.append(Duplicates(first, second, exact, len(likes) - exact, len(seconds), sizes[second], pairs))
    return rows
