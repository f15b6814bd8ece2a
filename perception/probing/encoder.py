"""Whatever holds a Vision Transformer -> that transformer alone, frozen: a weight file, a run, an exported model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from perception.jsonfile import read_object
from perception.network.network import Network
from perception.network.tokens import WEIGHT_SUFFIXES, Tokens
from perception.pretraining.loop import ENCODER, FRAMES
from perception.training import checkpoint
from perception.training.from_onnx import network_from_onnx

__all__ = ["open_encoder"]


def open_encoder(source: str, vit: str, hw: tuple[int, int], seed: int = 0) -> Tokens:
    """The frozen transformer in `source`, at the input size `hw`, in evaluation mode.

    Args:
        source: a timm state dict (.safetensors, .pth), a run of perception.pretrain or perception.train, a file of
            perception.export (.onnx), or "random" or "pretrained" (from the hub). Of a run or an exported model it is
            the transformer without its detail path.
        vit: timm's name of the model, where the source is a state dict, "random" or "pretrained".
        hw: height and width, multiples of the patch.
        seed: of "random".

    Raises:
        FileNotFoundError: there is no such file or run. ValueError: it does not fit.
    """
    path = Path(source)
    if source in ("random", "pretrained"):
        torch.manual_seed(seed)
        tokens = Tokens(vit, hw, pretrained=source == "pretrained")
    elif path.suffix in WEIGHT_SUFFIXES:
        tokens = Tokens(vit, hw)
        tokens.load_timm(path)
    elif (path / ENCODER).is_file():
        tokens = Tokens(str(read_object(path / "config.json")["vit"]), hw)
        tokens.load_timm(path / ENCODER)
    elif (path / FRAMES).is_file():
        raise FileNotFoundError(
            f"{path} is a run of perception.pretrain that is not done: expected {ENCODER} in it; go on with --resume"
        )
    else:
        trained = network_from_onnx(path) if path.suffix == ".onnx" else checkpoint.load_network(path)[0]
        network = Network(replace(trained.config, hw=hw))
        checkpoint.adopt(network, trained.state_dict(), trained.config)
        tokens = network.pyramid.tokens
    return tokens.eval().requires_grad_(False)
