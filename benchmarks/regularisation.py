"""What do regularisation and averaging gain on a dataset? Stochastic depth, label smoothing, averaged weights, a soup.

    python benchmarks/regularisation.py --data DATA/idd_lite --out runs/regularisation

One run is the common start. From it, every variant is trained once a seed, with the same number of steps; a soup is
the mean of the plain runs of all seeds. An interrupted study goes on where it stopped. Figures are of the whole val
split.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.machine import markdown
from benchmarks.study import figures, trained
from perception import soup
from perception.cli import run
from perception.training.checkpoint import revision

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "stochastic depth 0.1": ("--drop-path", "0.1"),
    "label smoothing 0.1": ("--loop.label-smoothing", "0.1"),
}


@dataclass(frozen=True, kw_only=True)
class RegularisationConfig:
    """Options of benchmarks/regularisation.py."""

    data: Path
    """A dataset in the common layout."""
    out: Path
    """Folder of the runs."""
    start_steps: int = 300
    """Optimiser steps of the common start."""
    steps: int = 200
    """Optimiser steps of every variant after it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every variant a seed."""
    options: str = ""
    """More options of perception.train for every run: --options="--hw 160 288 --heads scene"."""
    start_options: str = ""
    """More options of perception.train for the start alone: --start-options="--detail-weights CNN.pth"."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def body(config: RegularisationConfig) -> dict[str, Any]:
    """Train, average, evaluate, print the table."""
    data = ["--data", str(config.data), *shlex.split(config.options)]
    start = trained(config.out / "start", config.start_steps, [*data, *shlex.split(config.start_options)])
    results: dict[str, dict[str, list[float]]] = {}

    def add(variant: str, path: Path, averaged: bool = True) -> None:
        for figure, value in figures(path, [config.data], "val", None, averaged)[config.data.name].items():
            results.setdefault(figure, {}).setdefault(variant, []).append(value)

    runs: list[Path] = []
    for name, options in VARIANTS.items():
        for seed in config.seeds:
            path = config.out / f"{name.replace(' ', '_')}_{seed}"
            trained(path, config.steps, [*data, "--init", str(start), "--loop.seed", str(seed), *options])
            add(name, path)
            if name == "plain":
                add("plain, last weights instead of their moving average", path, averaged=False)
                runs.append(path)
    mixed = config.out / "soup"
    if not mixed.exists() and (code := soup.main([*map(str, runs), "--out", str(mixed)])):
        raise ValueError(f"perception.soup failed with exit code {code}")
    add("soup of the plain runs", mixed)
    print(table(results))
    about = {"start_steps": config.start_steps, "steps": config.steps, "seeds": list(config.seeds)}
    return {"study": "regularisation", "data": config.data.name, **about, "revision": revision(), "results": results}


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row a variant, mean and standard deviation over seeds of each figure."""
    lines = []
    for variant in next(iter(results.values())):
        found = [rows[variant] for rows in results.values()]
        spreads = [f" +- {stdev(values):.1f}" if len(values) > 1 else "" for values in found]
        lines.append([variant, *(f"{mean(v):.1f}{spread}" for v, spread in zip(found, spreads, strict=True))])
    return markdown(("variant", *results), lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(RegularisationConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
