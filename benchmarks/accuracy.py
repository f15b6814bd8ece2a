"""Ours beside public detectors: COCO AP of vehicles and people on the same driving frames, and what a frame costs.

    python benchmarks/accuracy.py --model FILE.onnx SMALLER.onnx --peer yolox=yolox_nano.onnx --data DATA/kitti

Every system sees the same images, each through its own published preprocessing, and is judged by the same code. Classes
are merged to what all of them know: vehicle = {car, truck, bus, train}, person = {pedestrian, rider}; of COCO's classes
car, truck, bus, train and person. Labels that are only partly one of these (KITTI's Cyclist: rider or bicycle) are
ignore regions. One object that a system names twice within a merged class counts once, by its better score.

Latency is that of the whole call, a decoded frame to boxes in its pixels, on as many threads for each; ours gives its
class maps in that time as well. The systems take turns on the same frames. At the budget of a peer stands the slowest
of ours that takes no longer: other input sizes of a file come from `perception.export FILE.onnx --hw H W`.

The peers were trained on COCO, never on these datasets; whether ours was trained on another part of them, its metadata
says (the column "trained on").
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Protocol

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.coco_peers import PEERS
from benchmarks.machine import Watch, result, row
from benchmarks.roofline import Yardsticks
from benchmarks.timing import timed
from perception.cli import run
from perception.engine import Provider
from perception.evaluation.boxes import BoxEvaluation
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.imagefile import read_image
from perception.labels import BoxLabels
from perception.layout import read_layout
from perception.model import BUNDLED_MODEL, Model, load
from perception.structures import Detections

GROUPS = {  # the merged classes, of our names
    "vehicle": frozenset({"car", "truck", "bus", "train"}),
    "person": frozenset({"pedestrian", "rider"}),
}
IN_USE = 0.3  # score threshold at which latency is measured: at 0.001 suppression has far more to do than in use


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Options of benchmarks/accuracy.py."""

    data: tuple[Path, ...]
    """Datasets in the common layout."""
    peer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """yolox=FILE.onnx or nanodet=FILE.onnx; can be given several times."""
    model: tuple[Path, ...] = ()
    """Our ONNX files; the bundled model if left out."""
    ours: bool = True
    """Evaluate our model, and not only the peers."""
    provider: Provider = "cpu"
    """What computes our model; the peers are computed by ONNX Runtime on the CPU."""
    split: str = "val"
    """Which images: train, val or test."""
    limit: int | None = None
    """Only the first so many images of each dataset: a quick trial, no figure to publish."""
    threads: int = 0
    """CPU threads of each system; 0 = one for each core."""
    rounds: int = 10
    """How often the systems take turns for their latency; 0 = it is not measured."""
    frames: int = 8
    """Frames of each system in a round, the same for all."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


class Detector(Protocol):
    """A system under test."""

    name: str
    trained_on: str
    input_hw: tuple[int, int]
    box_names: tuple[str, ...]  # our names
    score_threshold: float  # boxes below it are left out

    def __call__(self, frame_bgr: np.ndarray) -> Detections:
        """(H, W, 3) uint8 BGR -> detections in frame pixels."""
        ...


class Ours:
    """Our model."""

    def __init__(self, model: Model, name: str) -> None:
        metadata = model.engine.metadata
        if not metadata.box_names:
            raise ValueError(f"{name} has no boxes; name a model with boxes, or give --no-ours")
        self._model, self.name, self.input_hw = model, name, model.engine.input_hw
        self.box_names, self.trained_on = metadata.box_names, ", ".join(metadata.data) or "unknown"

    @property
    def score_threshold(self) -> float:
        return self._model.score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._model.score_threshold = value

    def __call__(self, frame_bgr: np.ndarray) -> Detections:
        return self._model(frame_bgr).detections


def merged(labels: BoxLabels) -> BoxLabels:
    """The labels in terms of GROUPS: a category inside a group, partly of one (ignore region), or left out."""
    sets: dict[str, frozenset[str]] = {}
    for category, members in labels.sets.items():
        inside = [group for group in GROUPS.values() if members and members <= group]
        if inside:
            sets[category] = inside[0]
        elif any(members & group for group in GROUPS.values()):
            sets[category] = frozenset()
    return BoxLabels(sets, labels.exhaustive, labels.classes)


def compare(detectors: Sequence[Detector], folder: Path, split: str, limit: int | None) -> dict[str, Any]:
    """Every detector on every annotated image of a dataset. Raises ValueError if it has no such boxes."""
    labels, samples = read_layout(folder, split)
    samples = [sample for sample in samples if sample.boxes is not None][:limit]
    spec = merged(labels.boxes) if labels.boxes else None
    if spec is None or not any(spec.sets.values()) or not samples:
        raise ValueError(f"{folder}: split {split!r} has no boxes of vehicles or people; name another dataset or split")
    evaluations = [BoxEvaluation(spec, detector.box_names) for detector in detectors]
    for sample in tqdm(samples, labels.name, unit="image", leave=False, disable=not sys.stderr.isatty()):
        image = read_image(sample.image)
        assert sample.boxes is not None
        kept = [i for i, category in enumerate(sample.categories) if spec.sets.get(category)]
        partly = [i for i, category in enumerate(sample.categories) if spec.sets.get(category) == frozenset()]
        ignore = np.concatenate([sample.ignore, sample.boxes[partly]])
        for detector, evaluation in zip(detectors, evaluations, strict=True):
            evaluation.add(detector(image), sample.boxes[kept], [sample.categories[i] for i in kept], ignore)
    systems = {}
    for detector, evaluation in zip(detectors, evaluations, strict=True):
        classes = evaluation.result()["classes"]
        groups = {name: classes.get("|".join(n for n in spec.classes if n in group)) for name, group in GROUPS.items()}
        systems[detector.name] = {
            "input_hw": list(detector.input_hw),
            "trained_on": detector.trained_on,
            **{name: figures for name, figures in groups.items() if figures},
        }
    return {"dataset": labels.name, "split": split, "images": len(samples), "systems": systems}


def table(results: Sequence[dict[str, Any]], ms: Mapping[str, Sequence[float]]) -> str:
    """Markdown, accuracy in percent; `ms`: of a frame, round by round, where it was measured."""
    columns = [(group, figure) for group in GROUPS for figure in ("AP50", "AP")]
    lines = [
        "| frames | system | input | ms a frame | trained on | " + " | ".join(f"{g} {f}" for g, f in columns) + " |",
        "|---|---|---|---:|---|" + "---:|" * len(columns),
    ]
    for one in results:
        for name, system in one["systems"].items():
            figures = [system.get(group, {}).get(figure) for group, figure in columns]
            cells = ["-" if figure is None else f"{100 * figure:.1f}" for figure in figures]
            size = "x".join(str(side) for side in reversed(system["input_hw"]))
            where = f"{one['dataset']} {one['split']} ({one['images']})"
            cost = f"{median(ms[name]):.1f}" if name in ms else "-"
            lines.append(f"| {where} | {name} | {size} | {cost} | {system['trained_on']} | {' | '.join(cells)} |")
    counts = [
        f"{one['dataset']} {one['split']}: "
        + ", ".join(f"{system[group]['instances']} of {group}" for group in GROUPS if group in system)
        for one in results
        for system in list(one["systems"].values())[:1]
    ]
    return "\n".join([*lines, "", "Instances: " + "; ".join(counts) + "."])


def latencies(
    detectors: Sequence[Detector], images: Sequence[np.ndarray], config: AccuracyConfig, stick: Yardsticks, watch: Watch
) -> dict[str, list[float]]:
    """System -> mean ms a frame of every round, after one that does not count; at the threshold IN_USE."""
    found: dict[str, list[float]] = {detector.name: [] for detector in detectors}
    for detector in detectors:
        detector.score_threshold = IN_USE
    for number in range(-1, config.rounds):
        stick.measure()
        watch.mark()
        shift = number % len(detectors)
        for detector in (*detectors[shift:], *detectors[:shift]):
            spent = [timed(partial(detector, images[n % len(images)]))[0] for n in range(config.frames)]
            if number >= 0:
                found[detector.name].append(sum(spent) / len(spent))
    del stick.product_ms[:1]
    return found


def budgets(ms: Mapping[str, Sequence[float]], ours: Sequence[str]) -> list[dict[str, Any]]:
    """For each peer, by paired medians: the slowest of ours that takes no longer than it (None = all take longer)."""
    found = []
    for peer in (name for name in ms if name not in ours):
        shares = {name: median(a / b for a, b in zip(ms[name], ms[peer], strict=True)) for name in ours}
        within = {name: share for name, share in shares.items() if share <= 1}
        best = max(within, key=within.__getitem__) if within else None
        found.append({"peer": peer, "ms": median(ms[peer]), "ours": best, "share": within[best] if best else None})
    return found


def budget_lines(found: Sequence[dict[str, Any]]) -> str:
    """What `budgets` says, for people."""
    return "\n".join(
        f"- at the budget of {one['peer']} ({one['ms']:.1f} ms): "
        + (f"{one['ours']}, at {one['share']:.2f} of it" if one["ours"] else "none of ours is as fast")
        for one in found
    )


def some_images(folder: Path, split: str, count: int) -> list[np.ndarray]:
    """The first images of a split, (H, W, 3) uint8 BGR. Raises ValueError if one can't be read."""
    _, samples = read_layout(folder, split)
    return [read_image(sample.image) for sample in samples[:count]]


def systems(config: AccuracyConfig) -> tuple[list[Detector], list[str]]:
    """All that are compared, and which of them are ours. Raises ValueError if two have the same name."""
    detectors: list[Detector] = []
    for path in (config.model or (BUNDLED_MODEL,)) if config.ours else ():
        detectors.append(Ours(load(path, config.provider, SCORE_THRESHOLD, config.threads), path.stem))
    ours = [detector.name for detector in detectors]
    for entry in config.peer:
        kind, _, name = entry.partition("=")
        if kind not in PEERS or not name:
            raise ValueError(f"--peer must be {' or '.join(f'{kind}=FILE.onnx' for kind in PEERS)}, but got {entry!r}")
        detectors.append(PEERS[kind](Path(name), config.threads, SCORE_THRESHOLD))
    names = [detector.name for detector in detectors]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two files are called {twice[0]!r}; rename one, so that the table can tell them apart")
    return detectors, ours


def body(config: AccuracyConfig) -> dict[str, Any]:
    """Run the comparison and print the table."""
    detectors, ours = systems(config)
    if not detectors or not config.data:
        raise ValueError("nothing to compare; name one or more folders with --data and a system with --model or --peer")
    watch, stick = Watch(), Yardsticks(config.threads)
    results = [compare(detectors, folder, config.split, config.limit) for folder in config.data]
    ms: dict[str, list[float]] = {}
    if config.rounds:
        images = some_images(config.data[0], config.split, config.frames)
        ms = latencies(detectors, images, config, stick, watch)
    print(table(results, ms))
    within = budgets(ms, ours)
    print(budget_lines(within))
    rows = {
        f"{found['dataset']} {found['split']}, {name}: {group} {figure}": row(
            "share", [system[group][figure]], "higher"
        )
        for found in results
        for name, system in found["systems"].items()
        for group in GROUPS
        for figure in ("AP50", "AP")
        if system.get(group, {}).get(figure) is not None
    }
    rows |= {f"{name}: frame": row("ms", values) for name, values in ms.items()}
    if ms:
        rows["matrix product"] = row("ms", stick.product_ms)
    asked = {name: getattr(config, name) for name in ("limit", "split", "threads", "rounds", "frames", "provider")}
    asked |= {"score_threshold": SCORE_THRESHOLD, "score_threshold_of_latency": IN_USE}
    return result("accuracy", asked, rows, watch.result(stick.product_ms), datasets=results, budgets=within)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(AccuracyConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
