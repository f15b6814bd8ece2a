"""Frames from anywhere: video file, image folder, glob, single image, camera or network stream -> iterator of Frame.

Files are read in order, every frame once, with the time that the container gives each picture (variable frame rates
included). What is broken is left out, counted, and told in ONE warning at the end. Cameras and network streams are
live: time is that of the clock when the frame arrived. Memory is constant.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from perception.livestream import GIVE_UP_S, LiveStream
from perception.sources import FrameSource, ImageFiles
from perception.tensors import tensor_from_frame
from perception.videofile import VideoFile

__all__ = ["IMAGE_SUFFIXES", "FrameSource", "model_inputs", "open_source"]

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .webp .tif .tiff .ppm .pgm .jp2".split())
STREAM_SCHEMES = frozenset("rtsp rtsps rtmp http https udp tcp srt rtp".split())
NOMINAL_IMAGE_FPS = 10.0  # images carry no time; 10 Hz is the rate of KITTI


def open_source(source: str | Path, image_fps: float = NOMINAL_IMAGE_FPS, give_up_s: float = GIVE_UP_S) -> FrameSource:
    """Open whatever `source` names.

    Args:
        source: path of a video or an image, folder of images, glob pattern of images ("drive/**/*.png"), number of a
            camera ("0"), or address of a stream (rtsp://, http:// ...). Images come in natural order: 2 before 10.
        image_fps: frames per second that images count as, because they carry no time.
        give_up_s: a camera or stream that breaks off has so long to come back.

    Raises:
        FileNotFoundError: there is no such file, or the pattern matches nothing.
        ValueError: it exists, but there are no frames in it.
        OSError: camera or stream can not be opened.
    """
    text = str(source)
    if not (math.isfinite(image_fps) and image_fps > 0):
        raise ValueError(f"image_fps must be a number over 0, but got {image_fps}")
    if isinstance(source, str) and text.isdecimal():
        return LiveStream(int(text), give_up_s)
    if isinstance(source, str) and (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)):
        if scheme[1].lower() not in STREAM_SCHEMES:
            known = ", ".join(sorted(STREAM_SCHEMES))
            raise ValueError(f"{text}: unknown kind of address {scheme[1]!r}; expected one of {known}, or a path")
        return LiveStream(text, give_up_s)
    path = Path(text).expanduser()
    if text and path.is_dir():
        images = _images(path.iterdir())
        if not images:
            raise ValueError(f"{text}: folder without images; expected {_suffixes()} directly in it{_nested(path)}")
        return ImageFiles(text, images, image_fps)
    if path.is_char_device():  # /dev/video0
        return LiveStream(text, give_up_s)
    if path.is_file():
        return ImageFiles(path.name, [path], image_fps) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
    if not glob.has_magic(text):
        raise FileNotFoundError(
            f"{text or '(empty)'}: no such file or folder; expected a video, an image, a folder of images, a glob "
            "pattern, the number of a camera, or an rtsp:// or http:// address"
        )
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    if not matches:
        raise FileNotFoundError(f"{text}: the pattern matches no file in {Path.cwd()}; expected images; is it quoted?")
    if len(matches) == 1 and matches[0].is_file():
        return open_source(matches[0], image_fps, give_up_s)
    images = _images(matches)
    if not images:
        raise ValueError(
            f"{text}: none of the {len(matches)} matches is an image; expected {_suffixes()}; give videos one by one"
        )
    return ImageFiles(text, images, image_fps)


def model_inputs(source: str, hw: tuple[int, int], count: int) -> list[np.ndarray]:
    """Up to `count` frames, spread over the source where its length is known, as (h, w, 3) uint8 RGB of size `hw`."""
    with open_source(source) as frames:
        step = max(1, (frames.frame_count or count) // count)
        return [tensor_from_frame(frame.image, hw)[0] for frame in islice(frames, 0, count * step, step)]


def _images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths` in natural order; hidden files are not meant."""
    found = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()]
    return sorted(found, key=lambda p: [int(s) if s.isdecimal() else s.lower() for s in re.split(r"(\d+)", str(p))])


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _nested(folder: Path) -> str:
    """The remedy for a folder without images."""
    if any(child.is_dir() for child in folder.iterdir()):
        return f"; for images in its subfolders give the pattern '{folder}/**/*.jpg'"
    return "; give a folder of images, or a video file"
