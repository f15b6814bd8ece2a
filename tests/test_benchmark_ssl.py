"""The study of pretraining: its tables, and the sentence about labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ssl_plot, ssl_study, study


def row(arm: str, share: float, miou: float, seed: int = 0, detail: bool = False, steps: int = 300) -> dict[str, Any]:
    return {
        "arm": arm, "data": "town", "split": "val", "share": share, "seed": seed, "detail": detail, "mIoU": miou,
        "steps": steps,
    }  # fmt: skip


STORED: dict[str, Any] = {
    "pretraining": {
        "random": {"steps": 0, "hours": 0.0, "images_per_second": 0.0},
        "distil": {"steps": 600, "hours": 0.2, "images_per_second": 30.0},
    },
    "probes": {"town val": {"random": {"linear": 10.0, "knn": 9.0}, "distil": {"linear": 20.0, "knn": 19.0}}},
    "runs": [
        row("random", 0.1, 20.0), row("random", 0.1, 24.0, seed=1), row("random", 0.5, 30.0), row("random", 1.0, 34.0),
        row("distil", 0.1, 30.0), row("distil", 1.0, 40.0), row("distil", 1.0, 44.0, detail=True),
        row("random", 0.1, 25.0, steps=900),
    ],
}  # fmt: skip


def test_curves_are_means_over_seeds() -> None:
    found = ssl_plot.curves(STORED, ("town", False, 300))
    assert found["random"] == [(0.1, 22.0), (0.5, 30.0), (1.0, 34.0)]
    assert found["distil"] == [(0.1, 30.0), (1.0, 40.0)]
    assert ssl_plot.curves(STORED, ("town", True, 300)) == {}  # one share is no curve
    assert ssl_plot.curves(STORED, ("town", False, 900)) == {}  # nor do runs of other lengths belong to it


def test_how_many_labels_are_worth_as_much() -> None:
    curve = [(0.1, 22.0), (0.5, 30.0), (1.0, 34.0)]
    assert ssl_plot.share_for(curve, 30.0) == pytest.approx(0.5)
    assert ssl_plot.share_for(curve, 26.0) == pytest.approx(0.3)
    assert ssl_plot.share_for(curve, 35.0) is None
    assert ssl_plot.equal_labels(STORED) == [
        "town, 300 steps, ViT alone: 10% of the labels with distil give what 50% give without",
        "town, 300 steps, ViT alone: 100% of the labels with distil give more (40.0) than 100% give without (34.0)",
    ]


def test_tables_have_a_row_an_arm() -> None:
    lines = ssl_study.finetuning_table(STORED).splitlines()
    assert lines[0] == (
        "| init | town val, 300 steps, 10 % | town val, 300 steps, 50 % | town val, 300 steps, 100 % "
        "| town val, 900 steps, 10 % | town val, 300 steps, 100 %, detail path |"
    )
    assert lines[2] == "| random | 22.0 +- 2.8 | 30.0 | 34.0 | 25.0 |  |"
    assert lines[3] == "| distil | 30.0 |  | 40.0 |  | 44.0 |"
    assert ssl_study.pretraining_table(STORED).splitlines()[3] == "| distil | 600 | 0.20 | 30 | 20.0 | 19.0 |"


def test_an_arm_that_was_not_probed_on_a_dataset_leaves_its_place_empty() -> None:
    probes = {**STORED["probes"], "village val": {"distil": {"linear": 50.0}}}
    lines = ssl_study.pretraining_table(STORED | {"probes": probes}).splitlines()
    assert lines[2].endswith("| 10.0 | 9.0 |  |") and lines[3].endswith("| 20.0 | 19.0 | 50.0 |")
    probes = {"village val": {"distil": {"linear": 50.0}}, **STORED["probes"]}
    assert ssl_study.pretraining_table(STORED | {"probes": probes}).splitlines()[2].endswith("|  | 10.0 | 9.0 |")


def test_runs_of_different_shares_and_seeds_have_files_of_their_own(tmp_path: Path, monkeypatch: Any) -> None:
    made: list[Path] = []
    monkeypatch.setattr(ssl_study, "cached", lambda file, make: made.append(file) or {"mIoU": 1.0})
    config = ssl_study.SslStudyConfig(out=tmp_path)
    for share in (0.05, 0.1, 1.0):
        for seed in (0, 1):
            for detail in (False, True):
                ssl_study.finetuned(config, "mae, then distil", None, "town:val", share, seed, detail)
    longer = ssl_study.SslStudyConfig(out=tmp_path, steps=900)
    ssl_study.finetuned(longer, "mae, then distil", None, "town:val", 1.0, 0, False)
    ssl_study.finetuned(longer, "mae, then distil", None, "town.v2:val", 1.0, 0, False)
    ssl_study.finetuned(longer, "mae, then distil", None, "town.v2:val", 1.0, 1, False)
    assert len(set(made)) == 15


def test_every_run_has_a_log_of_its_own_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = 0

    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: Done())
    for seed in (0, 1):
        study.trained(tmp_path / f"depth_0.1_{seed}", 1, [])
    assert {path.name for path in tmp_path.iterdir()} == {"depth_0.1_0.log", "depth_0.1_1.log"}


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    ssl_plot.draw(STORED, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_plot_is_beside_the_results(tmp_path: Path) -> None:
    """So that a study of one's own does not draw over the committed one."""
    (tmp_path / "own.json").write_text(json.dumps(STORED))
    assert ssl_study.main(["--report", "--result", str(tmp_path / "own.json")]) == 0
    assert (tmp_path / "own.png").stat().st_size > 5000


def test_an_unknown_arm_and_missing_options_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ssl_study.main(["--out", str(tmp_path)]) == 2
    assert "--images, --data and --teacher" in capsys.readouterr().err
    options = ["--images", "a", "--data", "b:val", "--teacher", "c", "--out", str(tmp_path)]
    assert ssl_study.main([*options, "--arms", "dino"]) == 2
    assert "unknown arm 'dino'" in capsys.readouterr().err
