"""Boxes as COCO results, with the images and categories that their ids mean beside them.

coco_results.json is the list that `COCO.loadRes` takes; coco_frames.json is a COCO dataset without annotations. Both
are whole JSON after every frame, so that a killed run leaves files that can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.frames import IMAGE_SUFFIXES
from perception.outputfile import TextFile
from perception.structures import Frame, Result, Track

__all__ = ["CocoWriter"]


class CocoWriter:
    """Writes two files. Category ids are class ids + 1, as in the common layout, and image ids frame ids + 1.

    With n `cameras`, image ids are n * frame id + 1 for the first, + 2 for the second and so on; file names begin with
    the name of the camera, and the images have it as `camera`.
    """

    def __init__(self, results: str | Path, frames: str | Path, cameras: Sequence[str] = ("",)) -> None:
        self._cameras = list(cameras)
        self._results = _GrowingList(results, "[", "]")
        try:
            self._frames = _GrowingList(frames, _frames_head(()), "]}")
        except OSError:
            self._results.close()
            self._results.path.unlink()
            raise

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track] = (),
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """Add one frame. Raises ValueError if a number is not finite, OSError if a file can not be written."""
        if not self._frames.entries:  # the first Result names the classes
            self._frames.close()
            self._frames = _GrowingList(self._frames.path, _frames_head(result.box_names), "]}")
        image_id = frame.id * len(self._cameras) + self._cameras.index(frame.camera) + 1
        rows = []
        for box, score, class_id in zip(
            result.boxes.tolist(), result.scores.tolist(), result.classes.tolist(), strict=True
        ):
            if not all(map(math.isfinite, (*box, score))):
                raise ValueError(
                    f"{self._results.path}: frame {frame.id} has a box or score that is not finite; "
                    "expected finite ones; check the model"
                )
            left, top, right, bottom = box
            bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            rows.append({"image_id": image_id, "category_id": class_id + 1, "bbox": bbox, "score": round(score, 5)})
        height, width = frame.hw
        image = {"id": image_id, "file_name": _file_name(frame), "height": height, "width": width}
        image |= {"camera": frame.camera} if frame.camera else {}
        self._frames.add([image | {"timestamp_s": round(frame.timestamp_s, 6)}])
        self._results.add(rows)

    def close(self) -> None:
        """Complete the files. More than once does no harm."""
        self._results.close()
        self._frames.close()


class _GrowingList(TextFile):
    """A JSON list in a file that is whole after every `add`: the next entries overwrite the end mark."""

    def __init__(self, path: str | Path, head: str, tail: str) -> None:
        super().__init__(path)
        self.entries = 0
        self._tail = f"\n{tail}\n"
        self.put(head + self._tail)

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Append them, in one write to the file."""
        if entries:
            lines = ",".join("\n" + json.dumps(entry, separators=(",", ":"), allow_nan=False) for entry in entries)
            self.put(("," if self.entries else "") + lines + self._tail, over=len(self._tail))
            self.entries += len(entries)


def _frames_head(names: Sequence[str]) -> str:
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    return json.dumps({"categories": categories, "annotations": []})[:-1] + ', "images": ['


def _file_name(frame: Frame) -> str:
    """The image's own name; a frame of a video is its name and the frame's id. Of several cameras: in its folder."""
    name = Path(frame.source).name
    name = name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}#{frame.id}"
    return f"{frame.camera}/{name}" if frame.camera else name
