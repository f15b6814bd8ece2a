"""The same network in several runtimes: ONNX Runtime, torch (oneDNN) and OpenVINO on the CPU, call by call in turn.

    python benchmarks/runtimes.py [FILE.onnx] [--images FOLDER_OR_VIDEO] [--others FILE-int8.onnx]

What is timed is the network with its decoding, from the uint8 tensor to boxes and class maps; not reading, scaling or
drawing. torch and OpenVINO are yardsticks and optional (pip install openvino); what is missing is said, not left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.graph_profile import frames_for
from perception.cli import run
from perception.engine import Engine
from perception.model import BUNDLED_MODEL

Answer = Callable[[np.ndarray], Any]  # (1, h, w, 3) uint8 RGB -> whatever that runtime answers with


@dataclass(frozen=True, kw_only=True)
class RuntimesConfig:
    """Options of the comparison."""

    model: Annotated[Path, tyro.conf.Positional] = BUNDLED_MODEL
    """fp32 ONNX file of perception.export; the bundled one if left out."""
    others: tuple[Path, ...] = ()
    """More ONNX files for ONNX Runtime, such as the fp16 and int8 forms of the same model."""
    images: str | None = None
    """Real frames to run on; noise if left out."""
    rounds: int = 50
    """Timed calls of each runtime."""
    threads: int = 2
    """CPU threads of each runtime."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def torch_answer(path: Path, threads: int) -> Answer:
    """The file's network in torch, in plain eager mode."""
    import torch

    from perception.training.from_onnx import network_from_onnx

    torch.set_num_threads(threads)
    network = network_from_onnx(path).eval()

    def answer(tensor: np.ndarray) -> Any:
        with torch.inference_mode():
            return network.predict(torch.from_numpy(tensor))

    return answer


def openvino_answer(path: Path, threads: int) -> Answer:
    """The file in OpenVINO's CPU plugin, held to float32: by itself it computes in bfloat16 where the CPU can."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda tensor: compiled([tensor])


def runtimes(config: RuntimesConfig) -> tuple[dict[str, Answer], dict[str, str]]:
    """Those that are here, ONNX Runtime first, and why the others are not."""
    here: dict[str, Answer] = {"ONNX Runtime fp32": Engine(config.model, "cpu", config.threads).run}
    absent = {}
    for path in config.others:
        here[f"ONNX Runtime {path.name}"] = Engine(path, "cpu", config.threads).run
    makers: dict[str, Callable[[Path, int], Answer]] = {"torch fp32": torch_answer, "OpenVINO fp32": openvino_answer}
    for name, make in makers.items():
        try:
            here[name] = make(config.model, config.threads)
        except ImportError as error:
            absent[name] = str(error)
    return here, absent


def timed(here: dict[str, Answer], images: Sequence[np.ndarray], rounds: int) -> np.ndarray:
    """(runtimes, rounds) ms of each call, after three rounds to warm up; a call of each, then the next image."""
    times = np.zeros((len(here), rounds))
    for turn in range(-3, rounds):
        tensor = images[turn % len(images)][None]
        for i, answer in enumerate(here.values()):
            start = perf_counter()
            answer(tensor)
            times[i, turn] = 1e3 * (perf_counter() - start)
    return times


def body(config: RuntimesConfig) -> dict[str, Any]:
    """Time and print."""
    if config.rounds < 4:
        raise ValueError(f"--rounds must be 4 or more, but got {config.rounds}")
    here, absent = runtimes(config)
    images = frames_for(config.images, Engine(config.model, "cpu").input_hw)
    times = timed(here, images, config.rounds)
    rows = {}
    print(f"{'runtime':36} p50 ms  p99 ms  times as fast as the first")
    for name, own in zip(here, times, strict=True):
        p50, p99, ratio = np.percentile(own, 50), np.percentile(own, 99), np.median(times[0] / own)
        rows[name] = {"p50_ms": float(p50), "p99_ms": float(p99), "speed": float(ratio)}
        print(f"{name:36} {p50:6.1f} {p99:7.1f} {ratio:7.2f}")
    for name, why in absent.items():
        print(f"{name:36} not present here: {why}")
    return {"model": config.model.name, "threads": config.threads, "rounds": config.rounds, "runtimes": rows, **absent}


if __name__ == "__main__":
    raise SystemExit(run(RuntimesConfig, body))
