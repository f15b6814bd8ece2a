"""What the whole loop costs beside the model alone: frames per second from file to files.

    python benchmarks/live_fps.py [SOURCE] [--model FILE.onnx] [--json FILE]

Four parts take turns in rounds within one process, so that a machine that slows down slows all of them and the ratios
of each round still hold: (model) the engine on tensors that are ready; (records) perception.live without video;
(video) perception.live with it; (one thread) the same stages with video, one after the other. A part is timed with a
monotonic clock over all its frames, from before the first one is read until the files are complete; loading the model
and warming it up are not in it. With --cameras N, (2 cameras) to (N cameras) run as many copies of the source, with
records, a time for each frame of each camera. No round is left out. The table of stages is that of the part with video
in the last round; with overlapping stages on few cores the times of the stages contain the waits for a core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import tyro

from benchmarks.machine import Watch, markdown, result, row
from perception import cli
from perception.demo import demo_source
from perception.engine import Provider
from perception.frames import open_source
from perception.live import LiveConfig, Stop, process
from perception.model import BUNDLED_MODEL, Model, load
from perception.newest import every
from perception.sinks import close_sinks, open_sinks
from perception.stages import Stages, arrived
from perception.tensors import tensor_from_frame
from perception.tracks import Tracker

KEPT = 16  # prepared tensors for the model alone


@dataclass(frozen=True, kw_only=True)
class LiveFpsConfig:
    """Options of benchmarks/live_fps.py."""

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """Video file or image folder; left out: demo footage."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """ONNX file; left out: the bundled model."""
    provider: Provider = "auto"
    """What must run the model."""
    threads: int = 0
    """CPU threads inside one operator of the model; 0 = one for each core."""
    rounds: int = 7
    """How often the parts take turns."""
    frames: int = 100
    """Frames of each part in a round."""
    cameras: int = 1
    """Up to so many copies of the source are run as cameras."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        for name in ("rounds", "frames", "cameras"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, but got {getattr(self, name)}")


def measure(config: LiveFpsConfig) -> dict[str, Any]:
    """Run all rounds, print the table and return every figure."""
    path = config.source or demo_source()[0]
    model = load(config.model, config.provider, threads=config.threads)
    print(model.provider_reason, flush=True)
    with open_source(path) as source:
        tensors = [
            tensor_from_frame(frame.image, model.engine.input_hw)[0][None]
            for frame, _ in zip(source, range(KEPT), strict=False)
        ]
    summaries: dict[str, dict[str, Any]] = {}

    def model_alone() -> float:
        begin = perf_counter()
        for i in range(config.frames):
            model.engine.run(tensors[i % len(tensors)])
        return (perf_counter() - begin) / config.frames

    def loop(video: bool, cameras: int = 1) -> float:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            sources = [opened.enter_context(open_source(path)) for _ in range(cameras)]
            live = LiveConfig(source=(path,) * cameras, out=folder, video=video, max_frames=config.frames)
            begin = perf_counter()
            summary = process(live, model, sources, Stop())
            seconds = perf_counter() - begin
        summaries["video" if video else "records"] = summary
        return seconds / summary["frames"]

    parts: dict[str, Callable[[], float]] = {
        "model": model_alone,
        "records": lambda: loop(False),
        "video": lambda: loop(True),
        "one thread": lambda: one_thread(path, model, config.frames),
    }
    for count in range(2, config.cameras + 1):
        parts[f"{count} cameras"] = lambda count=count: loop(False, count)  # type: ignore[misc]
    ms: dict[str, list[float]] = {name: [] for name in parts}
    watch = Watch()
    for round_ in range(config.rounds):
        watch.mark()
        names = list(parts)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:  # nobody is always first
            ms[name].append(1e3 * parts[name]())
        print(f"round {round_ + 1}: " + ", ".join(f"{name} {ms[name][-1]:.1f} ms" for name in names), flush=True)
    ratios = {name: [a / b for a, b in zip(ms[name], ms["model"], strict=True)] for name in parts if name != "model"}
    figures = {
        "provider": model.provider_reason,
        "ratio_to_model": {name: [round(value, 4) for value in values] for name, values in ratios.items()},
        "median_ratio": {name: round(median(values), 4) for name, values in ratios.items()},
        "stages_ms": summaries["video"]["stages_ms"],
        "frame_age_ms": summaries["video"]["frame_age_ms"],
    }
    noise = watch.result(ms["model"])
    print(table(ms, figures))
    asked = {"model": (config.model or BUNDLED_MODEL).stem, "source": Path(path).name}
    asked |= {name: getattr(config, name) for name in ("frames", "rounds", "cameras", "threads")}
    rows = {name: row("ms", values) for name, values in ms.items()}
    return result("live_fps", asked, rows, noise, "model", **figures)


def one_thread(path: str, model: Model, count: int) -> float:
    """Seconds a frame of the same stages, with records and video, one after the other."""
    names = model.engine.metadata.box_names
    with tempfile.TemporaryDirectory() as folder, open_source(path) as source:
        stages = Stages(
            model, {"": Tracker(box_names=names) if names else Tracker()}, model.score_threshold, lambda _: {}
        )
        sinks = []
        frames = 0
        begin = perf_counter()
        for batch in arrived(every(([frame] for frame in source), False, Stop())):
            (passage,) = stages.infer(stages.prepare(batch))
            if not sinks:
                about = {"model": "", "source": source.name}
                sinks = open_sinks(("records", "video"), Path(folder), **about, fps=source.fps, first=passage.frame)
            for stage in (stages.follow, *map(stages.into, sinks)):
                stage(passage)
            frames += 1
            if frames == count:
                break
        close_sinks(sinks)
        return (perf_counter() - begin) / frames


def table(ms: Mapping[str, Sequence[float]], figures: Mapping[str, Any]) -> str:
    """For people."""
    lines = []
    for name, values in ms.items():
        ratios = figures["ratio_to_model"].get(name, [1.0])
        paired = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append([name, f"{median(values):.1f}", f"{1e3 / median(values):.1f}", paired])
    columns = ("p50", "p90", "p99", "max")
    stages = {**figures["stages_ms"], "frame age": figures["frame_age_ms"]}
    return "\n\n".join(
        [
            markdown(("part", "ms a frame", "fps", "of the model alone: median (least to most)"), lines),
            markdown(("ms", *columns), [[name, *(f"{one[c]:.2f}" for c in columns)] for name, one in stages.items()]),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(LiveFpsConfig, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
