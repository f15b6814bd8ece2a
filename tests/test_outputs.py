"""Every output is opened by a reader of its own format, also after a killed run; a missing package is named."""

from __future__ import annotations

import base64
import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.live import main
from perception.outputs import choice
from perception.outputs.choice import FILES, Output, require_extras
from perception.records import SCHEMA, read_records, record
from perception.sinks import Outcome, close_sinks, open_sinks
from perception.structures import GEOMETRY, Detections, Frame, Result, Track

ROOT = Path(__file__).parents[1]
HW = (30, 40)
NAMES = ("person", "car")


def frame(i: int) -> Frame:
    return Frame(np.full((*HW, 3), 40 * i % 256, np.uint8), i, i / 25, "drive.mp4")


def result(i: int = 0) -> Result:
    scene = np.zeros(HW, np.uint8)
    scene[: 5 + i] = 1
    boxes = np.array([[1, 2, 11.5, 22], [5 + i, 6, 20 + i, 16]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.5], np.float32), np.array([1, 0]))
    return Result(found, {"scene": scene}, NAMES, {"scene": ("road", "sky")})


def tracks(i: int = 0) -> list[Track]:
    seen = Track(3, (5.0 + i, 6.0, 20.0 + i, 16.0), 0.9, 0, i / 25)
    return [seen, Track(4, (0.0, 0.0, 9.0, 9.0), 0.5, 1, 2.0, unseen_s=0.2)]


@contextmanager
def opened(folder: Path, *outputs: Output, hw: tuple[int, int] = HW) -> Iterator[Callable[..., None]]:
    """Sinks for these outputs; call it with a frame number, and a frame or result other than the usual ones."""
    first = Frame(np.zeros((*hw, 3), np.uint8), 0, 0.0, "drive.mp4")
    sinks = open_sinks(outputs, folder, model="tiny", source="drive.mp4", fps=25, first=first)

    def put(i: int, image: Frame | None = None, seen: Result | None = None) -> None:
        for sink in sinks:
            sink.write(Outcome(image or frame(i), seen or result(i), tracks(i), {"inference": 1.5}, {"fps": "25"}))

    try:
        yield put
    except BaseException:
        close_sinks(sinks, failed=True)
        raise
    close_sinks(sinks)


def write(folder: Path, *outputs: Output, n: int = 3) -> Path:
    """A run of `n` frames."""
    with opened(folder, *outputs) as put:
        for i in range(n):
            put(i)
    return folder


def test_mot_is_what_the_benchmark_defines(tmp_path: Path) -> None:
    write(tmp_path, "mot")
    rows = [[float(cell) for cell in row] for row in csv.reader((tmp_path / "mot.txt").read_text().splitlines())]
    # frames and pixels count from 1; the track that is only predicted is left out
    assert rows == [[i + 1, 3, 6 + i, 7, 15, 10, 0.9, -1, -1, -1] for i in range(3)]


def test_coco_results_load_into_pycocotools(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    write(tmp_path, "coco")
    truth = coco.COCO(str(tmp_path / "coco_frames.json"))
    assert {entry["id"]: entry["name"] for entry in truth.dataset["categories"]} == {1: "person", 2: "car"}
    assert [entry["file_name"] for entry in truth.dataset["images"]] == ["drive.mp4#0", "drive.mp4#1", "drive.mp4#2"]
    found = truth.loadRes(str(tmp_path / "coco_results.json"))
    second = found.loadAnns(found.getAnnIds(imgIds=[2]))
    assert [(row["category_id"], row["bbox"], row["score"]) for row in second] == [
        (2, [1.0, 2.0, 10.5, 20.0], 0.9),
        (1, [6.0, 6.0, 15.0, 10.0], 0.5),
    ]


def test_coco_is_whole_after_every_frame(tmp_path: Path) -> None:
    with opened(tmp_path, "coco") as put:
        for i in range(-1, 4):
            if i >= 0:
                put(i)
            assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 2 * (i + 1)
            assert len(json.loads((tmp_path / "coco_frames.json").read_text())["images"]) == i + 1


def test_frames_without_anything(tmp_path: Path) -> None:
    nothing = Result(Detections.empty(), {}, (), {})
    outputs: list[Output] = ["records", "video", "mot", "coco"]
    with opened(tmp_path, *outputs) as put:
        put(0, seen=nothing)
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []
    assert len(read_records(tmp_path / "records.jsonl")[1]) == 1


def test_mcap_by_its_own_reader(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="the extra mcap is not installed")
    write(tmp_path, "mcap")
    with (tmp_path / "run.mcap").open("rb") as file:
        log = reader.make_reader(file, validate_crcs=True)
        counts = log.get_summary().statistics.channel_message_counts
        assert sorted(counts.values()) == [3, 3, 3, 3]
        messages = [
            (channel.topic, schema.name, json.loads(message.data), message.log_time)
            for schema, channel, message in log.iter_messages()
        ]
    by_topic = {topic: (schema, data, time_ns) for topic, schema, data, time_ns in messages}
    assert set(by_topic) == {"/camera/image", "/camera/annotations", "/camera/scene", "/records"}
    schema, image, time_ns = by_topic["/camera/image"]
    assert schema == "foxglove.CompressedImage" and time_ns == 80_000_000
    assert image["timestamp"] == {"sec": 0, "nsec": 80_000_000} and image["format"] == "jpeg"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(image["data"]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(pixels, frame(2).image, atol=3)
    schema, drawn, _ = by_topic["/camera/annotations"]
    assert schema == "foxglove.ImageAnnotations"
    assert [entry["text"] for entry in drawn["texts"]] == ["person 3", "car 4"]
    assert drawn["points"][0]["points"][2] == {"x": 22.0, "y": 16.0} and drawn["points"][0]["type"] == 2
    expected = json.loads(json.dumps(record(frame(2), result(2), tracks(2), {"inference": 1.5})))
    assert by_topic["/records"][1] == expected


def printed_rrd(path: Path) -> str:
    """What Rerun's own command says of a recording."""
    command = [sys.executable, "-m", "rerun_cli", "rrd", "print", "-v", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rrd_by_its_own_reader(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra rerun is not installed")
    write(tmp_path, "rrd")
    printed = printed_rrd(tmp_path / "run.rrd")
    for entity in ("/camera", "/camera/boxes", "/camera/tracks", "/maps/scene", "/timings_ms/inference"):
        assert re.search(rf"{entity}\b", printed), (entity, printed[-2000:])


def test_several_at_once_and_what_they_are_called(tmp_path: Path) -> None:
    outputs: list[Output] = ["records", "video", "mot", "coco"]
    write(tmp_path, *outputs)
    expected = {name for output in outputs for name in FILES[output]}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_one_that_can_not_be_opened_leaves_none_behind(tmp_path: Path) -> None:
    (tmp_path / "mot.txt").mkdir()
    with pytest.raises(OSError, match=r"mot\.txt: can not be written"):
        write(tmp_path, "records", "coco", "mot")
    assert [path.name for path in tmp_path.iterdir()] == ["mot.txt"]


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "mcap" else object())
    require_extras(["records", "video", "rrd"])
    with pytest.raises(ValueError, match=re.escape("pip install 'driving-perception[mcap]'")):
        require_extras(["records", "mcap"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux")
@pytest.mark.parametrize(("output", "name"), [("mot", "mot.txt"), ("coco", "coco_frames.json"), ("mcap", "run.mcap")])
def test_a_full_disk_is_one_error(tmp_path: Path, output: Output, name: str) -> None:
    if output == "mcap":
        pytest.importorskip("mcap", reason="the extra mcap is not installed")
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"{name}: can not be written: No space left"):
        write(tmp_path, output)


def test_live_writes_what_is_asked_for(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        picture = np.full((64, 96, 3), 70, np.uint8)
        picture[20:40, 10 + i : 40 + i] = (0, 0, 200)
        cv2.imwrite(str(images / f"{i}.png"), picture)
    command = [str(images), "--model", str(tiny_model), "--provider", "cpu", "--out"]
    outputs = ["--outputs", "mot", "coco", "video", "mot", "--json", "-"]
    assert main([*command, str(tmp_path / "out"), *outputs]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ["mot.txt", "coco_results.json", "coco_frames.json", "overlay.mp4"]
    assert [Path(file).name for file in summary["files"]] == names
    frames = json.loads((tmp_path / "out" / "coco_frames.json").read_text())
    assert [(image["id"], image["file_name"]) for image in frames["images"]] == [
        (1, "0.png"),
        (2, "1.png"),
        (3, "2.png"),
    ]
    assert len(json.loads((tmp_path / "out" / "coco_results.json").read_text())) == 3
    assert {row.split(",")[1] for row in (tmp_path / "out" / "mot.txt").read_text().splitlines()} == {"1"}
    assert main([*command, str(tmp_path / "less"), "--no-video"]) == 0
    assert [path.name for path in (tmp_path / "less").iterdir()] == ["records.jsonl"]


def test_live_names_a_missing_package_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    for options, remedy in ((["--outputs", "records", "rrd"], "[rerun]"), (["--serve"], "[serve]")):
        assert main(["no-such.mp4", "--out", str(tmp_path / "out"), *options]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and f"pip install 'driving-perception{remedy}'" in err
    assert not (tmp_path / "out").exists()


def test_live_imports_no_extra_until_it_is_asked_for() -> None:
    code = "import sys, perception.live; print({'mcap', 'rerun', 'starlette', 'uvicorn'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "none\n", done.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, "tests")
from test_outputs import opened
from perception.structures import Frame
noise = np.random.default_rng(0)
with opened(Path(sys.argv[1]), *sys.argv[2:], hw=(400, 600)) as put:
    for i in range(20):
        put(i, Frame(noise.integers(0, 256, (400, 600, 3), np.uint8), i, i / 25, "drive.mp4"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_killed_run_leaves_what_can_be_read(tmp_path: Path) -> None:
    stream = pytest.importorskip("mcap.stream_reader", reason="the extra mcap is not installed")
    command = [sys.executable, "-c", KILLED, str(tmp_path), "records", "mot", "coco", "mcap"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_records(tmp_path / "records.jsonl")[1]) == 20
    assert len((tmp_path / "mot.txt").read_text().splitlines()) == 20
    assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 40
    images = 0
    with (tmp_path / "run.mcap").open("rb") as file:
        try:
            for entry in stream.StreamReader(file).records:
                images += type(entry).__name__ == "Message" and entry.channel_id == 1
        except Exception as error:  # the end is missing, and the reader says so
            assert "nd" in type(error).__name__
    assert 15 <= images <= 20


# --- docs/records.md and the code

OPTIONAL = {"camera", "inferred", *(f"tracks[].{name}" for name in GEOMETRY)}


def paths(value: object, at: str = "") -> set[str]:
    """The field names of a record as the page writes them; below `areas` and the like are names, not fields."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, entry in value.items():
            objects = isinstance(entry, list) and entry and isinstance(entry[0], dict)
            name = f"{at}{key}" + ("[]" if objects else "")
            found.add(name)
            if objects:
                found |= {path for item in entry for path in paths(item, f"{name}.")}
    return found


def test_the_page_about_records_and_the_code_agree(tmp_path: Path) -> None:
    write(tmp_path, "records", n=1)
    header, (entry,) = read_records(tmp_path / "records.jsonl")
    page = (ROOT / "docs" / "records.md").read_text()
    assert f"## Schema {SCHEMA}\n" in page
    fields = re.split(r"For example:", page.split("A frame:")[1])[0]
    required = set(re.findall(r"^\| `([^`]+)` \| (?![^|]*optional)", fields, re.M))
    optional = set(re.findall(r"^\| `([^`]+)` \| [^|]*optional", fields, re.M))
    assert paths(header) == set(re.findall(r"^\| `([^`]+)` \|", page.split("A frame:")[0], re.M))
    assert paths(entry) - optional == required and optional == OPTIONAL
    shown = [json.loads(line) for line in page.split("```json\n")[1].split("```")[0].splitlines()]
    assert paths(shown[0]) == paths(header) and paths(shown[1]) == paths(entry) - optional
    for output, names in FILES.items():
        assert re.search(rf"^\| `{output}` \| " + ", ".join(f"`{name}`" for name in names), page, re.M), output
