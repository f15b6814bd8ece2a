"""The converters of datasets with masks, each on a few files in its native layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.camvid import prepare as camvid
from data.cits import prepare as cits
from data.comma10k import prepare as comma10k
from data.idd_lite import prepare as idd_lite
from perception.labels import DRIVE_CLASSES, IGNORE, SCENE_CLASSES
from perception.layout import read_layout

HW = (6, 8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def photo(path: Path, hw: tuple[int, int] = HW) -> None:
    write(path, np.full((*hw, 3), 90, np.uint8))


def classes_at(folder: Path, split: str, name: str, head: str, yx: tuple[int, int]) -> set[str]:
    """Our classes that a pixel of a converted mask may be."""
    labels, samples = read_layout(folder, split)
    (sample,) = [sample for sample in samples if sample.image.stem == name]
    mask = cv2.imread(str(sample.masks[head]), cv2.IMREAD_UNCHANGED)
    names = {"scene": SCENE_CLASSES, "drive": DRIVE_CLASSES}[head]
    return {names[index] for index in np.flatnonzero(labels.masks[head].membership()[mask[yx]])}


# --------------------------------------------------------------------------------------------------------------- camvid


@pytest.fixture
def camvid_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
        photo(source / split / f"{name}.png")
        mask = np.full(HW, 3, np.uint8)  # road
        mask[0] = [0, 1, 2, 4, 5, 6, 10, 11]
        write(source / f"{split}annot" / f"{name}.png", mask)
    return source


def test_camvid_has_two_heads_in_one_mask(tmp_path, camvid_source, capsys):
    assert camvid.main([str(camvid_source), str(tmp_path / "out")]) == 0
    assert "images: 1 train, 1 val, 1 test" in (out := capsys.readouterr().out) and "problems: none" in out
    scene = [classes_at(tmp_path / "out", "test", "Seq05VD_f00000", "scene", (0, x)) for x in range(8)]
    assert scene == [
        {"sky"}, {"building", "wall"}, {"pole"}, {"sidewalk"}, {"vegetation", "terrain"},
        {"traffic sign", "traffic light"}, {"rider", "bicycle", "motorcycle"}, set(),
    ]  # fmt: skip
    assert classes_at(tmp_path / "out", "train", "0001TP_006690", "scene", (3, 3)) == {"road", "lane marking"}
    assert classes_at(tmp_path / "out", "train", "0001TP_006690", "drive", (3, 3)) == {"drivable", "lane marking"}
    assert classes_at(tmp_path / "out", "train", "0001TP_006690", "drive", (0, 3)) == {"background"}
    assert classes_at(tmp_path / "out", "train", "0001TP_006690", "drive", (0, 7)) == set()
    sample = read_layout(tmp_path / "out", "val")[1][0]
    assert sample.masks["scene"] == sample.masks["drive"] and sample.boxes is None


def test_camvid_malformed(tmp_path, camvid_source, capsys):
    photo(camvid_source / "train/nomask.png")
    photo(camvid_source / "train/small.png", (3, 4))
    write(camvid_source / "trainannot/small.png", np.zeros(HW, np.uint8))
    photo(camvid_source / "train/strange.png")
    write(camvid_source / "trainannot/strange.png", np.full(HW, 77, np.uint8))
    (camvid_source / "train/text.png").write_text("no image")
    write(camvid_source / "trainannot/text.png", np.zeros(HW, np.uint8))
    arguments = [str(camvid_source), str(tmp_path / "out")]

    assert camvid.main([*arguments, "--strict"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--strict" in error and not (tmp_path / "out").exists()

    assert camvid.main(arguments) == 0
    out = capsys.readouterr().out
    for part in ("2 train", "missing or unreadable mask", "another size", "unknown label ids", "unreadable image"):
        assert part in out
    assert {sample.image.stem for sample in read_layout(tmp_path / "out", "train")[1]} == {"0001TP_006690", "strange"}


def test_wrong_source_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    for module, options in (
        (camvid, []), (idd_lite, []), (comma10k, []), (cits, ["--part", "lanes"]), (cits, ["--part", "signs"]),
    ):  # fmt: skip
        for source in ("source", "none"):
            assert module.main([str(tmp_path / source), str(tmp_path / "out"), *options]) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# ------------------------------------------------------------------------------------------------------------- idd_lite


def test_idd_lite(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    mask = np.tile(np.array([0, 1, 2, 3, 4, 5, 6, 255], np.uint8), (6, 1))
    for split, sequence, frame in (("train", "0", "024541"), ("train", "1", "024541"), ("val", "9", "frame0029")):
        photo(source / f"leftImg8bit/{split}/{sequence}/{frame}_image.jpg")
        write(source / f"gtFine/{split}/{sequence}/{frame}_label.png", mask)
        write(source / f"gtFine/{split}/{sequence}/{frame}_inst_label.png", mask)
    photo(source / "leftImg8bit/train/1/lonely_image.jpg")
    photo(source / "leftImg8bit/test/3/frame7_image.jpg")
    assert idd_lite.main([str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 train, 1 val, 1 test" in printed and "1 x missing or unreadable mask" in printed and "lonely" in printed

    assert [sample.image.stem for sample in read_layout(out, "train")[1]] == ["0_024541", "1_024541"]
    assert not read_layout(out, "test")[1][0].masks
    name = "9_frame0029"
    assert classes_at(out, "val", name, "scene", (0, 0)) == {"road", "lane marking"}
    assert classes_at(out, "val", name, "scene", (0, 1)) == {"sidewalk", "terrain"}
    assert classes_at(out, "val", name, "scene", (0, 2)) == {"person", "rider"}
    assert classes_at(out, "val", name, "scene", (0, 3)) == {"car", "truck", "bus", "train", "motorcycle", "bicycle"}
    assert classes_at(out, "val", name, "scene", (0, 6)) == {"sky"}
    assert classes_at(out, "val", name, "drive", (0, 0)) == {"drivable", "lane marking"}
    assert all(classes_at(out, "val", name, "drive", (0, x)) == {"background"} for x in range(1, 7))
    assert classes_at(out, "val", name, "scene", (0, 7)) == classes_at(out, "val", name, "drive", (0, 7)) == set()


# ------------------------------------------------------------------------------------------------------------- comma10k


def test_comma10k(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    rgb = np.array([[0x40, 0x20, 0x20], [0xFF, 0, 0], [0x80, 0x80, 0x60], [0, 0xFF, 0x66], [0xCC, 0, 0xFF]], np.uint8)
    rgb = np.vstack([rgb, [[0, 0xCC, 0xFF], [1, 2, 3], [0x40, 0x20, 0x20]]]).astype(np.uint8)
    bgra = np.tile(np.dstack([rgb[None, :, ::-1], np.full((1, 8, 1), 255, np.uint8)]), (6, 1, 1))
    for name in ("0000_a_864", "0001_b_79", "0002_c_60"):
        photo(source / f"imgs/{name}.png")
        write(source / f"masks/{name}.png", bgra if name != "0002_c_60" else bgra[:, :3])
    photo(source / "imgs/0003_d_1.png")
    assert comma10k.main([str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 train, 1 val" in printed and "missing or unreadable mask" in printed and "another size" in printed
    assert "unknown colours" in printed and "#010203" in printed

    sample = read_layout(out, "val")[1][0]
    assert sample.image.stem == "0001_b_79"
    mask = cv2.imread(str(sample.masks["drive"]), cv2.IMREAD_UNCHANGED)
    assert mask[0].tolist() == [0, 1, 2, 3, 4, 5, IGNORE, 0]
    drive = [classes_at(out, "train", "0000_a_864", "drive", (0, x)) for x in range(6)]
    assert drive == [{"drivable"}, {"lane marking"}, {"background"}, {"background"}, set(), set()]
    scene = [classes_at(out, "train", "0000_a_864", "scene", (0, x)) for x in range(5)]
    assert scene[:2] == [{"road"}, {"lane marking"}] and scene[4] == set()
    assert set().union(*scene) == set(SCENE_CLASSES) and not scene[2] & scene[3]


# ----------------------------------------------------------------------------------------------------------- cits lanes


@pytest.mark.parametrize("named", [False, True])
def test_cits_lanes_hold_out_whole_videos(tmp_path, capsys, named):
    source, out = tmp_path / "cits_weather", tmp_path / "out"
    masks = tmp_path / ("elsewhere" if named else "cits_weather_lanes")
    mask = np.tile(np.array([0, 1, 2, 255], np.uint8), (6, 2))
    for video in (1, 5, 12, 20):
        for frame in (0, 102):
            photo(source / f"Video{video}/Frame_1({frame}).jpg")
            write(masks / f"Video{video}/Frame_1({frame}).png", mask)
    photo(source / "Video12/Frame_1(6).jpg")
    photo(source / "extra/Frame_1(6).jpg")
    options = ["--masks", str(masks)] if named else []
    assert cits.main(["--part", "lanes", str(source), str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert (
        "4 train, 4 val" in printed and "missing or unreadable mask" in printed and "without a video number" in printed
    )
    videos = {split: {s.image.stem.split("_")[0] for s in read_layout(out, split)[1]} for split in ("train", "val")}
    assert videos == {"train": {"Video1", "Video12"}, "val": {"Video5", "Video20"}}
    drive = [classes_at(out, "val", "Video5_Frame_1(102)", "drive", (0, x)) for x in range(4)]
    assert drive == [{"background"}, {"drivable"}, {"lane marking"}, set()]
    scene = [classes_at(out, "val", "Video5_Frame_1(102)", "scene", (0, x)) for x in range(4)]
    assert scene == [set(), {"road"}, {"lane marking"}, set()]
    assert "note: 8 x image of a video whose weather" in printed  # there is no 00_gt.txt


def test_cits_weather_of_each_video(tmp_path, capsys):
    source, out = tmp_path / "cits_weather", tmp_path / "out"
    for video in (1, 2, 3, 4, 5):
        photo(source / f"Video{video}/f.jpg")
        write(tmp_path / f"cits_weather_lanes/Video{video}/f.png", np.ones((6, 8), np.uint8))
    (source / "00_gt.txt").write_text(
        "General Weather Condition;Kilometers;Frames\nVideo 1;Moderate fog;9,5;145\nVideo 2;;;\n"
        "Video 3;cloudy (dawn/dusk + rain);1;15\nVideo 4;Sunny+Cloudy;13;201\nVideo 50;Sunny;1;1\n"
    )
    assert cits.main(["--part", "lanes", str(source), str(out)]) == 0
    assert "note: 2 x image of a video whose weather" in capsys.readouterr().out  # of videos 2 and 5
    found = {s.image.stem: dict(s.attributes) for split in ("train", "val") for s in read_layout(out, split)[1]}
    assert found == {
        "Video1_f": {"weather": "fog", "fog": "moderate"},
        "Video2_f": {},
        "Video3_f": {"weather": "rain", "timeofday": "dawn/dusk"},
        "Video4_f": {"weather": "partly cloudy"},
        "Video5_f": {},
    }
