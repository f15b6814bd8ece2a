"""An MCAP file for Foxglove: image, annotations, class maps and records, as JSON messages of Foxglove's schemas.

Needs the extra `mcap`. The names and fields of the schemas are Foxglove's (docs.foxglove.dev/docs/visualization/
message-schemas); the times are those of the frames, so that a recording starts at 0.

With several cameras, all of it comes once for each, below its name.

Chunks are small and leave the program at once: a killed run lacks the last chunk and the index, which readers that
scan the file do without.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from perception.colours import BOX_COLOURS, Colour, colour_map, colour_of
from perception.imagefile import encode_image
from perception.outputfile import OutputFile
from perception.outputs.choice import path_parts
from perception.records import class_name, record
from perception.shrink import shrunk
from perception.structures import Frame, Result, Track

__all__ = ["McapWriter"]

CHUNK_BYTES = 256 << 10
JPEG_QUALITY = 85
LINE_LOOP = 2  # foxglove.PointsAnnotation.type

NUMBER, STRING = {"type": "number"}, {"type": "string"}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


TIME = _object(sec={"type": "integer", "minimum": 0}, nsec={"type": "integer", "minimum": 0, "maximum": 999_999_999})
POINT, COLOUR = _object(x=NUMBER, y=NUMBER), _object(r=NUMBER, g=NUMBER, b=NUMBER, a=NUMBER)
SCHEMAS: dict[str, dict[str, Any]] = {
    "foxglove.CompressedImage": _object(
        timestamp=TIME, frame_id=STRING, data={"type": "string", "contentEncoding": "base64"}, format=STRING
    ),
    "foxglove.ImageAnnotations": _object(
        circles=_list(_object()),
        points=_list(
            _object(
                timestamp=TIME,
                type={"type": "integer"},
                points=_list(POINT),
                outline_color=COLOUR,
                outline_colors=_list(COLOUR),
                fill_color=COLOUR,
                thickness=NUMBER,
            )
        ),
        texts=_list(
            _object(
                timestamp=TIME,
                position=POINT,
                text=STRING,
                font_size=NUMBER,
                text_color=COLOUR,
                background_color=COLOUR,
            )
        ),
    ),
    "perception.Record": _object(
        camera=STRING,
        frame={"type": "integer"},
        timestamp_s=NUMBER,
        hw=_list({"type": "integer"}),
        boxes=_list(_object()),
        tracks=_list(_object()),
        areas=_object(),
        timings_ms=_object(),
    ),
}


class McapWriter(OutputFile):
    """Writes /camera/image, /camera/annotations, /camera/HEAD for every head, and /records.

    Of several `cameras`, each has these below its own name: /front/camera/image and so on (see choice.path_parts).
    """

    def __init__(self, path: str | Path, cameras: Sequence[str] = ("",)) -> None:
        super().__init__(path)
        self._above = {camera: f"/{part}" if part else "" for camera, part in path_parts(cameras).items()}
        self._channels: dict[str, int] = {}
        try:
            self._file = self.path.open("wb")
            self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.LZ4)
            self._writer.start(profile="", library="driving-perception")
        except OSError as error:
            raise self.failed(error) from None
        self._schemas = {
            name: self._writer.register_schema(name, "jsonschema", json.dumps(schema | {"title": name}).encode())
            for name, schema in SCHEMAS.items()
        }

    def write(
        self, frame: Frame, result: Result, tracks: Sequence[Track], timings: Mapping[str, float] | None = None
    ) -> None:
        """Add one frame. Raises OSError if the file can not be written."""
        self.require_open()
        messages = [
            (
                "/camera/image",
                "foxglove.CompressedImage",
                _image(frame, encode_image(frame.image, ".jpg", JPEG_QUALITY)),
            ),
            ("/camera/annotations", "foxglove.ImageAnnotations", _annotations(frame, result, tracks)),
            ("/records", "perception.Record", record(frame, result, tracks, timings)),
        ]
        for head, class_map in result.class_maps.items():
            picture = colour_map(shrunk(class_map), result.map_names.get(head, ()))
            png = _image(frame, encode_image(picture, ".png"), "png")
            messages.append((f"/camera/{head}", "foxglove.CompressedImage", png))
        time_ns = round(frame.timestamp_s * 1e9)
        try:
            for below, schema, message in messages:
                topic = self._above[frame.camera] + below
                if topic not in self._channels:
                    self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[schema])
                data = json.dumps(message, separators=(",", ":")).encode()
                self._writer.add_message(self._channels[topic], time_ns, data, time_ns, frame.id)
            self._file.flush()
        except OSError as error:
            self._abandon()
            raise self.failed(error) from None

    def close(self) -> None:
        """Complete the file with its index. More than once does no harm. Raises OSError if that can not be written."""
        if self.closed:
            return
        self.closed = True
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.close()
        except OSError as error:
            self._abandon()
            raise self.failed(error) from None

    def _abandon(self) -> None:
        try:
            self._file.close()
        except OSError:  # it tries to write the same once more
            pass


def _image(frame: Frame, data: bytes, kind: str = "jpeg") -> dict[str, Any]:
    text = base64.b64encode(data).decode("ascii")
    return {"timestamp": _time(frame), "frame_id": frame.camera or "camera", "data": text, "format": kind}


def _annotations(frame: Frame, result: Result, tracks: Sequence[Track]) -> dict[str, Any]:
    """The tracks as outlines with texts."""
    time, clear = _time(frame), {"r": 0, "g": 0, "b": 0, "a": 0}
    points, texts = [], []
    for track in tracks:
        name = class_name(track.class_id, result.box_names)
        colour = _colour(colour_of(name, BOX_COLOURS), 1.0 if track.unseen_s == 0 else 0.4)
        left, top, right, bottom = (round(value, 1) for value in track.box)
        corners = [{"x": x, "y": y} for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
        points.append(
            {
                "timestamp": time,
                "type": LINE_LOOP,
                "points": corners,
                "outline_color": colour,
                "outline_colors": [],
                "fill_color": clear,
                "thickness": 2,
            }
        )
        texts.append(
            {
                "timestamp": time,
                "position": corners[0],
                "text": f"{name} {track.id}",
                "font_size": 12,
                "text_color": {"r": 1, "g": 1, "b": 1, "a": 1},
                "background_color": {**clear, "a": 0.6},
            }
        )
    return {"circles": [], "points": points, "texts": texts}


def _time(frame: Frame) -> dict[str, int]:
    sec, nsec = divmod(round(frame.timestamp_s * 1e9), 1_000_000_000)
    return {"sec": sec, "nsec": nsec}


def _colour(bgr: Colour, alpha: float) -> dict[str, float]:
    blue, green, red = (round(value / 255, 3) for value in bgr)
    return {"r": red, "g": green, "b": blue, "a": alpha}
