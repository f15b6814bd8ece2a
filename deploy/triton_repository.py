"""A model repository for NVIDIA's Triton Inference Server, made of one ONNX file.

    python deploy/triton_repository.py FILE.onnx REPOSITORY [--provider cuda|tensorrt|cpu]
    tritonserver --model-repository REPOSITORY

Leaves REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx. The server then takes `image`, uint8 RGB as
perception/tensors.py makes it, and answers with what the file answers; what perception.export wrote about the model
stands in the config as the parameter `perception`, so that deploy/triton_client.py needs no copy of the file.
The format is Triton's protobuf text of ModelConfig; the accelerators' parameters are those that the README of its
ONNX Runtime backend lists. It was not run on a server here: the config is checked against Triton's own schema.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from perception.cli import run
from perception.engine import METADATA_KEY, Engine, Metadata

__all__ = ["TritonConfig", "config_pbtxt", "main", "repository"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # a folder of the repository and a part of the server's addresses


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """Options of deploy/triton_repository.py."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.onnx")]
    """ONNX file written by perception.export."""
    repository: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REPOSITORY")]
    """Folder that the server is started with; it may hold other models."""
    name: str = ""
    """Name of the model on the server; left out: that of the file."""
    version: int = 1
    """A new file under a name that is there already needs a new version: the server then changes over by itself."""
    provider: Literal["cuda", "tensorrt", "cpu"] = "cuda"
    """What runs it on the server: on the GPU by ONNX Runtime's CUDA or TensorRT provider, or on the CPU."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """In which TensorRT computes; LayerNorm stays in fp32. Compare the answers before you trust fp16."""
    instances: int = 1
    """Copies of the model that work at the same time, on each GPU."""
    threads: int = 0
    """CPU threads inside one operator, with --provider cpu; 0 = one for each core."""
    max_batch: int = 8
    """Frames that the server may put together, for a file that leaves its batch open; ordinary ones take one frame."""
    engine_cache: str = "/tmp/perception-tensorrt"
    """Folder on the server where TensorRT keeps its engines, whose building takes minutes: mount a volume there."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""

    def __post_init__(self) -> None:
        for key in ("version", "instances", "max_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"--{key.replace('_', '-')} must be 1 or more, but got {getattr(self, key)}")
        if self.precision != "fp32" and self.provider != "tensorrt":
            raise ValueError(f"--precision {self.precision} is TensorRT's, but got --provider {self.provider}")


def repository(config: TritonConfig) -> dict[str, Any]:
    """Check the file by running it once on the CPU, write the repository, and return what was written.

    Raises ValueError for a file that is not a model of ours, a bad name, or a version that is there already.
    """
    name = config.name or config.model.stem
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, '_', '-' and '.', but got {name!r}; give one by --name")
    engine = Engine(config.model, "cpu")
    answer = engine.run(np.zeros((engine.batch or 1, *engine.input_hw, 3), np.uint8))
    shapes = {output: value.shape for output, value in answer.items()}
    folder = config.repository / name
    place = folder / str(config.version)
    if place.exists():
        raise ValueError(f"{place} is there already; give the next number by --version, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as draft:  # Triton passes over names without number
        text = Path(draft) / "config.pbtxt"
        text.write_text(config_pbtxt(config, name, engine.metadata, engine.batch, shapes), encoding="ascii")
        (Path(draft) / "version").mkdir()
        shutil.copyfile(config.model, Path(draft) / "version" / "model.onnx")
        text.replace(folder / "config.pbtxt")
        (Path(draft) / "version").replace(place)
    print(f"wrote {folder / 'config.pbtxt'}, {place / 'model.onnx'}")
    print(f"start: tritonserver --model-repository {config.repository}")
    return {"name": name, "version": config.version, "provider": config.provider, "folder": str(folder)}


def config_pbtxt(
    config: TritonConfig, name: str, metadata: Metadata, batch: int | None, shapes: dict[str, tuple[int, ...]]
) -> str:
    """The text of config.pbtxt.

    Args:
        config: options.
        name: of the model on the server.
        metadata: of the model.
        batch: of the graph; None = open, and only then does the server put frames together.
        shapes: of the outputs, with their batch, by name.
    """
    first = 0 if batch else 1  # where the server counts the batch itself, shapes are without it
    image = ((batch or 1), *metadata.input_hw, 3)[first:]
    kind = "KIND_CPU" if config.provider == "cpu" else "KIND_GPU"
    lines = [
        f"name: {_text(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {0 if batch else config.max_batch}",
        f'input [ {{ name: "image" data_type: TYPE_UINT8 dims: {list(image)} }} ]',
        "output [",
        ",\n".join(
            f"  {{ name: {_text(output)} data_type: {'TYPE_FP32' if output == 'boxes' else 'TYPE_UINT8'} "
            f"dims: {list(shape[first:])} }}"
            for output, shape in shapes.items()
        ),
        "]",
        f"instance_group [ {{ count: {config.instances} kind: {kind} }} ]",
    ]
    if batch is None:
        lines.append("dynamic_batching { }")
    if config.provider != "cpu":
        lines.append(_accelerator(config))
    elif config.threads:
        lines.append(_parameter("intra_op_thread_count", str(config.threads)))
    lines += [
        f'model_warmup [ {{ name: "a black frame" batch_size: 1 inputs {{ key: "image" value {{ '
        f"data_type: TYPE_UINT8 dims: {list(image)} zero_data: true }} }} }} ]",
        _parameter(METADATA_KEY, metadata.to_json()),
    ]
    return "\n".join(lines) + "\n"


def _accelerator(config: TritonConfig) -> str:
    """The GPU's options, under the names of Triton's ONNX Runtime backend."""
    options = {"cudnn_conv_use_max_workspace": "1"}
    if config.provider == "tensorrt":
        options = {"precision_mode": config.precision.upper()}
        if config.precision == "fp16":
            options["trt_layer_norm_fp32_fallback"] = "1"
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": config.engine_cache}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": config.engine_cache}
    inside = " ".join(f"parameters {{ key: {_text(key)} value: {_text(value)} }}" for key, value in options.items())
    return (
        f'optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "{config.provider}" '
        f"{inside} }} ] }} }}"
    )


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string of protobuf's text format: bytes outside of printable ASCII, quotes and backslashes are escaped."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:03o}" for b in value.encode())
    return '"' + "".join(plain) + '"'


def main(argv: Sequence[str] | None = None) -> int:
    return run(TritonConfig, repository, argv)


if __name__ == "__main__":
    raise SystemExit(main())
