"""Does one model trained on many differently labelled datasets beat one model a dataset, at equal training?

    python benchmarks/label_sets.py --data DATA/camvid DATA/idd_lite DATA/kitti ... --out runs/label_sets

Every run has the same network, start, seed and batch size, and the joint one draws its n datasets equally often. With
`--equal steps` it takes as many steps as each of the others, and so sees each dataset 1/n as often; with
`--equal sight` it takes n times the steps and sees each as often: the work of all the others together, for one model.
An interrupted study goes on where it stopped. Figures are of each dataset's val split, in its own label space.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from benchmarks.machine import markdown
from benchmarks.study import figures, trained
from perception.cli import run
from perception.training.checkpoint import revision

JOINT = "joint"


@dataclass(frozen=True, kw_only=True)
class LabelSetsConfig:
    """Options of benchmarks/label_sets.py."""

    data: tuple[Path, ...]
    """Datasets in the common layout, each with a val split."""
    out: Path
    """Folder of the runs."""
    steps: int = 400
    """Optimiser steps of every run with one dataset."""
    equal: Literal["steps", "sight"] = "steps"
    """What the joint run has in common with them: its steps, or how often it sees each dataset."""
    seeds: tuple[int, ...] = (0,)
    """One joint and one separate training a seed."""
    limit: int | None = 100
    """Val images a dataset, spread evenly."""
    options: str = ""
    """More options of perception.train for every run: --options="--hw 160 288 --freeze-details all"."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def body(config: LabelSetsConfig) -> dict[str, Any]:
    """Train, evaluate, print the table."""
    if len(config.data) < 2:
        raise ValueError(f"--data: name at least two datasets to compare, but got {len(config.data)}")
    results: dict[str, dict[str, list[float]]] = {}  # "dataset figure" -> {"alone", "joint"} -> one value a seed
    for seed in config.seeds:
        same = ["--loop.seed", str(seed), *shlex.split(config.options)]
        parts = {folder.name: [folder] for folder in config.data} | {JOINT: list(config.data)}
        for name, folders in parts.items():
            joint = name == JOINT and config.equal == "sight"
            path = config.out / (f"{name}_sight_{seed}" if joint else f"{name}_{seed}")
            trained(path, config.steps * (len(folders) if joint else 1), ["--data", *map(str, folders), *same])
            for dataset, found in figures(path, folders, "val", config.limit).items():
                for figure, value in found.items():
                    row = results.setdefault(f"{dataset}: {figure}", {"alone": [], JOINT: []})
                    row[JOINT if name == JOINT else "alone"].append(value)
    print(table(results))
    about = {
        "steps": config.steps,
        "equal": config.equal,
        "seeds": list(config.seeds),
        "limit": config.limit,
        "options": config.options,
    }
    return {"study": "label sets", **about, "revision": revision(), "results": results}


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row a figure, the mean over seeds, and the difference that sharing makes."""
    lines = []
    for name, row in results.items():
        alone, joint = mean(row["alone"]), mean(row[JOINT])
        lines.append([name, f"{alone:.1f}", f"{joint:.1f}", f"{joint - alone:+.1f}"])
    return markdown(("dataset: figure", "alone", "together", "difference"), lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(LabelSetsConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
