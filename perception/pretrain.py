"""Pretrain a Vision Transformer on frames without labels: folders of images, and video files.

python -m perception.pretrain --method distil --images DIR VIDEO.mp4 --distil.teachers TIMM_MODEL --out RUN
python -m perception.pretrain --out RUN --resume
python -m perception.train --init RUN/encoder.safetensors ...
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from perception.cli import run
from perception.jsonfile import from_json, read_object
from perception.network.tokens import Tokens
from perception.pretraining.collection import collect, listed
from perception.pretraining.colour import Colour, ColourConfig
from perception.pretraining.distil import Distil, DistilConfig
from perception.pretraining.loop import FRAMES, SHOWN, PretrainLoop, picture_of, pretrain, save_picture
from perception.pretraining.mae import Mae, MaeConfig
from perception.pretraining.method import Method
from perception.pretraining.views import ViewConfig, ViewStream, batches
from perception.training import checkpoint

__all__ = ["PretrainConfig", "main"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a Vision Transformer without labels."""

    method: Literal["distil", "mae", "colour"] = "distil"
    """distil: what trained networks see; mae: fill in what is hidden; colour: tell colours from lightness."""
    images: tuple[str, ...] = ()
    """Folders (with all that is in them), image files and video files, without labels."""
    out: Path
    """Run directory: checkpoints, metrics.jsonl, TensorBoard, pictures.png, and at the end encoder.safetensors."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, with the options that it was started with."""
    init: str | None = None
    """Start from a timm state dict (.safetensors, .pth), such as another run's encoder.safetensors."""
    pretrained: bool = False
    """Start from timm's pretrained weights, from the hub."""
    vit: str = "vit_tiny_patch16_224"
    """Any plain Vision Transformer of timm."""
    hw: tuple[int, int] = (256, 448)
    """Input height and width, multiples of the patch."""
    every_s: float = 0.5
    """Seconds between the frames that are taken out of a video; the first of a new scene is always taken."""
    show: tuple[str, ...] = ()
    """Frames or videos to show when the run is done, in RUN/shown.png (mae, colour); with --resume at any time."""
    threads: int = 0
    """CPU threads of the network; 0 = one a core."""
    loop: PretrainLoop = field(default_factory=PretrainLoop)
    views: ViewConfig = field(default_factory=ViewConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    mae: MaeConfig = field(default_factory=MaeConfig)
    colour: ColourConfig = field(default_factory=ColourConfig)
    json: str | None = None
    """Write the final summary as one line of JSON to this file, or - for the last line of standard output."""


def method_for(config: PretrainConfig, tokens: Tokens, files: list[Path]) -> Method:
    """The method that the options ask for, around an encoder."""
    if config.method == "mae":
        return Mae(tokens, config.mae)
    if config.method == "colour":
        return Colour(tokens, config.colour, files)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Distil(tokens, config.distil, files, config.distil.cache or config.out / "teachers", device)


def saved_options(config: PretrainConfig) -> PretrainConfig:
    """The options in RUN/config.json, to go on with. Raises FileNotFoundError if there is no run."""
    checkpoint.latest(config.out)
    path = config.out / "config.json"
    saved = from_json(PretrainConfig, read_object(path), str(path))
    return replace(saved, out=config.out, resume=True, show=config.show, json=config.json)


def frames_of(config: PretrainConfig) -> list[Path]:
    """The files to learn from: searched once, and then read from the run, so that their order stays."""
    names = config.out / FRAMES
    if config.resume:
        files = [Path(line) for line in names.read_text().splitlines()]
        if gone := [path for path in files if not path.is_file()]:
            raise FileNotFoundError(
                f"--resume: {len(gone)} of the {len(files)} frames that {names} lists are gone, such as {gone[0]}; "
                "put them back, or start a new run with --init"
            )
        return files
    found = collect(config.images, config.hw, config.out / "frames", config.every_s)
    for line in found.lines(config.hw):
        print(line, flush=True)
    names.write_text("".join(f"{path.resolve()}\n" for path in found.files))
    return found.files


def shown(method: Method, config: PretrainConfig) -> Path:
    """RUN/shown.png: what the method makes of some whole frames of --show."""
    files = collect(config.show, config.hw, config.out / "shown", config.every_s, 1, "--show").files
    chosen = [files[round(i)] for i in np.linspace(0, len(files) - 1, min(SHOWN, len(files)))]
    whole = ViewConfig(area=(1.0, 1.0), stretch=1.0, flip=0.0, magnitude=0.0)
    stream = ViewStream(chosen, config.hw, whole, len(chosen), config.loop.seed)
    views = next(iter(batches(stream, len(chosen), 0, 0)))
    target = config.out / "shown.png"
    save_picture(picture_of(method, views, config.loop.seed), target)
    return target


def body(config: PretrainConfig) -> dict[str, Any]:
    """Check the options, build what they ask for, and train it."""
    if config.resume:
        config = saved_options(config)
    elif any(config.out.glob("step_*")):
        raise ValueError(f"{config.out} already holds a run; add --resume to go on with it, or choose another --out")
    elif not config.images:
        raise ValueError("--images: name at least one folder of images or video file")
    if config.show and config.method == "distil":  # no teacher has seen these frames
        raise ValueError("--show is for mae and colour; perception.probe shows the features of a distilled encoder")
    listed(config.show, "--show")  # what is not there is said now, and not when the run is done
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.loop.seed)

    tokens = Tokens(config.vit, config.hw, config.pretrained and not config.resume)
    if config.init is not None and not config.resume:
        tokens.load_timm(config.init)
    config.out.mkdir(parents=True, exist_ok=True)
    files = frames_of(config)
    method = method_for(config, tokens, files)
    if not config.resume:
        (config.out / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str))
    # Colourisation must see true colours.
    views = config.views if config.method != "colour" else replace(config.views, magnitude=0.0)
    total = config.loop.steps * config.loop.batch_size
    stream = ViewStream(files, config.hw, views, total, config.loop.seed)
    about = {"method": config.method, "vit": config.vit, "hw": config.hw, "revision": checkpoint.revision()}
    encoder = pretrain(method, stream, config.out, config.loop, about)
    if config.show:
        print(f"wrote {shown(method, config)}")
    print(f"encoder: {encoder}; go on with perception.train --vit {config.vit} --init {encoder}")
    return {"run": str(config.out), "method": config.method, "frames": len(files), "encoder": str(encoder)}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, pretrain, and return the exit code."""
    return run(PretrainConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
