"""Would the network's own features help to tell objects apart, and so to follow them? A study beside the product.

    python benchmarks/appearance.py [--clip VIDEO] --json benchmarks/results/appearance.json

The model's graph is copied with feature maps as further outputs (the ViT's last tokens, and the pyramid at strides 16
and 8), and each object of a synthetic drive with exact identities is described by the features in its box. Two
questions. (1) An object in one frame, and 1, 5, 15 frames later it and all others of its class: how often does a
measure rank it over another (area under the ROC curve, over all such pairs), and how often first? Asked of cosine
similarity, of a colour histogram, of the place where our tracker expects it, and of place and features together.
(2) What becomes of HOTA, IDF1 and MOTA (benchmarks/tracking.py) if the tracker adds the similarity to the overlap, and
lets a track that was lost be found again by it, outside of where it is expected? The weights of both are chosen on
--tune-seeds and judged on --seeds.

--clip is a look at real footage: there identities are what the tracker says, so the easy cases are overrepresented.
Needs trackeval, as benchmarks/tracking.py does; ByteTrack's package is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import onnx
import onnxruntime
import tyro
from onnx import shape_inference
from scipy.stats import rankdata

from benchmarks.machine import Watch, markdown, result, row
from benchmarks.tracking import GROUPS, HW, SECONDS, combined, drive_of, judge
from perception.cli import run
from perception.frames import open_source
from perception.labels import BOX_CLASSES
from perception.model import BUNDLED_MODEL, load
from perception.structures import Detections
from perception.tensors import boxes_model_from_frame, tensor_from_frame
from perception.tracks import Tracker, TrackerConfig, iou, predict

GAPS = (1, 5, 15)  # frames
EVERY = 3  # frames from one question to the next
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of cosine similarity beside a distance in sizes
BONUSES, RESCUES = (0.0, 0.1, 0.3), (None, 0.6, 0.8)  # of Follower
MEMORIES_S = (1.0, 2.0)  # a lost track is kept for so long
REACH = 3.0  # sizes from where a lost track is expected to where it may be found again
DEEP = ("ViT tokens", "pyramid")  # what names of descriptions by the network begin with
TINY = 1e-9  # descriptions ride along with the votes, too small to be a class
GROUP = np.arange(len(BOX_CLASSES))
for _members in GROUPS:
    GROUP[_members] = _members[0]
Described = Mapping[str, np.ndarray]  # how -> (N, C) unit vectors


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """Options of benchmarks/appearance.py."""

    seeds: tuple[int, ...] = (71, 72, 73)
    """Drives that are judged."""
    tune_seeds: tuple[int, ...] = (61, 62)
    """Drives on which weights are chosen."""
    scenarios: tuple[str, ...] = ("occluded", "dense")
    """Of benchmarks/tracking.py."""
    seconds: float = SECONDS
    """Length of a drive."""
    model: Annotated[Path, tyro.conf.arg(metavar="FILE.onnx")] = BUNDLED_MODEL
    """An ONNX file of perception.export with the detail path."""
    clip: Path | None = None
    """A video to look at too."""
    clip_frames: int = 150
    """Frames of it."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


class Features:
    """Runs the copy of the graph; describes boxes of a frame."""

    def __init__(self, path: Path) -> None:
        model = shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
        height, width = (model.graph.input[0].type.tensor_type.shape.dim[i].dim_value for i in (1, 2))
        self.hw = height, width
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.value_info
        }
        at16 = [height // 16, width // 16]
        joins = [n for n in model.graph.node if n.op_type == "Concat" and shapes.get(n.output[0], [])[2:] == at16]
        grows = [n for n in model.graph.node if n.op_type == "Resize" and len(shapes.get(n.input[0], [])) == 4]
        if not joins or len(grows) < 2:
            raise ValueError(f"{path}: expected a model with a ViT and a detail path, as perception.export writes it")
        self.tensors = {"ViT tokens": joins[0].input[0], "pyramid, stride 16": grows[0].input[0]}
        self.tensors["pyramid, stride 8"] = grows[1].input[0]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])
            for name in self.tensors.values()
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Described]:
        """(H, W, 3) BGR and lists of (N, 4) frame boxes -> the descriptions of each list."""
        tensor, letterbox = tensor_from_frame(image, self.hw)
        maps = self.session.run(list(self.tensors.values()), {"image": tensor[None]})
        out: list[Described] = []
        for these in boxes:
            inside = boxes_model_from_frame(these, letterbox)
            said: dict[str, np.ndarray] = {}
            for name, found in zip(self.tensors, maps, strict=True):
                field = found[0] - found[0].mean((1, 2), keepdims=True)  # what all of the frame shares says nothing
                stride = self.hw[0] / field.shape[1]
                said[f"{name}, centre"] = _sampled(field, inside, stride, 1)
                said[f"{name}, mean"] = _sampled(field, inside, stride, 5)
            said["colour histogram"] = _colours(image, these)
            out.append(said)
        return out


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9))


def _sampled(field: np.ndarray, boxes: np.ndarray, stride: float, points: int) -> np.ndarray:
    """(C, h, w) and (N, 4) model boxes -> (N, C): the mean of points x points bilinear samples in the inner 80 %."""
    if not len(boxes):
        return np.zeros((0, len(field)), np.float32)
    at = (np.arange(points) + 0.5) / points * 0.8 + 0.1
    x = boxes[:, [0]] + (boxes[:, [2]] - boxes[:, [0]]) * at  # (N, points)
    y = boxes[:, [1]] + (boxes[:, [3]] - boxes[:, [1]]) * at
    x, y = (np.broadcast_to(a, (len(boxes), points, points)) for a in (x[:, None, :], y[:, :, None]))
    u, v = (np.ascontiguousarray((a / stride - 0.5).reshape(len(boxes), -1), np.float32) for a in (x, y))
    planes = [cv2.remap(plane, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in field]
    return _unit(np.stack(planes, 1).mean(2))


def _colours(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, 64) histograms of 4 x 4 x 4 colours in each box, as roots: products are Bhattacharyya coefficients."""
    out = np.zeros((len(boxes), 64), np.float32)
    for i, (left, top, right, bottom) in enumerate(boxes.round().astype(int).clip(0).tolist()):
        crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
        if crop.size:
            out[i] = np.sqrt(cv2.calcHist([crop], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3).ravel() / crop[..., 0].size)
    return _unit(out)


@dataclass(frozen=True)
class Looked:
    """One frame: what is there, what was detected, and the descriptions of both."""

    timestamp_s: float
    ids: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4)
    groups: np.ndarray  # (N,) group of the class: what a tracker may mix up
    expected: Mapping[int, np.ndarray]  # gap -> (N, 4) where the tracker expects each; NaN = it has no such track
    detections: Detections
    image: np.ndarray  # (H, W, 3) uint8 BGR
    described: Described  # of boxes
    detected: Described  # of detections


def look(name: str, seed: int, seconds: float, features: Features) -> list[Looked]:
    """A drive of a scenario, described."""
    frames, tracker, out = drive_of(name, seed, seconds), Tracker(), []
    step = frames[1].timestamp_s - frames[0].timestamp_s
    for frame in frames:
        told = tracker.update(frame.detections, frame.timestamp_s, HW, frame.image)
        described, detected = features(frame.image, [frame.boxes, frame.detections.boxes])
        boxes = frame.boxes.astype(np.float64)
        now = [track for track in told if track.unseen_s == 0]
        overlap = iou(boxes, np.array([track.box for track in now], np.float64).reshape(-1, 4))
        best = overlap.argmax(1) if len(now) else np.zeros(len(boxes), int)
        numbers = [now[j].id if len(now) and overlap[i, j] >= 0.5 else 0 for i, j in enumerate(best)]
        expected = {gap: _expected(tracker, frame.timestamp_s + gap * step, numbers) for gap in GAPS}
        seen = frame.timestamp_s, frame.ids, boxes, GROUP[frame.classes], expected, frame.detections, frame.image
        out.append(Looked(*seen, described, detected))
    return out


def _expected(tracker: Tracker, timestamp_s: float, ids: Sequence[int]) -> np.ndarray:
    """(N, 4) boxes of these tracks at a later time, also outside of the frame; NaN where there is no such track."""
    states = tracker._states  # a study may look inside
    mean, _ = predict(states.mean, states.cov, timestamp_s - tracker._time_s, tracker.config)
    rows = {int(number): i for i, number in enumerate(states.ids) if number > 0}
    out = np.full((len(ids), 4), np.nan)
    for i, number in enumerate(ids):
        if number in rows:
            cx, cy, w, h = mean[rows[number], :, 0]
            out[i] = cx - np.exp(w) / 2, cy - np.exp(h) / 2, cx + np.exp(w) / 2, cy + np.exp(h) / 2
    return out


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) xyxy -> (N, M): of the centres, in sizes of `a`, plus that of the logarithms of the sizes."""
    extent = [np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) for boxes in (a, b)]
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (a, b)]
    apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2) / extent[0][:, None]
    return np.asarray(apart + np.abs(np.log(extent[0])[:, None] - np.log(extent[1])[None]))


def pairs_of(drives: Sequence[Sequence[Looked]], gap: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Measure -> (P,) scores; (P,) bool same object; (P,) number of the question.

    Asked is of objects that a track follows, that are there `gap` frames later, and others of their class beside them.
    """
    found, truth, questions = dict[str, list[np.ndarray]](), list[np.ndarray](), list[np.ndarray]()
    for frames in drives:
        for i in range(0, len(frames) - gap, EVERY):
            a, b = frames[i], frames[i + gap]
            place = -distance(a.expected[gap], b.boxes)
            still = -distance(a.boxes, b.boxes)
            alike = {name: a.described[name] @ b.described[name].T for name in a.described}
            known = np.isfinite(a.expected[gap][:, 0]) & np.isin(a.ids, b.ids)
            for query in np.flatnonzero(known):
                candidates = np.flatnonzero(b.groups == a.groups[query])
                if len(candidates) < 2:
                    continue
                scores = {name: values[query, candidates] for name, values in alike.items()}
                scores |= {
                    "place where seen last": still[query, candidates],
                    "place expected": place[query, candidates],
                }
                for name, values in scores.items():
                    found.setdefault(name, []).append(values)
                questions.append(np.full(len(candidates), len(truth)))
                truth.append(b.ids[candidates] == a.ids[query])
    if not truth:
        raise ValueError("no object has another of its class beside it: expected longer drives or more seeds")
    joined = {name: np.concatenate(values) for name, values in found.items()}
    return joined, np.concatenate(truth), np.concatenate(questions)


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a pair of one object has the higher score; equal scores count half."""
    ranks, n = rankdata(scores), int(same.sum())
    return float((ranks[same].sum() - n * (n + 1) / 2) / (n * (len(same) - n)))


def first(scores: np.ndarray, same: np.ndarray, question: np.ndarray) -> float:
    """Share of the questions in which the right one has the highest score; a tie is wrong."""
    best = np.full(question.max() + 1, -np.inf)
    np.maximum.at(best, question[~same], scores[~same])
    return float((scores[same] > best[question[same]]).mean())


class Follower(Tracker):
    """Our tracker with appearance: `bonus` x cosine is added to overlaps; a cosine of `rescue` finds a lost track."""

    def __init__(self, bonus: float, rescue: float | None, memory_s: float, width: int) -> None:
        super().__init__(TrackerConfig(max_unseen_s=memory_s))
        self.bonus, self.rescue, self.names = bonus, rescue, len(self._group)
        self._group = np.concatenate([self._group, np.full(width, -1)])
        self._states = type(self._states).empty(len(self._group))
        self.description: dict[tuple[float, ...], np.ndarray] = {}

    def follow(self, frame: Looked, description: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, boxes) of what is seen."""
        rows = frame.detections.boxes.astype(np.float64).tolist()
        self.description = dict(zip(map(tuple, rows), description, strict=True))
        seen = [t for t in self.update(frame.detections, frame.timestamp_s, HW, frame.image) if t.unseen_s == 0]
        return np.array([t.id for t in seen], np.int64), np.array([t.box for t in seen], np.float64).reshape(-1, 4)

    def _measured(self, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores, votes = super()._measured(detections)
        for i, box in enumerate(boxes.tolist()):
            votes[i, self.names :] = TINY * scores[i] * self.description[tuple(box)]
        return boxes, scores, votes

    def _similarity(self, states: Any, boxes: np.ndarray, votes: np.ndarray) -> np.ndarray:
        overlap = super()._similarity(states, boxes, votes)
        alike = _unit(states.votes[:, self.names :] / TINY) @ _unit(votes[:, self.names :] / TINY).T
        if self.rescue is not None:
            lost = (self._time_s - states.seen_s > 0.1) & (states.ids > 0)
            expected = np.concatenate([states.mean[:, :2, 0] - np.exp(states.mean[:, 2:, 0]) / 2,
                                       states.mean[:, :2, 0] + np.exp(states.mean[:, 2:, 0]) / 2], 1)  # fmt: skip
            group = self._group[states.votes[:, : self.names].argmax(1)][:, None]
            may = lost[:, None] & (group == self._group[votes[:, : self.names].argmax(1)])
            may &= (distance(expected, boxes) < REACH) & (alike >= self.rescue) & (overlap < self.config.min_iou)
            overlap = np.where(may, self.config.min_iou * (1 + 0.01 * alike), overlap)
        return np.where(overlap > 0, overlap + self.bonus * alike, 0).clip(0)


def followed(drives: Sequence[Sequence[Looked]], how: str, **options: Any) -> dict[str, float]:
    """HOTA and the others of all drives."""
    judged = []
    for frames in drives:
        follower = Follower(width=frames[0].detected[how].shape[1], **options)
        judged.append(judge(frames, [follower.follow(frame, frame.detected[how]) for frame in frames]))
    return combined(judged)


def told_apart(judged: Sequence[Sequence[Looked]], tuned: Sequence[Sequence[Looked]]) -> dict[str, Any]:
    """Question 1 for every gap: AUC and share of firsts by measure, with the weight of features beside the place."""
    out: dict[str, Any] = {}
    for gap in GAPS:
        (before, same_before, _), (now, same, question) = pairs_of(tuned, gap), pairs_of(judged, gap)
        figures, weights = dict[str, dict[str, float]](), dict[str, float]()
        for name in [name for name in now if not name.startswith("place")]:
            place = "place expected"
            weight = max(WEIGHTS, key=lambda w: auc(before[place] + w * before[name], same_before))
            now[f"{place} + {name}"], weights[f"{place} + {name}"] = now[place] + weight * now[name], weight
        for name, scores in now.items():
            figures[name] = {"AUC": round(auc(scores, same), 4), "first": round(first(scores, same, question), 4)}
            if name in weights:
                figures[name]["weight"] = weights[name]
        out[str(gap)] = {"questions": int(question[-1]) + 1, "pairs": len(same), "measures": figures}
    return out


def tracked(judged: Sequence[Sequence[Looked]], tuned: Sequence[Sequence[Looked]], how: str) -> dict[str, Any]:
    """Question 2: figures of the plain tracker and of each way to use `how`; the one that the tuning drives chose."""
    grid: list[dict[str, Any]] = [
        {"bonus": bonus, "rescue": rescue, "memory_s": memory}
        for bonus in BONUSES for rescue in RESCUES for memory in MEMORIES_S
    ]  # fmt: skip
    tuning = [{**options, **followed(tuned, how, **options)} for options in grid]
    plain = next(options for options in grid if options == {"bonus": 0.0, "rescue": None, "memory_s": 1.0})
    chosen = grid[max(range(len(grid)), key=lambda i: tuning[i]["HOTA"])]
    found = {name: {**way, **followed(judged, how, **way)} for name, way in (("plain", plain), ("chosen", chosen))}
    return {**found, "tuning": tuning}


def glance(path: Path, frames: int, features: Features) -> dict[str, Any]:
    """Real footage, described; the tracker's identities are taken for true. AUC for every gap."""
    model, tracker, seen = load(BUNDLED_MODEL, "cpu", threads=1), Tracker(), list[Looked]()
    with open_source(str(path)) as source:
        for frame, _ in zip(source, range(frames), strict=False):
            found = model(frame.image).detections
            told = tracker.update(found, frame.timestamp_s, frame.image.shape[:2], frame.image)
            now = [track for track in told if track.unseen_s == 0]
            boxes = np.array([track.box for track in now], np.float64).reshape(-1, 4)
            (described,) = features(frame.image, [boxes])
            ids = np.array([track.id for track in now], np.int64)
            groups = GROUP[np.array([track.class_id for track in now], int)]
            step = seen[-1].timestamp_s if seen else 0.0
            expected = {gap: _expected(tracker, 2 * frame.timestamp_s - step, ids.tolist()) for gap in GAPS}
            seen.append(Looked(frame.timestamp_s, ids, boxes, groups, expected, found, np.zeros(0), described, {}))
    out = {}
    for gap in GAPS:
        scores, same, question = pairs_of([seen], gap)
        names = [name for name in scores if name != "place expected"]
        out[str(gap)] = {"questions": int(question[-1]) + 1} | {n: round(auc(scores[n], same), 4) for n in names}
    return out


def body(config: AppearanceConfig) -> dict[str, Any]:
    """Render, describe, ask both questions."""
    if not config.seeds or not config.tune_seeds or set(config.seeds) & set(config.tune_seeds):
        raise ValueError(f"expected seeds to judge and others to tune, but got {config.seeds} and {config.tune_seeds}")
    watch, features, scenarios, rows = Watch(), Features(config.model), dict[str, Any](), dict[str, Any]()
    clip = glance(config.clip, config.clip_frames, features) if config.clip else None
    for name in config.scenarios:
        tuned = [look(name, seed, config.seconds, features) for seed in config.tune_seeds]
        judged = [look(name, seed, config.seconds, features) for seed in config.seeds]
        apart = told_apart(judged, tuned)
        measures = {gap: found["measures"] for gap, found in apart.items()}
        lines = [
            [measure, *(f"{100 * m[measure][part]:.1f}" for m in measures.values() for part in ("AUC", "first"))]
            for measure in measures[str(GAPS[0])]
        ]
        print(f"\n{name}\n{markdown(('measure', *(f'{p}, {g}' for g in GAPS for p in ('AUC', 'first'))), lines)}")
        for gap, found in measures.items():
            for measure, figures in found.items():
                rows[f"{name}, {gap} frames: {measure}: AUC"] = row("%", [100 * figures["AUC"]], "higher")
        late, same, _ = pairs_of(tuned, GAPS[-1])
        best = max((how for how in late if how.split(",")[0] in DEEP), key=lambda how: auc(late[how], same))
        follows = {how: tracked(judged, tuned, how) for how in (best, "colour histogram")}
        for how, found in follows.items():
            for which in ("plain", "chosen"):
                print(f"  tracker with {how}, {which}: {found[which]}", flush=True)
                for figure in ("HOTA", "IDF1", "MOTA"):
                    rows[f"{name}: tracker, {how}, {which}: {figure}"] = row("%", [found[which][figure]], "higher")
        scenarios[name] = {"told apart": apart, "tracker": follows}
    print(f"\nclip: {clip}")
    settings = {"seeds": list(config.seeds), "tune_seeds": list(config.tune_seeds), "seconds": config.seconds}
    settings |= {"model": config.model.name, "clip": config.clip.name if config.clip else None}
    return result("appearance", settings, rows, watch.result(), scenarios=scenarios, clip=clip)


def main(argv: Sequence[str] | None = None) -> int:
    return run(AppearanceConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
