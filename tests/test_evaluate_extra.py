"""The options of perception.evaluate beyond AP and IoU, from the command line to the table and the JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.evaluate import main
from perception.labels import DRIVE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter

BOXES = BoxLabels({"Car": frozenset({"car"})}, frozenset({"car"}))
SETS = (("background",), ("drivable",), ("lane marking",))
DRIVE = MaskLabels(
    "drive", dict(enumerate(DRIVE_CLASSES)), {k: frozenset(s) for k, s in enumerate(SETS)}, DRIVE_CLASSES
)


@pytest.fixture
def model_path(make_tiny_model, tiny_metadata) -> Path:
    """Finds the red car; its drive head says "drivable" where green is bright, and never a lane."""
    heads = {"scene": ("building", "car", "person"), "drive": ("background", "drivable")}
    return make_tiny_model(metadata=dataclasses.replace(tiny_metadata, heads=heads).to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two images with a red car on a bright road with a line; in the second the car is somewhere else than labelled."""
    root = tmp_path_factory.mktemp("data") / "road"
    with LayoutWriter(root, DatasetLabels("road", "CC0", boxes=BOXES, masks={"drive": DRIVE})) as writer:
        for number, car in enumerate(((10, 10, 40, 40), (60, 10, 90, 40))):
            image, mask = np.full((64, 96, 3), 100, np.uint8), np.zeros((64, 96), np.uint8)
            image[44:], mask[44:] = 200, 1
            mask[44:, 50:52] = 2
            image[car[1] : car[3], car[0] : car[2]] = (0, 0, 255)
            png = root.with_name(f"{number}.png")
            cv2.imwrite(str(png), image)
            writer.add("val", f"{number}", png, boxes=[(10, 10, 40, 40)], categories=["Car"], masks={"drive": mask})
    return root


def test_all_of_it(model_path, folder, tmp_path, capsys):
    argv = ["--model", str(model_path), "--data", str(folder), "--provider", "cpu", "--json", str(tmp_path / "f.json")]
    argv += ["--legacy", "--legacy-batch", "1", "--lane-width", "4", "--calibration-plot", str(tmp_path / "c.png")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "lanes 4 px wide" in out and "name the run directory" in out and "mean over batches of 1" in out
    figures = json.loads((tmp_path / "f.json").read_text())["datasets"][0]
    assert figures["drive"]["lane"]["recall"] == 0 and figures["drive"]["drivable"]["IoU"] == 1
    assert figures["drive"]["lane"]["pixels"] == 2 * 4 * 20
    yolop = figures["legacy"]["definitions"]["YOLOP"]
    assert yolop["drivable_mIoU"] == 1 and yolop["recall"] == 0.5 and yolop["lane_IoU"] == 0
    assert figures["calibration"]["boxes"]["count"] == 2 and figures["calibration"]["masks"] is None
    assert cv2.imread(str(tmp_path / "c.png")).shape[2] == 3


def test_nothing_is_added_unasked_but_the_drive_figures(model_path, folder, tmp_path):
    assert main(["--model", str(model_path), "--data", str(folder), "--json", str(tmp_path / "f.json")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())["datasets"][0]
    assert figures["drive"]["lane_width_px"] is None
    assert not {"legacy", "calibration"} & figures.keys()


@pytest.mark.parametrize(
    "argv,said",
    [
        (["--lane-width", "0"], "--lane-width must be 1 pixel or more"),
        (["--legacy", "--legacy-batch", "0"], "--legacy-batch must be 1 image or more"),
        (["--tta", "flip"], "name the run directory"),
        (["--calibration-plot", "plot.pdf"], "writes a .png file"),
    ],
)
def test_mistakes_are_one_line(model_path, folder, capsys, argv, said):
    assert main(["--model", str(model_path), "--data", str(folder), "--provider", "cpu", *argv]) == 2
    error = capsys.readouterr()
    assert error.err.startswith("error: ") and said in error.err and error.err.count("\n") == 1
    assert error.out == "", "before the first image"


def test_a_plot_that_has_nothing_to_draw_costs_no_figures(model_path, folder, tmp_path, capsys):
    with LayoutWriter(tmp_path / "grey", DatasetLabels("grey", "CC0", boxes=BOXES)) as writer:
        writer.add("val", "0", np.full((64, 96, 3), 100, np.uint8), boxes=[(10, 10, 40, 40)], categories=["Car"])
    argv = [
        "--model",
        str(model_path),
        "--calibration-plot",
        str(tmp_path / "c.png"),
        "--json",
        str(tmp_path / "f.json"),
    ]
    assert main([*argv, "--data", str(tmp_path / "grey")]) == 0
    assert "no calibration to draw" in capsys.readouterr().out and not (tmp_path / "c.png").exists()
    assert json.loads((tmp_path / "f.json").read_text())["datasets"][0]["boxes"]["AP50"] == 0
    assert main([*argv, "--data", str(tmp_path / "grey"), str(folder)]) == 0
    assert (tmp_path / "c.png").exists()


def test_a_plot_that_can_not_be_is_refused_before_the_first_image(model_path, tmp_path, capsys):
    with LayoutWriter(tmp_path / "maps", DatasetLabels("maps", "CC0", masks={"drive": DRIVE})) as writer:
        writer.add("val", "0", np.zeros((64, 96, 3), np.uint8), masks={"drive": np.zeros((64, 96), np.uint8)})
    capsys.readouterr()
    argv = ["--model", str(model_path), "--data", str(tmp_path / "maps"), "--calibration-plot", str(tmp_path / "c.png")]
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == "" and "class maps need a run directory" in said.err
