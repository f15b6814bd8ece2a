"""What both precisions do with an exported graph: plain fp32 weights, norms folded away, blocks of layers by name.

Legend: a layer = a Conv, or a MatMul whose second input is a weight.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from perception.engine import METADATA_KEY, Metadata
from perception.precision.denormals import raise_weights

__all__ = ["Layer", "about", "batches", "layers_of", "leading_to", "linked", "open_fp32", "replace_nodes", "set_about"]

PREFIXES = ("network.", "pyramid.", "detail.cnn.", "tokens.", "vit.")


@dataclass(frozen=True, slots=True)
class Layer:
    """A Conv or MatMul with a weight."""

    node: str  # its name in the graph
    block: str  # which block of the network it belongs to, such as "blocks.3.mlp" or "masks.scene"
    last: bool  # no other layer follows it: its outputs are logits or box distances


@dataclass(frozen=True, slots=True)
class Links:
    """Who makes and who reads each tensor."""

    maker: Mapping[str, NodeProto]
    readers: Mapping[str, Sequence[NodeProto]]


def batches(images: Sequence[np.ndarray], size: int | str) -> Iterator[np.ndarray]:
    """(h, w, 3) images -> (B, h, w, 3) for a graph of batch `size`, a name where it is open; the last is filled up."""
    size = size if isinstance(size, int) else 1
    for begin in range(0, len(images), size):
        yield np.stack([images[(begin + place) % len(images)] for place in range(size)])


def linked(model: ModelProto) -> Links:
    """The links of a graph."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    return Links({name: node for node in model.graph.node for name in node.output}, readers)


def about(model: ModelProto) -> Metadata:
    """What a file says of itself. Raises ValueError if it is not one of ours."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Metadata.from_json(entry.value)
    raise ValueError("it has no `perception` metadata; python -m perception.export writes it")


def set_about(model: ModelProto, metadata: Metadata, precision: Mapping[str, Any]) -> None:
    """Write the metadata into the file, with `precision` in its config."""
    data = json.loads(metadata.to_json())
    data["config"]["precision"] = dict(precision)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(data)})


def open_fp32(path: Path) -> ModelProto:
    """Read an exported file: fp16-stored weights are widened, batch norms folded, attention freed of denormals.

    Raises ValueError if it is not a file of ours, or no longer fp32.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        metadata = about(model)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, or what `about` says
        raise ValueError(f"{path}: not a model of this project: {error}") from None
    if kind := metadata.config.get("precision", {}).get("kind"):
        raise ValueError(f"{path} is {kind} already; start from the fp32 file that it was made of")
    widen(model)
    fold_norms(model)
    raise_weights(model.graph)
    return onnx.shape_inference.infer_shapes(model)


def widen(model: ModelProto) -> None:
    """Weights stored as fp16, each followed by a Cast, -> fp32 weights."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        tensor = weights.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is not None and tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    replace_nodes(model, kept)


def fold_norms(model: ModelProto) -> None:
    """Conv, BatchNormalization -> Conv with a bias. The exporter leaves those whose weights several levels share."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    links = linked(model)
    kept = []
    for node in model.graph.node:
        conv = links.maker.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or len(conv.input) > 2 or len(links.readers[node.input[0]]) > 1:
            kept.append(node)
            continue
        scale, bias, mean, variance = (numpy_helper.to_array(weights[name]) for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gain = scale / np.sqrt(variance + epsilon)
        names = f"{conv.input[1]}.folded", f"{conv.input[1]}.folded_bias"
        if names[0] not in weights:
            weight = numpy_helper.to_array(weights[conv.input[1]]) * gain[:, None, None, None]
            for name, value in zip(names, (weight, bias - mean * gain), strict=True):
                weights[name] = numpy_helper.from_array(value.astype(np.float32), name)
                model.graph.initializer.append(weights[name])
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = node.output[0]
    replace_nodes(model, kept)


def replace_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Put `nodes` in the place of all that are there, and drop the weights that none of them reads."""
    nodes = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def layers_of(model: ModelProto) -> list[Layer]:
    """Every layer, in the order of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    links = linked(model)
    nodes = [
        node
        for node in model.graph.node
        if (node.op_type == "Conv" or node.op_type == "MatMul") and node.input[1] in weights
    ]
    names = {node.name for node in nodes}
    followed = leading_to(model, names)
    return [Layer(node.name, block_of(node, links, weights), node.output[0] not in followed) for node in nodes]


def leading_to(model: ModelProto, nodes: Container[str]) -> set[str]:
    """The tensors from which a node named in `nodes` can still be reached."""
    leading: set[str] = set()
    for node in reversed(model.graph.node):
        if node.name in nodes or any(name in leading for name in node.output):
            leading.update(node.input)
    return leading


def block_of(node: NodeProto, links: Links, weights: set[str]) -> str:
    """The block's name, from that of the layer's weight, or, where the exporter renamed it, of its bias."""
    names = list(node.input[1:])
    names += [name for reader in links.readers[node.output[0]] for name in reader.input if name in weights]
    known = [name for name in names if "." in name]
    if not known:
        return node.name
    name = known[0].removesuffix(".folded")
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    parts = name.split(".")
    if "vit.blocks" in known[0]:
        return f"vit.{'.'.join(parts[:3])}"  # vit.blocks.3.mlp
    if "cnn.blocks" in known[0]:
        return f"detail.{'.'.join(parts[:2])}"  # detail.blocks.3
    return ".".join(parts[: {"boxes": 3, "masks": 2}.get(parts[0], 1)])
