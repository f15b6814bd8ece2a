"""One thing at a place along the road."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Thing", "thing_id"]


class Thing(NamedTuple):
    """Something at a place: what it is and how it stands."""

    kind: str
    s: float
    d: float
    seed: int
    track_id: int = 0
    yaw: float = 0.0  # against the road; pi = facing us
    phase: float = 0.0  # of walking or pedalling, radians; state of a traffic light (0 red, 1 and yellow, 2 green);
    # 1 for a building whose near end a neighbour hides
    length: float = 0.0  # along the road
    height: float = 0.0
    variant: str = ""
    braking: bool = False


def thing_id(family: int, slot: int) -> int:
    """Track id of a slot of a family of things."""
    return family * 1_000_000_000 + 500_000_000 + slot
