"""Ours beside other systems in one run: same video, same frames, same number of threads, taking turns.

    python benchmarks/peers.py --work runs/peers [--yolox yolox_nano.onnx] [--nanodet nanodet_m_416.onnx] [--json FILE]

Every system runs in a process of its own, with the packages that it needs in an environment under --work, which the
first run fills from the package registries (torch: several GB). Three parts take turns in rounds, in every round in
another order of systems, so that a machine that slows down slows all of them:

- model: the network alone, on an input that is ready;
- frames: decoded frames -> answers in frame pixels, by the system's own call (ours: with tracks);
- loop: the video file -> answers, reading included, by the system's own loop where it has one.

Starting, loading and the first run are not in it. Peak memory is that of the whole process, with what its libraries
take. CPU time is of all threads of the process. Weights are random where none can be had without registries of weights:
right for the speed of a network, but boxes of random weights are none or too many, so a suppression after the network
has less or more to do than in use; `boxes a frame` says how many came out. What a system DOES stands beside its speed:
one that finds only boxes is not the same as one that also tells lanes and follows.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import Watch, cpu_seconds, markdown, peak_mb, result, row, usable_cores
from benchmarks.peer_environment import environment, installed
from benchmarks.peer_list import ENVIRONMENTS, SHARED, SYSTEMS, Peer
from benchmarks.roofline import Yardsticks
from perception.cli import run
from perception.demo import demo_source
from perception.frames import open_source

PARTS = ("model", "frames", "loop")
OURS = ("ours", "ours, OpenVINO")  # the engines that ours is measured on
TARGETS = {"YOLO26n": 1.0, "RF-DETR Nano": 3.0}  # our loop's frames per second over theirs
PATIENCE_S = 600.0  # for one answer


@dataclass(frozen=True, kw_only=True)
class PeersConfig:
    """Options of benchmarks/peers.py."""

    work: Path = Path("runs/peers")
    """Folder for the environments; they are made once."""
    source: str | None = None
    """Video file; left out: demo footage."""
    model: Path | None = None
    """Our ONNX file; left out: the bundled model."""
    yolox: Path | None = None
    """ONNX file of YOLOX-nano; left out: it is not measured."""
    nanodet: Path | None = None
    """ONNX file of NanoDet-m; left out: it is not measured."""
    systems: tuple[str, ...] = tuple(SYSTEMS)
    """Which systems, by name."""
    threads: int = 0
    """CPU threads of each; 0 = one for each core. With fewer, every process is bound to as many cores."""
    frames: int = 20
    """Frames of each part in a round."""
    rounds: int = 5
    """How often the systems take turns."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        if min(self.frames, self.rounds) < 1:
            raise ValueError(f"--frames and --rounds must be 1 or more, but got {self.frames} and {self.rounds}")
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ValueError(f"--systems: expected some of {', '.join(SYSTEMS)}, but got {unknown[0]!r}")


class WorkerError(ValueError):
    """A system that can not be built or run here."""


class Worker:
    """A running peer_worker.py, or another `script` that talks as it does."""

    def __init__(self, python: Path, options: Mapping[str, Any], log: Path, script: str = "peer_worker.py") -> None:
        cores, here = options["threads"], Path(__file__).parent
        # none of them shall install, ask the network or write into the home while it is timed
        quiet = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(log.parent)}
        quiet |= {"HF_HUB_OFFLINE": "1", "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [str(python), "-P", str(here / script), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(cores), "MPLBACKEND": "agg", **quiet},
            preexec_fn=lambda: _bind(cores),
        )
        self.pid = self._process.pid
        self.about = str(self._answer()["about"])

    def ask(self, do: str, count: int) -> dict[str, float]:
        """Do one part on so many frames -> {"seconds", "found", "cpu_seconds"}."""
        before = cpu_seconds(self.pid)
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": do, "count": count}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"its process ended; see {self._log.name}") from None
        answer = self._answer()
        return {**answer, "cpu_seconds": cpu_seconds(self.pid) - before}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_S):
                self.close()
                raise WorkerError(f"no answer in {PATIENCE_S:.0f} s")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended; see {self._log.name}"}
        if "error" in answer:
            self.close()
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def _bind(cores: int) -> None:
    """Let this process have so many cores, where the system knows how."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def options_of(peer: Peer, config: PeersConfig, common: Mapping[str, Any]) -> dict[str, Any]:
    """What the worker is told. Raises WorkerError where a file that it needs was not named."""
    options = {"kind": peer.kind, **peer.options, **common}
    file = config.model if peer.kind == "ours" else getattr(config, peer.option) if peer.option else None
    if peer.option and file is None:
        raise WorkerError(f"not asked for; --{peer.option} names its file")
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"file not found: {file}")
        options["file"] = str(file.absolute())
    return options


def start(config: PeersConfig, common: Mapping[str, Any]) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """Every system that can be had; and of all what they are, or `failed` and why."""
    workers, about = {}, {}
    folder = config.work.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in config.systems:
        peer = SYSTEMS[name]
        facts: dict[str, Any] = {key: getattr(peer, key) for key in ("does", "licence", "weights", "own_loop", "note")}
        about[name] = facts
        try:
            options = options_of(peer, config, common)
            python = environment(folder, peer.environment) if peer.environment else Path(sys.executable)
            workers[name] = Worker(python, options, folder / f"{peer.kind}-{name.replace(' ', '_')}.log")
            facts["input"] = workers[name].about
            if peer.environment:
                facts["versions"] = installed(python, (*SHARED, *ENVIRONMENTS[peer.environment]))
        except ValueError as error:  # a WorkerError, or pip's words
            facts["failed"] = str(error)
        print(f"{name}: {facts.get('failed') or facts['input']}", flush=True)
    if not workers:
        raise ValueError("none of the systems could be started; what each of them says is above")
    return workers, about


def measure(
    workers: dict[str, Worker],
    about: Mapping[str, dict[str, Any]],
    config: PeersConfig,
    stick: Yardsticks,
    watch: Watch,
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """System -> part -> what each round gave. A system that fails on the way is left out, and its reason kept."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {part: [] for part in PARTS} for name in workers}
    for number in range(config.rounds):
        stick.measure()
        watch.mark()
        names = list(workers)
        shift = number % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            try:
                for part in PARTS:
                    found[name][part].append(workers[name].ask(part, config.frames))
            except WorkerError as error:
                about[name]["failed"] = str(error)
                del workers[name], found[name]
                print(f"{name}: {error}", flush=True)
                continue
            times = (f"{part} {1e3 * found[name][part][-1]['seconds'] / config.frames:.1f}" for part in PARTS)
            print(f"round {number + 1}, {name}: {', '.join(times)} ms a frame", flush=True)
    return found


def figures(
    found: Mapping[str, Mapping[str, list[dict[str, float]]]],
    about: dict[str, dict[str, Any]],
    workers: Mapping[str, Worker],
    frames: int,
) -> dict[str, list[float]]:
    """Fill `about` with every system's figures; returns the rows: ms a frame of every part, round by round."""
    rows = {f"{n}: {p}": [1e3 * a["seconds"] / frames for a in found[n][p]] for n in found for p in PARTS}
    for name in found:
        loop = found[name]["loop"]
        about[name] |= {
            "fps": round(1e3 / median(rows[f"{name}: loop"]), 2),
            "cpu_ms_a_frame": round(1e3 * median(a["cpu_seconds"] for a in loop) / frames, 2),
            "peak_mb": peak_mb(workers[name].pid),
            "boxes_a_frame": median(a["found"] for a in found[name]["frames"]),
        }
    return rows


def faster(rows: Mapping[str, Sequence[float]], ours: str, name: str) -> tuple[float, float, float] | None:
    """How many times the frames per second of `name` those of `ours` are, round by round: (median, least, most)."""
    if f"{ours}: loop" not in rows or f"{name}: loop" not in rows:
        return None
    ratios = sorted(b / a for a, b in zip(rows[f"{ours}: loop"], rows[f"{name}: loop"], strict=True))
    return median(ratios), ratios[0], ratios[-1]


def targets(rows: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Our aims: how many times their frames per second ours are, by the median round, on each engine."""
    found = [(ours, name, aim, faster(rows, ours, name)) for name, aim in TARGETS.items() for ours in OURS]
    return [
        {"ours": ours, "than": name, "aim": aim, "is": round(times[0], 3)} for ours, name, aim, times in found if times
    ]


def table(about: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Sequence[float]]) -> str:
    """Markdown, fastest loop first."""
    bases = [name for name in OURS if f"{name}: loop" in rows]
    header = ("system", "does", "weights", "input", "loop: fps", *(f"{name} is faster, paired" for name in bases))
    header += ("frames: ms", "model: ms")
    lines = []
    for name in sorted((n for n in about if "fps" in about[n]), key=lambda n: -about[n]["fps"]):
        facts, times = about[name], [faster(rows, base, name) for base in bases]
        paired = [f"{t[0]:.2f} ({t[1]:.2f} to {t[2]:.2f})" if t else "-" for t in times]
        each = [f"{median(rows[f'{name}: {part}']):.1f}" for part in ("frames", "model")]
        cost = [f"{facts['cpu_ms_a_frame']:.0f}", f"{facts['peak_mb']:.0f}", f"{facts['boxes_a_frame']:g}"]
        what = [name, facts["does"], facts["weights"], facts["input"], f"{facts['fps']:.1f}", *paired]
        lines.append([*what, *each, *cost, facts["licence"]])
    text = markdown((*header, "CPU ms a frame", "peak MB", "boxes a frame", "licence"), lines)
    failed = [f"- {name}: not measured: {facts['failed']}" for name, facts in about.items() if "failed" in facts]
    aims = [
        f"- {aim['ours']}: the aim is {aim['aim']:g} times the frames per second of {aim['than']}; it has "
        f"{aim['is']:.2f} times ({'reached' if aim['is'] >= aim['aim'] else 'MISSED'})"
        for aim in targets(rows)
    ]
    return "\n".join([text, "", *aims, *failed])


def body(config: PeersConfig) -> dict[str, Any]:
    """Make the environments, start the systems, measure in turns, print the table."""
    video = config.source or demo_source()[0]
    cores = usable_cores()
    threads = min(config.threads or cores, cores)
    with tempfile.TemporaryDirectory() as folder:
        with open_source(video) as source:
            decoded = [frame.image for frame, _ in zip(source, range(config.frames), strict=False)]
        if len(decoded) < config.frames:
            raise ValueError(f"{video}: expected at least {config.frames} frames, but it has {len(decoded)}")
        path = Path(folder) / "frames.npy"
        np.save(path, np.stack(decoded))
        common = {"frames": str(path), "video": os.path.abspath(video), "threads": threads, "folder": folder}
        workers, about = start(config, common)
        try:
            stick, watch = Yardsticks(threads), Watch()
            begun = sum(cpu_seconds(worker.pid) for worker in workers.values())
            found = measure(workers, about, config, stick, watch)
            watch.child_s = sum(cpu_seconds(worker.pid) for worker in workers.values()) - begun
            noise = watch.result(stick.product_ms)
            values = figures(found, about, workers, config.frames)
        finally:
            for worker in workers.values():
                worker.close()
    print(table(about, values))
    rows = {"matrix product": row("ms", stick.product_ms), **{name: row("ms", ms) for name, ms in values.items()}}
    asked = {"source": Path(video).name, "frame_hw": list(decoded[0].shape[:2]), "threads": threads}
    asked |= {"frames": config.frames, "rounds": config.rounds}
    return result("peers", asked, rows, noise, "matrix product", systems=about, targets=targets(values))


def main(argv: Sequence[str] | None = None) -> int:
    return run(PeersConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
