"""Is a smaller network worth it? Accuracy against measured latency: pruned, tokens merged, and simply a smaller input.

    python benchmarks/compression.py --data idd_lite:val camvid:test kitti:val --variants "8 blocks less=RUN" --work DIR

Rows: the model; the same weights at smaller inputs, the cheapest way there is to be faster, which all else has to beat;
the same weights with tokens merged (benchmarks/variants.py); and `--variants`, runs or files of perception.prune and
perception.train. All become ONNX files in `--work`, each checked against torch. Latency: the engine's call on real
frames, candidates in turns in rounds, in a process of its own for each engine. Accuracy, on ONNX Runtime: mIoU of the
scene where a dataset has one, else AP50 of vehicles; the score is the mean over datasets. A row is on the line if no
other is both at least as fast and at least as accurate.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.accuracy import Ours
from benchmarks.accuracy import compare as compare_boxes
from benchmarks.machine import Watch, markdown, result, row
from benchmarks.roofline import Work
from benchmarks.timing import timed
from perception.cli import run
from perception.engine import Engine, Provider
from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.execution.providers import LABELS
from perception.frames import model_inputs
from perception.layout import read_layout
from perception.model import BUNDLED_MODEL, load

CHECKED_ON = 4  # frames that every export is compared with torch on
WARM_UP = 3  # calls


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """Options of benchmarks/compression.py."""

    data: tuple[str, ...]
    """Datasets in the common layout, FOLDER:SPLIT; the frames that are timed are the first one's."""
    model: Path = BUNDLED_MODEL
    """fp32 file of perception.export; the bundled one if left out."""
    variants: tuple[str, ...] = ()
    """Other networks, NAME=RUN or NAME=FILE.onnx."""
    sizes: tuple[str, ...] = ("224x384", "192x320")
    """Smaller inputs for the model, HEIGHTxWIDTH."""
    merge: tuple[str, ...] = ("0.33@6", "0.5@4")
    """Tokens that are merged, SHARE@BLOCK."""
    provider: tuple[Provider, ...] = ("cpu", "openvino")
    """What runs them; one that is not there is named and passed over."""
    threads: int = 2
    """CPU threads."""
    rounds: int = 7
    """How often the candidates take turns."""
    calls: int = 15
    """Timed calls of each in a round; the round's value is their median."""
    frames: int = 8
    """Different frames."""
    limit: int | None = None
    """Only so many images of each dataset: a quick trial, no figure to publish."""
    work: Path | None = None
    """Folder for the exported files, for a look at them; left out: they go away."""
    plot: Path | None = None
    """Folder for compression_PROVIDER.png."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        for name in ("rounds", "calls", "frames", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, but got {getattr(self, name)}")


@dataclass
class Candidate:
    """One network, and what was found about it."""

    name: str
    kind: str  # base, input, merged, variant
    path: Path
    accuracy: dict[str, float] = field(default_factory=dict)  # "camvid test, scene mIoU" -> percent
    rounds: dict[str, list[float]] = field(default_factory=dict)  # provider -> ms of every round

    @property
    def score(self) -> float:
        """Mean of the accuracies, percent."""
        return fmean(self.accuracy.values())

    def faster_than(self, other: Candidate, provider: str) -> list[float]:
        """How many times as fast, round by round: the median, the least, the most."""
        ratios = [b / a for a, b in zip(self.rounds[provider], other.rounds[provider], strict=True)]
        return [median(ratios), min(ratios), max(ratios)]


def place_of(entry: str) -> tuple[Path, str]:
    """FOLDER:SPLIT. Raises ValueError for anything else."""
    folder, colon, split = entry.rpartition(":")
    if not colon or split not in ("train", "val", "test"):
        raise ValueError(f"--data: expected FOLDER:SPLIT with train, val or test, but got {entry!r}")
    return Path(folder), split


def candidates(config: CompressionConfig, folder: Path) -> list[Candidate]:
    """Every network as a file in `folder`, the model first. Raises ValueError for a name or a form that can't be."""
    from benchmarks.variants import merge_tokens, write  # torch
    from perception.training.checkpoint import at_size, load_network
    from perception.training.from_onnx import network_from_onnx

    source, split = place_of(config.data[0])
    frames = str(source / "images" / split)
    found = [Candidate(config.model.stem, "base", config.model)]

    def add(name: str, kind: str, path: Path | None, make: Callable[[], Any]) -> None:
        if name in [one.name for one in found]:
            raise ValueError(f"two candidates are both {name!r}; give each a name of its own")
        if path is None:
            network = make()
            images = model_inputs(frames, network.config.hw, CHECKED_ON)
            path = write(network.eval(), folder / f"{len(found):02d}.onnx", images)
        found.append(Candidate(name, kind, path))
        print(f"{name}: {path.name}, {path.stat().st_size / 1e6:.1f} MB", flush=True)

    def sized(hw: tuple[int, int]) -> Any:
        return at_size(network_from_onnx(config.model), hw)

    def of_run(run: Path) -> Any:
        return load_network(run)[0]

    for size in config.sizes:
        hw = numbers(size, "x", int, "--sizes", "HEIGHTxWIDTH")
        add(f"input {size}", "input", None, partial(sized, hw))
    for entry in config.merge:
        share, block = numbers(entry, "@", float, "--merge", "SHARE@BLOCK")

        def merged(share: float = share, block: float = block) -> Any:
            network = network_from_onnx(config.model).eval()
            merge_tokens(network, share, int(block))
            return network

        add(f"{share:.0%} of tokens merged before block {block:g}", "merged", None, merged)
    for entry in config.variants:
        name, equals, where = entry.partition("=")
        if not equals or not name:
            raise ValueError(f"--variants: expected NAME=RUN or NAME=FILE.onnx, but got {entry!r}")
        path = Path(where)
        of_file = path.suffix == ".onnx"
        add(name, "variant", path if of_file else None, partial(of_run, path))
    return found


def numbers(text: str, between: str, kind: Callable[[str], Any], option: str, form: str) -> tuple[Any, Any]:
    """Two numbers of an option. Raises ValueError that says the form."""
    try:
        one, two = (kind(part) for part in text.split(between))
    except ValueError:
        raise ValueError(f"{option}: expected {form}, but got {text!r}") from None
    return one, two


def accuracy(path: Path, data: Sequence[str], limit: int | None) -> dict[str, float]:
    """{"NAME SPLIT, figure": percent} of a file on ONNX Runtime."""
    found = {}
    for folder, split in map(place_of, data):
        labels, _ = read_layout(folder, split)
        model = load(path, "cpu", SCORE_THRESHOLD)
        if "scene" in labels.masks:
            name = f"{labels.name} {split}, scene mIoU"
            value = evaluate(model, folder, Selection(split=split, limit=limit))["masks"]["scene"]["mIoU"]
        else:
            name = f"{labels.name} {split}, vehicle AP50"
            system = compare_boxes([Ours(model, path.stem)], folder, split, limit)["systems"][path.stem]
            value = system.get("vehicle", {}).get("AP50")
        if value is None:
            raise ValueError(f"{folder}: split {split!r} has no {name.split(', ')[1]}; name another dataset or split")
        found[name] = round(100 * value, 2)
    return found


def latency(
    paths: Mapping[str, Path], provider: Provider, threads: int, rounds: int, calls: int, frames: str, count: int
) -> dict[str, list[float]]:
    """{name: median ms of every round}; candidates take turns, and nobody is always first."""
    engines = {name: Engine(path, provider, threads) for name, path in paths.items()}
    sizes = {engine.input_hw for engine in engines.values()}
    inputs = {hw: [image[None] for image in model_inputs(frames, hw, count)] for hw in sizes}
    for engine in engines.values():
        for n in range(WARM_UP):
            engine.run(inputs[engine.input_hw][n % len(inputs[engine.input_hw])])
    found: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds):
        names = list(engines)
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            found[name].append(median(call_ms(engines[name], inputs, n) for n in range(calls)))
    return found


def call_ms(engine: Engine, inputs: Mapping[tuple[int, int], Sequence[np.ndarray]], n: int) -> float:
    """ms of the n-th call of a round, until its outputs are in our memory."""
    mine = inputs[engine.input_hw]
    return timed(lambda: engine.run(mine[n % len(mine)]))[0]


def measure(config: CompressionConfig, found: Sequence[Candidate]) -> dict[str, str]:
    """Time all candidates, each engine in a process of its own; {provider: why it is not here}."""
    source, split = place_of(config.data[0])
    paths = {one.name: one.path for one in found}
    asked = (config.threads, config.rounds, config.calls, str(source / "images" / split), config.frames)
    absent: dict[str, str] = {}
    for provider in config.provider:
        try:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                times = pool.apply(latency, (paths, provider, *asked))
        except ValueError as error:  # ProviderError
            absent[provider] = str(error)
            print(f"{provider} is not present here: {error}", flush=True)
            continue
        for one in found:
            one.rounds[provider] = times[one.name]
    return absent


def verdict(one: Candidate, found: Sequence[Candidate], provider: str) -> str:
    """Whether a row is on the line of `plots.front_of`, and else the row that beats it by most, in a sentence."""
    better = [
        other
        for other in found
        if other is not one and other.faster_than(one, provider)[0] >= 1 and other.score >= one.score
    ]
    if not better:
        return "on the line: no row is both as fast and as accurate"
    best = max(better, key=lambda other: other.score)
    times = best.faster_than(one, provider)[0]
    return f"not on the line: {best.name} is {times:.2f} times as fast and {best.score - one.score:.2f} points better"


def table(found: Sequence[Candidate], about: Mapping[str, Any], providers: Sequence[str]) -> str:
    """Markdown, and the sentences."""
    figures = list(found[0].accuracy)
    header = ["network", "input", "M parameters", "GFLOP", *figures, "score"]
    header += [text for p in providers for text in (f"{LABELS[p]} ms", "times as fast (range)")]
    lines, sentences = [], []
    for one in found:
        facts = about[one.name]
        cells = [one.name, "x".join(map(str, facts["input_hw"])), f"{facts['parameters'] / 1e6:.2f}"]
        cells += [f"{facts['gflops']:.2f}", *(f"{one.accuracy[name]:.1f}" for name in figures), f"{one.score:.2f}"]
        for provider in providers:
            times, least, most = facts["faster"][provider]
            cells += [f"{median(one.rounds[provider]):.1f}", f"{times:.2f} ({least:.2f} to {most:.2f})"]
            sentences.append(f"- {one.name}, {LABELS[provider]}: {facts['verdict'][provider]}.")
        lines.append(cells)
    return f"{markdown(header, lines)}\n\n" + "\n".join(sentences)


def body(config: CompressionConfig) -> dict[str, Any]:
    """Export, evaluate, time, compare."""
    if not config.data:
        raise ValueError("--data: name at least one dataset as FOLDER:SPLIT")
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = candidates(config, folder)
        for one in found:
            one.accuracy = accuracy(one.path, config.data, config.limit)
            print(f"{one.name}: {one.accuracy}", flush=True)
        watch = Watch()
        absent = measure(config, found)
        noise = watch.result(next(iter(found[0].rounds.values()), ()))
        about = {one.name: facts(one, found) for one in found}
    providers = list(found[0].rounds)
    print(table(found, about, providers))
    for provider in providers if config.plot else ():
        assert config.plot is not None
        config.plot.mkdir(parents=True, exist_ok=True)
        points = {one.name: (median(one.rounds[provider]), one.score) for one in found}
        axes = (f"ms a frame, {LABELS[provider]}", "mean of the accuracies, percent")
        title = "Accuracy against latency; the line joins what none beats in both"
        plots.pareto(config.plot / f"compression_{provider}.png", title, points, axes, found[0].name)
    rows = {f"{one.name}: {p}": row("ms", ms) for one in found for p, ms in one.rounds.items()}
    rows |= {
        f"{one.name}: {name}": row("percent", [value], "higher")
        for one in found
        for name, value in one.accuracy.items()
    }
    asked = {name: getattr(config, name) for name in ("threads", "rounds", "calls", "frames", "limit")}
    return result("compression", asked, rows, noise, None, candidates=about, absent=absent)


def facts(one: Candidate, found: Sequence[Candidate]) -> dict[str, Any]:
    """What a row is, and how it stands beside the others."""
    work = Work.of(one.path)
    return {
        "kind": one.kind,
        "input_hw": list(Engine(one.path, "cpu", 1).input_hw),
        "parameters": work.parameters,
        "gflops": round(work.flops / 1e9, 3),
        "file_mb": round(one.path.stat().st_size / 1e6, 2),
        "accuracy": one.accuracy,
        "score": round(one.score, 3),
        "faster": {p: [round(r, 4) for r in one.faster_than(found[0], p)] for p in one.rounds},
        "verdict": {p: verdict(one, found, p) for p in one.rounds},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(CompressionConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
