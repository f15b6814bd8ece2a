"""Where a transformer looks: the attention of the last block, from the class token or, without one, from the middle.

Legend: N = tokens, h, w = the grid, H, W = the model's input.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.network.tokens import Tokens

__all__ = ["attention_image"]


def attention_image(tokens: Tokens, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same size, the mean attention over heads as brightness over the darkened image."""
    weights = attention(tokens, image)  # (h, w)
    strength = weights / weights.max().clamp(min=1e-9)
    H, W = image.shape[:2]
    glow = cv2.resize(strength.sqrt().numpy(), (W, H), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
    warm = np.array([255.0, 190.0, 60.0])
    return (0.35 * image * (1 - glow) + glow * (0.45 * image + 0.55 * warm)).clip(0, 255).astype(np.uint8)


def attention(tokens: Tokens, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (h, w) float32 that adds up to at most 1."""
    last: Any = tokens.vit.blocks[-1].attn
    seen: list[Tensor] = []
    hook = last.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # (1, heads, N, N)
    fused, last.fused_attn = last.fused_attn, False  # the fused one shows no weights
    with torch.inference_mode():
        try:
            tokens(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float())
        finally:
            hook.remove()
            last.fused_attn = fused
        weights = seen[0][0].mean(0)  # (N, N)
    prefix = tokens.vit.num_prefix_tokens
    h, w = tokens.grid_hw
    query = 0 if tokens.vit.cls_token is not None else prefix + (h // 2) * w + w // 2
    return weights[query, prefix:].reshape(h, w)
