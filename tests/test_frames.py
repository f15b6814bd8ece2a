"""Frames: presentation times, rotation, broken files, images, cameras and streams; all media are made here."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from perception.frames import FrameSource, open_source
from perception.livestream import LiveStream
from perception.sources import ImageFiles
from perception.structures import Frame
from perception.videofile import VideoFile, _Clock

FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def picture(index: int, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the upper half has the brightness 5 * index + 4, below it is noise that moves."""
    image = np.roll(np.random.default_rng(0).integers(0, 255, (*hw, 3), np.uint8), 3 * index, axis=1)
    image[: hw[0] // 2] = 5 * index + 4
    return image


def index_of(image: np.ndarray) -> int:
    """The inverse of `picture`."""
    return int(image[: image.shape[0] // 2 - 4].mean() / 5)


def save_video(
    path: Path,
    times_s: Sequence[float] = tuple(i / 25 for i in range(50)),
    hw: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    rate: Fraction | int = 25,
    container: dict[str, str] | None = None,
    images: Sequence[np.ndarray] | None = None,
    **options: str,
) -> Path:
    """A video whose frame i is `picture(i)` (or `images[i]`) at `times_s[i]`."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate, options={"g": "10", **options})
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        stream.bit_rate, stream.codec_context.thread_count = 2_000_000, 1
        if codec == "libx264":
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(picture(i, hw) if images is None else images[i], format="bgr24")
            if codec == "libx264":
                frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first `share` of the bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def read(source: str | Path) -> tuple[list[Frame], FrameSource]:
    with open_source(str(source)) as opened:
        return list(opened), opened


def times(frames: list[Frame]) -> list[float]:
    return [frame.timestamp_s for frame in frames]


# --- video files


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi", "straße 道路 %03d:1.mp4"])
def test_video_gives_every_frame_in_order_with_its_time(tmp_path: Path, name: str) -> None:
    path = save_video(tmp_path / name, codec="mpeg4" if name.endswith(".avi") else "libx264")
    frames, source = read(path)
    assert [frame.id for frame in frames] == list(range(50))
    assert [index_of(frame.image) for frame in frames] == list(range(50))  # B-frames are in presentation order
    assert times(frames) == pytest.approx([i / 25 for i in range(50)], abs=0.0011)
    assert frames[0].timestamp_s == 0.0
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image.dtype == np.uint8
    assert frames[0].source == str(path)
    assert (source.fps, source.frame_count, source.live, source.hw) == (pytest.approx(25), 50, False, (48, 64))
    assert source.name == name
    assert source.warnings == []


def test_variable_frame_rate_keeps_the_times_of_the_container(tmp_path: Path) -> None:
    expected = [0.0, 0.04, 0.05, 0.3, 0.31, 0.7, 1.5, 1.54, 1.58, 4.0]
    frames, source = read(save_video(tmp_path / "vfr.mp4", expected, bf="0"))
    assert times(frames) == pytest.approx(expected, abs=1e-6)
    assert 2.2 < source.fps < 2.6 and isinstance(source.fps, float)  # the average, not 25
    assert source.warnings == []


def test_fps_is_not_truncated(tmp_path: Path) -> None:
    for name in ("ntsc.mkv", "ntsc.mp4"):
        path = save_video(tmp_path / name, [i * 1001 / 30000 for i in range(50)], rate=Fraction(30000, 1001))
        assert read(path)[1].fps == pytest.approx(29.97, abs=0.03)


def test_a_stream_that_starts_late_counts_from_its_start(tmp_path: Path) -> None:
    frames, source = read(save_video(tmp_path / "late.mkv", [7.0 + i / 25 for i in range(10)]))
    assert times(frames) == pytest.approx([i / 25 for i in range(10)], abs=0.0011)
    assert source.warnings == []


def test_colours_are_bgr_and_one_frame_suffices(tmp_path: Path) -> None:
    image = np.full((48, 64, 3), (30, 60, 200), np.uint8)
    (frame,), source = read(save_video(tmp_path / "red.mp4", [0.0], images=[image]))
    assert np.abs(frame.image.astype(int) - image).max() < 12
    assert source.frame_count == 1


def test_a_raw_stream_without_times_gets_them_from_its_rate(tmp_path: Path) -> None:
    frames, source = read(save_video(tmp_path / "raw.h264"))
    assert len(frames) == 50 and source.frame_count is None
    assert times(frames) == pytest.approx([i / source.fps for i in range(50)])


def test_a_file_can_be_read_twice_and_closed_in_between(tmp_path: Path) -> None:
    with open_source(str(save_video(tmp_path / "a.mp4"))) as source:
        assert next(iter(source)).id == 0
        assert len(list(source)) == len(list(source)) == 50
        frames = iter(source)
        next(frames)
        source.close()
        source.close()
        assert list(frames) == []


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_phone_videos_are_turned_upright(tmp_path: Path, clockwise: int) -> None:
    path = save_video(tmp_path / "phone.mp4", [0.0, 0.04], images=[_quadrants()] * 2)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the display matrix of the track, ISO 14496-12 section 8.3.2
    assert struct.unpack_from(">9i", content, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    a, b = {90: (0, 65536), 180: (-65536, 0), 270: (0, -65536)}[clockwise]
    struct.pack_into(">9i", content, at, a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frames, source = read(path)
    expected = np.rot90(_quadrants(), -clockwise // 90)
    assert frames[0].hw == source.hw == expected.shape[:2]
    assert np.abs(frames[0].image.astype(int) - expected).mean() < 12


def _quadrants() -> np.ndarray:
    """(48, 64, 3): red top left, green top right, blue below."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:], image[24:] = (0, 0, 200), (0, 200, 0), (200, 0, 0)
    return image


def test_clock_rises_through_gaps_repetitions_and_restarts() -> None:
    clock = _Clock(fps=10, origin_s=None)
    assert [round(clock(t), 6) for t in (100.0, 100.1, 100.1, 100.2, 103.0)] == [0, 0.1, 0.101, 0.2, 3.0]
    assert [round(clock(t), 6) for t in (0.0, 0.1, None)] == [3.1, 3.2, 3.3]  # joined streams begin anew
    assert _Clock(10, origin_s=2.0)(1.9) == 0.0


# --- video files that are truncated or corrupt


@pytest.mark.parametrize(
    ("name", "container"), [("front.mp4", FASTSTART), ("fragments.mp4", FRAGMENTS), ("a.avi", None), ("a.flv", None)]
)
def test_truncated_video_gives_what_it_has_and_one_warning(
    tmp_path: Path, name: str, container: dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_video(tmp_path / name, container=container, codec="mpeg4" if name.endswith(".avi") else "libx264")
    frames, source = read(cut(path, 0.5))
    assert 3 < len(frames) < 40
    assert [index_of(frame.image) for frame in frames] == list(range(len(frames)))
    (warning,) = source.warnings
    assert warning.startswith(f"{name}: truncated or corrupt, {len(frames)} ") and "\n" not in warning
    assert [record.getMessage() for record in caplog.records] == source.warnings


def test_truncated_matroska_is_found_by_its_duration(tmp_path: Path) -> None:
    frames, source = read(cut(save_video(tmp_path / "a.mkv", [i / 10 for i in range(50)]), 0.5))
    assert 10 < len(frames) < 40
    (warning,) = source.warnings
    assert "it declares 4.9 s and ends at" in warning


def test_the_warning_comes_once_for_each_reading(tmp_path: Path) -> None:
    with open_source(str(cut(save_video(tmp_path / "a.mp4", container=FASTSTART), 0.5))) as source:
        assert source.warnings == []
        assert len(list(source)) == len(list(source))
        assert len(source.warnings) == 1


def test_video_corrupt_in_the_middle_goes_on_after_it(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(1).integers(0, 255, 2000, np.uint8).tobytes()
    path.write_bytes(content)
    frames, source = read(path)
    assert 35 <= len(frames) < 50
    assert frames[-1].timestamp_s == pytest.approx(49 / 25)  # times are those of the container, gaps stay
    assert index_of(frames[-1].image) == 49
    assert [frame.id for frame in frames] == list(range(len(frames)))
    (warning,) = source.warnings
    assert "truncated or corrupt" in warning and f"{len(frames)} of 50" in warning


def test_edit_lists_are_not_taken_for_damage(tmp_path: Path) -> None:
    path = save_video(tmp_path / "trimmed.mp4", g="50", bf="0")
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 4
    assert struct.unpack_from(">IIIi", content, at)[1] == 1  # one edit
    time_base = read(path)[1]
    scale = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    struct.pack_into(">Ii", content, at + 8, 1000, scale)  # show one second, from second 1 on
    path.write_bytes(content)
    frames, source = read(path)
    assert [index_of(frame.image) for frame in frames] == list(range(25, 50))
    assert frames[0].timestamp_s == 0.0
    assert source.warnings == time_base.warnings == []


def test_video_without_index_says_so(tmp_path: Path) -> None:
    path = cut(save_video(tmp_path / "end.mp4"), 0.6)
    with pytest.raises(ValueError, match=r"end\.mp4: expected a video, but its index \(moov\) is missing: .* cut off"):
        open_source(str(path))


def test_video_whose_pictures_are_all_gone(tmp_path: Path) -> None:
    path = save_video(tmp_path / "front.mp4", container=FASTSTART)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 10])
    with pytest.raises(ValueError, match="not one picture"):
        open_source(str(path))


# --- what is no video


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such file or folder; expected a video"):
        open_source(str(tmp_path / "gone.mp4"))
    with pytest.raises(FileNotFoundError, match="empty"):
        open_source("")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"This is a text, not a video.\n" * 100])
def test_empty_and_text_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="expected a video") as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_audio_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as file:
        stream: Any = file.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"song\.mp4: no video in it, only audio; expected a video stream"):
        open_source(str(tmp_path / "song.mp4"))


def test_camera_that_is_not_there() -> None:
    with pytest.raises(OSError, match="camera 97: can not be opened; expected video; check its number"):
        open_source("97")


def test_unknown_kind_of_address() -> None:
    with pytest.raises(ValueError, match=r"gopher://host/: unknown kind of address 'gopher'; expected one of .*rtsp"):
        open_source("gopher://host/")


# --- images


def save_images(folder: Path, names: Sequence[str], hw: tuple[int, int] = (21, 33)) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        encoded = cv2.imencode(Path(name).suffix, np.full((*hw, 3), 10 * i, np.uint8))[1]
        (folder / name).write_bytes(encoded.tobytes())


def test_folder_in_natural_order_with_a_nominal_rate(tmp_path: Path) -> None:
    save_images(tmp_path / "drive", ["2.png", "10.png", "1.png", "11.JPG", ".hidden.png"])
    (tmp_path / "drive" / "notes.txt").write_text("no image")
    with open_source(str(tmp_path / "drive"), image_fps=4) as source:
        frames = list(source)
    assert [Path(frame.source).name for frame in frames] == ["1.png", "2.png", "10.png", "11.JPG"]
    assert [frame.id for frame in frames] == [0, 1, 2, 3]
    assert times(frames) == [0, 0.25, 0.5, 0.75]
    assert (source.fps, source.frame_count, source.live, source.hw) == (4, 4, False, (21, 33))
    assert source.warnings == []


def test_broken_images_are_skipped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{i}.jpg" for i in range(6)]
    save_images(tmp_path / "drive", names)
    cut(tmp_path / "drive" / "0.jpg", 0.5)
    (tmp_path / "drive" / "2.jpg").write_bytes(b"")
    (tmp_path / "drive" / "3.jpg").write_bytes(b"not an image")
    frames, source = read(tmp_path / "drive")
    assert [Path(frame.source).name for frame in frames] == ["1.jpg", "4.jpg", "5.jpg"]
    assert [frame.id for frame in frames] == [0, 1, 2]
    assert times(frames) == pytest.approx([0.1, 0.4, 0.5])  # their places in the folder
    folder = tmp_path / "drive"
    assert source.warnings == [f"{folder}: 3 of 6 images could not be read and were skipped: 0.jpg, 2.jpg, 3.jpg"]
    assert [record.getMessage() for record in caplog.records] == source.warnings


@pytest.mark.parametrize("pattern", ["**/*.png", "[ab]/?.png"])
def test_glob(tmp_path: Path, pattern: str) -> None:
    save_images(tmp_path / "a", ["9.png", "1.png"])
    save_images(tmp_path / "b", ["2.png"])
    frames, _ = read(tmp_path / pattern)
    assert [frame.source for frame in frames] == [str(tmp_path / name) for name in ("a/1.png", "a/9.png", "b/2.png")]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    save_images(tmp_path, ["a[1].png", "a1.png"])
    (frame,), source = read(tmp_path / "a[1].png")
    assert frame.source.endswith("a[1].png") and source.frame_count == 1


def test_a_glob_may_match_one_video(tmp_path: Path) -> None:
    save_video(tmp_path / "only.mp4", [0.0])
    assert isinstance(open_source(str(tmp_path / "*.mp4")), VideoFile)
    save_video(tmp_path / "second.mp4", [0.0])
    with pytest.raises(ValueError, match=r"none of the 2 matches is an image; .*; give videos one by one"):
        open_source(str(tmp_path / "*.mp4"))


def test_glob_without_match(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the pattern matches no file"):
        open_source(str(tmp_path / "*.png"))


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder without images; expected .*jpg.* directly in it; give a folder"):
        open_source(str(tmp_path))
    (tmp_path / "inner").mkdir()
    with pytest.raises(ValueError, match=r"give the pattern '.*/\*\*/\*\.jpg'"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("hw", [(1, 1), (7, 5), (40, 13)])
def test_single_image_of_any_kind_becomes_bgr(tmp_path: Path, hw: tuple[int, int]) -> None:
    variants = {"grey.png": np.full(hw, 77, np.uint8), "deep.png": np.full((*hw, 3), 77 * 257, np.uint16)}
    variants |= {"alpha.png": np.full((*hw, 4), 77, np.uint8)}
    for name, pixels in variants.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        (frame,), source = read(tmp_path / name)
        assert frame.hw == source.hw == hw and frame.timestamp_s == 0.0 and frame.id == 0
        assert np.all(frame.image == 77)
    assert isinstance(source, ImageFiles) and source.name == "alpha.png"


def test_single_broken_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg: expected images, but its content can not be read as one"):
        open_source(str(tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 files can be read"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_image_rate_must_make_sense(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="image_fps must be a number over 0"):
        open_source(str(tmp_path), image_fps=fps)


# --- live


class _MotionJpeg(BaseHTTPRequestHandler):
    """Ten JPEG images as an endless-looking HTTP answer, then the end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        self.end_headers()
        for i in range(10):
            jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 20 * i, np.uint8))[1].tobytes()
            self.wfile.write(b"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_motion_jpeg_over_http_is_live(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _MotionJpeg) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with open_source(f"http://me:secret@127.0.0.1:{server.server_port}/video", give_up_s=0) as source:
                frames = list(source)
        finally:
            server.shutdown()
            thread.join()
    assert isinstance(source, LiveStream) and source.live and source.frame_count is None and source.hw == (48, 64)
    assert 8 <= len(frames) <= 10  # FFmpeg may keep back the last ones
    assert [frame.id for frame in frames] == list(range(len(frames)))
    assert [round(frame.image.mean() / 20) for frame in frames] == list(range(len(frames)))
    assert frames[0].timestamp_s == 0.0 and np.all(np.diff(times(frames)) > 0)
    (warning,) = source.warnings
    assert "ended or stood still" in warning and "secret" not in warning + source.name + frames[0].source
    source.close()
    assert list(source) == []


def test_stream_that_nobody_serves() -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x: can not be opened; expected video; check the address"):
        open_source("http://me:secret@127.0.0.1:9/x")
