"""Run the model on videos, image folders, cameras or streams: overlay video, records and a summary.

python -m perception.live [SOURCE ...] [--model FILE.onnx] [--out DIR]

Files: every frame is processed, in order. Cameras, streams and --realtime: the newest frame wins, the others are
counted as dropped, and tracks are carried on through them; with --no-drop every frame is processed there too, and the
source has to wait. Without SOURCE it runs on demo footage. Several sources are cameras of one drive: one model looks
at their frames in the order of time, each has its own tracks, and the video shows them side by side.

Exit codes: 0 = the source, --max-frames, Ctrl-C or SIGTERM ended it, and all files are complete. 2 = a mistake in the
input, or the files could not be written any more (disk full, folder gone): one line on standard error, and what was
written before can be read. 130 = interrupted twice. 1 = a bug of ours, with a traceback. Killed outright (SIGKILL), the
records have every frame that was finished, and the video all but its last second.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from perception.camera import Camera
from perception.cameras import camera_names, every_of, newest_of
from perception.cli import run
from perception.engine import Provider
from perception.execution.providers import GpuOptions
from perception.frames import FrameSource, open_source
from perception.livestream import GIVE_UP_S
from perception.model import BUNDLED_MODEL, SCORE_THRESHOLD, Model, load
from perception.newest import Arrival
from perception.outputs.choice import Output, require_extras
from perception.pipeline import pipeline
from perception.sinks import Sink, close_sinks, open_sinks
from perception.stages import ROOM, Batch, Passage, Stages, arrived
from perception.tally import Tally
from perception.tracks import Tracker, TrackerConfig

__all__ = ["LiveConfig", "Stop", "live", "main", "process"]

log = logging.getLogger(__name__)

LOOK_AFTER = 50  # frames: are the files still there?


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Where the frames come from, what runs on them, and where the results go."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = ()
    """Video file, image folder, glob, camera number or rtsp/http address; several for several cameras, recordings
    that begin at the same time; left out: demo footage."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """ONNX file written by perception.export, or name of a bundled model: drive-n (left out) or drive-t."""
    provider: Provider = "auto"
    """What must run the model. Only auto may choose (CUDA, OpenVINO, CPU), and the first line says why."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/live")
    """Folder for the outputs."""
    realtime: bool = False
    """Play a file at its own speed and keep only the newest frame, as with a camera."""
    no_drop: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Process every frame of a live source or with --realtime as well, however late: the reading waits."""
    give_up_s: float = GIVE_UP_S
    """A camera or stream that breaks off is opened again and again for so many seconds; 0 = it ends the run."""
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after so many processed frames, of all cameras together."""
    outputs: tuple[Output, ...] = ("records", "video")
    """What is left in --out: docs/records.md describes each. mcap and rrd need an extra."""
    video: bool = True
    """--no-video leaves out the video, whatever --outputs says."""
    serve: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[HOST:PORT]")] = None
    """Serve a page to watch the run, by default at 127.0.0.1:8600; any other address asks for a token. Extra: serve."""
    score_threshold: float = SCORE_THRESHOLD
    """Boxes that score less are not recorded and begin no track; down to half of it they still continue one."""
    threads: int = 0
    """CPU threads inside one operator of the model; 0 = one for each core."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """How a GPU is used."""
    camera: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE.json")] = ()
    """Camera file of perception.calibrate: frames are undistorted, tracks get distance and time to collision.
    Once for all sources, or once for each in the same order."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the summary as one line of JSON to this file; - = last line of standard output."""


def live(config: LiveConfig) -> dict[str, Any]:
    """Process the source to its end (or --max-frames, Ctrl-C, SIGTERM), print the summary and return it."""
    if config.max_frames is not None and config.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, but got {config.max_frames}")
    if not 0 <= config.score_threshold <= 1:
        raise ValueError(f"--score-threshold must be between 0 and 1, but got {config.score_threshold}")
    require_extras([*_outputs(config), *["serve"] * (config.serve is not None)])
    cameras = max(1, len(config.source))
    if len(config.camera) not in (0, 1, cameras):
        expected = "1 file" if cameras == 1 else f"1 file for all sources, or {cameras}, one for each"
        raise ValueError(
            f"--camera: expected {expected}, but got {len(config.camera)}; give it once, or once a source in order"
        )
    with _notice(f"loading and warming up {_name(config)} ..."):
        model = load(config.model, config.provider, config.score_threshold / 2, config.threads, config.gpu)
    print(model.provider_reason, flush=True)
    size = model.engine.metadata.batch
    if size > cameras:
        log.warning(
            "%s takes %d frames in one call, but got %d camera(s): the other places are computed for nothing; "
            "python -m perception.export RUN_OR_FILE --batch %d --out FILE.onnx makes one that fits",
            _name(config), size, cameras, cameras,
        )  # fmt: skip
    paths = config.source
    if not paths:
        from perception.demo import demo_source

        path, credit = demo_source()
        paths = (path,)
        print(credit, flush=True)
    with ExitStack() as opened:
        sources = [opened.enter_context(open_source(path, give_up_s=config.give_up_s)) for path in paths]
        stop = opened.enter_context(_stop_on_signals())
        stop.then = [source.leave for source in sources]  # where the loop itself waits for a frame
        pages = opened.enter_context(_page(config, sources))
        summary = process(config, model, sources, stop, pages)
    print(_text(summary), flush=True)
    return summary


def process(
    config: LiveConfig, model: Model, sources: Sequence[FrameSource], stop: Stop, more: Sequence[Sink] = ()
) -> dict[str, Any]:
    """The loop: read, infer, track, and write into the sinks, and `more` of them, all at the same time.

    Returns the summary.
    """
    cameras = camera_names(sources)
    title = ", ".join(source.name for source in sources)
    names = model.engine.metadata.box_names
    follow = TrackerConfig(high_score=config.score_threshold, low_score=config.score_threshold / 2)
    trackers = {name: Tracker(follow, names) if names else Tracker() for name in cameras}  # it may have class maps only
    live = any(source.live for source in sources)
    size = model.engine.metadata.batch
    tally = Tally(cameras, only_newest=(live or config.realtime) and not config.no_drop, batch=size)
    files = config.camera * len(cameras) if len(config.camera) == 1 else config.camera
    calibrated = {name: Camera.load(file) for name, file in zip(cameras, files, strict=bool(files))}
    stages = Stages(model, trackers, config.score_threshold, lambda passage: tally.status(passage, model), calibrated)
    if tally.only_newest:
        arrivals = newest_of(sources, cameras, lambda source: not source.live, stop, size)
    else:
        arrivals = every_of(sources, cameras, config.realtime and not live, stop, size)
    with closing(arrivals):
        first = next(arrivals, None)
        if first is None:
            if stop.is_set():
                raise KeyboardInterrupt
            problems = [warning for source in sources for warning in source.warnings]
            raise ValueError("; ".join([f"{title}: no frame could be read", *problems]))
        counts = [source.frame_count for source in sources]
        total = min((n for n in (sum(n or 0 for n in counts) * all(counts), config.max_frames) if n), default=None)
        sinks = open_sinks(
            _outputs(config),
            config.out,
            model=_name(config),
            source=title,
            fps=sources[cameras.index(first[0].frame.camera)].fps,
            first=first[0].frame,
            cameras=cameras,
            endless=total is None,
            more=more,
        )
        try:
            coming = arrived(_limited(first, arrivals, config.max_frames))
            with (
                closing(_passages(coming, stages, sinks, tally.only_newest)) as passages,
                tqdm(total=total, unit="frame", disable=not sys.stderr.isatty()) as bar,
            ):
                for passage in passages:
                    tally.add(passage)
                    bar.set_postfix_str(tally.line(model), refresh=False)
                    bar.update()
                    if tally.frames % LOOK_AFTER == 0:
                        _require_there(sinks)
        except BaseException:
            close_sinks(sinks, failed=True)
            if not tally.frames:
                for file in (file for sink in sinks for file in sink.files):
                    file.unlink(missing_ok=True)
            raise
        close_sinks(sinks)
        _require_there(sinks)
    seconds = perf_counter() - tally.started  # the files are closed: the frames that the encoder held back are in it
    stopped = stop.reason or ("max frames" if tally.frames == config.max_frames else "end of source")
    return {
        "source": title,
        "model": _name(config),
        "provider": model.provider_reason,
        "mode": "newest frame" if tally.only_newest else "every frame",
        "ended": stopped,
        **tally.summary(seconds),
        "files": [str(file) for sink in sinks for file in sink.files],
        "warnings": [warning for source in sources for warning in source.warnings],
    }


def _passages(
    coming: Generator[Batch, None, None], stages: Stages, sinks: Sequence[Sink], only_newest: bool
) -> Generator[Passage, None, None]:
    """The frames that have been through all stages; how these are spread over threads says stages.py."""
    inferred = _inferred(coming, stages) if only_newest else pipeline(coming, [stages.prepare, stages.infer], ROOM)
    return pipeline(_one_by_one(inferred), [stages.follow, *(stages.into(sink) for sink in sinks)], ROOM)


def _inferred(coming: Generator[Batch, None, None], stages: Stages) -> Generator[list[Passage], None, None]:
    with closing(coming):
        for batch in coming:
            yield stages.infer(stages.prepare(batch))


def _one_by_one(batches: Generator[list[Passage], None, None]) -> Generator[Passage, None, None]:
    with closing(batches):
        for passages in batches:
            yield from passages


class Stop(threading.Event):
    """Set when the user wants an end; `reason` is the name of the signal."""

    reason = ""
    then: Sequence[Callable[[], None]] = ()  # called once it is set


@contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set the event that is yielded, so that the files can be finished; a second one interrupts."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def ask(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.reason = signal.Signals(number).name
        stop.set()
        for call in stop.then:
            call()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_there(sinks: Sequence[Sink]) -> None:
    """Raise OSError if a file was removed while it was written: what goes into it now is lost."""
    for file in (file for sink in sinks for file in sink.files):
        if not file.exists():
            raise OSError(f"{file}: was removed while it was written; expected it to stay; run again")


def _limited(
    first: list[Arrival], arrivals: Generator[list[Arrival], None, None], count: int | None
) -> Generator[list[Arrival], None, None]:
    """`first` and what comes after it, at most `count` frames together."""
    taken = 0
    with closing(arrivals):
        for group in chain([first], arrivals):
            group = group[: None if count is None else count - taken]
            taken += len(group)
            yield group
            if taken == count:
                return


@contextmanager
def _notice(text: str) -> Iterator[None]:
    """Say on a terminal what one waits for; gone afterwards."""
    shown = sys.stderr.isatty()
    print(text * shown, end="\r" * shown, file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(text) * shown, end="\r" * shown, file=sys.stderr, flush=True)


@contextmanager
def _page(config: LiveConfig, sources: Sequence[FrameSource]) -> Iterator[list[Sink]]:
    """The page to watch, if one is asked for; its address is printed."""
    if config.serve is None:
        yield []
        return
    if len(config.serve) > 1:
        raise ValueError(f"--serve: expected one HOST:PORT, but got {' '.join(config.serve)}; a SOURCE goes before it")
    from perception.serve.server import PageServer

    title = ", ".join(source.name for source in sources)
    with closing(PageServer("".join(config.serve), _name(config), title, camera_names(sources))) as page:
        print(f"watch at {page.url}", flush=True)
        yield [page]


def _outputs(config: LiveConfig) -> list[Output]:
    """What is asked for, each once."""
    return [output for output in dict.fromkeys(config.outputs) if config.video or output != "video"]


def _name(config: LiveConfig) -> str:
    return (config.model or BUNDLED_MODEL).stem


def _text(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    rows = {**summary["stages_ms"], "frame age": summary["frame_age_ms"]}
    batch = summary.get("batch")
    columns = ("p50", "p90", "p99", "max")
    return "\n".join(
        [
            "{frames} frames in {seconds:.2f} s = {fps:.1f} frames per second, from file to files".format(**summary),
            "{source}: {mode}, {dropped} dropped, {detections} detections, {tracks} tracks; {ended}".format(**summary),
            "milliseconds" + "".join(f"{name:>9}" for name in columns) + "    share",
            *(
                f"{name:<12}"
                + "".join(f"{row[column]:9.2f}" for column in columns)
                + (f"{row['share']:9.1%}" if "share" in row else "")
                for name, row in rows.items()
            ),
            *(["{calls} calls of {size} places, {unused} of them unused".format(**batch)] if batch else []),
            "wrote " + ", ".join(summary["files"]),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="warning: %(message)s")
    return run(LiveConfig, live, argv)


if __name__ == "__main__":
    raise SystemExit(main())
