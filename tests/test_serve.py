"""The page to watch a run: who may look, that nobody waits for a browser, and, in a real one, what it shows."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
import zlib
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
from perception.serve.access import Address
from perception.serve.history import MAX_POINTS, MAX_SAMPLES, MAX_TRACKS, History
from perception.serve.server import PageServer
from perception.sinks import Outcome
from perception.structures import Detections, Frame, Result, Track

HW = (270, 480)
NAMES = ("pedestrian", "car")
MAPS = {"drive": ("background", "drivable", "lane marking"), "scene": ("road", "sky")}


def frame(i: int) -> Frame:
    return Frame(np.full((*HW, 3), 60, np.uint8), i, i / 20, "drive.mp4")


def result(i: int) -> Result:
    drive, scene = np.zeros(HW, np.uint8), np.zeros(HW, np.uint8)
    drive[180:] = 1
    drive[180:, 230:250] = 2
    scene[:100] = 1
    boxes = np.array([[100 + i % 50, 60, 200 + i % 50, 140]], np.float32)
    found = Detections(boxes, np.array([0.9], np.float32), np.array([1]))
    return Result(found, {"drive": drive, "scene": scene}, NAMES, MAPS)


def tracks(i: int) -> list[Track]:
    car = Track(7, (300.0, 60.0, 400.0, 140.0), 0.5 + 0.4 * (i % 2), 1, i / 20, 0.0, (3.0, 4.0))
    return [car, Track(8, (20.0, 40.0, 40.0, 100.0), 0.7, 0, i / 20, 0.1)]


class Drive(threading.Thread):
    """A loop that writes a frame every 20 ms until it is told to stop."""

    def __init__(self, page: PageServer) -> None:
        super().__init__(daemon=True)
        self.page, self.i, self.slowest_s, self._end = page, 0, 0.0, threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.02):
            begin = time.perf_counter()
            i, spent = self.i, {"inference": 15.0 + self.i % 3, "track": 1.0}
            status = {"fps": "50.0", "on": "CPU", "frame": str(i)}
            self.page.write(Outcome(frame(i), result(i), tracks(i), spent, status))
            self.slowest_s = max(self.slowest_s, time.perf_counter() - begin)
            self.i += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


@pytest.fixture
def drive() -> Iterator[Drive]:
    page = PageServer("127.0.0.1:0", "tiny", "drive.mp4")
    thread = Drive(page)
    thread.start()
    yield thread
    thread.stop()
    page.close()


def get(page: PageServer, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.address.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def unpack(body: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(body[:4], "little")
    return json.loads(body[4 : 4 + length]), body[4 + length :]


# --- who may look


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("", "127.0.0.1", 8600), ("localhost", "localhost", 8600), (":9000", "127.0.0.1", 9000),
     ("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:80", "::1", 80), ("[::1]", "::1", 8600)],
)  # fmt: skip
def test_this_machine_needs_no_token(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port, "")


@pytest.mark.parametrize("text", ["0.0.0.0:8600", "192.168.1.7", "[::]:1", "car.example:80"])
def test_any_other_address_has_a_token_of_its_own(text: str) -> None:
    first, second = Address.parse(text), Address.parse(text)
    assert len(first.token) >= 32 and first.token != second.token
    assert first.url.endswith(f"/?token={first.token}") and first.token not in repr(first)


@pytest.mark.parametrize("text", ["my.mp4:x", "a/b.mp4", "127.0.0.1:70000", "::1:x", "a b", "x@y:1", ":-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--serve: expected HOST:PORT"):
        Address.parse(text)


def test_a_port_that_is_taken_is_one_line() -> None:
    page = PageServer("127.0.0.1:0")
    try:
        with pytest.raises(OSError, match="choose another port"):
            PageServer(f"127.0.0.1:{page.address.port}")
    finally:
        page.close()


def test_only_names_of_this_machine_are_served(drive: Drive) -> None:
    for host in ("127.0.0.1", "localhost:9000", "[::1]:8600", "192.168.1.7:8600"):
        assert get(drive.page, "/", {"Host": host})[0] == 200, host
    for host in ("evil.example", "evil.example:8600", "127.0.0.1.evil.example", "", "localhost.evil.example"):
        assert get(drive.page, "/next", {"Host": host})[0] == 400, host


def test_the_token_opens_and_nothing_else_does() -> None:
    page = PageServer("0.0.0.0:0")
    try:
        token = page.address.token
        for path in ("/", "/next", "/page.js", "/track/1", f"/next?token={token}", "/?token=", "/?token=wrong"):
            assert get(page, path)[0] == 403, path
        status, headers, _ = get(page, f"/?token={token}")
        assert status == 303 and headers["location"] == "/"
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert get(page, "/page.js", {"Cookie": cookie.split(";")[0]})[0] == 200
        assert get(page, "/page.js", {"Cookie": "perception_token=wrong"})[0] == 403
    finally:
        page.close()


def test_headers_and_paths(drive: Drive) -> None:
    for path in ("/", "/page.css", "/draw.js", "/track/7", "/no-such-file"):
        _, headers, _ = get(drive.page, path)
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    for path in ("/../server.py", "/%2e%2e/server.py", "/track/x", "/track/999"):
        assert get(drive.page, path)[0] == 404, path


# --- frames


def test_a_frame_is_what_the_loop_wrote(drive: Drive) -> None:
    status, _, body = get(drive.page, "/next")
    head, blobs = unpack(body)
    assert status == 200 and head["about"]["model"] == "tiny" and head["about"]["boxes"]["car"] == "#4fc3f7"
    i = head["record"]["frame"]
    assert [track["id"] for track in head["record"]["tracks"]] == [7, 8] and head["points"][-1][2] == 16.0 + i % 3
    image = cv2.imdecode(np.frombuffer(blobs[: head["image"]["bytes"]], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(image, frame(i).image, atol=2)
    rest = blobs[head["image"]["bytes"] :]
    for entry in head["maps"]:
        ids = np.frombuffer(zlib.decompress(rest[: entry["bytes"]]), np.uint8).reshape(entry["hw"])
        np.testing.assert_array_equal(ids, result(i).class_maps[entry["head"]])
        rest = rest[entry["bytes"] :]
    assert rest == b""
    later, _ = unpack(get(drive.page, f"/next?after={head['seq']}")[2])
    assert later["seq"] > head["seq"] and "about" not in later
    assert [point[0] for point in later["points"]] == list(range(head["seq"] + 1, later["points"][-1][0] + 1))


def test_a_slow_browser_gets_the_newest_and_nobody_waits(drive: Drive) -> None:
    first, _ = unpack(get(drive.page, "/next")[2])
    stuck = http.client.HTTPConnection("127.0.0.1", drive.page.address.port, timeout=20)
    stuck.request("GET", "/next")  # and never reads
    before = drive.i
    time.sleep(0.6)
    now = drive.i
    assert now - before > 10 and drive.slowest_s < 0.5
    second, _ = unpack(get(drive.page, f"/next?after={first['seq']}")[2])
    assert second["record"]["frame"] >= now - 1  # not one of those in between
    stuck.close()


def test_the_loop_may_reuse_its_buffers() -> None:
    page = PageServer("127.0.0.1:0")
    try:
        shared = np.full((*HW, 3), 10, np.uint8)
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.append(get(page, "/next")[2]))
        asking.start()
        time.sleep(0.3)
        seen = result(0)
        page.write(Outcome(Frame(shared, 0, 0.0), seen))
        shared[:] = 250
        seen.class_maps["drive"][:] = 2
        asking.join()
        head, blobs = unpack(answers[0])
        image = cv2.imdecode(np.frombuffer(blobs[: head["image"]["bytes"]], np.uint8), cv2.IMREAD_COLOR)
        assert image.max() < 15 and "lane marking" in head["record"]["areas"]["drive"]
        assert head["record"]["areas"]["drive"]["lane marking"] < 0.1
    finally:
        page.close()


def test_closing_answers_those_who_wait_and_ends_the_thread() -> None:
    page = PageServer("127.0.0.1:0")
    answers: list[int] = []
    asking = [threading.Thread(target=lambda: answers.append(get(page, "/next")[0])) for _ in range(3)]
    for thread in asking:
        thread.start()
    time.sleep(0.3)
    page.close()
    page.close()
    for thread in asking:
        thread.join(timeout=5)
    assert answers == [410, 410, 410] and not any(thread.name == "page" for thread in threading.enumerate())
    page.write(Outcome(frame(0), result(0)))  # too late, and no harm
    with pytest.raises(ConnectionRefusedError):
        get(page, "/")


def test_history_is_bounded_and_exact() -> None:
    history = History()
    for i in range(MAX_POINTS + 50):
        one = Track(i // 2, (0, 0, 1, 1), 0.5, i % 2, 0.1, 0.0)
        old = Track(10**6, (0, 0, 1, 1), 0.25, 1, i / 20, 0.2 * (i % 2))
        history.add(i + 1, float(i), frame(i), [one, old], NAMES, {"inference": 2.0, "track": 1.0})
    points = history.points(MAX_POINTS + 47)
    assert points == [(i, i - 1.0, 3.0, 2.0) for i in (MAX_POINTS + 48, MAX_POINTS + 49, MAX_POINTS + 50)]
    assert len(history.points(-1)) == MAX_POINTS and history.points(10**9) == []
    life = history.track(10**6)
    assert life is not None and len(life["samples"]) == MAX_SAMPLES and life["class"] == "car"
    assert life["samples"][-1] == ((MAX_POINTS + 49) / 20, 0.25, "car", False)
    assert history.track(0) is None and len(history._tracks) == MAX_TRACKS


def test_live_serves_while_it_runs(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(60):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((64, 96, 3), 70, np.uint8))
    answers: list[dict[str, Any]] = []

    def watch() -> None:
        text = ""
        while "watch at http://" not in text:
            time.sleep(0.01)
            text += capsys.readouterr().out
        url = urlsplit(text.split("watch at ")[1].split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=20)
        connection.request("GET", "/next")
        answers.append(unpack(connection.getresponse().read())[0])
        connection.close()

    watching = threading.Thread(target=watch)
    watching.start()
    command = [str(tmp_path), "--model", str(tiny_model), "--provider", "cpu", "--out", str(tmp_path / "out")]
    assert main([*command, "--realtime", "--no-video", "--serve", "127.0.0.1:0"]) == 0
    watching.join()
    assert answers[0]["about"] == {
        "model": "tiny",
        "source": answers[0]["about"]["source"],
        "cameras": [],
        "boxes": {"pedestrian": "#ff6b6b", "car": "#4fc3f7"},
        "heads": answers[0]["about"]["heads"],
    }
    assert answers[0]["status"]["on"] == "CPU" and list(answers[0]["about"]["heads"]) == ["scene", "drive"]
    assert not any(thread.name == "page" for thread in threading.enumerate())


@pytest.mark.parametrize("extra", [["clip.mp4"], ["127.0.0.1:1", "clip.mp4"]])
def test_a_source_that_serve_swallowed_is_explained(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 96, 3), np.uint8))
    command = [str(tmp_path), "--model", str(tiny_model), "--provider", "cpu", "--out", str(tmp_path / "out")]
    assert main([*command, "--serve", *extra]) == 2
    err = capsys.readouterr().err
    assert "a SOURCE goes before" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- in a browser


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@pytest.fixture
def browse(drive: Drive) -> Iterator[Callable[[], Any]]:
    """Opens the page in headless Chromium; afterwards no request may have gone elsewhere, and no error been logged."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    requests: list[str] = []
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def go() -> Any:
            page = browser.new_page(viewport={"width": 1280, "height": 760})
            page.on("request", lambda request: requests.append(request.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            page.goto(drive.page.url)
            page.wait_for_selector("body[data-frames]")
            return page

        yield go
        browser.close()
    assert requests and all(url.startswith((drive.page.url, "blob:")) for url in requests)
    assert not [line for line in errors if "Failed to load resource" not in line]  # as at the end of a run


def pixel(page: Any, x: float, y: float) -> list[int]:
    """[r, g, b] of the canvas at (x, y) in pixels of the frame."""
    script = """([x, y]) => { const c = document.getElementById("video");
        return [...c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3); }"""
    found: list[int] = page.evaluate(script, [x / HW[1], y / HW[0]])
    return found


def number(page: Any, name: str) -> int:
    return int(page.get_attribute("body", f"data-{name}"))


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait; Playwright's own way to wait for a condition needs eval, which the page forbids."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(30)


def advances(page: Any) -> None:
    """Wait until the page has gone on by some frames."""
    before = number(page, "frame")
    until(page, lambda: number(page, "frame") > before + 5)


def click_at(page: Any, x: float, y: float) -> None:
    box = page.locator("#video").bounding_box()
    page.mouse.click(box["x"] + x / HW[1] * box["width"], box["y"] + y / HW[0] * box["height"])


def test_the_page_shows_the_run(drive: Drive, browse: Callable[[], Any]) -> None:
    page, other = browse(), browse()
    for each in (page, other):  # both advance
        advances(each)
        assert each.inner_text("#state") == "live"
    labels = page.locator("#layers button").all_inner_texts()
    assert labels == ["Tracks", "Trails", "Boxes", "Drivable", "Lanes", "Scene"]
    assert "tiny on drive.mp4" in page.inner_text("#about")
    assert page.is_hidden("#cameras")  # there is one only
    assert float(page.inner_text("#fps-now") or "1") > 0

    # layers: the road is tinted, and after a click it is not; the other browser still has it
    assert pixel(page, 60, 250) != pytest.approx([60] * 3, abs=4)
    page.click("[data-layer='drive/drivable']")
    assert page.get_attribute("[data-layer='drive/drivable']", "aria-pressed") == "false"
    assert pixel(page, 60, 250) == pytest.approx([60] * 3, abs=4)
    assert pixel(page, 240, 250) != pytest.approx([60] * 3, abs=40)  # the lane is still there
    assert pixel(other, 60, 250) != pytest.approx([60] * 3, abs=4)
    page.keyboard.press("5")
    assert pixel(page, 240, 250) == pytest.approx([60] * 3, abs=4)
    assert pixel(page, 350, 100) != pytest.approx([60] * 3, abs=4)  # the inside of a track is faintly filled
    page.click("[data-layer='tracks']")
    assert pixel(page, 350, 100) == pytest.approx([60] * 3, abs=4)

    # pause: this browser stands still, the run and the other browser do not; layers still answer
    page.click("#pause")
    page.wait_for_timeout(200)
    still, written = number(page, "frame"), drive.i
    until(other, lambda: number(other, "frame") > max(still + 10, written))
    assert number(page, "frame") == still and drive.i > written and page.inner_text("#state") == "paused"
    page.click("[data-layer='scene']")
    assert pixel(page, 60, 20) != pytest.approx([60] * 3, abs=4)

    # an object: by a click into the picture, or in the list
    click_at(page, 350, 100)
    page.wait_for_selector("#object[data-id='7']")
    assert page.inner_text("#object-name") == "car 7"
    assert "5 px/s" in page.inner_text("#object-facts")
    page.keyboard.press("Escape")
    assert page.is_hidden("#object")
    page.click("#objects button:has-text('pedestrian')")
    page.wait_for_selector("#object[data-id='8']")
    page.click("#pause")
    until(page, lambda: number(page, "frame") > still + 10)


def test_the_page_says_when_a_run_has_ended_and_goes_on_with_the_next(drive: Drive, browse: Callable[[], Any]) -> None:
    page = browse()
    page.click("[data-layer='trails']")
    drive.stop()
    drive.page.close()
    page.wait_for_selector("body[data-state='ended'], body[data-state='lost']")
    following = PageServer(f"127.0.0.1:{drive.page.address.port}", "another", "other.mp4")
    again = Drive(following)
    again.start()
    try:
        page.wait_for_selector("body[data-state='live']")
        assert "another on other.mp4" in page.inner_text("#about")
        assert page.get_attribute("[data-layer='trails']", "aria-pressed") == "false"  # the choice is kept
        assert page.get_attribute("[data-layer='tracks']", "aria-pressed") == "true"
        advances(page)
    finally:
        again.stop()
        following.close()
    page.close()
