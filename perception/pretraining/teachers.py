"""A trained network that teaches: its features of whole frames, computed once and kept in a file.

Any CNN and any plain ViT of timm serves, of any stride and width. A frame is shown to it at the size at which its
grid is as fine as the student's on the widest view, so the grids match whatever the strides are.

Legend: F = frames, C = channels of the teacher, gh, gw = its grid of a frame, B = batch, h, w = the student's grid.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from perception.imagefile import read_image
from perception.jsonfile import read_object, write_json
from perception.network.features import load_cnn
from perception.network.tokens import Normalize, fit_position_embedding, read_weights
from perception.pretraining.views import stretched

__all__ = ["Lessons", "Teacher", "taught"]

SCHEMA = 1
VITS = ("vision_transformer", "deit", "eva")  # modules of timm with plain Vision Transformers; DINOv3's are in eva
UNPACKED = frozenset(".bmp .ppm .pgm .tif .tiff".split())  # image files whose size says nothing of their content
PROBE = 1 << 16  # bytes from the middle of such a file, to tell it from another


class Teacher(nn.Module):
    """(1, H, W, 3) uint8 RGB, H and W multiples of `stride` -> (C, H / stride, W / stride) float32 features.

    A CNN gives its last two stages, the finer one averaged down; a ViT its last tokens.
    """

    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        try:
            config = timm.get_pretrained_cfg(name)
        except (RuntimeError, ValueError):
            config = None
        if config is None or not timm.is_model(name.split(".")[0]):
            raise ValueError(f"--teachers: {name!r} is no model of timm; expected a name such as tf_efficientnet_lite0")
        self.name = name
        self.is_vit = timm.model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2] in VITS
        self.normalize = Normalize(config.mean, config.std)
        how = {"num_classes": 0, "dynamic_img_size": True} if self.is_vit else {"features_only": True}
        try:
            self.body: Any = timm.create_model(name, pretrained=weights is None, **how)
            self.stride = int(
                self.body.patch_embed.patch_size[0] if self.is_vit else self.body.feature_info.reduction()[-1]
            )
        except OSError as error:
            raise OSError(f"--teachers: the hub can not be reached ({error}); name a file, {name}=WEIGHTS") from None
        except (RuntimeError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"--teachers: {name} can't teach: {error}") from None
        self.eval().requires_grad_(False)
        self._try_out()
        if weights is not None:
            try:
                (load_vit if self.is_vit else load_cnn)(self.body, weights)
            except ValueError as error:
                raise ValueError(f"--teachers: {name}: {error}") from None
        if not self.is_vit:
            self.body = self.body.to(memory_format=torch.channels_last)

    def _try_out(self) -> None:
        """Raises ValueError if a small image has no feature map: networks of one input size, with channels last."""
        try:
            shape = tuple(self(torch.zeros(1, 4 * self.stride, 6 * self.stride, 3, dtype=torch.uint8)).shape)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            shape = (error,)
        if shape[1:] != (4, 6):
            raise ValueError(
                f"--teachers: {self.name} gives no feature map at any size ({' x '.join(map(str, shape))}); "
                "expected a CNN or a plain Vision Transformer"
            )

    def forward(self, image: Tensor) -> Tensor:
        x = self.normalize(image.permute(0, 3, 1, 2).float())
        if self.is_vit:
            grid = (x.shape[2] // self.stride, x.shape[3] // self.stride)
            tokens = self.body.forward_features(x)[:, self.body.num_prefix_tokens :]
            return tokens[0].T.unflatten(1, grid)
        *_, fine, coarse = self.body(x)
        return torch.cat([F.adaptive_avg_pool2d(fine, coarse.shape[2:]), coarse], 1)[0]


def load_vit(vit: Any, path: str) -> None:
    """Load timm's state dict at any square size, with or without a head. Raises ValueError if it does not fit."""
    state = read_weights(path)
    try:
        prefix = 0 if vit.no_embed_class else int(vit.num_prefix_tokens)
        fit_position_embedding(state, "pos_embed", None, vit.patch_embed.grid_size, prefix)
        vit.load_state_dict({key: state[key] for key in vit.state_dict()})
    except KeyError as error:
        raise ValueError(f"{path} does not fit this Vision Transformer: it lacks {error}") from None
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this Vision Transformer: {error}") from None


def teacher_grid(frame_hw: tuple[int, int], grid_hw: tuple[int, int]) -> tuple[int, int]:
    """The grid over a whole frame on which its largest part with the student's aspect ratio has the grid `grid_hw`."""
    (height, width), (rows, columns) = frame_hw, grid_hw
    if width * rows >= height * columns:
        return rows, max(columns, round(rows * width / height))
    return max(rows, round(columns * height / width)), columns


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a teacher says of every frame."""

    name: str
    features: np.ndarray  # (sum of gh * gw, C) float16, a memory map
    first: np.ndarray  # (F,) int64, row of `features` at which a frame begins
    grids: np.ndarray  # (F, 2) int64, gh, gw
    mean: Tensor  # (C,) of all features
    std: Tensor  # (C,)

    def cut(self, frame: Tensor, place: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(B,) frame numbers and (B, 4) places of views in them -> (B, C, h, w) float32, each channel standardised.

        Bilinear, at the middles of the student's patches; a mirrored place gives mirrored features.
        """
        h, w = grid_hw
        ys = (torch.arange(h) + 0.5) / h
        xs = (torch.arange(w) + 0.5) / w
        out = []
        for number, (left, top, right, bottom) in zip(frame.tolist(), place.tolist(), strict=True):
            gh, gw = (int(n) for n in self.grids[number])
            start = int(self.first[number])
            rows = torch.from_numpy(np.array(self.features[start : start + gh * gw], np.float32))
            grid_y, grid_x = torch.meshgrid(top + (bottom - top) * ys, left + (right - left) * xs, indexing="ij")
            points = torch.stack([grid_x, grid_y], -1)[None] * 2 - 1  # grid_sample's -1 .. 1 over pixel edges
            maps = rows.T.reshape(1, -1, gh, gw)
            out.append(F.grid_sample(maps, points, padding_mode="border", align_corners=False))
        return (torch.cat(out) - self.mean[:, None, None]) / self.std[:, None, None]


def taught(spec: str, files: list[Path], grid_hw: tuple[int, int], folder: Path, device: torch.device) -> Lessons:
    """The lessons of a teacher, `NAME` or `NAME=WEIGHTS`, on these files; computed once, and then read from `folder`.

    The file's name depends on teacher, weights, files and grid, so that several runs may share a folder.
    Raises ValueError if the name is unknown or the weights do not fit, FileNotFoundError if they are not there.
    """
    name, _, weights = spec.partition("=")
    teacher = Teacher(name, weights or None).to(device)
    key = hashlib.blake2b(digest_size=8)
    key.update(json.dumps([SCHEMA, name, grid_hw, [identity(path) for path in files]]).encode())
    for value in teacher.state_dict().values():
        key.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    stem = f"{name}-{key.hexdigest()}"  # a name may have a dot, NAME.TAG: no place for Path.with_suffix
    about, kept = folder / f"{stem}.json", folder / f"{stem}.f16"
    if not about.is_file():
        _write(teacher, files, grid_hw, about, kept, device)
    index = read_object(about)
    grids = np.array(index["grids"], np.int64)
    cells = grids.prod(1)
    features = np.memmap(kept, np.float16, "r", shape=(int(cells.sum()), index["channels"]))
    first = np.concatenate([[0], np.cumsum(cells)[:-1]])
    return Lessons(name, features, first, grids, torch.tensor(index["mean"]), torch.tensor(index["std"]))


def identity(path: Path) -> list[str | int]:
    """What tells a frame's file from others: its name and size, and a part of it where the size does not do."""
    size = path.stat().st_size
    if path.suffix.lower() not in UNPACKED:
        return [path.name, size]
    with path.open("rb") as file:
        file.seek(max(0, size - PROBE) // 2)
        return [path.name, size, hashlib.blake2b(file.read(PROBE), digest_size=8).hexdigest()]


def _write(
    teacher: Teacher, files: list[Path], grid_hw: tuple[int, int], about: Path, kept: Path, device: torch.device
) -> None:
    """Compute the file `kept`, and when it is complete, write `about`."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    grids, total, squares, cells = [], torch.zeros(1), torch.zeros(1), 0
    draft = kept.with_name(f".{kept.name}.part")
    with draft.open("wb") as file, torch.inference_mode():
        for path in tqdm(files, f"lessons of {teacher.name}", unit="frame", disable=None):
            frame = read_image(path)
            gh, gw = teacher_grid((frame.shape[0], frame.shape[1]), grid_hw)
            tensor = stretched(frame, (gh * teacher.stride, gw * teacher.stride))
            features = teacher(torch.from_numpy(tensor)[None].to(device)).flatten(1).T.float().cpu()  # (gh * gw, C)
            file.write(features.numpy().astype(np.float16).tobytes())
            total, squares = total + features.double().sum(0), squares + features.double().square().sum(0)
            cells += len(features)
            grids.append([gh, gw])
    mean = total / cells
    std = (squares / cells - mean.square()).clamp(min=1e-6).sqrt()
    draft.replace(kept)
    write_json(about, {"channels": len(mean), "grids": grids, "mean": mean.tolist(), "std": std.tolist()})
    print(f"teacher: {teacher.name}, {len(mean)} channels of {len(files)} frames kept in {kept}", file=sys.stderr)
