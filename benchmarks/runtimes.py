"""The same network in several runtimes on the CPU: ONNX Runtime, torch (oneDNN) and OpenVINO, at equal arithmetic.

    python benchmarks/runtimes.py [FILE.onnx] [--images FOLDER_OR_VIDEO] [--others FILE-int8.onnx] [--json FILE]

Each runs in a process of its own, since their threads and allocators disturb each other in one, and they take turns in
rounds, in every round in another order. What is timed is the network with its decoding, from the uint8 tensor to boxes
and class maps; not reading, scaling or drawing. OpenVINO stands there twice: held to float32, as the others compute,
and in bfloat16, which it takes by itself where the CPU can. What is missing here is said, not left out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.graph_profile import frames_for
from benchmarks.machine import Watch, cpu_seconds, markdown, peak_mb, result, row, usable_cores
from benchmarks.peers import Worker, WorkerError
from benchmarks.roofline import Yardsticks
from perception.cli import run
from perception.engine import Engine
from perception.model import BUNDLED_MODEL

OURS = "ONNX Runtime fp32"
EQUAL = (OURS, "torch fp32", "OpenVINO fp32")  # compute in the same numbers
AIM = 1.1  # ONNX Runtime takes at most so many times as long as the best of EQUAL


@dataclass(frozen=True, kw_only=True)
class RuntimesConfig:
    """Options of the comparison."""

    model: Annotated[Path, tyro.conf.Positional] = BUNDLED_MODEL
    """fp32 ONNX file of perception.export; the bundled one if left out."""
    others: tuple[Path, ...] = ()
    """More ONNX files, such as int8 forms of the same model: in ONNX Runtime, and in OpenVINO by its own choice."""
    images: str | None = None
    """Real frames to run on; noise if left out."""
    frames: int = 8
    """Frames of each runtime in a round, up to 8 of them different."""
    rounds: int = 15
    """How often the runtimes take turns."""
    threads: int = 0
    """CPU threads of each; 0 = one for each core. With fewer, every process is bound to as many cores."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.frames) < 1 or self.threads < 0:
            raise ValueError(
                f"--rounds and --frames must be 1 or more and --threads 0 or more, but got {self.rounds}, "
                f"{self.frames}, {self.threads}"
            )


def systems(config: RuntimesConfig) -> dict[str, dict[str, Any]]:
    """Name -> what its worker is told."""
    file = str(config.model.absolute())
    found: dict[str, dict[str, Any]] = {
        OURS: {"kind": "onnxruntime", "file": file},
        "torch fp32": {"kind": "torch", "file": file},
        "OpenVINO fp32": {"kind": "openvino", "file": file, "arithmetic": "f32"},
        "OpenVINO bf16": {"kind": "openvino", "file": file, "arithmetic": "bf16"},
    }
    for path in config.others:
        other = str(path.absolute())
        found[f"ONNX Runtime, {path.name}"] = {"kind": "onnxruntime", "file": other}
        found[f"OpenVINO, {path.name}"] = {"kind": "openvino", "file": other, "arithmetic": ""}
    return found


def started(
    wanted: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Worker], dict[str, dict[str, str]]]:
    """Those that can run here, and of all what they are, or `failed` and why."""
    workers, about = {}, dict[str, dict[str, str]]()
    for i, (name, options) in enumerate(wanted.items()):
        try:
            log = folder / f"{i}.log"
            workers[name] = Worker(Path(sys.executable), {**options, **common}, log, "runtime_worker.py")
            about[name] = {"is": workers[name].about}
        except WorkerError as error:
            about[name] = {"failed": str(error)}
        print(f"{name}: {about[name].get('is') or 'not measured: ' + about[name]['failed']}", flush=True)
    return workers, about


def measure(
    workers: Mapping[str, Worker], config: RuntimesConfig, stick: Yardsticks, watch: Watch
) -> dict[str, list[float]]:
    """Name -> ms a frame of every round, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(-1, config.rounds):
        stick.measure()
        watch.mark()
        shift = number % len(workers)
        names = list(workers)
        for name in names[shift:] + names[:shift]:
            ms = 1e3 * workers[name].ask("frames", config.frames)["seconds"] / config.frames
            if number >= 0:
                found[name].append(ms)
    return found


def faster(rows: Mapping[str, Sequence[float]], name: str) -> tuple[float, float, float]:
    """How many times as fast as ONNX Runtime in fp32, round by round: (median, least, most)."""
    ratios = sorted(ours / theirs for ours, theirs in zip(rows[OURS], rows[name], strict=True))
    return median(ratios), ratios[0], ratios[-1]


def judged(rows: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """ONNX Runtime beside the best that computes in the same numbers; None where none of the others is here."""
    ratios = {name: faster(rows, name)[0] for name in EQUAL if name in rows and name != OURS}
    if not ratios:
        return None
    best = max(ratios, key=ratios.__getitem__)
    return {"beside": best, "times_as_long": round(ratios[best], 3), "aim": AIM, "met": ratios[best] <= AIM}


def table(rows: Mapping[str, Sequence[float]], about: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, for people."""
    lines = []
    for name, ms in rows.items():
        ratio, least, most = faster(rows, name)
        speed = f"{ratio:.2f} ({least:.2f} to {most:.2f})"
        lines.append([name, about[name]["is"], f"{median(ms):.1f}", speed, f"{about[name]['peak_mb']:.0f}"])
    text = markdown(("runtime", "is", "ms a frame", f"times as fast as {OURS}", "peak MB"), lines)
    absent = [f"- {name}: not measured: {facts['failed']}" for name, facts in about.items() if "failed" in facts]
    if found := judged(rows):
        absent.append(
            f"- {OURS} takes {found['times_as_long']:.2f} times as long as {found['beside']}; the aim is at most "
            f"{AIM}: {'met' if found['met'] else 'MISSED'}"
        )
    return "\n".join([text, "", *absent])


def body(config: RuntimesConfig) -> dict[str, Any]:
    """Start the processes, measure in turns, print the table."""
    cores = usable_cores()
    threads = min(config.threads or cores, cores)
    images = frames_for(config.images, Engine(config.model, "cpu").input_hw)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "frames.npy", np.stack(images))
        common = {"frames": str(folder / "frames.npy"), "threads": threads}
        workers, about = started(systems(config), common, folder)
        try:
            if OURS not in workers:
                raise ValueError(f"{OURS}: {about[OURS]['failed']}")
            stick, watch = Yardsticks(threads), Watch()
            begun = sum(cpu_seconds(worker.pid) for worker in workers.values())
            rows = measure(workers, config, stick, watch)
            watch.child_s = sum(cpu_seconds(worker.pid) for worker in workers.values()) - begun
            noise = watch.result(stick.product_ms)
            facts = {n: {**about[n], **({"peak_mb": peak_mb(workers[n].pid)} if n in workers else {})} for n in about}
        finally:
            for worker in workers.values():
                worker.close()
    print(table(rows, facts))
    del stick.product_ms[:1]  # that of the round which does not count
    found = {"matrix product": row("ms", stick.product_ms), **{n: row("ms", ms) for n, ms in rows.items()}}
    asked = {
        "model": config.model.name,
        "images": "/".join(Path(config.images).parts[-3:]) if config.images else "noise",
        "frames": config.frames,
    }
    asked |= {"different_frames": len(images), "threads": threads, "rounds": config.rounds}
    return result("runtimes", asked, found, noise, "matrix product", runtimes=facts, judged=judged(rows))


def main(argv: Sequence[str] | None = None) -> int:
    return run(RuntimesConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
