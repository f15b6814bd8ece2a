"""The engine: a model's input tensor in, its boxes and class maps out, through ONNX Runtime or OpenVINO.

The provider can not lie: what was asked for is compared with what the session really got (see session.py), and a
missing driver or library is named together with its remedy. Only `auto` may choose the CPU, and
`provider_reason` then says why. The GPU paths are written against ONNX Runtime's documentation; they have not been run
on a GPU.

Legend: B, h, w = batch, height and width of the model's input; K = number of box slots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from perception.execution.binding import Bound, OneThread, plain
from perception.execution.modelfile import Contract, check_metadata, check_model_file
from perception.execution.providers import LABELS, GpuOptions, Provider
from perception.execution.session import start

__all__ = ["METADATA_KEY", "SCHEMA", "Engine", "Metadata", "Provider"]

SCHEMA = 1  # of the JSON inside a model file; raised when its meaning changes

METADATA_KEY = "perception"  # the property of a model file that says what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a model file says of itself, in its property METADATA_KEY."""

    input_hw: tuple[int, int]  # (height, width) in pixels
    batch: int = 1  # images in one call
    box_names: tuple[str, ...] = ()  # box classes by id; empty = the model has no boxes
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # segmentation head -> its classes by id
    config: Mapping[str, Any] = field(default_factory=dict)  # of the network and its training, as it was resolved
    revision: str = ""  # git revision that exported it
    data: tuple[str, ...] = ()  # names of the datasets that it was trained on
    step: int = 0  # of the training

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Parse the property. Raises ValueError that says what is missing or not understood."""
        try:
            data = json.loads(text)
            check_metadata(data)
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']!r}, but this version reads schema {SCHEMA}; export it again")
            size = data["input"]
            for key, expected in (("colour", "RGB"), ("layout", "NHWC")):
                if size[key] != expected:
                    raise ValueError(f"input {key} must be {expected}, but is {size[key]!r}; export it again")
            return cls(
                input_hw=(int(size["height"]), int(size["width"])),
                batch=int(size.get("batch", 1)),  # older files do not say it
                box_names=tuple(data["boxes"] or ()),
                heads={head: tuple(names) for head, names in data["heads"].items()},
                config=dict(data.get("config", {})),
                revision=str(data.get("revision", "")),
                data=tuple(data.get("data", ())),
                step=int(data.get("step", 0)),
            )
        except KeyError as error:
            raise ValueError(f"key {error} is missing") from None
        except (TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not readable ({error})") from None

    def to_json(self) -> str:
        """The inverse of `from_json`: what export writes into the file."""
        height, width = self.input_hw
        return json.dumps(
            {
                "schema": SCHEMA,
                "input": {"batch": self.batch, "height": height, "width": width, "colour": "RGB", "layout": "NHWC"},
                "boxes": list(self.box_names) or None,
                "heads": {head: list(names) for head, names in self.heads.items()},
                "config": dict(self.config),
                "revision": self.revision,
                "data": list(self.data),
                "step": self.step,
            }
        )


class Engine:
    """One model file, loaded and checked, running on one provider.

    Attributes:
        metadata: what the file says of itself.
        input_hw: (height, width) of the input in pixels.
        batch: images in one call, or None where the file leaves it open.
        provider: "tensorrt", "cuda", "openvino" or "cpu": what runs, not what was wished for.
        provider_reason: one line that says what runs and why.
    """

    def __init__(
        self, path: str | Path, provider: Provider = "auto", threads: int = 0, gpu: GpuOptions | None = None
    ) -> None:
        """Load `path`.

        Args:
            path: ONNX file written by `python -m perception.export`.
            provider: what must run; "auto" takes CUDA where it works, else OpenVINO where that is installed and torch
                is not loaded in this process, else the CPU.
            threads: CPU threads inside one operator; 0 = one for each core.
            gpu: how a GPU is used.

        Raises:
            ValueError: the file is not a model of ours, or the provider can not run here.
            OSError: the file can not be read.
        """
        self.path = Path(path)
        if provider not in get_args(Provider):
            raise ValueError(f"provider must be one of {', '.join(get_args(Provider))}, but got {provider!r}")
        _require_file(self.path)
        contract = check_model_file(self.path)  # before native code sees it
        try:
            if METADATA_KEY not in contract.properties:
                raise ValueError("it has no `perception` metadata; python -m perception.export writes it")
            self.metadata = Metadata.from_json(contract.properties[METADATA_KEY])
            self.batch = _check_contract(contract, self.metadata)
        except ValueError as error:
            raise ValueError(f"{self.path}: not a model of this project: {error}") from None
        self.input_hw = self.metadata.input_hw
        gpu = gpu or GpuOptions()
        session, self.provider, reason, cuda_graph = start(self.path, provider, threads, gpu)
        self.provider_reason = f"{LABELS[self.provider]}: {reason}"
        outputs = ["boxes"] * bool(self.metadata.box_names) + list(self.metadata.heads)
        self._run = plain(session, outputs)
        if self.provider in ("cuda", "tensorrt") and self.batch:
            self._run = Bound(session, outputs, "cuda", gpu.device)
        self._extra_runs = 2 if cuda_graph else 0  # in which it is recorded
        if cuda_graph:
            self._run = OneThread(self._run)

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(B, h, w, 3) uint8 RGB -> "boxes": (B, K, 6) float32, and each head's name: (B, h, w) uint8 of class ids.

        A box is x1, y1, x2, y2 in model pixels, score, class id; boxes come by falling score. The arrays are the
        caller's: no later run changes them.
        Raises ValueError for another shape or dtype.
        """
        expected = (self.batch or len(np.atleast_1d(tensor)), *self.input_hw, 3)
        if tensor.shape != expected or tensor.dtype != np.uint8:
            raise ValueError(
                f"expected an input {expected} uint8 RGB, but got {tensor.shape} {tensor.dtype}; "
                f"perception.tensors.tensor_from_frame makes {'it' if expected[0] == 1 else 'each of the images'}"
            )
        return self._run(tensor)

    def warm_up(self, n: int = 1) -> None:
        """Run `n` times on a grey image, so that the first real frame does not pay for allocation and tuning.

        Raises ValueError if the model can't be run.
        """
        grey = np.full((self.batch or 1, *self.input_hw, 3), 114, np.uint8)
        for _ in range(n + self._extra_runs):
            try:
                self.run(grey)
            except Exception as error:  # ONNX Runtime's exceptions share no other base class
                if not type(error).__module__.startswith("onnxruntime"):
                    raise
                raise ValueError(f"{self.path}: the model can't be run ({' '.join(str(error).split())})") from None


def _require_file(path: Path) -> None:
    """Raise one clear line unless `path` is a file with something in it."""
    if not path.exists():
        raise FileNotFoundError(f"model file not found: {path}")
    if not path.is_file():
        raise ValueError(
            f"expected a model file, but {path} is a folder; of a run, "
            f"python -m perception.export {path} --out FILE.onnx makes one"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"model file is empty: {path}")


def _check_contract(contract: Contract, metadata: Metadata) -> int | None:
    """Compare the graph's input and outputs with the metadata; returns the batch size, None where it is open.

    Raises ValueError with what was expected and what the file has.
    """
    h, w = metadata.input_hw
    maps = {head: ("uint8", (None, h, w)) for head in metadata.heads}
    boxes = {"boxes": ("float", (None, None, 6))} if metadata.box_names else {}
    if not maps and not boxes:
        raise ValueError("its metadata names neither boxes nor heads")
    found_in = {tensor.name: tensor for tensor in contract.inputs}
    found_out = {tensor.name: tensor for tensor in contract.outputs}
    if list(found_in) != ["image"]:
        raise ValueError(f"expected one input `image`, but the graph has {', '.join(found_in) or 'none'}")
    expected = {"image": ("uint8", (None, h, w, 3)), **boxes, **maps}
    for name, (dtype, shape) in expected.items():
        tensor = found_in.get(name) or found_out.get(name)
        if tensor is None:
            raise ValueError(f"its metadata names `{name}`, but the graph's outputs are {', '.join(found_out)}")
        fits = len(tensor.shape) == len(shape) and all(
            want is None or have is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
        )
        if tensor.dtype != dtype or not fits:
            want, have = (
                f"{tuple('any' if size is None else size for size in sizes)!s} tensor({kind})".replace("'", "")
                for sizes, kind in ((shape, dtype), (tensor.shape, tensor.dtype))
            )
            raise ValueError(f"by its metadata `{name}` is {want}, but in the graph {have}")
        if tensor.shape[0] not in (None, metadata.batch):
            raise ValueError(f"by its metadata `{name}` has batch {metadata.batch}, but in the graph {tensor.shape[0]}")
    image = found_in["image"].shape
    if None in image[1:]:
        raise ValueError(f"the input size must be fixed, but is {image}; export it again")
    return image[0]
