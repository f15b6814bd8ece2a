"""The torch network: shapes at non-square sizes, any plain ViT, decoding against a slow reference, heads left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from perception.network.boxes import DUPLICATE_IOU, PRIOR, RawBoxes, decode, pairwise_iou
from perception.network.features import DetailPath
from perception.network.masks import class_map
from perception.network.network import Network, NetworkConfig
from perception.network.tokens import Tokens, fit_position_embedding
from perception.training.checkpoint import POSITION, adopt

SMALL = NetworkConfig(hw=(64, 96), width=16)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(SMALL).eval()


def random_image(batch: int = 1, hw: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.randint(0, 256, (batch, *hw, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_predict_gives_boxes_and_class_maps_in_model_pixels(network: Network) -> None:
    with torch.inference_mode():
        out = network.predict(random_image(2))
    assert out["boxes"].shape == (2, 100, 6)
    assert (out["boxes"][..., 4].diff(dim=1) <= 0).all(), "sorted by falling score"
    assert out["boxes"][..., [0, 2]].amax() <= 96 and out["boxes"][..., [1, 3]].amax() <= 64
    assert out["scene"].shape == out["drive"].shape == (2, 64, 96)
    assert out["scene"].dtype == torch.uint8 and int(out["drive"].max()) < 3


def test_pyramid_has_strides_4_to_32(network: Network) -> None:
    with torch.inference_mode():
        levels = network.pyramid(random_image().permute(0, 3, 1, 2).float())
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_batch_and_single_agree_and_images_matter(network: Network) -> None:
    images = random_image(2)
    with torch.inference_mode():
        both, one = network(images), network(images[1:])
    torch.testing.assert_close(both.masks["scene"][1:], one.masks["scene"], rtol=1e-3, atol=1e-4)
    assert (both.masks["scene"][0] - both.masks["scene"][1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "deit3_small_patch16_224"])
def test_any_plain_vit_at_any_size(name: str) -> None:
    patch = 14 if "14" in name else 16
    tokens = Tokens(name, (4 * patch, 6 * patch)).eval()
    with torch.inference_mode():
        out = tokens(torch.rand(1, 3, 4 * patch, 6 * patch) * 255)
    assert out.shape == (1, tokens.width, 4, 6)


def test_tokens_equal_those_of_timm() -> None:
    tokens = Tokens("vit_tiny_patch16_224", (32, 64)).eval()
    vit = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), num_classes=0).eval()
    state = {f"patch_embed.{k}": v for k, v in tokens.embed.state_dict().items()} | tokens.vit.state_dict()
    vit.load_state_dict(state)
    image = torch.rand(1, 3, 32, 64) * 255
    with torch.inference_mode():
        expected = vit.forward_features((image / 255 - 0.5) / 0.5)[:, 1:]  # without the class token
        torch.testing.assert_close(tokens(image).flatten(2).transpose(1, 2), expected)


def test_weights_of_a_square_timm_model_load_at_another_size(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    tokens = Tokens("vit_tiny_patch16_224", (64, 96))
    tokens.load_timm(tmp_path / "vit.safetensors")
    torch.testing.assert_close(tokens.vit.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)
    assert tokens.vit.pos_embed.shape == (1, 1 + 4 * 6, 192)


def test_position_embedding_keeps_its_pattern_when_resampled() -> None:
    grid = torch.linspace(0, 1, 8)[None, :, None, None].expand(1, 8, 8, 2).reshape(1, 64, 2)  # grows from top to bottom
    state = {"pos": torch.cat([torch.full((1, 1, 2), 9.0), grid], 1)}
    fit_position_embedding(state, "pos", None, (4, 12), prefix=1)
    assert state["pos"].shape == (1, 49, 2) and float(state["pos"][0, 0, 0]) == 9.0
    rows = state["pos"][0, 1:, 0].view(4, 12)
    assert (rows.diff(dim=0) > 0.1).all() and rows.std(dim=1).max() < 1e-4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hw": (60, 96)}, "multiple of 32"),
        ({"box_classes": (), "heads": {}}, "at least one head"),
    ],
)
def test_impossible_networks_are_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NetworkConfig(**config)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_model_that_is_no_plain_vit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain Vision Transformer"):
        Tokens(name, (64, 96))


def test_what_another_vit_has_in_common_is_taken_and_the_rest_stays_new() -> None:
    torch.manual_seed(1)
    other = Network(NetworkConfig(hw=(224, 224), width=16, vit="vit_small_patch14_dinov2"))
    fresh = Network(SMALL)
    new = adopt(fresh, other.state_dict(), other.config)  # another width, and another grid of patches
    assert POSITION in new and "pyramid.tokens.vit.blocks.0.mlp.fc1.weight" in new
    assert "masks.drive.1.weight" not in new
    assert torch.equal(fresh.masks["drive"][1].weight, other.masks["drive"][1].weight)


def test_without_internet_the_other_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **options: object) -> object:
        raise FileNotFoundError("no connection") if options.get("pretrained") else AssertionError

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(OSError, match=r"no connection\); leave out --pretrained, or name files with --init"):
        Network(NetworkConfig(hw=(64, 96)), pretrained=True)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        Tokens("vit_tiny_patch16_224", (64, 96)).load_timm(tmp_path / "other.safetensors")
    tokens = Tokens("vit_tiny_patch16_224", (64, 96))
    state = tokens.timm_state()
    save_file({**state, "pos_embed": state["pos_embed"][:, 1:-1].contiguous()}, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match=r"few.safetensors does not fit.*pos_embed \(1, 195, 192\)"):
        tokens.load_timm(tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        DetailPath("tf_efficientnet_lite0", weights=tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="no weight file"):
        DetailPath("tf_efficientnet_lite0", weights=tmp_path / "nothing.pth")


def test_freezing_keeps_early_weights_and_statistics() -> None:
    detail = DetailPath("tf_efficientnet_lite0").train()
    detail.freeze()
    trained = {name for name, p in detail.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("cnn.conv_stem", "cnn.blocks.0.", "cnn.blocks.1.")) for name in trained)
    assert any(name.startswith("cnn.blocks.2.") for name in trained)
    before = detail.cnn.get_buffer("bn1.running_mean").clone()
    detail(torch.rand(2, 3, 64, 64) * 255)
    torch.testing.assert_close(detail.cnn.get_buffer("bn1.running_mean"), before)


def test_heads_can_be_left_out() -> None:
    network = Network(SMALL).eval()
    network.keep(["drive"])
    with torch.inference_mode():
        assert set(network.predict(random_image())) == {"drive"}
    assert network.config.box_classes == () and set(network.config.heads) == {"drive"}


def test_new_box_heads_are_modest(network: Network) -> None:
    with torch.inference_mode():
        scores = network.predict(random_image())["boxes"][..., 4]
    assert float(scores.max()) < 0.2 and PRIOR < -4


def test_decode_against_a_slow_reference() -> None:
    rng = np.random.default_rng(0)
    logits, boxes = rng.normal(size=(2, 30, 4)).astype(np.float32), rng.uniform(-20, 120, (2, 30, 4)).astype(np.float32)
    raw = RawBoxes(torch.from_numpy(logits), torch.from_numpy(boxes), torch.zeros(30, 2))
    out = decode(raw, (64, 96), 5).numpy()
    for b in range(2):
        limit = [96, 64, 96, 64]
        order = sorted(range(30), key=lambda a: -logits[b, a].max())[:5]
        clipped = torch.from_numpy(boxes[b, order].clip(0, limit).astype(np.float32))[None]
        iou = pairwise_iou(clipped, clipped)[0]
        kept = [a for i, a in enumerate(order) if not any(iou[i, j] > DUPLICATE_IOU for j in range(i))]
        assert (out[b][len(kept) :, 4] == 0).all()
        for row, a in zip(out[b], kept, strict=False):
            assert row[:4] == pytest.approx([min(max(v, 0), m) for v, m in zip(boxes[b, a], limit, strict=True)])
            assert row[4] == pytest.approx(1 / (1 + np.exp(-logits[b, a].max())), rel=1e-5)
            assert row[5] == logits[b, a].argmax()


def test_a_duplicate_loses_its_score() -> None:
    box, near, far = [0.0, 0, 40, 40], [1.0, 0, 40, 40], [50.0, 10, 90, 50]
    raw = RawBoxes(torch.tensor([[[2.0], [1.0], [0.0]]]), torch.tensor([[box, near, far]]), torch.zeros(3, 2))
    out = decode(raw, (64, 96), 3)[0]
    assert out[:, 4].tolist() == pytest.approx([0.8808, 0.5, 0.0], abs=1e-3)
    assert out[:2, 0].tolist() == [0, 50]


def test_class_map_is_the_best_class_at_full_size() -> None:
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 2, :, 2:] = 5.0
    found = class_map(logits, (8, 16))
    assert found.dtype == torch.uint8 and found[0, :, 12:].eq(2).all() and found[0, :, :4].eq(0).all()
