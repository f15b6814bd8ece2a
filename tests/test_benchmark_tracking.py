"""benchmarks/tracking.py: its detector, and the judge on answers that are known to be right or wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from data.synthetic import Drive


@pytest.fixture(scope="module")
def tracking() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "tracking.py"
    spec = importlib.util.spec_from_file_location("benchmark_tracking", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_detector_is_seeded_and_misses_what_is_hidden(tracking: ModuleType) -> None:
    frame = Drive(11, (360, 640), frames=2, density=1.5)[0]
    first, again = (tracking.detect(frame, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first.detections.boxes, again.detections.boxes)
    found = [
        np.mean([len(tracking.detect(frame, np.random.default_rng(i), blind).detections) for i in range(20)])
        for blind in (0.0, 5.0)
    ]
    assert found[1] < found[0]


def test_the_judge_knows_right_from_wrong(tracking: ModuleType) -> None:
    pytest.importorskip("trackeval")
    rng = np.random.default_rng(0)
    frames = [tracking.detect(frame, rng) for frame in Drive(11, (360, 640), frames=4, density=1.0)]
    right = [(frame.ids, frame.boxes) for frame in frames]
    new_ids = [(frame.ids + 10_000 * i, frame.boxes) for i, frame in enumerate(frames)]
    perfect, restless = (tracking.combined([tracking.judge(frames, answer)]) for answer in (right, new_ids))
    assert (perfect["HOTA"], perfect["IDF1"], perfect["MOTA"], perfect["switches"]) == (100, 100, 100, 0)
    assert restless["DetA"] == 100 and restless["AssA"] < 50 and restless["switches"] > 0
