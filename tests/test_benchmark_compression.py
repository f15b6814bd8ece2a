"""Compression: merged tokens come back to their places, rows are judged by both axes, a run gives a whole result."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import compression
from benchmarks.compare import read_result
from benchmarks.compression import Candidate, verdict
from benchmarks.variants import Merged, merge_tokens, write
from perception.engine import Engine
from perception.labels import SCENE_CLASSES, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.network.network import Network, NetworkConfig
from perception.training.checkpoint import at_size, save_weights

HW = (64, 96)


def small() -> Network:
    torch.manual_seed(0)
    heads = {"scene": SCENE_CLASSES}
    network = Network(NetworkConfig(hw=HW, width=16, blocks=((3, 64),) * 3, box_classes=(), heads=heads)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small()` as a file."""
    return write(small(), tmp_path_factory.mktemp("base") / "base.onnx", list(some_images(1).numpy()))


def some_images(count: int, hw: tuple[int, int] = HW) -> torch.Tensor:
    return torch.randint(0, 256, (count, *hw, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tokens", [8, 9])
def test_tokens_that_are_alike_merge_and_all_come_back_to_their_places(tokens: int) -> None:
    torch.manual_seed(0)
    blocks = small().pyramid.tokens.vit.blocks
    x = torch.randn(1, tokens, 192)
    x[:, 4], x[:, 2] = x[:, 1], x[:, 7]  # two of the even ones equal odd ones: merging them changes nothing
    expected = blocks(x)
    torch.testing.assert_close(Merged(blocks, 2, 1)(x), expected, rtol=1e-4, atol=1e-4)
    other = Merged(blocks, 3, 1)(x)  # a third one is not alike: its answer is now that of another
    assert other.shape == expected.shape and (other - expected).abs().max() > 1e-2
    torch.testing.assert_close(other[:, 4], other[:, 1])


def test_the_class_token_is_never_merged() -> None:
    blocks = torch.nn.ModuleList(small().pyramid.tokens.vit.blocks[:1])
    x = torch.randn(1, 9, 192)
    x[:, 0] = x[:, 1]  # most alike of all, and yet kept
    answers = Merged(blocks, 4, 1)(x)
    evens = answers[0, ::2]
    odds = answers[0, 1::2]
    copied = (evens[:, None] - odds[None]).abs().amax(-1).amin(1) < 1e-6
    assert copied.tolist() == [False, True, True, True, True]


def test_a_merged_network_is_exported_and_answers_alike(tmp_path: Path) -> None:
    network, images = small(), some_images(2)
    merge_tokens(network, 0.4, 1)
    write(network, tmp_path / "merged.onnx", list(images.numpy()))
    found = Engine(tmp_path / "merged.onnx", "cpu").run(images[:1].numpy())
    with torch.inference_mode():
        expected = network.predict(images[:1])
    assert (found["scene"] == expected["scene"].numpy()).mean() > 0.99
    for share, block in ((0.6, 1), (0.0, 1), (0.4, 3)):
        with pytest.raises(ValueError, match="can merge a share"):
            merge_tokens(small(), share, block)


def test_another_size_keeps_the_weights() -> None:
    network = small()
    other = at_size(network, (96, 128))
    assert other.predict(some_images(1, (96, 128)))["scene"].shape == (1, 96, 128)
    own, theirs = network.state_dict(), other.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own if "pos_embed" not in name)


def candidate(name: str, ms: float, score: float) -> Candidate:
    return Candidate(name, "variant", Path(name), {"a": score - 1, "b": score + 1}, {"cpu": [ms, ms, 2 * ms]})


def test_a_row_is_judged_by_both_axes() -> None:
    first, fast, poor, slow = (
        candidate(*row) for row in (("base", 10, 60), ("fast", 5, 59), ("poor", 6, 50), ("slow", 20, 60))
    )
    everyone = [first, fast, poor, slow]
    assert verdict(first, everyone, "cpu").startswith("on the line")
    assert verdict(fast, everyone, "cpu").startswith("on the line")
    assert verdict(poor, everyone, "cpu") == "not on the line: fast is 1.20 times as fast and 9.00 points better"
    assert verdict(slow, everyone, "cpu") == "not on the line: base is 2.00 times as fast and 0.00 points better"
    assert fast.faster_than(first, "cpu") == [2.0, 2.0, 2.0]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Road under sky, 64x96."""
    sets = {0: frozenset({"road"}), 1: frozenset({"sky"})}
    labels = DatasetLabels(
        name="toy", licence="ours", boxes=None, masks={"scene": MaskLabels("seg", {0: "road", 1: "sky"}, sets,
                                                                           SCENE_CLASSES)}
    )  # fmt: skip
    with LayoutWriter(tmp_path / "toy", labels) as writer:
        for i in range(2):
            image, mask = np.full((*HW, 3), 90 + i, np.uint8), np.zeros(HW, np.uint8)
            image[:24], mask[:24] = (220, 150, 60), 1
            writer.add("val", f"{i}", cv2.blur(image, (3, 3)), masks={"seg": mask})
    return tmp_path / "toy"


def test_a_whole_run(base: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = small()
    about = {"network": asdict(network.config), "data": []}
    save_weights(tmp_path / "run", 1, network.state_dict(), about)
    argv = ["--data", f"{toy}:val", "--model", str(base), "--sizes", "32x64", "--merge", "0.4@1"]
    argv += ["--variants", f"same={tmp_path / 'run'}", "--provider", "cpu", "--rounds", "2", "--calls", "1"]
    argv += ["--threads", "1", "--plot", str(tmp_path / "plots"), "--json", str(tmp_path / "out.json")]
    assert compression.main(argv) == 0
    found = read_result(tmp_path / "out.json")
    rows = found["figures"]["candidates"]
    assert list(rows) == ["base", "input 32x64", "40% of tokens merged before block 1", "same"]
    assert rows["same"]["accuracy"] == rows["base"]["accuracy"] and rows["same"]["gflops"] == rows["base"]["gflops"]
    assert rows["input 32x64"]["gflops"] < 0.5 * rows["base"]["gflops"]
    assert len(found["rows"]["base: cpu"]["rounds"]) == 2 and (tmp_path / "plots" / "compression_cpu.png").is_file()
    assert "times as fast" in capsys.readouterr().out
    json.dumps(found)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "somewhere"], "expected FOLDER:SPLIT"),
        (["--sizes", "224"], "expected HEIGHTxWIDTH, but got '224'"),
        (["--merge", "half"], "expected SHARE@BLOCK, but got 'half'"),
        (["--variants", "run"], "expected NAME=RUN or NAME=FILE.onnx, but got 'run'"),
    ],
)
def test_mistakes(more: list[str], words: str, base: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", f"{toy}:val", "--model", str(base)]
    argv += [text for option in ("--sizes", "--merge") if option not in more for text in (option,)]
    assert compression.main([*argv, *more]) == 2
    assert words in capsys.readouterr().err
