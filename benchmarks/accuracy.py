"""Ours beside public detectors: COCO AP of vehicles and people on the same driving frames.

    python benchmarks/accuracy.py --peer yolox=yolox_nano.onnx --peer nanodet=nanodet_m_416.onnx --data DATA/kitti

Every system sees the same images, each through its own published preprocessing, and is judged by the same code. Classes
are merged to what all of them know: vehicle = {car, truck, bus, train}, person = {pedestrian, rider}; of COCO's classes
car, truck, bus, train and person. Labels that are only partly one of these (KITTI's Cyclist: rider or bicycle) are
ignore regions. One object that a system names twice within a merged class counts once, by its better score.

The peers were trained on COCO, never on these datasets; whether ours was trained on another part of them, its metadata
says (the column "trained on").
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import cv2
import numpy as np
import onnxruntime
import tyro
from tqdm import tqdm

from benchmarks.machine import Watch, result, row
from perception.cli import run
from perception.engine import Provider
from perception.evaluation.boxes import BoxEvaluation, iou_matrix
from perception.labels import BoxLabels
from perception.layout import read_layout
from perception.model import BUNDLED_MODEL, Model, load
from perception.structures import Detections

GROUPS = {  # the merged classes, of our names
    "vehicle": frozenset({"car", "truck", "bus", "train"}),
    "person": frozenset({"pedestrian", "rider"}),
}
COCO_IDS = {0: "pedestrian", 2: "car", 5: "bus", 6: "train", 7: "truck"}  # COCO's class id -> our name
PEER_NAMES = tuple(COCO_IDS.values())
SCORE_THRESHOLD = 0.001
NMS_CANDIDATES = 300  # of one class in one image


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Options of benchmarks/accuracy.py."""

    data: tuple[Path, ...]
    """Datasets in the common layout."""
    peer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """yolox=FILE.onnx or nanodet=FILE.onnx; can be given several times."""
    model: Path | None = None
    """Our ONNX file; the bundled model if left out."""
    ours: bool = True
    """Evaluate our model, and not only the peers."""
    provider: Provider = "auto"
    """What computes our model; the peers are computed on the CPU."""
    split: str = "val"
    """Which images: train, val or test."""
    limit: int | None = None
    """Only the first so many images of each dataset: a quick trial, no figure to publish."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


class Detector(Protocol):
    """A system under test."""

    name: str
    trained_on: str
    input_hw: tuple[int, int]
    box_names: tuple[str, ...]  # our names

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

    def __call__(self, frame_bgr: np.ndarray) -> Detections:
        return self._model(frame_bgr).detections


class Peer:
    """A COCO detector as ONNX with three strides; subclasses say how a frame goes in and boxes come out."""

    trained_on = "COCO"
    box_names = PEER_NAMES
    strides = (8, 16, 32)
    nms_iou = 0.65

    def __init__(self, path: Path, threads: int = 0) -> None:
        """`threads`: of the CPU; 0 = one for each core."""
        if not path.is_file():
            raise FileNotFoundError(f"peer not found: {path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = path.stem
        entry = self.session.get_inputs()[0]
        self._input = entry.name
        self.input_hw = (int(entry.shape[2]), int(entry.shape[3]))

    def frame_to_tensor(self, frame_bgr: np.ndarray) -> tuple[np.ndarray, float, tuple[float, float]]:
        """(H, W, 3) uint8 BGR -> (h, w, 3) float32, scale, (left, top): model = frame * scale + offset."""
        raise NotImplementedError

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Outputs -> (A, 4) xyxy in model pixels, (A, 80) scores of COCO's classes."""
        raise NotImplementedError

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """(A, 2) x, y index and (A, 1) stride of every cell: stride by stride, row by row."""
        grids, sizes = [], []
        for stride in self.strides:
            rows, columns = self.input_hw[0] // stride, self.input_hw[1] // stride
            grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
            grids.append(grid)
            sizes.append(np.full((len(grid), 1), stride))
        return np.concatenate(grids).astype(np.float32), np.concatenate(sizes).astype(np.float32)

    def __call__(self, frame_bgr: np.ndarray) -> Detections:
        tensor, scale, offset = self.frame_to_tensor(frame_bgr)
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, {self._input: np.ascontiguousarray(tensor.transpose(2, 0, 1))[None]})
        boxes, scores = self.decode({name: value[0] for name, value in zip(names, values, strict=True)})
        height, width = frame_bgr.shape[:2]
        boxes = np.clip((boxes - np.array(offset * 2)) / scale, 0, [width, height, width, height]).astype(np.float32)
        found = []
        for index, coco_id in enumerate(COCO_IDS):
            kept = suppress(boxes, scores[:, coco_id], self.nms_iou)
            found += [(boxes[i], scores[i, coco_id], index) for i in kept]
        if not found:
            return Detections.empty()
        best, values, classes = (np.array(column) for column in zip(*found, strict=True))
        return Detections(best, values.astype(np.float32), classes.astype(np.int64))


class YoloX(Peer):
    """YOLOX (arXiv:2107.08430), exported without its decoding: cell offsets, objectness, 80 class scores."""

    def frame_to_tensor(self, frame_bgr: np.ndarray) -> tuple[np.ndarray, float, tuple[float, float]]:
        """Bilinear, top left on grey 114, BGR from 0 to 255."""
        (h, w), (height, width) = self.input_hw, frame_bgr.shape[:2]
        scale = min(h / height, w / width)
        tensor = np.full((h, w, 3), 114, np.float32)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        tensor[: size[1], : size[0]] = cv2.resize(frame_bgr, size, interpolation=cv2.INTER_LINEAR)
        return tensor, scale, (0.0, 0.0)

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        (raw,) = (
            outputs.values()
        )  # (A, 85): x, y in cells from the cell's corner, log w, log h in strides, object, classes
        cells, strides = self.cells()
        centre, half = (raw[:, :2] + cells) * strides, np.exp(raw[:, 2:4]) * strides / 2
        scores = raw[:, 5:] * raw[:, 4:5]
        only_best = np.where(
            scores == scores.max(1, keepdims=True), scores, 0
        )  # a cell has one class, as in its own test
        return np.concatenate([centre - half, centre + half], 1), only_best


class NanoDet(Peer):
    """NanoDet-m: for each side a distribution over 0 to 7 strides (GFL, arXiv:2006.04388), and 80 class scores."""

    nms_iou = 0.6
    mean = np.array([103.53, 116.28, 123.675], np.float32)  # BGR
    std = np.array([57.375, 57.12, 58.395], np.float32)

    def frame_to_tensor(self, frame_bgr: np.ndarray) -> tuple[np.ndarray, float, tuple[float, float]]:
        """Bilinear warp, centred on black, BGR, normalised by ImageNet's mean and deviation."""
        (h, w), (height, width) = self.input_hw, frame_bgr.shape[:2]
        scale = min(h / height, w / width)
        left, top = (w - width * scale) / 2, (h - height * scale) / 2
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        warped = cv2.warpAffine(frame_bgr, matrix, (w, h), flags=cv2.INTER_LINEAR)
        return (warped.astype(np.float32) - self.mean) / self.std, scale, (left, top)

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        cells, strides = self.cells()
        scores = np.concatenate([outputs[f"cls_pred_stride_{stride}"] for stride in self.strides])  # (A, 80) in [0, 1]
        raw = np.concatenate([outputs[f"dis_pred_stride_{stride}"] for stride in self.strides])  # (A, 4 * 8)
        weights = np.exp(raw.reshape(len(raw), 4, 8) - raw.reshape(len(raw), 4, 8).max(-1, keepdims=True))
        sides = (weights @ np.arange(8, dtype=np.float32)) / weights.sum(-1) * strides  # left, top, right, bottom
        centre = (cells + 0.5) * strides
        return np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], 1), scores


PEERS: dict[str, type[Peer]] = {"yolox": YoloX, "nanodet": NanoDet}


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Greedy non-maximum suppression of one class: indices of the kept boxes by falling score."""
    order = np.argsort(-scores, kind="stable")[:NMS_CANDIDATES]
    order = order[scores[order] >= SCORE_THRESHOLD]
    overlap = iou_matrix(boxes[order], boxes[order]) > iou
    alive = np.ones(len(order), bool)
    for index in range(len(order)):
        if alive[index]:
            alive[index + 1 :] &= ~overlap[index, index + 1 :]
    return [int(i) for i in order[alive]]


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
        image = cv2.imread(str(sample.image), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"can't read the image {sample.image}; run the dataset's prepare.py again")
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


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown, figures in percent."""
    columns = [(group, figure) for group in GROUPS for figure in ("AP50", "AP")]
    lines = [
        "| frames | system | input | trained on | " + " | ".join(f"{g} {f}" for g, f in columns) + " |",
        "|---|---|---|---|" + "---:|" * len(columns),
    ]
    for one in results:
        for name, system in one["systems"].items():
            figures = [system.get(group, {}).get(figure) for group, figure in columns]
            cells = ["-" if figure is None else f"{100 * figure:.1f}" for figure in figures]
            size = "x".join(str(side) for side in reversed(system["input_hw"]))
            where = f"{one['dataset']} {one['split']} ({one['images']})"
            lines.append(f"| {where} | {name} | {size} | {system['trained_on']} | {' | '.join(cells)} |")
    counts = [
        f"{one['dataset']} {one['split']}: "
        + ", ".join(f"{system[group]['instances']} of {group}" for group in GROUPS if group in system)
        for one in results
        for system in list(one["systems"].values())[:1]
    ]
    return "\n".join([*lines, "", "Instances: " + "; ".join(counts) + "."])


def body(config: AccuracyConfig) -> dict[str, Any]:
    """Run the comparison and print the table."""
    detectors: list[Detector] = []
    if config.ours:
        model = load(config.model, config.provider, SCORE_THRESHOLD)
        detectors.append(Ours(model, (config.model or BUNDLED_MODEL).stem))
    for entry in config.peer:
        kind, _, path = entry.partition("=")
        if kind not in PEERS or not path:
            raise ValueError(f"--peer must be {' or '.join(f'{kind}=FILE.onnx' for kind in PEERS)}, but got {entry!r}")
        detectors.append(PEERS[kind](Path(path)))
    if not detectors or not config.data:
        raise ValueError("nothing to compare; name one or more folders with --data and a system with --model or --peer")
    watch = Watch()
    results = [compare(detectors, folder, config.split, config.limit) for folder in config.data]
    print(table(results))
    rows = {
        f"{found['dataset']} {found['split']}, {name}: {group} {figure}": row(
            "share", [system[group][figure]], "higher"
        )
        for found in results
        for name, system in found["systems"].items()
        for group in GROUPS
        for figure in ("AP50", "AP")
        if group in system
    }
    asked = {"score_threshold": SCORE_THRESHOLD, "limit": config.limit, "split": config.split}
    return result("accuracy", asked, rows, watch.result(), datasets=results)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(AccuracyConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
