"""Accuracy against labels, from the results of ssl_study.py: a plot, and the sentence that a user wants."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["Panel", "curves", "draw", "equal_labels", "panels"]

Panel = tuple[str, bool, int]  # dataset, with the detail path, steps of fine-tuning
Curve = list[tuple[float, float]]  # (share of the labels, mIoU in percent), rising


def panels(stored: dict[str, Any]) -> list[Panel]:
    """What runs must have in common to be compared, in the order of the runs."""
    return list(dict.fromkeys((row["data"], row["detail"], row["steps"]) for row in stored.get("runs", [])))


def curves(stored: dict[str, Any], panel: Panel) -> dict[str, Curve]:
    """{arm: mIoU by share of the labels, mean over seeds} of a panel; arms with at least two shares."""
    values: dict[str, dict[float, list[float]]] = {}
    for row in stored.get("runs", []):
        if (row["data"], row["detail"], row["steps"]) == panel:
            values.setdefault(row["arm"], {}).setdefault(row["share"], []).append(row["mIoU"])
    found = {arm: sorted((share, mean(v)) for share, v in shares.items()) for arm, shares in values.items()}
    return {arm: curve for arm, curve in found.items() if len(curve) > 1}


def share_for(curve: Curve, wanted: float) -> float | None:
    """The share of the labels at which a curve reaches `wanted`, linear between its points; None = never."""
    for (x1, y1), (x2, y2) in pairwise(curve):
        if y1 <= wanted <= y2:
            return x1 + (x2 - x1) * (wanted - y1) / max(y2 - y1, 1e-9)
    return None


def equal_labels(stored: dict[str, Any]) -> list[str]:
    """How many labels random weights would need for what the best pretraining reaches, a sentence each."""
    out = []
    for panel in panels(stored):
        found = curves(stored, panel)
        if "random" not in found or len(found) < 2:
            continue
        best = max((arm for arm in found if arm != "random"), key=lambda arm: mean(y for _, y in found[arm]))
        for share, reached in found[best]:
            needed = share_for(found["random"], reached)
            most = found["random"][-1]
            if needed is not None:
                out.append(f"{title(panel)}: {share:.0%} of the labels with {best} give what {needed:.0%} give without")
            elif reached > most[1]:
                out.append(
                    f"{title(panel)}: {share:.0%} of the labels with {best} give more ({reached:.1f}) than "
                    f"{most[0]:.0%} give without ({most[1]:.1f})"
                )
    return out


def title(panel: Panel) -> str:
    """A panel in words."""
    data, detail, steps = panel
    return f"{data}, {steps} steps, {'with detail path' if detail else 'ViT alone'}"


def draw(stored: dict[str, Any], path: Path) -> None:
    """Accuracy against labels, one panel a dataset. Raises ValueError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the plot needs matplotlib: pip install matplotlib") from None
    drawn = [panel for panel in panels(stored) if curves(stored, panel)]
    if not drawn:
        return
    figure = Figure(figsize=(5.2 * len(drawn), 4.2), layout="constrained")
    for place, panel in enumerate(drawn, 1):
        axes = figure.add_subplot(1, len(drawn), place)
        for arm, curve in curves(stored, panel).items():
            axes.plot([100 * x for x, _ in curve], [y for _, y in curve], marker="o", label=arm)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 25, 50, 100], ["5", "10", "25", "50", "100"])
        axes.minorticks_off()
        axes.set_xlabel("labels used, %")
        axes.set_ylabel("mIoU, %")
        axes.set_title(title(panel))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
