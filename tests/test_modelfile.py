"""perception.execution.modelfile: what ONNX Runtime may not get is refused before, in one line that names the file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fuzz import campaign
from onnx import TensorProto, helper, numpy_helper

from perception import live
from perception.engine import Engine, Metadata
from perception.execution import modelfile
from perception.model import BUNDLED_MODEL
from perception.network.tokens import read_weights

RENEW = "cd perception/assets && sha256sum *.onnx *.safetensors > SHA256SUMS"


def broken(tiny_model: Path, target: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(tiny_model)
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def external(model: onnx.ModelProto, location: str = "secret") -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def external_without_location_flag(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="secret")


def within_an_attribute(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32))
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**30, 2**30]


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-1]


def short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2]


def few_numbers(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
    model.graph.initializer[-1].dims[:] = [1000]


def text_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [1], [b"a"]))


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def graph_within(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f"))


def huge_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


def much_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="x", value="x" * modelfile.MAX_METADATA)


def metadata_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="perception", value="{}")


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "is in another file"),
        (external_without_location_flag, "is in another file"),
        (within_an_attribute, "is in another file"),
        (huge, "no sane shape|bytes, but its shape and type ask for"),
        (negative, "no sane shape"),
        (short, "has 4 bytes, but its shape and type ask for 8"),
        (few_numbers, "fewer numbers than its shape says"),
        (text_constant, "which holds no numbers"),
        (foreign_operator, "an operator is of 'com.microsoft'"),
        (graph_within, "holds a graph"),
        (function, "it holds functions"),
        (huge_input, "an input or output has no sane shape"),
        (much_metadata, "its metadata may have 1048576 bytes"),
        (metadata_twice, "its metadata has a key twice"),
        (no_nodes, "expected 1 to 100000 nodes"),
    ],
)
def test_refused_before_onnxruntime_sees_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, message: str
) -> None:
    import onnxruntime

    def session(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime got the file")

    path = broken(tiny_model, tmp_path / "model.onnx", change)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ValueError, match=f"model.onnx: not a model that may be loaded: .*({message})"):
        Engine(path, "cpu")


def test_a_graph_in_two_pieces_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Protobuf would merge them, so that each could look harmless."""
    whole = tiny_model.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="expected an ONNX file with one graph, but found 2"):
        Engine(path, "cpu")


def test_what_a_file_declares_is_what_onnx_reads_in_it() -> None:
    model = onnx.load(BUNDLED_MODEL)
    contract = modelfile.check_model_file(BUNDLED_MODEL)
    assert contract.properties == {entry.key: entry.value for entry in model.metadata_props}
    types = {TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float"}
    for ours, theirs in ((contract.inputs, model.graph.input), (contract.outputs, model.graph.output)):
        assert [(t.name, t.dtype, t.shape) for t in ours] == [
            (v.name, types[v.type.tensor_type.elem_type], tuple(d.dim_value for d in v.type.tensor_type.shape.dim))
            for v in theirs
        ]


def test_open_sizes_and_other_types_are_told() -> None:
    entry = helper.make_tensor_value_info("c", TensorProto.INT64, ["batch", 3, None])
    graph = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "g", [entry], [])
    (found,) = modelfile.check_model(helper.make_model(graph).SerializeToString()).inputs
    assert found == modelfile.Tensor("c", "7", (None, 3, None))


def test_metadata_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="its metadata is not text"):
        modelfile.check_model(b"\x72\x04\x0a\x02\xff\xfe")  # field 14, an entry whose key is 0xff 0xfe


def test_the_walk_reads_what_onnx_writes(tmp_path: Path) -> None:
    """Constants of every type and both kinds of storage pass, or the fence would refuse good models."""
    made = [
        numpy_helper.from_array(np.arange(6).reshape(2, 3).astype(dtype), np.dtype(dtype).name)
        for dtype in ("f4", "f8", "f2", "u1", "i1", "u2", "i2", "i4", "i8", "u4", "u8", "?")
    ]
    for name in ("FLOAT", "FLOAT16", "INT64", "INT8", "DOUBLE", "UINT64", "BOOL", "BFLOAT16", "INT4", "UINT4"):
        kind = getattr(TensorProto, name)
        made.append(helper.make_tensor(f"typed{kind}", kind, [5], [1, 0, 1, 1, 0]))
        made.append(helper.make_tensor(f"empty{kind}", kind, [0], []))
    made.append(helper.make_tensor("negative", TensorProto.INT64, [2], [-1, -(2**63)]))
    node = helper.make_node("Constant", [], ["c"], value=made[0])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("c", 1, ["batch", 3])], made)
    modelfile.check_model(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    "wire", [b"\x3a\xff\xff\xff\xff\x0f", b"\x3b", b"\x38\x80", b"\x02\x00", b"\x38" + b"\xff" * 11]
)
def test_broken_wire_formats_are_refused(wire: bytes) -> None:
    with pytest.raises(ValueError, match=r"protobuf|cut short"):
        modelfile.check_model(wire)


def test_a_shape_of_another_wire_type_is_refused() -> None:
    """Found by tests/fuzz.py: a dimension as four bytes instead of a varint."""
    constant = b"\x0d\x01\x00\x00\x00"
    with pytest.raises(ValueError, match="field 1 has wire type 5"):
        modelfile.check_model(b"\x3a\x07\x2a\x05" + constant)


def test_a_file_over_the_limit_is_refused_unread(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(modelfile, "MAX_BYTES", 100)
    assert live.main(["demo", "--model", str(tiny_model), "--provider", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "expected at most 100 bytes" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"height": -64, "width": 96}}, "input height must be a whole number from 1 to 8192, but is -64"),
        ({"input": {"height": 64, "width": 10**9}}, "input width must be a whole number from 1 to 8192"),
        ({"input": {"height": 64.0, "width": 96}}, "input height must be a whole number"),
        ({"input": {"height": True, "width": 96}}, "input height must be a whole number"),
        ({"boxes": "car"}, "boxes must be a list of at most 10000 class names, but is 'car'"),
        ({"boxes": ["a", 3]}, "a class name must be 1 to 200 characters, but one is 3"),
        ({"boxes": ["a" * 300]}, "a class name must be 1 to 200 characters"),
        ({"boxes": ["a\n\x1b[2J"]}, "a class name must be"),
        ({"heads": {"scene": ["x"] * 257}}, "head scene must be a list of at most 256 class names"),
        ({"heads": {"": ["x"]}}, "the name of a head must be"),
        ({"heads": ["scene"]}, "heads must be an object"),
        ({"heads": {str(i): ["x"] for i in range(65)}}, "heads must be an object of at most 64"),
        ({"step": -1}, "step must be a whole number, 0 or more, but is -1"),
        ({"step": 10**400}, "step must be a whole number, 0 or more, but is a huge number"),
        ({"data": "kitti"}, "data must be a list of names"),
        ({"config": 3}, "config must be an object"),
    ],
)
def test_metadata_that_is_not_sane_is_refused(changes: dict, message: str) -> None:
    import json

    good = json.loads(Metadata(input_hw=(64, 96), box_names=("car",)).to_json())
    assert Metadata.from_json(json.dumps(good)).input_hw == (64, 96)
    with pytest.raises(ValueError, match=message):
        Metadata.from_json(json.dumps(good | changes))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"schema": 1}', '{"schema": NaN}', '"x"'])
def test_metadata_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Metadata.from_json(text)


def test_a_model_that_fails_in_its_first_run_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    def past_the_end(model: onnx.ModelProto) -> None:
        index = next(tensor for tensor in model.graph.initializer if tensor.name == "i2")
        index.CopyFrom(numpy_helper.from_array(np.int64(9), "i2"))

    path = broken(tiny_model, tmp_path / "model.onnx", past_the_end)
    with pytest.raises(ValueError, match=r"model\.onnx: (the model can't be run|not an ONNX model)"):
        Engine(path, "cpu").warm_up()


def test_the_sums_of_the_bundled_files_are_those_of_the_files() -> None:
    folder = BUNDLED_MODEL.parent
    files = [path for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors")]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    lines = [f"{digest}  {name}" for name, digest in sorted(found.items())]
    assert (folder / modelfile.SUMS).read_text().splitlines() == lines, f"renew them: {RENEW}"


def test_another_file_than_the_sums_say_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_model, tmp_path / "model.onnx"))
    sums = tmp_path / modelfile.SUMS
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for line in (f"{digest}  model.onnx\n", f"{digest} *model.onnx\n", f"{'0' * 64}  other.onnx\n"):
        sums.write_text(line)
        Engine(path, "cpu")
    sums.write_text(f"{'0' * 64}  model.onnx\n")
    with pytest.raises(ValueError, match=r"expected SHA-256 0{12}.*sha256sum model\.onnx > SHA256SUMS"):
        Engine(path, "cpu")


def test_weights_are_compared_with_the_sums_too(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    path.write_bytes(b"not weights")
    (tmp_path / modelfile.SUMS).write_text(f"{'0' * 64}  vit.safetensors\n")
    with pytest.raises(ValueError, match="expected SHA-256"):
        read_weights(path)


def test_broken_models_are_read_or_refused(tiny_model: Path, tmp_path: Path) -> None:
    result = campaign("onnx", Path(shutil.copy(tiny_model, tmp_path / "model.onnx")), seed=0, count=300)
    assert not result["wrong"]
    assert result["read"] > 3 and result["refused"] > 200, "some copies are harmless, most are not"
