"""Optimiser and schedule: AdamW with layer-wise decay; warm-up and cosine as a pure function of the step; EMA."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

__all__ = ["Ema", "learning_rate", "parameter_groups"]


def learning_rate(step: int, total: int, warmup: int, floor: float = 0.02) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(
    network: nn.Module, lr: float, weight_decay: float, layer_decay: float, detail_lr: float
) -> list[dict[str, object]]:
    """One group a (scale, decay): {"params", "names", "lr_scale", "lr", "weight_decay"}; frozen weights are left out.

    Layer-wise decay (BEiT, arXiv:2106.08254): the ViT's last block learns at `lr`, every earlier one `layer_decay`
    times slower; the pretrained detail path at `lr * detail_lr`. Biases, norms, embeddings and scales do not decay.
    """
    blocks = 1 + max((int(m[1]) for n, _ in network.named_parameters() if (m := BLOCK.search(n))), default=-1)
    groups: dict[tuple[float, float], dict[str, list[object]]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_scale(name, blocks, layer_decay, detail_lr)
        decay = 0.0 if parameter.ndim < 2 or "pos_embed" in name or "token" in name.rsplit(".", 1)[-1] else weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return [
        {**group, "lr_scale": scale, "lr": lr * scale, "weight_decay": decay}
        for (scale, decay), group in groups.items()
    ]


BLOCK = re.compile(r"\.vit\.blocks\.(\d+)\.")


def layer_scale(name: str, blocks: int, layer_decay: float, detail_lr: float) -> float:
    """How much slower than the heads a weight learns, by its name."""
    if ".detail." in name:
        return detail_lr
    if ".tokens." not in name:
        return 1.0
    if match := BLOCK.search(name):
        return layer_decay ** (blocks - 1 - int(match[1]))
    return 1.0 if ".vit.norm." in name else layer_decay**blocks  # embeddings, and what norms them, come first


class Ema:
    """An exponential moving average of a network's weights and buffers: what is evaluated and exported."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network; faster in the first steps, while the average is still young."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)
