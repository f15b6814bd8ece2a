"""A figure -> text in percent, as a column of every table."""

from __future__ import annotations

from perception.page import percent as plain

__all__ = ["percent"]


def percent(value: float | None) -> str:
    """0.1234 -> "    12.3", and "       -" for None."""
    return f"{plain(value):>8}"
