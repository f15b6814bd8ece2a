"""fp32 graph -> int8 graph: convolutions by measured ranges (QDQ), the transformer's MatMuls by the range of each call.

Or, for OpenVINO, MatMuls by measured ranges too: it computes those in int8, and DynamicQuantizeLinear with
MatMulInteger in float. ONNX Runtime, the other way round, was no faster than in fp32 with pairs around a MatMul.

Activations are uint8 with a zero point, weights int8 a channel and symmetric: the pair that VNNI and AMX multiply.
ONNX Runtime fuses Quantize/Dequantize pairs around a Conv or Add into QLinearConv and QLinearAdd, and
DynamicQuantizeLinear, MatMulInteger, Cast, Mul into one DynamicQuantizeMatMul. onnxruntime.quantization writes the same
nodes; it is not used because the search needs some fifty graphs, and it took most of a minute for each (measured on a
busy machine), against well under a second here: the ranges are measured once.

The last layers stay in float: their outputs are compared with each other (argmax), and 8 bits would make ties.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from perception.precision.graph import Links, batches, layers_of, linked, replace_nodes

__all__ = ["Ranges", "measure_ranges", "quantizable", "quantize"]

Ranges = Mapping[str, tuple[float, float]]  # tensor -> (lowest, highest value to represent)
TAIL = 1e-4  # share of an image's values that may be clipped at either end
SAMPLED = 50_000  # values of a tensor that are looked at in one image, evenly spread


def quantizable(model: ModelProto) -> dict[str, list[str]]:
    """Block -> names of its layers, all but the last ones."""
    blocks: dict[str, list[str]] = {}
    for layer in layers_of(model):
        if not layer.last:
            blocks.setdefault(layer.block, []).append(layer.node)
    return blocks


def measure_ranges(model: ModelProto, images: Sequence[np.ndarray]) -> Ranges:
    """Range of every tensor around a layer, over `images` (h, w, 3) uint8 RGB, but for a TAIL on either side."""
    links = linked(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    wanted: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            wanted.add(node.input[0])
        if node.op_type == "Conv":
            wanted.update([node.input[0], node.output[0]])
            for reader in links.readers[node.output[0]]:
                if reader.op_type in ("Add", "Clip"):
                    wanted.update([reader.output[0], *reader.input[: 2 if reader.op_type == "Add" else 1]])
    known = [info for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT]
    opened = ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(info for info in known if info.name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    ranges = {name: (0.0, 0.0) for name in names}  # zero can always be represented: padding is zero
    for batch in batches(images, session.get_inputs()[0].shape[0]):
        for name, value in zip(names, session.run(names, {"image": batch}), strict=True):
            for flat in value.reshape(len(batch), -1):  # image by image
                flat = flat[:: max(1, flat.size // SAMPLED)]
                rank = int(TAIL * flat.size)
                low, high = np.partition(flat, (rank, flat.size - 1 - rank))[[rank, flat.size - 1 - rank]]
                ranges[name] = min(ranges[name][0], float(low)), max(ranges[name][1], float(high))
    return ranges


def quantize(model: ModelProto, ranges: Ranges, nodes: Collection[str], static: bool = False) -> ModelProto:
    """The graph with the layers `nodes` in int8; additions between quantized convolutions follow them.

    `static`: MatMuls by measured ranges too, for OpenVINO.
    """
    return Quantizer(model, ranges, set(nodes), static).result()


class Quantizer:
    """One pass over a graph."""

    def __init__(self, model: ModelProto, ranges: Ranges, chosen: set[str], static: bool) -> None:
        self.source, self.ranges, self.chosen, self.static = model, ranges, chosen, static
        self.links: Links = linked(model)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        self.added: dict[str, TensorProto] = {}
        self.quantized: dict[str, str] = {}  # tensor -> its quantized and widened twin
        self.dynamic: dict[str, tuple[str, str, str]] = {}  # tensor -> what DynamicQuantizeLinear made of it
        self.dropped: set[str] = set()  # Clips that the quantized range does as well

    def result(self) -> ModelProto:
        for node in self.source.graph.node:
            if node.name in self.dropped:
                continue
            if node.name in self.chosen and node.op_type == "Conv":
                self.conv(node)
            elif node.name in self.chosen and node.op_type == "MatMul":
                (self.static_matmul if self.static else self.dynamic_matmul)(node)
            elif self.joins(node):
                self.add_quantized(node, [self.twin(name) for name in node.input])
            else:
                self.nodes.append(node)
        model = ModelProto()
        model.CopyFrom(self.source)
        model.graph.initializer.extend(self.added.values())
        del model.graph.value_info[:]
        replace_nodes(model, self.nodes)
        return model

    def joins(self, node: NodeProto) -> bool:
        """Is it an addition of two activations, one from a quantized convolution, which another one reads?"""
        if node.op_type != "Add" or any(name not in self.ranges for name in (*node.input, *node.output)):
            return False
        makers = [self.links.maker.get(name) for name in node.input]
        from_conv = any(maker is not None and maker.name in self.chosen for maker in makers)
        return from_conv and any(
            reader.name in self.chosen and reader.op_type == "Conv" for reader in self.links.readers[node.output[0]]
        )

    def constant(self, name: str, value: np.ndarray) -> str:
        self.added.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def scale_of(self, tensor: str) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of an activation."""
        low, high = self.ranges[tensor]
        scale = np.float32(max(high - low, 1e-6) / 255)
        return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))

    def pair(self, source: str, tensor: str, target: str) -> None:
        """`source` -> QuantizeLinear -> DequantizeLinear -> `target`, with the range of `tensor`."""
        scale, zero = self.scale_of(tensor)
        names = [self.constant(f"{tensor}.scale", np.asarray(scale)), self.constant(f"{tensor}.zero", np.asarray(zero))]
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{tensor}.u8"], f"{tensor}.quantize"))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [f"{tensor}.u8", *names], [target], f"{tensor}.dequantize")
        )

    def twin(self, tensor: str) -> str:
        """A quantized and widened activation; made here unless its maker did."""
        if tensor not in self.quantized:
            self.pair(tensor, tensor, f"{tensor}.twin")
            self.quantized[tensor] = f"{tensor}.twin"
        return self.quantized[tensor]

    def add_quantized(self, node: NodeProto, inputs: Sequence[str]) -> None:
        """`node` with other inputs, and the pair after it that gives its output the old name."""
        out = node.output[0]
        readers = self.links.readers[out]
        if len(readers) == 1 and readers[0].op_type == "Clip" and self.clips_at_zero(readers[0]):
            self.dropped.add(readers[0].name)  # what lies outside the range of the clipped tensor saturates anyway
            out = readers[0].output[0]
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        copy.output[0] = f"{out}.float"
        self.nodes.append(copy)
        self.pair(f"{out}.float", out, out)
        self.quantized[out] = out

    def clips_at_zero(self, clip: NodeProto) -> bool:
        """Is it ReLU or ReLU6? Then nothing below zero is in the range that was measured behind it."""
        low = self.weights.get(clip.input[1]) if len(clip.input) > 1 else None
        return low is not None and float(low) == 0.0 and clip.output[0] in self.ranges

    def conv(self, node: NodeProto) -> None:
        """x, w, b -> QLinearConv, once ONNX Runtime has fused it."""
        x, name = self.twin(node.input[0]), node.input[1]
        weight = self.weights[name]
        peak = np.abs(weight).reshape(len(weight), -1).max(1)
        scale = np.maximum(peak / 127, 1e-8).astype(np.float32)  # (C_out,)
        whole = np.clip(np.rint(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
        inputs = [self.constant(f"{name}.i8", whole), self.constant(f"{name}.scale", scale)]
        inputs.append(self.constant(f"{name}.zero", np.zeros(len(weight), np.int8)))
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [f"{node.name}.weight"], f"{node.name}.widen", axis=0)
        )
        made = [x, f"{node.name}.weight"]
        if len(node.input) > 2:
            steps = self.scale_of(node.input[0])[0] * scale
            whole = np.clip(np.rint(self.weights[node.input[2]] / steps), -(2**31), 2**31 - 1).astype(np.int32)
            inputs = [self.constant(f"{node.name}.b32", whole), self.constant(f"{node.name}.steps", steps)]
            inputs.append(self.constant(f"{node.name}.b_zero", np.zeros(len(weight), np.int32)))
            self.nodes.append(
                helper.make_node("DequantizeLinear", inputs, [f"{node.name}.bias"], f"{node.name}.widen_bias", axis=0)
            )
            made.append(f"{node.name}.bias")
        self.add_quantized(node, made)

    def matmul_weight(self, name: str) -> list[str]:
        """w (K, N) in int8 a column, its scales, its zero points."""
        weight = self.weights[name]
        scale = np.maximum(np.abs(weight).max(0) / 127, 1e-8).astype(np.float32)  # (N,)
        return [
            self.constant(f"{name}.i8", np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(weight.shape[1], np.int8)),
        ]

    def static_matmul(self, node: NodeProto) -> None:
        """x (..., K) by w (K, N), both quantized and widened; the product stays in float."""
        x, fixed = self.twin(node.input[0]), self.matmul_weight(node.input[1])
        widened = f"{node.name}.weight"
        self.nodes.append(helper.make_node("DequantizeLinear", fixed, [widened], f"{node.name}.widen", axis=1))
        self.nodes.append(helper.make_node("MatMul", [x, widened], list(node.output), node.name))

    def dynamic_matmul(self, node: NodeProto) -> None:
        """x (..., K) by w (K, N) -> DynamicQuantizeMatMul, once ONNX Runtime has fused it."""
        x, fixed = node.input[0], self.matmul_weight(node.input[1])
        if x not in self.dynamic:
            self.dynamic[x] = f"{x}.d8", f"{x}.d_scale", f"{x}.d_zero"
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], self.dynamic[x], f"{x}.dynamic"))
        whole, x_scale, x_zero = self.dynamic[x]
        made = f"{node.name}.i32", f"{node.name}.sum", f"{node.name}.scale"
        self.nodes += [
            helper.make_node("MatMulInteger", [whole, fixed[0], x_zero, fixed[2]], [made[0]], f"{node.name}.integer"),
            helper.make_node("Cast", [made[0]], [made[1]], f"{node.name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [x_scale, fixed[1]], [made[2]], f"{node.name}.scales"),
            helper.make_node("Mul", [made[1], made[2]], [node.output[0]], node.name),
        ]
