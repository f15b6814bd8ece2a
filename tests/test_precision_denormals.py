"""Attention without denormal numbers: none are left, the answer is the same, and nothing is done twice."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from perception.precision.denormals import raise_weights

SMALLEST = np.finfo(np.float32).tiny  # the smallest float32 that is not denormal


def attention() -> onnx.ModelProto:
    """softmax(scores) @ values, (1, 8, 8) @ (1, 8, 4), and a softmax that no product reads."""
    shape = {"scores": [1, 8, 8], "values": [1, 8, 4], "out": [1, 8, 4], "other": [1, 8, 8], "weights": [1, 8, 8]}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shape.items()}
    nodes = [
        helper.make_node("Softmax", ["scores"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "values"], ["out"], "product"),
        helper.make_node("Softmax", ["scores"], ["other"], "apart", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "attention", [info["scores"], info["values"]], [info["out"], info["other"], info["weights"]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    feed = {
        "scores": np.linspace(-110, 0, 64, dtype=np.float32).reshape(1, 8, 8).transpose(0, 2, 1).copy(),
        "values": random.normal(size=(1, 8, 4)).astype(np.float32),
    }
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def denormals(values: np.ndarray) -> int:
    return int(((values > 0) & (values < SMALLEST)).sum())


def test_no_weight_is_denormal_and_the_answer_stays() -> None:
    model = attention()
    before = run(model)
    assert denormals(before[2]) > 0, "the example has what it is about"
    assert raise_weights(model.graph) == 1
    onnx.checker.check_model(model)
    after = run(model)
    assert denormals(after[2]) == 0
    np.testing.assert_allclose(after[0], before[0], rtol=1e-6, atol=1e-28)
    np.testing.assert_array_equal(after[1], before[1])


def test_a_second_time_changes_nothing() -> None:
    model = attention()
    raise_weights(model.graph)
    once = model.SerializeToString()
    assert raise_weights(model.graph) == 0
    assert model.SerializeToString() == once
    floors = [tensor for tensor in model.graph.initializer if tensor.name == "softmax_floor"]
    assert [float(numpy_helper.to_array(tensor)) for tensor in floors] == [np.float32(1e-30)]
