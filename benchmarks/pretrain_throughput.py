"""Images a second of each method of pretraining, beside the bare forward and backward pass of the same ViT.

    python benchmarks/pretrain_throughput.py --images DIR --teacher tf_efficientnet_lite0=CNN.pth

The parts take turns in rounds within one process, so that a machine that slows down slows all of them and the ratios
of each round hold. Bare is the ViT alone on tensors in memory: forward, a mean square as loss, backward. A method is
its whole step with views from its loader: losses, backward, clipping, AdamW. The lessons of the teacher are computed
before, since a run does so once; masked completion is cheaper than bare because the ViT sees a quarter of the patches.
One process, as perception.pretrain has: what several give in training, train_throughput.py measures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from torch import nn

from benchmarks.machine import Watch, markdown, result, row
from benchmarks.roofline import Yardsticks
from perception.cli import run
from perception.network.tokens import Tokens
from perception.pretraining.collection import collect
from perception.pretraining.colour import Colour, ColourConfig
from perception.pretraining.distil import Distil, DistilConfig
from perception.pretraining.mae import Mae, MaeConfig
from perception.pretraining.method import Method
from perception.pretraining.views import ViewConfig, ViewStream, batches
from perception.training.loop import precision_for
from perception.training.optim import parameter_groups


@dataclass(frozen=True, kw_only=True)
class PretrainThroughputConfig:
    """Options of benchmarks/pretrain_throughput.py."""

    images: tuple[str, ...] = ()
    """Folders of frames and videos."""
    teacher: str = ""
    """NAME=WEIGHTS of the distillation; left out: it is not measured."""
    vit: str = "vit_tiny_patch16_224"
    """timm's name of the Vision Transformer."""
    hw: tuple[int, int] = (192, 256)
    """Input height and width."""
    batch_size: int = 32
    """Views of a step."""
    steps: int = 4
    """Steps of each part in a round."""
    rounds: int = 5
    """How often the parts take turns."""
    limit: int = 200
    """Frames that are used."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def methods(config: PretrainThroughputConfig, files: list[Path], folder: Path) -> dict[str, Method]:
    """Every method around a ViT of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out: dict[str, Method] = {
        "mae": Mae(Tokens(config.vit, config.hw), MaeConfig()),
        "colour": Colour(Tokens(config.vit, config.hw), ColourConfig(), files),
    }
    if config.teacher:
        teachers = DistilConfig(teachers=(config.teacher,))
        out["distil"] = Distil(Tokens(config.vit, config.hw), teachers, files, folder, device)
    for method in out.values():
        method.to(device).train()
        method.tokens.fuse_attention(device.type == "cuda")
    return out


def stepper(method: Method, config: PretrainThroughputConfig, files: list[Path]) -> Callable[[int], None]:
    """A function that trains `method` for so many steps, on views that were not there yet."""
    optimizer = torch.optim.AdamW(parameter_groups(method, 1e-4, 0.05, 1.0, 1.0))
    device = next(method.parameters()).device
    dtype, _ = precision_for("auto", device)
    total = (2 + config.rounds * config.steps) * 2 * config.batch_size
    views = ViewConfig() if not isinstance(method, Colour) else ViewConfig(magnitude=0.0)
    stream = iter(batches(ViewStream(files, config.hw, views, total, 0), config.batch_size, 0, 1))

    def train(steps: int) -> None:
        for step in range(steps):
            some = next(stream).to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                parts = method.losses(some, torch.Generator().manual_seed(step))
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_(method.parameters(), 3.0)
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return train


def bare(config: PretrainThroughputConfig) -> Callable[[int], None]:
    """The ViT alone, on tensors that are in memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = Tokens(config.vit, config.hw).to(device).train()
    tokens.fuse_attention(device.type == "cuda")
    dtype, _ = precision_for("auto", device)
    image = torch.randint(256, (config.batch_size, 3, *config.hw), device=device).float()

    def work(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                out = tokens(image)
            tokens.zero_grad(set_to_none=True)
            out.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return work


def body(config: PretrainThroughputConfig) -> dict[str, Any]:
    """Measure in turns, print the table."""
    if not config.images:
        raise ValueError("--images: name at least one folder of images or video file")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = collect(config.images, config.hw, Path(folder) / "frames").files[: config.limit]
        parts: dict[str, Callable[[int], None]] = {"bare": bare(config)}
        parts |= {name: stepper(method, config, files) for name, method in methods(config, files, Path(folder)).items()}
        for work in parts.values():
            work(2)  # memory is allocated, kernels are chosen, the loader is ahead
        rounds, watch, stick = [], Watch(), Yardsticks(torch.get_num_threads())
        for _ in range(config.rounds):
            stick.measure()
            watch.mark()
            seconds = {}
            for name, work in parts.items():
                begin = time.perf_counter()
                work(config.steps)
                seconds[name] = time.perf_counter() - begin
            rounds.append(seconds)
    noise = watch.result(stick.product_ms)
    images = config.batch_size * config.steps
    rates = {name: [images / seconds[name] for seconds in rounds] for name in parts}
    of_bare = {n: median(one / bare for one, bare in zip(v, rates["bare"], strict=True)) for n, v in rates.items()}
    lines = [
        [name, f"{median(values):.1f}", f"{min(values):.1f} to {max(values):.1f}", f"{of_bare[name]:.2f}"]
        for name, values in rates.items()
    ]
    print(markdown(("part", "images/s", "range", "of bare, round by round"), lines))
    asked = {name: getattr(config, name) for name in ("vit", "hw", "batch_size", "steps", "rounds")}
    rows = {name: row("images/s", values, "higher") for name, values in rates.items()}
    rows["matrix product"] = row("ms", stick.product_ms)
    asked |= {"frames": len(files), "threads": torch.get_num_threads()}
    return result("pretrain_throughput", asked, rows, noise, "matrix product", of_bare=of_bare)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(PretrainThroughputConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
