"""fp16 and int8 files: same input and outputs, really computed so, sensitive parts kept, and their report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from data.synthetic.prepare import main as synthesize
from perception import export, load, parity_report
from perception.labels import DRIVE_CLASSES, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.network.network import Network, NetworkConfig
from perception.parity import matched_share
from perception.precision import search
from perception.precision.graph import fold_norms, layers_of, open_fp32
from perception.precision.half import half, kept_in_fp32
from perception.precision.int8 import measure_ranges, quantizable, quantize
from perception.precision.search import agreement, choose_blocks, responses
from perception.tensors import tensor_from_frame
from perception.training import checkpoint
from perception.training.from_onnx import network_from_onnx
from perception.training.optim import Ema

HW = (64, 96)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        picture = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
        cv2.circle(picture, (20 + 20 * i, 30), 15, (0, 80 * i, 255), -1)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def tensors(images: Path) -> list[np.ndarray]:
    return [tensor_from_frame(np.asarray(cv2.imread(str(path))), HW)[0] for path in sorted(images.iterdir())]


@pytest.fixture(scope="module")
def fp32(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file of an untrained network, its large weights stored as fp16."""
    torch.manual_seed(0)
    network = Network(NetworkConfig(hw=HW, width=16))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("masks"):
                parameter.mul_(3)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)  # the exporter keeps one of several equal ones
    run = tmp_path_factory.mktemp("run")
    named = dict(network.named_parameters())
    adam = torch.optim.AdamW([{"params": list(named.values()), "names": list(named)}])
    checkpoint.save(run, 1, network, Ema(network, 0.9), adam, {"data": ["toy"], "revision": "0", "train": {}})
    out = tmp_path_factory.mktemp("fp32") / "fp32.onnx"
    assert export.main([str(run), "--out", str(out), "--images", str(images), "--weights", "fp16"]) == 0
    return out


@pytest.fixture(scope="module")
def graph(fp32: Path) -> onnx.ModelProto:
    return open_fp32(fp32)


def test_opening_changes_no_answer(fp32: Path, graph: onnx.ModelProto, tensors: list[np.ndarray]) -> None:
    types = {tensor.data_type for tensor in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in types
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    assert agreement(export.responses(fp32, tensors), responses(graph, tensors)) > 0.999


def test_layers_have_the_names_of_their_blocks(graph: onnx.ModelProto) -> None:
    layers = layers_of(graph)
    blocks = {layer.block for layer in layers}
    assert {"conv_stem", "detail.blocks.1", "vit.blocks.0.attn", "vit.blocks.11.mlp", "masks.scene"} <= blocks
    assert not any(block.startswith("node_") for block in blocks), "none is without a name"
    assert sum(layer.last for layer in layers) == 8  # two maps; class and distances on three levels


def test_fp16_keeps_input_and_outputs_and_what_is_sensitive(graph: onnx.ModelProto, tensors: list[np.ndarray]) -> None:
    model = half(graph)
    onnx.checker.check_model(model)
    full = {
        name for node in model.graph.node if node.name in kept_in_fp32(graph) for name in (*node.input, *node.output)
    }
    typed = onnx.shape_inference.infer_shapes(model)
    kinds = {info.name: info.type.tensor_type.elem_type for info in typed.graph.value_info}
    assert not [name for name in full if kinds.get(name) == onnx.TensorProto.FLOAT16]
    halves = {node.op_type for node in typed.graph.node if kinds.get(node.output[0]) == onnx.TensorProto.FLOAT16}
    assert {"Conv", "MatMul", "Gelu"} <= halves
    assert not {"LayerNormalization", "Softmax", "Resize", "TopK"} & halves
    truth, answers = responses(graph, tensors), responses(model, tensors)
    assert {k: v.dtype for k, v in answers[0].items()} == {k: v.dtype for k, v in truth[0].items()}
    assert agreement(truth, answers) > 0.97


def test_int8_is_computed_in_int8(graph: onnx.ModelProto, tensors: list[np.ndarray], tmp_path: Path) -> None:
    blocks = quantizable(graph)
    nodes = [node for names in blocks.values() for node in names]
    model = quantize(graph, measure_ranges(graph, tensors), nodes)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node]
    convs = sum(node.op_type == "Conv" for node in graph.graph.node if node.name in nodes)
    assert ops.count("QLinearConv") == convs, "every chosen convolution is fused"
    assert ops.count("DynamicQuantizeMatMul") + ops.count("MatMulIntegerToFloat") == len(nodes) - convs
    assert "QLinearAdd" in ops
    stage = "stage_p16"
    for candidate in (graph, model):
        candidate.graph.output.append(onnx.ValueInfoProto(name=stage))
    try:
        a, b = (responses(candidate, tensors)[0][stage] for candidate in (graph, model))
    finally:
        del graph.graph.output[-1]
    assert 0 < np.abs(a - b).max() < 0.25 * np.abs(a).max()


def test_int8_for_openvino_is_computed_in_int8_there(
    graph: onnx.ModelProto, tensors: list[np.ndarray], tmp_path: Path
) -> None:
    """Asked of OpenVINO itself, in a process of its own: which types its layers run in."""
    nodes = [node for names in quantizable(graph).values() for node in names]
    model = quantize(graph, measure_ranges(graph, tensors), nodes, static=True)
    onnx.checker.check_model(model)
    assert agreement(responses(graph, tensors), responses(model, tensors)) > 0.7
    assert not {"DynamicQuantizeLinear", "MatMulInteger"} & {node.op_type for node in model.graph.node}
    onnx.save(model, tmp_path / "static.onnx")
    code = (
        "import collections, json, sys, openvino\n"
        "core = openvino.Core()\n"
        "compiled = core.compile_model(core.read_model(sys.argv[1]), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})\n"
        "infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]\n"
        "kinds = [(str(i['layerType'].astype(str)), str(i['runtimePrecision'].astype(str))) for i in infos]\n"
        "print(json.dumps([[*key, n] for key, n in collections.Counter(kinds).items()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "static.onnx")], capture_output=True, text=True, check=True
    )
    kinds = {(layer, precision): n for layer, precision, n in json.loads(done.stdout)}
    weighted = {node.name: node.op_type for node in graph.graph.node if node.name in nodes}
    whole = {layer: sum(n for (kind, p), n in kinds.items() if kind == layer and p in ("u8", "i8")) for layer in
             ("Convolution", "FullyConnected")}  # fmt: skip
    assert whole["FullyConnected"] >= 0.9 * sum(op == "MatMul" for op in weighted.values()), kinds
    assert whole["Convolution"] >= 0.9 * sum(op == "Conv" for op in weighted.values()), kinds


def test_blocks_that_change_the_answer_stay_in_float(graph: onnx.ModelProto, tensors: list[np.ndarray]) -> None:
    """One block is spoilt by a range that is far too small; it must be the one that is found."""
    spoilt = next(node for node in graph.graph.node if node.name == quantizable(graph)["masks.scene"][0]).output[0]
    ranges = {name: (-0.001, 0.001) if name == spoilt else r for name, r in measure_ranges(graph, tensors).items()}
    few = {name: nodes for name, nodes in quantizable(graph).items() if name in ("masks.scene", "refine8", "down32")}
    good = quantize(graph, ranges, [*few["refine8"], *few["down32"]])
    asked = agreement(responses(graph, tensors), responses(good, tensors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "measure_ranges", lambda *_: ranges)
        patch.setattr(search, "quantizable", lambda _: few)
        choice = choose_blocks(graph, tensors, asked)
    assert choice.kept == ("masks.scene",) and set(choice.quantized) == {"refine8", "down32"}
    assert choice.agreement == asked and choice.harm["masks.scene"] == max(choice.harm.values())
    weights = {node.name: node.input[1] for node in choice.model.graph.node if node.op_type == "Conv"}
    for block, nodes in few.items():
        for node in nodes:
            assert (weights[node] == f"{node}.weight") == (block != "masks.scene"), "a widened weight is an int8 one"


def test_front_door_makes_both(fp32: Path, images: Path, tmp_path: Path) -> None:
    for kind in ("fp16", "int8"):
        out = tmp_path / f"{kind}.onnx"
        options = [
            "--precision",
            kind,
            "--images",
            str(images),
            "--agreement",
            "0.3",
            "--json",
            str(tmp_path / "s.json"),
        ]
        assert export.main([str(fp32), "--out", str(out), *options]) == 0
        about = load(out, provider="cpu").engine.metadata
        assert about.config["precision"]["kind"] == kind
        assert about.config["network"]["width"] == 16, "the rest of the metadata is kept"
        assert json.loads((tmp_path / "s.json").read_text())["agreement"] >= 0.3
        with pytest.raises(ValueError, match=f"is {kind}"):
            network_from_onnx(out)
        assert export.main([str(out), "--out", str(tmp_path / "x.onnx"), *options]) == 2
    assert (tmp_path / "int8.onnx").stat().st_size < 0.7 * fp32.stat().st_size


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "is exported already"),
        (["--precision", "int8"], "--images"),
        (["--precision", "int8", "--agreement", "2", "--images", "x"], "--agreement"),
        (["--precision", "fp16", "--branch", "one_to_many"], "for run directories"),
    ],
)
def test_mistakes(more: list[str], words: str, fp32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(fp32), "--out", str(tmp_path / "x.onnx"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "x.onnx").exists()


def test_only_our_files_are_converted(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="not a model of this project"):
        open_fp32(tmp_path / "text.onnx")


def test_a_norm_whose_convolution_is_read_elsewhere_is_not_folded() -> None:
    weights = {"w": np.ones((1, 1, 1, 1)), "s": np.ones(1), "b": np.zeros(1), "m": np.zeros(1), "v": np.ones(1)}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            onnx.helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm"),
            onnx.helper.make_node("Add", ["c", "n"], ["y"], "add"),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 2, 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 2, 2])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph)
    fold_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "BatchNormalization", "Add"]


def test_matched_share() -> None:
    a = np.array([[0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.8, 2]], np.float32)
    assert matched_share(a, a) == (1.0, 4)
    assert matched_share(a, a[:1]) == (2 / 3, 3)
    moved = a + np.array([5, 0, 5, 0, 0, 0], np.float32)
    assert matched_share(a, moved) == (0.0, 4)
    assert matched_share(a[:0], a[:0]) == (1.0, 0)


def test_a_report_looks_at_every_dataset_alike_and_times_a_single_round(tmp_path: Path) -> None:
    road = {"drive": MaskLabels("seg", {0: "road"}, {0: frozenset({"drivable"})}, DRIVE_CLASSES)}
    folders = []
    for grey, count in ((10, 15), (200, 4)):
        folders.append(tmp_path / str(grey))
        with LayoutWriter(folders[-1], DatasetLabels(str(grey), "ours", masks=road)) as writer:
            for i in range(count):
                image = np.full((64, 96, 3), grey + i, np.uint8)
                writer.add("val", f"{i:02d}", image, masks={"seg": np.zeros((64, 96), np.uint8)})
    config = parity_report.ParityReportConfig(models=(), data=tuple(folders), out=tmp_path / "out", images=8)
    images = parity_report.pictures(config, (64, 96))
    assert [int(image.mean()) for image in images] == [10, 13, 16, 19, 200, 201, 202, 203]

    class Counting:
        calls = 0

        def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
            self.calls += 1
            return {}

    form = parity_report.Form("counting", Counting())  # type: ignore[arg-type]
    parity_report.time_all([form], images, 1)
    assert form.figures["speed"] == 1.0 and form.engine.calls == parity_report.WARM_UP + 1  # type: ignore[union-attr]


def test_report(
    fp32: Path, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_report, "OTHERS", ("cuda", "tensorrt"))  # OpenVINO stays out of this process
    int8, toy, out = tmp_path / "int8.onnx", tmp_path / "toy", tmp_path / "report"
    options = ["--precision", "int8", "--images", str(images), "--agreement", "0.3"]
    assert export.main([str(fp32), "--out", str(int8), *options]) == 0
    assert synthesize([str(toy), "--frames-train", "1", "--frames-val", "2", "--hw", "64", "96"]) == 0
    more = ["--data", str(toy), "--out", str(out), "--rounds", "3", "--images", "2"]
    assert parity_report.main([str(fp32), str(int8), *more]) == 0
    found = json.loads((out / "parity.json").read_text())
    first, second = found["ONNX fp32, fp32.onnx"], found["ONNX int8, int8.onnx"]
    assert first["agreement"] == 1.0 and set(first["stages"].values()) == {0.0} and first["speed"] == 1.0
    assert second["stages"]["stage_p16"] > 0 and second["MB"] < first["MB"]
    assert second["ms"]["p99"] >= second["ms"]["p50"] > 0
    assert sys.platform != "linux" or 20 < second["peak_memory_MB"] < 2000
    assert set(second["datasets"]["synthetic"]) == {"AP", "AP50", "scene mIoU", "drive mIoU"}
    text = (out / "parity.md").read_text()
    assert "| ONNX int8, int8.onnx |" in text and "not present here" in text
    assert parity_report.main([str(fp32), *more, "--run", str(fp32)]) == 0  # the file's weights, computed by torch
    found = json.loads((out / "parity.json").read_text())
    assert found["torch fp32"]["agreement"] == 1.0 and "MB" not in found["torch fp32"]
    assert 0 < max(found["ONNX fp32, fp32.onnx"]["stages"].values()) < 1e-3
    capsys.readouterr()
    assert parity_report.main([str(fp32), "--data", str(tmp_path / "none"), "--out", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "r").exists()
