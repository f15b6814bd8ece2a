"""Folders of images and video files -> the list of different frames that a Vision Transformer is pretrained on.

A drive at 30 frames a second shows the same street thirty times. Frames of a video are taken by time, and at once where
the scene changes; what is nearly the same as a frame before it is dropped, from folders too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from perception.frames import IMAGE_SUFFIXES, open_source
from perception.imagefile import decode_image, encode_image, flaw, read_header
from perception.inspection.likeness import Print, fingerprint, near_pairs

__all__ = ["Collection", "collect", "listed", "sampled"]

VIDEO_SUFFIXES = frozenset(".mp4 .mkv .mov .avi .webm .ts .m4v .mpg .mpeg .h264 .hevc".split())
SCENE_CHANGE = 40.0  # mean absolute difference of two grey thumbnails, of 255
FEWEST = 2  # frames
SHOWN = 3  # names of broken files in the report


@dataclass(slots=True)
class Collection:
    """Frames as image files, and what was left out on the way."""

    files: list[Path] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # "name is cut short"
    duplicates: int = 0
    small: int = 0  # frames that must be enlarged to the model's input
    from_videos: int = 0

    def lines(self, hw: tuple[int, int]) -> Iterator[str]:
        """What to tell people."""
        taken = f", {self.from_videos} of them out of videos" if self.from_videos else ""
        yield f"frames: {len(self.files)}{taken}; {self.duplicates} more are near-duplicates and were dropped"
        if self.broken:
            more = ", ..." if len(self.broken) > SHOWN else ""
            yield f"warning: {len(self.broken)} files are left out: {', '.join(self.broken[:SHOWN])}{more}"
        if self.small:
            yield f"warning: {self.small} frames are smaller than the input {hw[1]}x{hw[0]} and will be enlarged"


def collect(
    sources: Sequence[str],
    hw: tuple[int, int],
    folder: Path,
    every_s: float = 0.5,
    fewest: int = FEWEST,
    option: str = "--images",
) -> Collection:
    """All different frames of `sources`: folders (searched to the bottom), image files and video files, in that order.

    Frames of videos are written into `folder`, as JPEG, under the video's name and their time in ms; of videos that
    have one name, each further one gets a number too. Files that are broken are counted and left out.
    Raises FileNotFoundError for a source that is not there, and ValueError for fewer than `fewest` usable frames;
    `option` is what named the sources.
    """
    images, videos = listed(sources, option)
    found = Collection()
    prints: list[Print] = []
    for path in tqdm(images, "frames", unit="image", leave=False, disable=not sys.stderr.isatty()):
        content = path.read_bytes()
        grey = decode_image(content, cv2.IMREAD_REDUCED_GRAYSCALE_2)
        if grey is None:
            found.broken.append(f"{path.name} {flaw(content) or 'can not be decoded'}")
            continue
        header = read_header(content)
        height, width = header.hw if header else (2 * grey.shape[0], 2 * grey.shape[1])
        found.small += height < hw[0] or width < hw[1]
        found.files.append(path)
        prints.append(fingerprint(content, grey))
    stems: Counter[str] = Counter()
    for video in videos:
        stems[video.stem] += 1
        name = f"{video.stem}~{stems[video.stem]}" if stems[video.stem] > 1 else video.stem
        frames = sampled(video, every_s)
        while (taken := _next(frames, video, found)) is not None:
            image, time_s = taken
            target = folder / f"{name}_{round(1000 * time_s):08d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            content = encode_image(image, ".jpg")
            target.write_bytes(content)
            found.files.append(target)
            found.small += image.shape[0] < hw[0] or image.shape[1] < hw[1]
            prints.append(fingerprint(content, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)))
    written = set(found.files) - set(images)
    _drop_duplicates(found, prints)
    for path in written - set(found.files):
        path.unlink()
    from_folders = set(images)
    found.from_videos = sum(path not in from_folders for path in found.files)
    if len(found.files) < fewest:
        broken = f" ({len(found.broken)} are broken: {found.broken[0]}, ...)" if found.broken else ""
        raise ValueError(
            f"{option}: expected at least {fewest} different frames, but found {len(found.files)}{broken}; "
            "name more folders or videos"
        )
    return found


def listed(sources: Sequence[str], option: str = "--images") -> tuple[list[Path], list[Path]]:
    """The image files and the video files that the sources mean. Raises FileNotFoundError for what is not there."""
    images: list[Path] = []
    videos: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            inside = [path]
        else:
            raise FileNotFoundError(f"{option}: no file or folder {source}; expected images, videos or folders of them")
        images += [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES]
        videos += [p for p in inside if p.suffix.lower() in VIDEO_SUFFIXES]
    return list(dict.fromkeys(images)), list(dict.fromkeys(videos))


def _next(
    frames: Iterator[tuple[np.ndarray, float]], video: Path, found: Collection
) -> tuple[np.ndarray, float] | None:
    """The next of a video's frames; None at its end, and where it can't be read, which is noted."""
    try:
        return next(frames, None)
    except (ValueError, OSError) as error:  # of the video, not of what is done with its frames
        found.broken.append(f"{video.name} ({str(error).removeprefix(f'{video}: ')})")
        return None


def sampled(video: Path, every_s: float) -> Iterator[tuple[np.ndarray, float]]:
    """(frame (H, W, 3) uint8 BGR, its time in s): one each `every_s`, and the first of each new scene."""
    last: np.ndarray | None = None
    last_s = 0.0
    with open_source(video) as source:
        for frame in source:
            thumb = cv2.resize(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
            new_scene = last is None or float(cv2.absdiff(thumb, last).mean()) > SCENE_CHANGE
            last = thumb
            if new_scene or frame.timestamp_s - last_s >= every_s:
                last_s = frame.timestamp_s
                yield frame.image, frame.timestamp_s


def _drop_duplicates(found: Collection, prints: list[Print]) -> None:
    """Of frames that are alike only the first stays."""
    dropped: set[int] = set()
    for pair in near_pairs(prints, dropped):
        dropped.add(pair.second)
    found.duplicates = len(dropped)
    found.files = [path for index, path in enumerate(found.files) if index not in dropped]
