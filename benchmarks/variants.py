"""A network -> other forms of it as ONNX files, each checked against torch as perception.export does: sizes, merging.

Merging tokens (ToMe, Bolya et al., arXiv:2210.09461): before some block, the tokens whose keys are most like another's
are averaged with it, and the blocks after it have fewer to compute. A dense task needs all places again, so at the end
every token gets the answer of the one that it went into. No weight changes. It is here to be measured, and not in the
product: see benchmarks/README.md.

Legend: B = batch, N = tokens, D = width, H = heads, d = width of a head; A and B are the tokens of even and odd number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.export import export
from perception.network.network import Network
from perception.training.checkpoint import metadata

__all__ = ["Merged", "merge_tokens", "write"]


def write(
    network: Network, path: Path, images: list[np.ndarray], meta: Mapping[str, Any] | None = None, batch: int = 1
) -> Path:
    """Export with all heads for `batch` frames a call, checked on `images` (h, w, 3) uint8 RGB.

    Raises ValueError if it answers otherwise than in torch.
    """
    heads = (*(["boxes"] if network.boxes is not None else []), *network.masks)
    export(network, heads, replace(metadata(network, meta or {}), batch=batch), images, path)
    return path


def merge_tokens(network: Network, share: float, before: int) -> None:
    """Let the ViT merge a share of its tokens, up to a half, before the block of that number, in place."""
    blocks, tokens = network.pyramid.tokens.vit.blocks, network.pyramid.tokens
    if not 0 < share <= 0.5 or not 0 <= before < len(blocks):
        raise ValueError(
            f"can merge a share of over 0 to 0.5 of the tokens before block 0 to {len(blocks) - 1}, "
            f"but got {share:g} and {before}"
        )
    prefix, (h, w) = tokens.vit.num_prefix_tokens, tokens.grid_hw
    gone = min(round(share * (h * w + prefix)), (h * w + prefix + 1) // 2 - prefix)
    tokens.vit.blocks = nn.Sequential(*blocks[:before], Merged(blocks[before:], gone, prefix))


class Merged(nn.Module):
    """(B, N, D) -> the same: `blocks` on N - `gone` tokens. The first `prefix` of A are not merged."""

    def __init__(self, blocks: nn.Module, gone: int, prefix: int) -> None:
        super().__init__()
        self.blocks: Any = blocks
        self.gone, self.prefix = gone, prefix

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x)
        likeness = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # (B, A, B)
        best, into = likeness.max(-1)  # (B, A)
        first = torch.arange(best.shape[1], device=x.device) < (self.prefix + 1) // 2
        order = torch.where(first, -2.0, best).topk(best.shape[1], dim=1).indices  # likeness is from -1 to 1
        gone, kept = order[:, : self.gone], order[:, self.gone :]
        target = into.gather(1, gone)  # (B, gone), which token of B

        a, b = x[:, ::2], x[:, 1::2]
        count = torch.ones_like(b[..., 0]).scatter_add(1, target, torch.ones_like(target, dtype=x.dtype))
        b = b.scatter_add(1, rows(target, x), a.gather(1, rows(gone, x))) / count[..., None]
        size = torch.cat([torch.ones_like(kept, dtype=x.dtype), count], 1)
        y = torch.cat([a.gather(1, rows(kept, x)), b], 1)
        for block in self.blocks:  # a token that stands for n is attended to n times
            y = block(y, attn_mask=size.log()[:, None, None, :])

        of_kept, b = y[:, : kept.shape[1]], y[:, kept.shape[1] :]
        a = torch.zeros_like(a).scatter(1, rows(kept, x), of_kept)
        a = a.scatter(1, rows(gone, x), b.gather(1, rows(target, x)))
        both = torch.stack([a[:, : b.shape[1]], b], 2).flatten(1, 2)
        return torch.cat([both, a[:, b.shape[1] :]], 1)

    def keys(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, d), the first block's keys, mean of its heads, of length 1."""
        first = self.blocks[0]
        qkv, inner = first.attn.qkv, first.attn.attn_dim
        bias = None if qkv.bias is None else qkv.bias[inner : 2 * inner]
        keys = F.linear(first.norm1(x), qkv.weight[inner : 2 * inner], bias)
        return F.normalize(keys.reshape(*x.shape[:2], first.attn.num_heads, -1).mean(2), dim=-1)


def rows(index: Tensor, x: Tensor) -> Tensor:
    """(B, n) -> (B, n, D), to gather or scatter whole tokens."""
    return index[..., None].expand(-1, -1, x.shape[2])
