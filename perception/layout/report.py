"""What a conversion wrote, and what it met."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from perception.layout.reading import SPLITS

__all__ = ["Report"]


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
