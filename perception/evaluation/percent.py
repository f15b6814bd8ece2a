"""A figure -> text in percent, as every table has it."""

from __future__ import annotations

__all__ = ["percent"]


def percent(value: float | None) -> str:
    """0.1234 -> "    12.3", and "       -" for None."""
    return f"{'-' if value is None else f'{100 * value:.1f}':>8}"
