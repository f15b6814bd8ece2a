"""Whether perception.live can run for days: a clip in an endless loop in real time, watched from minute to minute.

    python benchmarks/soak.py [CLIP] --minutes 60 [--model FILE.onnx] [--json FILE]

The clip plays at its own speed, over and over, as a camera would, through the whole loop with records and video. Every
minute gives one line: resident memory, threads, open files, frames, drops, and the ages of the frames of that minute
alone. The verdict is on what follows the first `settle_minutes`: a straight line fitted to the memory may rise by 1 %,
the number of threads and open files not at all, and the median p99 of the last third of the minutes may be a quarter
over that of the first third. A minute's memory is the median over its frames: a file that is opened anew takes and
gives back some MB. Memory and open files are read from /proc: Linux only. The exit code is 1 if the verdict is no.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.machine import Watch, resident_mb, result, row
from perception import cli, live
from perception.demo import demo_source
from perception.engine import Provider
from perception.frames import open_source
from perception.model import BUNDLED_MODEL, load
from perception.sinks import Outcome, Sink
from perception.sources import FrameSource
from perception.structures import Frame
from perception.timings import Timings

MAX_GROWTH = 0.01  # of resident memory
MAX_DRIFT = 1.25  # of p99


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Options of benchmarks/soak.py."""

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CLIP")] = None
    """Video file; left out: demo footage."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """ONNX file; left out: the bundled model."""
    provider: Provider = "auto"
    """What must run the model."""
    threads: int = 0
    """CPU threads inside one operator of the model; 0 = one for each core."""
    minutes: float = 60.0
    """How long."""
    minute_s: float = 60.0
    """Seconds of what is called a minute; less is for a test of this script."""
    settle_minutes: int = 5
    """Memory may grow during the first of them."""
    video: bool = True
    """Draw and write the overlay too."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


class Looped(FrameSource):
    """A file over and over; ids and times go on."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__(f"{source.name}, looped", fps=source.fps, frame_count=None, live=False, hw=source.hw)
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        frames, begin_s = 0, 0.0
        while not self._closed:
            last_s = 0.0
            for frame in self._source:
                last_s = frame.timestamp_s
                yield replace(frame, id=frames, timestamp_s=begin_s + last_s)
                frames += 1
            begin_s += last_s + 1 / self.fps


class Minutes(Sink):
    """Prints and keeps a line a minute; asks for the end after the last one."""

    name = "minutes"

    def __init__(self, config: SoakConfig, stop: live.Stop) -> None:
        self.rows: list[dict[str, float]] = []
        self._config, self._stop = config, stop
        self._begin = time.monotonic()
        self._ages, self._first_id, self._last_id = Timings(), 0, -1
        self._memory_mb: list[float] = []

    def write(self, outcome: Outcome) -> None:
        self._ages.add(outcome.spent["age"])
        self._memory_mb.append(resident_mb())
        self._last_id = outcome.frame.id
        if time.monotonic() - self._begin < (len(self.rows) + 1) * self._config.minute_s:
            return
        row = {
            "minute": len(self.rows) + 1,
            "rss_mb": round(median(self._memory_mb), 2),
            "threads": threading.active_count(),
            "all_threads": len(os.listdir("/proc/self/task")),
            "open_files": len(os.listdir("/proc/self/fd")),
            "frames": self._ages.count,
            "dropped": self._last_id + 1 - self._first_id - self._ages.count,
            **{f"age_{name}_ms": ms for name, ms in self._ages.summary().items()},
        }
        self.rows.append(row)
        self._ages, self._first_id = Timings(), self._last_id + 1
        self._memory_mb.clear()
        print(" ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)
        if len(self.rows) >= self._config.minutes:
            self._stop.reason = "time is up"
            self._stop.set()


def soak(config: SoakConfig) -> dict[str, Any]:
    """Run for so long, and judge."""
    model = load(config.model, config.provider, threads=config.threads)
    print(model.provider_reason, flush=True)
    stop = live.Stop()
    minutes, noise = Minutes(config, stop), Watch()
    path = config.source or demo_source()[0]
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        looped = Looped(opened.enter_context(open_source(path)))
        options = live.LiveConfig(out=folder, realtime=True, video=config.video, model=config.model)
        summary = live.process(options, model, [opened.enter_context(looped)], stop, [minutes])
    if not minutes.rows:
        raise ValueError(f"the run ended before its first minute of {config.minute_s:g} s: {summary['ended']}")
    del summary["files"]  # of a folder that is gone
    found = verdict(minutes.rows, config.settle_minutes)
    print(f"verdict: {'passed' if found['passed'] else 'FAILED'} {found}")
    return soak_result(config, Path(path).name, minutes.rows, noise.result(), {**found, "summary": summary})


def soak_result(
    config: SoakConfig,
    source: str,
    minutes: Sequence[Mapping[str, float]],
    noise: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """The form of machine.py, with a minute as a round."""
    settings = {"model": (config.model or BUNDLED_MODEL).stem, "source": source}
    settings |= {name: getattr(config, name) for name in ("threads", "minute_s", "settle_minutes", "video")}
    rows = {"resident memory": row("MB", [minute["rss_mb"] for minute in minutes])}
    for name in ("p50", "p99"):
        rows[f"frame age, {name}"] = row("ms", [minute[f"age_{name}_ms"] for minute in minutes])
    return result("soak", settings, rows, noise, None, minutes=list(minutes), **figures)


def verdict(rows: Sequence[Mapping[str, float]], settle: int) -> dict[str, Any]:
    """What grew after the first `settle` minutes, and whether that is little enough."""
    rest = rows[max(0, settle - 1) :]
    if len(rest) < 2:
        return {"passed": False, "why": f"expected more than {settle} minutes, but got {len(rows)}"}
    third = max(1, len(rest) // 3)
    first, last = (median(row["age_p99_ms"] for row in some) for some in (rest[:third], rest[-third:]))
    slope, start = np.polyfit(range(len(rest)), [row["rss_mb"] for row in rest], 1)
    found: dict[str, Any] = {
        "rss_growth": round(float(slope * (len(rest) - 1) / start), 5),
        "p99_drift": round(last / first, 4),
        "thread_growth": max(row["all_threads"] for row in rest[1:]) - rest[0]["all_threads"],
        "file_growth": max(row["open_files"] for row in rest[1:]) - rest[0]["open_files"],
    }
    passed = (
        found["rss_growth"] < MAX_GROWTH
        and found["p99_drift"] < MAX_DRIFT
        and max(found["thread_growth"], found["file_growth"]) <= 0
    )
    return {"passed": passed, **found}


def main(argv: Sequence[str] | None = None) -> int:
    passed = False

    def body(config: SoakConfig) -> dict[str, Any]:
        nonlocal passed
        summary = soak(config)
        passed = summary["figures"]["passed"]
        return summary

    body.__module__ = __name__
    return cli.run(SoakConfig, body, argv) or int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())
