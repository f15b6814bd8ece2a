"""How much of its accuracy a model keeps under corrupted images (Hendrycks & Dietterich, arXiv:1903.12261).

One figure a task: the mean, over corruptions and severities, of metric(corrupted) / metric(clean). 1 = nothing is lost.
The paper's mCE divides errors by those of AlexNet; there is no such model for these tasks, so we divide by our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perception.evaluation.corruptions import SEVERITIES, Corruption, corrupt
from perception.evaluation.extra import Extra
from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.percent import percent
from perception.model import Model

__all__ = ["relative", "robustness", "robustness_table", "task_figures"]

Figures = Mapping[str, float | None]  # task -> metric


def task_figures(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of `evaluate` -> one for each task: "boxes AP50", and "HEAD mIoU" of every head."""
    figures: dict[str, float | None] = {"boxes AP50": result["boxes"]["AP50"]} if result["boxes"] else {}
    return figures | {f"{head} mIoU": mask["mIoU"] for head, mask in result["masks"].items()}


def robustness(
    model: Model,
    folder: str | Path,
    select: Selection,
    clean: Mapping[str, Any],
    names: Sequence[Corruption],
    tta: str = "",
) -> dict[str, Any]:
    """Evaluate again under each corruption at each severity; `clean` are the figures of `evaluate` without.

    `tta` are the views that `clean` is averaged over.

    Returns:
        clean: task -> metric; corruptions: name -> severity, as text -> task -> metric; relative: name -> task -> part
        of the clean metric that is kept, mean over severities, and under "mean" over all of it. None where the clean
        metric is 0 or None.
    """
    before, views = task_figures(clean), Extra(tta=tta)
    after: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in names:
        after[name] = {}
        for severity in SEVERITIES:
            change = partial(_corrupted, name, severity)
            after[name][str(severity)] = task_figures(evaluate(model, folder, select, views, change))
    return {
        "clean": before,
        "corruptions": after,
        "relative": {
            **{name: relative(before, list(figures.values())) for name, figures in after.items()},
            "mean": relative(before, [row for figures in after.values() for row in figures.values()]),
        },
    }


def _corrupted(name: Corruption, severity: int, image: np.ndarray, number: int) -> np.ndarray:
    return corrupt(image, name, severity, number)


def relative(clean: Figures, corrupted: Sequence[Figures]) -> dict[str, float | None]:
    """Task -> mean over `corrupted` of metric / clean metric; None where there is nothing to divide by."""
    kept: dict[str, float | None] = {}
    for task, before in clean.items():
        kept[task] = float(np.mean([(row[task] or 0.0) / before for row in corrupted])) if before else None
    return kept


def robustness_table(figures: Mapping[str, Any]) -> list[str]:
    """The lines of a table for each task, in percent: a row a corruption, a column a severity, and what is kept."""
    lines = []
    for task, clean in figures["clean"].items():
        severities = "".join(f"{severity:8}" for severity in (0, *SEVERITIES))
        lines.append(f"  {task + ' at severity':24}{severities}   kept")
        for name, rows in figures["corruptions"].items():
            values = [clean, *(row[task] for row in rows.values())]
            kept = percent(figures["relative"][name][task])
            lines.append(f"  {name:24}" + "".join(percent(value) for value in values) + kept)
        mean = percent(figures["relative"]["mean"][task])
        lines.append(f"  {'mean':24}{'':{8 * (1 + len(SEVERITIES))}}{mean}")
    return lines
