"""How cost grows: with pixels, with the number of cameras, with objects in the scene, with the length of a video.

    python benchmarks/scaling.py [--parts pixels cameras objects length] [--json FILE]

For each part, cost is measured at several sizes, which take turns in rounds, and a power law cost = a * size ** b is
fitted to every round (least squares in logarithms). The table says the median of b over the rounds, and its range: 1 is
proportional, 0 is no growth. Parts:

- pixels: the engine alone, on exports of the same network with its position embedding fitted to each input size;
- cameras: a time for one frame of each camera in perception.live with records, without video; once with a call of the
  model for each camera, and once with one for all of them, by an export of the same weights with --batch. Both take
  turns in every round, so that their ratio is paired; with 1 camera they are the same, which shows the noise;
- objects: the tracker, and the drawing of its tracks, on boxes that drift over a 1280x720 frame;
- length: the peak resident memory of perception.live with records and video while a clip plays over and over. The
  lengths run from the shortest to the longest in one process, which keeps what it has; so growth is not hidden.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.machine import Watch, markdown, peak_mb, reset_peak, result, row
from benchmarks.soak import Looped
from benchmarks.timing import timed
from perception.cli import run
from perception.demo import demo_source
from perception.engine import Engine
from perception.frames import open_source
from perception.live import LiveConfig, Stop, process
from perception.model import BUNDLED_MODEL, Model, load
from perception.overlay import draw
from perception.structures import Detections, Result
from perception.tensors import tensor_from_frame
from perception.tracks import Tracker

Part = Literal["pixels", "cameras", "objects", "length"]
SCENE_HW = (720, 1280)
SINGLE, BATCHED = "perception.live", "perception.live, one call"
WARM_UP = 5  # frames of a scene before the first that counts: tracks are confirmed by then


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Options of benchmarks/scaling.py."""

    parts: tuple[Part, ...] = ("pixels", "cameras", "objects", "length")
    """What is measured."""
    source: str | None = None
    """Video file; left out: demo footage."""
    model: Path | None = None
    """ONNX file whose weights are used; left out: the bundled model."""
    heights: tuple[int, ...] = (128, 192, 256, 384)
    """Input heights, multiples of 32; the width is 7/4 of it, rounded to 32. Each is an export: half a minute."""
    cameras: tuple[int, ...] = (1, 2, 3)
    """Numbers of cameras."""
    objects: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Numbers of objects."""
    lengths: tuple[int, ...] = (50, 100, 200, 400)
    """Lengths of a video in frames."""
    frames: int = 20
    """Timed frames at every size in a round; of each camera."""
    rounds: int = 3
    """How often the sizes take turns; lengths are run once a round too."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        for name in ("heights", "cameras", "objects", "lengths"):
            sizes = getattr(self, name)
            if len(sizes) < 2 or min(sizes) < 1 or len(set(sizes)) < len(sizes):
                raise ValueError(f"--{name}: expected at least two different sizes over 0, but got {sizes}")
        if min(self.frames, self.rounds) < 1:
            raise ValueError(f"--frames and --rounds must be 1 or more, but got {self.frames} and {self.rounds}")


class Work(NamedTuple):
    """What is measured at several sizes."""

    of: str  # what a size counts
    unit: str  # of a cost
    costs: Mapping[int, Callable[[], float]]  # size -> what measures its cost once


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of cost = a * size ** b, by least squares in logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def width_of(height: int) -> int:
    """7/4 of the height, to the nearest multiple of 32."""
    return max(32, round(height * 7 / 4 / 32) * 32)


def exports(model: Path, inputs: Sequence[tuple[tuple[int, int] | None, int]], folder: Path) -> list[Path]:
    """The same network exported for each input: (height, width), None for its own, and frames in one call."""
    from benchmarks.variants import write  # torch; the other parts do without
    from perception.training.checkpoint import at_size
    from perception.training.from_onnx import network_from_onnx

    trained, files = network_from_onnx(model), []
    with open_source(demo_source()[0]) as source:
        image = next(iter(source)).image
    for hw, batch in inputs:
        hw = hw or trained.config.hw
        path = folder / f"{hw[0]}x{hw[1]}-{batch}.onnx"
        files.append(write(at_size(trained, hw), path, [tensor_from_frame(image, hw)[0]], batch=batch))
        print(f"exported for {batch} x {hw[1]}x{hw[0]}", flush=True)
    return files


def of_pixels(config: ScalingConfig, folder: Path) -> dict[str, Work]:
    """Pixels of the input -> ms of the engine."""
    shapes = [(height, width_of(height)) for height in config.heights]
    files = exports(config.model or BUNDLED_MODEL, [(hw, 1) for hw in shapes], folder)
    engines = {h * w: Engine(path, "cpu") for (h, w), path in zip(shapes, files, strict=True)}
    grey = {size: np.full((1, *engine.input_hw, 3), 114, np.uint8) for size, engine in engines.items()}

    def cost(size: int) -> float:
        engines[size].run(grey[size])
        return median(timed(lambda: engines[size].run(grey[size]))[0] for _ in range(config.frames))

    return {"engine": Work("pixels of input", "ms", {size: partial(cost, size) for size in engines})}


def of_cameras(config: ScalingConfig, path: str, folder: Path) -> dict[str, Work]:
    """Cameras -> ms for a frame of each, with a call of the model for each of them and with one call for all."""
    single = load(config.model, "cpu")
    many = [count for count in config.cameras if count > 1]
    files = exports(config.model or BUNDLED_MODEL, [(None, count) for count in many], folder)
    batched = {1: single} | {count: load(file, "cpu") for count, file in zip(many, files, strict=True)}

    def cost(count: int, model: Model) -> float:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            sources = [opened.enter_context(open_source(path)) for _ in range(count)]
            live = LiveConfig(source=(path,) * count, out=folder, video=False, max_frames=config.frames * count)
            ms, summary = timed(lambda: process(live, model, sources, Stop()))
        return ms * count / summary["frames"]

    rows = {SINGLE: dict.fromkeys(config.cameras, single), BATCHED: {count: batched[count] for count in config.cameras}}
    return {
        name: Work("cameras", "ms", {count: partial(cost, count, model) for count, model in models.items()})
        for name, models in rows.items()
    }


def gains(costs: Mapping[str, Mapping[int, Sequence[float]]]) -> dict[str, list[float]]:
    """Cameras -> how many times as fast one call for all is as one for each, in every round."""
    pairs = {size: zip(costs[SINGLE][size], costs[BATCHED][size], strict=True) for size in costs[SINGLE]}
    return {str(size): [round(single / one, 4) for single, one in pair] for size, pair in pairs.items()}


def gains_table(gains: Mapping[str, Sequence[float]]) -> str:
    """Markdown."""
    lines = [[count, f"{median(r):.3f} ({min(r):.3f} to {max(r):.3f})"] for count, r in gains.items()]
    return markdown(("cameras", "one call for all is faster, times: median (range)"), lines)


def scene(objects: int, number: int) -> Detections:
    """Frame `number` of a scene in which so many boxes drift to the right on a grid."""
    h, w = SCENE_HW
    columns = int(np.ceil(np.sqrt(objects * w / h)))
    rows = -(-objects // columns)
    index = np.arange(objects)
    x = (index % columns) * (w - 60) / columns + 0.5 * number
    y = (index // columns) * (h - 10) / rows
    side = np.full(objects, 0.6 * min((w - 60) / columns, (h - 10) / rows))
    boxes = np.stack([x, y, x + side, y + side], 1).astype(np.float32)
    return Detections(boxes, np.full(objects, 0.8, np.float32), np.zeros(objects, np.int64))


def of_objects(config: ScalingConfig) -> dict[str, Work]:
    """ "tracker" and "overlay": objects -> ms a frame."""
    empty = np.zeros((*SCENE_HW, 3), np.uint8)

    def cost(count: int, drawn: bool) -> float:
        tracker, samples = Tracker(box_names=("car",)), []
        for number in range(WARM_UP + config.frames):
            found = scene(count, number)
            ms, tracks = timed(lambda: tracker.update(found, number / 25, SCENE_HW))  # noqa: B023
            if len(tracks) != count and number >= WARM_UP:
                raise AssertionError(f"expected {count} tracks, but got {len(tracks)}")
            if drawn:
                ms, _ = timed(lambda: draw(empty, Result(found, {}, ("car",), {}), tracks))  # noqa: B023
            samples.append(ms)
        return median(samples[WARM_UP:])

    return {
        name: Work("objects", "ms", {count: partial(cost, count, drawn) for count in config.objects})
        for name, drawn in (("tracker", False), ("overlay", True))
    }


def of_length(config: ScalingConfig, path: str) -> dict[str, Work]:
    """Frames -> most MB while they are processed."""
    model = load(config.model, "cpu")

    def cost(frames: int) -> float:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            source = opened.enter_context(Looped(opened.enter_context(open_source(path))))
            reset_peak()
            process(LiveConfig(out=folder, max_frames=frames), model, [source], Stop())
        return peak_mb()

    costs = {frames: partial(cost, frames) for frames in sorted(config.lengths)}
    return {"peak memory of perception.live": Work("frames", "MB", costs)}


def fitted(costs: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Size -> cost of every round; the exponent's median and range, and the medians that it was fitted to."""
    slopes = sorted(exponent(list(costs), values) for values in zip(*costs.values(), strict=True))
    return {
        "exponent": round(median(slopes), 3),
        "range": [round(slopes[0], 3), round(slopes[-1], 3)],
        "sizes": list(costs),
        "costs": [round(median(values), 4) for values in costs.values()],
    }


def table(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = []
    for name, curve in curves.items():
        grows = f"{curve['exponent']:.2f} ({curve['range'][0]:.2f} to {curve['range'][1]:.2f})"
        ends = f"{curve['sizes'][0]:,} to {curve['sizes'][-1]:,} {curve['of']}"
        costs = f"{curve['costs'][0]:.4g} to {curve['costs'][-1]:.4g} {curve['unit']}"
        lines.append([name, ends, costs, grows])
    return markdown(("cost", "sizes", "smallest to largest", "exponent: median (range)"), lines)


def body(config: ScalingConfig) -> dict[str, Any]:
    """Measure the chosen parts, print the exponents."""
    path = config.source or demo_source()[0]
    work: dict[str, Work] = {}
    costs: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[Part, Callable[[], dict[str, Work]]] = {
            "length": lambda: of_length(config, path),  # first, while the process is small
            "cameras": lambda: of_cameras(config, path, Path(folder)),
            "objects": lambda: of_objects(config),
            "pixels": lambda: of_pixels(config, Path(folder)),
        }
        watch = Watch()
        for part, make in makers.items():
            if part in config.parts:
                made = make()
                work |= made
                costs |= in_turns({name: one.costs for name, one in made.items()}, config.rounds, watch)
        noise = watch.result()
    curves = {name: {"of": one.of, "unit": one.unit, **fitted(costs[name])} for name, one in work.items()}
    figures: dict[str, Any] = {"curves": curves}
    print(table(curves))
    if BATCHED in costs:
        figures["gains"] = gains(costs)
        print(f"\n{gains_table(figures['gains'])}")
    rows = {
        f"{name}, {size} {work[name].of}": row(work[name].unit, values)
        for name, sizes in costs.items()
        for size, values in sizes.items()
    }
    asked = {"source": Path(path).name, "frames": config.frames, "rounds": config.rounds, "parts": list(config.parts)}
    return result("scaling", asked, rows, noise, **figures)


def in_turns(
    work: Mapping[str, Mapping[int, Callable[[], float]]], rounds: int, watch: Watch
) -> dict[str, dict[int, list[float]]]:
    """Name -> size -> its cost in every round. Those of one size follow each other, and none is always first."""
    costs: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name, sizes in work.items()}
    names = list(work)
    for number in range(rounds):
        watch.mark()
        for size in work[names[0]]:
            for name in names if number % 2 == 0 else names[::-1]:
                costs[name][size].append(work[name][size]())
        for name in names:
            found = json.dumps({size: round(values[-1], 3) for size, values in costs[name].items()})
            print(f"{name}, round {number + 1}: {found}", flush=True)
    return costs


def main(argv: Sequence[str] | None = None) -> int:
    return run(ScalingConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
