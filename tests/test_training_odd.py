"""Training on what is odd: broken or empty val, datasets of one name, labels without a class, a start that is gone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import LABELS, options, weights, write_toy

from perception import train
from perception.layout import LayoutWriter
from perception.network.tokens import Normalize
from perception.training import checkpoint


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def test_a_val_split_that_is_broken_or_empty_is_refused_before_the_first_step(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "toy"
    shutil.copytree(toy, data)
    (data / "boxes" / "val.json").write_text("{}")
    assert train.main(options(data, tmp_path / "run", 1)) == 2
    shutil.rmtree(data / "images" / "val")
    (data / "images" / "val").mkdir()
    assert train.main(options(data, tmp_path / "run", 1)) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "val.json is broken" in first and "no image in split 'val'" in second
    assert not (tmp_path / "run").exists()


def test_two_datasets_of_one_name_are_told_apart(toy: Path, tmp_path: Path) -> None:
    data = tmp_path / "toy"
    shutil.copytree(toy, data)
    few = options(toy, tmp_path / "run", 1, "--json", str(tmp_path / "summary.json"), "--loop.log-every", "1")
    few.insert(2, str(data))
    assert train.main(few) == 0
    found = json.loads((tmp_path / "summary.json").read_text())["evaluation"]
    assert {name: row["folder"] for name, row in found.items()} == {"toy": str(toy), "toy-2": str(data)}
    assert found["toy-2"]["dataset"] == "toy-2"
    assert checkpoint.open_run(tmp_path / "run").metadata.data == ("toy", "toy-2")


def test_resume_needs_no_longer_what_the_run_began_with_and_says_that_images_have_changed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, keep = tmp_path / "toy", ("--loop.keep", "2")
    shutil.copytree(toy, data)
    assert train.main(options(data, tmp_path / "start", 1)) == 0
    assert train.main(options(data, tmp_path / "run", 4, "--init", str(tmp_path / "start"), *keep)) == 0
    whole = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "start")
    shutil.rmtree(tmp_path / "run" / "step_000004")
    capsys.readouterr()
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    again = weights(tmp_path / "run")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert "goes on with other ones" not in capsys.readouterr().out
    shutil.copy(data / "images" / "train" / "000.jpg", data / "images" / "train" / "more.jpg")
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "had [6] images when the run was stopped, and now [7]" in capsys.readouterr().out


def test_a_new_detail_path_is_not_frozen(toy: Path, tmp_path: Path) -> None:
    """Going on from a network without one: its first stages would stay as random as they began."""
    assert train.main(options(toy, tmp_path / "plain", 1, "--detail", "none")) == 0
    more = ("--init", str(tmp_path / "plain"), "--loop.keep", "2")
    assert train.main(options(toy, tmp_path / "run", 4, *more)) == 0
    stem = "pyramid.detail.cnn.conv_stem.weight.exp_avg"
    assert stem in weights(tmp_path / "run", "optimizer")
    whole = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step_000004")
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    again = weights(tmp_path / "run")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert train.main(options(toy, tmp_path / "next", 1, "--init", str(tmp_path / "run"))) == 0
    assert stem not in weights(tmp_path / "next", "optimizer"), "now it is trained"


def test_a_step_that_is_not_finite_leaves_nothing_behind(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, calls = Normalize.forward, []

    def broken_once(self: Normalize, image: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(self, image) * (float("nan") if len(calls) in (3, 4) else 1.0)  # both paths of the second step

    monkeypatch.setattr(Normalize, "forward", broken_once)
    assert train.main(options(toy, tmp_path / "run", 3)) == 0
    assert capsys.readouterr().out.count("is not finite, step skipped") == 1
    for kind in ("network", "ema", "optimizer"):
        assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run", kind).values()), kind


def test_own_labels_without_masks_of_which_all_is_ignored(toy: Path, tmp_path: Path) -> None:
    spec = LABELS.masks["scene"]
    nothing = replace(spec, folder="other", sets=dict.fromkeys(spec.sets, frozenset()))
    with LayoutWriter(tmp_path / "set", replace(LABELS, masks={"scene": nothing})) as writer:
        mask = np.zeros((48, 80), np.uint8)
        writer.add("train", "0", np.full((48, 80, 3), 90, np.uint8), boxes=[[5, 5, 30, 30]], categories=["vehicle"],
                   masks={"other": mask})  # fmt: skip
    assert train.main([*options(tmp_path / "set", tmp_path / "run", 1), "--own-labels"]) == 0
    network, _ = checkpoint.load_network(tmp_path / "run")
    assert network.config.heads == {} and network.boxes is not None
