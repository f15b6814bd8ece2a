"""What ONNX Runtime is asked for, and what it says it did: pure functions over names and numbers, tested without a GPU.

Names and meanings of the options are from ONNX Runtime's documentation of its CUDA and TensorRT execution providers
(onnxruntime.ai/docs/execution-providers); a test finds each name in the installed provider libraries.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = [
    "LABELS",
    "ORT_NAMES",
    "GpuOptions",
    "Node",
    "Provider",
    "engine_folder",
    "file_sha256",
    "graph_obstacle",
    "left_out",
    "node_names",
    "provider_list",
]

Provider = Literal["auto", "tensorrt", "cuda", "openvino", "cpu"]
ORT_NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
LABELS = {"tensorrt": "TensorRT", "cuda": "CUDA", "openvino": "OpenVINO", "cpu": "CPU"}
NAMED = 5  # nodes are named in a message, the others counted


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """How a GPU is used. Without effect on the CPU. None of it has been run on a GPU."""

    device: int = 0
    """Which GPU, counted as CUDA does."""
    memory_limit_mb: int | None = None
    """Most that ONNX Runtime's arena takes, in MB; CUDA's own context comes on top. Left out: what the GPU has."""
    cuda_graph: bool = False
    """Replay the whole model as one recorded launch. Needs every node on the GPU."""
    fp16: bool = False
    """TensorRT only: let it compute in 16 bits where that is faster. LayerNorms that are spelled out keep 32 bits;
    nothing holds softmax there, so compare the answers before you trust them."""
    engine_cache: Path | None = None
    """Where TensorRT's built engines are kept; left out: ~/.cache/perception/tensorrt."""


class Node(NamedTuple):
    """A node of the graph and where it runs."""

    provider: str  # as ONNX Runtime calls it, e.g. "CUDAExecutionProvider"
    name: str  # may be empty
    op: str  # e.g. "Conv"


def provider_list(provider: str, gpu: GpuOptions, engines: Path) -> list[tuple[str, dict[str, str]]]:
    """The `providers` argument of an InferenceSession: names by falling priority, each with its options.

    CUDA stands behind TensorRT, for the nodes that TensorRT does not know. `engines` is an existing folder for what
    TensorRT builds; see `engine_folder`.
    """
    _check(gpu)
    limit = {} if gpu.memory_limit_mb is None else {"gpu_mem_limit": str(gpu.memory_limit_mb * 2**20)}
    cuda = {
        "device_id": str(gpu.device),
        "arena_extend_strategy": "kSameAsRequested",  # shapes are fixed: room for growth would never be used
        "enable_cuda_graph": _flag(gpu.cuda_graph and provider == "cuda"),
        **limit,
    }
    tensorrt = {
        "device_id": str(gpu.device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
        "trt_fp16_enable": _flag(gpu.fp16),
        "trt_layer_norm_fp32_fallback": _flag(gpu.fp16),  # only of its Pow and Reduce nodes, says the documentation
        "trt_cuda_graph_enable": _flag(gpu.cuda_graph),
    }
    if gpu.memory_limit_mb is not None:
        tensorrt["trt_max_workspace_size"] = limit["gpu_mem_limit"]
    if provider == "tensorrt":
        return [(ORT_NAMES["tensorrt"], tensorrt), (ORT_NAMES["cuda"], cuda)]
    return [(ORT_NAMES[provider], cuda if provider == "cuda" else {})]


def engine_folder(root: Path, model_sha256: str, gpu: str, onnxruntime: str, tensorrt: str) -> Path:
    """Where engines of this model, on this GPU, by these versions are kept.

    An engine outlives none of the four, and ONNX Runtime's own cache does not notice (its documentation says to delete
    it by hand); so each combination has a folder of its own.
    """
    machine = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu}-ort{onnxruntime}-trt{tensorrt}").strip("-")
    return root / f"{model_sha256[:16]}-{machine}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError if it can not be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def node_names(nodes: Sequence[Node]) -> str:
    """ "3 nodes (Conv conv_1, TopK top, NonZero)": how many, and the first of them by kind and name."""
    names = [f"{node.op} {node.name}".strip() for node in nodes[:NAMED]]
    more = ["..."] * (len(nodes) > NAMED)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} ({', '.join(names + more)})"


def left_out(nodes: Sequence[Node], provider: str) -> str:
    """What does not run on the provider asked for, as ", but 2 nodes (...) of 345 on CPU", or ""."""
    labels = {name: LABELS[key] for key, name in ORT_NAMES.items()}
    counts = Counter(node.provider for node in nodes)
    parts = [
        f"{node_names([node for node in nodes if node.provider == name])} of {len(nodes)} on {labels.get(name, name)}"
        for name in counts
        if name != ORT_NAMES[provider]
    ]
    return f", but {' and '.join(parts)}" if parts else ""


def graph_obstacle(nodes: Sequence[Node], provider: str, shapes: Collection[Sequence[int | str | None]]) -> str | None:
    """Why the model can not be recorded as a CUDA graph, by ONNX Runtime's conditions; None if it can.

    Args:
        nodes: where each node runs.
        provider: "cuda" or "tensorrt".
        shapes: of all inputs and outputs, as the session says them: an open dimension is no int.
    """
    if control := sorted({node.op for node in nodes} & {"If", "Loop", "Scan"}):
        return f"it has {', '.join(control)}"
    if elsewhere := [node for node in nodes if node.provider != ORT_NAMES[provider]]:
        return f"{node_names(elsewhere)} not on {LABELS[provider]}"
    if any(not isinstance(size, int) for shape in shapes for size in shape):
        return "a shape is open"
    return None


def _check(gpu: GpuOptions) -> None:
    if gpu.device < 0:
        raise ValueError(f"gpu.device must be 0 or more, but got {gpu.device}")
    if gpu.memory_limit_mb is not None and gpu.memory_limit_mb < 1:
        raise ValueError(f"gpu.memory_limit_mb must be at least 1, but got {gpu.memory_limit_mb}")


def _flag(on: bool) -> str:
    return "1" if on else "0"
