"""Run the model on a video, an image folder, a camera or a stream: overlay video, records and a summary.

python -m perception.live [SOURCE] [--model FILE.onnx] [--out DIR]

Files: every frame is processed, in order. Cameras, streams and --realtime: the newest frame wins, the others are
counted as dropped. Without SOURCE it runs on demo footage.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Annotated, Any, Self

import tyro
from tqdm import tqdm

from perception.camera import Camera
from perception.cli import run
from perception.distance import measured
from perception.engine import Provider
from perception.frames import FrameSource, open_source
from perception.model import BUNDLED_MODEL, SCORE_THRESHOLD, Model, load
from perception.newest import newest
from perception.overlay import draw, status_bar
from perception.records import RecordWriter, VideoWriter
from perception.structures import Frame, Result, Track
from perception.timings import Timings
from perception.tracks import Tracker, TrackerConfig

__all__ = ["LiveConfig", "live", "main"]

STAGES = ("read", "preprocess", "inference", "postprocess", "track", "overlay", "write")


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Where the frames come from, what runs on them, and where the results go."""

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """Video file, image folder, glob, camera number or rtsp/http address; left out: demo footage."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """ONNX file written by perception.export; left out: the bundled model."""
    provider: Provider = "auto"
    """What must run the model. Only auto may choose: CUDA where it works, else the CPU, and the first line says why."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/live")
    """Folder for overlay.mp4 and records.jsonl."""
    realtime: bool = False
    """Play a file at its own speed and keep only the newest frame, as with a camera."""
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after so many processed frames."""
    video: bool = True
    """Draw and write overlay.mp4."""
    score_threshold: float = SCORE_THRESHOLD
    """Boxes that score less are not recorded and begin no track; down to half of it they still continue one."""
    threads: int = 0
    """CPU threads inside one operator of the model; 0 = one for each core."""
    camera: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Camera file of perception.calibrate: frames are undistorted, tracks get distance and time to collision."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the summary as one line of JSON to this file; - = last line of standard output."""


def live(config: LiveConfig) -> dict[str, Any]:
    """Process the source to its end (or --max-frames, Ctrl-C, SIGTERM), print the summary and return it."""
    if config.max_frames is not None and config.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, but got {config.max_frames}")
    if not 0 <= config.score_threshold <= 1:
        raise ValueError(f"--score-threshold must be between 0 and 1, but got {config.score_threshold}")
    model = load(config.model, config.provider, config.score_threshold / 2, config.threads)
    print(model.provider_reason, flush=True)
    path = config.source
    if path is None:
        from perception.demo import demo_source

        path, credit = demo_source()
        print(credit, flush=True)
    with open_source(path) as source, _stop_on_signals() as stop:
        summary = _process(config, model, source, stop)
    print(_text(summary), flush=True)
    return summary


def _process(config: LiveConfig, model: Model, source: FrameSource, stop: _Stop) -> dict[str, Any]:
    """The loop: read, infer, track, draw, write. Returns the summary."""
    names = model.engine.metadata.box_names
    follow = TrackerConfig(high_score=config.score_threshold, low_score=config.score_threshold / 2)
    tracker = Tracker(follow, names) if names else Tracker()  # a model may have class maps only
    camera = Camera.load(config.camera) if config.camera else None
    timings = {name: Timings() for name in (*STAGES, "total", "age")}
    frames = detections = objects = next_id = dropped = 0
    only_newest = source.live or config.realtime
    started = perf_counter()
    arrivals = newest(source, paced=not source.live, stop=stop) if only_newest else _every(source)
    with closing(arrivals), ExitStack() as files:
        timed = _timed(arrivals)
        first = next(timed, None)
        if first is None:
            if stop.is_set():
                raise KeyboardInterrupt
            raise ValueError("; ".join([f"{source.name}: no frame could be read", *source.warnings]))
        output = files.enter_context(_Output(config, source, first[0]))
        total = min((n for n in (source.frame_count, config.max_frames) if n), default=None)
        bar = files.enter_context(tqdm(total=total, unit="frame", disable=not sys.stderr.isatty()))
        for frame, arrival, read_ms in chain([first], timed):
            if camera:
                begin = perf_counter()
                frame = replace(frame, image=camera.undistort(frame.image))
                read_ms += _ms_since(begin)
            result = model(frame.image)
            begin = perf_counter()
            tracks = tracker.update(result.detections, frame.timestamp_s, frame.hw, frame.image)
            if camera:
                tracks = measured(tracks, frame.hw, names or (), camera)
            result = result.above(config.score_threshold)
            spent = {"read": read_ms, **model.timings_ms, "track": _ms_since(begin)}
            dropped += frame.id - next_id
            next_id = frame.id + 1
            status = status_bar(
                fps=frames / (perf_counter() - started),
                p50_ms=timings["total"].percentile(50),
                p99_ms=timings["total"].percentile(99),
                dropped=dropped if only_newest else None,
                provider=model.provider_reason.split(":")[0],
                frame_id=frame.id,
                timestamp_s=frame.timestamp_s,
            )
            spent |= output.write(frame, result, tracks, spent, status)
            spent |= {"total": sum(spent.values()), "age": _ms_since(arrival)}
            for name, ms in spent.items():
                timings[name].add(ms)
            frames += 1
            detections += len(result.detections)
            objects = max([objects, *(track.id for track in tracks)])  # ids are given in order, from 1
            bar.update()
            if stop.is_set() or frames == config.max_frames:
                break
    seconds = perf_counter() - started  # the files are closed: the frames that the encoder held back are in it
    return {
        "source": source.name,
        "model": _name(config),
        "provider": model.provider_reason,
        "mode": "newest frame" if only_newest else "every frame",
        "ended": stop.reason or ("max frames" if frames == config.max_frames else "end of source"),
        "frames": frames,
        "dropped": dropped,
        "seconds": round(seconds, 3),
        "fps": round(frames / seconds, 2),
        "detections": detections,
        "tracks": objects,
        "stages_ms": {name: timings[name].summary() for name in (*STAGES, "total")},
        "frame_age_ms": timings["age"].summary(),
        "files": [str(file) for file in output.files],
        "warnings": list(source.warnings),
    }


class _Output:
    """The files of one run, opened for its first frame; if even that can not be written they are removed again."""

    def __init__(self, config: LiveConfig, source: FrameSource, first: Frame) -> None:
        self.files = [config.out / "records.jsonl"] + [config.out / "overlay.mp4"] * config.video
        self._written = 0
        with ExitStack() as stack:
            stack.push(self._remove_if_useless)
            self._records = stack.enter_context(RecordWriter(self.files[0], _name(config), source.name))
            self._video: VideoWriter | None = None
            if config.video:
                self._video = stack.enter_context(VideoWriter(self.files[1], source.fps, first.hw))
            self._close = stack.pop_all()

    def write(
        self, frame: Frame, result: Result, tracks: list[Track], spent: dict[str, float], status: dict[str, str]
    ) -> dict[str, float]:
        """Draw and write one frame. Returns the milliseconds of "overlay" and "write"."""
        begin = perf_counter()
        self._records.write(frame, result, tracks, spent)
        write_ms, begin = _ms_since(begin), perf_counter()
        overlay_ms = 0.0
        if self._video:
            image = draw(frame.image, result, tracks, status)
            overlay_ms, begin = _ms_since(begin), perf_counter()
            self._video.write(image, frame.timestamp_s)
            write_ms += _ms_since(begin)
        self._written += 1
        return {"overlay": overlay_ms, "write": write_ms}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._close.__exit__(*error)

    def _remove_if_useless(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and not self._written:
            for file in self.files:
                file.unlink(missing_ok=True)


class _Stop(threading.Event):
    """Set when the user wants an end; `reason` is the name of the signal."""

    reason = ""


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM set the event that is yielded, so that the files can be finished; a second one interrupts."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def ask(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.reason = signal.Signals(number).name
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _every(source: FrameSource) -> Generator[tuple[Frame, float], None, None]:
    """(frame, when it was read) for every frame, in order."""
    for frame in source:
        yield frame, perf_counter()


def _timed(arrivals: Iterator[tuple[Frame, float]]) -> Iterator[tuple[Frame, float, float]]:
    """(frame, arrival, milliseconds that the frame was waited for)."""
    while True:
        begin = perf_counter()
        item = next(arrivals, None)
        if item is None:
            return
        yield *item, _ms_since(begin)


def _name(config: LiveConfig) -> str:
    return (config.model or BUNDLED_MODEL).stem


def _ms_since(begin: float) -> float:
    return 1e3 * (perf_counter() - begin)


def _text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    rows = {**summary["stages_ms"], "frame age": summary["frame_age_ms"]}
    columns = ("p50", "p90", "p99", "max")
    return "\n".join(
        [
            "{frames} frames in {seconds:.2f} s = {fps:.1f} frames per second, from file to files".format(**summary),
            "{source}: {mode}, {dropped} dropped, {detections} detections, {tracks} tracks; {ended}".format(**summary),
            "milliseconds" + "".join(f"{name:>9}" for name in columns),
            *(f"{name:<12}" + "".join(f"{row[column]:9.2f}" for column in columns) for name, row in rows.items()),
            "wrote " + ", ".join(summary["files"]),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="warning: %(message)s")
    return run(LiveConfig, live, argv)


if __name__ == "__main__":
    raise SystemExit(main())
