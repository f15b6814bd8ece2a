"""The front door of pretraining: exact resume, weights that stock timm loads, and clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perception.network.network import Network, NetworkConfig
from perception.network.tokens import Tokens
from perception.pretrain import main
from perception.pretraining.colour import ColourConfig
from perception.pretraining.distil import DistilConfig
from perception.pretraining.mae import Mae, MaeConfig

OPTIONS = ("--hw", "32", "64", "--loop.batch-size", "2", "--loop.log-every", "1", "--loop.workers", "0")
EXACT = ("--loop.precision", "fp32", "--threads", "1")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for seed in range(5):
        coarse = np.random.default_rng(seed).integers(0, 255, (4, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{seed}.png"), cv2.resize(coarse, (128, 64), interpolation=cv2.INTER_NEAREST))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "cnn.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return f"test_efficientnet={path}"


def pretrain(method: str, frames: Path, out: Path, steps: int, teacher: str = "", *more: str) -> int:
    taught = ("--distil.teachers", teacher) if teacher else ()
    return main(
        ["--method", method, "--images", str(frames), "--out", str(out), "--loop.steps", str(steps),
         *OPTIONS, *EXACT, *taught, *more]
    )  # fmt: skip


@pytest.mark.parametrize("method", ["distil", "mae", "colour"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    method: str, frames: Path, teacher: str, tmp_path: Path
) -> None:
    teacher = teacher if method == "distil" else ""
    assert pretrain(method, frames, tmp_path / "whole", 4, teacher, "--loop.save-every", "2") == 0
    whole = load_file(tmp_path / "whole" / "encoder.safetensors")

    # The same run, killed after step 2: its newest checkpoint is that of step 2, and nothing after it is there.
    assert pretrain(method, frames, tmp_path / "cut", 2, teacher) == 0
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    config["loop"]["steps"] = 4
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    (tmp_path / "cut" / "encoder.safetensors").unlink()
    # The schedule is a function of the length: let the first two steps be those of the long run.
    first = {line["step"]: line for line in lines(tmp_path / "whole")}
    assert first[1]["lr"] == lines(tmp_path / "cut")[0]["lr"]  # warm-up is alike
    assert main(["--out", str(tmp_path / "cut"), "--resume"]) == 0
    cut = load_file(tmp_path / "cut" / "encoder.safetensors")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_figures_of_a_resumed_run_are_of_the_steps_that_it_took(frames: Path, tmp_path: Path) -> None:
    """Stopped between two lines of the log, the next line is the mean of what came after."""
    assert pretrain("mae", frames, tmp_path / "whole", 4) == 0
    assert pretrain("mae", frames, tmp_path / "cut", 3, "", "--loop.log-every", "4") == 0
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    config["loop"]["steps"] = 4
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    assert main(["--out", str(tmp_path / "cut"), "--resume"]) == 0
    *_, line = lines(tmp_path / "cut")
    assert line["step"] == 4 and line["pixels"] == lines(tmp_path / "whole")[3]["pixels"]


def test_a_run_shorter_than_a_line_of_the_log_has_one(frames: Path, tmp_path: Path) -> None:
    assert pretrain("mae", frames, tmp_path / "run", 2, "", "--loop.log-every", "20") == 0
    (line,) = lines(tmp_path / "run")
    assert line["step"] == 2 and line["pixels"] > 0
    with safe_open(tmp_path / "run" / "encoder.safetensors", "pt") as file:
        assert file.metadata()["steps"] == "2"


def test_tensorboard_forgets_what_a_killed_run_wrote_after_its_checkpoint(frames: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain("mae", frames, run, 4) == 0
    (run / "step_000004").rename(run / "step_000002")  # as if that of step 2 were the last one
    meta = json.loads((run / "step_000002" / "meta.json").read_text())
    (run / "step_000002" / "meta.json").write_text(json.dumps(meta | {"step": 2}))
    assert main(["--out", str(run), "--resume"]) == 0
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("pixels")] == [1, 2, 3, 4]


def test_impossible_shares_are_refused() -> None:
    for uniform in (0.0, 2.0):  # weights of infinity, weights below 0
        with pytest.raises(ValueError, match=r"colour\.uniform must"):
            ColourConfig(uniform=uniform)
    with pytest.raises(ValueError, match=r"distil\.cosine must"):
        DistilConfig(cosine=1.5)


def test_a_gradient_that_is_not_finite_reaches_no_weight(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Mae, "losses", lambda self, *_: {"pixels": (0 * self.blank.sum()).sqrt()})  # 0, but steep
    assert pretrain("mae", frames, tmp_path / "run", 1) == 2
    assert "step 0: the loss is 0 and the norm of its gradient nan" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("step_*"))


def test_stock_timm_loads_the_encoder_strictly_and_train_starts_from_it(frames: Path, tmp_path: Path) -> None:
    assert pretrain("mae", frames, tmp_path / "run", 1) == 0
    encoder = tmp_path / "run" / "encoder.safetensors"
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    vit.load_state_dict(load_file(encoder), strict=True)
    config = NetworkConfig(hw=(32, 64), box_classes=(), heads={"scene": ("a", "b")}, detail="none")
    network = Network(config, vit_weights=encoder)
    own = network.pyramid.tokens.vit.state_dict()
    assert torch.equal(own["blocks.3.attn.qkv.weight"], load_file(encoder)["blocks.3.attn.qkv.weight"])
    assert (tmp_path / "run" / "pictures.png").stat().st_size > 1000


def test_weights_survive_the_way_to_timm_and_back() -> None:
    tokens = Tokens("vit_tiny_patch16_224", (224, 224))
    state = tokens.timm_state()
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="")
    vit.load_state_dict(state, strict=True)
    image = torch.rand(1, 3, 224, 224) * 255
    with torch.inference_mode():
        ours = tokens.eval()(image)
        theirs = vit.eval().forward_features(tokens.normalize(image))[:, 1:]
    assert torch.allclose(ours.flatten(2).transpose(1, 2), theirs, atol=1e-4)


@pytest.mark.parametrize("vit", ["test_vit", "test_vit2", "vit_small_patch16_dinov3"])
def test_other_plain_vits_survive_the_way_to_timm_too(vit: str, tmp_path: Path) -> None:
    """With registers, without a class token, with the norm after the average, of any size by default, rotary."""
    torch.manual_seed(0)
    tokens = Tokens(vit, (64, 96)).eval()
    stock = timm.create_model(vit, num_classes=0)
    stock.load_state_dict(tokens.timm_state(), strict=True)
    stock = timm.create_model(vit)  # with a head, as the hub has it
    save_file({name: value.contiguous() for name, value in stock.state_dict().items()}, tmp_path / "vit.safetensors")
    tokens.load_timm(tmp_path / "vit.safetensors")
    inject = torch.zeros(1, tokens.width, *tokens.grid_hw)
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        assert torch.equal(tokens(image, inject), tokens(image))
    if "dinov3" in vit:
        with pytest.raises(ValueError, match="has rotary ones"):
            Mae(tokens, MaeConfig())


def test_another_run_is_the_start(frames: Path, tmp_path: Path) -> None:
    assert pretrain("mae", frames, tmp_path / "first", 1) == 0
    first = tmp_path / "first" / "encoder.safetensors"
    assert pretrain("colour", frames, tmp_path / "second", 1, "", "--init", str(first), "--loop.lr", "1e-9") == 0
    a, b = load_file(first), load_file(tmp_path / "second" / "encoder.safetensors")
    assert torch.allclose(a["blocks.0.mlp.fc1.weight"], b["blocks.0.mlp.fc1.weight"], atol=1e-5)


def test_bad_input_gets_one_line(frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "0.png").write_bytes((frames / "0.png").read_bytes())
    for arguments, message in (
        (["--out", str(tmp_path / "a")], "--images: name at least one folder"),
        (["--images", str(one), "--out", str(tmp_path / "b"), "--method", "mae"], "at least 2 different frames"),
        (["--images", str(frames), "--out", str(tmp_path / "c"), "--hw", "32", "64"], "--distil.teachers: name"),
        (["--out", str(tmp_path / "d"), "--resume"], "holds no checkpoint"),
        (["--images", str(frames), "--out", str(tmp_path / "e"), "--hw", "30", "64"], "not a multiple of the patch"),
        (["--images", str(frames), "--out", str(tmp_path / "f"), "--hw", "32", "64", "--method", "colour",
          "--colour.cells", "3"], "--colour.cells must divide the patch of 16"),
        (["--images", str(frames), "--out", str(tmp_path / "g"), "--vit", "vit_small_patch14_dinov2"], "take 224x448"),
        (["--images", str(frames), "--out", str(tmp_path / "h"), "--hw", "32", "32", "--method", "mae",
          "--mae.hidden", "0.1"], "0.1 of 4 patches is none"),
    ):  # fmt: skip
        assert main(arguments) == 2
        said = capsys.readouterr().err.strip()
        assert message in said and "\n" not in said


def test_a_run_is_not_overwritten(frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain("mae", frames, tmp_path / "run", 1) == 0
    assert pretrain("mae", frames, tmp_path / "run", 1) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err


def test_given_frames_are_shown_at_the_end(
    frames: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain("mae", frames, tmp_path / "run", 1, "", "--show", str(frames)) == 0
    picture = cv2.imread(str(tmp_path / "run" / "shown.png"))
    assert picture.shape[1] == 3 * 64 and picture.shape[0] > 5 * 32  # visible, completed, frame of all five
    (tmp_path / "run" / "shown.png").unlink()
    assert main(["--out", str(tmp_path / "run"), "--resume", "--show", str(frames)]) == 0
    assert (tmp_path / "run" / "shown.png").is_file()
    (tmp_path / "run" / "shown.png").unlink()
    one = str(frames / "0.png")
    assert main(["--out", str(tmp_path / "run"), "--resume", "--show", one]) == 0  # one is enough to be shown
    assert (tmp_path / "run" / "shown.png").is_file()
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "run"), "--resume", "--show", "nowhere.mp4"]) == 2
    captured = capsys.readouterr()
    assert "--show: no file or folder nowhere.mp4" in captured.err and "device" not in captured.out  # before it trains
    assert pretrain("distil", frames, tmp_path / "other", 1, teacher, "--show", str(frames)) == 2
    assert "--show is for mae and colour" in capsys.readouterr().err
    assert pretrain("distil", frames, tmp_path / "other", 1, teacher) == 0
    assert main(["--out", str(tmp_path / "other"), "--resume", "--show", one]) == 2  # its teacher has not seen it
    assert "--show is for mae and colour" in capsys.readouterr().err


def test_frames_that_are_gone_are_named(frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(frames, tmp_path / "frames")
    assert pretrain("mae", tmp_path / "frames", tmp_path / "run", 1) == 0
    (tmp_path / "frames" / "3.png").unlink()
    assert main(["--out", str(tmp_path / "run"), "--resume"]) == 2
    said = capsys.readouterr().err.strip()
    assert "1 of the 5 frames" in said and "3.png; put them back" in said and "\n" not in said
