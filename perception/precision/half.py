"""fp32 file -> fp16 file, for GPUs. What fp16 can not hold stays fp32.

The input stays uint8 and the outputs float32 boxes and uint8 maps. In fp32 stay layer norms and softmaxes (sums over
many numbers), whatever comes before the first layer (values up to 255, their mean and deviation), and whatever comes
after the last one: decoding of boxes (coordinates beyond 256 have steps of 0.25 in fp16), suppression of duplicates,
the resizing of class logits and their argmax. Not run on a GPU.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from perception.precision.graph import layers_of, leading_to, replace_nodes

__all__ = ["SENSITIVE", "half", "kept_in_fp32"]

SENSITIVE = ("LayerNormalization", "Softmax", "Softplus", "Resize")


def kept_in_fp32(model: ModelProto) -> list[str]:
    """Names of the nodes before the first and after the last layers, and of all that are SENSITIVE."""
    layers = {layer.node for layer in layers_of(model)}
    touched: set[str] = set()  # tensors that come from a layer
    for node in model.graph.node:
        if node.name in layers or any(name in touched for name in node.input):
            touched.update(node.output)
    followed = leading_to(model, layers)
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
    """An fp32 graph of `open_fp32` -> the same in fp16 but for `kept_in_fp32`.

    Each tensor is cast at most once to either type. (onnxruntime.transformers.float16 makes an invalid graph of ours:
    it casts a weight that several fp32 nodes read once for each of them, under one name.)
    """
    kept = set(kept_in_fp32(model))
    infos = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    is_half: set[str] = set()  # tensors made by nodes that compute in fp16
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    cast: set[str] = set()

    def as_type(name: str, wish_half: bool) -> str:
        if name in weights:
            if wish_half and name not in added:
                value = numpy_helper.to_array(weights[name]).astype(np.float16)
                added[name] = numpy_helper.from_array(value, f"{name}.fp16")
            return f"{name}.fp16" if wish_half else name
        if name not in floats or (name in is_half) == wish_half:
            return name
        twin = f"{name}.{'fp16' if wish_half else 'fp32'}"
        if twin not in cast:
            cast.add(twin)
            to = TensorProto.FLOAT16 if wish_half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [twin], f"{twin}.cast", to=to))
        return twin

    for node in model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        wish_half = node.name not in kept and node.op_type not in ("Cast", "Constant", "ConstantOfShape")
        copy.input[:] = [as_type(name, wish_half) for name in node.input]
        nodes.append(copy)
        if wish_half:
            is_half.update(name for name in node.output if name in floats)
    made = ModelProto()
    made.CopyFrom(model)
    made.graph.initializer.extend(added.values())
    del made.graph.value_info[:]
    replace_nodes(made, nodes)
    return made
