"""Several views of one frame, with an engine that sees colours, so that every view must give the same answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from perception.engine import Metadata
from perception.evaluation.extra import Extra, judged_model
from perception.evaluation.views import ProbableModel, View, brought_back, fused, parse_views, seen, view_from_home
from perception.model import Model
from perception.network.network import Network, NetworkConfig
from perception.structures import Detections
from perception.tensors import letterbox_for
from perception.training.checkpoint import TorchEngine

HW = (64, 96)
ABOUT = Metadata(input_hw=HW, box_names=("pedestrian", "car"), heads={"drive": ("background", "drivable")})
RED, GREY = (0, 0, 255), (100, 100, 100)


class Colours:
    """Red is a car, and drivable with 0.9; all else is background with 0.8. `bias` makes the left half surer."""

    metadata, input_hw = ABOUT, HW

    def __init__(self, bias: float = 0.0) -> None:
        self.bias, self.calls = bias, 0

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        return self.probabilities(tensor)[0]

    def probabilities(self, tensor: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        self.calls += 1
        red = tensor[0, ..., 0].astype(int) > tensor[0, ..., 1].astype(int) + 64
        yes = np.where(red, 0.9, 0.2).astype(np.float32)
        yes[:, : HW[1] // 2] += self.bias
        boxes = np.zeros((1, 4, 6), np.float32)
        if red.any():
            ys, xs = np.nonzero(red)
            boxes[0, 0] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.8, 1
        maps = {"drive": np.stack([1 - yes, yes])[None]}
        return {"boxes": boxes, "drive": (maps["drive"].argmax(1)).astype(np.uint8)}, maps


def frame(hw: tuple[int, int] = (128, 192), box: tuple[int, int, int, int] = (20, 40, 60, 80)) -> np.ndarray:
    image = np.full((*hw, 3), GREY, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = RED
    return image


def test_words():
    assert parse_views("") == (View(),)
    assert parse_views("flip") == (View(), View(flip=True))
    assert parse_views(" flip, 0.75") == (View(), View(0.75), View(1.0, True), View(0.75, True))
    for text, said in (("rotate", "'rotate'"), ("0.3", "0.5 to 2"), ("flip,3", "0.5 to 2")):
        with pytest.raises(ValueError, match=said):
            parse_views(text)


@pytest.mark.parametrize("hw", [(128, 192), (75, 50), (61, 183)])
def test_one_view_is_the_plain_model(hw):
    image = frame(hw, (5, 20, 30, 40))
    plain, probable = Model(Colours(), 0.001)(image), ProbableModel(Colours(), 0.001)(image)
    assert (plain.boxes == probable.boxes).all() and (plain.scores == probable.scores).all()
    assert (plain.class_maps["drive"] == probable.class_maps["drive"]).all()
    assert probable.probabilities["drive"].shape == (2, *HW)


@pytest.mark.parametrize("hw", [(128, 192), (75, 50), (61, 183)])
def test_flipping_changes_nothing_for_an_engine_without_a_side(hw):
    image = frame(hw, (5, 20, 31, 40))
    plain, flipped = Model(Colours(), 0.001)(image), ProbableModel(Colours(), 0.001, parse_views("flip"))(image)
    assert np.abs(flipped.boxes - plain.boxes).max() <= 2 * max(1, hw[1] / 96, hw[0] / 64)  # edges of coarse pixels
    assert flipped.scores.tolist() == pytest.approx([0.8])
    assert (flipped.class_maps["drive"] == plain.class_maps["drive"]).mean() > 0.97
    inside = flipped.probabilities["drive"].sum(0)[32, 40:56]
    assert inside == pytest.approx(1, abs=1e-5)


def test_flipping_averages_the_sides():
    image = np.full((128, 192, 3), GREY, np.uint8)
    one = ProbableModel(Colours(0.4), 0.001)(image).probabilities["drive"][1]
    two = ProbableModel(Colours(0.4), 0.001, parse_views("flip"))(image).probabilities["drive"][1]
    assert one[30, 10] == pytest.approx(0.6) and one[30, 80] == pytest.approx(0.2)
    assert two == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("words,windows", [("0.75", 2), ("1.25", 5), ("flip,0.5,2", 12)])
def test_scales_look_at_the_same_thing(words, windows):
    image, engine = frame(), Colours()
    plain = Model(Colours(), 0.001)(image)
    result = ProbableModel(engine, 0.001, parse_views(words))(image)
    assert engine.calls == windows
    assert (result.class_maps["drive"] == plain.class_maps["drive"]).mean() > 0.97
    assert len(result.boxes) >= 1 and np.abs(result.boxes[0] - [20, 40, 60, 80]).max() < 4
    assert result.probabilities["drive"].sum(0) == pytest.approx(1, abs=1e-4)


def test_windows_cover_the_frame():
    for scale in (0.5, 0.75, 1.0, 1.25, 2.0):
        covered = np.zeros((61, 83), bool)
        for x1, y1, x2, y2 in View(scale).windows((61, 83)):
            covered[max(0, y1) : y2, max(0, x1) : x2] = True
            part = seen(np.full((61, 83, 3), 7, np.uint8), (x1, y1, x2, y2), True)
            assert part.shape == (y2 - y1, x2 - x1, 3)
        assert covered.all(), scale


def test_the_way_back_meets_the_pixel_it_came_from():
    home = letterbox_for((128, 192), HW)
    window = (19, 13, 173, 115)
    view = letterbox_for((102, 154), HW)
    for flip in (False, True):
        matrix = view_from_home(home, view, window, flip)
        frame_xy = (np.array([40, 20]) + 0.5 - [home.left, home.top]) / home.scale_xy  # centre of a model pixel
        in_window = frame_xy - window[:2]
        if flip:
            in_window[0] = 154 - in_window[0]
        expected = in_window * view.scale_xy + [view.left, view.top] - 0.5
        assert matrix @ [40, 20, 1] == pytest.approx(expected)


def one_box(box: tuple[float, ...], score: float, name: int = 1) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([name]))


def test_boxes_of_views_are_fused():
    same = fused([one_box((0, 0, 40, 40), 0.9), one_box((4, 0, 44, 40), 0.3)])
    assert len(same) == 1 and same.scores.tolist() == pytest.approx([0.6])
    assert same.boxes[0] == pytest.approx([1, 0, 41, 40]), "three to one"
    apart = fused([one_box((0, 0, 40, 40), 0.4), one_box((90, 0, 130, 40), 0.8, 0), Detections.empty()])
    assert apart.scores.tolist() == pytest.approx([0.8 / 3, 0.4 / 3]) and apart.classes.tolist() == [0, 1]
    assert len(fused([Detections.empty(), Detections.empty()])) == 0


def test_a_box_cut_by_a_window_is_left_out_there():
    window, hw = (50, 0, 150, 80), (80, 150)
    inside, cut, at_the_frame = (one_box(b, 0.5) for b in ((20, 20, 60, 60), (0, 20, 30, 60), (70, 20, 100, 60)))
    assert brought_back(inside, window, hw, False, 2.0).boxes[0].tolist() == [70, 20, 110, 60]
    assert len(brought_back(cut, window, hw, False, 2.0)) == 0
    assert brought_back(at_the_frame, window, hw, False, 2.0).boxes[0].tolist() == [120, 20, 150, 60]
    assert brought_back(inside, window, hw, True, 2.0).boxes[0].tolist() == [90, 20, 130, 60]


def test_who_gets_which_model(tiny_model):
    from perception.model import load

    onnx = load(tiny_model, "cpu")
    assert type(judged_model(onnx, 0.001, Extra(calibration=True))) is Model
    with pytest.raises(ValueError, match=r"--tta flip averages probabilities.*name the run directory"):
        judged_model(onnx, 0.001, Extra(tta="flip"))
    torch_like = Model(Colours())
    assert type(judged_model(torch_like, 0.001, Extra())) is Model
    assert isinstance(judged_model(torch_like, 0.001, Extra(calibration=True)), ProbableModel)
    with pytest.raises(ValueError, match="takes flip and scales"):
        judged_model(torch_like, 0.001, Extra(tta="twice"))


def test_a_networks_probabilities_belong_to_its_answers():
    torch.manual_seed(0)
    config = NetworkConfig(hw=HW, width=16, heads={"drive": ("background", "drivable", "lane marking")})
    engine = TorchEngine(Network(config), dataclasses.replace(ABOUT, box_names=config.box_classes, heads=config.heads))
    tensor = np.random.default_rng(0).integers(0, 256, (1, *HW, 3), np.uint8)
    outputs, maps = engine.probabilities(tensor)
    plain = engine.run(tensor)
    assert outputs.keys() == plain.keys() and all((outputs[name] == plain[name]).all() for name in plain)
    assert maps["drive"].shape == (1, 3, *HW) and maps["drive"].dtype == np.float32
    assert maps["drive"].sum(1) == pytest.approx(1, abs=1e-5)
    assert (maps["drive"].argmax(1) == plain["drive"]).mean() > 0.999
