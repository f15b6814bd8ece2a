"""The newest frame of a source, for what runs in real time: a thread reads, one slot holds, what nobody takes is lost.

A camera goes on whether anybody looks or not. Queueing its frames only makes every answer older; so each new frame
replaces the one that waits. `Frame.id` counts in the source: the gaps between the frames that come out are the drops.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from time import perf_counter

from perception.structures import Frame

__all__ = ["newest"]

POLL_S = 0.1  # how often a wait looks at `stop`


def newest(frames: Iterable[Frame], paced: bool, stop: threading.Event) -> Generator[tuple[Frame, float], None, None]:
    """Yield (frame, arrival) with the newest frame each time; the last frame is never lost.

    Args:
        frames: read in a thread of its own, until it ends or this generator is closed.
        paced: play a recording: a frame arrives when its timestamp says, counted from the first one. When reading is
            slower than that, arrival still is the time that was due, so that the delay shows in the frame's age.
        stop: ends the waiting, and with it the frames.

    `arrival` is in seconds of `time.perf_counter`. An error in `frames` is raised here, after the frames before it.
    """
    slot: list[tuple[Frame, float]] = []  # none or one
    errors: list[BaseException] = []
    ready = threading.Condition()
    left, over = threading.Event(), threading.Event()

    def read() -> None:
        origin: float | None = None
        try:
            for frame in frames:
                arrival = perf_counter()
                if paced:
                    origin = arrival - frame.timestamp_s if origin is None else origin
                    arrival = origin + frame.timestamp_s
                    left.wait(max(0.0, arrival - perf_counter()))
                if left.is_set():
                    return
                with ready:
                    slot[:] = [(frame, arrival)]
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
                item = slot.pop() if slot and not stop.is_set() else None
            if item is not None:
                yield item
            elif errors:
                raise errors[0]
            else:
                return
    finally:
        left.set()
        thread.join(timeout=2)
