"""Charts drawn with OpenCV: bars, histograms, confusion matrices. All are (H, W, 3) uint8 BGR, drawn at double size.

They are meant to be shown at half their size, so that text is sharp on any screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from perception.colours import Colour, rgb

__all__ = ["bars", "confusion", "histogram"]

FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.72
INK, FAINT, PAPER = rgb(0x1B2026), rgb(0xD8DDE3), rgb(0xFFFFFF)
SERIES = (rgb(0x2F6FDE), rgb(0xF08A24), rgb(0x3FA66B), rgb(0x9B59B6))  # by position
ROW, PAD = 44, 28  # pixels
DEEP = rgb(0x1D4E9E)  # the full colour of a confusion matrix


def bars(title: str, rows: Mapping[str, Mapping[str, float]], form: str = "{:,.0f}", log: bool = False) -> np.ndarray:
    """Row name -> series name -> value >= 0: one horizontal bar for each value, which is written beside it."""
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    left = max((_width(name) for name in rows), default=0) + 2 * PAD
    top, thick = _top(series), max(ROW // max(len(series), 1), 20)
    step = thick * max(len(series), 1) + 14
    image = _paper(top + step * max(len(rows), 1) + PAD, left + 900 + 220)
    _head(image, title, series)
    most = max((_stretch(value, log) for row in rows.values() for value in row.values()), default=0) or 1.0
    for index, (name, row) in enumerate(rows.items()):
        y = top + index * step
        _write(image, name, left - PAD // 2 - _width(name), y + (step - 14) // 2 + 9)
        for number, key in enumerate(series):
            if key in row:
                end = left + round(900 * _stretch(row[key], log) / most)
                y1 = y + number * thick
                cv2.rectangle(image, (left, y1 + 2), (max(end, left + 1), y1 + thick - 3), SERIES[number % 4], -1)
                _write(image, form.format(row[key]), end + 12, y1 + thick // 2 + 8, 0.6)
    return image


def histogram(title: str, ticks: Sequence[str], counts: Mapping[str, Sequence[float]], unit: str) -> np.ndarray:
    """Columns over B bins; `ticks` are their B + 1 edges; `counts` has B values a series, drawn as shares in %."""
    bins, series = len(ticks) - 1, list(counts)
    wide = max(110, 24 * len(series) + 30)
    left, top, high = 3 * PAD + 30, _top(series), 420
    image = _paper(top + high + 4 * PAD, left + wide * bins + 2 * PAD)
    _head(image, title, series)
    totals = {name: sum(values) for name, values in counts.items()}
    shares = {name: [100 * value / (totals[name] or 1) for value in values] for name, values in counts.items()}
    most = max(max(values, default=0) for values in shares.values()) if shares else 0
    scale = next(limit for limit in (5, 10, 20, 30, 40, 50, 60, 80, 100) if most <= limit + 1e-9)
    for part in range(5):
        y = top + high - round(high * part / 4)
        cv2.line(image, (left, y), (left + wide * bins, y), FAINT, 1)
        text = f"{scale * part / 4:g}%"
        _write(image, text, left - 10 - _width(text, 0.6), y + 8, 0.6)
    for number, name in enumerate(series):
        each = (wide - 16) // max(len(series), 1)
        for index, share in enumerate(shares[name]):
            x, y = left + index * wide + 8 + number * each, top + high - round(high * share / scale)
            cv2.rectangle(image, (x, y), (x + each - 3, top + high), SERIES[number % 4], -1)
    for index, tick in enumerate(ticks):
        _write(image, tick, left + index * wide - _width(tick, 0.6) // 2, top + high + PAD + 8, 0.6)
    _write(image, unit, left + (wide * bins - _width(unit)) // 2, top + high + 3 * PAD)
    return image


def confusion(title: str, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """(G, K) counts: every row in percent of its sum, dark where it is much; the names of the columns stand upright."""
    matrix = np.asarray(matrix, np.float64)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cell_w, cell_h = 92, 52
    left = max((_width(name) for name in rows), default=0) + 3 * PAD
    top = 3 * PAD + max((_width(name) for name in columns), default=0) + PAD
    width = left + cell_w * len(columns) + PAD
    image = _paper(top + cell_h * len(rows) + PAD, max(width, 2 * PAD + _width(title, 0.85)))
    _write(image, title, PAD, PAD + 12, 0.85)
    for k, name in enumerate(columns):
        label = np.full((34, _width(name) + 4, 3), PAPER, np.uint8)
        _write(label, name, 0, 24)
        label = np.rot90(label)
        x = left + k * cell_w + (cell_w - label.shape[1]) // 2
        image[top - 10 - label.shape[0] : top - 10, x : x + label.shape[1]] = label
    for g, name in enumerate(rows):
        y = top + g * cell_h
        _write(image, name, left - 14 - _width(name), y + cell_h // 2 + 8)
        for k in range(len(columns)):
            share, x = float(shares[g, k]), left + k * cell_w
            colour = tuple(round(255 + (part - 255) * share) for part in DEEP)
            cv2.rectangle(image, (x, y), (x + cell_w - 2, y + cell_h - 2), colour, -1)
            if share >= 0.001:
                text = f"{100 * share:.1f}"
                ink = PAPER if share > 0.5 else INK
                _write(image, text, x + (cell_w - _width(text, 0.6)) // 2, y + cell_h // 2 + 7, 0.6, ink)
    return image


def _stretch(value: float, log: bool) -> float:
    return float(np.log10(1 + value)) if log else float(value)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def _top(series: Sequence[str]) -> int:
    return 3 * PAD + (PAD + 8 if len(series) > 1 else 0)


def _head(image: np.ndarray, title: str, series: Sequence[str]) -> None:
    """The title and, for more than one series, their colours."""
    _write(image, title, PAD, PAD + 12, 0.85)
    x = PAD
    for number, name in enumerate(series if len(series) > 1 else ()):
        cv2.rectangle(image, (x, 2 * PAD + 4), (x + 22, 2 * PAD + 24), SERIES[number % 4], -1)
        _write(image, name, x + 32, 2 * PAD + 22, 0.65)
        x += 32 + _width(name, 0.65) + PAD


def _width(text: str, scale: float = SCALE) -> int:
    return int(cv2.getTextSize(_plain(text), FONT, scale, 1)[0][0])


def _write(image: np.ndarray, text: str, x: int, y: int, scale: float = SCALE, colour: Colour = INK) -> None:
    cv2.putText(image, _plain(text), (x, y), FONT, scale, colour, 1, cv2.LINE_AA)


def _plain(text: str) -> str:
    """The Hershey fonts have ASCII only."""
    return text.encode("ascii", "replace").decode()
