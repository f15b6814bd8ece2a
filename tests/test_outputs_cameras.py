"""Several cameras in every output: each is opened by a reader of its own format, and the cameras are told apart."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from perception.live import main
from perception.outputs.choice import Output, files_of, path_parts
from perception.records import read_records
from perception.sinks import Outcome, close_sinks, open_sinks
from perception.structures import Detections, Frame, Result, Track
from tests.test_cameras import clip
from tests.test_outputs import printed_rrd

HW = (30, 40)
CAMERAS = ("front", "left side")
NAMES = ("person", "car")


def write(folder: Path, *outputs: Output, n: int = 3, cameras: tuple[str, ...] = CAMERAS) -> Path:
    """A run of `n` frames of each camera. In camera c there is one car, box and track at (c + i, 2, c + i + 10, 22)."""
    frames = [
        (c, Frame(np.full((*HW, 3), 40 * i + c, np.uint8), i, i / 25 + c / 100, f"{name}.mp4", name))
        for i in range(n)
        for c, name in enumerate(cameras)
    ]
    sinks = open_sinks(outputs, folder, model="tiny", source="two", fps=25, first=frames[0][1], cameras=cameras)
    for c, frame in frames:
        left = c + frame.id
        found = Detections(
            np.array([[left, 2, left + 10, 22]], np.float32), np.array([0.75], np.float32), np.array([1])
        )
        scene = np.full(HW, c, np.uint8)
        result = Result(found, {"scene": scene}, NAMES, {"scene": ("road", "sky")})
        track = Track(1, (left, 2.0, left + 10.0, 22.0), 0.75, 1, frame.id / 25)
        for sink in sinks:
            sink.write(Outcome(frame, result, [track], {"inference": 1.5}))
    close_sinks(sinks)
    return folder


def test_mot_has_a_file_a_camera(tmp_path: Path) -> None:
    write(tmp_path, "mot")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mot-front.txt", "mot-left-side.txt"]
    for c, name in enumerate(("mot-front.txt", "mot-left-side.txt")):
        rows = [[float(cell) for cell in row] for row in csv.reader((tmp_path / name).read_text().splitlines())]
        assert rows == [[i + 1, 1, c + i + 1, 3, 10, 20, 0.75, -1, -1, -1] for i in range(3)]


def test_coco_tells_the_images_of_the_cameras_apart(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    write(tmp_path, "coco")
    truth = coco.COCO(str(tmp_path / "coco_frames.json"))
    assert [(image["id"], image["camera"], image["file_name"]) for image in truth.dataset["images"]] == [
        (2 * i + c + 1, name, f"{name}/{name}.mp4#{i}") for i in range(3) for c, name in enumerate(CAMERAS)
    ]
    found = truth.loadRes(str(tmp_path / "coco_results.json"))
    for i in range(3):
        for c in range(2):
            (row,) = found.loadAnns(found.getAnnIds(imgIds=[2 * i + c + 1]))
            assert (row["category_id"], row["bbox"]) == (2, [c + i, 2, 10, 20])


def test_mcap_has_the_topics_of_each_camera(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="the extra mcap is not installed")
    write(tmp_path, "mcap")
    with (tmp_path / "run.mcap").open("rb") as file:
        log = reader.make_reader(file, validate_crcs=True)
        messages = [(channel.topic, json.loads(m.data), m.log_time) for _, channel, m in log.iter_messages()]
    below = ("camera/image", "camera/annotations", "camera/scene", "records")
    topics = [topic for topic, _, _ in messages]
    assert {topic: topics.count(topic) for topic in topics} == {
        f"/{name}/{topic}": 3 for name in ("front", "left-side") for topic in below
    }
    for c, (name, part) in enumerate(zip(CAMERAS, ("front", "left-side"), strict=True)):
        records = [(data, at) for topic, data, at in messages if topic == f"/{part}/records"]
        assert [(data["camera"], data["frame"], data["boxes"][0]["xyxy"][0]) for data, _ in records] == [
            (name, i, c + i) for i in range(3)
        ]
        assert [at for _, at in records] == [40_000_000 * i + 10_000_000 * c for i in range(3)]
        assert [data["frame_id"] for topic, data, _ in messages if topic == f"/{part}/camera/image"] == [name] * 3


def test_rrd_has_the_entities_of_each_camera(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra rerun is not installed")
    write(tmp_path, "rrd")
    printed = printed_rrd(tmp_path / "run.rrd")
    for part in ("front", "left-side"):
        for entity in ("camera", "camera/boxes", "camera/tracks", "maps/scene", "timings_ms/inference"):
            assert re.search(rf"/{part}/{entity}\b", printed), (entity, printed[-2000:])
    assert not re.search(r"[\s\"'](/camera|/maps)\b", printed)


def test_parts_of_paths_are_plain_and_differ() -> None:
    names = ["Front", "front", "a b", "a/b", "../x", "__x", "后", "前", "camera 0", "x" * 300, "x" * 301, "front-2"]
    parts = path_parts(names)
    assert list(parts) == names and len({part.lower() for part in parts.values()}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", part) for part in parts.values()), parts
    assert (parts["Front"], parts["front"], parts["a b"], parts["../x"]) == ("Front", "front-2", "a-b", "x")
    assert path_parts([""]) == {"": ""} and files_of("mot", [""]) == ["mot.txt"]


@pytest.mark.parametrize(("output", "name"), [("mot", "mot-left-side.txt"), ("coco", "coco_frames.json")])
def test_the_second_file_that_can_not_be_opened_leaves_no_first(tmp_path: Path, output: Output, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=rf"{name}: can not be written"):
        write(tmp_path, output)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_cameras_through_the_front_door(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every output at once says the same of each camera."""
    reader = pytest.importorskip("mcap.reader", reason="the extra mcap is not installed")
    pytest.importorskip("rerun", reason="the extra rerun is not installed")
    sources = [str(clip(tmp_path / "front.mp4", 8, 20.0, 2)), str(clip(tmp_path / "left.mp4", 4, 10.0, 30))]
    out = tmp_path / "out"
    command = [*sources, "--model", str(tiny_model), "--provider", "cpu", "--out", str(out), "--json", "-"]
    assert main([*command, "--outputs", "records", "mot", "coco", "mcap", "rrd"]) == 0
    files = ["records.jsonl", "mot-front.txt", "mot-left.txt", "coco_results.json", "coco_frames.json", "run.mcap"]
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(file).name for file in summary["files"]] == [*files, "run.rrd"]
    lines = read_records(out / "records.jsonl")[1]
    images = json.loads((out / "coco_frames.json").read_text())["images"]
    results = json.loads((out / "coco_results.json").read_text())
    with (out / "run.mcap").open("rb") as file:
        logged = [json.loads(m.data) for _, c, m in reader.make_reader(file).iter_messages() if "records" in c.topic]
    for camera, n in (("front", 8), ("left", 4)):
        mine = [line for line in lines if line["camera"] == camera]
        assert len(mine) == n and [line for line in logged if line["camera"] == camera] == mine
        ids = {image["id"]: image for image in images if image["camera"] == camera}
        assert [image["timestamp_s"] for image in ids.values()] == [line["timestamp_s"] for line in mine]
        lefts = [row["bbox"][0] for row in results if row["image_id"] in ids]
        assert lefts == pytest.approx([line["boxes"][0]["xyxy"][0] for line in mine], abs=0.06)
        rows = [row.split(",") for row in (out / f"mot-{camera}.txt").read_text().splitlines()]
        assert [(int(row[0]), float(row[2])) for row in rows] == [
            (line["frame"] + 1, pytest.approx(track["xyxy"][0] + 1, abs=0.06))
            for line in mine
            for track in line["tracks"]
            if track["unseen_s"] == 0
        ]
