"""Masked image completion (He et al. 2022, arXiv:2111.06377): most patches are hidden, the rest must tell them.

The encoder sees the visible patches only, which is what makes it cheap; a small decoder fills the gaps, and is thrown
away. Its targets are pixels, normalised patch by patch. Patches are hidden one by one, or in blocks (BEiT,
arXiv:2106.08254), which can't be filled by copying a neighbour's edge.

Legend: B = batch, N = patches, V = visible ones, D = width of the encoder, E = width of the decoder, p = patch side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from perception.network.tokens import Tokens
from perception.pretraining.method import Method, Picture, as_image
from perception.pretraining.views import Views

__all__ = ["Mae", "MaeConfig", "block_mask", "random_mask"]


HEADS = 4  # of attention in the decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig:
    """What is hidden, and who fills it in."""

    hidden: float = 0.75  # share of the patches
    mask: Literal["random", "block"] = "random"
    width: int = 128  # of the decoder
    depth: int = 2  # blocks of the decoder

    def __post_init__(self) -> None:
        if not 0 < self.hidden < 1:
            raise ValueError(f"--mae.hidden must be between 0 and 1, but got {self.hidden}")
        if self.width < 1 or self.width % HEADS:
            raise ValueError(f"--mae.width must be a multiple of its {HEADS} attention heads, but is {self.width}")


class Mae(Method):
    """Mean squared error of the hidden patches' pixels, each patch normalised by its own mean and deviation."""

    places: Tensor  # (1, N, E)

    def __init__(self, tokens: Tokens, config: MaeConfig) -> None:
        super().__init__()
        self.tokens, self.config = tokens, config
        patches = math.prod(tokens.grid_hw)
        self.visible = max(1, round((1 - config.hidden) * patches))
        if self.visible >= patches:
            raise ValueError(
                f"--mae.hidden: {config.hidden:g} of {patches} patches is none; expected one at least: hide more, or "
                "take a larger --hw"
            )
        if getattr(tokens.vit, "rope", None) is not None:
            raise ValueError(
                f"--method mae expects position embeddings that are added once, but {tokens.name} has rotary ones, in "
                "every block; take --method distil or colour, or another --vit"
            )
        self.enter = nn.Linear(tokens.width, config.width)
        self.blank = nn.Parameter(torch.zeros(1, 1, config.width))
        nn.init.normal_(self.blank, std=0.02)
        self.register_buffer("places", sine_embedding(tokens.grid_hw, config.width), persistent=False)  # (1, N, E)
        self.decoder = nn.Sequential(
            *(Block(config.width, num_heads=HEADS) for _ in range(config.depth)), nn.LayerNorm(config.width)
        )
        self.pixels = nn.Linear(config.width, 3 * tokens.stride**2)

    def losses(self, views: Views, draw: torch.Generator) -> dict[str, Tensor]:
        guess, hidden = self.complete(views, draw)
        truth, _, _ = self.patches(views)
        error = (guess - truth).square().mean(-1)  # (B, N)
        return {"pixels": error[hidden].mean()}

    def complete(self, views: Views, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, N, 3 p p) normalised pixels of every patch, and (B, N) bool: which were hidden."""
        image = views.image.permute(0, 3, 1, 2).float()
        B, N = len(image), math.prod(self.tokens.grid_hw)
        make = block_mask if self.config.mask == "block" else random_mask
        order = make(B, self.tokens.grid_hw, N - self.visible, draw).to(image.device)  # (B, N), visible first
        seen = order[:, : self.visible]
        encoded = self.encode(image, seen)  # (B, V, D)
        entered = self.enter(encoded)
        tokens = self.blank.to(entered.dtype).expand(B, N, -1)
        tokens = tokens.scatter(1, seen[..., None].expand(-1, -1, self.config.width), entered)
        guess = self.pixels(self.decoder(tokens + self.places)).float()
        hidden = torch.ones(B, N, dtype=torch.bool, device=image.device).scatter(1, seen, False)
        return guess, hidden

    def encode(self, image: Tensor, seen: Tensor) -> Tensor:
        """The visible patches (B, V) of images (B, 3, H, W), after the encoder: (B, V, D)."""
        vit, prefix = self.tokens.vit, self.tokens.vit.num_prefix_tokens
        x = vit._pos_embed(self.tokens.embed(self.tokens.normalize(image)))  # (B, prefix + N, D)
        front, patches = x[:, :prefix], x[:, prefix:]
        patches = patches.gather(1, seen[..., None].expand(-1, -1, patches.shape[-1]))
        x = vit.norm_pre(torch.cat([front, patches], 1))
        return vit.norm(vit.blocks(x))[:, prefix:]

    def patches(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 p p) pixels of each patch, normalised, and their mean and deviation (B, N, 1) in 0..255."""
        rows = F.unfold(views.image.permute(0, 3, 1, 2).float(), self.tokens.stride, stride=self.tokens.stride)
        rows = rows.transpose(1, 2)
        mean, std = rows.mean(-1, keepdim=True), rows.std(-1, keepdim=True) + 1.0
        return (rows - mean) / std, mean, std

    def pictures(self, views: Views, draw: torch.Generator) -> list[Picture]:
        guess, hidden = self.complete(views, draw)
        truth, mean, std = self.patches(views)
        hw = (views.image.shape[1], views.image.shape[2])
        grey = torch.full_like(truth, 114.0)
        shown = torch.where(hidden[..., None], grey, truth * std + mean)
        filled = torch.where(hidden[..., None], guess, truth) * std + mean
        both = [
            F.fold(rows.transpose(1, 2), hw, self.tokens.stride, stride=self.tokens.stride) for rows in (shown, filled)
        ]
        return [
            Picture(("visible", "completed", "frame"), (as_image(a), as_image(b), as_image(c.float())))
            for a, b, c in zip(*both, views.image, strict=True)
        ]


def random_mask(batch: int, grid_hw: tuple[int, int], hidden: int, draw: torch.Generator) -> Tensor:
    """(B, N) int64, a permutation of the patches each: the last `hidden` of them are hidden, one by one."""
    return torch.rand(batch, math.prod(grid_hw), generator=draw).argsort(1)


def block_mask(batch: int, grid_hw: tuple[int, int], hidden: int, draw: torch.Generator) -> Tensor:
    """(B, N) int64, a permutation of the patches each: the last `hidden` of them are hidden, in rectangles.

    Rectangles of 4 to 16 patches at a time fall until enough is hidden; of the last one, only what is needed.
    """
    h, w = grid_hw
    order = []
    for _ in range(batch):
        rank = torch.zeros(h, w)
        while (left := hidden - int((rank > 0).sum())) > 0:
            rows, columns = (int(n) for n in torch.randint(2, 5, (2,), generator=draw))
            top = int(torch.randint(max(1, h - rows + 1), (1,), generator=draw))
            start = int(torch.randint(max(1, w - columns + 1), (1,), generator=draw))
            part = rank[top : top + rows, start : start + columns]
            new = (part == 0).nonzero()[:left]
            part[new[:, 0], new[:, 1]] = 1.0
        order.append((rank.flatten() + 0.5 * torch.rand(h * w, generator=draw)).argsort())
    return torch.stack(order)


def sine_embedding(grid_hw: tuple[int, int], width: int) -> Tensor:
    """(1, h * w, width): where a patch is, as sines and cosines of its row and its column."""
    h, w = grid_hw
    quarter = width // 4
    omega = 1.0 / 10_000 ** (torch.arange(quarter) / quarter)
    rows = (torch.arange(h)[:, None] * omega)[:, None].expand(h, w, quarter)
    columns = (torch.arange(w)[:, None] * omega)[None].expand(h, w, quarter)
    parts = [rows.sin(), rows.cos(), columns.sin(), columns.cos()]
    return F.pad(torch.cat(parts, -1).reshape(1, h * w, 4 * quarter), (0, width - 4 * quarter))
