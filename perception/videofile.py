"""The frames of a video file, by PyAV: true presentation times, rotation, and an account of what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from perception.sources import FrameSource
from perception.structures import Frame

__all__ = ["VideoFile"]

NOMINAL_FPS = 25.0  # where a file says neither times nor rate
ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


class VideoFile(FrameSource):
    """Every picture of a video file that can be decoded, upright, at its presentation time.

    `Frame.id` counts the pictures obtained; `Frame.timestamp_s` counts from the start of the video stream and rises
    strictly. A container without times (raw H.264) is given them by its frame rate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:  # a file that may not be read says so here
            self._head = file.read(12)
        if not self._head:
            raise ValueError(f"{path}: the file is empty (0 bytes); expected a video; copy or record it again")
        with self._container() as container:
            stream = _video_stream(container, path)
            first = next(_pictures(container, stream, _Tally()), None)
            if first is None:
                raise ValueError(
                    f"{path}: expected a video, but not one picture of its {stream.codec_context.name} stream can be "
                    "decoded; it is cut off or damaged: copy it again"
                )
            fps, count = _rate_and_count(container, stream, first.pts is not None)
            sideways = round(first.rotation / 90) % 2 == 1
            hw = (first.width, first.height) if sideways else (first.height, first.width)
        super().__init__(path.name, fps=fps, frame_count=count, live=False, hw=hw)

    def __iter__(self) -> Iterator[Frame]:
        self.warnings.clear()
        tally = _Tally()
        frames = 0
        with self._container() as container:
            stream = _video_stream(container, self.path)
            clock = _Clock(self.fps, _seconds(stream.start_time, stream))
            for picture in _pictures(container, stream, tally):
                if self._closed:
                    return
                image = _upright(picture.to_ndarray(format="bgr24"), picture.rotation)
                yield Frame(image, frames, clock(picture.time), str(self.path))
                tally.repaired += picture.is_corrupt
                frames += 1
            if problems := self._problems(container, stream, tally, frames, clock):
                of = f" of {declared}" if (declared := _declared_frames(container, stream)) else ""
                self._warn(f"truncated or corrupt, {frames}{of} frames could be read: {'; '.join(problems)}")

    def _container(self) -> InputContainer:
        try:
            return av.open(str(self.path.absolute()), metadata_errors="replace")
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            if self._head[4:8] == b"ftyp":
                why = "its index (moov) is missing: the recording or the copy was cut off; copy it again or repair it"
            else:
                why = "the content is not that of a video; check it, or convert it to MP4"
            raise ValueError(f"{self.path}: expected a video, but {why} ({error.strerror})") from None

    def _problems(
        self, container: InputContainer, stream: VideoStream, tally: _Tally, frames: int, clock: _Clock
    ) -> list[str]:
        """What the container promised and did not hold, in words."""
        problems = []
        declared, seconds = _declared_frames(container, stream), _declared_seconds(container, stream)
        end_s = (clock.origin_s or 0.0) + clock.last_s + clock.step_s  # a declared duration may count from 0
        if declared is not None and tally.packets < declared:
            problems.append(f"it declares {declared} frames and holds {tally.packets}")
        elif declared is None and seconds and seconds - end_s > max(1.0, 0.02 * seconds):
            problems.append(f"it declares {seconds:.1f} s and ends at {end_s:.1f} s")
        if tally.broken:
            problems.append(f"broken frames skipped: {tally.broken}")
        lost = tally.packets - tally.hidden - tally.broken - frames
        if lost > max(2, 0.01 * tally.packets):
            problems.append(f"frames that could not be decoded: {lost}")
        if tally.repaired:
            problems.append(f"damaged frames that the decoder patched up: {tally.repaired}")
        if tally.stopped:
            problems.append(f"reading stopped with {tally.stopped!r}")
        return problems


@dataclass(slots=True)
class _Tally:
    """What demuxer and decoder met on the way."""

    packets: int = 0  # of the video stream; one packet is one frame
    hidden: int = 0  # cut out by the container's edit list: decoded, but not to be shown
    broken: int = 0  # skipped
    repaired: int = 0  # given, though the decoder says that they are damaged
    stopped: str = ""  # why the container could not be read on


def _pictures(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[av.VideoFrame]:
    """The pictures in presentation order. Broken packets are counted in `tally` and passed over."""
    stream.thread_type = "AUTO"
    try:
        for packet in container.demux(stream):
            tally.packets += packet.size > 0
            tally.hidden += packet.is_discard
            try:
                # A packet that the end of the file cuts off is not tried: the threads would lose its neighbours too.
                pictures = [] if packet.is_corrupt else packet.decode()
                tally.broken += packet.is_corrupt
            except av.FFmpegError:
                tally.broken += 1
            else:
                yield from pictures
    except av.FFmpegError as error:
        tally.stopped = error.strerror or type(error).__name__


class _Clock:
    """Seconds from the start of the stream out of its presentation times, strictly rising."""

    def __init__(self, fps: float, origin_s: float | None) -> None:
        self.step_s = 1 / fps
        self.origin_s = origin_s
        self.last_s = -self.step_s

    def __call__(self, presented_s: float | None) -> float:
        """`presented_s`: as the container says, None if it does not."""
        if presented_s is None:
            self.last_s += self.step_s
            return self.last_s
        if self.origin_s is None:
            self.origin_s = presented_s
        now_s = max(0.0, presented_s - self.origin_s)
        if now_s <= self.last_s - 1.0:  # the times begin anew, as in joined transport streams
            self.origin_s = presented_s - self.last_s - self.step_s
            now_s = self.last_s + self.step_s
        self.last_s = now_s if now_s > self.last_s else self.last_s + 1e-3
        return self.last_s


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first real video stream: not the cover of a song, not a text file that FFmpeg would draw."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams or container.format.name == "tty":
        kinds = "text" if container.format.name == "tty" else ", ".join(sorted({s.type for s in container.streams}))
        raise ValueError(
            f"{path}: no video in it, only {kinds or 'nothing that FFmpeg knows'}; expected a video stream"
        )
    if streams[0].codec_context is None:
        raise ValueError(f"{path}: this build of FFmpeg has no decoder for its video; convert it to H.264")
    return streams[0]


def _rate_and_count(container: InputContainer, stream: VideoStream, timed: bool) -> tuple[float, int | None]:
    """Average frames per second and the number of frames to be shown, as far as they can be known without decoding.

    `timed`: the pictures have presentation times; if not, FFmpeg's average is but a guess.
    """
    duration_s = _declared_seconds(container, stream)
    shown = sum(not entry.is_discard for entry in stream.index_entries) if _indexed(container) else stream.frames
    rates = [stream.average_rate if timed else None, stream.guessed_rate]
    if _indexed(container) and shown and duration_s:  # FFmpeg's average is that of the first frames only
        rates.insert(0, Fraction(shown / duration_s))
    fps = next((float(rate) for rate in rates if rate and 0 < rate < 1000), NOMINAL_FPS)
    return fps, shown or (max(1, round(duration_s * fps)) if duration_s else None)


def _indexed(container: InputContainer) -> bool:
    """Whether FFmpeg's index lists every frame when the file is open: MP4 and its kin; others fill it on the way."""
    return "mp4" in container.format.name


def _declared_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """Frames that the container's own index or header speaks of. None = it speaks of none."""
    return (len(stream.index_entries) if _indexed(container) else stream.frames) or None


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Duration that the container declares or that its last timestamp shows."""
    return _seconds(stream.duration, stream) or (container.duration / av.time_base if container.duration else None)


def _seconds(ticks: int | None, stream: VideoStream) -> float | None:
    return None if ticks is None or stream.time_base is None else float(ticks * stream.time_base)


def _upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Turn (H, W, 3) by the display matrix: `rotation` degrees counterclockwise, as phones write for portrait."""
    code = ROTATIONS.get(round(rotation / 90) * 90 % 360)
    return image if code is None else cv2.rotate(image, code)
