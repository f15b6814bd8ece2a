"""No denormal numbers in attention: every weight is raised by 1e-30, which no fp32 sum notices.

A sharp softmax leaves numbers between 0 and 1.2e-38. A CPU computes with those some hundred times slower, and the
product of the weights with the values is full of them. ONNX Runtime's session.set_denormal_as_zero is no way out: it
reaches the calling thread only by the first session of a process, and changes numpy's arithmetic there too.
In an fp16 file the addition is one of 0: fp16 holds no 1e-30, and is for GPUs, which do not have the problem.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

__all__ = ["FLOOR", "raise_weights"]

FLOOR = 1e-30  # far over the denormals, also when multiplied by a value; far under the rounding of weights that count
NAME = "softmax_floor"


def raise_weights(graph: GraphProto) -> int:
    """Add FLOOR, in place, to every softmax that a matrix product reads; returns how many were not raised before."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[NodeProto] = []
    raised = 0
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Softmax" and any(after.op_type == "MatMul" for after in readers.get(node.output[0], ())):
            name = node.output[0]
            node.output[0] = f"{name}.small"
            nodes.append(helper.make_node("Add", [node.output[0], NAME], [name], f"{node.name}.floor"))
            raised += 1
    if raised:
        if NAME not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(numpy_helper.from_array(np.array(FLOOR, np.float32), NAME))
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return raised
