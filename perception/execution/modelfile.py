"""Whether a model file may be handed to ONNX Runtime: looked at byte by byte first, because anyone may have written it.

ONNX Runtime is native code that trusts much of what a file says. So before a session is made, the file's protobuf is
walked here, without the `onnx` package, which the base install lacks, and refused where

- it names other files (external data), or carries what perception.export never writes: graphs within nodes, functions,
  sparse or training parts, operators that are not ONNX's own;
- a constant is not as long as its shape says, or a message is cut, oversized or of another kind than expected;
- it lies beside a SHA256SUMS (in the format of sha256sum) that names it with another sum.

Field numbers are those of onnx/onnx.proto in https://github.com/onnx/onnx. A sum guards against damage and mix-ups;
whoever can replace the model can replace the sum as well. A file that passes still decides what is computed, and so how
much memory and time a frame takes: run files of strangers where that does no harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from perception.jsonfile import shown

__all__ = [
    "MAX_BATCH",
    "SUMS",
    "Contract",
    "Tensor",
    "check_metadata",
    "check_model",
    "check_model_file",
    "check_sum",
]

MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_NODES = 100_000  # the bundled model has 829
MAX_SIDE = 8192  # of the input, pixels
MAX_CLASSES = 10_000  # of boxes; class maps are uint8 and end at 256
MAX_NAME = 200  # characters of a class or a head
MAX_HEADS = 64
MAX_BATCH = 64  # images in one call
MAX_METADATA = 2**20  # bytes
SUMS = "SHA256SUMS"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types; 3 and 4, groups, are not in ONNX
EXTERNAL = 1  # TensorProto.DataLocation
STRING = 8  # TensorProto.DataType
BITS = {  # TensorProto.DataType -> bits of one number
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
    16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
NAMES = {1: "float", 2: "uint8"}  # TensorProto.DataType, of the inputs and outputs that a model of ours has


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the file declares it."""

    name: str
    dtype: str  # "float", "uint8", or the number of another type
    shape: tuple[int | None, ...]  # None = open


@dataclass(frozen=True, slots=True)
class Contract:
    """What a file declares, in its own order: nothing of it has been run."""

    properties: Mapping[str, str]  # metadata_props
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def check_model_file(path: Path) -> Contract:
    """What the file declares. Raises ValueError, in one line, if it may not be loaded; OSError if it can't be read."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: not a model of this project: expected at most {MAX_BYTES} bytes, but it has {size}")
    content = path.read_bytes()
    check_sum(path, content)
    try:
        return check_model(content)
    except ValueError as error:
        raise ValueError(f"{path}: not a model that may be loaded: {error}; export it again") from None


def check_sum(path: Path, content: bytes | None = None) -> None:
    """Compare `path` with the SHA256SUMS beside it, if there is one that names it; `content` saves reading it again.

    Raises ValueError if the sums differ, OSError if a file can't be read.
    """
    sums = path.parent / SUMS
    if not sums.is_file():
        return
    expected = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        expected[name[1:]] = digest  # the second separator is a space, or * where sha256sum read "binary"
    if path.name not in expected:
        return
    found = hashlib.sha256(path.read_bytes() if content is None else content).hexdigest()
    if found != expected[path.name]:
        raise ValueError(
            f"{path}: expected SHA-256 {expected[path.name][:12]}... by {sums}, but got {found[:12]}...: the file is "
            "damaged or another one; get it again, or, if you replaced it, renew the sums: "
            f"cd {sums.parent} && sha256sum {' '.join(sorted(expected))} > {SUMS}"
        )


def fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field of a protobuf message: an int, or the bytes as a memoryview.

    Raises ValueError where the message is cut or is none.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("a protobuf field has number 0")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"protobuf wire type {wire} is not known")
        if at + size > end:
            raise ValueError("it is cut short")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number of up to 64 bits at `at`, and where it ends."""
    if at < len(data) and data[at] < 128:  # nearly all
        return data[at], at + 1
    value = 0
    for i in range(at, min(at + 10, len(data))):
        byte = data[i]
        value |= (byte & 127) << 7 * (i - at)
        if byte < 128:
            if value >= 2**64:
                break
            return value, i + 1
    raise ValueError("a protobuf number is cut short or too long")


def message(
    data: memoryview, kinds: Mapping[int, int], once: frozenset[int] = frozenset()
) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields that `kinds` names, {number: wire type}; others are skipped.

    Raises ValueError for one of another wire type, and for one of `once` that is there again: protobuf would merge the
    two.
    """
    seen = set()
    for number, wire, value in fields(data):
        if number not in kinds:
            continue
        if wire != kinds[number]:
            raise ValueError(f"protobuf field {number} has wire type {wire}, expected {kinds[number]}")
        if number in once:
            if number in seen:
                raise ValueError(f"protobuf field {number} is there twice")
            seen.add(number)
        yield number, value


def check_model(content: bytes) -> Contract:
    """Walk an ONNX ModelProto. Raises ValueError that says what it may not contain."""
    graphs = 0
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    entries: list[tuple[str, str]] = []
    for number, value in message(memoryview(content), {7: BYTES, 14: BYTES, 20: BYTES, 25: BYTES}):
        if number == 7:
            graphs += 1
            inputs, outputs = check_graph(value)
        elif number == 14:
            if len(value) > MAX_METADATA:
                raise ValueError(f"its metadata may have {MAX_METADATA} bytes, but has {len(value)}")
            entries.append(property_of(value))
        else:
            raise ValueError(f"it holds {'training parts' if number == 20 else 'functions'}")
    if graphs != 1:
        raise ValueError(f"expected an ONNX file with one graph, but found {graphs or 'none'}")
    properties = dict(entries)
    if len(properties) < len(entries):
        raise ValueError("its metadata has a key twice")
    return Contract(properties, inputs, outputs)


def property_of(data: memoryview) -> tuple[str, str]:
    """(key, value) of a StringStringEntryProto. Raises ValueError if they are no text."""
    parts = dict(message(data, {1: BYTES, 2: BYTES}, frozenset({1, 2})))
    try:
        return bytes(parts.get(1, b"")).decode(), bytes(parts.get(2, b"")).decode()
    except UnicodeDecodeError:
        raise ValueError("its metadata is not text") from None


def check_graph(data: memoryview) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Walk a GraphProto: nodes and constants; returns the inputs and outputs. Raises ValueError."""
    nodes = 0
    values: dict[int, list[Tensor]] = {11: [], 12: [], 13: []}  # inputs, outputs, what is between
    for number, value in message(data, {1: BYTES, 5: BYTES, 11: BYTES, 12: BYTES, 13: BYTES, 15: BYTES}):
        if number == 1:
            nodes += 1
            check_node(value)
        elif number == 5:
            check_tensor(value)
        elif number == 15:
            raise ValueError("it holds sparse constants")
        else:
            values[number].append(check_value(value))
    if not 0 < nodes <= MAX_NODES:
        raise ValueError(f"expected 1 to {MAX_NODES} nodes in the graph, but it has {nodes}")
    return tuple(values[11]), tuple(values[12])


def check_node(data: memoryview) -> None:
    """Walk a NodeProto. Raises ValueError for operators that are not ONNX's own, and for graphs within."""
    kind = "?"
    for number, value in message(data, {4: BYTES, 5: BYTES, 7: BYTES}, frozenset({4, 7})):
        if number == 4:
            kind = text(value)
        elif number == 7 and text(value) not in ("", "ai.onnx"):
            raise ValueError(f"an operator is of {text(value)!r}, not one of ONNX")
        elif number == 5:
            # t, tensors; g, graphs; sparse_tensor, sparse_tensors
            wanted = {5: BYTES, 10: BYTES, 6: BYTES, 11: BYTES, 22: BYTES, 23: BYTES}
            for part, inner in message(value, wanted, frozenset({5})):
                if part in (5, 10):
                    check_tensor(inner)
                else:
                    what = "a graph" if part in (6, 11) else "a sparse constant"
                    raise ValueError(f"the operator {kind!r} holds {what}")


def check_tensor(data: memoryview) -> None:
    """Walk a TensorProto. Raises ValueError if its numbers are elsewhere, or not as many as its shape says."""
    dims: list[int] = []
    dtype, raw, typed, name = 0, None, 0, ""
    for number, wire, value in fields(data):
        if number == 1:
            if wire not in (VARINT, BYTES):
                raise ValueError(f"protobuf field {number} has wire type {wire}")
            dims += list(_packed(value)) if wire == BYTES else [value]
        elif number == 2 and wire == VARINT:
            dtype = value
        elif number == 8 and wire == BYTES:
            name = text(value)
        elif number == 9 and wire == BYTES:
            raw = len(value)
        elif number in (4, 5, 6, 7, 10, 11):  # float, int32, string, int64, double, uint64 data
            typed += len(value) if wire == BYTES else 8
        elif number in (13, 14) and (number == 13 or value == EXTERNAL):
            raise ValueError(
                f"the constant {name!r} is in another file (external data); one file holds everything here"
            )
    if len(dims) > 16 or any(size >= 2**31 for size in dims):  # a negative one is over 2**63 here
        raise ValueError(f"the constant {name!r} has no sane shape")
    numbers = prod(dims)
    if dtype not in BITS:
        raise ValueError(f"the constant {name!r} has data type {dtype}, which holds no numbers")
    # Where numbers are in typed fields each has a byte at least (two share one for 4 bits, four for 2 bits).
    size = (numbers * BITS[dtype] + 7) // 8
    if raw is not None and (raw != size or typed):
        raise ValueError(f"the constant {name!r} has {raw} bytes, but its shape and type ask for {size}")
    if raw is None and numbers > 4 * typed:
        raise ValueError(f"the constant {name!r} has fewer numbers than its shape says")


def check_value(data: memoryview) -> Tensor:
    """Walk a ValueInfoProto, an input or output. Raises ValueError if its sizes are not sane."""
    name, dtype = "", 0
    sizes: list[int | None] = []
    for number, value in message(data, {1: BYTES, 2: BYTES}, frozenset({1, 2})):  # name, type
        if number == 1:
            name = text(value)
            continue
        for _, tensor in message(value, {1: BYTES}, frozenset({1})):  # tensor_type
            for part, inner in message(tensor, {1: VARINT, 2: BYTES}, frozenset({1, 2})):  # elem_type, shape
                if part == 1:
                    dtype = inner
                    continue
                for _, dim in message(inner, {1: BYTES}):
                    sizes.append(dict(message(dim, {1: VARINT}, frozenset({1}))).get(1))
    known = [size for size in sizes if size is not None]
    if len(sizes) > 16 or prod(known) >= MAX_BYTES:
        raise ValueError("an input or output has no sane shape")
    return Tensor(name, NAMES.get(dtype, str(dtype)), tuple(sizes))


def text(value: memoryview) -> str:
    """At most MAX_NAME characters, for names and messages."""
    return bytes(value[:MAX_NAME]).decode("utf-8", "replace")


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def check_metadata(data: Any) -> None:
    """Raise ValueError if what a model file says of itself, parsed from JSON, is not of the form and size it may have.

    Keys that are missing are left to the reader; see engine.Metadata.
    """
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, but got a {type(data).__name__}")
    size = data.get("input")
    for side in ("height", "width"):
        if isinstance(size, dict) and side in size and not _whole(size[side], 1, MAX_SIDE):
            raise ValueError(f"input {side} must be a whole number from 1 to {MAX_SIDE}, but is {shown(size[side])}")
    if isinstance(size, dict) and not _whole(size.get("batch", 1), 1, MAX_BATCH):
        raise ValueError(f"input batch must be a whole number from 1 to {MAX_BATCH}, but is {shown(size['batch'])}")
    if data.get("boxes") is not None:
        _check_names(data["boxes"], "boxes", MAX_CLASSES)
    heads = data.get("heads", {})
    if not isinstance(heads, dict) or len(heads) > MAX_HEADS:
        raise ValueError(f"heads must be an object of at most {MAX_HEADS} class lists, but is {shown(heads)}")
    for head, names in heads.items():
        if not 0 < len(head) <= MAX_NAME or not head.isprintable():
            raise ValueError(f"the name of a head must be 1 to {MAX_NAME} characters, but is {shown(head)}")
        _check_names(names, f"head {head}", 256)
    if not isinstance(data.get("config", {}), dict):
        raise ValueError(f"config must be an object, but is {shown(data['config'])}")
    if not _whole(data.get("step", 0), 0, 2**53):
        raise ValueError(f"step must be a whole number, 0 or more, but is {shown(data['step'])}")
    if not isinstance(data.get("data", []), list) or not all(isinstance(name, str) for name in data.get("data", [])):
        raise ValueError(f"data must be a list of names, but is {shown(data['data'])}")


def _check_names(names: Any, where: str, limit: int) -> None:
    if not isinstance(names, list) or len(names) > limit:
        raise ValueError(f"{where} must be a list of at most {limit} class names, but is {shown(names)}")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise ValueError(f"{where}: a class name must be 1 to {MAX_NAME} characters, but one is {shown(name)}")


def _whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
