"""A video that plays in a browser, and survives a killed run: only the last second can be lost."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from perception.outputfile import OutputFile
from perception.structures import require_bgr
from perception.tensors import tensor_from_frame

__all__ = ["VideoWriter"]

TIME_BASE = Fraction(1, 90_000)  # of the video's timestamps; the clock of MPEG
BT709 = 1  # FFmpeg's number of the colour standard that players assume for HD
KEYFRAME_S = 1.0  # a killed run loses less than this
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
WHOLE = "+hybrid_fragmented"  # made an ordinary MP4 with a whole index, in place, when it is closed
ENDLESS = "+skip_trailer"  # no list of the fragments either, which would be kept in memory too
CONTAINER = {
    "frag_duration": "500000",  # microseconds
    "flush_packets": "1",
}
# The first encoder that opens is used. No look-ahead and no B-frames: a frame is on its way to the file at once.
ENCODERS = {
    # Beside veryfast at crf 23, tried on overlays of two clips: PSNR alike, a third less work, 13 to 32 % larger.
    "libx264": {"preset": "superfast", "crf": "24", "tune": "zerolatency", "forced-idr": "1"},
    "h264_nvenc": {"preset": "p4", "cq": "23", "bf": "0", "forced-idr": "1"},
    "h264_videotoolbox": {"realtime": "1"},
    "h264_mf": {},
    "libopenh264": {},
}


class VideoWriter(OutputFile):
    """Writes an H.264 MP4 (yuv420p, BT.709) that browsers play, with the timestamps given.

    Args:
        path: file to (over)write; its folder is made.
        fps: average frames per second; only the length of the last frame and the encoder's rate control depend on it.
        hw: (height, width) of the images. Odd sizes get one more row or column, since the format knows even ones only.
        endless: keep no index of the frames, which would grow in memory by about 100 bytes a frame. The closed file
            then consists of fragments; a player that needs an index to seek shows it from the beginning only.

    Raises OSError if the file can not be written, ValueError if fps or hw make no sense or PyAV has no H.264 encoder.
    A file without a frame is removed when it is closed.
    """

    def __init__(self, path: str | Path, fps: float, hw: tuple[int, int], endless: bool = False) -> None:
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
        options = CONTAINER | {"movflags": FRAGMENTS + (ENDLESS if endless else WHOLE)}
        try:
            self._container: OutputContainer = av.open(str(self.path.absolute()), "w", format="mp4", options=options)
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
            raise self.failed(error) from None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: np.ndarray, timestamp_s: float) -> None:
        """Add a (H, W, 3) uint8 BGR image that is shown from `timestamp_s` on.

        A timestamp that does not rise is moved up by the least step, 1/90000 s. An image of another size than `hw`
        (a folder may mix them) is scaled to fit and padded. Raises OSError if the disk is full.
        """
        self.require_open()
        require_bgr(image)
        if not (math.isfinite(timestamp_s) and timestamp_s >= 0):
            raise ValueError(f"timestamp_s must be a number of seconds, 0 or more, but got {timestamp_s}")
        fits = image.shape[:2] == self.hw
        pixels = image if fits else tensor_from_frame(image, self.hw)[0]
        if self.even_hw != self.hw:
            bottom, right = self.even_hw[0] - self.hw[0], self.even_hw[1] - self.hw[1]
            pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        pixels = np.ascontiguousarray(pixels)  # what follows reads them where they are
        picture = av.VideoFrame.from_numpy_buffer(pixels, format="bgr24" if fits else "rgb24")
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
            raise self.failed(error) from None

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
            raise self.failed(error) from None


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
