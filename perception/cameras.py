"""Several sources as one: their frames in the order of time, each with the name of its camera, in groups for one call.

Recordings are merged by their timestamps, which count from the start of each: they are taken to have begun together.
Live, each camera has a slot of its own for its newest frame, and those that wait longest are next, so that a camera
that is fast, slow or gone does not starve the others.

A group has at most one frame of a camera, and at most as many as the model takes in one call; with more cameras than
that, they take turns. Where frames come at their own times (live, or a recording that is played at its own speed), none
is held back by more than TOGETHER_S for the sake of the others: the group goes with what is there. A recording that is
read as fast as can be has no such limit: there the next frame of a camera that is in the group ends it.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import PurePath
from time import perf_counter

from perception.newest import POLL_S, TOLD, Arrival, every, newest
from perception.sources import FrameSource
from perception.structures import Frame

__all__ = ["TOGETHER_S", "camera_names", "every_of", "newest_of", "together"]

TOGETHER_S = 0.02  # so long a frame waits for those of other cameras: half an interval at 25 frames a second


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
    sources: Sequence[FrameSource], names: Sequence[str], paced: bool, stop: threading.Event, size: int = 1
) -> Generator[list[Arrival], None, None]:
    """Every frame of all sources by rising time, in groups of up to `size`; equal times in the order of the sources."""

    def frames(source: FrameSource, name: str) -> Iterator[Frame]:
        for frame in source:
            yield replace(frame, camera=name)

    if len(sources) > 1 and any(source.live for source in sources):
        raise ValueError("several live sources can not be kept waiting for each other; leave out --no-drop")
    streams = [frames(source, name) for source, name in zip(sources, names, strict=True)]
    merged = heapq.merge(*streams, key=lambda frame: frame.timestamp_s)
    return every(together(merged, min(size, len(sources)), TOGETHER_S if paced else math.inf), paced, stop)


def together(frames: Iterable[Frame], size: int, within_s: float) -> Iterator[list[Frame]]:
    """Frames by rising time -> groups of up to `size` of different cameras, no two over `within_s` seconds apart.

    A full group comes at once, others when the next frame is known not to belong. An error in `frames` comes after the
    frames before it.
    """
    group: list[Frame] = []
    try:
        for frame in frames:
            again = any(other.camera == frame.camera for other in group)
            if again or (group and frame.timestamp_s - group[0].timestamp_s > within_s):
                yield group
                group = []
            group.append(frame)
            if len(group) == size:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def newest_of(
    sources: Sequence[FrameSource],
    names: Sequence[str],
    paced: Callable[[FrameSource], bool],
    stop: threading.Event,
    size: int = 1,
) -> Generator[list[Arrival], None, None]:
    """The newest frames of up to `size` cameras, those that wait longest first; ends when all have or `stop` is set.

    While fewer are there than could come, it waits, until one of them has waited for TOGETHER_S. An error of one source
    ends all, after the frames that wait.
    """
    if len(sources) == 1:
        with closing(newest(sources[0], paced(sources[0]), stop)) as arrivals:
            yield from ([arrival] for arrival in arrivals)
        return
    slots: dict[int, tuple[float, Arrival]] = {}  # since when it is filled, by perf_counter; the longest first
    errors: list[BaseException] = []
    ready = threading.Condition()
    left = threading.Event()
    running = set(range(len(sources)))

    def read(number: int) -> None:
        source = sources[number]
        try:
            with closing(newest(source, paced(source), left)) as arrivals:
                for arrival in arrivals:
                    arrival = arrival._replace(frame=replace(arrival.frame, camera=names[number]))
                    with ready:
                        since, before = slots.get(number, (perf_counter(), None))
                        if before:  # the new one takes its place in the order
                            lost = (*before.lost, (before.frame.id, before.frame.timestamp_s), *arrival.lost)
                            arrival = arrival._replace(lost=lost[-TOLD:])
                        slots[number] = since, arrival
                        ready.notify_all()
                    if left.is_set():
                        return
        except BaseException as error:
            errors.append(error)
        finally:
            with ready:
                running.discard(number)
                ready.notify_all()

    with ExitStack() as ends:
        threads = [threading.Thread(target=read, args=(i,), name="camera", daemon=True) for i in range(len(sources))]
        for thread in threads:
            thread.start()
            ends.callback(thread.join, 2)
        ends.callback(left.set)
        while True:
            with ready:
                while not stop.is_set() and len(slots) < min(size, len(running | slots.keys())):
                    left_s = min((since for since, _ in slots.values()), default=math.inf) + TOGETHER_S - perf_counter()
                    if errors or left_s <= 0:
                        break
                    ready.wait(min(POLL_S, left_s))
                if stop.is_set():
                    return
                group = [slots.pop(number)[1] for number in list(slots)[:size]]
            if not group:
                break
            yield group
        if errors:
            raise errors[0]
