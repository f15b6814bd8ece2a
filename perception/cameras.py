"""Several sources as one: their frames in the order of time, each with the name of its camera.

Recordings are merged by their timestamps, which count from the start of each: they are taken to have begun together.
Live, each camera has a slot of its own for its newest frame, and the one that waits longest is next, so that a camera
that is fast, slow or gone does not starve the others.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import PurePath

from perception.newest import POLL_S, TOLD, Arrival, every, newest
from perception.sources import FrameSource
from perception.structures import Frame

__all__ = ["camera_names", "every_of", "newest_of"]


def camera_names(sources: Sequence[FrameSource]) -> list[str]:
    """A short name for each source, all different: the file's without its ending; with one source, "" is enough."""
    if len(sources) == 1:
        return [""]
    names: list[str] = []
    for source in sources:
        stem = PurePath(source.name).stem or source.name
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names


def every_of(
    sources: Sequence[FrameSource], names: Sequence[str], paced: bool, stop: threading.Event
) -> Generator[Arrival, None, None]:
    """Every frame of all sources by rising time; where two are equal, in the order of the sources."""

    def frames(source: FrameSource, name: str) -> Iterator[Frame]:
        for frame in source:
            yield replace(frame, camera=name)

    if len(sources) > 1 and any(source.live for source in sources):
        raise ValueError("several live sources can not be kept waiting for each other; leave out --no-drop")
    streams = [frames(source, name) for source, name in zip(sources, names, strict=True)]
    return every(heapq.merge(*streams, key=lambda frame: frame.timestamp_s), paced, stop)


def newest_of(
    sources: Sequence[FrameSource], names: Sequence[str], paced: Callable[[FrameSource], bool], stop: threading.Event
) -> Generator[Arrival, None, None]:
    """The newest frame of each camera, the one that waits longest first; ends when all have ended or `stop` is set.

    An error of one source ends all, after the frames that wait.
    """
    if len(sources) == 1:
        yield from newest(sources[0], paced(sources[0]), stop)
        return
    slots: dict[int, Arrival] = {}
    errors: list[BaseException] = []
    ready = threading.Condition()
    left = threading.Event()
    running = len(sources)

    def read(number: int) -> None:
        nonlocal running
        source = sources[number]
        try:
            with closing(newest(source, paced(source), left)) as arrivals:
                for arrival in arrivals:
                    arrival = arrival._replace(frame=replace(arrival.frame, camera=names[number]))
                    with ready:
                        if before := slots.get(number):  # the new one takes its place in the order
                            lost = (*before.lost, (before.frame.id, before.frame.timestamp_s), *arrival.lost)
                            arrival = arrival._replace(lost=lost[-TOLD:])
                        slots[number] = arrival
                        ready.notify_all()
                    if left.is_set():
                        return
        except BaseException as error:
            errors.append(error)
        finally:
            with ready:
                running -= 1
                ready.notify_all()

    with ExitStack() as ends:
        threads = [threading.Thread(target=read, args=(i,), name="camera", daemon=True) for i in range(len(sources))]
        for thread in threads:
            thread.start()
            ends.callback(thread.join, 2)
        ends.callback(left.set)
        while True:
            with ready:
                while not (slots or stop.is_set() or errors or running == 0):
                    ready.wait(POLL_S)
                if stop.is_set():
                    return
                if not slots:
                    break
                number = next(iter(slots))
                arrival = slots.pop(number)
            yield arrival
        if errors:
            raise errors[0]
