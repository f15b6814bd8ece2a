"""Stages that overlap: each in a thread of its own, with short queues between them. Knows nothing of perception.

    for picture in pipeline(read(), [prepare, infer, draw]): ...

Items come out in the order in which they went in, none is lost, and none is copied. OpenCV, PyAV and ONNX Runtime let
go of Python's interpreter lock while they work, so that such stages really run at the same time.

What ends it ends all of it: when `items` end, the stages finish what is under way. When a stage (or `items`) raises,
what it had passed on still comes out, and then the error is raised to the caller. When the caller leaves (closes the
generator, or an exception passes through it), the stages stop after the item that they are at; the rest is forgotten.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from time import monotonic
from typing import Any

__all__ = ["pipeline"]

WAIT_S = 0.5  # a wait without a limit can not be interrupted by Ctrl-C on every platform
PATIENCE_S = 5.0  # for the threads to end when the caller leaves; a read from a dead camera may take for ever
END = object()


def pipeline(items: Iterable[Any], stages: Sequence[Callable[[Any], Any]], room: int = 1) -> Generator[Any, None, None]:
    """Yield stages[-1](... stages[0](item)) for each item.

    Args:
        items: iterated in a thread of its own, and closed there if it is a generator.
        stages: functions of one item; each is only ever called from one thread.
        room: how many items may wait in front of each stage. With `room` 1, at most 2 n + 3 are under way in n stages
            (one in each stage, one before it, one before the caller, one with it, and one in the reader). A buffer
            that one stage fills and the next one empties may be used again `room` + 2 items later.
    """
    if room < 1:
        raise ValueError(f"room must be at least 1, but got {room}")
    channels = [_Channel(room) for _ in range(len(stages) + 1)]
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                if not channels[0].put(item):
                    return
        except BaseException as error:
            errors.append(error)
        finally:
            if close := getattr(items, "close", None):
                _closed(close, errors)
            channels[0].end()

    def work(stage: Callable[[Any], Any], number: int) -> None:
        try:
            while (item := channels[number].get()) is not END:
                if not channels[number + 1].put(stage(item)):
                    break
        except BaseException as error:
            errors.append(error)
        finally:
            for channel in channels[: number + 1]:  # nobody takes what those before would still make
                channel.close()
            channels[number + 1].end()

    threads = [threading.Thread(target=read, name="pipeline: items", daemon=True)]
    for number, stage in enumerate(stages):
        name = f"pipeline: {getattr(stage, '__name__', type(stage).__name__)}"
        threads.append(threading.Thread(target=work, args=(stage, number), name=name, daemon=True))
    for thread in threads:
        thread.start()
    try:
        while (item := channels[-1].get()) is not END:
            yield item
        if errors:
            raise errors[0]
    finally:
        for channel in channels:
            channel.close()
        deadline = monotonic() + PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))


class _Channel:
    """A queue of at most `room` items for one writer and one reader; either may leave."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[Any] = deque()
        self._ended = self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Any) -> bool:
        """Add an item as soon as there is room. False: the reader has left."""
        with self._changed:
            while len(self._items) >= self._room and not self._closed:
                self._changed.wait(WAIT_S)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> Any:
        """The oldest item as soon as there is one; END when none will come any more."""
        with self._changed:
            while not (self._items or self._ended or self._closed):
                self._changed.wait(WAIT_S)
            if self._closed or not self._items:
                return END
            self._changed.notify_all()
            return self._items.popleft()

    def end(self) -> None:
        """The writer: there is no more; what waits can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """The reader: nothing more is wanted; what waits is forgotten."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


def _closed(close: Callable[[], None], errors: list[BaseException]) -> None:
    """Call `close`, and remember what it raises."""
    try:
        close()
    except BaseException as error:
        errors.append(error)
