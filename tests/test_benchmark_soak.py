"""benchmarks/soak.py: what it watches, and its verdict on made-up and real minutes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.soak import Looped, main, verdict
from perception.frames import open_source


def minutes(n: int, **growth: float) -> list[dict[str, float]]:
    start = {"rss_mb": 300.0, "all_threads": 9, "open_files": 12, "age_p99_ms": 80.0}
    return [{name: value + growth.get(name, 0.0) * i for name, value in start.items()} for i in range(n)]


def test_what_grows_fails() -> None:
    assert verdict(minutes(60), 5)["passed"]
    assert verdict(minutes(60, rss_mb=0.04), 5)["passed"]  # 2.2 MB of 300
    for name, step in (("rss_mb", 0.1), ("all_threads", 0.1), ("open_files", 0.1), ("age_p99_ms", 1.0)):
        assert not verdict(minutes(60, **{name: step}), 5)["passed"], name
    assert verdict(minutes(60, rss_mb=0.1), 5)["rss_growth"] == pytest.approx(5.5 / 300.4, abs=1e-4)
    rows = minutes(60)
    rows[1]["rss_mb"] = 900.0  # before it has settled
    rows[30]["rss_mb"] = 320.0  # for a minute
    assert verdict(rows, 5)["passed"]
    rows[30:] = [row | {"rss_mb": 310.0} for row in rows[30:]]  # and stayed
    assert not verdict(rows, 5)["passed"]
    assert not verdict(minutes(5), 5)["passed"]


def test_a_looped_clip_goes_on_in_ids_and_times(tmp_path: Path) -> None:
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 60 * i, np.uint8))
    with open_source(tmp_path) as source:
        frames = [frame for frame, _ in zip(Looped(source), range(10), strict=False)]
    assert [frame.id for frame in frames] == list(range(10))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 10 for i in range(10)])
    assert [frame.image[0, 0, 0] // 60 for frame in frames] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_two_short_minutes(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((60, 80, 3), 60 * i, np.uint8))
    argv = [str(tmp_path), "--model", str(tiny_model), "--provider", "cpu", "--minutes", "3", "--minute-s", "0.6"]
    code = main([*argv, "--settle-minutes", "1", "--json", "-"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures = found["figures"]
    assert found["benchmark"] == "soak" and len(found["rows"]["resident memory"]["rounds"]) == 3
    assert code == int(not figures["passed"]) and figures["summary"]["ended"] == "time is up"
    assert [row["minute"] for row in figures["minutes"]] == [1, 2, 3]
    assert all(row["rss_mb"] > 20 and row["threads"] > 4 and row["frames"] > 0 for row in figures["minutes"])
    total = sum(row["frames"] + row["dropped"] for row in figures["minutes"])
    assert 0 <= figures["summary"]["frames"] + figures["summary"]["dropped"] - total < 8
