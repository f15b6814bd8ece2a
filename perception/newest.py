"""The newest frame of a source, for what runs in real time: a thread reads, one slot holds, what nobody takes is lost.

A camera goes on whether anybody looks or not. Queueing its frames only makes every answer older; so each new frame
replaces the one that waits. `Frame.id` counts in the source: the gaps between the frames that come out are the drops.
`every` loses nothing: for it, whoever is slow holds up the reading.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple

from perception.structures import Frame

__all__ = ["Arrival", "every", "newest"]

TOLD = 1000  # of the frames lost between two others, so many are named; memory stays bounded if the model hangs
POLL_S = 0.1  # how often a wait looks at `stop`


class Arrival(NamedTuple):
    """A frame and when it came."""

    frame: Frame
    at: float  # seconds of time.perf_counter
    lost: tuple[tuple[int, float], ...] = ()  # (id, timestamp_s) of the frames between this and the one before it


class _Clock:
    """Says when a frame arrives: now, or, where a recording is `paced`, when its timestamp says."""

    def __init__(self, paced: bool) -> None:
        self._paced = paced
        self._origin: float | None = None  # perf_counter at timestamp 0

    def arrival(self, frame: Frame, stop: threading.Event) -> float:
        """When `frame` arrives, after waiting for it or for `stop`: seconds of time.perf_counter."""
        at = perf_counter()
        if self._paced:
            self._origin = at - frame.timestamp_s if self._origin is None else self._origin
            at = self._origin + frame.timestamp_s
            stop.wait(max(0.0, at - perf_counter()))
        return at


def every(
    groups: Iterable[Sequence[Frame]], paced: bool, stop: threading.Event
) -> Generator[list[Arrival], None, None]:
    """Yield each group of frames, in order, when its last one has come; `paced` and `stop` as in `newest`."""
    clock = _Clock(paced)
    for frames in groups:
        arrivals = [Arrival(frame, clock.arrival(frame, stop)) for frame in frames]
        if stop.is_set():
            return
        yield arrivals


def newest(frames: Iterable[Frame], paced: bool, stop: threading.Event) -> Generator[Arrival, None, None]:
    """Yield the newest frame each time; the last frame is never lost.

    Args:
        frames: read in a thread of its own, until it ends or this generator is closed.
        paced: play a recording: a frame arrives when its timestamp says, counted from the first one. When reading is
            slower than that, arrival still is the time that was due, so that the delay shows in the frame's age.
        stop: ends the waiting, and with it the frames.

    An error in `frames` is raised here, after the frames before it.
    """
    slot: list[Arrival] = []  # none or one
    lost: deque[tuple[int, float]] = deque(maxlen=TOLD)
    errors: list[BaseException] = []
    ready = threading.Condition()
    left, over = threading.Event(), threading.Event()

    def read() -> None:
        clock = _Clock(paced)
        try:
            for frame in frames:
                arrival = clock.arrival(frame, left)
                if left.is_set():
                    return
                with ready:
                    lost.extend((waiting.frame.id, waiting.frame.timestamp_s) for waiting in slot)
                    slot[:] = [Arrival(frame, arrival)]
                    ready.notify()
        except BaseException as error:
            errors.append(error)
        finally:
            with ready:
                over.set()
                ready.notify()

    thread = threading.Thread(target=read, name="newest frame", daemon=True)  # daemon: a dead camera may block for ever
    thread.start()
    try:
        while True:
            with ready:
                while not (slot or over.is_set() or stop.is_set()):
                    ready.wait(POLL_S)
                item = slot.pop()._replace(lost=tuple(lost)) if slot and not stop.is_set() else None
                lost.clear()
            if item is not None:
                yield item
            elif errors:
                raise errors[0]
            else:
                return
    finally:
        left.set()
        thread.join(timeout=2)
