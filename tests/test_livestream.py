"""perception.livestream against a server inside the test that breaks off, stands still, and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest

from perception import livestream
from perception.livestream import LiveStream

PER_CONNECTION = 6  # images; FFmpeg may keep back the last ones


class Camera(BaseHTTPRequestHandler):
    """Motion JPEG over HTTP: PER_CONNECTION images, then what the script says for this connection."""

    script: tuple[str, ...] = ()  # by connection: "cut", "refuse" or "hang"
    connections = 0
    times: tuple[float, ...] = ()
    let_go = threading.Event()

    def do_GET(self) -> None:
        kind = type(self)
        what = kind.script[min(kind.connections, len(kind.script) - 1)]
        kind.connections += 1
        kind.times += (time.monotonic(),)
        if what == "refuse":
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        self.end_headers()
        for i in range(PER_CONNECTION):
            image = np.full((48, 64, 3), 20 * i + 5 * kind.connections, np.uint8)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            self.wfile.write(b"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")
        if what == "hang":
            self.wfile.flush()
            kind.let_go.wait(30)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, type[Camera]]]]:
    """Start a camera with a script; its address, and the class that counts connections."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(livestream, "FIRST_PAUSE_S", 0.02)
    running: list[tuple[ThreadingHTTPServer, threading.Thread, type[Camera]]] = []

    def go(*script: str) -> tuple[str, type[Camera]]:
        kind = type("Scripted", (Camera,), {"script": script, "let_go": threading.Event()})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running.append((server, thread, kind))
        return f"http://127.0.0.1:{server.server_port}/video", kind

    yield go
    for server, thread, kind in running:
        kind.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_stream_that_breaks_off_is_opened_again(serve: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    address, camera = serve("cut", "cut", "refuse", "refuse", "cut", "refuse")
    with LiveStream(address, give_up_s=1.0) as source:
        frames = list(source)
    assert source.reconnections == 2 and camera.connections > 5
    assert [frame.id for frame in frames] == list(range(len(frames))) and len(frames) >= 3 * (PER_CONNECTION - 2)
    times = [frame.timestamp_s for frame in frames]
    assert times == sorted(times) and len(set(times)) == len(times)
    assert source.warnings == [
        f"{source.name}: the stream ended or stood still after {len(frames)} frames, interruptions before: 2"
    ]
    assert sum("back after" in record.message for record in caplog.records) == 2


def test_pauses_between_attempts_grow_up_to_the_time_limit(serve: Callable[..., Any]) -> None:
    address, camera = serve("cut", "refuse")
    begin = time.monotonic()
    with LiveStream(address, give_up_s=1.0) as source:
        list(source)
    assert 1.0 <= time.monotonic() - begin < 20
    pauses = np.diff(camera.times[1:])
    assert len(camera.times) < 14  # not as often as it can: 0.02, 0.04, 0.08 ...
    assert pauses[-2] > 2 * pauses[0] or len(pauses) < 4


def test_without_patience_the_first_interruption_is_the_end(serve: Callable[..., Any]) -> None:
    address, camera = serve("cut")
    with LiveStream(address, give_up_s=0) as source:
        list(source)
    assert camera.connections == 1 and len(source.warnings) == 1


def test_a_stream_that_stands_still_is_opened_again(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livestream, "STREAM_TIMEOUT_MS", 300)
    address, camera = serve("hang", "cut", "refuse")
    with LiveStream(address, give_up_s=1.0) as source:
        frames = list(source)
    assert source.reconnections == 1 and camera.connections >= 2 and len(frames) >= PER_CONNECTION


def test_closing_ends_the_attempts(serve: Callable[..., Any]) -> None:
    address, _ = serve("cut", "refuse")
    with LiveStream(address, give_up_s=600) as source:
        threading.Timer(0.5, source.leave).start()
        begin = time.monotonic()
        list(source)
    assert time.monotonic() - begin < 20 and source.warnings == []


def test_a_frozen_picture_is_told_once() -> None:
    source = LiveStream.__new__(LiveStream)
    source.name, source.warnings, source._frozen = "camera 0", [], False
    source._sample, source._still_since_s = np.zeros(0, np.uint8), 0.0
    image = np.full((48, 64, 3), 7, np.uint8)
    for second in range(40):
        source._watch(image if second < 30 else image + second, float(second))
    assert source.warnings == ["camera 0: the picture has not changed for 10 s; is the camera or its encoder frozen?"]
    source.warnings.clear()
    source._frozen = False
    for second in range(40):
        source._watch(image + second, float(second))
    assert source.warnings == []
