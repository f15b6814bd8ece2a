"""Which outputs a run has: the choice on the command line -> sinks that take every result.

A sink has `write(frame, result, tracks, spent, status)` and `close()`. Its `files` are what it leaves behind,
`overlay_ms` is the part of its last `write` that was drawing. A new output is a class like these and a line in
`open_sink`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Literal, Protocol, Self

from perception.outputs.coco import CocoWriter
from perception.outputs.mot import MotWriter
from perception.overlay import draw
from perception.records import RecordWriter
from perception.structures import Frame, Result, Track
from perception.video import VideoWriter

__all__ = ["FILES", "Output", "Outputs", "Sink", "open_sink", "require_extras"]

log = logging.getLogger(__name__)

Output = Literal["records", "video", "mot", "coco", "mcap", "rrd"]
FILES: dict[str, tuple[str, ...]] = {
    "records": ("records.jsonl",),
    "video": ("overlay.mp4",),
    "mot": ("mot.txt",),
    "coco": ("coco_results.json", "coco_frames.json"),
    "mcap": ("run.mcap",),
    "rrd": ("run.rrd",),
}
EXTRAS = {  # what is asked for -> option, module that it needs, extra that brings it
    "mcap": ("--outputs mcap", "mcap", "mcap"),
    "rrd": ("--outputs rrd", "rerun", "rerun"),
    "serve": ("--serve", "uvicorn", "serve"),
}


class Sink(Protocol):
    """Takes results, one frame after the other."""

    files: tuple[Path, ...]
    overlay_ms: float

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track],
        spent: Mapping[str, float],
        status: Mapping[str, str],
    ) -> None:
        """Take one frame; `spent` is milliseconds by stage, `status` what the overlay's bar says."""

    def close(self) -> None:
        """Complete what was written. More than once does no harm."""


def require_extras(wanted: Sequence[str]) -> None:
    """Raise ValueError with the pip command if a package is missing; `wanted` are outputs, or "serve"."""
    for option, module, extra in (EXTRAS[name] for name in wanted if name in EXTRAS):
        if find_spec(module) is None:
            raise ValueError(
                f"{option} needs the package {module}, which is not installed; "
                f"pip install 'driving-perception[{extra}]', or leave it out"
            )


def open_sink(output: Output, folder: Path, *, model: str, source: str, fps: float, hw: tuple[int, int]) -> Sink:
    """The sink of one output, its files made in `folder`. `fps` and `hw` are those of the first frame, for the video.

    Raises OSError if a file can not be written, ValueError if a package is missing.
    """
    require_extras([output])
    files = tuple(folder / name for name in FILES[output])
    if output == "video":
        return _Drawn(VideoWriter(files[0], fps, hw), files)
    if output == "records":
        return _Plain(RecordWriter(files[0], model, source), files)
    if output == "mot":
        return _Plain(MotWriter(files[0]), files)
    if output == "coco":
        return _Plain(CocoWriter(*files), files)
    if output == "mcap":
        from perception.outputs.mcap_log import McapWriter

        return _Plain(McapWriter(files[0]), files)
    if output == "rrd":
        from perception.outputs.rerun_log import RerunWriter

        return _Plain(RerunWriter(files[0]), files)
    raise ValueError(f"expected an output among {', '.join(FILES)}, but got {output}; leave it out")


class Outputs:
    """The sinks of one run, all at once: a context manager that closes them, whatever happened.

    If one can not be opened, or nothing is written before an error, the files are removed again.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        folder: Path,
        *,
        model: str,
        source: str,
        fps: float,
        hw: tuple[int, int],
        more: Sequence[Sink] = (),
    ) -> None:
        """As `open_sink`, for several; `more` are sinks that are open already, and closed with the others."""
        self.files = [folder / name for output in outputs for name in FILES[output]]
        self._sinks: list[Sink] = []
        self._written = 0
        with ExitStack() as stack:
            stack.push(self._remove_if_useless)
            for output in outputs:
                sink = open_sink(output, folder, model=model, source=source, fps=fps, hw=hw)
                stack.push(partial(_close, sink))
                self._sinks.append(sink)
            for sink in more:
                stack.push(partial(_close, sink))
                self._sinks.append(sink)
            self._stack = stack.pop_all()

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track],
        spent: Mapping[str, float],
        status: Mapping[str, str],
    ) -> dict[str, float]:
        """Hand one frame to every sink. Returns the milliseconds of "overlay" and "write"."""
        begin = perf_counter()
        for sink in self._sinks:
            sink.write(frame, result, tracks, spent, status)
        overlay_ms = sum(sink.overlay_ms for sink in self._sinks)
        self._written += 1
        return {"overlay": overlay_ms, "write": 1e3 * (perf_counter() - begin) - overlay_ms}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _remove_if_useless(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._written:
            for file in self.files:
                if not file.is_dir():
                    file.unlink(missing_ok=True)


class _Writer(Protocol):
    def write(self, frame: Frame, result: Result, tracks: Sequence[Track], timings: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _Plain:
    """A file of numbers."""

    overlay_ms = 0.0

    def __init__(self, writer: _Writer, files: tuple[Path, ...]) -> None:
        self.files = files
        self._writer = writer
        self.close = writer.close

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track],
        spent: Mapping[str, float],
        status: Mapping[str, str],
    ) -> None:
        self._writer.write(frame, result, tracks, spent)


class _Drawn:
    """The video with everything drawn."""

    def __init__(self, writer: VideoWriter, files: tuple[Path, ...]) -> None:
        self.files = files
        self.overlay_ms = 0.0
        self._writer = writer
        self.close = writer.close

    def write(
        self,
        frame: Frame,
        result: Result,
        tracks: Sequence[Track],
        spent: Mapping[str, float],
        status: Mapping[str, str],
    ) -> None:
        begin = perf_counter()
        image = draw(frame.image, result, tracks, status)
        self.overlay_ms = 1e3 * (perf_counter() - begin)
        self._writer.write(image, frame.timestamp_s)


def _close(
    sink: Sink, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    try:
        sink.close()
    except OSError as second:
        if error is None:
            raise
        log.warning("%s", second)  # the first error is the one to tell
