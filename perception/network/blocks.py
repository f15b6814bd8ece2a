"""Transformer blocks of timm with fewer heads and a narrower MLP: what pruning leaves, and how that is built again.

Legend: D = width of the transformer, d = width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["block_shape", "keep_units"]


def block_shape(block: Any) -> tuple[int, int]:
    """(attention heads, hidden units of the MLP) of a plain transformer block of timm. Raises ValueError for others."""
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    plain = hasattr(attention, "attn_dim") and isinstance(getattr(attention, "qkv", None), nn.Linear)
    plain = plain and isinstance(attention.norm, nn.Identity) and attention.gate is None
    plain = plain and isinstance(getattr(mlp, "fc1", None), nn.Linear) and not hasattr(mlp, "gate_layer")
    if not plain or not isinstance(mlp.norm, nn.Identity) or mlp.fc1.out_features != mlp.fc2.in_features:
        raise ValueError(
            "only blocks with plain attention and a plain MLP, as timm 1.0.23 or newer builds them for ViT and DINOv2, "
            f"can have fewer units, but this one has {type(attention).__name__} and {type(mlp).__name__}"
        )
    return attention.num_heads, mlp.fc1.out_features


def keep_units(block: Any, heads: Sequence[int], hidden: Sequence[int]) -> None:
    """Leave only these heads and these hidden units of the MLP in a block of timm, in place, with their weights.

    The block answers as before if what is left out only ever gave zeros. Raises ValueError if there are no such units,
    or none is left.
    """
    all_heads, all_hidden = block_shape(block)
    for kind, units, count in (("heads", heads, all_heads), ("hidden units", hidden, all_hidden)):
        if not 0 < len(units) <= count or min(units) < 0 or max(units) >= count:
            raise ValueError(
                f"a block of this Vision Transformer has {count} {kind}; expected to keep 1 to {count}, "
                f"but got {len(units)}"
            )
    attention, mlp, d = block.attn, block.mlp, block.attn.head_dim
    if len(heads) < all_heads:
        inner = torch.cat([torch.arange(h * d, (h + 1) * d) for h in heads])  # (kept heads * d,)
        q_k_v = torch.cat([inner + part * all_heads * d for part in range(3)])
        attention.qkv = narrowed(attention.qkv, out=q_k_v)
        attention.proj = narrowed(attention.proj, into=inner)
        attention.num_heads, attention.attn_dim = len(heads), len(heads) * d
    if len(hidden) < all_hidden:
        index = torch.tensor(list(hidden))
        mlp.fc1, mlp.fc2 = narrowed(mlp.fc1, out=index), narrowed(mlp.fc2, into=index)


def narrowed(layer: nn.Linear, out: torch.Tensor | None = None, into: torch.Tensor | None = None) -> nn.Linear:
    """A linear layer with some of the outputs (`out`) or of the inputs (`into`) of another."""
    weight = layer.weight.detach()
    weight = weight if out is None else weight[out]
    weight = weight if into is None else weight[:, into]
    fewer = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        fewer.weight.copy_(weight)
        if layer.bias is not None:
            fewer.bias.copy_(layer.bias if out is None else layer.bias[out])
    return fewer
