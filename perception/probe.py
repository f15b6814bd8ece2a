"""What do the frozen features of a Vision Transformer know? Linear and nearest-neighbour segmentation, and pictures.

python -m perception.probe RUN|FILE --data DIR [--out DIR]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from perception.cli import run
from perception.evaluation.figures import Selection, evaluate
from perception.imagefile import read_image
from perception.layout import read_layout
from perception.model import Model
from perception.network.tokens import Tokens
from perception.page import percent
from perception.pretraining.loop import save_picture
from perception.pretraining.method import Picture, sheet
from perception.pretraining.pca import pca_images
from perception.probing.attention import attention_image
from perception.probing.bank import ProbeEngine, fill_bank, see
from perception.probing.encoder import open_encoder
from perception.probing.probes import linear_probe, neighbour_probe
from perception.tensors import tensor_from_frame

__all__ = ["ProbeConfig", "main", "probe"]

PROBES = {"linear": linear_probe, "knn": neighbour_probe}
SHOWN = 6  # images in the pictures


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is probed, and on what."""

    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """Run of perception.pretrain or .train, timm state dict, .onnx of perception.export, random, or pretrained."""
    data: Path
    """A dataset with masks, in the common layout: the probes learn on its train split, in its own label space."""
    split: str = "val"
    """Split that the figures are of."""
    vit: str = "vit_tiny_patch16_224"
    """timm's name of the model, where the encoder does not say it."""
    hw: tuple[int, int] = (256, 448)
    """Input height and width, multiples of the patch."""
    limit: int | None = None
    """Learn on so many train images only, and judge on so many of the split."""
    seed: int = 0
    """Of the probes, and of a random encoder."""
    out: Path | None = None
    """Folder for features.png: principal components and attention of some images of the split."""
    json: str | None = None
    """Write the figures as one line of JSON to this file; - is the last line of standard output."""


def probe(tokens: Tokens, config: ProbeConfig) -> dict[str, Any]:
    """{probe: {"mIoU", "labels": {name: IoU}}} of a frozen transformer."""
    bank = fill_bank(tokens, config.data, config.hw, config.limit)
    out = {}
    for name, learn in PROBES.items():
        engine = ProbeEngine(tokens, bank, config.hw, learn(bank, config.hw, config.seed))
        select = Selection(split=config.split, limit=config.limit, own_space=True)
        figures = evaluate(Model(engine), config.data, select)["masks"][bank.head]
        out[name] = {"mIoU": figures["mIoU"], "labels": {k: v["IoU"] for k, v in figures["labels"].items()}}
    return out


def picture(tokens: Tokens, config: ProbeConfig) -> np.ndarray:
    """(H, W, 3) uint8 RGB: some images of the split, their features' principal components, and attention."""
    _, samples = read_layout(config.data, config.split)
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).round().astype(int)]
    images = [tensor_from_frame(read_image(sample.image), config.hw)[0] for sample in chosen]
    components = pca_images(see(tokens, np.stack(images)), config.hw)
    looks = [attention_image(tokens, image) for image in images]
    titles = ("image", "principal components", "attention of the last block")
    return sheet([Picture(titles, row) for row in zip(images, components, looks, strict=True)])


def body(config: ProbeConfig) -> dict[str, Any]:
    """Probe, print, draw."""
    tokens = open_encoder(config.encoder, config.vit, config.hw, config.seed)
    torch.manual_seed(config.seed)
    found = probe(tokens, config)
    for name, figures in found.items():
        print(f"{name}: mIoU {percent(figures['mIoU'])} on {config.data.name} {config.split}")
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        target = config.out / "features.png"
        save_picture(picture(tokens, config), target)
        print(f"wrote {target}")
    about = {"encoder": config.encoder, "data": config.data.name, "split": config.split, "hw": list(config.hw)}
    return {**about, "probes": found}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(ProbeConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
