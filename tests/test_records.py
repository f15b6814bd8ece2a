"""Records and video out: what is written can be read again, also after a killed run or on a full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from perception.frames import open_source
from perception.records import SCHEMA, RecordWriter, read_records
from perception.structures import Detections, Frame, Result, Track
from perception.video import VideoWriter

ROOT = Path(__file__).parents[1]  # `python -c` imports from where it runs
HW = (30, 40)


def frame(i: int = 0, hw: tuple[int, int] = HW) -> Frame:
    return Frame(np.full((*hw, 3), 4 * i % 256, np.uint8), i, i / 25, "drive.mp4")


def result(boxes: list[list[float]] | None = None, hw: tuple[int, int] = HW) -> Result:
    scene = np.zeros(hw, np.uint8)
    scene[: hw[0] // 2] = 1
    scene[0, 0] = 7  # a class without a name
    n = len(boxes or [])
    detections = Detections(
        np.array(boxes or [], np.float32).reshape(-1, 4), np.full(n, 0.87654, np.float32), np.ones(n, np.int64)
    )
    return Result(detections, {"scene": scene}, ("person", "car"), {"scene": ("road", "sky")})


# --- records


def test_records_can_be_read_again(tmp_path: Path) -> None:
    track = Track(3, (1.0, 2.0, 30.06, 20.0), 0.5, 1, 1.23456, 0.04, (-3.14159, 0.0))
    with RecordWriter(tmp_path / "deep" / "er" / "records.jsonl", model="drive-t") as writer:
        writer.write(frame(0), result([[1.04, 2.06, 30.0, 20.25]]), [track], {"inference": 12.34567})
        writer.write(frame(1), result())
    header, (first, second) = read_records(writer.path)
    assert header == {
        "schema": SCHEMA,
        "model": "drive-t",
        "source": "drive.mp4",
        "boxes": ["person", "car"],
        "heads": {"scene": ["road", "sky"]},
    }
    assert first == {
        "frame": 0,
        "timestamp_s": 0.0,
        "hw": [30, 40],
        "boxes": [{"xyxy": [1.0, 2.1, 30.0, 20.2], "score": 0.8765, "class": "car", "class_id": 1}],
        "tracks": [
            {"id": 3, "xyxy": [1.0, 2.0, 30.1, 20.0], "score": 0.5, "class": "car", "class_id": 1, "age_s": 1.235,
             "unseen_s": 0.04, "velocity_xy": [-3.1, 0.0]},
        ],
        "areas": {"scene": {"road": 0.5, "sky": 0.49917, "7": 0.00083}},
        "timings_ms": {"inference": 12.346},
    }  # fmt: skip
    assert (second["frame"], second["timestamp_s"], second["boxes"], second["tracks"]) == (1, 0.04, [], [])
    assert second["timings_ms"] == {}


def test_a_dropped_frame_is_a_line_too_even_the_first(tmp_path: Path) -> None:
    named = Frame(frame(2).image, 2, 0.08, "drive.mp4", "front")
    track = Track(3, (1.0, 2.0, 30.0, 20.0), 0.5, 1, 1.0, 0.04)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.skipped(1, 0.04, [track], named, result())
        writer.write(named, result())
    header, (lost, seen) = read_records(tmp_path / "records.jsonl")
    assert header["boxes"] == ["person", "car"] and header["source"] == "drive.mp4"
    assert (lost["frame"], lost["inferred"], lost["hw"], lost["boxes"]) == (1, False, list(HW), [])
    assert lost["tracks"][0]["class"] == "car" and lost["camera"] == seen["camera"] == "front"
    assert "inferred" not in seen and set(lost) == {*seen, "inferred"}


def test_every_record_is_on_disk_at_once(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records.jsonl", source="camera 0") as writer:
        for i in range(3):
            writer.write(frame(i), result([[0, 0, 1, 1]]))
            header, records = read_records(writer.path)
            assert header["source"] == "camera 0"
            assert [record["frame"] for record in records] == list(range(i + 1))


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (333, 501)])
def test_areas_are_the_shares_of_the_pixels(tmp_path: Path, hw: tuple[int, int]) -> None:
    classes = np.random.default_rng(0).integers(0, 3, hw).astype(np.uint8)
    seen = Result(Detections.empty(), {"drive": classes}, (), {"drive": ("none", "road", "line")})
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write(frame(0, hw), seen)
    (record,) = read_records(writer.path)[1]
    expected = {name: np.mean(classes == i) for i, name in enumerate(("none", "road", "line")) if (classes == i).any()}
    assert record["areas"]["drive"] == pytest.approx(expected, abs=1e-5)


def test_a_run_without_frames_leaves_a_header(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records.jsonl", model="m", source="s"):
        pass
    header, records = read_records(tmp_path / "records.jsonl")
    assert (header["model"], header["source"], header["boxes"], records) == ("m", "s", [], [])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write(frame(0), result())
        with pytest.raises(ValueError, match="frame 1 has a number that is not finite"):
            writer.write(frame(1), result([[0, bad, 1, 1]]))
        with pytest.raises(ValueError, match="not finite"):
            writer.write(frame(1), result(), timings={"read": bad})
        writer.write(frame(2), result())
    assert [record["frame"] for record in read_records(writer.path)[1]] == [0, 2]


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "records.jsonl")
    writer.write(frame(), result())
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="already closed"):
        writer.write(frame(), result())
    assert len(read_records(writer.path)[1]) == 1


def test_reading_tolerates_only_a_cut_last_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        for i in range(3):
            writer.write(frame(i), result())
    whole = path.read_bytes()
    for cut in range(1, 60):
        path.write_bytes(whole[:-cut])
        assert [record["frame"] for record in read_records(path)[1]] == ([0, 1, 2] if cut == 1 else [0, 1])
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(ValueError, match=r"records\.jsonl: line 2 is not JSON"):
        read_records(path)


@pytest.mark.parametrize("content", [b"", b"[1]\n", b'{"schema": 99}\n', b'{"frame": 0}\n', b'{"sche', b"\x00\xff"])
def test_reading_what_is_not_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="expected records of schema 1, but got"):
        read_records(tmp_path / "other.jsonl")


# --- video


def scene(i: int, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 BGR with a bright bar that moves from left to right."""
    image = np.full((*hw, 3), (60, 40, 30), np.uint8)
    image[:, i % hw[1] : i % hw[1] + 5] = (40, 200, 230)
    return image


def test_video_keeps_times_and_colours(tmp_path: Path) -> None:
    times = [0.0, 0.033, 0.04, 0.5, 0.501, 2.0, 2.04, 5.25, 5.3]
    with VideoWriter(tmp_path / "deep" / "überblick.mp4", 25, (48, 64)) as writer:
        for i, time_s in enumerate(times):
            writer.write(scene(7 * i, (48, 64)), time_s)
    with open_source(str(writer.path)) as source:
        frames = list(source)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(times, abs=1 / 90000)
    assert (source.frame_count, source.warnings) == (len(times), [])
    for i, read in enumerate(frames):
        assert np.abs(read.image.astype(int) - scene(7 * i, (48, 64))).mean() < 8


def test_video_is_what_browsers_play(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 29.97, (48, 64)) as writer:
        for i in range(90):
            writer.write(scene(i, (48, 64)), i / 29.97)
    with av.open(str(writer.path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 90  # closed: an ordinary MP4 with an index, not fragments
        assert file.duration is not None and file.duration / 1e6 == pytest.approx(90 / 29.97, abs=0.01)
        keys = [float(packet.pts * packet.time_base) for packet in file.demux(stream) if packet.is_keyframe]
    assert keys[0] == 0 and max(np.diff([*keys, 3.0])) < 1.1  # seeking is fast, and little is lost


def test_endless_video_keeps_no_index_and_is_read_to_its_end(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 64), endless=True) as writer:
        for i in range(60):
            writer.write(scene(i, (48, 64)), i / 25)
    assert writer.path.read_bytes().count(b"moof") >= 3  # fragments, also after it was closed
    with open_source(str(writer.path)) as source:
        assert [frame.timestamp_s for frame in source] == pytest.approx([i / 25 for i in range(60)], abs=1 / 90000)
    with VideoWriter(tmp_path / "b.mp4", 25, (48, 64)) as whole:
        for i in range(60):
            whole.write(scene(i, (48, 64)), i / 25)
    with av.open(str(whole.path)) as file:
        assert file.streams.video[0].frames == 60


def test_video_of_a_slow_source_has_keyframes_by_time(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, (48, 64)) as writer:
        for i in range(10):
            writer.write(scene(i, (48, 64)), i * 0.6)
    with av.open(str(writer.path)) as file:
        keys = [packet.pts * packet.time_base for packet in file.demux(video=0) if packet.is_keyframe]
    assert [float(key) for key in keys] == pytest.approx([0, 1.2, 2.4, 3.6, 4.8])


@pytest.mark.parametrize("hw", [(1, 1), (2, 3), (15, 17), (63, 40), (200, 33)])
def test_odd_sizes_become_even(tmp_path: Path, hw: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, hw) as writer:
        for i in range(3):
            writer.write(np.full((*hw, 3), 120, np.uint8), i / 10)
    with open_source(str(writer.path)) as source:
        frames = list(source)
    assert len(frames) == 3
    assert frames[0].hw == (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2)
    assert np.abs(frames[0].image.astype(int) - 120).max() <= 4


def test_an_image_of_another_size_is_fitted_in(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, (48, 64)) as writer:
        writer.write(np.full((48, 64, 3), (200, 30, 30), np.uint8), 0)
        writer.write(np.full((96, 96, 3), (200, 30, 30), np.uint8), 0.1)  # square: grey to the left and right
    with open_source(str(writer.path)) as source:
        first, second = source
    assert first.hw == second.hw == (48, 64)
    assert np.abs(second.image[24, 32].astype(int) - (200, 30, 30)).max() < 12  # still BGR
    assert np.abs(second.image[24, 2].astype(int) - 114).max() < 12


def test_timestamps_that_do_not_rise_are_moved_up(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, (16, 16)) as writer:
        for time_s in (0.0, 0.0, 0.5, 0.2, 0.6):
            writer.write(scene(0, (16, 16)), time_s)
    with av.open(str(writer.path)) as file:
        pts = [round(packet.pts * packet.time_base * 90000) for packet in file.demux(video=0) if packet.pts is not None]
    assert pts == [0, 1, 45000, 45001, 54000]


def test_video_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    for fps, hw in ((0, (16, 16)), (float("nan"), (16, 16)), (10, (0, 16))):
        with pytest.raises(ValueError, match=r"VideoWriter\.(fps|hw) must be"):
            VideoWriter(tmp_path / "a.mp4", fps, hw)
    with VideoWriter(tmp_path / "a.mp4", 10, (16, 16)) as writer:
        with pytest.raises(ValueError, match="uint8 BGR"):
            writer.write(np.zeros((16, 16), np.uint8), 0)
        for time_s in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="timestamp_s must be"):
                writer.write(scene(0, (16, 16)), time_s)
    assert not writer.path.exists()  # no frame, no file
    writer.close()
    with pytest.raises(ValueError, match="already closed"):
        writer.write(scene(0, (16, 16)), 0)


# --- when things go wrong


@pytest.mark.parametrize("name", ["file/below.out", "."])
def test_an_unwritable_place_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    for open_writer in (RecordWriter, lambda path: VideoWriter(path, 10, (16, 16))):
        with pytest.raises(OSError, match=r"can not be written: .*; expected a writable folder") as caught:
            open_writer(tmp_path / name)
        assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, signal, sys
import numpy as np
from perception.records import RecordWriter
from perception.video import VideoWriter
from perception.structures import Detections, Frame, Result

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # every file is full at 40 kB
noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
for name in sys.argv[1:]:
    video = name.endswith(".mp4")
    try:
        with VideoWriter(name, 10, (64, 64)) if video else RecordWriter(name) as writer:
            for i in range(2000):
                if video:
                    writer.write(np.roll(noise, i * 7, 1), i / 10)
                else:
                    writer.write(Frame(noise, i, i / 10), Result(Detections.empty(), {}))
    except OSError as error:
        writer.close()
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("records.jsonl", "a.mp4")]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *files], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(": can not be written: ")[0] for line in lines] == files
    assert len(read_records(files[0])[1]) > 100
    with open_source(files[1]) as source:
        assert len(list(source)) >= 1


KILLED = """
import sys
import numpy as np
from perception.records import RecordWriter
from perception.video import VideoWriter
from perception.structures import Detections, Frame, Result

result = Result(Detections.empty(), {"drive": np.ones((96, 128), np.uint8)}, (), {"drive": ("none", "road")})
with VideoWriter(sys.argv[1] + "/a.mp4", 25, (96, 128)) as video, RecordWriter(sys.argv[1] + "/a.jsonl") as records:
    for i in range(1_000_000):
        image = np.full((96, 128, 3), 100 + i % 50, np.uint8)
        video.write(image, i / 25)
        records.write(Frame(image, i, i / 25), result)
        print(i, flush=True)
"""


def test_a_killed_run_leaves_a_video_and_records(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 110:
                process.kill()  # SIGKILL: nothing can be tidied up
                break
        process.stdout.read()
    if sys.platform != "win32":
        assert process.returncode == -signal.SIGKILL
    header, records = read_records(tmp_path / "a.jsonl")
    assert header["heads"] == {"drive": ["none", "road"]}
    assert len(records) >= 110 and [record["frame"] for record in records] == list(range(len(records)))
    assert all(json.dumps(record) for record in records)
    with open_source(str(tmp_path / "a.mp4")) as source:
        frames = list(source)
    assert len(records) - 26 <= len(frames) <= len(records) + 1  # at most the last second is lost
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(len(frames))], abs=1e-4)
    assert [round(frame.image.mean() - 100) for frame in frames] == pytest.approx(
        [i % 50 for i in range(len(frames))], abs=3
    )


def test_what_is_known_of_distance_is_written(tmp_path: Path) -> None:
    near = Track(id=1, box=(0, 0, 9, 9), score=0.5, class_id=1, age_s=1.0, distance_m=12.345, distance_std_m=1.0)
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write(frame(0), result(), [near])
    (written,) = read_records(writer.path)[1][0]["tracks"]
    assert (written["distance_m"], written["distance_std_m"]) == (pytest.approx(12.345, abs=0.006), 1.0)
    assert "ttc_s" not in written and "ttc_std_s" not in written
