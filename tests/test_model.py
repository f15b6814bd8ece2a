"""perception.model: results in frame pixels, for any frame size; the input buffer never shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import perception
from perception.engine import Metadata
from perception.model import BUNDLED_MODEL, Model, detections_from_boxes, model_file
from perception.tensors import letterbox_for

RED_BGR, BLUE_BGR = (0, 0, 255), (255, 0, 0)


def frame(hw: tuple[int, int], *areas: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> np.ndarray:
    """(H, W, 3) uint8 BGR of grey 60 with xyxy areas of a colour."""
    image = np.full((*hw, 3), 60, np.uint8)
    for (x1, y1, x2, y2), colour in areas:
        image[y1:y2, x1:x2] = colour
    return image


class FixedEngine:
    """An engine that always answers the same boxes and maps."""

    def __init__(self, boxes: list[list[float]]) -> None:
        self.metadata = Metadata(input_hw=(64, 96), box_names=("a", "b"), heads={"scene": ("x", "y")})
        self.input_hw = self.metadata.input_hw
        self.outputs = {
            "boxes": np.array(boxes, np.float32).reshape(1, -1, 6),
            "scene": np.zeros((1, 64, 96), np.uint8),
        }

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs


@pytest.mark.parametrize("hw", [(480, 640), (640, 360), (333, 501), (64, 96), (32, 48), (1000, 1000)])
def test_boxes_and_maps_come_back_in_frame_pixels(tiny_model: Path, hw: tuple[int, int]) -> None:
    model = perception.load(tiny_model, "cpu")
    h, w = hw
    box = (w // 4, h // 4, w // 2, h // 2)
    result = model(frame(hw, (box, RED_BGR)))
    assert len(result.detections) == 1
    pixel = 1 / min(letterbox_for(hw, (64, 96)).scale_xy)  # of the model, in the frame
    np.testing.assert_allclose(result.boxes[0], box, atol=pixel)
    assert [result.box_names[i] for i in result.classes] == ["car"]
    assert set(result.class_maps) == {"scene", "drive"} and result.map_names["scene"] == ("other", "red", "blue")
    scene = result.class_maps["scene"]
    assert scene.shape == hw and scene.dtype == np.uint8
    assert scene[3 * h // 8, 3 * w // 8] == 1 and scene[h // 8, w // 8] == 0
    assert abs((scene == 1).sum() - (box[2] - box[0]) * (box[3] - box[1])) < 4 * pixel * (h + w)


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (300, 1), (3, 7)])
def test_tiny_and_extreme_frames(tiny_model: Path, hw: tuple[int, int]) -> None:
    result = perception.load(tiny_model, "cpu")(np.full((*hw, 3), RED_BGR, np.uint8))
    np.testing.assert_allclose(result.boxes, [[0, 0, hw[1], hw[0]]], atol=1e-4)
    assert result.class_maps["scene"].tolist() == np.ones(hw, int).tolist()


def test_nothing_found_is_an_ordinary_result(tiny_model: Path) -> None:
    result = perception.load(tiny_model, "cpu")(frame((480, 640)))
    assert len(result.detections) == 0 and result.boxes.shape == (0, 4) and not result.class_maps["scene"].any()


def test_results_own_their_memory(tiny_model: Path) -> None:
    model = perception.load(tiny_model, "cpu")
    for hw in ((64, 96), (480, 640)):  # the first is the model's own size: nothing is resized
        one = frame(hw, ((10, 10, 30, 30), RED_BGR))
        before = one.copy()
        first = model(one)
        kept = first.boxes.copy(), {name: array.copy() for name, array in first.class_maps.items()}
        second = model(frame(hw, ((40, 5, 60, 50), BLUE_BGR)))
        assert np.array_equal(first.boxes, kept[0]) and not np.array_equal(first.boxes, second.boxes)
        assert all(np.array_equal(first.class_maps[name], kept[1][name]) for name in kept[1])
        assert not np.array_equal(first.class_maps["scene"], second.class_maps["scene"])
        assert np.array_equal(one, before)
        for array in (first.boxes, *first.class_maps.values()):
            assert not np.shares_memory(array, model._tensor)


def test_raw_is_in_model_pixels(tiny_model: Path) -> None:
    model = perception.load(tiny_model, "cpu")
    outputs, letterbox = model.raw(frame((480, 640), ((0, 0, 640, 480), RED_BGR)))
    assert outputs["scene"].shape == (1, 64, 96) and letterbox.frame_hw == (480, 640)
    assert set(model.timings_ms) == {"preprocess", "inference"}
    assert model.result(outputs, letterbox).class_maps["scene"].all()  # the grey border is cut off
    assert set(model.timings_ms) == {"preprocess", "inference", "postprocess"}
    assert all(value >= 0 for value in model.timings_ms.values())


def test_score_threshold(tiny_model: Path) -> None:
    weak = frame((64, 96), ((10, 10, 30, 30), (60, 60, 160)))  # score 100 / 255
    assert len(perception.load(tiny_model, "cpu", score_threshold=0.39)(weak).detections) == 1
    assert len(perception.load(tiny_model, "cpu", score_threshold=0.40)(weak).detections) == 0
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="score_threshold must be between 0 and 1"):
            perception.load(tiny_model, "cpu", score_threshold=wrong)


def test_boxes_in_the_border_are_dropped_and_the_rest_is_clipped() -> None:
    letterbox = letterbox_for((100, 300), (64, 96))  # scale 0.32: rows 16 to 48 are the frame
    boxes = np.array(
        [
            [10, 2, 30, 16, 0.9, 0],  # above the frame
            [10, 48, 30, 60, 0.9, 0],  # below it
            [16, 8, 32, 24, 0.8, 1],  # half in it
            [-8, 16, 200, 48, 0.7, 0],  # wider than it
            [40, 20, 40, 30, 0.6, 0],  # no width
            [50, 30, 40, 20, 0.6, 0],  # inverted
            [np.nan, 20, 50, 30, 0.6, 0],
            [16, 20, 32, 30, np.nan, 0],
            [16, 20, 32, 30, 0.1, 0],  # too weak
        ],
        np.float32,
    )
    found = detections_from_boxes(boxes, letterbox, 0.3)
    np.testing.assert_allclose(found.boxes, [[50, 0, 100, 25], [0, 0, 300, 100]], atol=1e-4)
    assert found.classes.tolist() == [1, 0] and found.classes.dtype == np.int64
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_any_engine_serves() -> None:
    engine = FixedEngine([[16, 16, 32, 32, 0.5, 1]])
    result = Model(engine)(np.zeros((128, 192, 3), np.uint8))
    np.testing.assert_allclose(result.boxes, [[32, 32, 64, 64]])
    engine.outputs["boxes"][:] = 0
    np.testing.assert_allclose(result.boxes, [[32, 32, 64, 64]])
    assert len(Model(FixedEngine([]))(np.zeros((128, 192, 3), np.uint8)).detections) == 0


def test_a_model_that_is_not_there_is_told_the_bundled_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"not found: drive-x; the bundled models are drive-n, drive-t"):
        perception.load("drive-x")


def test_threads_may_share_a_model(tiny_model: Path) -> None:
    model = perception.load(tiny_model, "cpu")
    frames = [frame((480, 640), ((40 * i, 50, 40 * i + 40, 300), RED_BGR)) for i in range(8)]
    alone = [model(image).boxes for image in frames]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: (i, model(frames[i]).boxes), [i % 8 for i in range(400)]))
    assert all(np.array_equal(boxes, alone[i]) for i, boxes in together)


@pytest.mark.parametrize(
    "view", [lambda image: image[:, ::-1], lambda image: image[::2, 10:-10], lambda image: image[..., ::-1]]
)
def test_views_of_a_picture_are_frames(tiny_model: Path, view: Callable[[np.ndarray], np.ndarray]) -> None:
    model = perception.load(tiny_model, "cpu")
    seen = view(frame((480, 640), ((40, 50, 200, 300), RED_BGR)))
    assert not seen.flags.c_contiguous and len(model(seen).boxes) == 1
    assert np.array_equal(model(seen).boxes, model(seen.copy()).boxes)


def test_a_program_of_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    """The README's loop: frames of a source, tracks, a picture, plain values."""
    for i in range(4):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), frame((120, 160), ((20 + 2 * i, 30, 60 + 2 * i, 80), RED_BGR)))
    model = perception.load(tiny_model, "cpu")
    tracker = perception.Tracker(box_names=model.box_names)
    with perception.open_source(tmp_path) as source:
        for taken in source:
            result = model(taken.image)
            tracks = tracker.update(result.detections, taken.timestamp_s, taken.hw, taken.image)
            picture = perception.draw(taken.image, result, tracks)
            values = result.to_dict(tracks)
    assert [(track["id"], track["class"]) for track in values["tracks"]] == [(1, "car")] and result.names == ["car"]
    assert picture.shape == (120, 160, 3) and (picture != taken.image).any()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), None, "frame.png"])
def test_what_is_not_a_frame_is_refused(tiny_model: Path, image: object) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        perception.load(tiny_model, "cpu")(image)  # type: ignore[arg-type]


def test_importing_is_light_and_the_door_is_closed() -> None:
    code = (
        "import sys, perception; "
        "heavy = {'torch', 'timm', 'albumentations', 'av', 'onnxruntime', 'onnx', 'scipy'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert set(perception.__all__) <= set(dir(perception)); "
        "assert all(hasattr(perception, name) for name in perception.__all__) and not hasattr(perception, 'none'); "
        "assert 'torch' not in sys.modules; "
        "print(perception.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count(".") == 2, done.stderr
    assert {"load", "Model", "Result", "Detections", "Frame", "Track"} <= set(perception.__all__)


def test_bundled_models_have_names(tmp_path, monkeypatch):
    assert model_file() == model_file("drive-n") == BUNDLED_MODEL
    bundled = sorted(BUNDLED_MODEL.parent.glob("*.onnx"))
    assert [model_file(path.stem) for path in bundled] == bundled and len(bundled) >= 2
    monkeypatch.chdir(tmp_path)
    assert model_file("drive-t.onnx") == Path("drive-t.onnx") and model_file("else") == Path("else")


@pytest.mark.skipif(not BUNDLED_MODEL.exists(), reason="the bundled model is not in this checkout")
def test_the_bundled_model_runs() -> None:
    model = perception.load(provider="cpu")
    result = model(np.random.default_rng(0).integers(0, 255, (360, 641, 3), np.uint8))
    assert {"scene", "drive"} <= set(result.class_maps) and result.box_names
    for head, classes in result.class_maps.items():
        assert classes.shape == (360, 641) and classes.max() < len(result.map_names[head])
