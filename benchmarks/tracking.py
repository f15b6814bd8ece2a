"""How well are objects followed? Our tracker and ByteTrack of a maintained library, on the same detections.

    python benchmarks/tracking.py --json benchmarks/results/tracking.json
    python benchmarks/tracking.py --cost --json benchmarks/results/tracking_cost.json

Synthetic drives with exact identities (data/synthetic) in scenarios from easy to a camera that swings. Detections are
made from the truth by a seeded model of a detector: misses (more where something hides the object), jitter, false
boxes, mistaken classes and noisy scores. Judged by TrackEval (HOTA, IDF1, MOTA; Luiten et al. 2021, arXiv:2009.07736),
whatever the class, over all drives of a scenario; a round of the result is one drive. Only what a tracker says of
objects seen in the frame counts: neither is asked for boxes that it guesses.

--cost times our tracker instead, with pictures and without, frame by frame in turns: the difference is what it costs to
take the camera's turning out. Making the pictures is not in it. It needs nothing that is not installed anyway; the
comparison does: pip install --no-deps trackeval trackers supervision (see pyproject.toml).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from benchmarks.machine import Watch, markdown, result, row
from benchmarks.timing import summary, timed
from data.synthetic import Drive, SyntheticFrame
from perception.cli import run
from perception.labels import BOX_CLASSES
from perception.structures import Detections
from perception.tracks import Tracker, TrackerConfig, iou

SCENARIOS: dict[str, dict[str, Any]] = {  # options of Drive
    "easy": {"fps": 25.0, "density": 0.5},
    "dense": {"fps": 25.0, "density": 2.0},
    "occluded": {"fps": 25.0, "density": 1.5},  # and the detector is worse at what is hidden
    "rough boxes": {"fps": 25.0, "density": 1.0},  # edges twice as noisy
    "10 frames per second": {"fps": 10.0, "density": 1.0},
    "ego-motion: yaw": {"fps": 25.0, "density": 1.0, "yaw": 7.0},
    "ego-motion: pitch": {"fps": 25.0, "density": 1.0, "pitch": 2.5},
    "ego-motion: both, 10 frames per second": {"fps": 10.0, "density": 1.0, "yaw": 5.0, "pitch": 1.5},
}
DETECTOR: dict[str, dict[str, float]] = {"occluded": {"blind": 0.9}, "rough boxes": {"jitter": 0.09}}
SECONDS, HW, SMALLEST_PX = 6.0, (360, 640), 8.0
SIZES = ((360, 640), (720, 1280), (1080, 1920))  # of frames whose cost is timed
FIGURES = ("HOTA", "IDF1", "MOTA")  # percent; the rows of the result
GROUPS = [[BOX_CLASSES.index(name) for name in names] for names in TrackerConfig().confusable]


class Truth(Protocol):
    """What a frame must say to be judged by."""

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64."""
        ...

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) xyxy."""
        ...


Follow = Callable[[list["Seen"], float], list[tuple[np.ndarray, np.ndarray]]]  # -> (ids, boxes) a frame


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Options of benchmarks/tracking.py."""

    seeds: tuple[int, ...] = (31, 32, 33, 34)
    """One drive a seed in every scenario. What is tuned is tuned on others."""
    seconds: float = SECONDS
    """Length of a drive."""
    cost: bool = False
    """Time what camera-motion compensation costs, on the drive of the first seed, instead of comparing trackers."""
    rounds: int = 5
    """With --cost: how often the drive is followed at each frame size."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


@dataclass(frozen=True)
class Seen:
    """One frame: what is there, and what the imagined detector made of it."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    timestamp_s: float
    ids: np.ndarray  # (N,) int64 truth
    boxes: np.ndarray  # (N, 4) truth, xyxy
    classes: np.ndarray  # (N,) int64 truth
    detections: Detections


def detect(frame: SyntheticFrame, rng: np.random.Generator, blind: float = 0.4, jitter: float = 0.04) -> Seen:
    """The frame with detections made from its truth.

    `blind` is how much hiding an object lowers its chance, `jitter` the standard deviation of an edge in box sizes.
    """
    large = (frame.boxes[:, 2:] - frame.boxes[:, :2]).min(1, initial=np.inf) >= SMALLEST_PX
    boxes, classes, hidden = frame.boxes[large].astype(np.float64), frame.classes[large], 1 - frame.visible[large]
    n = len(boxes)
    found = rng.random(n) > 0.08 + blind * hidden
    size = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1, keepdims=True))
    noisy = boxes + jitter * size * rng.normal(size=(n, 4))
    scores = (0.75 - 0.4 * hidden + 0.15 * rng.normal(size=n)).clip(0.05, 0.99)
    said = classes.copy()
    for i in np.flatnonzero(rng.random(n) < 0.05):
        said[i] = rng.choice(next((group for group in GROUPS if classes[i] in group), [classes[i]]))
    ghosts = rng.poisson(0.6)
    corner = rng.uniform(0, 1, (ghosts, 2)) * [HW[1], HW[0]]
    extent = np.exp(rng.uniform(2.3, 4.5, (ghosts, 2)))
    everything = np.concatenate([noisy[found], np.concatenate([corner, corner + extent], 1)])
    everything = everything.clip(0, [HW[1], HW[0], HW[1], HW[0]])
    scores = np.concatenate([scores[found], rng.uniform(0.1, 0.65, ghosts)])
    said = np.concatenate([said[found], rng.integers(0, len(BOX_CLASSES), ghosts)])
    real = ((everything[:, 2:] - everything[:, :2]) > 1).all(1)
    detections = Detections(everything[real].astype(np.float32), scores[real].astype(np.float32), said[real])
    return Seen(frame.image, frame.timestamp_s, frame.track_ids[large], frame.boxes[large], classes, detections)


def drive_of(name: str, seed: int, seconds: float) -> list[Seen]:
    """One drive of a scenario."""
    options = SCENARIOS[name]
    drive = Drive(seed, HW, frames=max(round(seconds * options["fps"]), 2), condition="day", **options)
    rng = np.random.default_rng(seed)
    return [detect(frame, rng, **DETECTOR.get(name, {})) for frame in drive]


def ours(with_image: bool) -> Follow:
    def follow(frames: list[Seen], fps: float) -> list[tuple[np.ndarray, np.ndarray]]:
        tracker, out = Tracker(), []
        for frame in frames:
            tracks = tracker.update(frame.detections, frame.timestamp_s, HW, frame.image if with_image else None)
            now = [track for track in tracks if track.unseen_s == 0]
            ids, boxes = [track.id for track in now], [track.box for track in now]
            out.append((np.array(ids, np.int64), np.array(boxes, np.float64).reshape(-1, 4)))
        return out

    return follow


def bytetrack(**options: float) -> Follow:
    def follow(frames: list[Seen], fps: float) -> list[tuple[np.ndarray, np.ndarray]]:
        import supervision as sv
        from trackers import ByteTrackTracker

        tracker, out = ByteTrackTracker(frame_rate=fps, **options), []
        for frame in frames:
            found = frame.detections
            answer = tracker.update(sv.Detections(found.boxes.copy(), confidence=found.scores, class_id=found.classes))
            ids = np.array(answer.tracker_id, np.int64)
            out.append((ids[ids >= 0], np.asarray(answer.xyxy, np.float64).reshape(-1, 4)[ids >= 0]))
        return out

    return follow


TRACKERS: dict[str, Follow] = {
    "ours": ours(True),
    "ours, without pictures": ours(False),
    "ByteTrack (trackers), its defaults": bytetrack(),
    "ByteTrack (trackers), our thresholds": bytetrack(track_activation_threshold=0.45, high_conf_det_threshold=0.45),
}


def judge(frames: Sequence[Truth], answers: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """One drive -> what TrackEval's metrics add up over drives, by metric."""
    true_ids, told_ids = _numbered([frame.ids for frame in frames]), _numbered([ids for ids, _ in answers])
    data = {
        "num_timesteps": len(frames),
        "gt_ids": true_ids,
        "tracker_ids": told_ids,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, told_ids)),
        "num_gt_ids": len({i for ids in true_ids for i in ids.tolist()}),
        "num_tracker_ids": len({i for ids in told_ids for i in ids.tolist()}),
        "similarity_scores": [
            iou(frame.boxes.astype(np.float64), boxes) for frame, (_, boxes) in zip(frames, answers, strict=True)
        ],
    }
    return {name: metric.eval_sequence(data) for name, metric in _metrics().items()}


def _numbered(ids: list[np.ndarray]) -> list[np.ndarray]:
    """Ids of every frame as 0, 1, 2 ..."""
    names = np.unique(np.concatenate(ids))
    return [np.searchsorted(names, these) for these in ids]


def _metrics() -> dict[str, Any]:
    from trackeval.metrics import CLEAR, HOTA, Identity

    with contextlib.redirect_stdout(io.StringIO()):  # they print their settings
        return {"HOTA": HOTA(), "CLEAR": CLEAR(), "Identity": Identity()}


def combined(drives: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Drives of one scenario -> HOTA, DetA, AssA, IDF1, MOTA in percent, and switches of identity."""
    total = {
        name: metric.combine_sequences({str(i): drive[name] for i, drive in enumerate(drives)})
        for name, metric in _metrics().items()
    }
    percent = {name: float(np.mean(total["HOTA"][name])) for name in ("HOTA", "DetA", "AssA")}
    percent |= {"IDF1": float(total["Identity"]["IDF1"]), "MOTA": float(total["CLEAR"]["MOTA"])}
    return {name: round(100 * value, 2) for name, value in percent.items()} | {"switches": int(total["CLEAR"]["IDSW"])}


def compare(config: TrackingConfig) -> dict[str, Any]:
    """Render, follow, judge."""
    try:
        from importlib.metadata import version

        needed = {name: version(name) for name in ("trackeval", "trackers", "supervision")}
    except ImportError as error:
        raise ValueError(
            f"{error}; this benchmark needs: pip install --no-deps trackeval trackers supervision"
        ) from None
    watch, rows = Watch(), dict[str, Any]()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, options in SCENARIOS.items():
        drives: dict[str, list[dict[str, Any]]] = {tracker: [] for tracker in TRACKERS}
        for seed in config.seeds:
            watch.mark()
            frames = drive_of(name, seed, config.seconds)
            for tracker, follow in TRACKERS.items():
                drives[tracker].append(judge(frames, follow(frames, options["fps"])))
        results[name] = {tracker: combined(found) for tracker, found in drives.items()}
        for tracker, found in drives.items():
            alone = [combined([drive]) for drive in found]
            for figure in FIGURES:
                rows[f"{name}: {tracker}: {figure}"] = row("%", [drive[figure] for drive in alone], "higher")
        print(f"\n{name}\n{table({name: results[name]})}", flush=True)
    settings = {"seeds": list(config.seeds), "seconds": config.seconds, "hw": list(HW), "versions": needed}
    settings |= {"scenarios": SCENARIOS, "detector": DETECTOR}
    ahead = margins(results)
    print(f"\nours less the better ByteTrack, percent points: {ahead}")
    return result("tracking", settings, rows, watch.result(), scenarios=results, margins=ahead)


def margins(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Scenario -> by how many percent points our figures are over the best of the other trackers; under 0: behind."""
    return {
        name: {
            figure: round(of["ours"][figure] - max(of[t][figure] for t in of if not t.startswith("ours")), 2)
            for figure in FIGURES
        }
        for name, of in results.items()
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: a line for each scenario and tracker."""
    lines = [
        [name, tracker, *(f"{value:g}" for value in figures.values())]
        for name, trackers in results.items()
        for tracker, figures in trackers.items()
    ]
    figures = next(iter(next(iter(results.values())).values()))
    return markdown(("scenario", "tracker", *figures), lines)


def cost(config: TrackingConfig) -> dict[str, Any]:
    """Milliseconds a frame of our tracker with pictures and without, and of each pair's difference."""
    frames = drive_of("ego-motion: yaw", config.seeds[0], config.seconds)
    watch, rows, figures = Watch(), dict[str, list[float]](), dict[str, Any]()
    for _ in range(config.rounds):
        watch.mark()
        for hw in SIZES:
            pairs = np.array(_paired(frames, hw))  # (frames, 2) ms
            parts = {"with pictures": pairs[:, 0], "without": pairs[:, 1], "difference": pairs[:, 0] - pairs[:, 1]}
            for part, ms in parts.items():
                name = f"{hw[1]}x{hw[0]}: {part}"
                rows.setdefault(name, []).append(float(ms.mean()))
                figures.setdefault(name, []).extend(ms.tolist())
    noise, found = watch.result(), {name: summary(ms) for name, ms in figures.items()}
    shown = ("p50", "p90", "p99", "max", "mean")
    lines = [[name, *(f"{ms[part]:.2f}" for part in shown)] for name, ms in found.items()]
    print(markdown(("ms a frame", *shown), lines))
    settings = {"seed": config.seeds[0], "seconds": config.seconds, "rounds": config.rounds}
    return result("tracking_cost", settings, {name: row("ms", ms) for name, ms in rows.items()}, noise, ms=found)


def _paired(frames: Sequence[Seen], hw: tuple[int, int]) -> list[tuple[float, float]]:
    """(ms with pictures, ms without) of each frame after the first, all scaled to `hw`; who begins changes."""
    trackers, out = (Tracker().update, Tracker().update), []
    for i, frame in enumerate(frames):
        image = cv2.resize(frame.image, hw[::-1])
        found = frame.detections
        scaled = Detections(found.boxes * np.float32(hw[0] / HW[0]), found.scores, found.classes)
        works = [partial(trackers[which], scaled, frame.timestamp_s, hw, (image, None)[which]) for which in (0, 1)]
        if i % 2:
            out.append((timed(works[0])[0], timed(works[1])[0]))
        else:
            out.append((timed(works[1])[0], timed(works[0])[0])[::-1])
    return out[1:]


def body(config: TrackingConfig) -> dict[str, Any]:
    """Compare trackers, or time ours."""
    if not config.seeds or config.seconds <= 0 or config.rounds < 1:
        raise ValueError(
            "expected at least one seed, a length over 0 s and a round, "
            f"but got {config.seeds}, {config.seconds}, {config.rounds}"
        )
    return cost(config) if config.cost else compare(config)


def main(argv: Sequence[str] | None = None) -> int:
    return run(TrackingConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
