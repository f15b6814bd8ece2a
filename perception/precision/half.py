"""fp32 file -> fp16 file, for GPUs. What fp16 can not hold stays fp32.

The input stays uint8 and the outputs float32 boxes and uint8 maps. In fp32 stay layer norms and softmaxes (sums over
many numbers), whatever comes before the first layer (values up to 255, their mean and deviation), and whatever comes
after the last one: decoding of boxes (coordinates beyond 256 have steps of 0.25 in fp16), suppression of duplicates,
the resizing of class logits and their argmax. Not run on a GPU.
"""

from __future__ import annotations

from graphlib import TopologicalSorter

import onnx
from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from perception.precision.graph import layers_of

__all__ = ["SENSITIVE", "half", "kept_in_fp32"]

SENSITIVE = ("LayerNormalization", "Softmax", "Softplus", "Resize")


def kept_in_fp32(model: ModelProto) -> list[str]:
    """Names of the nodes before the first and after the last layers, and of all that are SENSITIVE."""
    layers = {layer.node for layer in layers_of(model)}
    touched: set[str] = set()  # tensors that come from a layer
    for node in model.graph.node:
        if node.name in layers or any(name in touched for name in node.input):
            touched.update(node.output)
    followed: set[str] = set()  # tensors that lead to a layer
    for node in reversed(model.graph.node):
        if node.name in layers or any(name in followed for name in node.output):
            followed.update(node.input)
    return [
        node.name
        for node in model.graph.node
        if node.name not in layers
        and (
            node.op_type in SENSITIVE
            or not any(name in touched for name in node.output)
            or not any(name in followed for name in node.output)
        )
    ]


def half(model: ModelProto) -> ModelProto:
    """An fp32 graph of `open_fp32` -> the same in fp16 but for `kept_in_fp32`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    converted = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[], node_block_list=kept_in_fp32(model))
    sort_nodes(converted)
    del converted.graph.value_info[:]
    onnx.checker.check_model(converted)
    return converted


def sort_nodes(model: ModelProto) -> None:
    """Put every node behind those that it reads from: the converter appends its casts at the end."""
    nodes = list(model.graph.node)
    maker = {name: i for i, node in enumerate(nodes) for name in node.output}
    before = {i: {maker[name] for name in node.input if name in maker} for i, node in enumerate(nodes)}
    order = list(TopologicalSorter(before).static_order())
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)
