"""The page with several cameras: a browser watches one at a time, and only those that are watched cost the loop."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("starlette", reason="the extra serve is not installed")

from perception.live import main
from perception.serve import server
from perception.serve.server import PageServer
from perception.serve.view import View
from perception.sinks import Outcome
from perception.structures import Detections, Frame, Result, Track
from tests import test_serve
from tests.test_serve import HW, MAPS, NAMES, advances, click_at, get, number, pixel, unpack, until

browse = test_serve.browse  # the fixture: it opens the page of what `drive` gives here

GREY = {"front": 60, "left side": 120}  # of the pictures
BOXES = {"front": (300.0, 60.0, 400.0, 140.0), "left side": (60.0, 20.0, 120.0, 60.0)}  # where track 7 is
CLASSES = {"front": 1, "left side": 0}


def outcome(camera: str, i: int) -> Outcome:
    image = np.full((*HW, 3), GREY.get(camera, 90), np.uint8)
    box, kind = BOXES.get(camera, BOXES["front"]), CLASSES.get(camera, 1)
    found = Detections(np.array([box], np.float32), np.array([0.9], np.float32), np.array([kind]))
    maps = {head: np.zeros(HW, np.uint8) for head in MAPS}
    track = Track(7, box, 0.9, kind, i / 20, 0.0)
    seen = Frame(image, i, i / 20, f"{camera}.mp4", camera)
    return Outcome(seen, Result(found, maps, NAMES, MAPS), [track], {"inference": 15.0}, {"fps": "50.0"})


class Rig(threading.Thread):
    """A loop that writes a frame of each camera every 20 ms, but none of those in `silent`, until it is stopped."""

    def __init__(self, page: PageServer, cameras: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self.page, self.cameras, self.silent, self._end = page, cameras, set[str](), threading.Event()

    def run(self) -> None:
        ids = dict.fromkeys(self.cameras, 0)
        while not self._end.wait(0.02):
            for camera in self.cameras:
                if camera not in self.silent:
                    self.page.write(outcome(camera, ids[camera]))
                    ids[camera] += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


@pytest.fixture
def drive() -> Iterator[Rig]:
    page = PageServer("127.0.0.1:0", "tiny", "front.mp4, left side.mp4", tuple(GREY))
    rig = Rig(page, tuple(GREY))
    rig.start()
    yield rig
    rig.stop()
    page.close()


def test_each_camera_is_asked_for_by_its_name(drive: Rig) -> None:
    for path, camera in (
        ("/next", "front"),
        ("/next?camera=front", "front"),
        ("/next?camera=left%20side", "left side"),
    ):
        head, blobs = unpack(get(drive.page, path)[2])
        assert head["record"]["camera"] == camera and head["about"]["cameras"] == ["front", "left side"]
        image = cv2.imdecode(np.frombuffer(blobs[: head["image"]["bytes"]], np.uint8), cv2.IMREAD_COLOR)
        assert abs(int(image.mean()) - GREY[camera]) < 3
        assert head["seq"] == head["record"]["frame"] + 1 == head["points"][-1][0]  # its own frames are counted
    life = json.loads(get(drive.page, "/track/7?camera=left%20side")[2])
    assert life["class"] == "pedestrian" and json.loads(get(drive.page, "/track/7")[2])["class"] == "car"


def test_a_camera_that_is_not_there_is_one_line(drive: Rig) -> None:
    for path in ("/next?after=3&camera=rear", "/track/7?camera=rear", "/next?camera=front%0Aside"):
        status, _, body = get(drive.page, path)
        assert status == 404 and body.decode().startswith("no camera '") and body.count(b"\n") == 1
        assert body.endswith(b"; expected front, left side\n")
    alone = PageServer("127.0.0.1:0")
    try:
        assert get(alone, "/next?camera=rear")[0] == 404
    finally:
        alone.close()


def test_only_what_is_watched_costs_the_loop_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def view(seq: int, seen: Outcome) -> View:
        made.append(seen.frame.camera)
        return View(seq, seen)

    monkeypatch.setattr(server, "View", view)
    page = PageServer("127.0.0.1:0", cameras=("front", "left side", "rear"))
    try:
        for i in range(3):
            for camera in ("front", "left side", "rear"):
                page.write(outcome(camera, i))
        assert made == []
        asking = [threading.Thread(target=get, args=(page, f"/next?camera={name}")) for name in ("rear", "left%20side")]
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + 10
        while min(page._cameras[name].asked_s for name in ("rear", "left side")) < 0:  # both wait
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for camera in ("front", "rear", "left side"):
            page.write(outcome(camera, 3))
        for thread in asking:
            thread.join(5)
            assert not thread.is_alive()
        assert made == ["rear", "left side"]
        head, _ = unpack(get(page, "/next?camera=rear")[2])
        assert [point[0] for point in head["points"]] == [1, 2, 3, 4]  # the charts have those too that nobody saw
    finally:
        page.close()


def test_live_serves_every_camera(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, grey in (("front", 70), ("left", 140)):
        (tmp_path / name).mkdir()
        for i in range(40):
            cv2.imwrite(str(tmp_path / name / f"{i:02}.png"), np.full((64, 96, 3), grey, np.uint8))
    answers: dict[str, tuple[dict[str, Any], bytes]] = {}

    def watch() -> None:
        text = ""
        while "watch at http://" not in text:
            time.sleep(0.01)
            text += capsys.readouterr().out
        port = urlsplit(text.split("watch at ")[1].split()[0]).port
        for name in ("left", "front"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", f"/next?camera={name}")
            answers[name] = unpack(connection.getresponse().read())
            connection.close()

    watching = threading.Thread(target=watch)
    watching.start()
    command = [str(tmp_path / "front"), str(tmp_path / "left"), "--model", str(tiny_model), "--provider", "cpu"]
    out = ["--out", str(tmp_path / "out")]
    assert main([*command, *out, "--realtime", "--no-video", "--serve", "127.0.0.1:0"]) == 0
    watching.join()
    for name, grey in (("front", 70), ("left", 140)):
        head, blobs = answers[name]
        assert head["about"]["cameras"] == ["front", "left"] and head["record"]["camera"] == name
        image = cv2.imdecode(np.frombuffer(blobs[: head["image"]["bytes"]], np.uint8), cv2.IMREAD_COLOR)
        assert abs(int(image.mean()) - grey) < 3


# --- in a browser


def watched(page: Any) -> str:
    """The camera whose button is pressed."""
    buttons = page.locator("#cameras [aria-pressed=true]")
    assert buttons.count() == 1
    name: str = buttons.first.inner_text()
    return name


def shows(page: Any, camera: str) -> None:
    """Wait until a frame of this camera is on the page, and look at it where nothing is drawn."""
    page.wait_for_selector(f"body[data-frames][data-camera='{camera}']")
    assert watched(page) == camera
    assert pixel(page, 20, 200) == pytest.approx([GREY.get(camera, 90)] * 3, abs=4)


def test_a_browser_turns_from_camera_to_camera(drive: Rig, browse: Callable[[], Any]) -> None:
    page, other = browse(), browse()
    assert page.locator("#cameras button").all_inner_texts() == ["front", "left side"]
    for each in (page, other):
        shows(each, "front")
        advances(each)
    click_at(page, 350, 100)
    page.wait_for_selector("#object[data-id='7']")
    assert page.inner_text("#object-name") == "car 7"
    page.click("[data-layer='boxes']")
    page.click("[data-layer='tracks']")

    # the other camera gives nothing yet: nothing of the first one may stay, but for the layers
    drive.silent.add("left side")
    page.evaluate("() => { window.soon = requestAnimationFrame; requestAnimationFrame = (f) => setTimeout(f, 200); }")
    page.wait_for_timeout(100)  # now a frame waits to be drawn: it comes too late
    page.click("#cameras >> text=left side")
    assert watched(page) == "left side" and page.inner_text("#hint") == "Waiting for left side"
    assert page.get_attribute("body", "data-frames") is None and page.is_hidden("#object")
    assert page.inner_text("#count") == page.inner_text("#ms-now") == page.inner_text("#clock") == ""
    assert page.locator("#objects li").count() == 0
    page.wait_for_timeout(500)
    assert page.get_attribute("body", "data-frames") is None and page.inner_text("#clock") == ""
    assert page.locator("#video").evaluate("canvas => getComputedStyle(canvas).opacity") == "0"
    page.evaluate("() => { requestAnimationFrame = window.soon; }")
    drive.silent.clear()
    shows(page, "left side")
    assert pixel(page, 220, 100) == pytest.approx([120] * 3, abs=4)  # no trail from the car of the other camera
    for layer, pressed in (("boxes", "true"), ("tracks", "false"), ("trails", "true")):
        assert page.get_attribute(f"[data-layer='{layer}']", "aria-pressed") == pressed
    advances(page)
    assert page.locator("#objects b").all_inner_texts() == ["pedestrian"]
    click_at(page, 90, 40)
    page.wait_for_selector("#object[data-id='7']")
    assert page.inner_text("#object-name") == "pedestrian 7"

    # the other browser goes on with the first camera, with layers of its own
    advances(other)
    shows(other, "front")
    assert other.get_attribute("[data-layer='tracks']", "aria-pressed") == "true"

    # by keys, around both ends
    page.keyboard.press("ArrowRight")
    shows(page, "front")
    page.keyboard.press("ArrowLeft")
    shows(page, "left side")
    page.keyboard.press("ArrowLeft")
    shows(page, "front")
    assert page.is_hidden("#object")

    # paused: one frame of the other camera, and no more
    page.click("#pause")
    page.keyboard.press("ArrowRight")
    shows(page, "left side")
    still = number(page, "frame")
    page.wait_for_timeout(300)
    assert number(page, "frame") == still and page.inner_text("#state") == "paused"
    page.click("#pause")
    until(page, lambda: number(page, "frame") > still + 5)


def test_the_next_run_may_have_other_cameras(drive: Rig, browse: Callable[[], Any]) -> None:
    page, other = browse(), browse()
    page.keyboard.press("ArrowRight")
    shows(page, "left side")
    drive.stop()
    drive.page.close()
    page.wait_for_selector("body[data-state='ended'], body[data-state='lost']")
    assert page.locator("#cameras button:disabled").count() == 2  # there is nothing to turn to
    following = PageServer(f"127.0.0.1:{drive.page.address.port}", "another", "", ("rear", "front"))
    again = Rig(following, ("rear", "front"))
    again.start()
    try:
        shows(page, "rear")  # its camera is gone: the first one
        shows(other, "front")  # its camera is kept
        assert page.locator("#cameras button:enabled").all_inner_texts() == ["rear", "front"]
    finally:
        again.stop()
        following.close()
    page.close()
    other.close()
