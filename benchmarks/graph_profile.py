"""Where does the time of a model go? ONNX Runtime's profile by operator and by stage, beside what the CPU could do.

    python benchmarks/graph_profile.py [FILE.onnx] [--images FOLDER_OR_VIDEO] [--threads 1]

The roofline is a large float32 matrix product in ONNX Runtime, timed in the same run: "of peak" is the share of its
GFLOP/s that a stage's own products reach. Of each node the lower quartile of its times counts: other work only adds.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import tyro

from benchmarks.roofline import Yardsticks
from perception.cli import run
from perception.engine import Engine
from perception.frames import model_inputs
from perception.model import BUNDLED_MODEL


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Options of the profile."""

    model: Annotated[Path, tyro.conf.Positional] = BUNDLED_MODEL
    """ONNX file of perception.export; the bundled one if left out."""
    images: str | None = None
    """Real frames to run on; noise if left out. It matters: softmax makes denormal numbers of some frames."""
    repeats: int = 30
    """Runs that are timed, after three to warm up."""
    threads: int = 1
    """CPU threads."""
    top: int = 15
    """Rows of the table of single nodes."""
    flush_denormals: bool = False
    """Take numbers below 1e-38 for zero (session.set_denormal_as_zero)."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def frames_for(source: str | None, hw: tuple[int, int]) -> list[np.ndarray]:
    """Up to eight model inputs (h, w, 3) uint8 RGB."""
    if source is None:
        return [np.random.default_rng(0).integers(0, 256, (*hw, 3)).astype(np.uint8)]
    return model_inputs(source, hw, 8)


def peak_gflops(threads: int) -> float:
    """GFLOP/s of a float32 matrix product in ONNX Runtime, the best of ten."""
    stick = Yardsticks(threads)
    for _ in range(10):
        stick.measure()
    return stick.flops_a_second / 1e9


STAGES = (  # what a weight's name holds; the first that fits
    ("detail", "detail."),
    ("tokens", "tokens."),
    ("pyramid", "pyramid."),
    ("boxes", "boxes."),
    ("masks", "masks."),
)


def stage_by_tensor(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> stage of the network: that of the last named weight on the way to it."""
    weights = {tensor.name for tensor in model.graph.initializer} | {
        node.output[0] for node in model.graph.node if node.op_type == "Cast" and "." in node.output[0]
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    stage: dict[str, str] = {}
    for node in model.graph.node:
        own = next((s for name in node.input if name in weights for s, mark in STAGES if mark in name), None)
        if own is None and node.input and constants.issuperset(node.input):
            constants.update(node.output)  # a constant without a telling name belongs to whatever reads it
            continue
        before = [stage[name] for name in node.input if name in stage]
        for name in node.output:
            stage[name] = own or (before[-1] if before else "input")
    return stage


def flops(op: str, shapes: Sequence[Mapping[str, Any]], out: Sequence[Mapping[str, Any]]) -> float:
    """Floating-point operations of a product or convolution, from the shapes that the profile gives; 0 for others."""
    dims = [next(iter(shape.values())) for shape in shapes]
    result = next(iter(out[0].values())) if out else []
    if op in ("MatMul", "FusedMatMul", "Gemm") and len(dims) > 1 and dims[0]:
        inner = dims[0][-1]
        return 2.0 * float(np.prod(result)) * inner
    if op in ("Conv", "FusedConv", "QLinearConv"):
        weight = next((d for d in dims[1:] if len(d) == 4), None)
        return 2.0 * float(np.prod(result)) * float(np.prod(weight[1:])) if weight else 0.0
    return 0.0


def profile(config: ProfileConfig) -> tuple[list[dict[str, Any]], float]:
    """Every node: op, name, stage, ms, gflop; and the median ms of a whole run."""
    hw = Engine(config.model, "cpu").input_hw
    images = frames_for(config.images, hw)
    model = onnx.load(config.model, load_external_data=False)
    stages = stage_by_tensor(model)
    by_node = {node.name: stages[node.output[0]] for node in model.graph.node if node.output[0] in stages}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        options.add_session_config_entry("session.set_denormal_as_zero", str(int(config.flush_denormals)))
        session = onnxruntime.InferenceSession(str(config.model), options, providers=["CPUExecutionProvider"])
        whole = []
        for turn in range(config.repeats + 3):
            start = perf_counter()
            session.run(None, {"image": images[turn % len(images)][None]})
            whole.append(1e3 * (perf_counter() - start))
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = defaultdict(list)
    facts: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name, args = event["name"].removesuffix("_kernel_time"), event["args"]
            times[name].append(event["dur"] / 1e3)
            facts[name] = args
    nodes = []
    for name, taken in times.items():
        args = facts[name]
        stem = name.split("/")[0].removesuffix("_nchwc").removesuffix("_quant")
        stage = by_node.get(stem) or stages.get(stem) or "other"
        gflop = flops(args["op_name"], args.get("input_type_shape", []), args.get("output_type_shape", [])) / 1e9
        ms = float(np.percentile(taken[3:], 25))
        nodes.append({"op": args["op_name"], "name": name, "stage": stage, "ms": ms, "gflop": gflop})
    return nodes, float(np.median(whole[3:]))


def grouped(nodes: Sequence[Mapping[str, Any]], key: str, peak: float) -> list[dict[str, Any]]:
    """Sums by `key`, the greatest first."""
    total = sum(node["ms"] for node in nodes)
    rows = []
    for value in {node[key] for node in nodes}:
        some = [node for node in nodes if node[key] == value]
        ms, gflop = sum(node["ms"] for node in some), sum(node["gflop"] for node in some)
        busy = sum(node["ms"] for node in some if node["gflop"])
        rate = gflop / busy * 1e3 if busy else None
        share = rate / peak if rate else None
        row = {key: value, "nodes": len(some), "ms": ms, "share": ms / total, "gflops": rate, "of_peak": share}
        rows.append(row)
    return sorted(rows, key=lambda row: -row["ms"])


def body(config: ProfileConfig) -> dict[str, Any]:
    """Profile and print."""
    if config.repeats < 1:
        raise ValueError(f"--repeats must be 1 or more, but got {config.repeats}")
    peak = peak_gflops(config.threads)
    nodes, whole = profile(config)
    print(
        f"{config.model.name}: {whole:.1f} ms a run (median), {sum(node['ms'] for node in nodes):.1f} ms in its nodes"
    )
    print(f"roofline: {peak:.0f} GFLOP/s, a 1024 x 1024 float32 product on {config.threads} thread(s)")
    tables = {key: grouped(nodes, key, peak) for key in ("op", "stage")}
    for key, rows in tables.items():
        print(f"\n{key:28} nodes      ms  share  GFLOP/s  of peak")
        for row in rows:
            rate = f"{row['gflops']:8.0f} {row['of_peak']:8.0%}" if row["gflops"] else ""
            print(f"{row[key]:28} {row['nodes']:5} {row['ms']:7.2f} {row['share']:6.1%} {rate}")
    print("\nslowest nodes")
    for node in sorted(nodes, key=lambda node: -node["ms"])[: config.top]:
        print(f"{node['ms']:7.2f} ms  {node['op']:20} {node['stage']:8} {node['name'][:70]}")
    facts = {"model": config.model.name, "threads": config.threads, "median_ms": whole, "peak_gflops": peak}
    return {**facts, "flush_denormals": config.flush_denormals, "images": config.images or "noise", **tables}


if __name__ == "__main__":
    raise SystemExit(run(ProfileConfig, body))
