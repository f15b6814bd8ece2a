"""How long one frame takes, stage by stage, and what a load of frames does: any number of ONNX files side by side.

    python benchmarks/latency.py [FILE.onnx ...] [--threads 1 2] [--provider cpu cuda] [--json FILE]

Every combination of file, provider and number of threads is a candidate; they take turns in rounds within one process,
and so do two yardsticks (a matrix product, a memory copy), so that a machine that slows down slows all. Stages:
preprocess (a decoded frame -> tensor), inference (the engine's call, until its outputs are in our memory), postprocess
(to frame pixels; the boxes are decoded inside the graph), track, overlay. `frame` is the first three, which is what the
Python door does; `all` is all five. Timed with a monotonic clock after a warm-up; no sample is left out. Not in it:
decoding video, waiting for a camera, files (see live_fps.py). The stages run one after the other here; perception.live
overlaps them.

A file with a fixed batch of N gets N frames a call and one with an open batch those of --batch; its times are those of
the call. What export writes has a batch of 1. Scenarios: see benchmarks/timing.py; a query is `frame`.
Precision and input size are the file's: give several files.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.machine import Watch, markdown, peak_mb, resident_mb, result, row
from benchmarks.roofline import Work, Yardsticks
from benchmarks.timing import MULTI, multi_stream, offline, server, single_stream, summary, timed
from perception.cli import run
from perception.demo import demo_source
from perception.engine import Engine, Provider
from perception.frames import open_source
from perception.model import BUNDLED_MODEL, Model
from perception.overlay import draw
from perception.structures import Result
from perception.tracks import Tracker

STAGES = ("preprocess", "inference", "postprocess", "track", "overlay")
ENOUGH = 300  # runs from which on a p99 means something
Scenario = Literal["single", "multi", "offline", "server"]


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """Options of benchmarks/latency.py."""

    models: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE.onnx")] = ()
    """Files that perception.export wrote; left out: the bundled model."""
    source: str | None = None
    """Video or images whose frames are used; left out: demo footage."""
    provider: tuple[Provider, ...] = ("auto",)
    """What must run the models."""
    threads: tuple[int, ...] = (0,)
    """CPU threads inside one operator; 0 = one for each core."""
    batch: tuple[int, ...] = (1,)
    """Frames a call, for files that leave it open."""
    runs: int = 300
    """Timed runs of each candidate."""
    seconds: float = 60.0
    """Longest time for the runs of one candidate; it then has fewer, and the table says so."""
    rounds: int = 5
    """How often the candidates take turns."""
    warmup: int = 10
    """Runs before the first that counts."""
    frames: int = 32
    """Different frames, taken evenly from the first 10 times as many of the source."""
    scenarios: tuple[Scenario, ...] = ("single", "multi", "offline", "server")
    """MLPerf's; none: --scenarios without a value."""
    queries: int = 100
    """Of each scenario; MultiStream has a tenth of it, since its queries are 8 frames."""
    rate: float = 0.0
    """Frames a second that arrive in Server; 0 = 0.7 of what Offline reached."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        for name in ("runs", "rounds", "warmup", "frames", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, but got {getattr(self, name)}")
        if not self.seconds > 0 or self.rate < 0:
            raise ValueError(f"--seconds must be over 0 and --rate not negative, but got {self.seconds}, {self.rate}")


@dataclass
class Candidate:
    """One file on one provider with so many threads, and the samples that it gave.

    `engine` is anything that perception.model.EngineLike describes, for `batch` frames a call.
    """

    name: str
    engine: Any
    batch: int = 1
    work: Work | None = None  # what one call of the file is, with all frames of its batch
    samples: dict[str, list[float]] = field(default_factory=dict)  # stage -> ms of every run
    rounds: dict[str, list[float]] = field(default_factory=dict)  # stage -> median ms of every round
    scenarios: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = Model(self.engine)
        self._tensor = np.zeros((self.batch, *self.engine.input_hw, 3), np.uint8)  # an open batch is what we say
        names = self.engine.metadata.box_names
        self._tracker = Tracker(box_names=names) if names else Tracker()
        self._count = 0

    def answer(self, frames: Sequence[np.ndarray]) -> list[Result]:
        """What `frame` is: (H, W, 3) uint8 BGR frames, a batch of them at most -> their results."""
        letterboxes = [self.model.prepare(frame, self._tensor, i) for i, frame in enumerate(frames)]
        outputs = self.model.infer(self._tensor)
        return [self.model.result(outputs, letterbox, i) for i, letterbox in enumerate(letterboxes)]

    def once(self, frames: Sequence[np.ndarray], fps: float) -> dict[str, float]:
        """ms of every stage on a batch of frames."""
        batch = [frames[(self._count + i) % len(frames)] for i in range(self.batch)]
        spent: dict[str, float] = {}
        spent["preprocess"], letterboxes = timed(
            lambda: [self.model.prepare(frame, self._tensor, i) for i, frame in enumerate(batch)]
        )
        spent["inference"], outputs = timed(lambda: self.engine.run(self._tensor))
        spent["postprocess"], results = timed(
            lambda: [self.model.result(outputs, box, i) for i, box in enumerate(letterboxes)]
        )
        at = [(self._count + i) / fps for i in range(self.batch)]
        self._count += self.batch
        spent["track"], tracks = timed(
            lambda: [
                self._tracker.update(result.detections, moment, frame.shape[:2], frame)
                for result, moment, frame in zip(results, at, batch, strict=True)
            ]
        )
        spent["overlay"], _ = timed(
            lambda: [draw(frame, result, mine) for frame, result, mine in zip(batch, results, tracks, strict=True)]
        )
        spent["frame"] = spent["preprocess"] + spent["inference"] + spent["postprocess"]
        spent["all"] = spent["frame"] + spent["track"] + spent["overlay"]
        return spent

    def round(self, frames: Sequence[np.ndarray], fps: float, runs: int, seconds: float) -> None:
        """Take turns: so many runs, or so long; at least one."""
        begin, found = perf_counter(), list[dict[str, float]]()
        while len(found) < runs and (not found or perf_counter() - begin < seconds):
            found.append(self.once(frames, fps))
        for stage in found[0]:
            mine = [spent[stage] for spent in found]
            self.samples.setdefault(stage, []).extend(mine)
            self.rounds.setdefault(stage, []).append(median(mine))

    def of_roof(self, stick: Yardsticks) -> dict[str, float]:
        """How near the median call is to the roofline; `work` and a call are both those of the whole batch."""
        assert self.work is not None
        return stick.fraction(self.work, summary(self.samples["inference"])["p50"])

    def query(self, frames: Sequence[np.ndarray]) -> Callable[[Sequence[int]], object]:
        """What the scenarios ask: frames by number -> results, in as few calls as the batch allows."""

        def ask(indices: Sequence[int]) -> object:
            chosen = [frames[i % len(frames)] for i in indices]
            return [self.answer(chosen[i : i + self.batch]) for i in range(0, len(chosen), self.batch)]

        return ask


def candidates(config: LatencyConfig) -> tuple[list[Candidate], dict[str, dict[str, Any]]]:
    """Load every combination; what each is, by name."""
    found, about = [], {}
    work: dict[Path, Work] = {}
    for path, provider, threads in product(config.models or (BUNDLED_MODEL,), config.provider, config.threads):
        engine = Engine(path, provider, threads)
        if path not in work:
            work[path] = Work.of(path)
        for batch in (engine.batch,) if engine.batch else config.batch:
            parts = [path.stem, engine.provider]
            parts += [f"{threads or 'all'} threads"] * (engine.provider in ("cpu", "openvino"))
            parts += [f"batch {batch}"] * (batch > 1)
            name = ", ".join(parts)
            if name in about:
                raise ValueError(f"two candidates are both {name!r}; name each file and provider once")
            about[name] = {
                "file": path.name,
                "provider": engine.provider_reason,
                "threads": threads,
                "batch": batch,
                "input_hw": list(engine.input_hw),
                "heads": ["boxes"] * bool(engine.metadata.box_names) + list(engine.metadata.heads),
                "gflops": round(work[path].flops / 1e9, 3),
                "parameters": work[path].parameters,
                "uncounted_operators": work[path].uncounted,
                "file_mb": round(path.stat().st_size / 1e6, 2),
                **memory(path, provider, threads, batch),
            }
            found.append(Candidate(name, engine, batch, work[path]))
    return found, about


def memory(path: Path, provider: Provider, threads: int, batch: int) -> dict[str, float]:
    """MB of a fresh process: before the file is loaded, and at most while it runs."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (path, provider, threads, batch))


def _memory(path: Path, provider: Provider, threads: int, batch: int) -> dict[str, float]:
    before = resident_mb()
    engine = Engine(path, provider, threads)
    for _ in range(5):
        engine.run(np.zeros((batch, *engine.input_hw, 3), np.uint8))
    return {"before_mb": before, "peak_mb": peak_mb()}


def measure(
    found: Sequence[Candidate],
    frames: Sequence[np.ndarray],
    fps: float,
    config: LatencyConfig,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Warm up, then rounds, each begun by `between`; nobody is always first."""
    for candidate in found:
        for _ in range(config.warmup):
            candidate.once(frames, fps)
    runs = -(-config.runs // config.rounds)
    for number in range(config.rounds):
        between()
        shift = number % len(found)
        for candidate in (*found[shift:], *found[:shift]):
            candidate.round(frames, fps, runs, config.seconds / config.rounds)


def scenarios(candidate: Candidate, frames: Sequence[np.ndarray], config: LatencyConfig) -> dict[str, dict[str, Any]]:
    """The chosen ones, one after the other."""
    query, found = candidate.query(frames), dict[str, dict[str, Any]]()
    if "single" in config.scenarios:
        found["single"] = single_stream(query, config.queries, config.seconds)
    if "multi" in config.scenarios:
        found["multi"] = multi_stream(query, max(1, config.queries // 10), config.seconds)
    if "offline" in config.scenarios or ("server" in config.scenarios and not config.rate):
        found["offline"] = offline(query, config.queries)
    if "server" in config.scenarios:
        rate = config.rate or round(0.7 * found["offline"]["fps"], 2)
        found["server"] = server(query, rate, config.queries)
    return found


def kept_frames(config: LatencyConfig) -> tuple[list[np.ndarray], float, str]:
    """Frames (H, W, 3) uint8 BGR evenly from the beginning of the source, its frame rate, its name."""
    with open_source(config.source or demo_source()[0]) as source:
        wanted = 10 * config.frames
        step = max(1, min(source.frame_count or config.frames, wanted) // config.frames)
        frames = []
        for number, frame in enumerate(source):
            if number % step == 0:
                frames.append(frame.image)
            if len(frames) == config.frames:
                break
        if not frames:
            raise ValueError(f"{source.name}: expected frames to measure with, but there are none")
        return frames, source.fps or 25.0, source.name


def body(config: LatencyConfig) -> dict[str, Any]:
    """Measure, print the tables, return the result."""
    frames, fps, source = kept_frames(config)
    found, about = candidates(config)
    for name, facts in about.items():
        print(f"{name}: {facts['provider']}", flush=True)
    sticks = {threads: Yardsticks(threads) for threads in config.threads}
    watch = Watch()

    def between() -> None:
        watch.mark()
        for stick in sticks.values():
            stick.measure()

    measure(found, frames, fps, config, between)
    for candidate in found:
        candidate.scenarios = scenarios(candidate, frames, config)
    stick = sticks[config.threads[0]]
    noise = watch.result(stick.product_ms)
    for candidate in found:
        facts = about[candidate.name]
        stages = {stage: summary(samples) for stage, samples in candidate.samples.items()}
        facts |= {"ms": stages, "scenarios": candidate.scenarios}
        if candidate.engine.provider == "cpu" and candidate.work:
            facts["roofline"] = candidate.of_roof(sticks[facts["threads"]])
    print(tables(about))
    asked = {name: getattr(config, name) for name in ("runs", "seconds", "rounds", "warmup", "queries", "rate")}
    asked |= {"source": source, "frame_hw": list(frames[0].shape[:2]), "frames": len(frames)}
    rows = {"matrix product": row("ms", stick.product_ms), "memory copy": row("ms", stick.copy_ms)}
    rows |= {f"{each.name}: {stage}": row("ms", ms) for each in found for stage, ms in each.rounds.items()}
    peaks = {
        "gflops_a_second": round(stick.flops_a_second / 1e9, 2),
        "gb_a_second": round(stick.bytes_a_second / 1e9, 2),
    }
    return result("latency", asked, rows, noise, "matrix product", candidates=about, peaks=peaks)


def tables(about: Mapping[str, Any]) -> str:
    """Markdown, for people."""
    lines = []
    for name, facts in about.items():
        n, size = facts["ms"]["inference"]["n"], "x".join(map(str, reversed(facts["input_hw"])))
        short = "" if n >= ENOUGH else f" (fewer than {ENOUGH}: its p99 says little)"
        lines += [
            f"\n{name}: input {size}, {facts['gflops']} GFLOP, {facts['parameters'] / 1e6:.2f} M parameters, "
            f"peak memory {facts['peak_mb']:.0f} MB; {n} runs{short}\n"
        ]
        columns = ("p50", "p90", "p99", "max", "mean", "std")
        lines.append(
            markdown(
                ("ms", *columns),
                [(stage, *(f"{values[c]:.2f}" for c in columns)) for stage, values in facts["ms"].items()],
            )
        )
        if roof := facts.get("roofline"):
            lines.append(
                f"\n{roof['gflops_a_second']} GFLOP/s, {roof['of_roof']:.0%} of the roofline, "
                f"{roof['of_product']:.0%} of a matrix product"
            )
        for scenario, values in facts["scenarios"].items():
            if scenario == "offline":
                lines.append(f"{scenario}: {values['fps']:.1f} frames/s")
            else:
                more = f" at {values['rate']} frames/s, {values['busy']:.0%} busy" if scenario == "server" else ""
                more = f" for {MULTI} frames" if scenario == "multi" else more
                lines.append(f"{scenario}: {values['counts']} {values['ms']:.1f} ms{more}, {values['n']} queries")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run(LatencyConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
