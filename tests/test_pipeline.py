"""perception.pipeline: in order, none lost, overlapping, bounded, and it always ends."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from time import perf_counter, sleep

import pytest

from perception.pipeline import pipeline


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = perf_counter() + 10
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("pipeline")]:
        assert perf_counter() < deadline, left
        sleep(0.005)


def slowly(change: Callable[[int], int], seed: int) -> Callable[[int], int]:
    chance = random.Random(seed)

    def stage(item: int) -> int:
        sleep(chance.choice([0, 0, 0.001, 0.003]))
        return change(item)

    return stage


@pytest.mark.parametrize("room", [1, 3])
@pytest.mark.parametrize("n_stages", [0, 1, 4])
def test_equal_to_a_plain_loop_whatever_the_speeds(room: int, n_stages: int) -> None:
    stages = [slowly(lambda x, k=k: 3 * x + k, k) for k in range(n_stages)]
    expected = list(range(60))
    for k in range(n_stages):
        expected = [3 * x + k for x in expected]
    assert list(pipeline(range(60), stages, room)) == expected


def test_nothing_in_nothing_out() -> None:
    assert list(pipeline((), [str, str])) == []


def test_stages_run_at_the_same_time() -> None:
    """Three stages meet at one barrier: in one thread they would wait for ever."""
    barrier = threading.Barrier(3, timeout=20)

    def stage(offset: int) -> Callable[[int], int]:
        def run(item: int) -> int:
            if 2 - offset <= item < 8 - offset:  # 6 meetings; stage 0 is two items ahead of stage 2
                barrier.wait()
            return item

        return run

    assert list(pipeline(range(10), [stage(0), stage(1), stage(2)])) == list(range(10))


@pytest.mark.parametrize("room", [1, 2])
def test_what_is_under_way_is_bounded(room: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield i

    with closing(pipeline(items(), [int, int], room)) as results:
        next(results)
        sleep(0.2)  # the reader goes as far as it can
        assert taken == 1 + 2 + 3 * room + 1  # with us, in the two stages, waiting, in the reader's hand


def test_a_buffer_may_be_used_again_after_room_and_two_items() -> None:
    for room in (1, 2):
        buffers: list[list[int]] = [[-1] for _ in range(room + 2)]

        def fill(item: int, buffers: list[list[int]] = buffers) -> tuple[int, list[int]]:
            buffer = buffers[item % len(buffers)]
            buffer[0] = item
            return item, buffer

        def check(pair: tuple[int, list[int]]) -> bool:
            sleep(0.001)
            return pair[0] == pair[1][0]

        assert all(pipeline(range(200), [fill, check], room))


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_error_comes_after_what_was_passed_on(where: int) -> None:
    def stage(number: int) -> Callable[[int], int]:
        def run(item: int) -> int:
            if number == where and item == 20:
                raise OSError("disk full")
            return item

        return run

    got = []
    with pytest.raises(OSError, match="disk full"):
        for item in pipeline(range(10_000), [stage(0), stage(1), stage(2)]):
            got.append(item)
    assert got == list(range(20))


def test_an_error_of_the_items_comes_after_them() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("corrupt")

    got = []
    with pytest.raises(ValueError, match="corrupt"):
        got.extend(pipeline(items(), [int]))
    got.clear()
    with pytest.raises(ValueError, match="corrupt"):
        for item in pipeline(items(), [int]):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]


def test_when_the_caller_leaves_the_items_are_closed_in_their_thread() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10_000)
        finally:
            closed.append(threading.current_thread().name)

    with pytest.raises(KeyError):
        with closing(pipeline(items(), [int])) as results:
            for item in results:
                raise KeyError(item)
    assert closed == ["pipeline: items"]


def test_items_that_hang_do_not_hold_up_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.pipeline.PATIENCE_S", 0.2)
    hang = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        hang.wait(60)

    begin = perf_counter()
    with closing(pipeline(items(), [int])) as results:
        assert next(results) == 1
    assert perf_counter() - begin < 20
    hang.set()


def test_room_must_be_there() -> None:
    with pytest.raises(ValueError, match="room must be at least 1"):
        next(pipeline([], [], 0))
