"""What is in a dataset, and what looks wrong? Counts, sizes, labelled samples, duplicates: a page to look at.

    python -m perception.inspect DATASETS/kitti --out runs/inspect/kitti

DATASET is a folder in the common layout (data/NAME/prepare.py makes it). OUT/index.html is one file that opens
anywhere; its pictures lie beside it, and inspection.json has every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from perception.cli import run
from perception.inspection.duplicates import duplicates
from perception.inspection.report import figures, lines, write_page
from perception.inspection.survey import survey
from perception.layout import SPLITS, read_layout

__all__ = ["InspectConfig", "body", "main"]


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Options of `python -m perception.inspect`."""

    dataset: tyro.conf.Positional[Path]
    """Folder of a dataset in the common layout."""
    out: Path = Path("runs/inspect")
    """Folder for index.html, its pictures and inspection.json."""
    samples: int = 9
    """Labelled samples of each split and task in the contact sheets, evenly over the split."""
    input_hw: tuple[int, int] = (256, 448)
    """Height and width of the model's input, in whose pixels box sizes are also told."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        if self.samples < 1 or min(self.input_hw) < 1:
            raise ValueError(f"--samples and --input-hw must be 1 or more, but got {self.samples}, {self.input_hw}")


def body(config: InspectConfig) -> dict[str, Any]:
    """Look at every split of the dataset."""
    images = config.dataset / "images"
    splits = [split for split in SPLITS if (images / split).is_dir()]
    if not splits:
        read_layout(config.dataset, SPLITS[0])  # says what is wrong with the folder
    samples = {split: read_layout(config.dataset, split, keep_own=True)[1] for split in splits}
    labels = read_layout(config.dataset, splits[0])[0]
    surveys = [survey(config.dataset, split, labels, of, config.input_hw) for split, of in samples.items()]
    alike = duplicates(surveys)
    print("\n".join(lines(labels, surveys, alike)))
    arguments = (config.out, config.dataset, labels, samples, surveys, alike, config.input_hw, config.samples)
    print(f"page: {write_page(*arguments)}")
    return figures(labels, surveys, alike)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(InspectConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
