"""What gives frames: the base of all sources, and images in files (video files and live streams have their own)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from perception.structures import Frame

__all__ = ["FrameSource", "ImageFiles", "quiet_opencv"]

log = logging.getLogger(__name__)


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

    def leave(self) -> None:
        """End the iteration before its next frame; returns at once."""
        self._closed = True

    def close(self) -> None:
        """Stop the iteration, also one in another thread, and let go of the source. More than once does no harm."""
        self.leave()

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


def _read_image(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR, or None if it can not be read. Through memory: cv2.imread fails on some Unicode paths."""
    try:
        data = np.fromfile(path, np.uint8)
        with quiet_opencv():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):
        return None
    return image


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's own lines on standard error off: the error or warning that we raise says it once."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
