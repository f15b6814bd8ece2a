"""Formats that cameras and phones write, beside 8-bit 4:2:0: each is read to the same pictures; all are made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from perception.frames import open_source

N = 12


def picture(i: int, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 BGR: blue on the left, red on the right, both brighter with i."""
    image = np.zeros((*hw, 3), np.uint8)
    image[:, : hw[1] // 2, 0] = 60 + 10 * i
    image[:, hw[1] // 2 :, 2] = 60 + 10 * i
    return image


def save(path: Path, codec: str, pix_fmt: str, hw: tuple[int, int] = (64, 96), **options: str) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *hw, pix_fmt
        stream.bit_rate, stream.codec_context.thread_count = 4_000_000, 1
        for i in range(N):
            frame = av.VideoFrame.from_ndarray(picture(i, hw), format="bgr24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            file.mux(stream.encode(frame.reformat(format=pix_fmt)))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("ten_bit.mp4", "libx264", "yuv420p10le", {}),
        ("hevc_ten_bit.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("four_two_two.mp4", "libx264", "yuv422p", {}),
        ("four_four_four.mp4", "libx264", "yuv444p", {}),
        ("interlaced.mp4", "libx264", "yuv420p", {"x264-params": "interlaced=1"}),
        ("interlaced.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme"}),
        ("prores.mov", "prores_ks", "yuv422p10le", {}),
        ("lossless.mkv", "ffv1", "yuv422p10le", {}),
        ("full_range.avi", "mjpeg", "yuvj422p", {}),
        ("vp9.webm", "libvpx-vp9", "yuv420p", {"cpu-used": "8"}),
    ],
)
def test_the_same_pictures_come_out(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with open_source(save(tmp_path / name, codec, pix_fmt, **options)) as source:
        frames = list(source)
    assert [frame.id for frame in frames] == list(range(N)) and source.warnings == []
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(N)], abs=2e-3)
    for i, frame in enumerate(frames):
        assert frame.image.shape == (64, 96, 3)
        for corner in (np.s_[8:56, 8:40], np.s_[8:56, 56:88]):
            expected = picture(i, (64, 96))[corner].reshape(-1, 3).mean(0)
            np.testing.assert_allclose(frame.image[corner].reshape(-1, 3).mean(0), expected, atol=20)


@pytest.mark.parametrize("hw", [(16, 16), (2, 2), (4320, 7680)])
def test_tiny_and_huge_videos(tmp_path: Path, hw: tuple[int, int]) -> None:
    path = tmp_path / "size.avi"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuvj420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(5, hw), format="bgr24").reformat(format="yuvj420p")))
        file.mux(stream.encode(None))
    with open_source(path) as source:
        (frame,) = source
    assert frame.hw == hw == source.hw


def test_a_resolution_that_changes_in_mid_stream(tmp_path: Path) -> None:
    """Two H.264 streams in one transport stream, as when a camera is switched over."""
    parts = [save(tmp_path / f"{h}.ts", "libx264", "yuv420p", (h, w)) for h, w in ((64, 96), (48, 64))]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_source(joined) as source:
        frames = list(source)
    assert [frame.hw for frame in frames] == [(64, 96)] * N + [(48, 64)] * N
    assert np.all(np.diff([frame.timestamp_s for frame in frames]) > 0)
