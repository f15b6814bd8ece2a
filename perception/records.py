"""Records: what was seen, one JSON line a frame. docs/records.md describes every field.

They survive a killed run: a record has left the program when `write` returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.outputfile import OutputFile
from perception.structures import Frame, Result, Track

__all__ = ["SCHEMA", "RecordWriter", "class_name", "read_records", "record"]

AREA_ROWS = 320  # rows of a class map that are counted, at least
SCHEMA = 1  # docs/records.md says what changes it
GEOMETRY = ("distance_m", "distance_std_m", "ttc_s", "ttc_std_s")  # of a track, where known


class RecordWriter(OutputFile):
    """Writes records.jsonl, one line a frame, flushed each time.

    Args:
        path: file to (over)write; its folder is made.
        model: name of the model, for the header.
        source: where the frames come from, for the header; left out: the source of the first frame.

    Raises OSError if the file can not be written. The header comes with the first frame: its Result names the classes.
    """

    def __init__(self, path: str | Path, model: str = "", source: str = "") -> None:
        super().__init__(path)
        self.model, self.source = model, source
        self._headed = False
        try:
            self._file = self.path.open("w", encoding="ascii", newline="\n")
        except OSError as error:
            raise self.failed(error) from None

    def __enter__(self) -> RecordWriter:
        return self

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track] = (),
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """Add one frame. `timings` are milliseconds by stage. Raises ValueError if a number is not finite."""
        self.require_open()
        entry = record(frame, result, tracks, timings)
        try:
            line = _line(entry)
        except ValueError:
            raise ValueError(
                f"{self.path}: frame {frame.id} has a number that is not finite (boxes, scores, tracks or timings); "
                "expected finite ones; check the model"
            ) from None
        self._head(result.box_names, result.map_names, self.source or frame.source)
        self._put(line)

    def skipped(
        self, frame_id: int, timestamp_s: float, tracks: Sequence[Track], following: Frame, result: Result
    ) -> None:
        """Add a frame that was dropped, with its tracks where they are expected.

        `following` and `result` are of the next frame that was not dropped: its size, camera and class names hold.
        """
        self.require_open()
        entry = {
            **_camera(following),
            "frame": frame_id,
            "timestamp_s": round(timestamp_s, 6),
            "hw": following.hw,
            "inferred": False,
            "boxes": [],
            "tracks": [_track(track, result.box_names) for track in tracks],
            "areas": {},
            "timings_ms": {},
        }
        self._head(result.box_names, result.map_names, self.source or following.source)
        self._put(_line(entry))

    def close(self) -> None:
        """Complete the file. More than once does no harm. Raises OSError if the rest can not be written."""
        if not self.closed:
            self._head((), {}, self.source)  # a run without a frame
        self.closed = True
        self._file.close()

    def _head(self, boxes: Sequence[str], heads: Mapping[str, Sequence[str]], source: str) -> None:
        if not self._headed:
            header = {"schema": SCHEMA, "model": self.model, "source": source, "boxes": boxes, "heads": dict(heads)}
            self._put(_line(header))
            self._headed = True

    def _put(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            try:
                self._file.close()
            except OSError:  # it tries to write the same once more
                pass
            raise self.failed(error) from None


def record(
    frame: Frame, result: Result, tracks: Sequence[Track] = (), timings: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """One frame as docs/records.md describes it: plain JSON values, in the pixels of the frame."""
    names = result.box_names
    found = zip(result.boxes.tolist(), result.scores.tolist(), result.classes.tolist(), strict=True)
    return {
        **_camera(frame),
        "frame": frame.id,
        "timestamp_s": round(frame.timestamp_s, 6),
        "hw": frame.hw,
        "boxes": [_thing(box, score, class_id, names) for box, score, class_id in found],
        "tracks": [_track(track, names) for track in tracks],
        "areas": {
            head: _areas(class_map, result.map_names.get(head, ())) for head, class_map in result.class_maps.items()
        },
        "timings_ms": {stage: round(float(ms), 3) for stage, ms in (timings or {}).items()},
    }


def read_records(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what RecordWriter wrote: (header, frames). A last line that was cut off by a killed run is left out.

    Raises ValueError if the file is not ours, of a newer schema, or broken before its last line.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):  # the last piece has no newline: empty, or cut off
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(
                    f"{path}: line {number} is not JSON; expected one record a line; it is damaged or not records"
                ) from None
    header = records[0] if records and isinstance(records[0], dict) else {}
    if header.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: expected records of schema {SCHEMA}, but got {header.get('schema', 'no header')}; "
            "give a records.jsonl that this version of perception.live wrote"
        )
    return header, records[1:]


def _camera(frame: Frame) -> dict[str, str]:
    """{"camera": name} where there are several."""
    return {"camera": frame.camera} if frame.camera else {}


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def _rounded(numbers: Sequence[float], digits: int) -> list[float]:
    return [round(float(number), digits) for number in numbers]


def _thing(box: Sequence[float], score: float, class_id: int, names: Sequence[str]) -> dict[str, Any]:
    """What a box and a track have in common. xyxy to 0.1 pixel."""
    return {
        "xyxy": _rounded(box, 1),
        "score": round(float(score), 4),
        "class": class_name(int(class_id), names),
        "class_id": int(class_id),
    }


def _track(track: Track, names: Sequence[str]) -> dict[str, Any]:
    """A track; what geometry adds to it is there only where it is known."""
    known = {name: getattr(track, name) for name in GEOMETRY}
    return {
        "id": track.id,
        **_thing(track.box, track.score, track.class_id, names),
        "age_s": round(track.age_s, 3),
        "unseen_s": round(track.unseen_s, 3),
        "velocity_xy": _rounded(track.velocity_xy, 1),
        **{name: round(float(value), 2) for name, value in known.items() if value is not None},
    }


def _areas(class_map: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """(H, W) uint8 of class ids -> share of the pixels by class name; classes that are absent are left out.

    Of a large frame every second row is counted, or every third and so on: the model sees fewer than it has anyway.
    """
    class_map = class_map[:: max(1, class_map.shape[0] // AREA_ROWS)]
    counts = cv2.calcHist([class_map], [0], None, [256], [0, 256]).ravel()
    return {class_name(i, names): round(float(counts[i]) / class_map.size, 5) for i in np.flatnonzero(counts).tolist()}


def class_name(class_id: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)
