"""The pretraining loop, in its order: schedule, losses, backward, clip, step, log, pictures, save."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from perception.imagefile import encode_image
from perception.network.tokens import read_weights
from perception.pretraining.method import Method, sheet
from perception.pretraining.views import ViewStream, batches
from perception.training import checkpoint
from perception.training.loop import precision_for, record, require_counts
from perception.training.optim import learning_rate, parameter_groups

__all__ = ["ENCODER", "FRAMES", "SHOWN", "PretrainLoop", "picture_of", "pretrain", "save_picture"]

ENCODER = "encoder.safetensors"  # in the run directory, when it is done: timm's state dict
FRAMES = "frames.txt"  # there too: the files that it learns from, in order
SHOWN = 6  # views in the pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainLoop:
    """How an encoder is pretrained."""

    steps: int = 10_000  # optimiser steps
    batch_size: int = 32
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.05
    warmup: int = 200  # steps
    clip: float = 3.0  # largest gradient norm
    log_every: int = 20  # steps
    picture_every: int = 500  # steps; 0 = only at the end
    save_every: int = 200  # steps
    workers: int = 1  # processes that read frames
    precision: str = "auto"  # auto, fp32 or bf16
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, ("steps", "batch_size", "log_every", "save_every"))


def pretrain(method: Method, stream: ViewStream, run: Path, config: PretrainLoop, about: Mapping[str, Any]) -> Path:
    """Train `method` up to `config.steps`, from the checkpoint in `run` if there is one. Returns the encoder's file."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, reason = precision_for(config.precision, device)
    print(f"device: {device}, {str(dtype).removeprefix('torch.')}: {reason}")
    method.to(device)
    method.tokens.fuse_attention(device.type == "cuda")
    optimizer = torch.optim.AdamW(
        parameter_groups(method, config.lr, config.weight_decay, 1.0, 1.0),
        betas=(0.9, 0.98),
    )
    start = resume(run, method, optimizer) if any(run.glob("step_*")) else 0
    meta = {**about, "steps": config.steps, "loop": asdict(config)}
    board = SummaryWriter(str(run), purge_step=start + 1 if start else None)  # what a run that was killed wrote later
    bar = tqdm(
        batches(stream, config.batch_size, start, config.workers),
        total=config.steps, initial=start, desc="pretrain", unit="step", disable=None,
    )  # fmt: skip
    method.train()
    sums: dict[str, float] = {}
    summed, since = 0, time.perf_counter()  # steps since the last line: a resumed run may begin between two
    for step, views in enumerate(bar, start):
        views = views.to(device)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(step, config.steps, config.warmup)
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            parts = method.losses(views, draw)
        loss = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(method.parameters(), config.clip)
        if not torch.isfinite(loss + norm):  # before the step, which would write it into every weight
            raise ValueError(
                f"step {step}: the loss is {loss.item():g} and the norm of its gradient {norm.item():g}; "
                f"lower --loop.lr (now {config.lr:g}) and --resume"
            )
        optimizer.step()

        done, summed = step + 1, summed + 1
        for name, value in {**parts, "gradient_norm": norm}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if done == config.steps or done % config.log_every == 0:
            means = {name: value / summed for name, value in sums.items()}
            rate = summed * config.batch_size / (time.perf_counter() - since)
            line = {**means, "images_per_second": rate, "lr": optimizer.param_groups[0]["lr"]}
            for name, value in line.items():
                board.add_scalar(name, value, done)
            record(run, {"step": done, **{name: round(float(value), 6) for name, value in line.items()}})
            bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
            sums, summed, since = {}, 0, time.perf_counter()
        if done == config.steps or (config.picture_every and done % config.picture_every == 0):
            picture = picture_of(method, views, config.seed)
            board.add_image("pictures", picture, done, dataformats="HWC")
            save_picture(picture, run / "pictures.png")
        if done == config.steps or done % config.save_every == 0:
            files = {"method": method.state_dict(), "optimizer": checkpoint.optimizer_state(optimizer)}
            checkpoint.write(run, done, files, meta)
            checkpoint.keep_newest(run, 1)
    board.close()
    return save_encoder(method, run / ENCODER, meta)


def resume(run: Path, method: Method, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint; the step to go on with."""
    found = checkpoint.latest(run)
    step = int(checkpoint.read_meta(found)["step"])
    checkpoint.fill(method, found / "method.safetensors")
    checkpoint.restore_optimizer(optimizer, read_weights(found / "optimizer.safetensors"))
    return step


def save_encoder(method: Method, target: Path, meta: Mapping[str, Any]) -> Path:
    """timm's state dict of the encoder at its default size, with what it is as the file's metadata."""
    draft = target.with_suffix(".part")
    about = {name: str(value) for name, value in meta.items() if name in ("method", "vit", "revision", "steps")}
    save_file(method.tokens.timm_state(), draft, metadata=about)
    draft.replace(target)
    return target


def save_picture(picture: np.ndarray, target: Path) -> None:
    """(H, W, 3) uint8 RGB -> a PNG file."""
    target.write_bytes(encode_image(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), ".png"))


def picture_of(method: Method, views: Any, seed: int) -> np.ndarray:
    """The method's pictures of the first views of a batch as one (H, W, 3) uint8 RGB sheet."""
    few = type(views)(views.image[:SHOWN], views.frame[:SHOWN], views.place[:SHOWN])
    method.eval()
    with torch.inference_mode():
        rows = method.pictures(few, torch.Generator().manual_seed(seed))
    method.train()
    return sheet(rows)
