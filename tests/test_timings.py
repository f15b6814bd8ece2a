"""perception.timings: percentiles close to the exact ones, in constant memory, with no slow sample lost."""

from __future__ import annotations

import numpy as np
import pytest

from perception.timings import Timings


def test_percentiles_are_within_one_percent_of_the_exact_ones() -> None:
    samples = np.random.default_rng(0).lognormal(2.0, 1.0, 5000)
    timings = Timings()
    for ms in samples:
        timings.add(float(ms))
    summary = timings.summary()
    for percent in (50, 90, 99):
        exact = np.percentile(samples, percent, method="inverted_cdf")
        assert exact <= summary[f"p{percent}"] + 1e-3 and summary[f"p{percent}"] <= exact * 1.0101
    assert summary["max"] == pytest.approx(samples.max(), abs=1e-3)
    assert summary["mean"] == pytest.approx(samples.mean(), abs=1e-3)
    assert timings.count == 5000 and len(timings._bins) < 1500


def test_one_slow_sample_shows() -> None:
    timings = Timings()
    for ms in [1.0] * 99 + [5000.0]:
        timings.add(ms)
    assert timings.summary() == pytest.approx({"p50": 1, "p90": 1, "p99": 1, "max": 5000, "mean": 50.99}, rel=0.01)


def test_edges() -> None:
    assert set(Timings().summary().values()) == {0.0}
    timings = Timings()
    timings.add(0.0)
    assert timings.summary()["max"] == timings.summary()["p99"] == 0.0
    timings.add(1e9)
    assert timings.summary()["p99"] == timings.summary()["max"] == 1e9
