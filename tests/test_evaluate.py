"""The front door of the evaluation, on a tiny dataset in the common layout and a model that sees colours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import perception.evaluate
from perception.evaluate import main
from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.tables import tables
from perception.labels import BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.model import Model, load

HEADS = {"scene": ("building", "car", "person"), "drive": ("background", "drivable")}  # other, red, blue; dark, bright
RED, BLUE, GREY = (0, 0, 255), (255, 0, 0), (100, 100, 100)
SIZES = ((64, 96), (128, 192), (75, 50))  # (height, width): the model's own, twice that, an odd portrait

SCENE = MaskLabels(
    "labels",
    {0: "Car", 1: "Man", 2: "Rest", 3: "Void"},
    {0: frozenset({"car", "truck"}), 1: frozenset({"person"}), 2: frozenset({"building", "sky"}), 3: frozenset()},
    perception.labels.SCENE_CLASSES,
)
BOXES = BoxLabels(
    {"Car": frozenset({"car"}), "Van": frozenset({"car"}), "Man": frozenset({"pedestrian", "rider"})},
    frozenset({"car"}),
)


def write_dataset(folder: Path, labels: DatasetLabels) -> Path:
    """Three images: a red car on the left, a blue man on the right; the second image also has a car that is not red."""
    with LayoutWriter(folder, labels) as writer:
        for number, (h, w) in enumerate(SIZES):
            image = np.full((h, w, 3), GREY, np.uint8)
            mask = np.full((h, w), 2, np.uint8)
            car = (w // 8, h // 4, w // 2, h // 2)
            man = (w - w // 4, h // 4, w - w // 8, h - h // 4)
            for (x1, y1, x2, y2), colour, label in ((car, RED, 0), (man, BLUE, 1)):
                image[y1:y2, x1:x2] = colour
                mask[y1:y2, x1:x2] = label
            mask[-h // 8 :] = 3
            png = folder.with_name(f"{number}.png")  # JPEG would smear the colours
            cv2.imwrite(str(png), image)
            missed = [(10, h - 40, 60, h - 5)] if number == 1 else []
            writer.add(
                "val",
                f"{number}",
                png,
                boxes=[car, man, *missed] if labels.boxes else None,
                categories=["Car", "Man", *["Van" for _ in missed]] if labels.boxes else (),
                masks={"labels": mask} if labels.masks else {},
            )
    return folder


@pytest.fixture
def model_path(make_tiny_model, tiny_metadata) -> Path:
    """The tiny model, speaking of our classes."""
    return make_tiny_model(metadata=dataclasses.replace(tiny_metadata, heads=HEADS).to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "colours"
    return write_dataset(root, DatasetLabels("colours", "CC0", boxes=BOXES, masks={"scene": SCENE}))


@pytest.fixture(scope="module")
def boxes_only(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "boxes", DatasetLabels("boxes only", "CC0", boxes=BOXES))


def test_known_figures(model_path, folder):
    result = evaluate(load(model_path, "cpu"), folder)
    assert (result["dataset"], result["split"], result["images"], result["missing"]) == ("colours", "val", 3, [])
    boxes = result["boxes"]["classes"]
    assert boxes["pedestrian|rider"]["AP50"] == 1 and boxes["pedestrian|rider"]["instances"] == 3
    assert boxes["car"]["AP50"] == pytest.approx(76 / 101, abs=1e-6)  # three of four, of Car and Van together
    assert boxes["car"]["categories"] == ["Car", "Van"] and boxes["car"]["exhaustive"]
    assert result["boxes"]["AP50"] == pytest.approx((1 + 76 / 101) / 2, abs=1e-6)

    scene = result["masks"]["scene"]
    assert list(scene["labels"]) == ["Car", "Man", "Rest"] and scene["images"] == 3
    assert scene["mIoU"] > 0.9 and scene["pixel_accuracy"] > 0.97
    void = sum((h + 7) // 8 * w for h, w in SIZES)
    assert scene["pixels"] == sum(h * w for h, w in SIZES) - void


def test_frames_of_the_models_own_size_are_exact(model_path, folder):
    scene = evaluate(load(model_path, "cpu"), folder, Selection(limit=1))["masks"]["scene"]
    assert scene["mIoU"] == 1 and scene["pixels"] == 56 * 96


def test_the_models_own_threshold_plays_no_part(model_path, folder):
    strict, loose = (load(model_path, "cpu", threshold) for threshold in (0.999, 0.0))
    assert evaluate(strict, folder) == evaluate(loose, folder)
    assert strict.score_threshold == 0.999  # and stays as it was


def test_a_limit_is_spread_over_the_split(model_path, folder):
    assert (
        evaluate(load(model_path, "cpu"), folder, Selection(limit=2))["boxes"]["instances"] == 4
    )  # first and last image
    assert evaluate(load(model_path, "cpu"), folder, Selection(limit=99))["images"] == 3


def test_only_images_of_a_name(model_path, folder):
    names = sorted(path.name for path in (folder / "images" / "val").iterdir())
    assert evaluate(load(model_path, "cpu"), folder, Selection(only=names[1]))["images"] == 1
    with pytest.raises(ValueError, match="change --only"):
        evaluate(load(model_path, "cpu"), folder, Selection(only="no such name"))


def test_a_task_that_the_model_lacks_is_named(make_tiny_model, tiny_metadata, folder):
    heads = {**HEADS, "scene": ("cat", "dog", "bird")}
    with pytest.raises(ValueError, match=r"cat, dog.*sky"):
        evaluate(load(make_tiny_model(metadata=dataclasses.replace(tiny_metadata, heads=heads).to_json())), folder)
    path = make_tiny_model(metadata=dataclasses.replace(tiny_metadata, heads={"drive": HEADS["drive"]}).to_json())
    result = evaluate(load(path), folder)
    assert result["missing"] == ["scene"] and result["masks"] == {}
    assert "model lacks it: scene" in tables(result)


def test_a_dataset_with_nothing_in_common(make_tiny_model, tiny_metadata, boxes_only, capsys):
    path = make_tiny_model(metadata=dataclasses.replace(tiny_metadata, box_names=()).to_json())
    assert main(["--model", str(path), "--data", str(boxes_only), "--provider", "cpu"]) == 2
    assert "is annotated for boxes, but the model gives scene, drive" in capsys.readouterr().err


def test_a_head_whose_labels_are_all_ignored_is_not_judged(model_path, folder, tmp_path, capsys):
    nothing = dataclasses.replace(SCENE, sets=dict.fromkeys(SCENE.sets, frozenset()))
    root = write_dataset(tmp_path / "set", DatasetLabels("set", "CC0", boxes=BOXES, masks={"scene": nothing}))
    assert main(["--model", str(model_path), "--data", str(root), "--report", str(tmp_path / "page")]) == 0
    result = evaluate(load(model_path), root)
    assert result["masks"] == {} and result["missing"] == [] and result["boxes"]["AP50"] > 0.8


def test_a_dataset_without_masks(model_path, boxes_only):
    result = evaluate(load(model_path), boxes_only)
    assert result["masks"] == {} and result["boxes"]["AP50"] > 0.8


def test_the_command_prints_a_table_and_writes_json(model_path, folder, boxes_only, tmp_path, capsys):
    target = tmp_path / "figures.json"
    argv = ["--model", str(model_path), "--data", str(folder), str(boxes_only), "--provider", "cpu"]
    assert main([*argv, "--json", str(target)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress bar where nobody looks
    assert "colours val: 3 images" in printed.out and "pedestrian|rider*" in printed.out
    assert "lower than the truth" in printed.out and "pixel accuracy" in printed.out
    assert printed.out.splitlines()[-1].startswith("boxes only") and "colours" in printed.out.splitlines()[-2]
    figures = json.loads(target.read_text())
    assert figures["computed_by"] == "cpu" and figures["input_hw"] == [64, 96] and figures["step"] == 1
    assert [row["dataset"] for row in figures["datasets"]] == ["colours", "boxes only"]
    assert figures["datasets"][0] == json.loads(json.dumps(evaluate(load(model_path), folder)))

    assert main([*argv, "--json", "-", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["limit"] == 1


@pytest.mark.parametrize(
    "argv,said",
    [
        (["--split", "nigth"], "no split 'nigth'"),
        (["--limit", "0"], "--limit must be 1 or more"),
        (["--model", "missing.onnx"], "missing.onnx"),
        (["--data"], "names no dataset"),
        (["--data", "missing"], "missing is not a folder"),
        (["--provider", "torch"], "no network of ours"),
    ],
)
def test_mistakes_are_one_line(model_path, folder, capsys, argv, said):
    assert main(["--model", str(model_path), "--data", str(folder), "--provider", "cpu", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_every_dataset_is_checked_before_the_first_image(model_path, folder, capsys):
    argv = ["--model", str(model_path), "--data", str(folder), "missing", "--provider", "cpu"]
    assert main(argv) == 2
    assert capsys.readouterr().out == ""


def test_broken_files_are_named(model_path, tmp_path):
    root = write_dataset(tmp_path / "broken", DatasetLabels("broken", "CC0", boxes=BOXES, masks={"scene": SCENE}))
    mask = root / "masks" / "labels" / "val" / "1.png"
    cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match=r"1\.png is \(5, 5\).*\(128, 192\)"):
        evaluate(load(model_path), root)
    mask.write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.png is empty"):
        evaluate(load(model_path), root)
    mask.unlink()  # not annotated for scene: fine
    assert evaluate(load(model_path), root)["masks"]["scene"]["images"] == 2
    (root / "images" / "val" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png is empty"):
        evaluate(load(model_path), root)


def test_a_split_that_nobody_annotated(model_path, tmp_path):
    root = tmp_path / "plain"
    with LayoutWriter(root, DatasetLabels("plain", "CC0", boxes=BOXES)) as writer:
        writer.add("val", "a", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="no image of split 'val' is annotated for boxes"):
        evaluate(load(model_path), root)


def test_a_model_in_the_datasets_own_space(make_tiny_model, tiny_metadata, folder):
    own = dataclasses.replace(tiny_metadata, box_names=("Man", "Car"), heads={"labels": ("Rest", "Car", "Man")})
    renamed = load(make_tiny_model(metadata=dataclasses.replace(own, heads={"scene": own.heads["labels"]}).to_json()))

    class Renamed:
        """The tiny model with its head `scene` called `labels`."""

        metadata, input_hw = own, own.input_hw

        def run(self, tensor):
            outputs = renamed.engine.run(tensor)
            return {"boxes": outputs["boxes"], "labels": outputs["scene"]}

    result = evaluate(Model(Renamed()), folder, Selection(own_space=True))
    assert result["masks"]["labels"]["mIoU"] > 0.9
    assert {name: row["AP50"] for name, row in result["boxes"]["classes"].items()} == {"Car": 1, "Van": 0, "Man": 1}


def test_a_model_that_says_it_was_trained_so_is_judged_in_the_own_space(
    make_tiny_model, tiny_metadata, boxes_only, tmp_path, capsys
):
    for own in (True, False):
        about = dataclasses.replace(tiny_metadata, box_names=("Man", "Car"), config={"train": {"own_labels": own}})
        path = make_tiny_model(metadata=about.to_json())
        code = main(["--model", str(path), "--data", str(boxes_only), "--json", str(tmp_path / "figures.json")])
        assert code == (0 if own else 2)
    assert "the model finds Man, Car, but the dataset's boxes are Car, Van, Man" in capsys.readouterr().err
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["datasets"]
    assert {name: row["AP50"] for name, row in figures["boxes"]["classes"].items()} == {"Car": 1, "Van": 0, "Man": 1}


def test_a_dataset_of_none_of_our_classes_is_nothing_to_compare(model_path, tmp_path, capsys):
    labels = DatasetLabels("own", "CC0", boxes=BoxLabels({}, frozenset(), own=("cone",)))
    with LayoutWriter(tmp_path / "own", labels) as writer:
        writer.add("val", "a", np.zeros((8, 8, 3), np.uint8), boxes=[[1, 1, 5, 5]], categories=["cone"])
    assert main(["--model", str(model_path), "--data", str(tmp_path / "own")]) == 2
    assert "is annotated for none of our classes" in capsys.readouterr().err


def test_a_run_directory_has_no_provider(tmp_path, folder, capsys):
    assert main(["--model", str(tmp_path), "--data", str(folder), "--provider", "cpu"]) == 2
    assert "run directory" in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, folder, capsys):
    pytest.importorskip("torch")
    assert main(["--model", str(tmp_path), "--data", str(folder)]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_report(model_path, folder, tmp_path, capsys):
    """The page has the figures and the worst frames; the figures stay what they are without it."""
    arguments = ["--model", str(model_path), "--provider", "cpu", "--data", str(folder), "--json", "-"]
    assert main(arguments) == 0
    plain = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    worst = shown["datasets"][0].pop("worst")
    assert shown == plain and {"scene", "missed boxes"} <= set(worst)
    assert "colours_scene_confusion.png" in {path.name for path in (tmp_path / "report").iterdir()}
    assert "missed, up to" in (tmp_path / "report/index.html").read_text()
