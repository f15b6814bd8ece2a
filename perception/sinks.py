"""Where the results of a run go. Any number of sinks may be active: records, overlay video, and whatever else is added.

A sink is an object with `write` and `close`, made for the first frame of a run. Each one has a thread of its own in the
loop, so that a slow one holds up the others only when its queue is full; its methods are never called at the same time.
To add one: a file that needs no drawing is a writer in outputs/ and two lines there and in `_writer`; else subclass
Sink, and open it in `open_sinks`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from perception.outputs.choice import Output, files_of
from perception.outputs.coco import CocoWriter
from perception.outputs.mot import MotWriter
from perception.overlay import draw
from perception.records import RecordWriter
from perception.structures import Frame, Result, Track
from perception.tensors import letterbox_for
from perception.video import VideoWriter

__all__ = ["Mosaic", "Outcome", "OverlayVideo", "Recorded", "Sink", "close_sinks", "open_sinks"]

log = logging.getLogger(__name__)

WIDTH = 1920  # pixels that a mosaic has at most


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop found out about one frame."""

    frame: Frame  # what the model saw; `camera` is a name where there are several, else empty
    result: Result  # of the model, boxes over the score threshold only
    tracks: Sequence[Track] = ()  # by rising id
    spent: Mapping[str, float] = field(default_factory=dict)  # ms by stage; "age" is from capture to tracks
    status: Mapping[str, str] = field(default_factory=dict)  # texts for a status bar, see overlay.status_bar


class Sink:
    """Takes the results of a run, one frame after the other.

    `files` are what it leaves behind; they are removed again if the run fails before the first frame is written.
    """

    name = "sink"
    files: Sequence[Path] = ()

    def write(self, outcome: Outcome) -> None:
        """Take one frame. Nothing in it may be changed or written into: other sinks see the same objects."""
        raise NotImplementedError

    def skipped(self, frame_id: int, timestamp_s: float, tracks: Sequence[Track], following: Outcome) -> None:
        """A frame that was dropped, and its tracks where they are expected.

        `following` is the next frame that was not dropped; its `write` comes after this.
        """

    def close(self) -> None:
        """Complete what was written. More than once does no harm. Raises OSError if that is not possible."""


class Recorded(Sink):
    """Files of one writer, such as records.jsonl; a writer that knows of dropped frames is told of them too."""

    def __init__(self, output: Output, files: Sequence[Path], writer: _Writer) -> None:
        self.name, self.files = output, files
        self._writer = writer

    def write(self, outcome: Outcome) -> None:
        self._writer.write(outcome.frame, outcome.result, outcome.tracks, outcome.spent)

    def skipped(self, frame_id: int, timestamp_s: float, tracks: Sequence[Track], following: Outcome) -> None:
        if isinstance(self._writer, RecordWriter):
            self._writer.skipped(frame_id, timestamp_s, tracks, following.frame, following.result)

    def close(self) -> None:
        self._writer.close()


class OverlayVideo(Sink):
    """overlay.mp4: drawn and encoded."""

    name = "video"

    def __init__(self, path: Path, fps: float, hw: tuple[int, int], endless: bool = False) -> None:
        self.files = [path]
        self._writer = VideoWriter(path, fps, hw, endless)

    def write(self, outcome: Outcome) -> None:
        drawn = draw(outcome.frame.image, outcome.result, outcome.tracks, outcome.status)
        self._writer.write(drawn, outcome.frame.timestamp_s)

    def close(self) -> None:
        self._writer.close()


class Mosaic(Sink):
    """overlay.mp4 of several cameras: tiles in the order of `cameras`, row by row, of the first frame's shape.

    A picture is written for each frame of the camera whose frame came first, with the newest ones of the others.
    """

    name = "video"

    def __init__(self, path: Path, fps: float, first: Frame, cameras: Sequence[str], endless: bool = False) -> None:
        self.files = [path]
        self._cameras = list(cameras)
        self._lead = first.camera
        columns = math.ceil(math.sqrt(len(cameras)))
        rows = math.ceil(len(cameras) / columns)
        h, w = first.hw
        scale = min(1.0, WIDTH / (columns * w))
        self._tile_hw = max(1, round(h * scale)), max(1, round(w * scale))
        self._columns = columns
        self.picture = np.zeros((rows * self._tile_hw[0], columns * self._tile_hw[1], 3), np.uint8)
        self._writer = VideoWriter(path, fps, self.picture.shape[:2], endless)

    def write(self, outcome: Outcome) -> None:
        frame = outcome.frame
        (h, w), number = self._tile_hw, self._cameras.index(frame.camera)
        top, left = number // self._columns * h, number % self._columns * w
        tile = self.picture[top : top + h, left : left + w]
        box = letterbox_for(frame.hw, (h, w))
        drawn = draw(frame.image, outcome.result, outcome.tracks, {"camera": frame.camera, **outcome.status})
        tile[:] = 0
        content = tile[box.top : box.top + box.content_hw[0], box.left : box.left + box.content_hw[1]]
        content[:] = cv2.resize(drawn, box.content_hw[::-1], interpolation=cv2.INTER_AREA)
        if frame.camera == self._lead:
            self._writer.write(self.picture, frame.timestamp_s)

    def close(self) -> None:
        self._writer.close()


def open_sinks(
    outputs: Sequence[Output],
    out: Path,
    *,
    model: str,
    source: str,
    fps: float,
    first: Frame,
    cameras: Sequence[str] = ("",),
    endless: bool = False,
    more: Sequence[Sink] = (),
) -> list[Sink]:
    """The sinks of a run whose first frame is `first`, and `more` that are open already.

    `endless`: nobody knows how long it will run, so nothing may grow in memory with it.

    If one can not be opened, the files of those before it are removed again.
    """
    sinks: list[Sink] = []
    try:
        for output in outputs:
            files = [out / name for name in files_of(output, cameras)]
            if output == "video" and len(cameras) > 1:
                sinks.append(Mosaic(files[0], fps, first, cameras, endless))
            elif output == "video":
                sinks.append(OverlayVideo(files[0], fps, first.hw, endless))
            else:
                sinks.append(Recorded(output, files, _writer(output, files, model, source, cameras)))
    except BaseException:
        close_sinks(sinks, failed=True)
        for file in (file for sink in sinks for file in sink.files):
            file.unlink(missing_ok=True)
        raise
    return [*sinks, *more]


class _Writer(Protocol):
    def write(self, frame: Frame, result: Result, tracks: Sequence[Track], timings: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def _writer(output: Output, files: Sequence[Path], model: str, source: str, cameras: Sequence[str]) -> _Writer:
    if output == "mot":
        return MotWriter(dict(zip(cameras, files, strict=True)))
    if output == "coco":
        return CocoWriter(files[0], files[1], cameras)
    if output == "mcap":
        from perception.outputs.mcap_log import McapWriter

        return McapWriter(files[0], cameras)
    if output == "rrd":
        from perception.outputs.rerun_log import RerunWriter

        return RerunWriter(files[0], cameras)
    return RecordWriter(files[0], model, source)


def close_sinks(sinks: Sequence[Sink], failed: bool = False) -> None:
    """Close all of them, whatever happens to one.

    The first OSError is raised at the end; where the run has `failed` already, its error is the one to tell, and these
    become warnings.
    """
    errors: list[OSError] = []
    for sink in sinks:
        try:
            sink.close()
        except OSError as error:
            errors.append(error)
    for late in errors if failed else errors[1:]:
        log.warning("%s", late)
    if errors and not failed:
        raise errors[0]
