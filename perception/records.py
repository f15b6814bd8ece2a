"""What a run leaves behind: records (JSON lines) and a video that plays in a browser.

Both survive a killed run: a record has left the program when `write` returns, and the MP4 is fragmented, so that only
the last second can be lost.

The records, schema 1. The first line is the header:

    {"schema": 1, "model": "drive-t", "source": "drive.mp4", "boxes": ["pedestrian", ...],
     "heads": {"scene": ["road", ...], ...}}

Every other line is one frame, in the pixels of that frame:

    {"frame": 0, "timestamp_s": 0.04,       position in the source; presentation time in seconds
     "hw": [540, 960],                      height, width
     "boxes": [{"xyxy": [x1, y1, x2, y2], "score": 0.9, "class": "car", "class_id": 2}, ...],
     "tracks": [{"id": 7, "xyxy": [...], "score": 0.9, "class": "car", "class_id": 2, "age_s": 1.2, "unseen_s": 0.0,
                 "velocity_xy": [vx, vy],                                               pixels per second
                 "distance_m": 23.1, "distance_std_m": 1.9,         with --camera, where known: to where it stands
                 "ttc_s": 4.2, "ttc_std_s": 1.1}, ...],             the same: time to collision
     "areas": {"scene": {"road": 0.41, ...}, ...},      share of the pixels by head and class; absent = none
     "timings_ms": {"inference": 12.3, ...}}
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from perception.structures import Frame, Result, Track, require_bgr
from perception.tensors import tensor_from_frame

__all__ = ["SCHEMA", "RecordWriter", "VideoWriter", "read_records"]

log = logging.getLogger(__name__)

SCHEMA = 1
GEOMETRY = ("distance_m", "distance_std_m", "ttc_s", "ttc_std_s")  # of a track, where known
TIME_BASE = Fraction(1, 90_000)  # of the video's timestamps; the clock of MPEG
BT709 = 1  # FFmpeg's number of the colour standard that players assume for HD
KEYFRAME_S = 1.0  # a killed run loses less than this
CONTAINER = {
    # Fragments while it is written; made an ordinary MP4 with a whole index, in place, when it is closed.
    "movflags": "hybrid_fragmented+frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "500000",  # microseconds
    "flush_packets": "1",
}
# The first encoder that opens is used. No look-ahead and no B-frames: a frame is on its way to the file at once.
ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "forced-idr": "1"},
    "h264_nvenc": {"preset": "p4", "cq": "23", "bf": "0", "forced-idr": "1"},
    "h264_videotoolbox": {"realtime": "1"},
    "h264_mf": {},
    "libopenh264": {},
}


class _Output:
    """A file that is being written: a context manager that closes once, and says once what went wrong."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Complete the file. More than once does no harm. Raises OSError if the rest can not be written."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OSError as second:
            if error is None:
                raise
            log.warning("%s", second)  # the first error is the one to tell

    def _failed(self, error: OSError | av.FFmpegError) -> OSError:
        """Mark the file as lost; the one line for the user, with the error number kept."""
        self.closed = True
        reason = error.strerror or str(error) or type(error).__name__
        failure = OSError(
            f"{self.path}: can not be written: {reason}; expected a writable folder with free space; choose another"
        )
        failure.errno = error.errno
        return failure

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path}: already closed; expected an open file; write before close()")


class RecordWriter(_Output):
    """Writes records.jsonl, one line a frame, flushed each time; the format is this module's docstring.

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
            raise self._failed(error) from None

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
        self._require_open()
        record = {
            "frame": frame.id,
            "timestamp_s": round(frame.timestamp_s, 6),
            "hw": frame.hw,
            "boxes": [
                _thing(box, score, class_id, result.box_names)
                for box, score, class_id in zip(
                    result.boxes.tolist(), result.scores.tolist(), result.classes.tolist(), strict=True
                )
            ],
            "tracks": [
                {
                    "id": track.id,
                    **_thing(track.box, track.score, track.class_id, result.box_names),
                    "age_s": round(track.age_s, 3),
                    "unseen_s": round(track.unseen_s, 3),
                    "velocity_xy": _rounded(track.velocity_xy, 1),
                    **{name: round(value, 2) for name in GEOMETRY if (value := getattr(track, name)) is not None},
                }
                for track in tracks
            ],
            "areas": {
                head: _areas(class_map, result.map_names.get(head, ())) for head, class_map in result.class_maps.items()
            },
            "timings_ms": {stage: round(float(ms), 3) for stage, ms in (timings or {}).items()},
        }
        try:
            line = _line(record)
        except ValueError:
            raise ValueError(
                f"{self.path}: frame {frame.id} has a number that is not finite (boxes, scores, tracks or timings); "
                "expected finite ones; check the model"
            ) from None
        self._head(result.box_names, result.map_names, self.source or frame.source)
        self._put(line)

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
            raise self._failed(error) from None


class VideoWriter(_Output):
    """Writes an H.264 MP4 (yuv420p, BT.709) that browsers play, with the timestamps given.

    Args:
        path: file to (over)write; its folder is made.
        fps: average frames per second; only the length of the last frame and the encoder's rate control depend on it.
        hw: (height, width) of the images. Odd sizes get one more row or column, since the format knows even ones only.

    Raises OSError if the file can not be written, ValueError if fps or hw make no sense or PyAV has no H.264 encoder.
    A file without a frame is removed when it is closed.
    """

    def __init__(self, path: str | Path, fps: float, hw: tuple[int, int]) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"VideoWriter.fps must be a number over 0, but got {fps}")
        if min(hw) < 1:
            raise ValueError(f"VideoWriter.hw must be at least 1x1, but got {hw}")
        super().__init__(path)
        self.hw = hw
        self.even_hw = (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2)
        self.frames = 0
        self._last_pts = -1
        self._key_pts = 0
        self._duration = max(1, round(1 / fps / TIME_BASE))
        encoder = _encoder()
        try:
            self._container: OutputContainer = av.open(str(self.path.absolute()), "w", format="mp4", options=CONTAINER)
            stream = self._container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
            assert isinstance(stream, VideoStream)
            self._stream = stream
            context = stream.codec_context
            context.height, context.width = self.even_hw
            context.pix_fmt = "yuv420p"
            context.options = ENCODERS[encoder]
            context.time_base = TIME_BASE
            context.gop_size = max(1, round(fps * KEYFRAME_S))
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = 1  # 16 to 235
            self._container.start_encoding()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: np.ndarray, timestamp_s: float) -> None:
        """Add a (H, W, 3) uint8 BGR image that is shown from `timestamp_s` on.

        A timestamp that does not rise is moved up by the least step, 1/90000 s. An image of another size than `hw`
        (a folder may mix them) is scaled to fit and padded. Raises OSError if the disk is full.
        """
        self._require_open()
        require_bgr(image)
        if not (math.isfinite(timestamp_s) and timestamp_s >= 0):
            raise ValueError(f"timestamp_s must be a number of seconds, 0 or more, but got {timestamp_s}")
        fits = image.shape[:2] == self.hw
        pixels = image if fits else tensor_from_frame(image, self.hw)[0]
        if self.even_hw != self.hw:
            bottom, right = self.even_hw[0] - self.hw[0], self.even_hw[1] - self.hw[1]
            pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(pixels, format="bgr24" if fits else "rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=1)
        picture.pts = max(round(timestamp_s / TIME_BASE), self._last_pts + 1)
        picture.time_base = TIME_BASE
        picture.duration = self._duration
        if picture.pts - self._key_pts >= KEYFRAME_S / TIME_BASE:  # by time, not by count: the rate may vary
            picture.pict_type = PictureType.I
            self._key_pts = picture.pts
        self._last_pts = picture.pts
        self._mux(picture)
        self.frames += 1

    def close(self) -> None:
        """Complete the file. More than once does no harm. Raises OSError if the rest can not be written."""
        if self.closed:
            return
        if self.frames:
            self._mux(None)
        self.closed = True
        try:
            self._container.close()
            if not self.frames:
                self.path.unlink()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from None

    def _mux(self, picture: av.VideoFrame | None) -> None:
        """Encode one picture, or with None what the encoder still holds, and hand it to the file."""
        packets = self._stream.encode(picture)
        try:
            self._container.mux(packets)
        except (OSError, av.FFmpegError) as error:
            try:
                self._container.close()
            except (OSError, av.FFmpegError):  # for the same reason
                pass
            raise self._failed(error) from None


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


def _encoder() -> str:
    """The first H.264 encoder of this PyAV that works on this machine."""
    for name in ENCODERS:
        if name not in av.codecs_available:
            continue
        context = av.CodecContext.create(name, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.height, context.width, context.pix_fmt, context.time_base = 256, 256, "yuv420p", TIME_BASE
        try:
            context.open()
        except av.FFmpegError:
            continue
        return name
    raise ValueError(f"no H.264 encoder; expected PyAV with one of {', '.join(ENCODERS)}; install av from PyPI")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def _rounded(numbers: Sequence[float], digits: int) -> list[float]:
    return [round(float(number), digits) for number in numbers]


def _thing(box: Sequence[float], score: float, class_id: int, names: Sequence[str]) -> dict[str, Any]:
    """What a box and a track have in common. xyxy to 0.1 pixel."""
    return {
        "xyxy": _rounded(box, 1),
        "score": round(float(score), 4),
        "class": _name(int(class_id), names),
        "class_id": int(class_id),
    }


def _areas(class_map: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """(H, W) uint8 of class ids -> share of the pixels by class name; classes that are absent are left out."""
    counts = cv2.calcHist([class_map], [0], None, [256], [0, 256]).ravel()
    return {_name(i, names): round(float(counts[i]) / class_map.size, 5) for i in np.flatnonzero(counts).tolist()}


def _name(class_id: int, names: Sequence[str]) -> str:
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)
