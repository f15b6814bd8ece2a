"""The stages that each frame goes through in the loop: prepare, infer, follow, and one for each sink.

Each may run in a thread of its own (see pipeline.py); a `Passage` carries what they find out about one frame. Up to
`infer`, frames that one call of the model answers go together, as a `Batch`; with most models that is one frame. Two
arrangements are made of them. Files, where no frame may be lost, have all of them overlap:

    read | prepare | infer | follow | records | video

Live, the newest frame is taken only at the moment when the model is free, and never waits in front of it:

    read | newest, prepare, infer | follow | records | video

Overlapping there too would make every answer older by as long as a prepared frame waits for the model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from perception.camera import Camera
from perception.distance import measured
from perception.model import Model
from perception.newest import Arrival
from perception.sinks import Outcome, Sink
from perception.structures import Frame, Letterbox, Result, Track
from perception.tensors import PAD_VALUE
from perception.tracks import Tracker

__all__ = ["ROOM", "Batch", "Passage", "Stages", "arrived", "ms_since"]

ROOM = 1  # frames that may wait in front of a stage


@dataclass(slots=True)
class Passage:
    """One frame on its way: each stage adds to it."""

    arrival: Arrival
    place: int = 0  # in its batch
    spent: dict[str, float] = field(default_factory=dict)  # milliseconds by stage up to the tracks, and "age"
    written: dict[str, float] = field(default_factory=dict)  # milliseconds by sink
    letterbox: Letterbox | None = None
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)  # of the engine, for the whole batch
    result: Result | None = None
    tracks: list[Track] = field(default_factory=list)
    lost: list[tuple[int, float, list[Track]]] = field(default_factory=list)  # id, timestamp_s, expected tracks
    status: Mapping[str, str] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return self.arrival.frame


@dataclass(slots=True)
class Batch:
    """The frames of one call of the model, none of them of the same camera, and its input."""

    passages: list[Passage]
    tensor: np.ndarray | None = None  # (B, h, w, 3) uint8, one of the loop's buffers; from `prepare` to `infer`


def arrived(groups: Iterable[Sequence[Arrival]]) -> Generator[Batch, None, None]:
    """A Batch for each group of arrivals. "read" is the milliseconds it was waited for, shared by its frames."""
    begin = perf_counter()
    try:
        for group in groups:
            ms = ms_since(begin) / len(group)
            yield Batch([Passage(arrival, place, {"read": ms}) for place, arrival in enumerate(group)])
            begin = perf_counter()
    finally:
        if close := getattr(groups, "close", None):
            close()


class Stages:
    """The stages of one run.

    Args:
        model: boxes under `score_threshold` may come too, and continue tracks only.
        trackers: by the name of the camera.
        score_threshold: results keep the boxes from here on.
        status: texts for the overlay, asked for when the tracks of a frame are known.
        calibrated: by the name of the camera; its frames are undistorted before all else, and its tracks get distance
            and time to collision.
    """

    def __init__(
        self,
        model: Model,
        trackers: Mapping[str, Tracker],
        score_threshold: float,
        status: Callable[[Passage], Mapping[str, str]],
        calibrated: Mapping[str, Camera] | None = None,
    ) -> None:
        self.model, self.trackers, self.score_threshold, self.status = model, trackers, score_threshold, status
        self.calibrated = calibrated or {}
        self._buffers = [model.buffer() for _ in range(ROOM + 2)]  # see pipeline.py
        self._count = 0

    def prepare(self, batch: Batch) -> Batch:
        """Frames -> tensor. Places without a frame are made grey: the answer never depends on older frames."""
        batch.tensor = self._buffers[self._count % len(self._buffers)]
        self._count += 1
        batch.tensor[len(batch.passages) :] = PAD_VALUE
        for passage in batch.passages:
            begin = perf_counter()
            if camera := self.calibrated.get(passage.frame.camera):
                passage.arrival = passage.arrival._replace(frame=_straight(passage.frame, camera))
            passage.letterbox = self.model.prepare(passage.frame.image, batch.tensor, passage.place)
            passage.spent["preprocess"] = ms_since(begin)
        return batch

    def infer(self, batch: Batch) -> list[Passage]:
        """Tensor -> outputs of the engine. "inference" is the time of the call, shared by its frames."""
        assert batch.tensor is not None
        outputs = self.model.infer(batch.tensor)
        batch.tensor = None  # the next frames will fill it
        for passage in batch.passages:
            passage.outputs = outputs
            passage.spent["inference"] = self.model.timings_ms["inference"] / len(batch.passages)
        return batch.passages

    def follow(self, passage: Passage) -> Passage:
        """Outputs -> Result and tracks, also for the frames that were lost before this one."""
        assert passage.letterbox is not None
        result = self.model.result(passage.outputs, passage.letterbox, passage.place)
        passage.outputs = {}
        begin = perf_counter()
        frame = passage.frame
        tracker = self.trackers[frame.camera]
        passage.lost = [(id, at, tracker.predicted(at)) for id, at in passage.arrival.lost]
        passage.tracks = tracker.update(result.detections, frame.timestamp_s, frame.hw, frame.image)
        if camera := self.calibrated.get(frame.camera):
            passage.tracks = measured(passage.tracks, frame.hw, result.box_names, camera)
        passage.result = result.above(self.score_threshold)
        passage.spent |= {"postprocess": self.model.timings_ms["postprocess"], "track": ms_since(begin)}
        passage.spent["age"] = ms_since(passage.arrival.at)
        passage.status = self.status(passage)
        return passage

    @staticmethod
    def into(sink: Sink) -> Callable[[Passage], Passage]:
        """The stage that hands everything to `sink`."""

        def write(passage: Passage) -> Passage:
            assert passage.result is not None
            begin = perf_counter()
            outcome = Outcome(passage.frame, passage.result, passage.tracks, passage.spent, passage.status)
            for frame_id, timestamp_s, tracks in passage.lost:
                sink.skipped(frame_id, timestamp_s, tracks, outcome)
            sink.write(outcome)
            passage.written[sink.name] = ms_since(begin)
            return passage

        write.__name__ = sink.name
        return write


def _straight(frame: Frame, camera: Camera) -> Frame:
    """The frame without the curvature of the lens. Raises ValueError, which names the camera if there are several."""
    try:
        return replace(frame, image=camera.undistort(frame.image))
    except ValueError as error:
        raise ValueError(f"{frame.camera}: {error}" if frame.camera else str(error)) from None


def ms_since(begin: float) -> float:
    """Milliseconds since `begin` of time.perf_counter."""
    return 1e3 * (perf_counter() - begin)
