"""Export: one file with everything in it, equal to torch; a difference deletes the file and names the stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from perception import evaluate, export, load
from perception.network.network import Network, NetworkConfig
from perception.parity import compare, match
from perception.tensors import tensor_from_frame
from perception.training import checkpoint
from perception.training.from_onnx import network_from_onnx, settle_norms
from perception.training.optim import Ema

HW = (64, 96)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an untrained network whose heads are sharp enough to disagree about.

    Its boxes are small, so that none is another's duplicate: which of two equal ones is kept would be chance.
    """
    torch.manual_seed(0)
    network = Network(NetworkConfig(hw=HW, width=16))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("masks"):
                parameter.mul_(3)
            elif name.endswith("classify.2.weight"):
                parameter.mul_(400)
            elif name.endswith(("classify.2.bias", "measure.2.bias")):
                parameter.fill_(-2.0)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)  # the exporter keeps one of several equal ones
    folder = tmp_path_factory.mktemp("run")
    meta = {"data": ["toy"], "revision": "0123abc", "train": {"steps": 1}}
    checkpoint.save(folder, 7, network, Ema(network, 0.9), adam(network), meta)
    return folder


def adam(network: Network) -> torch.optim.Optimizer:
    named = dict(network.named_parameters())
    return torch.optim.AdamW([{"params": list(named.values()), "names": list(named)}])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures that are not square and not noise."""
    folder = tmp_path_factory.mktemp("images")
    for i, hw in enumerate(((90, 160), (200, 120), (64, 96))):
        picture = np.linspace(0, 255, hw[0] * hw[1] * 3).reshape(*hw, 3).astype(np.uint8)
        cv2.circle(picture, (hw[1] // 2, hw[0] // 2), 20 + 5 * i, (0, 0, 255), -1)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("out") / "model.onnx"
    assert export.main([str(run), "--out", str(out), "--images", str(images), "--weights", "fp16"]) == 0
    yield out


def test_the_file_runs_by_itself_and_says_what_it_is(exported: Path, images: Path) -> None:
    model = load(exported, provider="cpu")
    about = model.engine.metadata
    assert (
        about.input_hw == HW and about.revision == checkpoint.revision() and about.data == ("toy",) and about.step == 7
    )
    assert about.config["network"]["width"] == 16
    image = cv2.imread(str(images / "0.png"))
    assert image is not None
    result = model(np.asarray(image))
    assert result.class_maps["scene"].shape == (90, 160)
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"], "no draft is left"


def test_the_file_answers_as_torch_does(exported: Path, run: Path, images: Path) -> None:
    network, _ = checkpoint.load_network(run)
    export.round_to_half(network)
    image = np.random.default_rng(0).integers(0, 256, (1, *HW, 3)).astype(np.uint8)
    answer = export.responses(exported, [image[0]])[0]
    with torch.inference_mode():
        truth = network.predict(torch.from_numpy(image))
    assert (answer["scene"] == truth["scene"].numpy()).mean() > 0.999
    iou, compared = match(truth["boxes"][0].numpy(), answer["boxes"][0])
    assert iou > 0.99 and compared > 20
    np.testing.assert_allclose(answer["boxes"][..., 4], truth["boxes"][..., 4].numpy(), atol=1e-4)


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    model = onnx.load(exported)
    assert [output.name for output in model.graph.output] == ["boxes", "scene", "drive"]
    assert [entry.key for entry in model.metadata_props] == ["perception"]
    assert str(Path(export.__file__).parent).encode() not in exported.read_bytes()


def test_a_file_at_another_input_size(exported: Path, images: Path, tmp_path: Path) -> None:
    """The same weights, with boxes alone; what it says of its making stays."""
    out = tmp_path / "small.onnx"
    argv = [str(exported), "--out", str(out), "--hw", "32", "64", "--heads", "boxes", "--images", str(images)]
    assert export.main(argv) == 0
    model, old = load(out, provider="cpu"), load(exported, provider="cpu").engine.metadata
    about = model.engine.metadata
    assert about.input_hw == (32, 64) and not about.heads and about.box_names == old.box_names
    assert (about.data, about.step, about.config["train"]) == (old.data, old.step, old.config["train"])
    assert about.config["network"] | {"hw": [*HW]} == json.loads(old.to_json())["config"]["network"] | {
        "heads": about.config["network"]["heads"]
    }


def test_at_its_own_size_a_network_stays_what_it_is(run: Path) -> None:
    network, _ = checkpoint.load_network(run)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *HW, 3)).astype(np.uint8))
    with torch.inference_mode():
        before, after = network.predict(image), checkpoint.at_size(network, HW).predict(image)
        other = checkpoint.at_size(checkpoint.at_size(network, (96, 128)), (96, 128)).predict(
            torch.zeros(1, 96, 128, 3, dtype=torch.uint8)
        )
    assert all(torch.equal(before[name], after[name]) for name in before) and other["scene"].shape == (1, 96, 128)
    with pytest.raises(ValueError, match="multiple of 32"):
        checkpoint.at_size(network, (100, 128))


def test_fp16_weights_halve_the_file(exported: Path, run: Path, images: Path, tmp_path: Path) -> None:
    assert export.main([str(run), "--out", str(tmp_path / "full.onnx"), "--images", str(images)]) == 0
    assert exported.stat().st_size < 0.6 * (tmp_path / "full.onnx").stat().st_size


def test_several_images_in_one_call_and_back_to_one(
    exported: Path, run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two, one = tmp_path / "two.onnx", tmp_path / "one.onnx"
    shared = ["--images", str(images), "--weights", "fp16"]
    assert export.main([str(run), "--out", str(two), "--batch", "2", *shared]) == 0
    assert "in calls of 2" in capsys.readouterr().out
    assert export.main([str(two), "--out", str(one), "--batch", "1", *shared]) == 0
    about = load(exported, provider="cpu").engine.metadata
    for path, batch in ((two, 2), (one, 1)):
        engine = load(path, provider="cpu").engine
        assert (engine.batch, engine.metadata) == (batch, replace(about, batch=batch))
    pictures = [tensor_from_frame(np.asarray(cv2.imread(str(path))), HW)[0] for path in sorted(images.iterdir())]
    for path in (two, one):
        for order in (pictures, pictures[::-1]):  # so that each is at either place
            parity = compare(export.responses(exported, order), export.responses(path, order))
            parity.require()
            assert parity.boxes > 20 and set(parity.maps) == {"scene", "drive"}
    images_of_a_call = np.stack(pictures[:2])
    answer = load(two, provider="cpu").engine.run(images_of_a_call)
    assert not np.array_equal(answer["scene"][0], answer["scene"][1]), "the places do not get the same image"


def test_heads_can_be_left_out(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "drive.onnx"
    twice = ["--heads", "drive", "drive"]  # is once
    assert export.main([str(run), "--out", str(out), "--images", str(images), *twice]) == 0
    assert [output.name for output in onnx.load(out).graph.output] == ["drive"]
    model = load(out, provider="cpu")
    result = model(np.zeros((30, 40, 3), np.uint8))
    assert set(result.class_maps) == {"drive"} and len(result.detections) == 0


def test_a_stage_that_differs_deletes_the_file(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true_responses = export.responses

    def wrong_responses(path: Path, pictures: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        out = true_responses(path, pictures)
        assert len(out) == 4  # three pictures, in calls of two: the last place gets one again
        out[3]["stage_p16"] *= 1.1
        return out

    monkeypatch.setattr(export, "responses", wrong_responses)
    argv = [str(run), "--out", str(tmp_path / "bad.onnx"), "--images", str(images), "--batch", "2"]
    assert export.main(argv) == 2
    assert "stage_p16 differs from torch by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--heads", "depth"], "no head 'depth'"),
        (["--images", "nowhere"], "nowhere"),
        ([], "--images"),
        (["--batch", "0"], "--batch must be from 1 to 64, but got 0"),
        (["--batch", "65"], "--batch must be from 1 to 64, but got 65"),
    ],
)
def test_mistakes(more: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(run), "--out", str(tmp_path / "x.onnx"), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path), "--out", str(tmp_path / "x.onnx")]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_summary_is_json(run: Path, images: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "m.onnx"), "--images", str(images), "--json", str(tmp_path / "m.json")]
    assert export.main([str(run), *out]) == 0
    summary = json.loads((tmp_path / "m.json").read_text())
    assert (
        summary["images"] == 3
        and summary["boxes_iou"] > 0.99
        and summary["boxes"] > 20
        and summary["maps"]["scene"] > 0.999
    )


def test_the_way_back_to_a_network_that_can_be_trained(exported: Path, images: Path) -> None:
    tensors = [tensor_from_frame(np.asarray(cv2.imread(str(path))), HW)[0] for path in sorted(images.iterdir())]
    expected = export.responses(exported, tensors)
    network = network_from_onnx(exported)

    def require_same_answers() -> None:
        for tensor, truth in zip(tensors, expected, strict=True):
            with torch.inference_mode():
                found = {k: v.numpy() for k, v in network.eval().predict(torch.from_numpy(tensor[None])).items()}
            assert (found["scene"] == truth["scene"]).mean() > 0.999
            iou, compared = match(truth["boxes"][0], found["boxes"][0])
            assert iou > 0.99 and compared > 20

    require_same_answers()
    many = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, *HW, 3)).astype(np.uint8))
    shared = network.boxes.one_to_many.classify[0][0][1]  # a batch norm that three levels share
    levels: list[torch.Tensor] = []
    hook = shared.register_forward_pre_hook(lambda _, inputs: levels.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        network.eval()(many)
    hook.remove()
    settle_norms(network, many)
    assert len(levels) == 3
    torch.testing.assert_close(shared.running_mean, torch.stack(levels).mean(0), atol=1e-4, rtol=1e-3)
    require_same_answers()
    with torch.no_grad():  # in training mode, batch statistics now stand for what was folded away
        trained = network.train()(many).masks["scene"]
        evaluated = network.eval()(many).masks["scene"]
    assert (trained - evaluated).abs().max() < 0.2 * evaluated.abs().max()


def test_a_file_is_evaluated_in_torch_with_probabilities(exported: Path, images: Path) -> None:
    model = evaluate.open_model(exported, "torch")
    assert model.engine.metadata == load(exported, provider="cpu").engine.metadata
    tensor = tensor_from_frame(cv2.imread(str(images / "0.png")), HW)[0][None]
    outputs, probabilities = model.engine.probabilities(tensor)
    truth = load(exported, provider="cpu").engine.run(tensor)
    assert (outputs["scene"] == truth["scene"]).mean() > 0.999
    assert np.allclose(probabilities["scene"].sum(1), 1, atol=1e-4)
    assert (probabilities["scene"].argmax(1) == truth["scene"]).mean() > 0.99


def test_only_our_files_lead_back(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="not a model that may be loaded"):
        network_from_onnx(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"tiny.onnx.*no network"):
        network_from_onnx(tiny_model)
