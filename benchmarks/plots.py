"""Pictures of the report: bars, a Pareto plot, growth in logarithmic axes. matplotlib draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

__all__ = ["bar_chart", "front_of", "growth", "pareto", "stacked"]

OURS, OTHERS, FAINT = "#2f6fde", "#9aa5b1", "#d8dde3"
STAGES = ("#3fa66b", "#2f6fde", "#f08a24", "#9b59b6", "#c0392b")


def bar_chart(path: Path, title: str, rows: Mapping[str, float], unit: str, ours: Sequence[str]) -> None:
    """Name -> value as horizontal bars, the largest on top; those of ours in colour."""
    names = sorted(rows, key=lambda name: rows[name])
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.2))
    bars = axes.barh(names, [rows[name] for name in names], color=[OURS if n in ours else OTHERS for n in names])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    _finish(path, title, unit, "", figure, axes)


def stacked(path: Path, title: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """Name -> part -> value: one bar a name, parts one after the other."""
    names = list(rows)[::-1]
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.8))
    left = [0.0] * len(names)
    for number, part in enumerate(parts):
        values = [rows[name].get(part, 0.0) for name in names]
        axes.barh(names, values, left=left, label=part, color=STAGES[number % len(STAGES)])
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.legend(ncols=len(parts), loc="upper center", bbox_to_anchor=(0.45, -0.28), frameon=False)
    _finish(path, title, unit, "", figure, axes)


def pareto(
    path: Path, title: str, points: Mapping[str, tuple[float, float]], axes_names: tuple[str, str], ours: str
) -> None:
    """Name -> (cost, gain): a point each, and the line of those that no other beats in both."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for name, (x, y) in points.items():
        axes.scatter(x, y, s=70, color=OURS if name == ours else OTHERS, zorder=3)
        axes.annotate(name, (x, y), xytext=(7, 5), textcoords="offset points")
    front = front_of(points)
    axes.step([points[n][0] for n in front], [points[n][1] for n in front], where="post", color=OTHERS, lw=1, ls="--")
    axes.margins(0.15)
    _finish(path, title, *axes_names, figure, axes)


def front_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names by rising cost, of which each gains more than all that cost less."""
    front: list[str] = []
    for name in sorted(points, key=lambda n: (points[n][0], -points[n][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def growth(path: Path, title: str, curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Curves of benchmarks/scaling.py, each in a panel of its own with logarithmic axes."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.8 * rows + 0.5), squeeze=False)
    for axes in panels.flat[len(curves) :]:
        axes.remove()
    for (name, curve), axes in zip(curves.items(), panels.flat, strict=False):
        axes.loglog(curve["sizes"], curve["costs"], "o-", color=OURS)
        axes.set_title(f"{name}: exponent {curve['exponent']:.2f}", fontsize=9)
        axes.set_xlabel(curve["of"], fontsize=8)
        axes.set_ylabel(curve["unit"], fontsize=8)
        axes.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]], rotation=30, fontsize=7)
        axes.set_ylim(min(curve["costs"]) / 2, 2 * max(curve["costs"]))  # else a memory that stays looks like a cliff
        close = curve["costs"][-1] < 1.3 * curve["costs"][0]
        ends = [curve["costs"][-1]] if close else [curve["costs"][0], curve["costs"][-1]]
        axes.set_yticks(ends, [f"{cost:.3g}" for cost in ends], fontsize=8)
        axes.minorticks_off()
        axes.grid(color=FAINT)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _finish(path: Path, title: str, x: str, y: str, figure: Any, axes: Any) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both" if y else "x", color=FAINT, zorder=0)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
