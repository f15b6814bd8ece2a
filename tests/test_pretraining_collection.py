"""Frames without labels: what is found, taken out of videos, and left out."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from perception.inspection import likeness
from perception.pretraining.collection import collect, sampled

HW = (64, 96)


def street(seed: int, hw: tuple[int, int] = (96, 144)) -> np.ndarray:
    """A BGR image of random blocks that is unlike that of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    return cv2.resize(coarse, hw[::-1], interpolation=cv2.INTER_NEAREST)


def save_video(path: Path, images: list[np.ndarray], fps: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.bit_rate = 2_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return path


def test_a_folder_is_searched_to_the_bottom_and_broken_and_alike_files_are_left_out(tmp_path: Path) -> None:
    deep = tmp_path / "drive" / "deep"
    deep.mkdir(parents=True)
    for seed in range(3):
        cv2.imwrite(str(deep / f"{seed}.png"), street(seed))
    cv2.imwrite(str(tmp_path / "drive" / "same.jpg"), street(0), [cv2.IMWRITE_JPEG_QUALITY, 80])
    whole = (deep / "1.png").read_bytes()
    (deep / "cut.png").write_bytes(whole[: len(whole) // 2])
    (deep / "empty.jpg").write_bytes(b"")
    (deep / "notes.txt").write_text("no image")

    found = collect([str(tmp_path / "drive")], HW, tmp_path / "frames")

    assert [p.name for p in found.files] == ["0.png", "1.png", "2.png"]
    assert found.duplicates == 1
    assert found.broken == ["cut.png is cut short", "empty.jpg is empty"]
    assert any("2 files are left out: cut.png" in line for line in found.lines(HW))
    assert found.small == 0


def test_small_frames_are_told(tmp_path: Path) -> None:
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), street(seed, (40, 60)))
    found = collect([str(tmp_path)], HW, tmp_path / "frames")
    assert found.small == 2
    assert any("smaller than the input 96x64" in line for line in found.lines(HW))


def test_a_video_gives_frames_by_time_and_at_once_where_the_scene_changes(tmp_path: Path) -> None:
    """2 s of one scene, then 0.3 s of another one: at 10 fps and 1 s apart that is 0 s, 1 s, and 2 s for the change."""
    video = save_video(tmp_path / "drive.mp4", [street(1)] * 20 + [street(2)] * 3)
    assert [round(time_s, 2) for _, time_s in sampled(video, 1.0)] == [0.0, 1.0, 2.0]

    found = collect([str(video)], HW, tmp_path / "run" / "frames")
    assert [p.name for p in found.files] == ["drive_00000000.jpg", "drive_00002000.jpg"]  # what repeats is dropped
    assert found.from_videos == 2
    assert sorted(p.name for p in (tmp_path / "run" / "frames").iterdir()) == [p.name for p in found.files]
    assert np.abs(cv2.imread(str(found.files[1])).astype(int) - street(2)).mean() < 12


def test_videos_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    videos = []
    for seed, drive in enumerate(("monday", "tuesday")):
        (tmp_path / drive).mkdir()
        videos.append(str(save_video(tmp_path / drive / "front.mp4", [street(seed)] * 3)))
    found = collect(videos, HW, tmp_path / "run" / "frames")
    assert len(set(found.files)) == len(found.files) == 2
    for seed, path in enumerate(found.files):
        assert np.abs(cv2.imread(str(path)).astype(int) - street(seed)).mean() < 12


def test_a_broken_video_is_left_out_like_a_broken_image(tmp_path: Path) -> None:
    good = save_video(tmp_path / "good.mp4", [street(1)] * 5 + [street(2)] * 5)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])  # without its index
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "code.ts").write_text("export const a = 1;\n")
    found = collect([str(tmp_path)], HW, tmp_path / "run" / "frames")
    assert len(found.files) == 2
    assert [name.split()[0] for name in found.broken] == ["code.ts", "cut.mp4", "empty.mkv"]
    assert found.broken[2] == "empty.mkv (the file is empty (0 bytes); expected a video; copy or record it again)"


def test_a_camera_that_stands_still_costs_one_look_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), cv2.add(street(number // 20), number % 2))
    looks = []
    look = likeness._correlation
    monkeypatch.setattr(likeness, "_correlation", lambda a, b: looks.append(1) or look(a, b))
    found = collect([str(tmp_path)], HW, tmp_path / "frames")
    assert [path.name for path in found.files] == ["00.png", "20.png"] and found.duplicates == 38
    assert len(looks) <= 38  # not 20 * 19


def test_one_image_is_not_enough(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), street(0))
    with pytest.raises(ValueError, match="expected at least 2 different frames, but found 1"):
        collect([str(tmp_path / "one.png")], HW, tmp_path / "frames")
    assert len(collect([str(tmp_path / "one.png")], HW, tmp_path / "frames", fewest=1).files) == 1


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder nowhere"):
        collect(["nowhere"], HW, tmp_path)


def test_a_folder_may_be_called_frames(tmp_path: Path) -> None:
    """What came out of a video is counted as such, whatever the folders are called."""
    (tmp_path / "frames").mkdir()
    for number, seed in enumerate((0, 0, 3)):
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), street(seed))
    video = save_video(tmp_path / "drive.mp4", [street(1)] * 5 + [street(2)] * 5)
    found = collect([str(tmp_path / "frames"), str(video)], HW, tmp_path / "run" / "frames")
    assert (len(found.files), found.duplicates, found.from_videos) == (4, 1, 2)
