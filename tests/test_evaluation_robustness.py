"""Robustness: the arithmetic of what is kept, and the options --slices and --corruptions end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.evaluate import main
from perception.evaluation import robustness as module
from perception.evaluation.corruptions import CORRUPTIONS
from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.robustness import relative, robustness, robustness_table
from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.model import load

BOXES = BoxLabels({"Car": frozenset({"car"})}, frozenset({"car"}))
COLOURS = MaskLabels("m", {0: "rest", 1: "car"}, {0: frozenset({"building"}), 1: frozenset({"car"})}, SCENE_CLASSES)


@pytest.fixture
def model_path(make_tiny_model, tiny_metadata) -> Path:
    """The tiny model, speaking of our classes; sky is what noise makes both red and blue."""
    heads = {"scene": ("building", "car", "person", "sky"), "drive": ("background", "drivable")}
    return make_tiny_model(metadata=replace(tiny_metadata, heads=heads).to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four frames of the tiny model's own size, each with a red car on grey; two in fog."""
    root = tmp_path_factory.mktemp("data")
    with LayoutWriter(root / "cars", DatasetLabels("cars", "CC0", boxes=BOXES, masks={"scene": COLOURS})) as writer:
        for number in range(4):
            image, mask = np.full((64, 96, 3), 100, np.uint8), np.zeros((64, 96), np.uint8)
            x = 10 + 15 * number
            image[30:50, x : x + 30], mask[30:50, x : x + 30] = (0, 0, 255), 1
            cv2.imwrite(str(root / "a.png"), image)
            writer.add(
                "val", f"{number}", root / "a.png", boxes=[[x, 30, x + 30, 50]], categories=["Car"], masks={"m": mask},
                attributes={"weather": ("clear", "fog")[number % 2]}, box_attributes=[{"distance_m": 25.0 * number}],
            )  # fmt: skip
    return root / "cars"


def test_what_is_kept_is_the_mean_of_ratios():
    rows = [{"boxes AP50": 0.4, "scene mIoU": None}, {"boxes AP50": 0.2, "scene mIoU": 0.5}]
    kept = relative({"boxes AP50": 0.8, "scene mIoU": 0.5}, rows)
    assert kept == {"boxes AP50": pytest.approx((0.5 + 0.25) / 2), "scene mIoU": pytest.approx(0.5)}
    assert relative({"boxes AP50": 0.0, "scene mIoU": None}, rows) == {"boxes AP50": None, "scene mIoU": None}


def test_figures_under_corruptions(model_path, folder):
    model, select = load(model_path, "cpu"), Selection(limit=2)
    clean = evaluate(model, folder, select)
    found = robustness(model, folder, select, clean, ["noise", "night"])
    assert found["clean"] == {"boxes AP50": 1.0, "scene mIoU": 1.0}
    assert list(found["corruptions"]) == ["noise", "night"] and list(found["corruptions"]["night"]) == list("12345")
    night = [row["scene mIoU"] for row in found["corruptions"]["night"].values()]
    assert night[0] > night[-1] and found["relative"]["night"]["scene mIoU"] == pytest.approx(np.mean(night))
    both = [row["scene mIoU"] for rows in found["corruptions"].values() for row in rows.values()]
    assert found["relative"]["mean"]["scene mIoU"] == pytest.approx(np.mean(both)) and np.mean(both) < 1
    assert found == robustness(model, folder, select, clean, ["noise", "night"])  # nothing is left to chance
    lines = robustness_table(found)
    assert len(lines) == 2 * 4 and lines[1].split()[:2] == ["noise", "100.0"] and lines[-1].split()[0] == "mean"


def test_changed_images_are_what_the_model_sees(model_path, folder):
    seen = []

    def grey(image: np.ndarray, number: int) -> np.ndarray:
        seen.append(number)
        return np.full_like(image, 100)

    result = evaluate(load(model_path, "cpu"), folder, change=grey)
    assert seen == [0, 1, 2, 3] and result["boxes"]["AP50"] == 0


def test_the_command_line(model_path, folder, tmp_path, capsys):
    target = tmp_path / "figures.json"
    argv = [
        "--model",
        str(model_path),
        "--data",
        str(folder),
        "--provider",
        "cpu",
        "--limit",
        "2",
        "--json",
        str(target),
    ]
    assert main([*argv, "--slices", "--corruptions", "night", "fog"]) == 0
    printed = capsys.readouterr().out
    assert "weather: fog" in printed and "distance m: >60" in printed and "scene mIoU at severity" in printed
    (figures,) = json.loads(target.read_text())["datasets"]
    assert figures["slices"]["objects"]["all"]["all"] == {"instances": 2, "recall": 1, "recall_shown": 1}
    assert list(figures["robustness"]["corruptions"]) == ["fog", "night"]  # in our order

    assert main(argv) == 0
    (figures,) = json.loads(target.read_text())["datasets"]
    assert "slices" not in figures and "robustness" not in figures
    assert main([*argv, "--corruptions", "all"]) == 0
    (figures,) = json.loads(target.read_text())["datasets"]
    assert tuple(figures["robustness"]["corruptions"]) == CORRUPTIONS


def test_an_unknown_corruption_is_refused(folder, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(folder), "--corruptions", "snow"])
    assert "snow" in capsys.readouterr().err


def test_corrupted_images_are_seen_in_the_views_of_the_clean_ones(model_path, folder, monkeypatch):
    asked = []

    def evaluated(model, folder, select, extra=None, change=None):
        asked.append(extra.tta if extra else "")
        return {"boxes": {"AP50": 0.5}, "masks": {}}

    monkeypatch.setattr(module, "evaluate", evaluated)
    clean = {"boxes": {"AP50": 0.5}, "masks": {}}
    found = robustness(load(model_path, "cpu"), folder, Selection(), clean, ["noise"], "flip")
    assert asked == ["flip"] * 5 and found["relative"]["mean"] == {"boxes AP50": 1.0}
