"""Training: reproducible order, exact resume, a killed run, an overfit, own label spaces, refused mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import LABELS, options, weights, write_toy

from perception import train
from perception.layout import LayoutWriter
from perception.network.network import Network, NetworkConfig
from perception.training import checkpoint
from perception.training.augment import AugmentConfig
from perception.training.batch import Batch, Collate
from perception.training.dataset import Mixture
from perception.training.loop import LoopConfig, losses
from perception.training.losses import BoxTargets
from perception.training.optim import Ema, layer_scale, learning_rate, parameter_groups

PLAIN = ["--augment.crop", "0", "--augment.magnitude", "0"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def test_samples_are_a_function_of_their_number(toy: Path) -> None:
    one, two = (Mixture([toy], [1.0], 20, (64, 96), AugmentConfig(), seed=3) for _ in range(2))
    for n in (7, 0, 19):  # in any order, as workers ask for them
        a, b = one[n], two[n]
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.masks["scene"], b.masks["scene"])
    other = Mixture([toy], [1.0], 20, (64, 96), AugmentConfig(), seed=4)
    assert any((one[n].image != other[n].image).any() for n in range(4))


def test_every_image_comes_once_before_any_comes_again(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = Mixture([toy, toy], [3.0, 1.0], 400, (64, 96), AugmentConfig(), seed=0)
    seen: list[tuple[int, str]] = []
    monkeypatch.setattr(mixture, "example", lambda dataset, sample, seed: seen.append((dataset, sample.image.name)))
    for n in range(400):
        mixture[n]
    first = [name for dataset, name in seen if dataset == 0]
    for epoch in range(4):
        assert len(set(first[6 * epoch : 6 * epoch + 6])) == 6
    assert 0.68 < len(first) / 400 < 0.82, "drawn in proportion to the weights"


def test_augmentation_keeps_boxes_and_masks_on_their_objects(toy: Path) -> None:
    mixture = Mixture([toy], [1.0], 60, (64, 96), AugmentConfig(magnitude=0, flip=0.5), seed=1)
    found = 0
    for n in range(60):
        e = mixture[n]
        for box, member in zip(e.boxes, e.members, strict=True):
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            r, g, _ = e.image[y, x].astype(int)
            vehicle = bool(member[2])
            covered = not vehicle and r > g  # the vehicle may stand before the person, never the reverse
            assert covered or (r > g) == vehicle or g > r
            found += 1
        blue = e.image[..., 2].astype(int) - e.image[..., 0] > 80
        assert (e.masks["scene"][blue] == 1).sum() >= 0.95 * blue.sum()
    assert found > 20


def test_collate_pads_boxes_and_marks_missing_masks(toy: Path) -> None:
    mixture = Mixture([toy], [1.0], 6, (64, 96), AugmentConfig(), seed=0)
    examples = [mixture[n] for n in range(6)]
    batch = Collate((*mixture.heads, "other"), 10)(examples)
    assert batch.image.shape == (6, 64, 96, 3) and batch.masks["other"].eq(255).all()
    for b, e in enumerate(examples):
        assert int(batch.boxes.members[b].any(-1).sum()) == len(e.boxes)


@pytest.mark.parametrize(
    "more",
    [
        ["--drop-path", "0.3"],  # randomness inside the network must be repeated too
        ["--loop.balance", "uncertainty", "--augment.policy", "driving-2", "--augment.mosaic", "0.5"],
        ["--own-labels", "--detail", "none", "--loop.workers", "1", "--freeze-vit", "2"],
    ],
)
def test_resume_gives_the_weights_of_an_uninterrupted_run(
    more: list[str], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train.main(options(toy, whole, 6, *more)) == 0

    save = checkpoint.save

    def save_and_stop(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        assert train.main(options(toy, cut, 6, *more)) == 130
    assert checkpoint.latest(cut).name == "step_000003"
    assert train.main(["--out", str(cut), "--resume"]) == 0
    for kind in ("network", "ema", "optimizer"):
        a, b = weights(cut, kind), weights(whole, kind)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)
    metas = [checkpoint.read_meta(checkpoint.latest(run)) for run in (cut, whole)]
    assert metas[0]["balance"] == metas[1]["balance"]


def test_what_is_newest_is_told_by_number(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):  # of these names, the last sorts first
        checkpoint.save_weights(tmp_path, step, {"a": torch.zeros(1)}, {})
    (tmp_path / "step_notes").mkdir()
    assert checkpoint.latest(tmp_path).name == "step_1000000"
    checkpoint.keep_newest(tmp_path, 2)
    assert {path.name for path in tmp_path.glob("step_*")} == {"step_999999", "step_1000000", "step_notes"}


def test_a_run_that_was_killed_after_its_last_step_is_evaluated(toy: Path, tmp_path: Path) -> None:
    run, summary = tmp_path / "run", tmp_path / "summary.json"
    assert train.main(options(toy, run, 1)) == 0
    (run / "metrics.jsonl").unlink()
    assert train.main(["--out", str(run), "--resume", "--json", str(summary)]) == 0
    (line,) = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 1 and "drive" in line["evaluation"]["toy"]["masks"]
    assert json.loads(summary.read_text())["evaluation"] == line["evaluation"]


def test_a_val_split_without_labels_does_not_end_a_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LayoutWriter(tmp_path / "bare", LABELS) as writer:
        for split, masks in (("train", {"seg": np.zeros((48, 80), np.uint8)}), ("val", {})):
            writer.add(split, "0", np.full((48, 80, 3), 90, np.uint8), masks=masks)
    few = options(toy, tmp_path / "run", 1)
    few.insert(2, str(tmp_path / "bare"))
    assert train.main([*few, "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert "not evaluated" in out and list(json.loads(out.splitlines()[-1])["evaluation"]) == ["toy"]


def test_an_average_that_does_not_fit_is_refused(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(options(toy, tmp_path / "run", 1)) == 0
    file = checkpoint.latest(tmp_path / "run") / "ema.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "ema.safetensors does not fit" in capsys.readouterr().err


def test_a_killed_run_resumes_to_the_same_weights(toy: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train.main(options(toy, whole, 8)) == 0
    command = [sys.executable, "-m", "perception.train", *options(toy, killed, 8)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(killed.glob("step_*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.latest(killed).name in ("step_000003", "step_000006", "step_000008")
    assert train.main(["--out", str(killed), "--resume"]) == 0
    for kind in ("network", "ema"):
        a, b = weights(killed, kind), weights(whole, kind)
        assert all(torch.equal(a[name], b[name]) for name in b)
    logged = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["step"] == 8 and "toy" in logged[-1]["evaluation"]


def test_a_few_images_can_be_learned_by_heart(toy: Path, tmp_path: Path) -> None:
    fast = ["--loop.lr", "3e-3", "--loop.ema", "0.9", "--loop.warmup", "5", "--loop.batch-size", "4", *PLAIN]
    assert train.main(options(toy, tmp_path / "run", 60, *fast, "--loop.save-every", "60")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss/scene" in line]
    assert losses[-1]["loss/scene"] < 0.3 * losses[0]["loss/scene"]
    assert losses[-1]["loss/boxes"] < 0.8 * losses[0]["loss/boxes"]
    assert lines[-1]["evaluation"]["toy"]["masks"]["drive"]["mIoU"] > 0.8


def test_a_run_starts_another_at_another_size(toy: Path, tmp_path: Path) -> None:
    assert train.main(options(toy, tmp_path / "small", 2)) == 0
    bigger = ["--init", str(tmp_path / "small"), "--hw", "96", "128", "--loop.lr", "0"]
    assert train.main([*options(toy, tmp_path / "big", 1), *bigger]) == 0
    a, b = weights(tmp_path / "small", "ema"), weights(tmp_path / "big")
    name = "pyramid.tokens.vit.blocks.5.mlp.fc1.weight"
    torch.testing.assert_close(a[name], b[name])
    assert b["pyramid.tokens.vit.pos_embed"].shape == (1, 1 + 6 * 8, 192)


def test_classes_are_taken_over_by_their_names(tmp_path: Path) -> None:
    """Not by their number: ten classes of one's own are no reason to begin with what ten others were."""
    small = NetworkConfig(
        hw=(64, 96), detail="none", box_classes=("car", "bus", "bike"), heads={"scene": ("road", "sky")}
    )
    old = Network(small)
    new = Network(
        replace(small, box_classes=("cone", "car", "van"), heads={"scene": ("sky", "sea", "road"), "own": ("road",)})
    )
    before = {name: value.clone() for name, value in new.state_dict().items()}
    fresh = checkpoint.adopt(new, old.state_dict(), small)
    a, b = old.state_dict(), new.state_dict()
    for branch in ("one_to_many", "one_to_one"):
        for part in ("weight", "bias"):
            name = f"boxes.{branch}.classify.2.{part}"
            assert torch.equal(b[name][1], a[name][0]) and torch.equal(b[name][[0, 2]], before[name][[0, 2]])
    assert torch.equal(b["masks.scene.1.weight"][[2, 0]], a["masks.scene.1.weight"])
    assert torch.equal(b["masks.scene.1.weight"][1], before["masks.scene.1.weight"][1])
    assert all(name.startswith("masks.own.") for name in fresh) and fresh
    other = Network(replace(small, box_classes=("x", "y", "z")))
    assert "boxes.one_to_many.classify.2.weight" in checkpoint.adopt(other, old.state_dict(), small)
    wider = Network(replace(small, width=2 * small.width))
    assert "boxes.one_to_many.classify.2.weight" in checkpoint.adopt(wider, old.state_dict(), small)


def test_frozen_parts_stay_as_they_are_and_task_weights_are_learned(toy: Path, tmp_path: Path) -> None:
    assert train.main(options(toy, tmp_path / "start", 1)) == 0
    start = weights(tmp_path / "start", "ema")
    frozen = ["--init", str(tmp_path / "start"), "--freeze-vit", "3", "--freeze-details", "all", "--loop.lr", "1e-2"]
    learned = ["--loop.balance", "uncertainty", "--loop.task-weights", "drive=0.5"]
    assert train.main([*options(toy, tmp_path / "run", 3), *frozen, *learned]) == 0
    end = weights(tmp_path / "run")
    for name, value in start.items():
        if name.startswith(("pyramid.detail.", "pyramid.tokens.embed.", "pyramid.tokens.vit.blocks.2.")):
            assert torch.equal(value, end[name]), name
    trained = "pyramid.tokens.vit.blocks.3.mlp.fc1.weight"
    assert not torch.equal(start[trained], end[trained])
    saved = json.loads((checkpoint.latest(tmp_path / "run") / "meta.json").read_text())["balance"]
    assert set(saved) == {"scene", "drive", "boxes", "boxes_one_to_one"} and all(saved.values())
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"gradient_norm/vit", "gradient_norm/scene", "gradient_norm/boxes", "log_variance/drive"} <= set(line)
    assert "gradient_norm/details" not in line, "all of it is frozen"


def test_own_label_space(toy: Path, tmp_path: Path) -> None:
    assert train.main([*options(toy, tmp_path / "own", 2), "--own-labels"]) == 0
    network, _ = checkpoint.load_network(tmp_path / "own")
    assert network.config.box_classes == ("vehicle", "person") and network.config.heads == {"seg": ("road", "sky")}
    assert train.main([*options(toy, tmp_path / "masks", 1), "--own-labels", "--heads", "scene"]) == 0
    assert checkpoint.load_network(tmp_path / "masks")[0].boxes is None, "the boxes of the data set are not needed"
    assert train.main([*options(toy, tmp_path / "boxes", 1), "--own-labels", "--heads", "boxes"]) == 0
    assert not checkpoint.load_network(tmp_path / "boxes")[0].masks, "nor are its masks"


def test_a_head_that_is_called_scene_need_not_know_our_classes() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(hw=(64, 96), width=16, heads={"scene": ("road", "sky")})).train()
    targets = BoxTargets(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, 10).bool(), torch.zeros(2, 10).bool(), torch.zeros(2, 0, 4)
    )
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    batch = Batch(torch.zeros(2, 64, 96, 3, dtype=torch.uint8), targets, {"scene": masks}, torch.zeros(2).long())
    table = torch.zeros(1, 256, 2).bool()
    table[0, 0, 0] = True
    parts = losses(network, batch, {"scene": table}, {"scene": torch.ones(2)})
    assert parts["scene"].min() > 0 and parts["boxes"].abs().max() == 0, "no class is annotated: nothing is ruled out"


@pytest.mark.parametrize(
    "wrong", [{"log_every": 0}, {"steps": 0}, {"save_every": -1}, {"eval_limit": -1}, {"ema": 1.5}, {"clip": 0.0}]
)
def test_settings_of_the_loop_that_can_not_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"--loop.{next(iter(wrong)).replace('_', '-')}"):
        LoopConfig(**wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "run"], "--data"),
        (["--out", "run", "--resume"], "holds no checkpoint"),
        (["--out", "run", "--data", "nowhere"], "nowhere"),
        (["--out", "run", "--data", "toy", "--hw", "100", "100"], "multiple of 32"),
        (["--out", "run", "--data", "toy", "--heads", "lanes"], "unknown head"),
        (["--out", "run", "--data", "toy", "--vit", "resnet18"], "not a plain Vision Transformer"),
        (["--out", "run", "--data", "toy", "--init", "weights.pth"], "no weight file"),
        (["--out", "run", "--data", "toy", "toy", "--own-labels"], "one dataset"),
        (["--out", "run", "--data", "toy", "--loop.precision", "fp8"], "precision must be"),
        (["--out", "run", "--data", "toy", "--loop.task-weights", "lanes=1"], "expected TASK=WEIGHT"),
        (["--out", "run", "--data", "toy", "--freeze-vit", "13"], "can freeze 0 to 12 blocks"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], words: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").symlink_to(toy)
    assert train.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1] and error[-1].startswith("error: ")
    assert not any((tmp_path / "run").glob("step_*"))


def test_a_run_is_not_overwritten(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "step_000001").mkdir(parents=True)
    assert train.main(options(toy, tmp_path / "run", 2)) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_learning_rate_warms_up_then_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, 1000, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(1.0) and rates.index(max(rates)) in (99, 100)
    assert rates[550] == pytest.approx(0.02 + 0.98 / 2, abs=0.01) and rates[-1] == pytest.approx(0.02, abs=1e-4)
    assert all(a >= b for a, b in pairwise(rates[100:]))


def test_layer_decay_and_weight_decay_groups() -> None:
    network = Network(NetworkConfig(hw=(64, 96), width=16))
    groups = parameter_groups(network, 1.0, 0.05, 0.5, 0.1)
    by_name = {name: group for group in groups for name in group["names"]}  # type: ignore[attr-defined]
    assert by_name["pyramid.tokens.vit.blocks.11.mlp.fc1.weight"]["lr"] == 1.0
    assert by_name["pyramid.tokens.vit.blocks.9.mlp.fc1.weight"]["lr"] == 0.25
    assert by_name["pyramid.tokens.vit.pos_embed"]["lr"] == 0.5**12
    assert by_name["pyramid.tokens.vit.pos_embed"]["weight_decay"] == 0.0
    assert by_name["pyramid.detail.cnn.conv_stem.weight"]["lr"] == 0.1
    assert by_name["pyramid.tokens.vit.norm.weight"]["lr"] == 1.0
    assert layer_scale("pyramid.tokens.vit.norm_pre.weight", 12, 0.5, 0.1) == 0.5**12, "it comes before the blocks"
    assert by_name["masks.scene.1.bias"]["weight_decay"] == 0.0
    assert len(by_name) == sum(1 for _ in network.parameters())


def test_average_follows_the_network() -> None:
    layer = torch.nn.Linear(2, 2)
    ema = Ema(layer, decay=0.5)
    before = ema.state["weight"].clone()
    with torch.no_grad():
        layer.weight += 1.0
    ema.update(layer, step=10_000)
    torch.testing.assert_close(ema.state["weight"], before + 0.5)


def test_a_split_without_images_and_a_weight_of_nothing_are_refused(toy: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "images" / "train").mkdir(parents=True)
    (empty / "dataset.json").write_text((toy / "dataset.json").read_text())
    with pytest.raises(ValueError, match="no image"):
        Mixture([toy, empty], [1.0, 1.0], 4, (64, 96), AugmentConfig(), seed=0)
    with pytest.raises(ValueError, match="above 0"):
        Mixture([toy], [0.0], 4, (64, 96), AugmentConfig(), seed=0)


def test_the_bundled_encoder_is_the_start_unless_random_is_asked_for(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "pyramid.tokens.vit.blocks.5.mlp.fc1.weight"
    still = ("--loop.lr", "1e-12", "--loop.weight-decay", "0")
    assert train.main(options(toy, tmp_path / "bundled", 1, *still)) == 0
    assert "vit-t-drive.safetensors" in capsys.readouterr().out
    bundled = load_file(train.ENCODER)["blocks.5.mlp.fc1.weight"].float()
    assert torch.allclose(weights(tmp_path / "bundled")[name], bundled, atol=1e-6)
    assert train.main(options(toy, tmp_path / "random", 1, *still, "--init", "random")) == 0
    assert "init of the ViT: random" in capsys.readouterr().out
    assert not torch.allclose(weights(tmp_path / "random")[name], bundled, atol=1e-3)


def test_a_share_of_the_labels_and_no_detail_path(toy: Path, tmp_path: Path) -> None:
    def used(share: float, seed: int) -> set[Path]:
        mixture = Mixture([toy], [1.0], 8, (64, 96), AugmentConfig(), seed, share=share)
        return {mixture.samples[0][n].image for n in range(len(mixture.samples[0]))}

    everything = used(1.0, 0)
    half = used(0.5, 0)
    assert half < everything and len(half) == round(len(everything) / 2)
    assert any(used(0.5, seed) != half for seed in range(1, 6))
    assert train.main(options(toy, tmp_path / "run", 1, "--share", "0.5", "--detail", "none")) == 0
    assert not any(".detail." in name for name in weights(tmp_path / "run"))
    assert train.main(options(toy, tmp_path / "none", 1, "--share", "0")) == 2
