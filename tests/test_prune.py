"""Pruning: what never mattered goes without a trace, what is left stands in for what went, and a run comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from toy_training import CAR_LABELS

from perception import export, prune, train
from perception.engine import Engine
from perception.labels import DRIVE_CLASSES
from perception.layout import LayoutWriter
from perception.network.blocks import block_shape, keep_units
from perception.network.network import Network, NetworkConfig
from perception.network.tokens import Tokens
from perception.training import checkpoint, pruning
from perception.training.from_onnx import network_from_onnx

HW = (64, 96)
BOXES = ("pedestrian", "car")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red cars on a grey road under a blue sky, 64x96."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    with LayoutWriter(folder, CAR_LABELS) as writer:
        for split, count in (("train", 4), ("val", 2)):
            for i in range(count):
                image, mask = np.full((*HW, 3), 90, np.uint8), np.zeros(HW, np.uint8)
                image[:24], mask[:24] = (220, 150, 60), 1
                x = 8 + 12 * i
                image[30:50, x : x + 24] = (0, 0, 230)
                writer.add(split, f"{i:03d}", image, boxes=np.array([[x, 30, x + 24, 50]]), categories=["car"],
                           masks={"seg": mask})  # fmt: skip
    return folder


def small(seed: int = 0, blocks: tuple[tuple[int, int], ...] = ((3, 128), (3, 128), (3, 128))) -> Network:
    """A network with few blocks, every weight of which says something."""
    torch.manual_seed(seed)
    network = Network(NetworkConfig(hw=HW, width=16, heads={"drive": DRIVE_CLASSES}, blocks=blocks)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_((0.1 if ".vit." in name else 0.01) * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that holds `small()`."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    network = small()
    about = {"network": train.asdict(network.config), "data": ["toy"], "revision": "0", "train": {"own_labels": False}}
    checkpoint.save_weights(folder, 7, network.state_dict(), about)
    return folder


def answers(network: Network, images: Tensor) -> Tensor:
    """What the ViT gives: what comes after it hardly heeds that as long as it is random."""
    with torch.no_grad():
        return network.pyramid.tokens(images.permute(0, 3, 1, 2).float())


def some_images(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, *HW, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def silence(network: Network, block: int, heads: Sequence[int], hidden: Sequence[int]) -> None:
    """Let these units of a block give nothing: what reads them has zero weights."""
    part = network.pyramid.tokens.vit.blocks[block]
    with torch.no_grad():
        for head in heads:
            part.attn.proj.weight[:, head * part.attn.head_dim : (head + 1) * part.attn.head_dim] = 0
        part.mlp.fc2.weight[:, list(hidden)] = 0


def token_loss(network: Network) -> pruning.Loss:
    """A loss for batches that are images alone: some linear function of the tokens."""
    weights = torch.randn(network.pyramid.tokens.width, 1, 1, generator=torch.Generator().manual_seed(3))
    return lambda images: (network.pyramid.tokens(images.permute(0, 3, 1, 2).float()) * weights).mean()


def test_what_gives_nothing_is_found_and_goes_without_a_trace() -> None:
    network, images = small(), some_images()
    silent_heads, silent_hidden = {0: [1], 2: [0, 2]}, {0: list(range(64)), 1: list(range(7, 39))}
    for block in range(3):
        silence(network, block, silent_heads.get(block, []), silent_hidden.get(block, []))
    expected = answers(network, images)
    seen = pruning.look(network, token_loss(network), [images])
    assert all((one.heads > 0).sum() == 3 - len(silent_heads.get(b, [])) for b, one in enumerate(seen))
    assert all((one.hidden > 0).sum() == 128 - len(silent_hidden.get(b, [])) for b, one in enumerate(seen))
    heads = pruning.choose([one.heads for one in seen], 3 / 9)
    hidden = pruning.choose([one.hidden for one in seen], 96 / 384, 32)
    assert heads == [[0, 2], [0, 1, 2], [1]] and list(map(len, hidden)) == [64, 96, 128]
    pruning.prune(network, seen, heads, hidden)
    assert network.config.blocks == ((2, 64), (3, 96), (1, 128))
    torch.testing.assert_close(answers(network, images), expected, rtol=1e-4, atol=1e-4)


def test_a_unit_that_another_one_repeats_is_made_up_for() -> None:
    network, images = small(), some_images(40)  # more tokens than hidden units
    block = network.pyramid.tokens.vit.blocks[1]
    with torch.no_grad():  # 3 and 4 always give the same; 9 always gives the same number
        block.mlp.fc1.weight[4], block.mlp.fc1.bias[4] = block.mlp.fc1.weight[3], block.mlp.fc1.bias[3]
        block.mlp.fc1.weight[9], block.mlp.fc1.bias[9] = 0, 1.5
    expected = answers(network, images)
    seen = pruning.look(network, token_loss(network), [images])
    everything = [list(range(128))] * 3
    rest = [n for n in range(128) if n not in (4, 9)]
    plain = small()
    plain.load_state_dict(network.state_dict())
    pruning.prune(network, seen, [[0, 1, 2]] * 3, [everything[0], rest, everything[0]])
    keep_units(plain.pyramid.tokens.vit.blocks[1], [0, 1, 2], rest)
    error = (answers(network, images) - expected).abs().max()
    assert error < 0.02 * (answers(plain, images) - expected).abs().max()


def test_importance_is_what_the_loss_changes_by() -> None:
    network, images = small(), some_images()
    loss = token_loss(network)
    (seen, *_) = pruning.look(network, loss, [images])
    weight, unit, step = network.pyramid.tokens.vit.blocks[0].mlp.fc2.weight, 11, 1e-2
    with torch.no_grad():  # the derivative along "a little of this unit goes"
        values = []
        for share in (1 + step, 1 - step):
            kept = weight[:, unit].clone()
            weight[:, unit] *= share
            values.append(float(loss(images)))
            weight[:, unit] = kept
    change = (values[0] - values[1]) / (2 * step)
    assert seen.hidden[unit].sqrt() == pytest.approx(abs(change), rel=0.05)


def test_the_block_that_does_nothing_goes_first() -> None:
    network, images = small(), some_images()
    silence(network, 1, [0, 1, 2], range(128))
    block = network.pyramid.tokens.vit.blocks[1]
    with torch.no_grad():
        block.attn.proj.bias.zero_()
        block.mlp.fc2.bias.zero_()
    expected = answers(network, images)

    def truth(batch: Tensor) -> Tensor:
        return (answers(network, batch) - expected).square().mean()

    assert pruning.remove_blocks(network, 1, truth, [images]) == [1]
    assert len(network.config.blocks) == 2
    torch.testing.assert_close(answers(network, images), expected)
    with pytest.raises(ValueError, match="has 2 blocks; expected 0 to 1"):
        pruning.remove_blocks(network, 2, truth, [images])


def test_every_block_keeps_something() -> None:
    scores = [torch.arange(96.0) + 1000, torch.zeros(96), torch.zeros(40)]
    assert list(map(len, pruning.choose(scores, 0.9, 32))) == [32, 32, 32]
    assert pruning.choose(scores, 0.0, 32) == [list(range(96)), list(range(96)), list(range(40))]
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            pruning.choose(scores, share)


def test_through_run_export_and_back(run: Path, toy: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "pruned", tmp_path / "pruned.onnx"
    argv = [str(run), "--data", str(toy), "--images", "4", "--batch-size", "2", "--threads", "1", "--out", str(out)]
    assert prune.main([*argv, "--blocks", "1", "--heads", "0.5", "--mlp", "0.5", "--json", str(tmp_path / "j")]) == 0
    summary = json.loads((tmp_path / "j").read_text())
    engine = checkpoint.open_run(out)
    blocks = engine.network.config.blocks
    assert len(blocks) == 2 and sum(h for h, _ in blocks) == 3 and sum(u for _, u in blocks) == 128
    assert summary["shape"] == [list(block) for block in blocks]
    assert summary["after"]["parameters"] < summary["before"]["parameters"]
    assert checkpoint.read_meta(checkpoint.latest(out))["pruned"]["blocks"] == summary["blocks"]

    assert export.main([str(out), "--out", str(file)]) == 0  # on val images of the data that pruning saw
    image = cv2.cvtColor(cv2.imread(str(toy / "images" / "val" / "000.jpg")), cv2.COLOR_BGR2RGB)[None]
    expected, found = engine.run(image), Engine(file, "cpu").run(image)
    again = checkpoint.TorchEngine(network_from_onnx(file).eval(), engine.metadata)
    assert again.network.config.blocks == blocks
    for other in (found, again.run(image)):
        assert (other["drive"] == expected["drive"]).mean() > 0.999

    for source, name in ((out, "a"), (file, "b")):
        train_argv = ["--init", str(source), "--data", str(toy), "--heads", "boxes", "drive", "--hw", "64", "96"]
        train_argv += ["--loop.batch-size", "2", "--loop.workers", "0", "--loop.steps", "1", "--loop.eval-every", "0"]
        trained = tmp_path / name
        assert train.main([*train_argv, "--threads", "1", "--out", str(trained)]) == 0
        assert checkpoint.open_run(trained).network.config.blocks == blocks
        assert train.main(["--out", str(trained), "--resume"]) == 0

    assert prune.main([str(file), *argv[1:-1], str(tmp_path / "twice"), "--mlp", "0.4"]) == 0
    twice = checkpoint.open_run(tmp_path / "twice").network.config.blocks
    assert sum(u for _, u in twice) < 128 and len(twice) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "nothing to remove"),
        (["--mlp", "1.0"], "--mlp is the share to remove, from 0 to below 1, but got 1"),
        (["--heads", "-0.5"], "--heads is the share to remove"),
        (["--blocks", "3"], "has 3 blocks; expected 0 to 2 to remove"),
        (["--blocks", "-1", "--mlp", "0.5"], "nothing to remove"),
        (["--mlp", "0.5", "--images", "1"], "--images must be at least --batch-size"),
        (["--mlp", "0.5", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(
    more: list[str], words: str, run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--data" in more else ["--data", str(toy)]
    argv = [str(run), *data, "--images", "4", "--batch-size", "2", "--out", str(tmp_path / "out"), "--threads", "1"]
    if "--images" in more:
        argv = [part for n, part in enumerate(argv) if argv[n - 1] != "--images" and part != "--images"]
    assert prune.main([*argv, *more]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_data_without_a_label_for_any_head_says_nothing(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network(replace(small().config, box_classes=()))
    checkpoint.save_weights(tmp_path / "masks", 1, network.state_dict(), {"network": train.asdict(network.config)})
    with LayoutWriter(tmp_path / "boxes", replace(CAR_LABELS, masks={})) as writer:
        writer.add("train", "0", np.zeros((*HW, 3), np.uint8), boxes=[[5, 5, 40, 40]], categories=["car"])
    argv = [str(tmp_path / "masks"), "--data", str(tmp_path / "boxes"), "--images", "2", "--batch-size", "2"]
    assert prune.main([*argv, "--blocks", "1", "--threads", "1", "--out", str(tmp_path / "out")]) == 2
    assert "nothing in --data is labelled" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept(run: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune.main([str(run), "--data", str(toy), "--mlp", "0.5", "--out", str(run)]) == 2
    assert "name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", [((0, 64),), ((3, 0),), ((3, 64),) * 129, ((3, 2**62),)])
def test_shapes_that_no_network_has(blocks: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="up to 128 blocks"):
        NetworkConfig(blocks=blocks)


def test_more_units_than_the_transformer_has() -> None:
    with pytest.raises(ValueError, match="has 3 heads; expected to keep 1 to 3, but got 4"):
        Network(replace(small().config, blocks=((4, 64),)))
    with pytest.raises(ValueError, match="has 768 hidden units; expected to keep 1 to 768, but got 800"):
        Network(replace(small().config, blocks=((3, 800),)))


def test_other_kinds_of_blocks_are_refused() -> None:
    tokens = Tokens("vit_small_patch16_dinov3", (64, 96))
    with pytest.raises(ValueError, match="only blocks with plain attention and a plain MLP"):
        block_shape(tokens.vit.blocks[0])
