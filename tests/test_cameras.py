"""Several cameras: merged by time, each with its own tracks, none starved; the picture shows all of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from perception.camera import Camera
from perception.cameras import camera_names, every_of, newest_of
from perception.live import LiveConfig, Stop, main, process
from perception.model import load
from perception.records import read_records
from perception.sources import FrameSource
from perception.structures import Frame
from perception.video import VideoWriter

HW = (48, 64)


class Moving(FrameSource):
    """A red car that goes right from `start`; live: a frame each 1 / fps s."""

    def __init__(self, name: str, n: int, fps: float, live: bool = False, start: int = 2, fail: bool = False) -> None:
        super().__init__(name, fps=fps, frame_count=n, live=live, hw=HW)
        self.start, self.fail = start, fail

    def __iter__(self) -> Iterator[Frame]:
        begin = time.perf_counter()
        for i in range(self.frame_count or 0):
            if self._closed:
                return
            if self.live:
                time.sleep(max(0.0, begin + i / self.fps - time.perf_counter()))
            image = np.full((*HW, 3), 70, np.uint8)
            left = self.start + int(10 * i / self.fps)
            image[10:40, left : left + 20] = (0, 0, 200)
            yield Frame(image, i, i / self.fps, self.name)
        if self.fail:
            raise OSError(f"{self.name} is gone")


def test_names_are_short_and_differ() -> None:
    sources = [Moving(name, 1, 1) for name in ("front.mp4", "left.mp4", "front.avi", "camera 0")]
    assert camera_names(sources) == ["front", "left", "front-2", "camera 0"]
    assert camera_names(sources[:1]) == [""]


def test_recordings_are_merged_by_time_and_none_is_lost() -> None:
    plan = [("a", 20, 20.0), ("b", 10, 10.0), ("c", 30, 30.0)]
    sources = [Moving(name, n, fps) for name, n, fps in plan]
    got = [arrival.frame for (arrival,) in every_of(sources, ["a", "b", "c"], False, threading.Event())]
    slow = sorted((i / fps, name, i) for name, n, fps in plan for i in range(n))
    assert [(frame.camera, frame.id) for frame in got] == [(name, i) for _, name, i in slow]


def test_live_cameras_take_turns_and_drops_are_told() -> None:
    """A fast and a slow camera, and a consumer that is slower than both together."""
    sources = [Moving("fast", 200, 200.0, live=True), Moving("slow", 20, 20.0, live=True)]
    got, lost = [], Counter[str]()
    for ((frame, _, gone),) in newest_of(sources, ["fast", "slow"], lambda _: False, threading.Event()):
        got.append(frame)
        lost[frame.camera] += len(gone)
        time.sleep(0.03)
    seen = Counter(frame.camera for frame in got)
    assert seen["fast"] + lost["fast"] == 200 and seen["slow"] + lost["slow"] == 20
    assert seen["slow"] >= 8 and seen["fast"] >= 8  # neither starves
    for name in ("fast", "slow"):
        ids = [frame.id for frame in got if frame.camera == name]
        assert ids == sorted(set(ids)) and ids[-1] == {"fast": 199, "slow": 19}[name]


def test_an_error_of_one_camera_ends_all_and_leaves_no_thread() -> None:
    sources = [Moving("one", 5, 100.0, live=True, fail=True), Moving("two", 10_000, 100.0, live=True)]
    with pytest.raises(OSError, match="one is gone"):
        for _ in newest_of(sources, ["one", "two"], lambda _: False, threading.Event()):
            pass
    deadline = time.perf_counter() + 10
    while any(thread.name in ("camera", "newest frame") for thread in threading.enumerate()):
        assert time.perf_counter() < deadline
        time.sleep(0.01)


def test_stop_ends_all_cameras() -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    sources = [Moving("one", 10_000, 100.0, live=True), Moving("two", 10_000, 100.0, live=True)]
    assert 0 < sum(1 for _ in newest_of(sources, ["one", "two"], lambda _: False, stop)) < 1000


def clip(path: Path, n: int, fps: float, start: int, hw: tuple[int, int] = HW) -> Path:
    with VideoWriter(path, fps, hw) as video:
        for frame in Moving(path.name, n, fps, start=start):
            video.write(frame.image, frame.timestamp_s)
    return path


def test_three_files_through_the_front_door(tiny_model: Path, tmp_path: Path) -> None:
    paths = [
        clip(tmp_path / "front.mp4", 20, 20.0, 2),
        clip(tmp_path / "left.mp4", 10, 10.0, 20),
        clip(tmp_path / "right.mp4", 20, 20.0, 30),
    ]
    out = tmp_path / "out"
    assert main([*map(str, paths), "--model", str(tiny_model), "--provider", "cpu", "--out", str(out)]) == 0
    lines = read_records(out / "records.jsonl")[1]
    by_camera = {name: [line for line in lines if line["camera"] == name] for name in ("front", "left", "right")}
    assert {name: [line["frame"] for line in some] for name, some in by_camera.items()} == {
        "front": list(range(20)), "left": list(range(10)), "right": list(range(20)),
    }  # fmt: skip
    times = [line["timestamp_s"] for line in lines]
    assert times == sorted(times)
    for name, start, step in (("front", 2, 0.5), ("left", 20, 1.0), ("right", 30, 0.5)):
        for line in by_camera[name][2:]:
            (track,) = line["tracks"]  # each camera counts its own objects, from 1
            assert track["id"] == 1 and track["xyxy"][0] == pytest.approx(start + step * line["frame"], abs=4)
    with av.open(str(out / "overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(pictures) == 20 and {p.shape for p in pictures} == {(2 * HW[0], 2 * HW[1], 3)}
    last = pictures[-1].astype(int)
    assert (last[: HW[0], HW[1] :].max() > 60) and last[
        HW[0] :, HW[1] :
    ].max() < 40  # left is there, the fourth is empty
    assert (last[:, :, 2] - last[:, :, 1] > 10)[HW[0] :, 40:56].any()  # the car of the right camera


def test_one_model_and_live_cameras_count_their_own_drops(tiny_model: Path, tmp_path: Path) -> None:
    sources = [Moving("a", 60, 100.0, live=True), Moving("b", 30, 50.0, live=True)]
    config = LiveConfig(out=tmp_path, model=tiny_model)
    summary = process(config, load(tiny_model, "cpu", 0.15, 1), sources, Stop())
    for name, n in (("a", 60), ("b", 30)):
        camera = summary["cameras"][name]
        assert camera["frames"] + camera["dropped"] == n
    assert summary["frames"] == sum(camera["frames"] for camera in summary["cameras"].values())
    lines = read_records(tmp_path / "records.jsonl")[1]
    for name, n in (("a", 60), ("b", 30)):
        assert [line["frame"] for line in lines if line["camera"] == name] == list(range(n))


@pytest.fixture
def rig(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, list[Any]]]:
    """Runs two cameras that see the same with the options that are given; the records by camera."""
    paths = [str(clip(tmp_path / f"{name}.mp4", 10, 20.0, 12)) for name in ("front", "left")]

    def go(*options: str, expect: int = 0) -> dict[str, list[Any]]:
        out = tmp_path / "out"
        command = [*paths, "--model", str(tiny_model), "--provider", "cpu", "--out", str(out), "--no-video"]
        assert main([*command, *options]) == expect
        lines = read_records(out / "records.jsonl")[1] if expect == 0 else []
        return {name: [line for line in lines if line["camera"] == name] for name in ("front", "left")}

    return go


def metres(lines: list[Any]) -> list[float]:
    return [track["distance_m"] for line in lines for track in line["tracks"] if "distance_m" in track]


def test_every_camera_has_its_own_calibration_or_all_share_one(
    rig: Callable[..., dict[str, list[Any]]], tmp_path: Path
) -> None:
    low = Camera(hw=HW, focal_xy=(100.0, 100.0), centre_xy=(31.5, 23.5), height_m=1.5)
    low.save(tmp_path / "low.json")
    replace(low, height_m=3.0).save(tmp_path / "high.json")
    replace(low, focal_xy=(40.0, 40.0), distortion=(-0.25, 0.0, 0.0, 0.0, 0.0)).save(tmp_path / "bent.json")
    files = {name: ["--camera", str(tmp_path / f"{name}.json")] for name in ("low", "high", "bent")}

    plain = rig()
    assert metres(plain["front"]) == metres(plain["left"]) == []
    both = rig(*files["low"])
    assert metres(both["front"]) == metres(both["left"]) and metres(both["left"])[-1] == pytest.approx(9.4, rel=0.15)
    each = rig(*files["low"], *files["high"])
    assert metres(each["front"]) == metres(both["front"])
    assert metres(each["left"]) == pytest.approx([2 * far for far in metres(both["left"])], abs=0.011)
    other = rig(*files["high"], *files["low"])  # in the order of the sources
    assert metres(other["front"]) == metres(each["left"]) and metres(other["left"]) == metres(each["front"])
    bent = rig(*files["low"], *files["bent"])
    assert [line["boxes"] for line in bent["front"]] == [line["boxes"] for line in plain["front"]]
    for straight, seen in zip(bent["left"], plain["left"], strict=True):
        assert straight["boxes"][0]["xyxy"] != pytest.approx(seen["boxes"][0]["xyxy"], abs=1)


def test_a_wrong_number_or_shape_of_calibrations_is_one_line(
    rig: Callable[..., dict[str, list[Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = str(tmp_path / "right.json"), str(tmp_path / "wrong.json")
    Camera(hw=HW, focal_xy=(100.0, 100.0), centre_xy=(31.5, 23.5)).save(right)
    Camera(hw=(480, 480), focal_xy=(100.0, 100.0), centre_xy=(239.5, 239.5)).save(wrong)
    rig(*["--camera", right] * 3, expect=2)
    err = capsys.readouterr().err
    assert "--camera: expected 1 file for all sources, or 2, one for each, but got 3" in err and err.count("\n") == 1
    assert main(["no.mp4", *["--camera", right] * 2]) == 2
    assert "--camera: expected 1 file, but got 2" in capsys.readouterr().err
    rig("--camera", right, "--camera", wrong, expect=2)
    assert "error: left: the camera file is for frames 480x480" in capsys.readouterr().err


def test_live_cameras_can_not_wait_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out --no-drop"):
        every_of([Moving("a", 1, 1, live=True), Moving("b", 1, 1)], ["a", "b"], False, threading.Event())
