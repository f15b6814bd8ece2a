"""The engine: a model's input tensor in, its boxes and class maps out, through ONNX Runtime on the GPU or the CPU.

The provider can not lie. ONNX Runtime falls back to the CPU with no more than a log line, and lists CUDA as available
on machines that have no GPU; so what was asked for is compared with what the session really got, and a missing driver
or library is named together with its remedy. Only `auto` may choose the CPU, and `provider_reason` then says why.

The GPU paths are written against ONNX Runtime's documentation; they have not been run on a GPU.

Legend: B, h, w = batch, height and width of the model's input; K = number of box slots.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from perception.modelfile import check_metadata, check_model_file

__all__ = ["METADATA_KEY", "SCHEMA", "Engine", "Metadata", "Provider"]

SCHEMA = 1  # of the JSON inside a model file; raised when its meaning changes

Provider = Literal["auto", "tensorrt", "cuda", "cpu"]
ORT_NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
LABELS = {"tensorrt": "TensorRT", "cuda": "CUDA", "cpu": "CPU"}
REMEDY = {  # what to install when a provider's libraries are missing
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "tensorrt": "install TensorRT 10 (pip install tensorrt) beside 'onnxruntime-gpu[cuda,cudnn]'",
}


METADATA_KEY = "perception"  # the property of a model file that says what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a model file says of itself, in its property METADATA_KEY."""

    input_hw: tuple[int, int]  # (height, width) in pixels
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
                "input": {"height": height, "width": width, "colour": "RGB", "layout": "NHWC"},
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
        provider: "tensorrt", "cuda" or "cpu": what runs, not what was wished for.
        provider_reason: one line that says what runs and why.
    """

    def __init__(self, path: str | Path, provider: Provider = "auto", threads: int = 0) -> None:
        """Load `path`.

        Args:
            path: ONNX file written by `python -m perception.export`.
            provider: what must run; "auto" takes CUDA where it works, else the CPU.
            threads: CPU threads inside one operator; 0 = one for each core.

        Raises:
            ValueError: the file is not a model of ours, or the provider can not run here.
            OSError: the file can not be read.
        """
        self.path = Path(path)
        if provider not in get_args(Provider):
            raise ValueError(f"provider must be one of {', '.join(get_args(Provider))}, but got {provider!r}")
        _require_file(self.path)
        check_model_file(self.path)  # before native code sees it
        self._session, self.provider, reason = _start(self.path, provider, threads)
        self.provider_reason = f"{LABELS[self.provider]}: {reason}{_split(self._session, self.provider)}"
        try:
            properties = self._session.get_modelmeta().custom_metadata_map
            if METADATA_KEY not in properties:
                raise ValueError("it has no `perception` metadata; python -m perception.export writes it")
            self.metadata = Metadata.from_json(properties[METADATA_KEY])
            self.batch = _check_graph(self._session, self.metadata)
        except ValueError as error:
            raise ValueError(f"{self.path}: not a model of this project: {error}") from None
        self.input_hw = self.metadata.input_hw
        self._outputs = ["boxes"] * bool(self.metadata.box_names) + list(self.metadata.heads)

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(B, h, w, 3) uint8 RGB -> "boxes": (B, K, 6) float32, and each head's name: (B, h, w) uint8 of class ids.

        A box is x1, y1, x2, y2 in model pixels, score, class id; boxes come by falling score.
        Raises ValueError for another shape or dtype.
        """
        expected = (self.batch or len(np.atleast_1d(tensor)), *self.input_hw, 3)
        if tensor.shape != expected or tensor.dtype != np.uint8:
            raise ValueError(
                f"expected an input {expected} uint8 RGB, but got {tensor.shape} {tensor.dtype}; "
                "perception.tensors.tensor_from_frame makes it"
            )
        return dict(zip(self._outputs, self._session.run(self._outputs, {"image": tensor}), strict=True))

    def warm_up(self, n: int = 1) -> None:
        """Run `n` times on a grey image, so that the first real frame does not pay for allocation and tuning.

        Raises ValueError if the model can't be run.
        """
        grey = np.full((self.batch or 1, *self.input_hw, 3), 114, np.uint8)
        for _ in range(n):
            try:
                self.run(grey)
            except Exception as error:  # ONNX Runtime's exceptions share no other base class
                if not type(error).__module__.startswith("onnxruntime"):
                    raise
                raise ValueError(f"{self.path}: the model can't be run ({' '.join(str(error).split())})") from None


class ProviderError(ValueError):
    """A provider that could not be had, or could not run the whole model."""


def _require_file(path: Path) -> None:
    """Raise one clear line unless `path` is a file with something in it."""
    if not path.exists():
        raise FileNotFoundError(f"model file not found: {path}")
    if not path.is_file():
        raise ValueError(f"expected a model file, but {path} is a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"model file is empty: {path}")


def _why_not(provider: str) -> str | None:
    """Why a GPU provider can not run here, with the remedy where there is one; None when nothing speaks against it.

    Not run on a GPU: there, it loads the driver and the provider's library and reports the first one that is missing.
    """
    import onnxruntime

    if ORT_NAMES[provider] not in onnxruntime.get_available_providers():
        return f"this onnxruntime was built without {LABELS[provider]}; install onnxruntime-gpu instead of onnxruntime"
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return f"no NVIDIA GPU/driver found ({driver})"
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return f"the NVIDIA driver ({driver}) finds no GPU"
    _preload(provider)
    if sys.platform != "win32":
        library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            if "cannot open shared object" in str(error):  # another complaint is left to ONNX Runtime itself
                return f"{str(error).split(':')[0]} is missing; {REMEDY[provider]}"
    return None


def _preload(provider: str) -> None:
    """Load the CUDA, cuDNN and TensorRT libraries that pip installed, where the linker would not find them.

    Not run on a GPU. ONNX Runtime prints what it can not find; `_why_not` says the same in one line.
    """
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        if provider == "tensorrt":
            with contextlib.suppress(ImportError):
                importlib.import_module("tensorrt_libs")  # NVIDIA's wheel loads its libraries on import


def _start(path: Path, provider: Provider, threads: int) -> tuple[Any, str, str]:
    """(session, the provider that runs, why that one). Raises ProviderError if the one asked for can not run."""
    if provider != "auto":
        if provider != "cpu" and (missing := _why_not(provider)):
            raise ProviderError(f"provider {provider} can not run here: {missing}; or use --provider cpu")
        return _session(path, provider, threads, strict=True), provider, "as asked for"
    missing = _why_not("cuda")
    if missing is None:
        try:
            return _session(path, "cuda", threads, strict=False), "cuda", "NVIDIA GPU found"
        except ProviderError as error:
            missing = str(error)
    return _session(path, "cpu", threads, strict=True), "cpu", missing


def _session(path: Path, provider: str, threads: int, strict: bool) -> Any:
    """An InferenceSession that really has `provider`; `strict` allows no node on the CPU beside a GPU.

    Raises ProviderError if the provider is not what runs, ValueError if the file is not an ONNX model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    # Its threads sleep while they wait: spinning would take the cores from the loop's other stages, and gains nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal only: what goes wrong is raised below, in one line
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    wanted: list[Any] = [ORT_NAMES[provider]]
    if provider != "cpu" and strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if provider == "tensorrt":  # building an engine takes minutes, so it is kept; CUDA runs what TensorRT does not know
        cache = Path.home() / ".cache" / "perception" / "tensorrt"
        keep = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
        wanted = [(ORT_NAMES["tensorrt"], keep), ORT_NAMES["cuda"]]
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        reason = " ".join(str(error).split())
        if provider == "cpu" or "Load model" in reason:
            raise ValueError(f"{path}: not an ONNX model that can be loaded ({reason})") from None
        if "assigned to the default CPU EP" in reason:
            reason = "it can not run every node of this model; --provider auto leaves such nodes to the CPU"
        raise ProviderError(f"{LABELS[provider]} failed: {reason}") from None
    finally:
        onnxruntime.set_default_logger_severity(2)  # ONNX Runtime's default: warnings
    if session.get_providers()[0] != ORT_NAMES[provider]:
        raise ProviderError(f"{LABELS[provider]} could not be started; {REMEDY.get(provider, '')}")
    return session


def _split(session: Any, provider: str) -> str:
    """What a GPU session leaves to the CPU, as " (12 of 345 nodes on the CPU)", or "". Not run on a GPU."""
    if provider == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
        return ""
    nodes = [(part.ep_name, len(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    on_cpu = sum(count for name, count in nodes if name == ORT_NAMES["cpu"])
    return f" ({on_cpu} of {sum(count for _, count in nodes)} nodes on the CPU)" if on_cpu else ""


def _check_graph(session: Any, metadata: Metadata) -> int | None:
    """Compare the graph's input and outputs with the metadata; returns the batch size, None where it is open.

    Raises ValueError with what was expected and what the file has.
    """
    h, w = metadata.input_hw
    maps = {head: ("tensor(uint8)", (None, h, w)) for head in metadata.heads}
    boxes = {"boxes": ("tensor(float)", (None, None, 6))} if metadata.box_names else {}
    if not maps and not boxes:
        raise ValueError("its metadata names neither boxes nor heads")
    found_in = {node.name: node for node in session.get_inputs()}
    found_out = {node.name: node for node in session.get_outputs()}
    if list(found_in) != ["image"]:
        raise ValueError(f"expected one input `image`, but the graph has {', '.join(found_in) or 'none'}")
    expected = {"image": ("tensor(uint8)", (None, h, w, 3)), **boxes, **maps}
    for name, (dtype, shape) in expected.items():
        node = found_in.get(name) or found_out.get(name)
        if node is None:
            raise ValueError(f"its metadata names `{name}`, but the graph's outputs are {', '.join(found_out)}")
        fits = len(node.shape) == len(shape) and all(
            want is None or not isinstance(have, int) or have == want
            for have, want in zip(node.shape, shape, strict=True)
        )
        if node.type != dtype or not fits:
            want = str(tuple("any" if size is None else size for size in shape)).replace("'", "")
            raise ValueError(f"by its metadata `{name}` is {want} {dtype}, but in the graph {node.shape} {node.type}")
    if not all(isinstance(size, int) for size in found_in["image"].shape[1:]):
        raise ValueError(f"the input size must be fixed, but is {found_in['image'].shape}; export it again")
    batch = found_in["image"].shape[0]
    return batch if isinstance(batch, int) else None
