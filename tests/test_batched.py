"""Several cameras in one call of the model: the same answers, in the same order, and nobody waits for a camera."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception import cameras as cameras_module
from perception.cameras import every_of, newest_of, together
from perception.engine import Engine, Metadata
from perception.live import LiveConfig, Stop, main, process
from perception.model import Model, load
from perception.records import read_records
from perception.sources import FrameSource
from perception.structures import Frame
from perception.tensors import PAD_VALUE
from tests.test_cameras import HW, Moving, clip

Batched = Callable[[int], Path]
PIXEL = np.zeros((1, 1, 3), np.uint8)
LONG_S = 60.0  # a wait that a test never sees the end of


def frames(*plan: tuple[str, float]) -> list[Frame]:
    return [Frame(PIXEL, i, at, camera=camera) for i, (camera, at) in enumerate(plan)]


def letters(groups: Iterator[list[Frame]]) -> list[str]:
    return ["".join(frame.camera for frame in group) for group in groups]


class Silent(FrameSource):
    """A camera that is there, but gives no frame until it is told to leave."""

    def __init__(self, name: str) -> None:
        super().__init__(name, fps=25.0, frame_count=None, live=True, hw=HW)
        self.left = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        self.left.wait(LONG_S)
        yield from ()

    def leave(self) -> None:
        self.left.set()


@pytest.fixture
def not_for_ever() -> Iterator[Stop]:
    """An event that ends what would wait for ever, so that a test fails instead."""
    stop = Stop()
    timer = threading.Timer(LONG_S / 2, stop.set)
    timer.start()
    yield stop
    timer.cancel()


def test_a_group_ends_where_a_camera_comes_again_or_it_is_full() -> None:
    seen = frames(("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("c", 2), ("a", 3), ("b", 3))
    assert letters(together(seen, 3, math.inf)) == ["abc", "ac", "cab"]
    assert letters(together(seen, 2, math.inf)) == ["ab", "ca", "c", "ca", "b"]
    assert letters(together(seen, 1, math.inf)) == list("abcaccab")
    assert letters(together(seen, 3, 0.5)) == ["abc", "ac", "c", "ab"]
    assert letters(together([], 3, math.inf)) == []


def test_a_full_group_is_not_held_back_for_the_next_frame() -> None:
    def endless() -> Iterator[Frame]:
        yield from frames(("a", 0), ("b", 0))
        raise AssertionError("nobody needed another frame")

    assert [frame.camera for frame in next(together(endless(), 2, math.inf))] == ["a", "b"]


def test_an_error_comes_after_the_frames_before_it() -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(("a", 0), ("b", 0), ("a", 1))
        raise OSError("gone")

    got: list[list[Frame]] = []
    with pytest.raises(OSError, match="gone"):
        for group in together(broken(), 3, math.inf):
            got.append(group)
    assert letters(iter(got)) == ["ab", "a"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_recordings_keep_their_order_and_lose_nothing(size: int) -> None:
    plan = [("a", 20, 20.0), ("b", 10, 10.0), ("c", 30, 30.0)]
    sources = [Moving(name, n, fps) for name, n, fps in plan]
    groups = list(every_of(sources, ["a", "b", "c"], False, threading.Event(), size))
    got = [(arrival.frame.camera, arrival.frame.id) for group in groups for arrival in group]
    assert got == [(name, i) for _, name, i in sorted((i / fps, name, i) for name, n, fps in plan for i in range(n))]
    for group in groups:
        names = [arrival.frame.camera for arrival in group]
        assert len(names) == len(set(names)) <= size
    assert max(map(len, groups)) == min(size, 3)


def test_a_recording_at_its_own_speed_is_only_held_back_for_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras_module, "TOGETHER_S", 0.01)
    sources = [Moving("a", 4, 50.0), Moving("b", 4, 50.0), Moving("c", 2, 40.0)]
    groups = every_of(sources, ["a", "b", "c"], True, threading.Event(), 3)
    assert ["".join(arrival.frame.camera for arrival in group) for group in groups] == ["abc", "abc", "ab", "ab"]


def test_live_cameras_go_together_once_all_are_there(monkeypatch: pytest.MonkeyPatch, not_for_ever: Stop) -> None:
    monkeypatch.setattr(cameras_module, "TOGETHER_S", LONG_S)
    sources = [Moving("a", 30, 300.0, live=True), Moving("b", 10, 100.0, live=True), Moving("c", 20, 200.0, live=True)]
    groups = list(newest_of(sources, ["a", "b", "c"], lambda _: False, not_for_ever, 3))
    assert not not_for_ever.is_set()
    assert {arrival.frame.camera for arrival in groups[0]} == {"a", "b", "c"}
    for group, after in pairwise(groups):
        assert len(after) <= len(group), "only a camera that has ended is missing"
    seen = Counter(arrival.frame.camera for group in groups for arrival in group)
    lost = Counter(group_camera for group in groups for a in group for group_camera in [a.frame.camera] * len(a.lost))
    assert seen + lost == Counter(a=30, b=10, c=20)


def test_a_camera_that_is_gone_holds_nobody_back(not_for_ever: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer frames come before the wait is over: it may not begin anew."""
    monkeypatch.setattr(cameras_module, "TOGETHER_S", 0.25)
    gone = Silent("gone")
    sources = [Moving("here", 100_000, 100.0, live=True), gone]
    got = newest_of(sources, ["here", "gone"], lambda _: False, not_for_ever, 2)
    for _ in range(4):
        assert [arrival.frame.camera for arrival in next(got)] == ["here"]
    gone.leave()
    got.close()


def test_more_cameras_than_places_take_turns(not_for_ever: Stop) -> None:
    names = list("abcde")
    sources = [Moving(name, 100_000, 100.0, live=True) for name in names]
    seen = Counter[str]()
    with closing(newest_of(sources, names, lambda _: False, not_for_ever, 2)) as groups:
        for group in islice(groups, 40):
            assert len({arrival.frame.camera for arrival in group}) == len(group) <= 2
            seen.update(arrival.frame.camera for arrival in group)
            time.sleep(0.02)  # slower than the cameras
    assert not not_for_ever.is_set() and all(seen[name] >= 4 for name in names), seen


def test_each_place_answers_as_one_image_does(tiny_model: Path, tiny_batched: Batched) -> None:
    single, many = load(tiny_model, "cpu"), load(tiny_batched(3), "cpu")
    assert many.engine.metadata == replace(single.engine.metadata, batch=3)
    pictures = [frame.image for start in (2, 20, 30) for frame in Moving("x", 1, 1.0, start=start)]
    pictures[1] = np.ascontiguousarray(np.pad(pictures[1], ((0, 30), (0, 7), (0, 0))))  # of another shape
    buffer = many.buffer()
    assert buffer.shape == (3, 64, 96, 3) and (buffer == PAD_VALUE).all()
    boxes = [many.prepare(picture, buffer, place) for place, picture in enumerate(pictures)]
    outputs = many.infer(buffer)
    for place, picture in enumerate(pictures):
        for found in (many.result(outputs, boxes[place], place), many(picture)):
            truth = single(picture)
            np.testing.assert_array_equal(found.boxes, truth.boxes)
            np.testing.assert_array_equal(found.scores, truth.scores)
            assert len(truth.boxes) == 1
            for head, classes in truth.class_maps.items():
                np.testing.assert_array_equal(found.class_maps[head], classes)


def test_a_file_must_take_what_it_says(tiny_batched: Batched, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(tiny_batched(2))
    about = Metadata.from_json(model.metadata_props[0].value)
    assert about.batch == 2
    onnx.helper.set_model_props(model, {"perception": replace(about, batch=3).to_json()})
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ValueError, match="by its metadata `image` has batch 3, but in the graph 2"):
        Engine(tmp_path / "wrong.onnx", "cpu")
    for wrong in (0, 65, "2", True):
        text = json.dumps({**(data := json.loads(about.to_json())), "input": {**data["input"], "batch": wrong}})
        with pytest.raises(ValueError, match="input batch must be a whole number from 1 to 64"):
            Metadata.from_json(text)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "timings_ms"} for line in read_records(out / "records.jsonl")[1]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    plan = [("front", 12, 20.0, 2), ("left", 6, 10.0, 20), ("right", 9, 20.0, 30)]  # right ends early
    return [str(clip(folder / f"{name}.mp4", n, fps, start)) for name, n, fps, start in plan]


@pytest.fixture(scope="module")
def one_by_one(tiny_model: Path, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("one")
    assert main([*clips, "--model", str(tiny_model), "--provider", "cpu", "--out", str(out), "--no-video"]) == 0
    return lines_of(out)


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_records_are_those_of_one_call_a_frame(
    tiny_batched: Batched, clips: list[str], one_by_one: list[dict[str, Any]], tmp_path: Path, batch: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    argv = [*clips, "--model", str(tiny_batched(batch)), "--provider", "cpu", "--out", str(tmp_path)]
    assert main([*argv, "--json", str(tmp_path / "summary.json")]) == 0
    assert lines_of(tmp_path) == one_by_one
    assert {len(line["tracks"]) for line in one_by_one[12:]} == {1}, "there is something to compare"
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = summary["batch"]
    assert summary["frames"] == len(one_by_one) == 27 and found["size"] == batch
    assert found["unused"] == found["calls"] * batch - 27
    assert found["calls"] == {2: 14, 3: 12, 4: 12}[batch]  # 12 moments; two by two, they are filled across moments
    assert ("takes 4 frames in one call, but got 3 camera(s)" in caplog.text) == (batch == 4)


def test_the_last_group_is_cut_at_max_frames(
    tiny_batched: Batched, clips: list[str], one_by_one: list[dict[str, Any]], tmp_path: Path
) -> None:
    argv = [*clips, "--model", str(tiny_batched(3)), "--provider", "cpu", "--out", str(tmp_path), "--no-video"]
    assert main([*argv, "--max-frames", "7", "--json", str(tmp_path / "summary.json")]) == 0
    assert lines_of(tmp_path) == one_by_one[:7]
    assert json.loads((tmp_path / "summary.json").read_text())["ended"] == "max frames"


def test_one_camera_leaves_places_unused_and_is_told_what_to_do(
    tiny_batched: Batched, clips: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    argv = [clips[0], "--model", str(tiny_batched(3)), "--provider", "cpu", "--out", str(tmp_path), "--no-video"]
    assert main(argv) == 0
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "3 frames in one call, but got 1 camera(s)" in warning and "--batch 1" in warning
    assert "12 calls of 3 places, 24 of them unused" in capsys.readouterr().out
    assert [line["frame"] for line in lines_of(tmp_path)] == list(range(12))


class Watched:
    """An engine that keeps the inputs that it got."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.metadata, self.input_hw = engine, engine.metadata, engine.input_hw
        self.seen: list[np.ndarray] = []

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(tensor.copy())
        return self.engine.run(tensor)


def test_live_cameras_in_one_call_count_their_own_drops(tiny_batched: Batched, tmp_path: Path) -> None:
    """Places that nobody fills are grey, whatever was there before."""
    watched = Watched(Engine(tiny_batched(3), "cpu", 1))
    sources = [Moving("a", 60, 100.0, live=True), Moving("b", 30, 50.0, live=True), Moving("c", 5, 100.0, live=True)]
    summary = process(LiveConfig(out=tmp_path), Model(watched, 0.15), sources, Stop())
    for name, n in (("a", 60), ("b", 30), ("c", 5)):
        camera = summary["cameras"][name]
        assert camera["frames"] + camera["dropped"] == n and camera["frames"] > 0
        ids = [line["frame"] for line in lines_of(tmp_path) if line["camera"] == name]
        assert ids == list(range(n))  # dropped ones too, as such
        assert camera["tracks"] <= 1
    filled = [sum(bool((place != PAD_VALUE).any()) for place in tensor) for tensor in watched.seen]
    assert len(filled) == summary["batch"]["calls"] and sum(filled) == summary["frames"]
    assert summary["batch"]["unused"] == sum(3 - count for count in filled) > 0
