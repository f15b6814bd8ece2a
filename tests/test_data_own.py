"""Data of one's own: images with PNG masks, classes that are none of ours, one split only, a converter to copy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.coco import prepare as coco
from data.masks import prepare as masks
from perception import inspect
from perception.labels import BoxLabels, DatasetLabels
from perception.layout import LayoutWriter, read_layout
from perception.model import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["--classes", "0=Road", "1=gravel", "2=car", "9="]


def picture(path: Path, pixels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((4, 6, 3), 90, np.uint8) if pixels is None else pixels)


def ids(*rows: int) -> np.ndarray:
    """(4, 6) uint8, one id a row."""
    return np.repeat(np.array(rows, np.uint8)[:, None], 6, 1)


def pairs(root: Path, mask: np.ndarray, *places: str) -> Path:
    """An image and a mask for each IMAGE_FOLDER:MASK_FOLDER:NAME."""
    for place in places:
        images, folder, name = place.split(":")
        picture(root / images / f"{name}.jpg")
        picture(root / folder / f"{name}.png", mask)
    return root


def stored(out: Path, split: str = "train") -> np.ndarray:
    """The mask of the first image of a split, in the common layout."""
    (path,) = set(read_layout(out, split)[1][0].masks.values())
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


# ----------------------------------------------------------------------------------------------------- images and masks


def test_classes_that_are_ours_and_others(tmp_path, capsys):
    places = ("images/train:masks/train:deep/a", "images/val:masks/val:b")
    root, out = pairs(tmp_path / "mine", ids(0, 1, 2, 9), *places), tmp_path / "out"
    assert masks.main([str(root), str(out), *CLASSES, "--strict", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 1, "val": 1} and any("gravel" in note for note in summary["notes"])
    labels, (sample,) = read_layout(out, "train")
    assert sample.image.relative_to(out).as_posix() == "images/train/deep/a.jpg" and labels.name == "mine"
    assert labels.masks["scene"].sets == {0: {"road"}, 1: frozenset(), 2: {"car"}}
    assert labels.masks["drive"].sets == {0: {"drivable", "lane marking"}, 1: frozenset(), 2: {"background"}}
    assert stored(out)[:, 0].tolist() == [0, 1, 2, 255]
    own, (sample,) = read_layout(out, "train", own_space=True)
    assert list(own.masks) == list(sample.masks) == ["labels"] and own.masks["labels"].classes == (
        "Road",
        "gravel",
        "car",
    )


def test_means_by_hand_and_lanes_of_their_own(tmp_path):
    root, out = pairs(tmp_path / "mine", ids(0, 1, 2, 3), "train/images:train/masks:a"), tmp_path / "out"
    given = ["--classes", "0=asphalt", "1=gravel", "2=lane_marking", "3=car", "--means", "asphalt=road", "car="]
    assert masks.main([str(root), str(out), *given]) == 0
    labels, _ = read_layout(out, "train")
    assert labels.masks["scene"].sets == {0: {"road"}, 1: frozenset(), 2: {"lane marking"}, 3: frozenset()}
    assert labels.masks["drive"].sets == {0: {"drivable"}, 1: frozenset(), 2: {"lane marking"}, 3: frozenset()}


def test_colours(tmp_path, capsys):
    mask = np.zeros((4, 6, 3), np.uint8)
    mask[1], mask[2], mask[3] = (0x80, 0x40, 0x80)[::-1], (1, 2, 3)[::-1], (0, 0, 255)
    root, out = pairs(tmp_path / "mine", mask, "images:masks:a"), tmp_path / "out"
    given = ["--classes", "#000000=", "#804080=road", "#ff0000=thing"]
    assert masks.main([str(root), str(out), *given, "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert list(problems) == ["mask with unknown colours, set to 255"]
    assert problems["mask with unknown colours, set to 255"]["first"] == "a.png #010203"
    assert stored(out)[:, 0].tolist() == [255, 1, 255, 2]
    assert read_layout(out, "train")[0].masks["own"].names == {1: "road", 2: "thing"}


def test_ids_in_three_channels_are_ids(tmp_path):
    mask = np.repeat(ids(0, 1, 2, 0)[..., None], 3, 2)
    assert masks.main([str(pairs(tmp_path / "s", mask, "images:masks:a")), str(tmp_path / "out"), *CLASSES]) == 0
    assert stored(tmp_path / "out")[:, 0].tolist() == [0, 1, 2, 0]


def test_broken_masks_are_counted(tmp_path, capsys):
    root = pairs(tmp_path / "mine", ids(0, 0, 7, 2), "images:masks:a")
    picture(root / "images/alone.jpg")
    picture(root / "images/small.jpg", np.zeros((3, 3, 3), np.uint8))
    picture(root / "masks/small.png", ids(0, 0, 0, 0))
    assert masks.main([str(root), str(tmp_path / "out"), *CLASSES, "--json", "-"]) == 0
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert {kind: entry["count"] for kind, entry in problems.items()} == {
        "missing or unreadable mask, sample skipped": 1,
        "mask of another size than the image, sample skipped": 1,
        "mask with id 7, which --classes does not name, set to 255": 1,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "road"], "expected ID=NAME"),
        (["--classes", "0=road", "0=car"], "each once"),
        (["--classes", "0=road", "#804080=car"], "for all of them"),
        (["--classes", "256=road"], "from 0 to 254"),
        (["--classes", "255=road"], "255 is not labelled"),
        (["--classes", "0="], "with a name"),
        (["--classes", "0=a", "--means", "b=road"], "NAME one of: a"),
        (["--classes", "0=a", "--means", "a=street"], "unknown class 'street'"),
        (["--classes", "0=a", "--splits", "dev=images:masks"], "train|val|test"),
        (["--classes", "0=a", "--splits", "train=images:gone"], "gone is not a folder"),
        (["--classes", "0=a", "--val-share", "1"], "below 1"),
        (["--classes", "0=a", "--val-share", "0.5"], "2 images of train or more, but got 1"),
    ],
)
def test_mistakes_in_masks_are_one_clear_line(tmp_path, capsys, options, said):
    root = pairs(tmp_path / "mine", ids(0, 0, 0, 0), "images:masks:a")
    assert masks.main([str(root), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_colour_picture_is_not_taken_for_ids(tmp_path, capsys):
    mask = np.zeros((4, 6, 3), np.uint8)
    mask[..., 2] = 9
    root = pairs(tmp_path / "mine", mask, "images:masks:a")
    assert masks.main([str(root), str(tmp_path / "out"), *CLASSES]) == 2
    assert "'#RRGGBB=NAME' instead of ID=NAME" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ one split


def test_the_last_images_by_name_become_val(tmp_path, capsys):
    places = [f"images:masks:{name}" for name in ("b/1", "a/1", "a/2", "c/1", "b/2")]
    root, out = pairs(tmp_path / "mine", ids(0, 0, 0, 0), *places), tmp_path / "out"
    assert masks.main([str(root), str(out), *CLASSES]) == 0
    assert "split val is missing" in capsys.readouterr().out
    assert masks.main([str(root), str(out), *CLASSES, "--overwrite", "--val-share", "0.4"]) == 0
    assert "split val is missing" not in capsys.readouterr().out
    names = {
        split: [s.image.stem + s.image.parent.name for s in read_layout(out, split)[1]] for split in ("train", "val")
    }
    assert names == {"train": ["1a", "2a", "1b"], "val": ["2b", "1c"]}


# -------------------------------------------------------------------------------------------- classes that are not ours


def coco_export(root: Path, file: str, folder: str, count: int = 3) -> Path:
    """COCO JSON with gaps in its ids, polygons, and a class that is none of ours."""
    names = {0: "my-project", 4: "car", 9: "pothole"}
    images, annotations = [], []
    for n in range(count):
        picture(root / folder / f"sub/{n}.jpg", np.full((40, 60, 3), 90, np.uint8))
        images.append({"id": 10 * n + 7, "file_name": f"sub/{n}.jpg", "width": 60, "height": 40})
        for category, bbox in ((4, [5, 5, 20, 10]), (9, [30, 20, 10, 10])):
            polygon = [[bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1], bbox[0], bbox[1] + bbox[3]]]
            row = {"id": len(annotations) + 100, "image_id": 10 * n + 7, "category_id": category, "bbox": bbox}
            annotations.append(row | {"segmentation": polygon, "iscrowd": 0, "area": bbox[2] * bbox[3] / 2})
    categories = [{"id": number, "name": name} for number, name in names.items()]
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_Train.json", "images/Train"),
        ("annotations/instances_train.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_exports_of_cvat_and_roboflow_are_found(tmp_path, file, folder):
    out = tmp_path / "out"
    assert coco.main([str(coco_export(tmp_path / "mine", file, folder)), str(out), "--val-share", "0.3"]) == 0
    labels, samples = read_layout(out, "train")
    assert labels.name == "mine" and len(samples) == 2 and samples[0].categories == ("car",)
    assert [sample.image.stem for sample in read_layout(out, "val")[1]] == ["2"]


def test_what_is_packed_otherwise_is_told_how_to_say(tmp_path, capsys):
    root = coco_export(tmp_path / "mine", "deep/labels.json", "pictures")
    assert coco.main([str(root), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--splits train=FILE.json:IMAGE_FOLDER" in error and "deep/labels.json" in error
    twice = ["--splits", "train=deep/labels.json:pictures", "train=deep/labels.json:pictures"]
    assert coco.main([str(root), str(tmp_path / "out"), *twice]) == 2
    assert "train is there twice" in capsys.readouterr().err


def test_own_labels_keep_what_is_none_of_ours(tmp_path, capsys):
    root, out = coco_export(tmp_path / "mine", "train/_annotations.coco.json", "train"), tmp_path / "out"
    assert coco.main([str(root), str(out)]) == 0
    assert "--own-labels keeps it): my-project, pothole" in capsys.readouterr().out
    assert coco.main([str(root), str(out), "--own-labels", "--overwrite"]) == 0
    labels, samples = read_layout(out, "train")  # in our classes it plays no part: neither box nor ignore region
    assert labels.boxes and labels.boxes.own == ("pothole",) and labels.boxes.sets == {"car": {"car"}}
    assert samples[0].categories == ("car",) and len(samples[0].ignore) == 0
    own, samples = read_layout(out, "train", own_space=True)
    assert own.boxes and own.boxes.classes == ("car", "pothole")
    assert samples[0].categories == ("car", "pothole")
    np.testing.assert_allclose(samples[0].boxes, [[5, 5, 25, 15], [30, 20, 40, 30]])


def test_the_page_of_a_dataset_shows_its_own_classes(tmp_path):
    root, out = coco_export(tmp_path / "mine", "train/_annotations.coco.json", "train"), tmp_path / "out"
    assert coco.main([str(root), str(out), "--own-labels"]) == 0
    assert inspect.main([str(out), "--out", str(tmp_path / "page")]) == 0
    figures = json.loads((tmp_path / "page/inspection.json").read_text())
    assert figures["splits"]["train"]["boxes"] == {"car": 3, "pothole": 3}
    assert "a class for train --own-labels" in (tmp_path / "page/index.html").read_text()


def test_only_classes_of_ones_own(tmp_path):
    labels = DatasetLabels("mine", "ours", boxes=BoxLabels({}, frozenset(), own=("pothole", "crack")))
    assert not labels.names_ours and DatasetLabels.from_json(json.loads(json.dumps(labels.to_json()))) == labels
    with LayoutWriter(tmp_path / "out", labels) as writer:
        writer.add("train", "a", np.zeros((40, 60, 3), np.uint8), boxes=[[1, 2, 30, 20]], categories=["crack"])
    assert writer.report.boxes == {"crack": 1} and not writer.report.problems
    (sample,) = read_layout(tmp_path / "out", "train")[1]
    assert sample.boxes is not None and len(sample.boxes) == len(sample.ignore) == 0
    own, (sample,) = read_layout(tmp_path / "out", "train", own_space=True)
    assert own.boxes and own.boxes.classes == ("pothole", "crack") and sample.categories == ("crack",)


def test_a_category_is_ours_or_its_own():
    with pytest.raises(ValueError, match="'car' is among the categories and among the own ones"):
        BoxLabels({"car": frozenset({"car"})}, frozenset(), own=("car",))
    spec = {"name": "x", "licence": "y", "boxes": {"categories": {}, "exhaustive": [], "own": "pothole"}}
    with pytest.raises(ValueError, match="expected a list of class names, but got 'pothole'"):
        DatasetLabels.from_json(spec)


# ------------------------------------------------------------------------------------------------ from there to a model


@pytest.fixture(scope="module")
def cones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of a class that is none of ours, train and val."""
    labels = DatasetLabels("cones", "ours", boxes=BoxLabels({}, frozenset(), own=("cone",)))
    folder = tmp_path_factory.mktemp("data") / "cones"
    with LayoutWriter(folder, labels) as writer:
        for split in ("train", "val"):
            image = np.full((48, 80, 3), 90, np.uint8)
            image[10:34, 20:44] = (0, 120, 255)
            writer.add(split, "a", image, boxes=[[20, 10, 44, 34]], categories=["cone"])
    return folder


def training(cones: Path, out: Path) -> list[str]:
    few = ["--loop.steps", "2", "--loop.batch-size", "1", "--loop.workers", "0", "--loop.log-every", "1"]
    return ["--data", str(cones), "--out", str(out), "--hw", "64", "96", "--threads", "1", "--init", "random", *few]


def test_own_classes_are_learned_and_judged_by_their_names(cones, tmp_path, capsys):
    train, evaluate = pytest.importorskip("perception.train"), pytest.importorskip("perception.evaluate")
    assert train.main([*training(cones, tmp_path / "run"), "--own-labels"]) == 0
    said = capsys.readouterr().out
    assert "step 1/2, " in said and re.search(r"step 2, averaged weights:\n.*\ncones +val +1 ", said)
    assert f"python -m perception.export {tmp_path / 'run'} --out FILE.onnx" in said
    figures = tmp_path / "figures.json"
    assert evaluate.main(["--model", str(tmp_path / "run"), "--data", str(cones), "--json", str(figures)]) == 0
    (found,) = json.loads(figures.read_text())["datasets"]
    assert list(found["boxes"]["classes"]) == ["cone"]


def test_training_that_could_learn_nothing_is_refused(cones, tmp_path, capsys):
    train = pytest.importorskip("perception.train")
    assert train.main(training(cones, tmp_path / "run")) == 2
    assert "none of its labels is one of our classes; train with --own-labels" in capsys.readouterr().err


def test_what_a_run_will_not_learn_is_told(tmp_path, capsys):
    train = pytest.importorskip("perception.train")
    labels = DatasetLabels("cars", "ours", boxes=BoxLabels({"car": frozenset({"car"})}, frozenset()))
    with LayoutWriter(tmp_path / "cars", labels) as writer:
        writer.add("train", "a", np.zeros((48, 80, 3), np.uint8), boxes=[[20, 10, 44, 34]], categories=["car"])
    enough = ["--loop.warmup", "1"]
    for heads, told in (([], True), (["--heads", "boxes"], False)):
        out = tmp_path / f"run{len(heads)}"
        assert train.main([*training(tmp_path / "cars", out), *heads, *(enough if heads else [])]) == 0
        said = capsys.readouterr().out
        assert ("no dataset has labels for scene, drive: learns nothing" in said) is told
        assert ("--heads boxes leaves it out" in said) is told
        assert ("200 steps of warm-up in a run of 2: --loop.lr is never reached" in said) is told


def test_bundled_models_are_taken_by_their_names(cones, tmp_path, capsys):
    train, prune = pytest.importorskip("perception.train"), pytest.importorskip("perception.prune")
    export = pytest.importorskip("perception.export")
    assert train.whole_source(train.TrainConfig(out=tmp_path, init="drive-n")) == BUNDLED_MODEL
    assert train.main([*training(cones, tmp_path / "run"), "--own-labels", "--init", "drive-x"]) == 2
    assert (
        "there is no drive-x; expected a run, a file, or a bundled model (drive-n, drive-t)" in capsys.readouterr().err
    )
    assert export.main(["drive-n", "--out", str(tmp_path / "a.onnx")]) == 2
    assert "drive-n.onnx is exported already" in capsys.readouterr().err
    assert prune.main(["drive-n", "--data", str(cones), "--blocks", "1", "--out", str(tmp_path / "pruned")]) == 2
    assert "none of its labels is one of our classes" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- data/README.md


def test_the_template_in_the_readme_converts(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "data/README.md").read_text(), re.DOTALL)
    (tmp_path / "prepare.py").write_text(code)
    picture(tmp_path / "source/images/a.jpg", np.full((40, 60, 3), 90, np.uint8))
    rows = ["split,file,label,x1,y1,x2,y2", "train,a.jpg,Car,1,2,30,20", "train,a.jpg,Blurred,0,0,9,9"]
    (tmp_path / "source/boxes.csv").write_text("\n".join([*rows, "train,a.jpg,Car,1,x,3,4"]))
    command = [sys.executable, str(tmp_path / "prepare.py"), str(tmp_path / "source"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 x box that is not four numbers, dropped" in done.stdout
    labels, (sample,) = read_layout(tmp_path / "out", "train")
    assert labels.name == "mine" and sample.categories == ("Car",) and sample.ignore.tolist() == [[0, 0, 9, 9]]


def test_the_dataset_json_in_the_readme_is_one():
    (text,) = re.findall(r"```json\n(.*?)```", (ROOT / "data/README.md").read_text(), re.DOTALL)
    labels = DatasetLabels.from_json(json.loads(text))
    assert labels.boxes and labels.boxes.own == ("pothole",) and labels.masks["scene"].names == {0: "asphalt"}
