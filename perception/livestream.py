"""Cameras and network streams: they go on whether anybody reads or not, and now and then they are gone for a while.

A stream that breaks off, or stands still for STREAM_TIMEOUT_MS, is opened again, at once and then after pauses that
double, until it gives frames or `give_up_s` have passed without one. So a camera may be unplugged and plugged in again.
What it would have shown meanwhile is lost and can not be counted: ids go on without a gap, the times show it.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from perception.sources import FrameSource, log, quiet_opencv
from perception.structures import Frame

__all__ = ["GIVE_UP_S", "LiveStream"]

NOMINAL_LIVE_FPS = 25.0  # where a camera or stream does not say its rate
STREAM_TIMEOUT_MS = 10_000  # for a network stream to open, and for each of its frames
GIVE_UP_S = 30.0  # without a frame
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0  # between two attempts to open a stream again
FROZEN_S = 10.0  # a picture that is the same to the last bit for so long is not that of a camera: noise changes it


class LiveStream(FrameSource):
    """A camera by number or device, or a network stream by address, through OpenCV.

    `timestamp_s` is the monotonic clock when the frame was grabbed, from the first frame of this source.

    Args:
        source: 0, "/dev/video0" or "rtsp://...".
        give_up_s: a stream that breaks off has so long to come back; 0 = it ends with the first interruption.
    """

    def __init__(self, source: int | str, give_up_s: float = GIVE_UP_S) -> None:
        if not give_up_s >= 0:
            raise ValueError(f"give_up_s must be a number of seconds, 0 or more, but got {give_up_s}")
        camera = isinstance(source, int) or source.startswith("/dev/")
        self._address, self._camera, self._give_up_s = source, camera, give_up_s
        self._source = f"camera {source}" if camera else re.sub(r"//[^/@]*@", "//", str(source))  # password left out
        self._capture = self._opened()
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
        self._finite = not camera and self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # a file behind an address
        self._busy = threading.Lock()  # the capture may not be released while another thread reads from it
        self._left = threading.Event()
        self._frames = self.reconnections = 0
        self._origin_s = math.nan
        self._still_since_s, self._sample, self._frozen = math.nan, np.zeros(0, np.uint8), False

    def __iter__(self) -> Iterator[Frame]:
        while not self._left.is_set():
            image, now_s = self._grab()
            if image is None:
                if self._left.is_set():
                    return
                if not self._frames:
                    raise OSError(
                        f"{self._source}: it was opened but gives no frame; expected video; is another program using "
                        "it?"
                    )
                if (first := self._again()) is None:
                    break
                image, now_s = first
            if not self._frames:
                self._origin_s = now_s
            self._watch(image, now_s)
            yield Frame(image, self._frames, now_s - self._origin_s, self._source)
            self._frames += 1
        if not self._left.is_set():
            lost = f", interruptions before: {self.reconnections}" if self.reconnections else ""
            self._warn(f"the stream ended or stood still after {self._frames} frames{lost}")

    def leave(self) -> None:
        super().leave()
        self._left.set()

    def close(self) -> None:
        super().close()
        if self._busy.acquire(timeout=2):  # else a dead stream hangs in a read, and its thread will find it closed
            self._capture.release()
            self._busy.release()

    def _opened(self) -> cv2.VideoCapture:
        limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
        with quiet_opencv():
            if self._camera:
                return cv2.VideoCapture(self._address)
            options = [n for limit in limits for n in (limit, STREAM_TIMEOUT_MS)]
            return cv2.VideoCapture(str(self._address), cv2.CAP_FFMPEG, options)

    def _grab(self) -> tuple[np.ndarray | None, float]:
        """The next image, None if there is none, and when it was grabbed."""
        with self._busy:
            if self._closed:
                return None, math.nan
            with quiet_opencv():
                grabbed = self._capture.grab()
                now_s = time.monotonic()
                image = self._capture.retrieve()[1] if grabbed else None
            return image, now_s

    def _again(self) -> tuple[np.ndarray, float] | None:
        """Open the stream anew until it gives an image: that, and when it was grabbed. None = it has ended for good."""
        if self._finite:
            return None
        gone_s, pause_s = time.monotonic(), FIRST_PAUSE_S
        while not self._left.is_set() and time.monotonic() - gone_s < self._give_up_s:
            with self._busy:
                if not self._closed:
                    self._capture.release()
                    self._capture = self._opened()
            image, now_s = self._grab() if self._capture.isOpened() else (None, math.nan)
            if image is not None:
                self.reconnections += 1
                log.warning("%s: back after %.1f s without a frame", self.name, now_s - gone_s)
                return image, now_s
            self._left.wait(min(pause_s, max(0.0, gone_s + self._give_up_s - time.monotonic())))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return None

    def _watch(self, image: np.ndarray, now_s: float) -> None:
        """Warn once when the picture has been frozen for long."""
        sample = image[::8, ::8]
        if not np.array_equal(sample, self._sample):
            self._sample, self._still_since_s = sample.copy(), now_s
        elif now_s - self._still_since_s > FROZEN_S and not self._frozen:
            self._frozen = True
            self._warn(f"the picture has not changed for {FROZEN_S:.0f} s; is the camera or its encoder frozen?")
