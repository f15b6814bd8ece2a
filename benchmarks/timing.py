"""Honest timing: what a piece of work takes until its answer is there, every sample kept; and MLPerf's scenarios.

The scenarios follow MLPerf Inference (arXiv:1911.02549) in what they ask and count, at sizes for minutes:

- SingleStream: the next query starts when the last is answered; p90.
- MultiStream: a query is 8 frames; from its start until all 8 are answered; p99.
- Offline: all frames are there at once; frames a second.
- Server: queries arrive at random (Poisson) at a given rate and wait in one queue; p99, counted from the moment at
  which a query arrives, not from when it is begun. The waiting is what overload looks like.

Legend: all times are milliseconds of a monotonic clock, unless a name ends in _s.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Protocol, TypeVar

import numpy as np

__all__ = [
    "Clock",
    "arrive",
    "budgeted",
    "multi_stream",
    "offline",
    "ready",
    "server",
    "single_stream",
    "summary",
    "timed",
]

MULTI = 8  # frames of a MultiStream query
PERCENTS = (50, 90, 99)

T = TypeVar("T")


class Clock(Protocol):
    """What a scenario needs to know and do about time; tests bring their own."""

    def now(self) -> float:
        """Seconds."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Monotonic:
    """The real clock."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


REAL = Monotonic()


def ready(answer: Any) -> Any:
    """Wait until every array of an answer is in the memory of this process: an engine may return before it is done.

    Mappings and sequences are looked into; whatever numpy can turn into an array (`__array__`) is turned into one.
    """
    if isinstance(answer, Mapping):
        return {name: ready(value) for name, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [ready(value) for value in answer]
    return np.asarray(answer) if hasattr(answer, "__array__") else answer


def timed(work: Callable[[], T], clock: Clock = REAL) -> tuple[float, T]:
    """(ms from the call until its answer is `ready`, the answer)."""
    begin = clock.now()
    answer = ready(work())
    return 1e3 * (clock.now() - begin), answer


def budgeted(work: Callable[[int], object], count: int, seconds: float, clock: Clock = REAL) -> list[float]:
    """ms of each `work(i)`, until there are `count` or `seconds` have passed, at least one. No sample is left out."""
    begin, samples = clock.now(), list[float]()
    while len(samples) < count and (not samples or clock.now() - begin < seconds):
        samples.append(timed(lambda: work(len(samples)), clock)[0])
    return samples


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Of all samples: n, p50, p90, p99, max, mean, std. A percentile is a real sample (nearest rank)."""
    if not samples:
        raise ValueError("expected at least one sample, but got none")
    ordered = sorted(samples)
    ranks = {percent: max(1, -(-len(ordered) * percent // 100)) for percent in PERCENTS}
    return {
        "n": len(ordered),
        **{f"p{percent}": round(ordered[rank - 1], 4) for percent, rank in ranks.items()},
        "max": round(ordered[-1], 4),
        "mean": round(fmean(ordered), 4),
        "std": round(pstdev(ordered), 4),
    }


Query = Callable[[Sequence[int]], object]  # frames by index -> their answers


def single_stream(query: Query, count: int, seconds: float, clock: Clock = REAL) -> dict[str, Any]:
    """One frame a query, one query after another."""
    samples = budgeted(lambda i: query([i]), count, seconds, clock)
    return {"counts": "p90", "ms": summary(samples)["p90"], **summary(samples)}


def multi_stream(query: Query, count: int, seconds: float, clock: Clock = REAL) -> dict[str, Any]:
    """8 frames a query, one query after another."""
    samples = budgeted(lambda i: query(range(i * MULTI, (i + 1) * MULTI)), count, seconds, clock)
    return {"counts": "p99", "ms": summary(samples)["p99"], "frames_a_query": MULTI, **summary(samples)}


def offline(query: Query, count: int, clock: Clock = REAL) -> dict[str, Any]:
    """All frames in one query."""
    ms, _ = timed(lambda: query(range(count)), clock)
    return {"counts": "frames a second", "fps": round(1e3 * count / ms, 3), "n": count, "seconds": round(ms / 1e3, 3)}


def arrive(rate: float, count: int, seed: int = 0) -> list[float]:
    """`count` moments of a Poisson process of `rate` a second, in seconds, rising."""
    dice, at, moments = random.Random(seed), 0.0, []
    for _ in range(count):
        at += dice.expovariate(rate)
        moments.append(at)
    return moments


def server(query: Query, rate: float, count: int, seed: int = 0, clock: Clock = REAL) -> dict[str, Any]:
    """Frames that arrive at random at `rate` a second, answered one after the other by one worker.

    No query is refused or dropped: the latency of each is from its arrival to its answer.
    """
    if rate <= 0:
        raise ValueError(f"the rate of a server's queries must be over 0 a second, but got {rate}")
    begin, samples, busy = clock.now(), [], 0.0
    for i, moment in enumerate(arrive(rate, count, seed)):
        wait = begin + moment - clock.now()
        if wait > 0:
            clock.sleep(wait)
        ms, _ = timed(lambda i=i: query([i]), clock)  # type: ignore[misc]
        busy += ms
        samples.append(1e3 * (clock.now() - begin - moment))
    took_ms = 1e3 * (clock.now() - begin)
    found = summary(samples)
    return {"counts": "p99", "ms": found["p99"], "rate": rate, "busy": round(busy / took_ms, 4), **found}
