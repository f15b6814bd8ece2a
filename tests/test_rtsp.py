"""perception.livestream against an RTSP camera: it plays, goes away, and comes back at the same address."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from rtsp_camera import HW, RtspCamera

from perception import livestream
from perception.frames import open_source
from perception.livestream import LiveStream


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livestream, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(livestream, "STREAM_TIMEOUT_MS", 5000)


def test_a_camera_plays_until_it_hangs_up() -> None:
    with RtspCamera(images=30) as camera, open_source(camera.address, give_up_s=0) as source:
        assert isinstance(source, LiveStream) and source.live and source.frame_count is None
        frames = list(source)
    assert camera.players == 1 and 20 <= len(frames) <= 30
    assert all(frame.hw == HW for frame in frames)
    values = [float(frame.image.mean()) for frame in frames]
    assert values == sorted(values) and values[-1] - values[0] > 5 * 19 - 5  # those that were sent, in order
    assert source.warnings == [f"{source.name}: the stream ended or stood still after {len(frames)} frames"]


def test_a_camera_that_is_unplugged_comes_back() -> None:
    first = RtspCamera(images=30)
    later: list[RtspCamera] = []
    with LiveStream(first.address, give_up_s=20) as source:
        frames = iter(source)
        before = [next(frames) for _ in range(10)]
        first.off()
        plug = threading.Timer(1.0, lambda: later.append(RtspCamera(images=30, port=first.port)))
        plug.start()
        try:
            after = [frame for frame, _ in zip(frames, range(35), strict=False)]
        finally:
            source.leave()
            plug.join()
            for camera in later:
                camera.off()
    assert first.players == 1 and later[0].players >= 1 and source.reconnections >= 1
    times = [frame.timestamp_s for frame in before + after]
    assert times == sorted(times) and max(b - a for a, b in pairwise(times)) > 0.5
    assert [frame.id for frame in before + after] == list(range(45))
