"""Timers are honest: known work is reported as what it took, nothing is dropped, asynchronous work is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.latency import Candidate, LatencyConfig, measure
from benchmarks.roofline import Work
from benchmarks.timing import arrive, budgeted, multi_stream, offline, ready, server, single_stream, summary, timed
from perception.engine import Metadata

HW = (32, 64)
FRAMES = [np.zeros((48, 80, 3), np.uint8)]


class Sleeper:
    """An engine that sleeps; it says by a clock of its own how long each run took."""

    metadata = Metadata(input_hw=HW, heads={"scene": ("a", "b")})
    input_hw = HW

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.truth_ms = seconds, list[float]()

    def run(self, tensor: np.ndarray) -> dict[str, Any]:
        begin = time.monotonic()
        time.sleep(self.seconds[len(self.truth_ms) % len(self.seconds)])
        self.truth_ms.append(1e3 * (time.monotonic() - begin))
        return {"scene": np.zeros((len(tensor), *HW), np.uint8)}


class Later:
    """An array that is not there yet, as engines with streams of their own return it."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self._wait()
        return np.zeros((1, *HW), np.uint8)


class Background(Sleeper):
    """Returns at once; the work goes on in a thread. What it took is until somebody has it."""

    def run(self, tensor: np.ndarray) -> dict[str, Any]:
        begin, thread = time.monotonic(), threading.Thread(target=time.sleep, args=self.seconds)

        def wait() -> None:
            thread.join()
            self.truth_ms.append(1e3 * (time.monotonic() - begin))

        thread.start()
        return {"scene": Later(wait)}


class FakeClock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


def test_a_call_is_held_against_the_work_of_its_whole_batch() -> None:
    class Stick:
        def fraction(self, work: object, ms: float) -> float:
            return ms

    candidate = Candidate("four at once", Sleeper(0.0), batch=4, work=Work(1e9, 1e6, 0, {}, 0))
    candidate.samples = {"inference": [7.0, 8.0, 9.0]}
    assert candidate.of_roof(Stick()) == 8.0  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize("kind", [Sleeper, Background])
def test_a_known_time_is_reported_within_2_percent(kind: type[Sleeper]) -> None:
    engine = kind(0.1)
    candidate = Candidate("sleeper", engine)
    measure([candidate], FRAMES, 25.0, LatencyConfig(runs=6, rounds=2, warmup=1))
    found = summary(candidate.samples["inference"])
    truth = engine.truth_ms[1:]  # the first one was the warm-up
    assert found["n"] == len(truth) == 6
    assert found["mean"] == pytest.approx(np.mean(truth), rel=0.02) and min(truth) >= 99
    assert found["p50"] == pytest.approx(sorted(truth)[2], rel=0.02)


def test_slow_samples_stay() -> None:
    engine = Sleeper(0.01, 0.01, 0.01, 0.15)
    candidate = Candidate("now and then", engine)
    measure([candidate], FRAMES, 25.0, LatencyConfig(runs=8, rounds=1, warmup=4))
    found = summary(candidate.samples["inference"])
    truth = engine.truth_ms[4:]
    assert found["n"] == 8 and sum(ms >= 150 for ms in candidate.samples["inference"]) == 2
    assert found["max"] >= max(truth) and found["mean"] == pytest.approx(np.mean(truth), rel=0.05)
    assert found["p99"] == found["max"]  # of 8 samples, the 99th percentile is the slowest


def test_all_is_the_sum_of_its_stages_and_rounds_are_medians() -> None:
    candidate = Candidate("sleeper", Sleeper(0.001))
    measure([candidate], FRAMES, 25.0, LatencyConfig(runs=6, rounds=2, warmup=1))
    stages = ("preprocess", "inference", "postprocess", "track", "overlay")
    sums = np.sum([candidate.samples[stage] for stage in stages], axis=0)
    assert candidate.samples["all"] == pytest.approx(sums)
    assert candidate.rounds["all"] == pytest.approx([np.median(sums[:3]), np.median(sums[3:])])


def test_the_time_budget_ends_it_but_keeps_what_was_begun() -> None:
    clock = FakeClock()
    assert budgeted(lambda _: clock.sleep(2), 10, 3.0, clock) == pytest.approx([2000, 2000])
    assert budgeted(lambda _: clock.sleep(9), 10, 3.0, clock) == pytest.approx([9000])


def test_percentiles_are_samples() -> None:
    found = summary([float(value) for value in range(1, 201)])
    assert (found["p50"], found["p90"], found["p99"], found["max"]) == (100, 180, 198, 200)
    assert found["mean"] == 100.5 and found["std"] == pytest.approx(57.734, abs=1e-3)
    with pytest.raises(ValueError, match="at least one"):
        summary([])


def test_answers_are_looked_into() -> None:
    log: list[str] = []

    class Lazy:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            log.append("waited")
            return np.ones(2)

    found = ready({"a": [Lazy()], "b": (Lazy(), 3)})
    assert log == ["waited", "waited"] and found["b"][1] == 3 and found["a"][0].sum() == 2


def test_single_multi_and_offline_count_what_they_say() -> None:
    clock, asked = FakeClock(), list[int]()

    def query(frames: Any) -> None:
        asked.append(len(frames))
        clock.sleep(0.1 * len(frames))

    assert single_stream(query, 3, 60, clock)["ms"] == pytest.approx(100)
    assert multi_stream(query, 2, 60, clock)["ms"] == pytest.approx(800)
    assert offline(query, 5, clock)["fps"] == pytest.approx(10)
    assert asked == [1, 1, 1, 8, 8, 5]


def test_server_counts_the_waiting_from_the_arrival() -> None:
    clock = FakeClock()
    found = server(lambda _: clock.sleep(0.1), rate=20, count=50, clock=clock)  # twice what can be answered
    moments = arrive(20, 50)
    end, expected = 0.0, []
    for moment in moments:
        end = max(end, moment) + 0.1
        expected.append(1e3 * (end - moment))
    assert found["max"] == pytest.approx(max(expected), abs=1e-3) and found["n"] == 50
    assert found["max"] > 1000 and found["busy"] > 0.9
    assert server(lambda _: clock.sleep(0.001), rate=1, count=50, clock=clock)["ms"] < 10  # nobody waits
    with pytest.raises(ValueError, match="over 0"):
        server(lambda _: None, rate=0, count=1)


def test_arrivals_are_poisson() -> None:
    gaps = np.diff([0.0, *arrive(50, 20000, seed=1)])
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.03)


def test_the_answer_is_handed_on() -> None:
    ms, answer = timed(lambda: {"x": 1})
    assert ms >= 0 and answer == {"x": 1}


def test_a_batch_is_answered_frame_by_frame() -> None:
    candidate = Candidate("four", Sleeper(0.0), batch=4)
    results = candidate.answer([np.zeros((40, 60, 3), np.uint8), np.zeros((20, 90, 3), np.uint8)])
    assert [result.class_maps["scene"].shape for result in results] == [(40, 60), (20, 90)]
    candidate.query(FRAMES)(range(9))
    assert len(candidate.engine.truth_ms) == 1 + 3  # 9 frames are three calls of four
