"""One frame as the browser gets it: JSON, a JPEG and the class maps, in one answer.

    4 bytes       length of the JSON, little-endian
    JSON          {"seq", "record", "status", "points", "image": {"bytes", "hw"}, "maps": [...]}
    image         JPEG
    maps          one a head, {"head", "bytes", "hw"} each: (h, w) uint8 class ids, zlib

The browser paints the maps and draws boxes and tracks, from the record: so layers can be chosen without the server.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from perception.colours import BOX_COLOURS, Colour, colour_of
from perception.imagefile import encode_image
from perception.records import record
from perception.shrink import shrunk
from perception.sinks import Outcome
from perception.structures import Result

__all__ = ["View", "about"]

JPEG_QUALITY = 82


class View:
    """A small copy of one frame and its result. It is made in the loop; the costly part waits until someone asks."""

    def __init__(self, seq: int, outcome: Outcome) -> None:
        self.seq = seq
        self._lock = Lock()
        self._parts: tuple[dict[str, Any], bytes] | None = None
        self._image = shrunk(outcome.frame.image)
        self._result = replace(
            outcome.result, class_maps={head: shrunk(ids) for head, ids in outcome.result.class_maps.items()}
        )
        self._frame, self._tracks = outcome.frame, list(outcome.tracks)
        self._spent, self._status = dict(outcome.spent), dict(outcome.status)

    def message(self, points: Sequence[Any], more: Mapping[str, Any]) -> bytes:
        """The bytes of the answer. The picture is encoded once, however many browsers ask."""
        with self._lock:
            if self._parts is None:
                self._parts = self._encode()
        head, blobs = self._parts
        text = json.dumps({**head, **more, "points": points}, separators=(",", ":"), allow_nan=False).encode()
        return len(text).to_bytes(4, "little") + text + blobs

    def _encode(self) -> tuple[dict[str, Any], bytes]:
        jpeg = encode_image(self._image, ".jpg", JPEG_QUALITY)
        blobs, maps = [jpeg], []
        for name, ids in self._result.class_maps.items():
            blobs.append(zlib.compress(ids.tobytes(), 1))
            maps.append({"head": name, "bytes": len(blobs[-1]), "hw": ids.shape})
        head: dict[str, Any] = {
            "seq": self.seq,
            "record": record(self._frame, self._result, self._tracks, self._spent),
            "status": self._status,
            "image": {"bytes": len(jpeg), "hw": self._image.shape[:2]},
            "maps": maps,
        }
        return head, b"".join(blobs)


def about(result: Result, model: str, source: str, cameras: Sequence[str]) -> dict[str, Any]:
    """What does not change in a run: names and colours; `cameras` are those to choose from, if there are several."""
    return {
        "model": model,
        "source": source,
        "cameras": list(cameras),
        "boxes": {name: _hex(colour_of(name, BOX_COLOURS)) for name in result.box_names},
        "heads": {head: [[name, _hex(colour_of(name))] for name in names] for head, names in result.map_names.items()},
    }


def _hex(bgr: Colour) -> str:
    return "#{2:02x}{1:02x}{0:02x}".format(*bgr)
