"""What a run leaves behind when it is overloaded, killed, or loses its disk: all that was computed, readable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from perception.engine import Engine
from perception.live import LiveConfig, Stop, process
from perception.model import Model
from perception.records import RecordWriter, read_records
from perception.sources import FrameSource
from perception.structures import Frame
from perception.tracks import Tracker
from perception.video import VideoWriter

HW = (48, 64)


class Drive(FrameSource):
    """Frames with a red car that moves, made on the fly; a camera if `live`, which then gives one each 1 / fps s."""

    def __init__(self, n: int, fps: float = 50.0, live: bool = False) -> None:
        super().__init__("drive", fps=fps, frame_count=n, live=live, hw=HW)
        self.given = 0

    def __iter__(self) -> Iterator[Frame]:
        begin = time.perf_counter()
        for i in range(self.frame_count or 0):
            if self.live:
                time.sleep(max(0.0, begin + i / self.fps - time.perf_counter()))
            image = np.full((*HW, 3), 70, np.uint8)
            left = 2 + i * 30 // (self.frame_count or 1)
            image[10:40, left : left + 25] = (0, 0, 200)
            self.given += 1
            yield Frame(image, i, i / self.fps, "drive")


class Slow:
    """The engine, and then it takes its time."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.engine, self.seconds = engine, seconds
        self.metadata, self.input_hw = engine.metadata, engine.input_hw

    def run(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        time.sleep(self.seconds)
        return self.engine.run(tensor)


def model_of(path: Path, seconds: float = 0.0) -> Model:
    return Model(Slow(Engine(path, "cpu", 1), seconds), 0.15)


def run(model: Model, source: FrameSource, out: Path, **options: Any) -> dict[str, Any]:
    return process(LiveConfig(out=out, model=Path("tiny.onnx"), **options), model, [source], Stop())


def readable(folder: Path) -> int:
    """How many frames the records hold; every one of them is checked."""
    lines = read_records(folder / "records.jsonl")[1]
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    return len(lines)


@pytest.mark.parametrize("live", [False, True])
def test_overload_keeps_frames_young(tiny_model: Path, tmp_path: Path, live: bool) -> None:
    """The model takes five times as long as a frame; a result is at most two model times and one frame old.

    With the core to itself that is one model time and at most one frame; the second model time is what other programs
    may take. So the model is slow enough for a busy machine, and sleeps, so that those do not make it slower.
    """
    fps, model_s = 20.0, 0.25
    summary = run(model_of(tiny_model, model_s), Drive(30, fps, live), tmp_path, realtime=not live, video=False)
    assert summary["frames"] + summary["dropped"] == 30 and 3 <= summary["frames"] <= 10
    assert 1e3 * model_s < summary["frame_age_ms"]["p99"] <= 1e3 * (2 * model_s + 1 / fps)


@pytest.mark.parametrize("live", [False, True])
def test_overload_counts_exactly(tiny_model: Path, tmp_path: Path, live: bool) -> None:
    """50 frames a second; the model takes five times as long."""
    source, seconds = Drive(60, 50.0, live), 0.1
    summary = run(model_of(tiny_model, seconds), source, tmp_path, realtime=not live, video=False)
    lines = read_records(tmp_path / "records.jsonl")[1]
    seen = [line for line in lines if line.get("inferred", True)]
    assert [line["frame"] for line in lines] == list(range(60)) and lines[-1] in seen
    assert (summary["frames"], summary["dropped"]) == (len(seen), 60 - len(seen)) and 5 <= len(seen) <= 20
    for line in lines[lines.index(seen[1]) :]:  # confirmed by the second detection, and never out of sight again
        assert [track["id"] for track in line["tracks"]] == [1], line
    late = [line for line in lines[lines.index(seen[3]) :] if not line.get("inferred", True)]
    for line in late:  # where the tracks were expected, they are
        assert line["tracks"][0]["xyxy"][0] == pytest.approx(2 + line["frame"] / 2, abs=4)
        assert line["tracks"][0]["unseen_s"] > 0 and line["boxes"] == []


@pytest.mark.parametrize("live", [False, True])
def test_no_drop_keeps_every_frame_of_what_is_live(tiny_model: Path, tmp_path: Path, live: bool) -> None:
    source = Drive(40, 200.0, live)
    summary = run(model_of(tiny_model, 0.01), source, tmp_path, realtime=not live, no_drop=True)
    assert (summary["frames"], summary["dropped"], summary["mode"]) == (40, 0, "every frame")
    assert readable(tmp_path) == 40 and summary["frame_age_ms"]["max"] > summary["stages_ms"]["inference"]["max"]


def test_reading_waits_for_the_model(tiny_model: Path, tmp_path: Path) -> None:
    """Memory is bounded: the reader is never more than the queues ahead."""
    source = Drive(500)
    run(model_of(tiny_model, 0.002), source, tmp_path, max_frames=10)
    assert source.given <= 11 and readable(tmp_path) == 10


@pytest.mark.parametrize("stage", ["infer", "follow", "records", "video"])
def test_an_error_in_any_stage_ends_the_run_and_finishes_the_files(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    owner: Any = {"infer": Model, "follow": Tracker, "records": RecordWriter, "video": VideoWriter}[stage]
    name = {"infer": "infer", "follow": "update"}.get(stage, "write")
    original, calls = getattr(owner, name), 0

    def broken(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 21:
            raise RuntimeError(f"{stage} broke")
        return original(self, *args)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(RuntimeError, match=f"{stage} broke"):
        run(model_of(tiny_model), Drive(1000), tmp_path)
    assert readable(tmp_path) >= 20
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 20
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pipeline")]


def test_an_error_of_the_first_frame_leaves_no_files(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Model, "infer", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run(model_of(tiny_model), Drive(10), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_was_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RecordWriter._put

    def full(self: RecordWriter, line: str) -> None:
        if '"frame":25' in line:
            raise self.failed(OSError(28, "No space left on device"))
        original(self, line)

    monkeypatch.setattr(RecordWriter, "_put", full)
    with pytest.raises(OSError, match=r"records.jsonl: can not be written: No space left"):
        run(model_of(tiny_model), Drive(1000), tmp_path)
    assert readable(tmp_path) == 25
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove files that are open")
def test_a_folder_that_is_removed_ends_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """The files are open, and what is written into them would go nowhere, without an error of the system."""
    out = tmp_path / "out"
    source = Drive(2000, 100.0, live=True)
    remover = threading.Timer(0.5, shutil.rmtree, (out,), {"ignore_errors": True})
    remover.start()
    with pytest.raises(OSError, match="was removed while it was written"):
        run(model_of(tiny_model), source, out)
    remover.join()
    assert source.given < 1500


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_killed_outright_the_files_can_be_read(tiny_model: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    with VideoWriter(clip, 25, HW) as video:
        for frame in Drive(400, 25.0):
            video.write(frame.image, frame.timestamp_s)
    argv = [sys.executable, "-m", "perception.live", str(clip), "--model", str(tiny_model), "--out", str(out)]
    process_ = subprocess.Popen([*argv, "--realtime"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (out / "records.jsonl").exists() or (out / "records.jsonl").read_bytes().count(b"\n") < 60:
            assert time.monotonic() < deadline and process_.poll() is None
            time.sleep(0.02)
        os.kill(process_.pid, signal.SIGKILL)
        process_.wait(timeout=60)
    finally:
        process_.kill()
    frames = readable(out)
    assert process_.returncode == -signal.SIGKILL and 59 <= frames < 400
    with av.open(str(out / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
