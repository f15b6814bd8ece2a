"""Reproducible chance without state: every number is a pure function of a seed and some keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["Dice"]

Item = TypeVar("Item")
MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """One round of splitmix64: 64 well-stirred bits."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Dice:
    """Random draws that depend on nothing but the keys, and so are the same in every run and on every machine."""

    def __init__(self, *keys: int | str) -> None:
        self.state = 0
        for key in keys:
            number = int.from_bytes(key.encode(), "little") if isinstance(key, str) else key
            self.state = _mix(self.state ^ (number & MASK))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        self.state = _mix(self.state)
        return low + (high - low) * (self.state >> 11) / (1 << 53)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.uniform() * len(items))]

    def generator(self) -> np.random.Generator:
        """A numpy generator for arrays."""
        self.state = _mix(self.state)
        return np.random.Generator(np.random.PCG64(self.state))
