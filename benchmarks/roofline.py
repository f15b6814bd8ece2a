"""How much arithmetic a model is, and how near a machine comes to what it can do at best.

`Work.of(FILE.onnx)` counts from the graph: a multiplication and an addition are two operations; counted are Conv,
ConvTranspose, MatMul, Gemm and their integer kin, which are nearly all of the arithmetic of a network. Bytes are those
operators' inputs, weights and outputs, each read or written once, at the size of their type in the graph.

`Yardsticks` measures on the same threads what the machine does at best: a product of two square float32 matrices, by
the same ONNX Runtime, and a copy of a block far larger than the caches. The roofline (Williams et al., CACM 52(4),
2009) of a model is then min(product, flops a byte * copy); the fraction of it is how well the runtime uses the
machine. An integer model can exceed 1, because the yardstick is float32.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.machine import usable_cores

__all__ = ["Work", "Yardsticks"]

CONVS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}  # operator -> which input is the weight
PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1}
SIDE = 1024  # of the matrices
BLOCK = 1 << 26  # bytes that are copied: 64 MiB


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of a model is."""

    flops: float
    bytes: float
    parameters: int
    by_operator: dict[str, float]  # operator -> its flops
    uncounted: int  # such operators whose shapes the graph does not tell

    @classmethod
    def of(cls, path: Path) -> Work:
        """Count a file. Raises ValueError if it is not an ONNX model."""
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise ValueError(f"{path}: its shapes can't be inferred ({error})") from None
        except Exception as error:  # protobuf has an exception of its own for what is no model
            if type(error).__name__ != "DecodeError":
                raise
            raise ValueError(f"{path}: not an ONNX model ({error})") from None
        graph = model.graph
        shapes = {t.name: tuple(t.dims) for t in graph.initializer}
        kinds = {t.name: t.data_type for t in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            entry = value.type.tensor_type
            shapes.setdefault(value.name, tuple(d.dim_value for d in entry.shape.dim))
            kinds.setdefault(value.name, entry.elem_type)
        by: Counter[str] = Counter()
        moved, uncounted = 0.0, 0
        for node in graph.node:
            if node.op_type not in CONVS and node.op_type not in PRODUCTS:
                continue
            flops = _flops(node, shapes)
            if flops is None:
                uncounted += 1
                continue
            by[node.op_type] += flops
            moved += sum(prod(shapes[name]) * _size(kinds.get(name, 1)) for name in (*node.input, *node.output) if name)
        numbers = sum(
            prod(t.dims) for t in graph.initializer if t.data_type not in (TensorProto.INT64, TensorProto.BOOL)
        )
        return cls(float(sum(by.values())), moved, int(numbers), dict(by), uncounted)


def _flops(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> float | None:
    """Of one operator; None where a shape is not known."""
    names = [name for name in (*node.input, *node.output) if name]
    if not all(name in shapes and all(shapes[name]) for name in names):
        return None
    out, first = shapes[node.output[0]], shapes[node.input[0]]
    if node.op_type in CONVS:
        weight = shapes[
            node.input[CONVS[node.op_type]]
        ]  # (out, in / groups, ...) or, transposed, (in, out / groups, ...)
        return 2.0 * prod(first if node.op_type == "ConvTranspose" else out) * prod(weight[1:])
    across = next((a.i for a in node.attribute if a.name == "transA"), 0) if node.op_type == "Gemm" else 0
    return 2.0 * prod(out) * first[-2 if across else -1]


def _size(kind: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


class Yardsticks:
    """Fixed pieces of work on the CPU, to be timed in every round: what the machine gives at that moment."""

    def __init__(self, threads: int) -> None:
        """`threads`: 0 = one for each core."""
        wide = [SIDE, SIDE]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, wide) for name in "abc"]
        graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ends[:2], ends[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as perception.engine
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        dice = np.random.default_rng(0)
        self._feed = {name: dice.standard_normal((SIDE, SIDE)).astype(np.float32) for name in "ab"}
        self._block = np.ones(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
        self._workers = threads or usable_cores()
        self.product_ms: list[float] = []  # one a round
        self.copy_ms: list[float] = []

    def measure(self, repeats: int = 3) -> None:
        """One round: the fastest of a few, so that the peak is a peak."""
        self.product_ms.append(min(self._timed(self._product) for _ in range(repeats + 1)))  # the first one warms up
        with ThreadPoolExecutor(self._workers) as pool:
            self.copy_ms.append(min(self._timed(lambda: self._copy(pool)) for _ in range(repeats)))

    @staticmethod
    def _timed(work: Any) -> float:
        begin = perf_counter()
        work()
        return 1e3 * (perf_counter() - begin)

    def _product(self) -> None:
        self._session.run(None, self._feed)

    def _copy(self, pool: ThreadPoolExecutor) -> None:
        parts = [np.array_split(block, self._workers) for block in self._block]
        list(pool.map(np.copyto, parts[1], parts[0]))

    @property
    def flops_a_second(self) -> float:
        """The best of all rounds."""
        return 2.0 * SIDE**3 / (1e-3 * min(self.product_ms))

    @property
    def bytes_a_second(self) -> float:
        """Read and written, the best of all rounds."""
        return 2.0 * BLOCK / (1e-3 * min(self.copy_ms))

    def fraction(self, work: Work, ms: float) -> dict[str, float]:
        """How near a run of `ms` is to the roofline."""
        reached = work.flops / (1e-3 * ms)
        roof = min(self.flops_a_second, work.flops / max(work.bytes, 1) * self.bytes_a_second)
        return {
            "gflops_a_second": round(reached / 1e9, 2),
            "flops_a_byte": round(work.flops / max(work.bytes, 1), 2),
            "roof_gflops_a_second": round(roof / 1e9, 2),
            "of_roof": round(reached / roof, 4) if roof else 0.0,
            "of_product": round(reached / self.flops_a_second, 4),
        }
