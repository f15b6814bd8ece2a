"""The search: held-out part, space, score, files, resume after a kill, refused mistakes; on a toy data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_training import CAR_LABELS

from perception import search, train
from perception.layout import LayoutWriter, read_layout
from perception.training.policy import POLICIES, load_policy
from perception.training.search import coordinates, figures, hold_out, policy_from, score, space
from perception.training.search import search as walk


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images of train, 2 of val, 48x80: a red car on a grey road under a blue sky; one is not annotated for boxes."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    with LayoutWriter(folder, CAR_LABELS) as writer:
        for split, count in (("train", 8), ("val", 2)):
            for i in range(count):
                image, mask = np.full((48, 80, 3), 90, np.uint8), np.zeros((48, 80), np.uint8)
                image[:20], mask[:20] = (220, 150, 60), 1
                image[22:40, 5 * i : 5 * i + 24] = (0, 0, 230)
                boxes, names = ([[5 * i, 22, 5 * i + 24, 40]], ["car"]) if i != 3 else (None, [])
                writer.add(split, f"{i:03d}", image, masks={"seg": mask}, boxes=boxes, categories=names)
    return folder


def options(toy: Path, out: Path, *more: str) -> list[str]:
    small = ["--hw", "64", "96", "--threads", "1", "--hold-out", "4", "--trials", "2"]
    short = ["--loop.steps", "2", "--loop.batch-size", "2", "--loop.workers", "0", "--loop.save-every", "1"]
    return ["--data", str(toy), "--out", str(out), *small, *short, "--seeds", "0", *more]


def test_a_search_writes_its_policy_and_the_comparison_and_is_not_repeated(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted in the second trial between its two steps; then resumed; then asked again."""
    out, body, calls = tmp_path / "out", train.body, []

    def stopping(config: train.TrainConfig, *others: Any) -> dict[str, Any]:
        calls.append((config.out.name, config.resume))
        if config.out.name == "trial_001" and not config.resume:
            from perception.training import checkpoint

            save = checkpoint.save

            def save_and_stop(*args: object) -> None:
                save(*args)  # type: ignore[arg-type]
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(checkpoint, "save", save_and_stop)
                return body(config, *others)
        return body(config, *others)

    monkeypatch.setattr(train, "body", stopping)
    assert search.main(options(toy, out)) == 130
    assert (out / "trial_001" / "step_000001").is_dir() and not (out / "trial_001" / "score.json").exists()
    assert search.main(["--out", str(out), "--resume", "--json", str(tmp_path / "summary.json")]) == 0
    finals = [("default_seed0", False), ("found_seed0", False)]
    assert calls == [("trial_000", False), ("trial_001", False), ("trial_001", True), *finals]

    result = json.loads((out / "result.json").read_text())
    assert json.loads((tmp_path / "summary.json").read_text()) == result
    assert [trial["trial"] for trial in result["trials"]] == [0, 1]
    assert result["trials"][0]["point"] == coordinates(POLICIES["driving-2"]), "the base comes first"
    best = max(result["trials"], key=lambda trial: trial["score"])
    assert result["best_trial"] == best["trial"] and result["found"]["weights"] == best["policy"]["weights"]
    assert set(best["figures"]) == {"toy/AP50", "toy/drive mIoU"}
    val = {name: rows[0]["score"] for name, rows in result["val"].items()}
    assert result["gain"] == pytest.approx(val["found"] - val["default"])
    assert load_policy(str(out / "policy.json")).name == "found"
    printed = capsys.readouterr().out
    assert "gain: " in printed and "magnitude" in printed

    assert search.main(["--out", str(out), "--resume"]) == 0 and len(calls) == 5, "nothing is trained again"
    used = ["--data", str(toy), "--out", str(tmp_path / "run"), "--hw", "64", "96"]
    few = ["--loop.steps", "1", "--loop.batch-size", "2", "--loop.workers", "0", "--loop.warmup", "1"]
    assert train.main([*used, *few, "--augment.policy", str(out / "policy.json")]) == 0
    assert load_policy(str(tmp_path / "run" / "policy.json")).name == "found"


def paraboloid(best: dict[str, float], seen: list[dict[str, Any]], stop_at: int | None = None) -> Any:
    """In the place of a training: a score that falls with the distance of magnitude and crop from the best."""

    def run(policy: Any, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(policy.to_json())
        value = 1 - sum((getattr(policy, name) - at) ** 2 for name, at in best.items())
        return {"toy": {"boxes": None, "masks": {"drive": {"mIoU": value}}}}

    return run


def test_an_interrupted_search_tries_the_same_policies_as_one_that_is_not(tmp_path: Path) -> None:
    base, best = POLICIES["driving-2"], {"magnitude": 0.9, "crop": 0.2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    seen: list[dict[str, Any]] = []
    trials = walk(base, 14, 5, whole, paraboloid(best, []))
    with pytest.raises(KeyboardInterrupt):
        walk(base, 14, 5, cut, paraboloid(best, seen, stop_at=8))
    again = walk(base, 14, 5, cut, paraboloid(best, seen))
    assert [t["point"] for t in again] == [t["point"] for t in trials] and len(seen) == 14
    assert max(t["score"] for t in trials) > trials[0]["score"]
    other = tmp_path / "other"
    other.mkdir()
    assert walk(base, 2, 6, other, paraboloid(best, []))[1]["point"] != trials[1]["point"], "the seed matters"


def test_the_held_out_part_is_every_fourth_image_with_its_labels(toy: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked"  # JSON as some tools write it, with a byte order mark
    shutil.copytree(toy, marked)
    coco = marked / "boxes" / "train.json"
    coco.write_text(coco.read_text(), encoding="utf-8-sig")
    part = hold_out(marked, tmp_path / "part", 4)
    whole, rest = read_layout(toy, "train")[1], read_layout(part, "train")[1]
    labels, held = read_layout(part, "val")
    assert [s.image.stem for s in held] == ["002", "006"]
    assert {s.image.name for s in rest} | {s.image.name for s in held} == {s.image.name for s in whole}
    assert len(rest) == 6 and labels.name == "toy"
    by_name = {s.image.name: s for s in whole}
    for sample in (*rest, *held):
        original = by_name[sample.image.name]
        assert sample.image.read_bytes() == original.image.read_bytes()
        assert sample.masks["drive"].read_bytes() == original.masks["drive"].read_bytes()
        assert (sample.boxes is None) == (original.boxes is None)
        if sample.boxes is not None and original.boxes is not None:
            np.testing.assert_array_equal(sample.boxes, original.boxes)
    with pytest.raises(ValueError, match="too few to hold out every 9th"):
        hold_out(toy, tmp_path / "none", 9)
    with pytest.raises(ValueError, match="2 or more"):
        hold_out(toy, tmp_path / "none", 1)


def test_points_of_the_space_are_policies() -> None:
    base = POLICIES["driving-2"]
    unchanged = policy_from(base, coordinates(base), "driving-2")
    assert unchanged.weights == pytest.approx(dict(base.weights)) and unchanged.magnitude == base.magnitude
    most = {name: distribution.high for name, distribution in space(base).items()}  # type: ignore[attr-defined]
    strongest = policy_from(base, most, "most")
    assert strongest.shares() == pytest.approx({k: most[k] for k in base.shares()}, abs=1e-3)
    ratio = strongest.weights["fog"] / strongest.weights["snow"]
    assert ratio == pytest.approx(base.weights["fog"] / base.weights["snow"], rel=0.01)
    assert policy_from(base, dict.fromkeys(most, 0.0), "none").shares() == dict.fromkeys(base.shares(), 0.0)
    assert "flip" not in most


def test_the_score_is_the_mean_of_the_figures_that_there_are() -> None:
    evaluation = {
        "a": {"boxes": {"AP50": 0.2}, "masks": {"scene": {"mIoU": 0.6}, "drive": {"mIoU": None}}},
        "b": {"boxes": {"AP50": None}, "masks": {}},
        "c": {"boxes": None, "masks": {"scene": {"mIoU": 0.4}}},
    }
    assert figures(evaluation) == {"a/AP50": 0.2, "a/scene mIoU": 0.6, "c/scene mIoU": 0.4}
    assert score(figures(evaluation)) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="nothing to score"):
        score({})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "out"], "--data"),
        (["--out", "out", "--resume"], "holds no search"),
        (["--out", "used", "--data", "toy"], "already holds a search"),
        (["--out", "out", "--data", "toy", "--base", "driving-9"], "no policy 'driving-9'"),
        (["--out", "out", "--data", "toy", "--augment.policy", "nowhere.json"], "no policy 'nowhere.json'"),
        (["--out", "out", "--data", "toy", "--trials", "0"], "--trials"),
        (["--out", "out", "--data", "toy", "--seeds", "1", "1"], "--seeds"),
        (["--out", "out", "--data", "nowhere"], "nowhere"),
        (["--out", "out", "--data", "broken"], "val.json is broken"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], words: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").symlink_to(toy)
    shutil.copytree(toy, tmp_path / "broken")
    (tmp_path / "broken" / "boxes" / "val.json").write_text("{}")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "config.json").write_text("{}")
    assert search.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1] and error[-1].startswith("error: ")
    assert not (tmp_path / "out" / "config.json").exists()
