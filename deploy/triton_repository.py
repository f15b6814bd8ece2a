"""A model repository for NVIDIA's Triton Inference Server, from one exported file.

python deploy/triton_repository.py MODEL.onnx REPOSITORY [--accelerator tensorrt]

    REPOSITORY/NAME/config.pbtxt     what Triton must know, written from what the file says of itself
    REPOSITORY/NAME/1/model.onnx     a copy of the file

    tritonserver --model-repository REPOSITORY

The image is uint8 RGB, letterboxed as `perception.tensors` does it; triton_client.py shows the whole way. Written
against Triton's documentation and its protobuf schema; not run on a GPU, nor in Triton itself.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from perception.cli import run
from perception.engine import Engine

Accelerator = Literal["none", "cuda", "tensorrt"]
TYPES = {np.dtype(np.uint8): "TYPE_UINT8", np.dtype(np.float32): "TYPE_FP32"}


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """Make a Triton model repository."""

    model: Annotated[Path, tyro.conf.Positional]
    """ONNX file of perception.export."""
    repository: Annotated[Path, tyro.conf.Positional]
    """Folder of the repository; it may hold other models already."""
    name: str | None = None
    """Name of the model for clients; default: that of the file."""
    accelerator: Accelerator = "cuda"
    """none: the CPU. cuda: ONNX Runtime on the GPU. tensorrt: that, by TensorRT in FP16, which takes minutes to start."""
    instances: int = 1
    """Copies of the model on each device, for requests that overlap."""
    overwrite: bool = False
    """Replace a model of that name."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def quoted(text: str) -> str:
    """A string of protobuf's text format."""
    return json.dumps(text)


def tensor(name: str, array: np.ndarray) -> str:
    """One input or output: its name, type and shape, the batch among them."""
    dims = ", ".join(str(size) for size in array.shape)
    return f"  {{ name: {quoted(name)}  data_type: {TYPES[array.dtype]}  dims: [ {dims} ] }}"


def config_text(
    name: str, image: np.ndarray, outputs: dict[str, np.ndarray], accelerator: Accelerator, instances: int
) -> str:
    """config.pbtxt of a model that gives `outputs` for `image`, as protobuf text of inference.ModelConfig.

    max_batch_size is 0, which in Triton means that the shapes below are whole: an export has a fixed batch.
    """
    kind = "KIND_CPU" if accelerator == "none" else "KIND_GPU"
    dims = ", ".join(str(size) for size in image.shape)
    warm = f"data_type: TYPE_UINT8  dims: [ {dims} ]  zero_data: true"
    blocks = [
        f'name: {quoted(name)}\nbackend: "onnxruntime"\nmax_batch_size: 0',
        "input [\n" + tensor("image", image) + "\n]",
        "output [\n" + ",\n".join(tensor(key, value) for key, value in outputs.items()) + "\n]",
        f"instance_group [\n  {{ count: {instances}  kind: {kind} }}\n]",
        f'model_warmup [\n  {{\n    name: "grey"\n    count: 3\n    inputs {{ key: "image"  value: {{ {warm} }} }}\n  }}\n]',
    ]
    if accelerator == "tensorrt":
        parameters = {
            "precision_mode": "FP16",
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": "/tmp/perception-tensorrt",
        }
        lines = "\n".join(f"      parameters {{ key: {quoted(k)}  value: {quoted(v)} }}" for k, v in parameters.items())
        accelerators = f'    gpu_execution_accelerator [ {{\n      name: "tensorrt"\n{lines}\n    }} ]'
        blocks.append("optimization {\n  execution_accelerators {\n" + accelerators + "\n  }\n}")
    return "\n\n".join(blocks) + "\n"


def write_repository(config: TritonConfig) -> dict[str, Any]:
    """Check the model by running it, and write its folder; it appears when it is complete."""
    if config.instances < 1:
        raise ValueError(f"--instances must be 1 or more, but got {config.instances}")
    engine = Engine(config.model, "cpu")
    name = config.name or config.model.stem
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"--name must be a plain folder name, but got {name!r}")
    target = config.repository / name
    if target.exists() and not config.overwrite:
        raise ValueError(f"{target} exists already; choose another --name, or give --overwrite")
    image = np.zeros((engine.batch or 1, *engine.input_hw, 3), np.uint8)
    text = config_text(name, image, dict(engine.run(image)), config.accelerator, config.instances)
    config.repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.repository, prefix=".") as folder:
        draft = Path(folder) / name
        (draft / "1").mkdir(parents=True)
        shutil.copyfile(config.model, draft / "1" / "model.onnx")
        (draft / "config.pbtxt").write_text(text)
        if target.exists():
            os.rename(target, Path(folder) / "before")
        os.rename(draft, target)
    print(f"{target}: serve it with: tritonserver --model-repository {config.repository}")
    return {"model": name, "folder": str(target), "accelerator": config.accelerator}


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(TritonConfig, write_repository, argv)


if __name__ == "__main__":
    raise SystemExit(main())
