"""What gives frames: the base of all sources, images in files, and live streams (VideoFile has a file of its own)."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from perception.structures import Frame

__all__ = ["FrameSource", "ImageFiles", "LiveStream"]

log = logging.getLogger(__name__)

NOMINAL_LIVE_FPS = 25.0  # where a camera or stream does not say its rate
STREAM_TIMEOUT_MS = 10_000  # for a network stream to open, and for each of its frames


class FrameSource:
    """An iterable of Frame that knows what it reads; use it in a `with` block.

    Files can be iterated again, from their start; a live source goes on where it is.
    """

    name: str  # for people: file name, folder or address without password
    fps: float  # average frames per second: measured by the container, or nominal
    frame_count: int | None  # as declared, for progress bars; None = unknown
    live: bool  # camera or network stream: goes on whether anybody reads or not
    hw: tuple[int, int] | None  # (height, width) of the first frame; later images of a folder may differ
    warnings: list[str]  # what is wrong with the source, complete when the iteration has ended

    def __init__(
        self, name: str, *, fps: float, frame_count: int | None, live: bool, hw: tuple[int, int] | None
    ) -> None:
        self.name, self.fps, self.frame_count, self.live, self.hw = name, fps, frame_count, live, hw
        self.warnings = []
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Stop the iteration, also one in another thread, and let go of the source. More than once does no harm."""
        self._closed = True

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self.name}: {text}")
        log.warning("%s: %s", self.name, text)


class ImageFiles(FrameSource):
    """Images one after the other, at a nominal frame rate; EXIF orientation applied.

    An image that can't be read is skipped with a warning: `Frame.id` counts the images read, and the gap
    shows in `timestamp_s`.
    """

    def __init__(self, name: str, paths: Sequence[Path], fps: float) -> None:
        self.paths = list(paths)
        first = next((image for path in self.paths if (image := _read_image(path)) is not None), None)
        if first is None:
            what = f"none of the {len(self.paths)} files can" if len(self.paths) > 1 else "its content can not"
            raise ValueError(f"{name}: expected images, but {what} be read as one; copy or convert it")
        super().__init__(name, fps=fps, frame_count=len(self.paths), live=False, hw=first.shape[:2])

    def __iter__(self) -> Iterator[Frame]:
        self.warnings.clear()
        broken: list[Path] = []
        for position, path in enumerate(self.paths):
            if self._closed:
                return
            image = _read_image(path)
            if image is None:
                broken.append(path)
            else:
                yield Frame(image, position - len(broken), position / self.fps, str(path))
        if broken:
            names = ", ".join(path.name for path in broken[:3]) + (" ..." if len(broken) > 3 else "")
            self._warn(f"{len(broken)} of {len(self.paths)} images could not be read and were skipped: {names}")


class LiveStream(FrameSource):
    """A camera by number or device, or a network stream by address, through OpenCV.

    `timestamp_s` is the monotonic clock when the frame was grabbed, from the first frame of this source.
    """

    def __init__(self, source: int | str) -> None:
        camera = isinstance(source, int) or source.startswith("/dev/")
        self._source = f"camera {source}" if camera else re.sub(r"//[^/@]*@", "//", str(source))  # password left out
        limits = {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC: STREAM_TIMEOUT_MS}
        with _quiet_opencv():
            if camera:
                self._capture = cv2.VideoCapture(source)
            else:
                self._capture = cv2.VideoCapture(
                    str(source), cv2.CAP_FFMPEG, [n for pair in limits.items() for n in pair]
                )
        if not self._capture.isOpened():
            check = (
                "check its number (`ls /dev/video*`), your rights, and that no other program uses it"
                if camera
                else f"check the address and that the server answers within {STREAM_TIMEOUT_MS // 1000} s"
            )
            raise OSError(f"{self._source}: can not be opened; expected video; {check}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        h, w = (int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        super().__init__(
            self._source,
            fps=float(fps) if 0 < fps < 1000 else NOMINAL_LIVE_FPS,
            frame_count=None,
            live=True,
            hw=(h, w) if h > 0 and w > 0 else None,
        )
        self._busy = threading.Lock()  # the capture may not be released while another thread reads from it
        self._frames = 0
        self._origin_s = math.nan

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._busy:
                if self._closed:
                    return
                grabbed = self._capture.grab()
                now_s = time.monotonic()
                image = self._capture.retrieve()[1] if grabbed else None
            if image is None:
                break
            if not self._frames:
                self._origin_s = now_s
            yield Frame(image, self._frames, now_s - self._origin_s, self._source)
            self._frames += 1
        if not self._frames:
            raise OSError(
                f"{self._source}: it was opened but gives no frame; expected video; is another program using it?"
            )
        self._warn(f"the stream ended or stood still after {self._frames} frames")

    def close(self) -> None:
        super().close()
        if self._busy.acquire(timeout=2):  # else a dead stream hangs in a read, and its thread will find it closed
            self._capture.release()
            self._busy.release()


def _read_image(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR, or None if it can not be read. Through memory: cv2.imread fails on some Unicode paths."""
    try:
        data = np.fromfile(path, np.uint8)
        with _quiet_opencv():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):
        return None
    return image


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV's own lines on standard error off: the error or warning that we raise says it once."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
