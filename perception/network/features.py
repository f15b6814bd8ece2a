"""Image -> features at strides 4, 8, 16 and 32: Vision Transformer tokens, as a rule joined with a detail path.

A plain ViT sees one coarse scale. The detail path (the first stages of any timm CNN) adds the fine ones, as the spatial
prior of ViT-Adapter (arXiv:2205.08534) and the spatial tuning adapter of DEIMv2 (arXiv:2509.20787) do.

Legend: B = batch, C = `width`, p4 .. p32 = features at strides 4 .. 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.network.tokens import Normalize, Tokens, read_weights

__all__ = ["ConvNorm", "DetailPath", "PlainPyramid", "Pyramid", "Separable", "load_cnn"]


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.SiLU() if act else nn.Identity())


class Separable(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(ConvNorm(c_in, c_in, 3, stride, groups=c_in, act=False), ConvNorm(c_in, c_out))


class DetailPath(nn.Module):
    """(B, 3, H, W) RGB float in 0..255 -> features of a CNN at strides 4, 8 and 16."""

    def __init__(self, name: str, pretrained: bool = False, weights: str | Path | None = None) -> None:
        super().__init__()
        cnn: Any = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(1, 2, 3))
        if cnn.feature_info.reduction() != [4, 8, 16]:
            raise ValueError(f"{name} has strides {cnn.feature_info.reduction()}; the detail path needs [4, 8, 16]")
        self.channels: list[int] = cnn.feature_info.channels()
        container, _, last = cnn.feature_info.module_name()[-1].rpartition(".")
        if container and last.isdigit():  # timm would compute the stages beyond stride 16 too, for nothing
            setattr(cnn, container, cnn.get_submodule(container)[: int(last) + 1])
        self.stem_end: str = cnn.feature_info.module_name()[0]  # the stage that ends at stride 4
        self.cnn: nn.Module = cnn
        self.frozen = False
        config = timm.get_pretrained_cfg(name)
        self.normalize = Normalize(config.mean, config.std) if config else Normalize((0.5,) * 3, (0.5,) * 3)
        if weights is not None:
            self.load(weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.cnn(self.normalize(image))
        return features

    def train(self, mode: bool = True) -> DetailPath:
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def freeze(self, all_stages: bool = False) -> None:
        """Keep pretrained batch norm statistics, and all weights below stride 8, or all there are.

        Edges and textures need no second lesson, and the largest maps cost the most.
        """
        self.frozen = True
        self.train(self.training)
        names = [name for name, _ in self.cnn.named_parameters()]
        end = max(i for i, name in enumerate(names) if name.startswith(f"{self.stem_end}."))
        for name in names if all_stages else names[: end + 1]:
            self.cnn.get_parameter(name).requires_grad_(False)

    def load(self, path: str | Path) -> None:
        """Load ImageNet weights: timm's state dict, or that of EfficientNet-PyTorch (same layers, other names)."""
        load_cnn(self.cnn, path)


def load_cnn(cnn: nn.Module, path: str | Path) -> None:
    """Load into timm's `features_only` CNN: timm's state dict, or EfficientNet-PyTorch's (same layers, other names).

    Raises ValueError if it does not fit.
    """
    state = read_weights(path)
    try:
        if "_conv_stem.weight" in state:
            state = dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), state.values(), strict=True))
        cnn.load_state_dict({key: state[stock_name(key, state)] for key in cnn.state_dict()})
    except KeyError as error:
        raise ValueError(f"{path} does not fit this convolutional network: it lacks {error}") from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit this convolutional network: {error}") from None


def stock_name(key: str, state: Mapping[str, Tensor]) -> str:
    """A weight's name in the whole model, where a `features_only` one has flattened it: stages_0.x for stages.0.x."""
    part, _, rest = key.partition(".")
    container, _, number = part.rpartition("_")
    return f"{container}.{number}.{rest}" if key not in state and number.isdecimal() else key


class Pyramid(nn.Module):
    """(B, 3, H, W) RGB float in 0..255 -> [p4, p8, p16, p32], each (B, C, H / stride, W / stride)."""

    def __init__(self, tokens: Tokens, detail: DetailPath, width: int) -> None:
        super().__init__()
        self.tokens, self.detail = tokens, detail
        c4, c8, c16 = detail.channels
        self.inject = nn.Conv2d(c16, tokens.width, 1)
        for parameter in self.inject.parameters():
            nn.init.zeros_(parameter)  # a pretrained ViT starts undisturbed
        self.join16 = ConvNorm(tokens.width + c16, width)
        self.refine16 = Separable(width, width)
        self.down32 = Separable(width, width, stride=2)
        self.lateral8, self.refine8 = ConvNorm(c8, width, act=False), Separable(width, width)
        self.lateral4, self.refine4 = ConvNorm(c4, width, act=False), Separable(width, width)

    def forward(self, image: Tensor) -> list[Tensor]:
        d4, d8, d16 = self.detail(image)
        inject = resize_like(self.inject(d16), self.tokens.grid_hw)
        tokens = resize_like(self.tokens(image, inject), d16.shape[2:])  # patch 14 and stride 16 differ a little
        p16 = self.refine16(self.join16(torch.cat([tokens, d16], 1)))
        p32 = self.down32(p16)
        p8 = self.refine8(self.lateral8(d8) + resize_like(p16, d8.shape[2:]))
        p4 = self.refine4(self.lateral4(d4) + resize_like(p8, d4.shape[2:]))
        return [p4, p8, p16, p32]


class PlainPyramid(nn.Module):
    """The same as Pyramid from the tokens alone: finer maps are deconvolved (ViTDet, arXiv:2203.16527)."""

    detail = None

    def __init__(self, tokens: Tokens, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.hw16 = (tokens.grid_hw[0] * tokens.stride // 16, tokens.grid_hw[1] * tokens.stride // 16)
        self.join16 = ConvNorm(tokens.width, width)
        self.refine16 = Separable(width, width)
        self.down32 = Separable(width, width, stride=2)
        self.up8, self.refine8 = nn.ConvTranspose2d(width, width, 2, 2), Separable(width, width)
        self.up4, self.refine4 = nn.ConvTranspose2d(width, width, 2, 2), Separable(width, width)

    def forward(self, image: Tensor) -> list[Tensor]:
        p16 = self.refine16(self.join16(resize_like(self.tokens(image), self.hw16)))
        p8 = self.refine8(self.up8(p16))
        return [self.refine4(self.up4(p8)), p8, p16, self.down32(p16)]


def resize_like(x: Tensor, hw: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize of (B, C, h, w) to `hw`; nothing is done where it has that size."""
    return (
        x if x.shape[2:] == torch.Size(hw) else F.interpolate(x, size=tuple(hw), mode="bilinear", align_corners=False)
    )
