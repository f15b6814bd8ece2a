"""perception.newest: the newest frame wins, drops show in the ids, nothing hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from time import perf_counter, sleep

import numpy as np
import pytest

from perception.newest import TOLD, every, newest
from perception.structures import Frame

PIXEL = np.zeros((1, 1, 3), np.uint8)


def frames(n: int, interval_s: float = 0.0, fps: float = 100.0) -> Iterator[Frame]:
    for i in range(n):
        sleep(interval_s)
        yield Frame(PIXEL, i, i / fps)


def test_a_slow_consumer_gets_the_newest_frame_and_the_last_one() -> None:
    all_read = threading.Event()

    def camera() -> Iterator[Frame]:
        yield from frames(40)
        all_read.set()

    got = newest(camera(), False, threading.Event())
    first, arrival, before = next(got)
    assert arrival <= perf_counter()
    assert all_read.wait(30)
    rest = list(got)
    assert [frame.id for frame, *_ in rest] == [39] * (first.id < 39)
    lost = [*before, *(pair for item in rest for pair in item.lost)]  # with their ids and times, each once
    assert lost == [(i, i / 100) for i in range(40) if i not in (first.id, 39)]


def test_memory_is_bounded_when_nobody_takes_a_frame() -> None:
    all_read = threading.Event()

    def camera() -> Iterator[Frame]:
        yield from frames(1)
        ready.wait(30)
        yield from (Frame(PIXEL, i, i / 100) for i in range(1, TOLD + 500))
        all_read.set()

    ready = threading.Event()
    got = newest(camera(), False, threading.Event())
    assert next(got).frame.id == 0
    ready.set()
    assert all_read.wait(30)
    last = list(got)[-1]
    assert last.frame.id == TOLD + 499 and len(last.lost) <= TOLD


def test_every_loses_nothing_and_can_be_paced() -> None:
    begin = perf_counter()
    got = []
    for ((frame, at, lost),) in every(([f] for f in frames(11, fps=50)), True, threading.Event()):
        sleep(0.03)  # too slow
        got.append((frame.id, perf_counter() - at, lost))
    assert [(i, lost) for i, _, lost in got] == [(i, ()) for i in range(11)]
    assert got[-1][1] > 0.1 and perf_counter() - begin >= 0.3  # the delay is in the age


def test_every_ends_when_it_should_stop() -> None:
    stop, ids = threading.Event(), []
    for ((frame, *_),) in every(([f] for f in frames(100)), False, stop):
        ids.append(frame.id)
        if frame.id == 4:
            stop.set()
    assert ids == [0, 1, 2, 3, 4]


def test_a_fast_consumer_gets_every_frame() -> None:
    waiting = threading.Semaphore(0)

    def camera() -> Iterator[Frame]:
        for frame in frames(5):
            waiting.acquire()  # the consumer is faster: it waits before each frame comes
            yield frame

    got, ids = newest(camera(), False, threading.Event()), []
    for _ in range(5):
        waiting.release()
        ids.append(next(got)[0].id)
    assert ids == [0, 1, 2, 3, 4] and next(got, None) is None


def test_pacing_follows_the_timestamps() -> None:
    begin = perf_counter()
    seen = [
        (frame.id, perf_counter() - arrival)
        for frame, arrival, _ in newest(frames(11, fps=50), True, threading.Event())
    ]
    assert perf_counter() - begin >= 0.199  # 10 intervals of 20 ms
    assert seen[0][0] == 0 and seen[-1][0] == 10 and all(age >= 0 for _, age in seen)


def test_when_reading_is_too_slow_the_age_says_so() -> None:
    ages = [perf_counter() - arrival for _, arrival, _ in newest(frames(6, 0.02, fps=1000), True, threading.Event())]
    assert ages[-1] > 0.08


def test_errors_come_after_the_frames_before_them() -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(1)
        sleep(0.05)
        raise OSError("cable is out")

    got = newest(broken(), False, threading.Event())
    assert next(got)[0].id == 0
    with pytest.raises(OSError, match="cable is out"):
        next(got)


def test_no_frames() -> None:
    assert list(newest(iter(()), True, threading.Event())) == []


def test_stop_ends_the_wait_for_a_camera_that_hangs() -> None:
    hang, stop = threading.Event(), threading.Event()

    def camera() -> Iterator[Frame]:
        yield from frames(1)
        hang.wait(60)

    got = newest(camera(), False, stop)
    assert next(got)[0].id == 0
    threading.Timer(0.05, stop.set).start()
    threading.Timer(0.3, hang.set).start()
    begin = perf_counter()
    assert next(got, None) is None
    assert perf_counter() - begin < 30


def test_closing_ends_the_reading_thread() -> None:
    with closing(newest(frames(10_000, 0.001), False, threading.Event())) as got:
        next(got)
    deadline = perf_counter() + 30
    while any(thread.name == "newest frame" for thread in threading.enumerate()):
        assert perf_counter() < deadline
        sleep(0.01)
