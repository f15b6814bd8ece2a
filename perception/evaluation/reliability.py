"""The figures of a calibration -> a picture: what was right against what was claimed, and how often it was claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.page import percent

__all__ = ["reliability_plot", "require_png", "save_plot"]

SIDE, LEFT, TOP, GAP, COUNTS = 320, 72, 64, 34, 80  # pixels: the square, the margins, and the height of the counts
WIDTH, HEIGHT = LEFT + SIDE + 24, TOP + SIDE + GAP + COUNTS + 52
WHITE, INK, GRID, BAR, OVER, UNDER = (
    (255, 255, 255), (60, 50, 40), (228, 228, 228), (176, 130, 70), (60, 60, 210), (90, 160, 70),
)  # fmt: skip


def reliability_plot(figures: Mapping[str, Any]) -> np.ndarray:
    """The "calibration" figures of a dataset -> (H, W, 3) uint8 BGR: boxes and every head side by side.

    Above, the share of right answers in each bin of scores as bars, and the distance to the diagonal, where a bin's
    mean score would be, as red (too sure) or green (too modest) lines. Below, the number of answers in each bin on a
    logarithmic scale. Raises ValueError if there is nothing to draw.
    """
    panels = _panels(figures)
    if not panels:
        raise ValueError(
            "there is no calibration to draw: the model and the dataset share no boxes of which every instance is "
            "labelled, and class maps need a run directory"
        )
    return np.hstack([_panel(name, panel) for name, panel in panels.items()])


def _panels(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What there is to draw of the "calibration" figures of a dataset, by its title."""
    panels = {"boxes": figures["boxes"]} if figures["boxes"] else {}
    panels |= {f"{head} (pixels)": mask for head, mask in (figures["masks"] or {}).items()}
    return {name: panel for name, panel in panels.items() if panel["count"]}


def save_plot(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plots of one or more datasets, one below the other, as PNG; those with nothing to draw are left out.

    Raises ValueError if all are, OSError if it can't be written.
    """
    drawn = [one for one in figures if _panels(one)] or figures[:1]  # the first one then says what is missing
    plots = [reliability_plot(one) for one in drawn]
    width = max(plot.shape[1] for plot in plots)
    rows = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in plots]
    require_png(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise OSError(f"can't write {path}")


def require_png(path: Path) -> None:
    """Raise ValueError for a file name of another kind."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--calibration-plot writes a .png file, but got {path}")


def _panel(name: str, panel: Mapping[str, Any]) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    bottom, floor = TOP + SIDE, TOP + SIDE + GAP + COUNTS
    _write(image, name, (LEFT, 26), 0.62, 1)
    title = f"ECE {_percent(panel['ECE'])}   worst bin {_percent(panel['maximum'])}"
    if shown := panel.get("shown"):
        title += f"   (from 0.3 on: {_percent(shown['ECE'])})"
    _write(image, title, (LEFT, 48), 0.4)
    for tick in range(6):
        x, y = LEFT + round(SIDE * tick / 5), bottom - round(SIDE * tick / 5)
        cv2.line(image, (LEFT, y), (LEFT + SIDE, y), GRID, 1)
        cv2.line(image, (x, TOP), (x, bottom), GRID, 1)
        _write(image, f"{tick / 5:.1f}", (LEFT - 32, y + 4), 0.38)
        _write(image, f"{tick / 5:.1f}", (x - 11, bottom + 18), 0.38)
    most = max(row["count"] for row in panel["bins"])
    for row in panel["bins"]:
        if not row["count"]:
            continue
        x1, x2 = (LEFT + round(SIDE * row[end]) for end in ("from", "to"))
        y = bottom - round(SIDE * row["precision"])
        cv2.rectangle(image, (x1 + 1, y), (x2 - 1, bottom), BAR, cv2.FILLED)
        tall = max(1, round(COUNTS * math.log1p(row["count"]) / math.log1p(most)))
        cv2.rectangle(image, (x1 + 1, floor - tall), (x2 - 1, floor), BAR, cv2.FILLED)
    cv2.line(image, (LEFT, bottom), (LEFT + SIDE, TOP), INK, 1, cv2.LINE_AA)
    for row in panel["bins"]:
        if row["count"]:
            x = LEFT + round(SIDE * row["mean_score"])
            claimed, right = (bottom - round(SIDE * row[key]) for key in ("mean_score", "precision"))
            colour = OVER if row["mean_score"] > row["precision"] else UNDER
            cv2.line(image, (x, claimed), (x, right), colour, 2)
            cv2.circle(image, (x, right), 4, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.rectangle(image, (LEFT, TOP), (LEFT + SIDE, bottom), INK, 1)
    cv2.line(image, (LEFT, floor), (LEFT + SIDE, floor), INK, 1)
    _write(image, "right", (12, TOP + 10), 0.42)
    _write(image, f"{most:,}", (8, floor - COUNTS + 10), 0.36)
    _write(image, "count", (12, floor), 0.42)
    _write(image, "score", (LEFT + SIDE // 2 - 20, floor + 20), 0.42)
    _write(image, "red: too sure   green: too modest", (LEFT, floor + 40), 0.38)
    return image


def _percent(value: float | None) -> str:
    return percent(value) + " %" * (value is not None)


def _write(image: np.ndarray, text: str, origin: tuple[int, int], scale: float, weight: int = 1) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, weight, cv2.LINE_AA)
