"""Export a trained run to one ONNX file, checked stage by stage against torch before it is accepted.

    python -m perception.export RUN --out FILE.onnx
    python -m perception.export RUN_OR_FILE.onnx --out FILE-b3.onnx --batch 3 --images VIDEO_OR_FOLDER
    python -m perception.export FILE.onnx --out FILE-int8.onnx --precision int8 --images VIDEO_OR_FOLDER
    python -m perception.export FILE.onnx --out SMALLER.onnx --hw 160 288 --images VIDEO_OR_FOLDER

With --precision the file (or the run, exported first) is made fp16, or int8 wherever its answers stay as they were.

With --batch N one call takes N frames, of N cameras say. N is fixed in the file, not open: buffers at fixed addresses
and CUDA graphs need shapes that are known beforehand (execution/binding.py refuses others), TensorRT would build its
engine for a range of sizes and tune it for one of them, and the loop would gain little from a smaller last call. The
file is checked at every place of the batch against torch at batch 1. An int8 file scales the transformer's inputs by
the range over the whole call, so there what one frame gets depends, within rounding, on the frames beside it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import torch
import tyro
from torch import Tensor, nn

from perception.cli import run as run_cli
from perception.engine import METADATA_KEY, Engine, Metadata
from perception.execution.modelfile import MAX_BATCH
from perception.frames import model_inputs
from perception.jsonfile import read_object
from perception.layout import split_weight
from perception.model import model_file
from perception.network.boxes import BranchName
from perception.network.network import Network
from perception.parity import Parity, compare
from perception.precision.convert import Int8Engine, convert
from perception.precision.denormals import raise_weights
from perception.precision.search import responses
from perception.training.checkpoint import at_size, load_network, meta_of, metadata, revision
from perception.training.from_onnx import read

__all__ = ["ExportConfig", "export", "main"]

OPSET = 20
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a trained run to ONNX."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory of perception.train; for --precision, --batch, --hw and --heads also an fp32 file that this command
    wrote, or the name of a bundled model."""
    out: Path
    """File to write, FILE.onnx."""
    images: str | None = None
    """Real images to check the file on: a folder, glob or video. Default: val images of the run's datasets."""
    check_frames: int = 20
    """How many of them to compare."""
    heads: tuple[str, ...] = ()
    """Heads to keep (boxes, scene, drive ...); default: all that were trained."""
    hw: tuple[int, int] | None = None
    """Input height and width, multiples of 32, instead of those that it was trained at: the position embedding is
    resampled. How well it then sees, perception.evaluate says."""
    branch: BranchName | None = None
    """Branch of the box head that answers; default: the one that the run names."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Frames in one call: as many as there are cameras; default: 1 for a run, for a file as many as it takes."""
    weights: Literal["fp32", "fp16"] = "fp32"
    """How weights are stored. fp16 halves the file; they are widened when it is loaded, and computed with in fp32."""
    precision: Precision = "fp32"
    """What is computed with: fp16 is for GPUs, int8 for CPUs with VNNI or AMX; input and outputs stay what they are."""
    agreement: float = 0.97
    """With --precision: share of pixels of each map, and of boxes, that must stay as in fp32 on the images. Blocks of
    the network that would break it stay in float."""
    int8_for: Int8Engine = "onnxruntime"
    """Engine that an int8 file is to be fast in: ONNX Runtime wants the ranges of the transformer's inputs measured in
    each call, OpenVINO wants them fixed. Either engine runs both files, the wrong one slowly."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


class Stages(nn.Module):
    """A network whose outputs are the final ones and, for the check, every stage before them."""

    def __init__(self, network: Network, heads: Iterable[str]) -> None:
        super().__init__()
        self.network, self.heads = network, tuple(heads)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        stages: dict[str, Tensor] = {}
        handles = [self.network.pyramid.register_forward_hook(lambda *args: stages.update(levels(args[2])))]
        try:
            raw = self.network(image)
        finally:
            for handle in handles:
                handle.remove()
        final = self.network.finish(raw)
        for name in self.network.masks:
            stages[f"stage_{name}_logits"] = raw.masks[name]
        if self.network.boxes is not None:
            branch = self.network.config.branch
            stages["stage_box_logits"] = raw.boxes[branch].logits
            stages["stage_box_xyxy"] = raw.boxes[branch].boxes
        return {name: final[name] for name in self.heads} | stages


def levels(pyramid: list[Tensor]) -> dict[str, Tensor]:
    """Name the levels of the pyramid."""
    return {f"stage_p{stride}": level for stride, level in zip((4, 8, 16, 32), pyramid, strict=True)}


def export(
    network: Network, heads: tuple[str, ...], about: Metadata, images: list[np.ndarray], out: Path, halve: bool = False
) -> Parity:
    """Write `network` to `out` with the metadata `about`, if it answers as torch does on `images` (h, w, 3) RGB.

    The file takes `about.batch` images in one call. Each place of it sees at least one of `images`, and its answer is
    compared with torch's on that image alone.

    With `halve` the weights are stored as fp16; torch then computes with the same rounded weights.

    Raises ValueError that names the first stage that differs, and by how much; then no file is left.
    """
    if halve:
        round_to_half(network)
    module = Stages(network, heads).eval()
    with torch.inference_mode():
        truth = [{k: v.numpy() for k, v in module(torch.from_numpy(image[None])).items()} for image in images]
    shown = [i % len(images) for i in range(-(-len(images) // about.batch) * about.batch)]  # no place is left out
    images, truth = [images[i] for i in shown], [truth[i] for i in shown]
    example = torch.from_numpy(np.stack(images[: about.batch]))
    names = list(truth[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        draft = Path(folder) / "draft.onnx"
        with quiet():
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["image"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        onnx.save(model, draft)
        parity = compare(truth, responses(draft, images))  # every stage
        parity.require()

        del model.graph.output[len(heads) :]  # the stages were only for the check
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {METADATA_KEY: about.to_json()})
        for node in model.graph.node:
            node.ClearField("doc_string")
            del node.metadata_props[:]  # stack traces of the exporter, with paths of this machine
        del model.graph.value_info[:]
        raise_weights(model.graph)
        if halve:
            store_as_half(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, draft)
        parity = parity.with_final(compare([{k: t[k] for k in heads} for t in truth], responses(draft, images)))
        parity.require()
        os.replace(draft, out)
    return parity


HALVED = 1024  # weights with at least so many numbers are stored as fp16


@torch.no_grad()
def round_to_half(network: Network) -> None:
    """Round large weights to what fp16 can hold."""
    for parameter in network.parameters():
        if parameter.numel() >= HALVED:
            parameter.copy_(parameter.half().float())


def store_as_half(graph: onnx.GraphProto) -> None:
    """Large fp32 initializers that fp16 holds exactly -> fp16 ones, each followed by a Cast to fp32."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < HALVED:
            continue
        value = onnx.numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if (half.astype(np.float32) != value).any():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and deprecation notes off the terminal."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def check_images(config: ExportConfig, hw: tuple[int, int]) -> tuple[list[np.ndarray], str]:
    """Real frames as model inputs (h, w, 3) RGB, and where they come from."""
    sources = [config.images] if config.images else val_folders(config.run) if config.run.is_dir() else []
    tensors: list[np.ndarray] = []
    for source in sources:
        tensors += model_inputs(source, hw, max(1, -(-config.check_frames // len(sources))))
    if not tensors:
        raise ValueError("no image to check the export on; name some with --images (a folder, glob or video)")
    return tensors[: config.check_frames], ", ".join(sources)


def val_folders(run: Path) -> list[str]:
    """The val images of the datasets that a run was trained on, where they still are."""
    options = read_object(run / "config.json") if (run / "config.json").is_file() else {}
    folders = [split_weight(str(entry))[0] / "images" / "val" for entry in options.get("data", ())]
    return [str(folder) for folder in folders if folder.is_dir()]


def through_torch(config: ExportConfig, out: Path) -> dict[str, Any]:
    """Export the run, or the network in the file, to `out`, check, report."""
    if config.batch is not None and not 1 <= config.batch <= MAX_BATCH:
        raise ValueError(f"--batch must be from 1 to {MAX_BATCH}, but got {config.batch}")
    batch = config.batch or 1
    if config.run.is_file():
        network, old = read(config.run)
        batch = config.batch or old.batch
        meta = meta_of(old)
    else:
        network, meta = load_network(config.run, branch=config.branch)
    if config.hw:
        network = at_size(network, config.hw)
    trained = (*(["boxes"] if network.boxes is not None else []), *network.masks)
    heads = tuple(dict.fromkeys(config.heads)) or trained
    if unknown := [head for head in heads if head not in trained]:
        raise ValueError(f"--heads: {config.run} has no head {unknown[0]!r}; it has: {', '.join(trained)}")
    network.keep(heads)
    images, source = check_images(config, network.config.hw)
    about = replace(metadata(network, meta), revision=revision(), batch=batch)
    parity = export(network, heads, about, images, out, config.weights == "fp16")
    print(f"{out.name}: {out.stat().st_size / 1e6:.1f} MB, checked on {len(images)} images of {source}", end="")
    print(f", in calls of {batch}" * (batch > 1))
    print(parity)
    return {"images": len(images), "batch": batch, **parity.to_json()}


def reduced(config: ExportConfig, source: Path) -> dict[str, Any]:
    """Make the fp16 or int8 file of the fp32 file `source`."""
    if not 0 < config.agreement <= 1:
        raise ValueError(f"--agreement must be over 0 and at most 1, but got {config.agreement}")
    hw = Engine(source, "cpu").input_hw
    images, where = check_images(config, hw)
    assert config.precision != "fp32"
    facts = convert(source, config.out, config.precision, images, config.agreement, config.int8_for)
    size = config.out.stat().st_size / 1e6
    print(f"{config.out}: {config.precision}, {size:.1f} MB, agreement with fp32 {facts['agreement']:.4f}")
    print(f"  measured on {len(images)} images of {where}")
    if config.precision == "int8":
        print(f"  int8: {len(facts['int8_blocks'])} blocks; float: {', '.join(facts['float_blocks']) or 'none'}")
    return facts


def body(config: ExportConfig) -> dict[str, Any]:
    """Export, check, report."""
    config = replace(config, run=model_file(config.run))
    if config.run.is_file() and config.branch:
        raise ValueError("--branch is for run directories: a file has the one that answers")
    if config.run.is_file() and config.batch is None and not (config.hw or config.heads):
        if config.precision == "fp32":
            raise ValueError(
                f"{config.run} is exported already; --precision fp16 or int8, --batch, --hw or --heads makes another "
                "file of it"
            )
        if config.weights != "fp32":
            raise ValueError("--weights is for run directories, and beside --batch, --hw or --heads")
        facts = reduced(config, config.run)
    elif config.precision == "fp32":
        facts = through_torch(config, config.out)
    else:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.out.parent) as folder:
            fp32 = Path(folder) / "fp32.onnx"
            facts = through_torch(config, fp32) | reduced(config, fp32)
    return {"out": str(config.out), "bytes": config.out.stat().st_size, **facts}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, export, and return the exit code."""
    return run_cli(ExportConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
