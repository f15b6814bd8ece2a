"""A Rerun recording (.rrd): image, boxes, tracks, class maps and timings on the timelines `frame` and `time`.

With several cameras, each has these below its name. Needs the extra `rerun`. Open it with `rerun run.rrd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rerun as rr

from perception.colours import BOX_COLOURS, colour_of
from perception.imagefile import encode_image
from perception.outputfile import OutputFile
from perception.outputs.choice import path_parts
from perception.records import class_name
from perception.shrink import shrunk
from perception.structures import Frame, Result, Track

__all__ = ["RerunWriter"]

JPEG_QUALITY = 85


class RerunWriter(OutputFile):
    """Writes /camera with /boxes and /tracks over it, /maps/HEAD, and /timings_ms/STAGE. Rerun flushes on its own.

    Of several `cameras`, each has these below its own name: /front/camera and so on (see choice.path_parts).
    """

    def __init__(self, path: str | Path, cameras: Sequence[str] = ("",)) -> None:
        super().__init__(path)
        self._above = {camera: f"{part}/" if part else "" for camera, part in path_parts(cameras).items()}
        try:
            self.path.open("wb").close()  # Rerun writes in the background and says nothing of a folder it can't write
        except OSError as error:
            raise self.failed(error) from None
        self._recording = rr.RecordingStream("driving-perception")
        self._recording.save(self.path)
        self._headed: set[str] = set()  # cameras whose class names are there

    def write(
        self, frame: Frame, result: Result, tracks: Sequence[Track], timings: Mapping[str, float] | None = None
    ) -> None:
        """Add one frame."""
        self.require_open()
        above = self._above[frame.camera]

        def log(entity: str, *what: rr.AsComponents, static: bool = False) -> None:
            self._recording.log(above + entity, *what, static=static)

        if frame.camera not in self._headed:
            for head, names in result.map_names.items():
                classes = [rr.AnnotationInfo(i, name, colour_of(name)[::-1]) for i, name in enumerate(names)]
                log(f"maps/{head}", rr.AnnotationContext(classes), static=True)
            self._headed.add(frame.camera)
        self._recording.set_time("frame", sequence=frame.id)
        self._recording.set_time("time", duration=frame.timestamp_s)
        jpeg = encode_image(frame.image, ".jpg", JPEG_QUALITY)
        log("camera", rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        names = result.box_names
        scored = zip(result.classes.tolist(), result.scores.tolist(), strict=True)
        texts = [f"{class_name(i, names)} {score:.2f}" for i, score in scored]
        log("camera/boxes", _boxes(result.boxes, texts, result.classes.tolist(), names))
        boxes = np.array([track.box for track in tracks], np.float32).reshape(-1, 4)
        texts = [f"{class_name(track.class_id, names)} {track.id}" for track in tracks]
        log("camera/tracks", _boxes(boxes, texts, [track.class_id for track in tracks], names))
        for head, class_map in result.class_maps.items():
            log(f"maps/{head}", rr.SegmentationImage(shrunk(class_map)))
        for stage, ms in (timings or {}).items():
            log(f"timings_ms/{stage}", rr.Scalars(float(ms)))

    def close(self) -> None:
        """Complete the file. More than once does no harm."""
        if not self.closed:
            self.closed = True
            self._recording.flush()
            self._recording.disconnect()


def _boxes(boxes: np.ndarray, texts: list[str], class_ids: list[int], names: Sequence[str]) -> rr.Boxes2D:
    colours = [colour_of(class_name(i, names), BOX_COLOURS)[::-1] for i in class_ids]
    return rr.Boxes2D(array=boxes, array_format=rr.Box2DFormat.XYXY, labels=texts, colors=colours)
