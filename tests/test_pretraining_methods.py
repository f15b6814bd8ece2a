"""Distillation, masked completion, colourisation: against slow truths, and that each learns a little."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from perception.network.tokens import Tokens
from perception.pretraining.colour import Colour, ColourConfig, gamut, lab_of, prior_of
from perception.pretraining.distil import Distil, DistilConfig
from perception.pretraining.mae import Mae, MaeConfig, block_mask, random_mask
from perception.pretraining.method import Method
from perception.pretraining.teachers import Teacher, identity, taught, teacher_grid
from perception.pretraining.views import ViewConfig, Views, ViewStream, batches

HW = (64, 96)
VIT = "vit_tiny_patch16_224"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Frames of a blue sky over a green field, with a red block somewhere on it."""
    folder = tmp_path_factory.mktemp("frames")
    out = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = np.empty((96, 144, 3), np.uint8)
        image[:48], image[48:] = (230, 180, 120), (60, 140, 70)
        image = cv2.add(image, rng.integers(0, 20, image.shape, np.uint8))
        x, y = rng.integers(0, 110), rng.integers(40, 70)
        image[y : y + 20, x : x + 30] = (40, 40, 200)
        out.append(folder / f"{seed}.png")
        cv2.imwrite(str(out[-1]), image)
    return out


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's smallest EfficientNet."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "cnn.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return path


def some_views(files: list[Path], count: int = 4) -> Views:
    return next(iter(batches(ViewStream(files, HW, ViewConfig(magnitude=0.0), count, 0), count, 0, 0)))


def learns(method: Method, views: Views, steps: int = 12) -> tuple[float, float]:
    """The loss before and after some steps on one batch."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3)
    seen = []
    for _ in range(steps):
        loss = torch.stack(list(method.losses(views, torch.Generator().manual_seed(1)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen[0], seen[-1]


# Teachers


def test_a_teachers_grid_is_the_students_on_the_widest_view() -> None:
    assert teacher_grid((600, 900), (4, 6)) == (4, 6)
    assert teacher_grid((375, 1242), (4, 6)) == (4, 13)  # wide: as high as the student's
    assert teacher_grid((400, 300), (4, 6)) == (8, 6)  # upright: as wide


def test_lessons_are_what_the_teacher_says_of_the_whole_frame(files: list[Path], cnn: Path, tmp_path: Path) -> None:
    lessons = taught(f"test_efficientnet={cnn}", files, (4, 6), tmp_path, CPU)
    teacher = Teacher("test_efficientnet", str(cnn))
    frame = cv2.cvtColor(cv2.resize(cv2.imread(str(files[2])), (6 * 32, 4 * 32)), cv2.COLOR_BGR2RGB)
    with torch.inference_mode():
        truth = teacher(torch.from_numpy(frame)[None])
    whole = lessons.cut(torch.tensor([2]), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), (4, 6))[0]
    said = whole * lessons.std[:, None, None] + lessons.mean[:, None, None]
    assert torch.allclose(said, truth, atol=2e-2, rtol=2e-2)  # kept as float16

    left_half = lessons.cut(torch.tensor([2]), torch.tensor([[0.0, 0.0, 0.5, 1.0]]), (4, 3))[0]
    assert torch.allclose(left_half, whole[:, :, :3], atol=1e-4)
    mirrored = lessons.cut(torch.tensor([2]), torch.tensor([[1.0, 0.0, 0.0, 1.0]]), (4, 6))[0]
    assert torch.allclose(mirrored, whole.flip(2), atol=1e-4)


def test_lessons_are_standardised_and_kept(files: list[Path], cnn: Path, tmp_path: Path) -> None:
    spec = f"test_efficientnet={cnn}"
    lessons = taught(spec, files, (4, 6), tmp_path, CPU)
    place = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    maps = lessons.cut(torch.arange(4), place, (4, 6))
    assert maps.mean((0, 2, 3)).abs().max() < 0.01
    assert (maps.std((0, 2, 3), correction=0) - 1).abs().max() < 0.02
    kept = next(tmp_path.glob("*.f16"))
    before = kept.stat().st_mtime_ns
    taught(spec, files, (4, 6), tmp_path, CPU)
    assert kept.stat().st_mtime_ns == before
    taught(spec, files[:3], (4, 6), tmp_path, CPU)  # other frames are another file
    assert len(list(tmp_path.glob("*.f16"))) == 2


def test_lessons_of_other_frames_are_another_file_whatever_the_teachers_name(
    files: list[Path], cnn: Path, tmp_path: Path
) -> None:
    spec = f"test_efficientnet.r160_in1k={cnn}"  # NAME.TAG, as timm calls its weights
    assert len(taught(spec, files, (4, 6), tmp_path, CPU).grids) == 4
    assert len(taught(spec, files[:3], (4, 6), tmp_path, CPU).grids) == 3


def test_a_vit_teaches_too(files: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    lessons = taught(f"test_vit={tmp_path / 'vit.safetensors'}", files, (10, 10), tmp_path, CPU)
    assert lessons.grids[0].tolist() == [10, 15] and lessons.features.shape[1] == 64


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "deit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_a_file_as_the_hub_has_it_teaches(name: str, tmp_path: Path) -> None:
    """With its classifier, and under the names of the whole model: stages.0, not stages_0."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "all.safetensors")
    teacher = Teacher(name, str(tmp_path / "all.safetensors"))
    image = torch.randint(0, 255, (1, 7 * teacher.stride, 9 * teacher.stride, 3), dtype=torch.uint8)
    said = teacher(image)
    assert said.shape[1:] == (7, 9)
    if not teacher.is_vit:
        truth = model.forward_features(teacher.normalize(image.permute(0, 3, 1, 2).float()))[0]
        assert torch.allclose(said[-len(truth) :], truth, atol=1e-3)


def test_a_vit_teaches_with_weights_of_another_size(tmp_path: Path) -> None:
    for size, refused in ((96, False), (80, False), (96, True)):
        model = timm.create_model("test_vit", img_size=size, num_classes=0)
        state = {key: value for key, value in model.state_dict().items() if not (refused and key == "cls_token")}
        save_file(state, tmp_path / "vit.safetensors")
        if refused:
            with pytest.raises(ValueError, match="does not fit this Vision Transformer: it lacks 'cls_token'"):
                Teacher("test_vit", str(tmp_path / "vit.safetensors"))
        else:
            Teacher("test_vit", str(tmp_path / "vit.safetensors"))


def test_what_has_no_feature_map_at_any_size_can_not_teach() -> None:
    for name in ("swin_tiny_patch4_window7_224", "mixer_s32_224"):
        with pytest.raises(ValueError, match="expected a CNN or a plain Vision Transformer"):
            Teacher(name, "nowhere.safetensors")


def test_frames_of_one_name_and_size_are_told_apart(tmp_path: Path) -> None:
    """Of an image that is not packed, the size says nothing: two drives may share a folder of lessons."""
    for drive in (0, 1):
        (tmp_path / str(drive)).mkdir()
        cv2.imwrite(str(tmp_path / str(drive) / "0001.bmp"), np.full((24, 32, 3), 90 + drive, np.uint8))
    first, second = (identity(tmp_path / str(drive) / "0001.bmp") for drive in (0, 1))
    assert first[:2] == second[:2] and first != second


def test_an_unknown_teacher_is_refused(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model of timm"):
        taught("test_vot", files, (4, 6), tmp_path, CPU)


def test_a_teacher_that_does_not_match_its_weights_is_refused(files: list[Path], cnn: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        taught(f"tf_efficientnet_lite0={cnn}", files, (4, 6), tmp_path, CPU)
    with pytest.raises(FileNotFoundError, match="no weight file"):
        taught("test_efficientnet=nowhere.pth", files, (4, 6), tmp_path, CPU)


# Distillation


def test_distillation_learns_from_two_teachers(files: list[Path], cnn: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = f"test_efficientnet={cnn}"
    method = Distil(Tokens(VIT, HW), DistilConfig(teachers=(spec, spec)), files, tmp_path, CPU)
    views = some_views(files)
    assert set(method.losses(views, torch.Generator())) == {"0_test_efficientnet", "1_test_efficientnet"}
    before, after = learns(method, views)
    assert after < 0.8 * before
    rows = method.eval().pictures(views, torch.Generator())
    assert rows[0].titles[1] == "test_efficientnet, teacher"
    assert {image.shape for row in rows for image in row.images} == {(*HW, 3)}


def test_distillation_asks_for_a_teacher(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        Distil(Tokens(VIT, HW), DistilConfig(), files, tmp_path, CPU)


# Masked completion


@pytest.mark.parametrize("make", [random_mask, block_mask])
def test_masks_hide_as_many_as_asked(make: object) -> None:
    order = make(3, (6, 8), 36, torch.Generator().manual_seed(0))  # type: ignore[operator]
    assert order.shape == (3, 48)
    assert all(sorted(row) == list(range(48)) for row in order.tolist())
    again = make(3, (6, 8), 36, torch.Generator().manual_seed(0))  # type: ignore[operator]
    assert (order == again).all()


def test_blocks_are_more_connected_than_single_patches() -> None:
    def edges(order: torch.Tensor) -> int:
        hidden = torch.zeros(len(order), 96).scatter(1, order[:, 48:], 1.0).view(-1, 8, 12)
        return int((hidden[:, 1:] != hidden[:, :-1]).sum() + (hidden[:, :, 1:] != hidden[:, :, :-1]).sum())

    draw = torch.Generator().manual_seed(0)
    assert edges(block_mask(8, (8, 12), 48, draw)) < 0.7 * edges(random_mask(8, (8, 12), 48, draw))


def test_the_encoder_sees_the_visible_patches_only(files: list[Path]) -> None:
    """What is hidden may change without any effect on what the encoder says."""
    torch.manual_seed(0)
    method = Mae(Tokens(VIT, HW), MaeConfig()).eval()
    image = some_views(files).image.permute(0, 3, 1, 2).float()
    seen = torch.tensor([[0, 5, 9]]).expand(4, 3)
    other = image.clone()
    other[:, :, 48:, 48:] = 0  # row 3, column 3 on: patches 21 to 23
    with torch.inference_mode():
        assert torch.equal(method.encode(image, seen), method.encode(other, seen))
        every = torch.arange(24)[None].expand(4, 24)
        full = method.tokens(image).flatten(2).transpose(1, 2)
        assert torch.allclose(method.encode(image, every), full, atol=1e-5)


def test_completion_learns_and_its_pictures_keep_the_visible(files: list[Path]) -> None:
    torch.manual_seed(0)
    method = Mae(Tokens(VIT, HW), MaeConfig(hidden=0.5, width=32, depth=1))
    views = some_views(files)
    before, after = learns(method, views, 20)
    assert after < 0.95 * before
    row = method.eval().pictures(views, torch.Generator().manual_seed(0))[0]
    visible, completed, frame = (image.astype(int) for image in row.images)
    shown = (np.abs(visible - frame).max(-1) <= 1).reshape(4, 16, 6, 16).all((1, 3))
    assert 10 <= shown.sum() <= 14
    assert (np.abs(completed - frame).max(-1) <= 1).reshape(4, 16, 6, 16).all((1, 3))[shown].all()


def test_a_share_that_hides_all_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        MaeConfig(hidden=1.0)


# Colourisation


def test_every_colour_lies_in_a_square_of_the_gamut() -> None:
    colours = gamut()
    some = np.random.default_rng(0).integers(0, 256, (500, 1, 3)).astype(np.uint8)
    ab = lab_of(some)[:, :, 1:]  # (500, 1, 2)
    off = np.abs(ab - colours[None]).max(-1).min(1)
    assert np.median(off) <= 5 and off.max() <= 7.5  # the cube is sampled in steps of 5
    assert [0.0, 0.0] in colours.tolist() and 240 <= len(colours) <= 313


def test_the_prior_counts_the_nearest_colours(files: list[Path]) -> None:
    colours = gamut()
    prior = prior_of(files, colours)
    assert prior.sum() == pytest.approx(1)
    sky = lab_of(np.array([[[130, 190, 240]]], np.uint8))[0, 0, 1:]
    nearest = np.argsort(((colours - sky) ** 2).sum(1))[:4]
    assert prior[nearest].sum() > 0.25


def test_targets_are_soft_over_the_nearest_colours(files: list[Path]) -> None:
    method = Colour(Tokens(VIT, HW), ColourConfig(), files)
    ab = torch.tensor([[[[12.0, -7.0]]]])
    near, share = method.target(ab)
    distance = (method.colours - ab[0, 0, 0]).square().sum(1).sqrt()
    truth = distance.argsort()[:5]
    assert set(near[0, 0, 0].tolist()) == set(truth.tolist())
    weights = torch.exp(-(distance[truth] ** 2) / 50)
    assert torch.allclose(share[0, 0, 0].sort(descending=True)[0], weights / weights.sum(), atol=1e-5)


def test_lightness_alone_goes_in(files: list[Path]) -> None:
    method = Colour(Tokens(VIT, HW), ColourConfig(), files)
    views = some_views(files)
    grey, ab = method.split(views)
    assert torch.equal(grey[:, 0], grey[:, 2])
    lab = lab_of(views.image[0].numpy())
    assert torch.allclose(grey[0, 0], torch.from_numpy(lab[..., 0]) * 2.55)
    mean = F.avg_pool2d(torch.from_numpy(lab[..., 1]).view(1, 1, *HW), 8)[0, 0]
    assert torch.allclose(ab[0, ..., 0], mean, atol=1e-4)


def test_colourisation_learns(files: list[Path]) -> None:
    torch.manual_seed(0)
    method = Colour(Tokens(VIT, HW), ColourConfig(), files)
    before, after = learns(method, some_views(files), 15)
    assert after < 0.7 * before
    with torch.inference_mode():
        rows = method.eval().pictures(some_views(files), torch.Generator())
    assert rows[0].titles == ("lightness", "colourised", "frame")


def test_trying_a_teacher_out_leaves_its_norms_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **how: make(*args, **how | {"pretrained": False}))
    state = Teacher("test_efficientnet", None).state_dict()  # as it comes from the hub: nothing is loaded afterwards
    seen = [value for name, value in state.items() if name.endswith(("running_mean", "num_batches_tracked"))]
    assert seen and not any(value.any() for value in seen)
