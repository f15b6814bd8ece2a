"""Durations in, percentiles out, in constant memory: a camera runs for days.

Every sample counts, the slow ones above all: p50, p90 and p99 are true within 1 %, the maximum and the mean are exact.
"""

from __future__ import annotations

import math

__all__ = ["Timings"]

STEP = 1.01  # width of a bin: neighbours differ by 1 %
FLOOR_MS = 1e-3


class Timings:
    """The distribution of many durations in milliseconds."""

    def __init__(self) -> None:
        self.count = 0
        self.max_ms = 0.0
        self._sum_ms = 0.0
        self._bins: dict[int, int] = {}  # index on a logarithmic scale -> samples; a few hundred at the most

    def add(self, ms: float) -> None:
        """Count one duration."""
        index = math.ceil(math.log(max(ms, FLOOR_MS) / FLOOR_MS, STEP))
        self._bins[index] = self._bins.get(index, 0) + 1
        self.count += 1
        self._sum_ms += ms
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of all samples do not exceed, in ms; 0 without samples."""
        wanted, seen = math.ceil(self.count * percent / 100), 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= wanted:
                return min(FLOOR_MS * STEP**index, self.max_ms)
        return 0.0

    def summary(self) -> dict[str, float]:
        """{"p50": ms, "p90": ms, "p99": ms, "max": ms, "mean": ms}, rounded to microseconds."""
        values = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        values |= {"max": self.max_ms, "mean": self._sum_ms / max(self.count, 1)}
        return {name: round(value, 3) for name, value in values.items()}
