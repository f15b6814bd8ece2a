"""Public COCO detectors as ONNX, each with the preprocessing and decoding of its own project, in numpy.

What they are compared in: accuracy.py (AP and latency), peers.py (speed of whole systems).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from perception.evaluation.boxes import iou_matrix
from perception.structures import Detections

__all__ = ["COCO_IDS", "PEERS", "NanoDet", "Peer", "YoloX", "suppress"]

COCO_IDS = {0: "pedestrian", 2: "car", 5: "bus", 6: "train", 7: "truck"}  # COCO's class id -> our name
NMS_CANDIDATES = 300  # of one class in one image


class Peer:
    """A COCO detector as ONNX with three strides; subclasses say how a frame goes in and boxes come out."""

    trained_on = "COCO"
    box_names = tuple(COCO_IDS.values())
    strides = (8, 16, 32)
    nms_iou = 0.65

    def __init__(self, path: Path, threads: int = 0, score_threshold: float = 0.3) -> None:
        """`threads`: of the CPU; 0 = one for each core. Boxes below `score_threshold` are left out."""
        if not path.is_file():
            raise FileNotFoundError(f"peer not found: {path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name, self.score_threshold = path.stem, score_threshold
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
            kept = suppress(boxes, scores[:, coco_id], self.nms_iou, self.score_threshold)
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


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float, threshold: float) -> list[int]:
    """Greedy non-maximum suppression of one class: indices of the kept boxes by falling score, `threshold` or more."""
    order = np.argsort(-scores, kind="stable")[:NMS_CANDIDATES]
    order = order[scores[order] >= threshold]
    overlap = iou_matrix(boxes[order], boxes[order]) > iou
    alive = np.ones(len(order), bool)
    for index in range(len(order)):
        if alive[index]:
            alive[index + 1 :] &= ~overlap[index, index + 1 :]
    return [int(i) for i in order[alive]]
