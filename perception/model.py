"""The model: a camera frame in, detections and class maps in the pixels of that frame out.

    model = load()
    result = model(frame_bgr)

All geometry is `perception.tensors`; all computing is the engine's. Any object with `metadata`, `input_hw` and `run`
can be the engine, so that training evaluates a torch network through this same code.

Legend: H, W = height, width of the frame; h, w = of the model's input; B = frames in one call (metadata.batch), each at
a place from 0 to B - 1; N = number of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Protocol

import numpy as np

from perception.engine import Engine, Metadata, Provider
from perception.execution.providers import GpuOptions
from perception.structures import Detections, Letterbox, Result
from perception.tensors import PAD_VALUE, boxes_frame_from_model, mask_frame_from_model, tensor_from_frame

__all__ = ["BUNDLED_MODEL", "SCORE_THRESHOLD", "EngineLike", "Model", "bundled_names", "load", "model_file"]

ASSETS = Path(__file__).parent / "assets"
BUNDLED_MODEL = ASSETS / "drive-n.onnx"  # the default; `model_file` finds the others
SCORE_THRESHOLD = 0.3


class EngineLike(Protocol):
    """What a Model needs of its engine."""

    @property
    def metadata(self) -> Metadata: ...

    @property
    def input_hw(self) -> tuple[int, int]: ...

    def run(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """(B, h, w, 3) uint8 RGB -> "boxes" (B, K, 6) float32 and each head's (B, h, w) uint8; see Engine.run."""
        ...


class Model:
    """A callable: BGR frame of any size -> Result. Threads may share it: they are served one after the other.

    Where the engine takes B > 1 frames a call, `buffer`, `prepare`, `infer` and `result` do too; calling it leaves all
    places but the first grey, and computes them for nothing.

    Attributes:
        engine: what computes.
        score_threshold: boxes below it are left out.
        timings_ms: of the last frame, whichever thread's: "preprocess", "inference", "postprocess".
    """

    def __init__(self, engine: EngineLike, score_threshold: float = SCORE_THRESHOLD) -> None:
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be between 0 and 1, but got {score_threshold}")
        self.engine = engine
        self.score_threshold = score_threshold
        self.timings_ms: dict[str, float] = {}
        self._tensor = self.buffer()
        self._turn = Lock()  # of `_tensor`

    @property
    def provider_reason(self) -> str:
        """One line that says what runs and why, e.g. "CPU: no NVIDIA GPU/driver found (libcuda.so.1)"."""
        return str(getattr(self.engine, "provider_reason", type(self.engine).__name__))

    @property
    def box_names(self) -> tuple[str, ...]:
        """Names of the box classes, by id; empty if the model has no boxes."""
        return self.engine.metadata.box_names

    def __call__(self, frame_bgr: np.ndarray) -> Result:
        """(H, W, 3) uint8 BGR -> Result in frame pixels. Raises ValueError if it is not such an image."""
        outputs, letterbox = self.raw(frame_bgr)
        return self.result(outputs, letterbox)

    def raw(self, frame_bgr: np.ndarray) -> tuple[Mapping[str, np.ndarray], Letterbox]:
        """The lighter path: the engine's outputs (B, ...), in model pixels, and the Letterbox that leads back."""
        with self._turn:
            letterbox = self.prepare(frame_bgr, self._tensor)
            return self.infer(self._tensor), letterbox

    def buffer(self) -> np.ndarray:
        """A (B, h, w, 3) uint8 tensor, all grey, for `prepare` to fill."""
        return np.full((self.engine.metadata.batch, *self.engine.input_hw, 3), PAD_VALUE, np.uint8)

    def prepare(self, frame_bgr: np.ndarray, out: np.ndarray, place: int = 0) -> Letterbox:
        """Fill `place` of `out`, a `buffer()`. `prepare`, `infer`, `result` may each be in a thread of its own."""
        start = perf_counter()
        _, letterbox = tensor_from_frame(frame_bgr, self.engine.input_hw, out=out[place])
        self.timings_ms["preprocess"] = 1e3 * (perf_counter() - start)
        return letterbox

    def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """The engine's outputs for a buffer that `prepare` filled. One call, however many places are filled."""
        start = perf_counter()
        outputs = self.engine.run(tensor)
        self.timings_ms["inference"] = 1e3 * (perf_counter() - start)
        return outputs

    def result(self, outputs: Mapping[str, np.ndarray], letterbox: Letterbox, place: int = 0) -> Result:
        """Outputs of `raw` or `infer` -> Result of the frame at `place`, in the pixels of that frame."""
        start = perf_counter()
        metadata = self.engine.metadata
        detections = Detections.empty()
        if metadata.box_names:
            detections = detections_from_boxes(outputs["boxes"][place], letterbox, self.score_threshold)
        maps = {head: mask_frame_from_model(outputs[head][place], letterbox) for head in metadata.heads}
        self.timings_ms["postprocess"] = 1e3 * (perf_counter() - start)
        return Result(detections, maps, metadata.box_names, metadata.heads)


def detections_from_boxes(boxes: np.ndarray, letterbox: Letterbox, score_threshold: float) -> Detections:
    """(K, 6) float32 x1, y1, x2, y2, score, class in model pixels -> Detections clipped to the frame.

    Left out: scores below `score_threshold`, and boxes of which nothing lies inside the frame (but in the grey border).
    """
    boxes = boxes[boxes[:, 4] >= score_threshold]
    xyxy = boxes_frame_from_model(boxes[:, :4], letterbox)
    inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Detections(xyxy[inside], boxes[inside, 4].astype(np.float32), np.rint(boxes[inside, 5]).astype(np.int64))


def model_file(model: str | Path | None = None) -> Path:
    """The file of a model: of a bundled one by its name, such as "drive-t" (None = drive-n), or the path that it is."""
    if model is None:
        return BUNDLED_MODEL
    bundled = ASSETS / f"{model}.onnx"
    return bundled if str(model) == bundled.stem and bundled.is_file() else Path(model)


def bundled_names() -> list[str]:
    """Names that `model_file` knows."""
    return sorted(path.stem for path in ASSETS.glob("*.onnx"))


def load(
    model: str | Path | None = None,
    provider: Provider = "auto",
    score_threshold: float = SCORE_THRESHOLD,
    threads: int = 0,
    gpu: GpuOptions | None = None,
) -> Model:
    """A Model that is ready to run.

    Args:
        model: ONNX file written by `python -m perception.export`, or name of a bundled one; None = drive-n.
        provider: "auto", "tensorrt", "cuda", "openvino" or "cpu"; only "auto" may choose.
        score_threshold: boxes below it are left out.
        threads: CPU threads inside one operator; 0 = one for each core.
        gpu: how a GPU is used.

    Raises:
        ValueError: not a model of ours, or the provider can not run here.
        OSError: the file can not be read.
    """
    path = model_file(model)
    if not path.exists():
        raise FileNotFoundError(f"model file not found: {path}; the bundled models are {', '.join(bundled_names())}")
    engine = Engine(path, provider, threads, gpu)
    loaded = Model(engine, score_threshold)
    engine.warm_up()
    return loaded
