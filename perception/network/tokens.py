"""Image -> tokens of a plain Vision Transformer of timm (Dosovitskiy et al., arXiv:2010.11929), as a feature map.

Legend: B = batch, D = width of the transformer, N = tokens, h, w = height and width in patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from perception.execution.modelfile import check_sum
from perception.network.blocks import keep_units

__all__ = ["WEIGHT_SUFFIXES", "Normalize", "Tokens", "fit_position_embedding", "read_weights"]

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")  # of files that `read_weights` reads


class Normalize(nn.Module):
    """(B, 3, H, W) float in 0..255 -> the mean/std normalisation that a timm model was trained with."""

    scale: Tensor  # (1, 3, 1, 1)
    shift: Tensor  # (1, 3, 1, 1)

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("scale", (1 / (255 * torch.tensor(std))).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return image * self.scale + self.shift


class Tokens(nn.Module):
    """(B, 3, H, W) RGB float in 0..255 -> (B, D, H / patch, W / patch), the tokens after the last block.

    Any plain ViT of timm serves, at any size that is a multiple of its patch. `inject` (B, D, h, w) is added to the
    embedded patches, so that the convolutional detail path speaks before the first block (the injector of ViT-Adapter,
    arXiv:2205.08534, in its simplest form). `blocks`, if given, says how many blocks there are instead of timm's, and
    how many heads and hidden units each of them keeps.
    """

    def __init__(
        self,
        name: str,
        hw: tuple[int, int],
        pretrained: bool = False,
        drop_path: float = 0.0,
        blocks: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        more: dict[str, Any] = {"drop_path_rate": drop_path} | ({"depth": len(blocks)} if blocks else {})
        try:
            vit: Any = timm.create_model(
                name, pretrained=pretrained, img_size=hw, num_classes=0, global_pool="", dynamic_img_size=False, **more
            )
            patch_h, patch_w = vit.patch_embed.patch_size
            prefix = 0 if vit.no_embed_class else int(vit.num_prefix_tokens)
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{name} at {hw[0]}x{hw[1]} is not a plain Vision Transformer of timm: {error}") from error
        if hw[0] % patch_h or hw[1] % patch_w:
            step = math.lcm(patch_h, 32), math.lcm(patch_w, 32)  # perception.train needs multiples of 32 too
            near = "x".join(str(max(1, round(n / s)) * s) for n, s in zip(hw, step, strict=True))
            raise ValueError(
                f"input {hw[0]}x{hw[1]} is not a multiple of the patch {patch_h}x{patch_w} of {name}; take {near}"
            )
        for block, (heads, hidden) in zip(vit.blocks if blocks else (), blocks, strict=True):
            keep_units(block, range(heads), range(hidden))
        self.grid_hw: tuple[int, int] = (hw[0] // patch_h, hw[1] // patch_w)
        self.stride: int = patch_h
        self.width: int = vit.embed_dim
        self.normalize = Normalize(vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"])
        self.name = name
        self.prefix = prefix  # position embeddings that have no place
        self.embed: nn.Module = vit.patch_embed
        vit.patch_embed = nn.Identity()  # so that `inject` fits in between
        self.vit: Any = vit

    def forward(self, image: Tensor, inject: Tensor | None = None) -> Tensor:
        patches = self.embed(self.normalize(image))  # (B, N, D)
        if inject is not None:
            patches = patches + inject.flatten(2).transpose(1, 2)
        tokens = self.vit.forward_features(patches)[:, self.vit.num_prefix_tokens :]  # (B, N, D)
        return tokens.transpose(1, 2).unflatten(2, self.grid_hw)  # (B, D, h, w)

    def freeze(self, blocks: int) -> None:
        """Keep the embeddings and the first `blocks` transformer blocks as they are; 0 freezes nothing.

        Raises ValueError if the transformer has fewer.
        """
        depth = len(self.vit.blocks)
        if not 0 <= blocks <= depth:
            raise ValueError(f"can freeze 0 to {depth} blocks of this Vision Transformer, but {blocks} were asked for")
        frozen = [self.embed, *self.vit.blocks[:blocks]] if blocks else []
        for module in frozen:
            module.requires_grad_(False)
        for name in ("cls_token", "pos_embed", "reg_token") if blocks else ():
            if isinstance(parameter := getattr(self.vit, name, None), nn.Parameter):
                parameter.requires_grad_(False)

    def fuse_attention(self, fused: bool) -> None:
        """Choose between torch's fused attention and its plain formula; the answers are the same up to rounding."""
        for block in self.vit.blocks:
            block.attn.fused_attn = fused

    def timm_state(self) -> dict[str, Tensor]:
        """The state dict that stock timm loads, strictly, into this model at its own default size without a head."""
        state = {
            f"patch_embed.{name}": value for name, value in self.embed.state_dict().items()
        } | self.vit.state_dict()
        default_h, default_w = self.vit.pretrained_cfg["input_size"][1:]
        grid = (default_h // self.stride, default_w // self.stride)
        fit_position_embedding(state, "pos_embed", self.grid_hw, grid, self.prefix)
        with torch.device("meta"):
            stock = timm.create_model(self.name, num_classes=0).state_dict().keys()
        state = {
            name.replace("norm.", "fc_norm.", name.startswith("norm.") and name not in stock): value
            for name, value in state.items()
        }
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def load_timm(self, path: str | Path) -> None:
        """Load a state dict of the same timm model at any square size. Raises ValueError where it does not fit."""
        state = read_weights(path)
        parts: tuple[tuple[str, nn.Module], ...] = (("patch_embed.", self.embed), ("", self.vit))
        try:
            fit_position_embedding(state, "pos_embed", None, self.grid_hw, self.prefix)
            for name in ("weight", "bias"):  # where timm averages the tokens, their norm comes after that
                if f"norm.{name}" not in state and f"fc_norm.{name}" in state:
                    state[f"norm.{name}"] = state[f"fc_norm.{name}"]
            for part, module in parts:
                module.load_state_dict({key: state[part + key] for key in module.state_dict()})
        except KeyError as error:
            raise ValueError(f"{path} does not fit {self.name}: it lacks {error}") from None
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit {self.name}: {error}") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pth or .pt file that holds nothing but tensors.

    No code in the file runs. Raises ValueError if it is broken, is not what a SHA256SUMS beside it says, or holds
    something else; FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}; expected .safetensors, .pth or .pt")
    check_sum(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of safetensors, of zipfile, of the unpickler: they share no other base class
        raise ValueError(f"{path} can't be read as weights: {' '.join(str(error).split())[:500]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict, names and tensors, but it holds something else")
    return state


def fit_position_embedding(
    state: dict[str, Tensor], key: str, old_hw: tuple[int, int] | None, new_hw: tuple[int, int], prefix: int
) -> None:
    """Resample the position embedding `state[key]`, if there is one, from one grid of patches to another, in place.

    `old_hw` None means a square grid. `prefix` counts the leading embeddings that have no place (the class token).
    Raises ValueError if it is not (1, prefix + places, D), with as many places as the old grid has.
    """
    if key not in state or old_hw == new_hw:
        return
    shape = tuple(state[key].shape)
    places = shape[1] - prefix if len(shape) == 3 and shape[0] == 1 else -1
    old = old_hw or (math.isqrt(max(places, 0)),) * 2
    if places < 1 or old[0] * old[1] != places:
        grid = f"a grid of {old_hw[0]}x{old_hw[1]}" if old_hw else "a square grid"
        raise ValueError(f"{key} {shape} is not that of {grid} and {prefix} tokens without a place")
    state[key] = resample_abs_pos_embed(state[key], list(new_hw), list(old), num_prefix_tokens=prefix)
