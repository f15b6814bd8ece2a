"""benchmarks/tracking.py: its detector, and the judge on answers that are known to be right or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import geometry, report, tracking
from benchmarks.compare import read_result
from benchmarks.machine import result, row
from data.synthetic import Drive


def test_the_detector_is_seeded_and_misses_what_is_hidden() -> None:
    frame = Drive(11, (360, 640), frames=2, density=1.5)[0]
    first, again = (tracking.detect(frame, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first.detections.boxes, again.detections.boxes)
    found = [
        np.mean([len(tracking.detect(frame, np.random.default_rng(i), blind).detections) for i in range(20)])
        for blind in (0.0, 5.0)
    ]
    assert found[1] < found[0]


def test_the_judge_knows_right_from_wrong() -> None:
    pytest.importorskip("trackeval")
    rng = np.random.default_rng(0)
    frames = [tracking.detect(frame, rng) for frame in Drive(11, (360, 640), frames=4, density=1.0)]
    right = [(frame.ids, frame.boxes) for frame in frames]
    new_ids = [(frame.ids + 10_000 * i, frame.boxes) for i, frame in enumerate(frames)]
    perfect, restless = (tracking.combined([tracking.judge(frames, answer)]) for answer in (right, new_ids))
    assert (perfect["HOTA"], perfect["IDF1"], perfect["MOTA"], perfect["switches"]) == (100, 100, 100, 0)
    assert restless["DetA"] == 100 and restless["AssA"] < 50 and restless["switches"] > 0


def test_margins_are_over_the_best_of_the_others() -> None:
    figures = [dict.fromkeys(tracking.FIGURES, value) for value in (60.0, 99.0, 50.0, 61.5)]
    found = tracking.margins({"toy": dict(zip(("ours", "ours, without pictures", "a", "b"), figures, strict=True))})
    assert found == {"toy": dict.fromkeys(tracking.FIGURES, -1.5)}


def test_the_cost_is_that_of_pictures(tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    assert tracking.main(["--cost", "--seconds", "0.2", "--rounds", "2", "--json", str(out)]) == 0
    found = read_result(out)
    assert found["benchmark"] == "tracking_cost" and len(found["rows"]) == 3 * len(tracking.SIZES)
    for hw in tracking.SIZES:
        pair, without, difference = (
            np.array(found["rows"][f"{hw[1]}x{hw[0]}: {part}"]["rounds"])
            for part in ("with pictures", "without", "difference")
        )
        np.testing.assert_allclose(pair - without, difference, rtol=1e-3, atol=1e-3)
        assert (
            len(pair) == 2 and found["figures"]["ms"][f"{hw[1]}x{hw[0]}: without"]["n"] == 8
        )  # 5 frames, not the first
    assert tracking.main(["--cost", "--rounds", "0"]) == 2
    assert report.main(["--results", str(tmp_path), "--readme", "None"]) == 0
    assert "| 640x360: difference | ms |" in (tmp_path / "REPORT.md").read_text()


def test_the_page_has_every_tracker(tmp_path: Path) -> None:
    figures = {"toy": {name: dict.fromkeys(tracking.FIGURES, 60.5) for name in ("ours", "a")}}
    found = result("tracking", {}, {"toy: ours: HOTA": row("%", [60.5], "higher")}, {}, scenarios=figures, margins={})
    (tmp_path / "tracking.json").write_text(json.dumps(found))
    assert report.main(["--results", str(tmp_path), "--readme", "None"]) == 0
    page = (tmp_path / "REPORT.md").read_text()
    assert "| toy | ours | 60.5 | 60.5 | 60.5 |" in page and "| toy | a | 60.5" in page


def test_geometry_is_judged_by_what_was_told_and_by_the_truth() -> None:
    rows = [[1.0, 1.3, 0.2]] * 40 + [[2.5, 1.5, 2.0]] * 40 + [[np.inf, 1.7, 0.5]] * 20
    (band,) = geometry.judged(rows, [(1, 2)], "s").values()
    assert band == {
        "samples": 100, "median relative error": pytest.approx(0.35), "within 1 sigma": 0.4,
        "does not come nearer": 0.2, "median relative sigma": pytest.approx(0.2941, abs=1e-4), "told / truth": 1.3,
    }  # fmt: skip
    assert geometry.judged(rows[:29], [(1, 2)], "s") == {}


def test_geometry_to_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One short drive; told twice, so that it is enough to be judged."""
    whole, out = geometry.samples, tmp_path / "geometry.json"
    monkeypatch.setattr(
        geometry, "samples", lambda seed, seconds, flat, sure: [20 * rows for rows in whole(23, 0.3, flat, sure)]
    )
    assert geometry.main(["--seeds", "1", "--json", str(out)]) == 0
    found = read_result(out)
    assert 0 < found["rows"]["flat road: distance, 20 to 40 m: median relative error"]["rounds"][0] < 20
    assert "distance" in found["figures"]["tables"]["hills"]
    monkeypatch.setattr(geometry, "samples", lambda *_: ([], []))
    assert geometry.main(["--seeds", "1", "--json", str(out)]) == 2
    assert "expected longer ones" in capsys.readouterr().err
