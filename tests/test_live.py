"""perception.live end to end, on a generated drive: a red car goes right, a blue pedestrian goes left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from perception.camera import Camera
from perception.engine import Metadata
from perception.execution.libraries import why_not
from perception.live import main
from perception.model import BUNDLED_MODEL
from perception.records import read_records

HW = (120, 200)
FPS = 25


def render(i: int, still: bool = False) -> np.ndarray:
    """Frame `i`: (120, 200, 3) uint8 BGR; the car's left edge is at 10 + 2 i, the pedestrian's at 180 - i."""
    image = np.full((*HW, 3), 70, np.uint8)
    x = 0 if still else i
    image[70:100, 10 + 2 * x : 60 + 2 * x] = (0, 0, 200)
    image[20:60, 180 - x : 192 - x] = (200, 0, 0)
    return image


def write_video(path: Path, n: int = 30, still: bool = False) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, HW[::-1])
    for i in range(n):
        writer.write(render(i, still))
    writer.release()
    return path


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "drive.mp4")


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the front door on a source with the tiny model; returns the summary."""

    def go(source: Path | str, *options: str) -> dict[str, Any]:
        argv = [str(source), "--model", str(tiny_model), "--provider", "cpu", "--out", str(tmp_path / "out")]
        code = main([*argv, "--json", "-", *options])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert out.startswith("CPU: as asked for\n")
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    return go


def records(folder: Path) -> list[dict[str, Any]]:
    return read_records(folder / "records.jsonl")[1]


def video_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_every_frame_of_a_file_comes_out_in_order(
    run: Callable[..., dict[str, Any]], drive: Path, tmp_path: Path
) -> None:
    summary = run(drive)
    assert (summary["frames"], summary["dropped"], summary["mode"]) == (30, 0, "every frame")
    assert summary["ended"] == "end of source" and summary["tracks"] == 2 and summary["detections"] == 60
    assert summary["files"] == [str(tmp_path / "out" / name) for name in ("records.jsonl", "overlay.mp4")]
    assert summary["warnings"] == [] and summary["fps"] == pytest.approx(30 / summary["seconds"], rel=0.01)
    for stage in ("read", "preprocess", "inference", "postprocess", "track", "records", "video", "total"):
        times = summary["stages_ms"][stage]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"], stage
    assert summary["frame_age_ms"]["p50"] > 0

    lines = records(tmp_path / "out")
    assert [line["frame"] for line in lines] == list(range(30))
    assert [line["timestamp_s"] for line in lines] == pytest.approx([i / FPS for i in range(30)])
    ids = {track["class"]: track["id"] for track in lines[2]["tracks"]}  # the second detection confirms a track
    assert sorted(ids) == ["car", "pedestrian"] and sorted(ids.values()) == [1, 2]
    for i, line in enumerate(lines[2:], 2):
        by_class = {track["class"]: track for track in line["tracks"]}
        assert {name: track["id"] for name, track in by_class.items()} == ids
        np.testing.assert_allclose(by_class["car"]["xyxy"], [10 + 2 * i, 70, 60 + 2 * i, 100], atol=5)
        np.testing.assert_allclose(by_class["pedestrian"]["xyxy"], [180 - i, 20, 192 - i, 60], atol=5)
        assert 0 < line["areas"]["scene"]["blue"] < line["areas"]["scene"]["red"] < 0.1
    drawn = video_frames(tmp_path / "out" / "overlay.mp4")
    assert len(drawn) == 30 and drawn[0].shape == (*HW, 3)
    assert any(np.abs(image.astype(int) - render(i)).max() > 60 for i, image in enumerate(drawn))  # something is drawn


def test_no_video_and_max_frames(run: Callable[..., dict[str, Any]], drive: Path, tmp_path: Path) -> None:
    summary = run(drive, "--no-video", "--max-frames", "7")
    assert summary["frames"] == 7 and summary["ended"] == "max frames" and len(records(tmp_path / "out")) == 7
    assert [Path(file).name for file in summary["files"]] == ["records.jsonl"]
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_another_video_gives_other_records(run: Callable[..., dict[str, Any]], drive: Path, tmp_path: Path) -> None:
    run(drive, "--no-video")
    moving = records(tmp_path / "out")
    run(write_video(tmp_path / "still.mp4", still=True), "--no-video")
    still = records(tmp_path / "out")
    assert json.dumps(moving[20]["tracks"]) != json.dumps(still[20]["tracks"])


def test_score_threshold_reaches_the_model(run: Callable[..., dict[str, Any]], drive: Path) -> None:
    assert run(drive, "--no-video", "--max-frames", "3", "--score-threshold", "0.95")["detections"] == 0


def test_a_model_without_boxes(
    drive: Path, tmp_path: Path, make_tiny_model: Callable[..., Path], tiny_metadata: Metadata
) -> None:
    model = make_tiny_model(metadata=replace(tiny_metadata, box_names=()).to_json())
    assert main([str(drive), "--model", str(model), "--out", str(tmp_path), "--max-frames", "3"]) == 0
    assert [line["boxes"] + line["tracks"] for line in records(tmp_path)] == [[], [], []]


def test_realtime_paces_and_counts_drops_by_id(run: Callable[..., dict[str, Any]], drive: Path, tmp_path: Path) -> None:
    summary = run(drive, "--realtime", "--no-video")
    assert summary["mode"] == "newest frame" and summary["seconds"] >= 29 / FPS - 0.01
    lines = records(tmp_path / "out")
    assert summary["frames"] + summary["dropped"] == 30
    assert [line["frame"] for line in lines] == list(range(30))  # those that were dropped have a line too
    assert [line["timestamp_s"] for line in lines] == pytest.approx([i / FPS for i in range(30)])
    assert sum(line.get("inferred", True) for line in lines) == summary["frames"]


def test_a_folder_of_images(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        cv2.imwrite(str(folder / f"{i:03}.png"), render(i))
    assert run(folder)["frames"] == 5


def test_portrait_and_odd_sizes(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.ascontiguousarray(render(i)[:111, :77].transpose(1, 0, 2)[:, :51]))
    assert run(folder)["frames"] == 3
    assert len(video_frames(tmp_path / "out" / "overlay.mp4")) == 3


def test_sizes_that_change_in_mid_stream(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The video keeps the size of the first frame, records tell the size of each."""
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = [(120, 200), (120, 200), (60, 100), (200, 120), (16, 16)]
    for i, (h, w) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(render(i), (w, h)))
    assert run(folder)["frames"] == 5
    assert [tuple(line["hw"]) for line in records(tmp_path / "out")] == sizes
    assert {image.shape for image in video_frames(tmp_path / "out" / "overlay.mp4")} == {(120, 200, 3)}


def test_a_folder_with_a_broken_file(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), render(i))
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:100])
    summary = run(folder)
    assert summary["frames"] == 3 and [line["frame"] for line in records(tmp_path / "out")] == [0, 1, 2]
    assert len(summary["warnings"]) == 1 and "2.png" in summary["warnings"][0]


@pytest.mark.parametrize("hw", [(16, 16), (4320, 7680)])
def test_tiny_and_huge_frames(run: Callable[..., dict[str, Any]], tmp_path: Path, hw: tuple[int, int]) -> None:
    cv2.imwrite(str(tmp_path / "one.jpg"), cv2.resize(render(0), hw[::-1]))
    summary = run(tmp_path / "one.jpg", "--no-video" if hw[0] > 1000 else "--video")
    (line,) = records(tmp_path / "out")
    assert summary["frames"] == 1 and tuple(line["hw"]) == hw
    if hw[0] > 1000:
        (car,) = (box for box in line["boxes"] if box["class"] == "car")
        expected = np.array([10 * 38.4, 70 * 36, 60 * 38.4, 100 * 36])
        np.testing.assert_allclose(car["xyxy"], expected, atol=2 * 7680 / 96)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.fixture
def refused(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the front door, expect exit code 2, one line and no output folder; returns the line."""

    def go(*argv: str, model: Path | None = None, out: Path = tmp_path / "out") -> str:
        code = main([*argv, "--model", str(model or tiny_model), "--out", str(out)])
        err = capfd.readouterr().err
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert not (tmp_path / "out").exists()
        return err

    return go


def test_sources_that_give_no_frame_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "folder"
    empty.touch()
    text.write_text("This is not a video.\n" * 50)
    folder.mkdir()
    (folder / "readme.txt").write_text("no images here")
    for source in (tmp_path / "missing.mp4", empty, text, folder):
        assert str(source) in refused(str(source))


def test_models_that_are_not_ours_are_refused(
    refused: Callable[..., str], drive: Path, make_tiny_model: Callable[..., Path], tiny_metadata: Metadata
) -> None:
    assert "model file not found" in refused(str(drive), model=Path("none.onnx"))
    assert "not a model of this project" in refused(str(drive), model=make_tiny_model(metadata=None))
    other_size = json.loads(tiny_metadata.to_json())
    other_size["input"]["height"] = 128
    assert "128" in refused(str(drive), model=make_tiny_model(metadata=json.dumps(other_size)))
    assert "not a model that may be loaded" in refused(str(drive), model=drive)


def test_options_that_can_not_be_are_refused(refused: Callable[..., str], drive: Path) -> None:
    assert "--score-threshold" in refused(str(drive), "--score-threshold", "1.5")
    assert "--max-frames" in refused(str(drive), "--max-frames", "0")


def test_a_gpu_that_is_not_there_is_refused(refused: Callable[..., str], drive: Path) -> None:
    if why_not("cuda") is None:
        pytest.skip("this machine has a GPU")
    assert "provider cuda can not run here" in refused(str(drive), "--provider", "cuda")
    assert "provider tensorrt can not run here" in refused(str(drive), "--provider", "tensorrt")


def test_an_out_that_can_not_be_written_is_refused(refused: Callable[..., str], drive: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(file) in refused(str(drive), out=file)
    assert str(file) in refused(str(drive), out=file / "deeper")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux")
@pytest.mark.parametrize("name", ["records.jsonl", "overlay.mp4"])
def test_a_full_disk_is_one_line(
    tiny_model: Path, drive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    code = main([str(drive), "--model", str(tiny_model), "--out", str(tmp_path)])
    err = capfd.readouterr().err
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "No space left" in err


def test_a_truncated_video_gives_its_frames_and_a_warning(tiny_model: Path, tmp_path: Path) -> None:
    """Half of the pictures are gone."""
    source = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), FPS, HW[::-1])
    for i in range(30):
        writer.write(render(i))
    writer.release()
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    summary_file = tmp_path / "summary.json"
    argv = [str(source), "--model", str(tiny_model), "--out", str(tmp_path / "out"), "--json", str(summary_file)]
    done = subprocess.run([sys.executable, "-m", "perception.live", *argv], capture_output=True, text=True, check=False)
    summary = json.loads(summary_file.read_text())
    assert done.returncode == 0 and 5 < summary["frames"] < 25 and len(summary["warnings"]) == 1
    assert done.stderr == f"warning: {summary['warnings'][0]}\n"


# ------------------------------------------------------------------------------------------------------ as a command


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_files(tiny_model: Path, tmp_path: Path, number: signal.Signals) -> None:
    source, out = write_video(tmp_path / "long.mp4", 250), tmp_path / "out"
    argv = [sys.executable, "-m", "perception.live", str(source), "--model", str(tiny_model), "--out", str(out)]
    process = subprocess.Popen([*argv, "--realtime", "--json", "-"], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "records.jsonl").exists() or not (out / "records.jsonl").stat().st_size:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, number)
        stdout, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    summary = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 0 and summary["ended"] == number.name and 0 < summary["frames"] < 250
    seen = [line for line in records(out) if line.get("inferred", True)]
    assert len(seen) == len(video_frames(out / "overlay.mp4")) == summary["frames"]


def test_live_never_imports_what_training_needs() -> None:
    code = (
        "import sys, perception.live; found = {'torch', 'timm', 'albumentations', 'onnx'} & set(sys.modules); "
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    options = "SOURCE --model --provider --out --realtime --no-drop --give-up-s --max-frames --no-video"
    options += " --score-threshold --threads --json"
    assert all(option in text for option in options.split()), text


@pytest.mark.skipif(not BUNDLED_MODEL.exists(), reason="the bundled model is not in this checkout")
def test_the_bundled_model_runs_live(drive: Path, tmp_path: Path) -> None:
    assert main([str(drive), "--provider", "cpu", "--out", str(tmp_path), "--max-frames", "3"]) == 0
    assert len(records(tmp_path)) == 3


def test_a_camera_gives_distances_and_straight_frames(
    run: Callable[..., dict[str, Any]], drive: Path, tmp_path: Path
) -> None:
    camera = Camera(hw=HW, focal_xy=(200.0, 200.0), centre_xy=(99.5, 39.5), height_m=1.5)
    camera.save(tmp_path / "camera.json")
    run(drive, "--camera", str(tmp_path / "camera.json"))
    cars = [track for record in records(tmp_path / "out") for track in record["tracks"] if track["class"] == "car"]
    assert cars and all(track["distance_m"] == pytest.approx(1.5 * 200 / 60, rel=0.1) for track in cars)
    bent = Camera(hw=HW, focal_xy=(200.0, 200.0), centre_xy=(99.5, 59.5), distortion=(-0.4, 0.0, 0.0, 0.0, 0.0))
    bent.save(tmp_path / "bent.json")
    plain = records(tmp_path / "out")[0]["boxes"]
    run(drive, "--camera", str(tmp_path / "bent.json"))
    assert records(tmp_path / "out")[0]["boxes"] != plain


def test_a_camera_of_another_shape_is_refused(
    tiny_model: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Camera(hw=(480, 640), focal_xy=(500.0, 500.0), centre_xy=(320.0, 240.0)).save(tmp_path / "camera.json")
    argv = [str(drive), "--model", str(tiny_model), "--provider", "cpu", "--out", str(tmp_path / "out")]
    assert main([*argv, "--camera", str(tmp_path / "camera.json")]) == 2
    assert "of another shape" in capsys.readouterr().err
