"""The stages that each frame goes through in the loop: prepare, infer, follow, and one for each sink.

Each may run in a thread of its own (see pipeline.py); a `Passage` carries what they find out about one frame. Two
arrangements are made of them. Files, where no frame may be lost, have all of them overlap:

    read | prepare | infer | follow | records | video

Live, the newest frame is taken only at the moment when the model is free, and never waits in front of it:

    read | newest, prepare, infer | follow | records | video

Overlapping there too would make every answer older by as long as a prepared frame waits for the model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from perception.camera import Camera
from perception.distance import measured
from perception.model import Model
from perception.newest import Arrival
from perception.sinks import Outcome, Sink
from perception.structures import Frame, Letterbox, Result, Track
from perception.tracks import Tracker

__all__ = ["ROOM", "Passage", "Stages", "arrived", "ms_since"]

ROOM = 1  # frames that may wait in front of a stage


@dataclass(slots=True)
class Passage:
    """One frame on its way: each stage adds to it."""

    arrival: Arrival
    spent: dict[str, float] = field(default_factory=dict)  # milliseconds by stage up to the tracks, and "age"
    written: dict[str, float] = field(default_factory=dict)  # milliseconds by sink
    tensor: np.ndarray | None = None  # (1, h, w, 3) uint8, one of the loop's buffers; only until `infer`
    letterbox: Letterbox | None = None
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)  # of the engine
    result: Result | None = None
    tracks: list[Track] = field(default_factory=list)
    lost: list[tuple[int, float, list[Track]]] = field(default_factory=list)  # id, timestamp_s, expected tracks
    status: Mapping[str, str] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return self.arrival.frame


def arrived(arrivals: Iterable[Arrival]) -> Generator[Passage, None, None]:
    """A Passage for each arrival, with the milliseconds that it was waited for as "read"."""
    begin = perf_counter()
    try:
        for arrival in arrivals:
            yield Passage(arrival, {"read": ms_since(begin)})
            begin = perf_counter()
    finally:
        if close := getattr(arrivals, "close", None):
            close()


class Stages:
    """The stages of one run.

    Args:
        model: boxes under `score_threshold` may come too, and continue tracks only.
        trackers: by the name of the camera.
        score_threshold: results keep the boxes from here on.
        status: texts for the overlay, asked for when the tracks of a frame are known.
        camera: frames are undistorted before all else, and tracks get distance and time to collision.
    """

    def __init__(
        self,
        model: Model,
        trackers: Mapping[str, Tracker],
        score_threshold: float,
        status: Callable[[Passage], Mapping[str, str]],
        camera: Camera | None = None,
    ) -> None:
        self.model, self.trackers, self.score_threshold, self.status = model, trackers, score_threshold, status
        self.camera = camera
        self._buffers = [model.buffer() for _ in range(ROOM + 2)]  # see pipeline.py
        self._count = 0

    def prepare(self, passage: Passage) -> Passage:
        """Frame -> tensor."""
        begin = perf_counter()
        if self.camera:
            straight = replace(passage.frame, image=self.camera.undistort(passage.frame.image))
            passage.arrival = passage.arrival._replace(frame=straight)
        passage.tensor = self._buffers[self._count % len(self._buffers)]
        self._count += 1
        passage.letterbox = self.model.prepare(passage.frame.image, passage.tensor)
        passage.spent["preprocess"] = ms_since(begin)
        return passage

    def infer(self, passage: Passage) -> Passage:
        """Tensor -> outputs of the engine."""
        assert passage.tensor is not None
        passage.outputs = self.model.infer(passage.tensor)
        passage.tensor = None  # the next frames will fill it
        passage.spent["inference"] = self.model.timings_ms["inference"]
        return passage

    def follow(self, passage: Passage) -> Passage:
        """Outputs -> Result and tracks, also for the frames that were lost before this one."""
        assert passage.letterbox is not None
        result = self.model.result(passage.outputs, passage.letterbox)
        passage.outputs = {}
        begin = perf_counter()
        frame = passage.frame
        tracker = self.trackers[frame.camera]
        passage.lost = [(id, at, tracker.predicted(at)) for id, at in passage.arrival.lost]
        passage.tracks = tracker.update(result.detections, frame.timestamp_s, frame.hw, frame.image)
        if self.camera:
            passage.tracks = measured(passage.tracks, frame.hw, result.box_names, self.camera)
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


def ms_since(begin: float) -> float:
    """Milliseconds since `begin` of time.perf_counter."""
    return 1e3 * (perf_counter() - begin)
