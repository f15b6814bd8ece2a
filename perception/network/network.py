"""The whole network: uint8 frames in, boxes and class maps out. forward is its table of contents.

Legend: B = batch, H, W = input height and width, K = boxes returned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from perception.labels import BOX_CLASSES, HEADS
from perception.network.boxes import BoxHead, BranchName, RawBoxes, decode
from perception.network.features import DetailPath, PlainPyramid, Pyramid
from perception.network.masks import MaskHead, class_map
from perception.network.tokens import Tokens

__all__ = ["Network", "NetworkConfig", "Raw", "drive_t"]

MAX_BLOCKS, MAX_UNITS = 128, 65536  # more than any ViT has


@dataclass(frozen=True, slots=True)
class Raw:
    """What the heads say before any selection."""

    masks: dict[str, Tensor]  # head -> class logits (B, classes, H / 4, W / 4)
    boxes: dict[str, RawBoxes]  # branch -> its boxes; empty without a box head


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Everything that decides the shapes of the weights. Saved with every run and inside every ONNX file."""

    hw: tuple[int, int] = (256, 448)  # input height and width, multiples of the ViT's patch and of 32
    vit: str = "vit_tiny_patch16_224"  # any plain Vision Transformer of timm
    detail: str = "tf_efficientnet_lite0"  # any timm CNN with features at strides 4, 8 and 16; "none": the ViT alone
    width: int = 96  # channels of the pyramid and the heads
    drop_path: float = 0.0  # stochastic depth of the ViT in training, arXiv:1603.09382
    box_classes: tuple[str, ...] = BOX_CLASSES  # empty: no box head
    heads: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: dict(HEADS)
    )  # segmentation heads and their classes
    max_boxes: int = 100  # K
    blocks: tuple[tuple[int, int], ...] = ()  # (heads, MLP's hidden units) of each block of the ViT; empty: timm's own
    branch: BranchName = "one_to_many"  # that answers: with too little training the one-to-one branch repeats itself

    def __post_init__(self) -> None:
        if not all(side % 32 == 0 and 0 < side <= 8192 for side in self.hw):
            raise ValueError(f"the input size must be a multiple of 32 up to 8192, but got {self.hw[0]}x{self.hw[1]}")
        if not (0 < self.width <= 4096 and 0 < self.max_boxes <= 10_000 and 0 <= self.drop_path < 1):
            raise ValueError(
                "a network has a width of 1 to 4096, up to 10000 boxes and drop_path from 0 to below 1, but got "
                f"{self.width}, {self.max_boxes} and {self.drop_path:g}"
            )
        units = [count for block in self.blocks for count in block]
        if len(self.blocks) > MAX_BLOCKS or not 0 < min(units, default=1) <= max(units, default=1) <= MAX_UNITS:
            raise ValueError(
                f"a network has up to {MAX_BLOCKS} blocks, each of 1 to {MAX_UNITS} heads and hidden units, but got "
                f"{len(self.blocks)} of {min(units)} to {max(units)}"
            )
        if not self.box_classes and not self.heads:
            raise ValueError("a network needs at least one head: box classes or a segmentation head")


@contextmanager
def hub(asked: bool) -> Iterator[None]:
    """What the hub can not give, where it is `asked`, is told with the ways that need no internet."""
    try:
        yield
    except OSError as error:
        if not asked:
            raise
        raise OSError(
            f"the hub can not be reached ({error}); leave out --pretrained, or name files with --init and "
            "--detail-weights"
        ) from None


class Network(nn.Module):
    """(B, H, W, 3) uint8 RGB -> the raw output of each head in training, the final one from `predict`."""

    def __init__(
        self,
        config: NetworkConfig,
        pretrained: bool = False,
        vit_weights: str | Path | None = None,
        detail_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        from_hub = pretrained and vit_weights is None and not config.blocks  # the hub has none that were pruned
        with hub(from_hub):
            tokens = Tokens(config.vit, config.hw, from_hub, config.drop_path, config.blocks)
        if vit_weights is not None:
            tokens.load_timm(vit_weights)
        if config.detail == "none":
            self.pyramid: Pyramid | PlainPyramid = PlainPyramid(tokens, config.width)
        else:
            from_hub = pretrained and detail_weights is None
            with hub(from_hub):
                detail = DetailPath(config.detail, from_hub, detail_weights)
            self.pyramid = Pyramid(tokens, detail, config.width)
        self.boxes = BoxHead(config.width, len(config.box_classes), config.branch) if config.box_classes else None
        self.masks = nn.ModuleDict({name: MaskHead(config.width, len(c)) for name, c in config.heads.items()})

    def forward(self, image: Tensor) -> Raw:
        p4, p8, p16, p32 = self.pyramid(image.permute(0, 3, 1, 2).float())
        masks = {name: head(p4) for name, head in self.masks.items()}
        return Raw(masks, self.boxes([p8, p16, p32]) if self.boxes is not None else {})

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        """{"boxes": (B, K, 6) float32 in model pixels, head name: (B, H, W) uint8}: the outputs of the ONNX file."""
        assert not self.training
        return self.finish(self(image))

    def finish(self, raw: Raw) -> dict[str, Tensor]:
        """Raw outputs -> final ones: the K best boxes, and the best class of each pixel."""
        out = {}
        if self.boxes is not None:
            out["boxes"] = decode(raw.boxes[self.config.branch], self.config.hw, self.config.max_boxes)
        return out | {name: class_map(logits, self.config.hw) for name, logits in raw.masks.items()}

    def keep(self, heads: Collection[str]) -> None:
        """Leave out the other heads, "boxes" among them, for a smaller and faster export."""
        boxes = self.config.box_classes if "boxes" in heads else ()
        kept = {name: classes for name, classes in self.config.heads.items() if name in heads}
        self.config = replace(self.config, box_classes=boxes, heads=kept)
        self.boxes = self.boxes if boxes else None
        self.masks = nn.ModuleDict({name: self.masks[name] for name in kept})


def drive_t(hw: tuple[int, int] = (256, 448)) -> NetworkConfig:
    """The bundled model: ViT-Tiny/16 with EfficientNet-Lite0 details, small enough for a CPU."""
    return NetworkConfig(hw=hw)
