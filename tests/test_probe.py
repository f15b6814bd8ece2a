"""Probes on frozen features: against a case that can be read, and one that can't."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from perception.labels import HEADS, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.network.tokens import Tokens
from perception.pretraining.pca import pca_images
from perception.probe import main
from perception.probing.attention import attention
from perception.probing.bank import Bank, fill_bank
from perception.probing.encoder import open_encoder
from perception.probing.probes import linear_probe, neighbour_probe

HW = (64, 96)


@pytest.fixture(params=[linear_probe, neighbour_probe])
def learn(request: pytest.FixtureRequest) -> object:
    return request.param


def bank_of(informative: bool) -> tuple[Bank, torch.Tensor]:
    """8 images on a 4 x 6 grid whose first feature is the class of the patch, or noise; and the classes (8, 4, 6)."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (8, 4, 6), generator=draw)
    features = torch.randn(8, 5, 4, 6, generator=draw)
    if informative:
        features[:, :3] = 6.0 * torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2)
    labels = classes.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[0, :4] = 255
    zeros = torch.zeros(5, 1, 1)
    return Bank(features, labels, ("a", "b", "c"), "scene", zeros, zeros + 1), classes


def middles(answer: torch.Tensor) -> torch.Tensor:
    """(B, 64, 96) -> the answer in the middle of each patch, (B, 4, 6)."""
    return answer[:, 8::16, 8::16].long()


def test_what_features_say_is_read(learn: object) -> None:
    bank, classes = bank_of(True)
    answer = learn(bank, HW)(bank.features)  # type: ignore[operator]
    assert answer.shape == (8, *HW)
    assert (middles(answer) == classes)[1:].float().mean() > 0.97


def test_what_they_do_not_say_is_not(learn: object) -> None:
    bank, classes = bank_of(False)
    other = torch.randn(8, 5, 4, 6, generator=torch.Generator().manual_seed(9))
    answer = learn(bank, HW)(other)  # type: ignore[operator]
    assert (middles(answer) == classes).float().mean() < 0.55


def test_images_without_a_label_are_no_part_of_a_batch() -> None:
    bank, classes = bank_of(True)
    bank.labels[2:] = 255
    answer = linear_probe(bank, HW)(bank.features)
    assert (middles(answer) == classes)[1].float().mean() > 0.9
    bank.labels[:] = 255
    with pytest.raises(ValueError, match="nothing to learn from"):
        linear_probe(bank, HW)


def test_attention_adds_up() -> None:
    torch.manual_seed(0)
    tokens = Tokens("vit_tiny_patch16_224", HW).eval()
    weights = attention(tokens, np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8))
    assert weights.shape == (4, 6)
    assert 0.5 < weights.sum() < 1.0  # the class token looks at itself too


def test_attention_is_what_the_block_computes() -> None:
    """With queries and keys that are normed, rotated, or of no class token but registers."""
    for name in ("vit_tiny_patch16_224", "vit_small_patch16_dinov3", "test_vit2"):
        torch.manual_seed(0)
        tokens = Tokens(name, HW).eval()
        last = tokens.vit.blocks[-1].attn
        with torch.no_grad():
            for layer in (last.qkv, last.proj):
                layer.weight.mul_(4)  # sharp enough to differ
        image = np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8)
        seen: list[torch.Tensor] = []
        last.fused_attn = False
        hook = last.attn_drop.register_forward_hook(lambda _, inputs, out, seen=seen: seen.append(out))
        tokens(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float())
        hook.remove()
        last.fused_attn = True
        prefix = tokens.vit.num_prefix_tokens
        query = 0 if tokens.vit.cls_token is not None else prefix + 15  # the middle of 4 x 6, not a register
        truth = seen[0][0].mean(0)[query, prefix:].view(4, 6)
        assert torch.allclose(attention(tokens, image), truth, atol=1e-5) and last.fused_attn


def test_a_pretraining_run_says_which_vit_it_is_of(tmp_path: Path) -> None:
    (tmp_path / "frames.txt").write_text("a.png\n")
    with pytest.raises(FileNotFoundError, match="is not done: expected encoder"):
        open_encoder(str(tmp_path), "vit_tiny_patch16_224", HW)
    (tmp_path / "config.json").write_text('{"vit": "test_vit"}')
    save_file(Tokens("test_vit", HW).timm_state(), tmp_path / "encoder.safetensors")
    assert open_encoder(str(tmp_path), "vit_tiny_patch16_224", HW).width == 64


def test_principal_components_tell_regions_apart() -> None:
    features = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    features[:, 0, :, :3] += 4
    left, right = pca_images(features, HW)[0][:, :40].astype(int), pca_images(features, HW)[0][:, 56:].astype(int)
    assert np.abs(left.mean((0, 1)) - right.mean((0, 1))).max() > 120


def test_the_command_reads_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sky and ground differ in colour: even a random transformer's features tell them apart."""
    folder = two_halves(tmp_path)
    out = tmp_path / "out"
    options = ["--data", str(folder), "--hw", "64", "96", "--out", str(out), "--json", "-"]
    assert main(["random", *options]) == 0
    assert (out / "features.png").stat().st_size > 1000
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["probes"]["linear"]["mIoU"] > 0.8
    assert found["probes"]["knn"]["mIoU"] > 0.7
    for mask in (folder / "masks" / "labels" / "val").iterdir():
        cv2.imwrite(str(mask), np.full(HW, 255, np.uint8))
    assert main(["random", *options]) == 0 and "linear: mIoU - on halves val" in capsys.readouterr().out
    assert main([str(tmp_path / "no.safetensors"), *options]) == 2
    assert "no weight file" in capsys.readouterr().err


def test_labels_lie_on_the_patches_whatever_their_size(tmp_path: Path) -> None:
    class Patches(torch.nn.Module):
        """Features that are all zero, of patches of 14 or 16 pixels."""

        def __init__(self, stride: int) -> None:
            super().__init__()
            self.stride, self.grid_hw = stride, (4, 6)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(image), 2, *self.grid_hw)

    folder = two_halves(tmp_path)
    for stride in (14, 16):  # 4 cells a side do not divide 14
        bank = fill_bank(Patches(stride), folder, (4 * stride, 6 * stride))  # type: ignore[arg-type]
        assert bank.labels.shape == (6, 16, 24)
        for number, labels in enumerate(bank.labels):
            mask = cv2.imread(str(folder / "masks" / "labels" / "train" / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            known = labels[:, 12][labels[:, 12] != 255]  # a column; at 56x84 the picture has a grey border
            assert abs(int((known == 0).sum()) / len(known) - (mask[:, 0] == 0).mean()) < 0.05


def two_halves(tmp_path: Path) -> Path:
    """A dataset of bright sky over dark ground that meet at another height in each image."""
    sets = {0: frozenset({"sky"}), 1: frozenset({"road"})}
    labels = DatasetLabels(
        "halves", "CC0", masks={"scene": MaskLabels("labels", {0: "sky", 1: "ground"}, sets, HEADS["scene"])}
    )
    rng = np.random.default_rng(0)
    with LayoutWriter(tmp_path / "halves", labels) as writer:
        for split, count in (("train", 6), ("val", 3)):
            for number in range(count):
                horizon = int(rng.integers(16, 48))
                image, mask = np.full((*HW, 3), 40, np.uint8), np.ones(HW, np.uint8)
                image[:horizon], mask[:horizon] = 220, 0
                writer.add(split, str(number), image, masks={"labels": mask})
    return tmp_path / "halves"
