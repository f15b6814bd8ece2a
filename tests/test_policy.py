"""Policies: named and from files, refused mistakes, the dial, how often each group comes, the border left alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.tensors import PAD_VALUE, tensor_from_frame
from perception.training.augment import Augment, AugmentConfig
from perception.training.policy import GROUPS, OPS, POLICIES, Policy, load_policy, photometric, save_policy

RNG = np.random.default_rng(0)
STREET = cv2.resize(
    RNG.integers(30, 220, (6, 9, 3), np.uint8), (112, 64), interpolation=cv2.INTER_CUBIC
)  # (64, 112, 3)


def only(op: str) -> Policy:
    return Policy(name="one", weights={op: 1.0})


@pytest.mark.parametrize("op", OPS)
def test_an_op_changes_the_picture_reproducibly_and_the_more_the_higher_the_dial(op: str) -> None:
    pipelines = {m: photometric(only(op), m) for m in (0.02, 1.0)}
    change = {m: [] for m in pipelines}
    for m, pipeline in pipelines.items():
        for seed in range(12):
            before = STREET.copy()
            pipeline.set_random_seed(seed)
            out = pipeline(image=before)["image"]
            assert out.shape == STREET.shape and out.dtype == np.uint8
            np.testing.assert_array_equal(before, STREET, err_msg="the input was written to")
            pipeline.set_random_seed(seed)
            np.testing.assert_array_equal(out, pipeline(image=before)["image"])
            change[m].append(np.abs(out.astype(float) - STREET).mean())
    assert np.mean(change[1.0]) > 0.4 and np.mean(change[1.0]) > 1.8 * np.mean(change[0.02])


@pytest.mark.parametrize("hw", [(1, 1), (5, 300), (299, 31)])
def test_ops_survive_odd_sizes(hw: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (*hw, 3), np.uint8)
    for op in OPS:
        if op == "downscale" and min(hw) == 1:
            continue
        assert photometric(only(op), 1.0)(image=image)["image"].shape == image.shape


def test_fog_is_lit_by_the_image_and_hides_what_is_far() -> None:
    for brightness in (60, 200):
        flat = np.tile(np.array([[[0]], [[brightness]]], np.uint8), (32, 112, 3))  # dark and bright lines
        fog = photometric(only("fog"), 1.0)
        contrast, light = [], []
        for seed in range(20):
            fog.set_random_seed(seed)
            out = fog(image=flat)["image"].astype(float)
            lines = np.abs(np.diff(out[..., 1], axis=0)).mean(1)  # (63,) contrast of neighbouring lines
            contrast.append([lines[:16].mean(), lines[48:].mean()])
            light.append(out[:16].max())
        far, near = np.mean(contrast, 0)
        assert far < 0.7 * near
        assert max(light) <= max(brightness, 60) * 1.1


@pytest.mark.parametrize("name", POLICIES)
def test_magnitude_0_is_the_identity(name: str) -> None:
    tensor, box = tensor_from_frame(STREET, (64, 128))
    augment = Augment(AugmentConfig(policy=name, magnitude=0), (64, 128))
    for seed in range(50):
        np.testing.assert_array_equal(augment.recolour(seed, tensor.copy(), box), tensor)


def test_the_grey_border_stays_as_the_live_loop_has_it() -> None:
    tensor, box = tensor_from_frame(STREET, (64, 160))
    augment = Augment(AugmentConfig(policy="driving-2", magnitude=1.0), (64, 160))
    for seed in range(40):
        out = augment.recolour(seed, tensor.copy(), box)
        assert (out[:, : box.left] == PAD_VALUE).all() and (out[:, box.left + box.content_hw[1] :] == PAD_VALUE).all()


def test_groups_come_as_often_as_their_weights_say() -> None:
    policy = Policy(name="mine", weights={"gamma": 0.3, "temperature": 0.2, "dirt": 0.0})
    assert policy.shares() == {"lens": 0.0, "colour": 0.5}
    pipeline = photometric(policy, 1.0)
    changed = 0
    for seed in range(600):
        pipeline.set_random_seed(seed)
        changed += bool((pipeline(image=STREET)["image"] != STREET).any())
    assert 0.43 < changed / 600 < 0.56


def test_named_policies_are_what_they_were() -> None:
    """A version is for good: a change of ops or weights is a new name."""
    assert {name: len(policy.weights) for name, policy in POLICIES.items()} == {"driving-1": 9, "driving-2": 15}
    assert set(POLICIES["driving-2"].weights) == set(OPS) and {op.group for op in OPS.values()} == set(GROUPS)
    shares = {name: {g: round(s, 3) for g, s in policy.shares().items()} for name, policy in POLICIES.items()}
    assert shares["driving-1"] == {"weather": 0.12, "colour": 0.64, "degrade": 0.24}
    assert shares["driving-2"] == {"night": 0.1, "weather": 0.25, "lens": 0.08, "colour": 0.65, "degrade": 0.3}


def test_a_policy_survives_its_file(tmp_path: Path) -> None:
    policy = Policy(name="found", weights={"fog": 0.25, "jitter": 1.0}, magnitude=0.8, crop=0.1, mosaic=0.3)
    save_policy(policy, tmp_path / "policy.json")
    assert load_policy(str(tmp_path / "policy.json")) == policy
    augment = Augment(AugmentConfig(policy=str(tmp_path / "policy.json")), (64, 96))
    assert augment.mosaic == 0.3
    assert Augment(AugmentConfig(policy=str(tmp_path / "policy.json"), mosaic=0.0), (64, 96)).mosaic == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a", "weights": {"hail": 0.1}}', "unknown op 'hail'"),
        ('{"name": "a", "weights": {"fog": -0.1}}', "weight of fog must be a number in 0..1"),
        ('{"name": "a", "weights": {"fog": "often"}}', "weight of fog"),
        ('{"name": "a", "weights": {"fog": NaN}}', "weight of fog"),
        ('{"name": "a", "weights": {"fog": true}}', "weight of fog"),
        ('{"name": "a", "weights": {"fog": 0.6, "rain": 0.6}}', "weather must add up to at most 1, but got 1.2"),
        ('{"name": "a", "weights": {}, "magnitude": 2}', "magnitude must be"),
        ('{"name": "a", "weights": {}, "flip": 0.5}', "expected the keys"),
        ('{"name": "a"}', "expected the keys"),
        ('{"name": "a", "weights": ["fog"]}', "weights an object"),
        ("[1]", "list"),
        ("{", "not JSON"),
    ],
)
def test_broken_policies_are_one_clear_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        load_policy(str(tmp_path / "p.json"))


def test_a_policy_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no policy 'driving-9'; expected driving-1, driving-2, or a JSON file"):
        load_policy("driving-9")


def test_shares_out_of_range_and_old_runs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--augment\.flip must be in 0\.\.1"):
        AugmentConfig(flip=1.5)
    with pytest.raises(ValueError, match="before there were policies"):
        AugmentConfig.from_json({"crop": 0.7, "colour": 0.6})
    saved = json.loads('{"policy": "driving-2", "crop_area": [0.2, 0.9], "mosaic": null}')
    assert AugmentConfig.from_json(saved) == AugmentConfig(policy="driving-2", crop_area=(0.2, 0.9))


def test_mirroring_is_off_unless_asked_for() -> None:
    assert AugmentConfig().flip == 0.0
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255  # dark on the left
    augment = Augment(AugmentConfig(policy="driving-2", crop=0.0), (64, 96))
    for seed in range(30):
        assert augment.reshape(seed, image, np.zeros((0, 4), np.float32), [])[0][0, 0, 0] == 0


def test_workers_can_be_sent_the_pipelines() -> None:
    augment = Augment(AugmentConfig(policy="driving-2", magnitude=1.0), (64, 112))
    copy = pickle.loads(pickle.dumps(augment))
    tensor, box = tensor_from_frame(STREET, (64, 112))
    for seed in range(20):
        np.testing.assert_array_equal(
            augment.recolour(seed, tensor.copy(), box), copy.recolour(seed, tensor.copy(), box)
        )
