"""The set-valued losses and the assignment against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from perception.network.boxes import RawBoxes, pairwise_iou
from perception.training.assign import assign
from perception.training.losses import (
    BoxTargets,
    box_loss,
    mask_loss,
    ruled_out_by_masks,
    set_cross_entropy,
    set_log_probabilities,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_set_cross_entropy_is_minus_log_of_the_summed_probability() -> None:
    logits = torch.randn(200, 7, generator=generator()) * 5
    member = torch.rand(200, 7, generator=generator(1)) < 0.4
    found = set_cross_entropy(logits, member)
    for z, s, value in zip(logits.double(), member, found, strict=True):
        p = z.softmax(0)[s].sum() if s.any() else torch.tensor(1.0)
        assert float(value) == pytest.approx(-math.log(float(p)), abs=2e-5)


def test_sets_of_one_class_are_the_ordinary_cross_entropy() -> None:
    logits, target = torch.randn(50, 5, generator=generator()), torch.randint(0, 5, (50,), generator=generator(1))
    found = set_cross_entropy(logits, F.one_hot(target, 5).bool())
    torch.testing.assert_close(found, F.cross_entropy(logits, target, reduction="none"))


def test_gradients_are_finite_for_empty_and_full_sets_and_huge_logits() -> None:
    logits = (torch.randn(3, 5, generator=generator()) * 1e3).requires_grad_()
    member = torch.tensor([[False] * 5, [True] * 5, [True] + [False] * 4])
    set_cross_entropy(logits, member).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad[:2].abs().max() == 0, "nothing is asked, nothing is learned"


def test_noisy_or_of_a_set() -> None:
    logits = torch.randn(100, 6, generator=generator()) * 3
    member = torch.rand(100, 6, generator=generator(1)) < 0.5
    log_p, log_absent = set_log_probabilities(logits, member)
    absent = torch.where(member, 1 - logits.double().sigmoid(), 1.0).prod(-1)
    torch.testing.assert_close(log_absent.double().exp(), absent, atol=1e-5, rtol=1e-4)
    some = member.any(-1)
    torch.testing.assert_close(log_p.double().exp()[some], 1 - absent[some], atol=1e-5, rtol=1e-3)


def test_mask_loss_ignores_unlabelled_pixels_and_weighs_by_the_lightest_class() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=generator())
    tables = torch.zeros(2, 256, 3, dtype=torch.bool)
    tables[:, 0, 0] = tables[:, 1, 2] = tables[:, 2, 1] = tables[:, 2, 2] = True
    labels = torch.full((2, 16, 16), 255, dtype=torch.uint8)
    labels[0, :8] = 1  # class 2, weight 3
    labels[0, 8:] = 2  # class 1 or 2, weight 1
    weights = torch.tensor([1.0, 1.0, 3.0])
    loss, weight = mask_loss(logits, labels, tables, weights)
    assert float(weight[0]) == 32 * 3 + 32 * 1 and float(weight[1]) == 0 and float(loss[1]) == 0
    up = F.interpolate(logits, size=(8, 8), mode="bilinear")[0].softmax(0)
    expected = -3 * up[2, :4].log().sum() - (up[1] + up[2])[4:].log().sum()
    assert float(loss[0]) == pytest.approx(float(expected), rel=1e-4)


def test_label_smoothing_with_sets_of_one_class_is_torchs() -> None:
    logits, target = torch.randn(2, 5, 4, 4, generator=generator()), torch.randint(0, 5, (2, 16, 16))
    tables = torch.zeros(2, 256, 5, dtype=torch.bool)
    tables[:, range(5), range(5)] = True
    loss, weight = mask_loss(logits, target.to(torch.uint8), tables, torch.ones(5), smoothing=0.1)
    up = F.interpolate(logits, size=(8, 8), mode="bilinear")
    expected = F.cross_entropy(up, target[:, 1::2, 1::2], reduction="none", label_smoothing=0.1).flatten(1).sum(1)
    torch.testing.assert_close(loss, expected)
    assert weight.tolist() == [64.0, 64.0]


def raw_boxes(B: int = 2, C: int = 3, seed: int = 0) -> RawBoxes:
    y, x = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    points = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * 8
    reach = torch.rand(B, 48, 4, generator=generator(seed)) * 20 + 1
    boxes = torch.cat([points - reach[..., :2], points + reach[..., 2:]], -1)
    return RawBoxes(torch.randn(B, 48, C, generator=generator(seed + 1)), boxes, points)


def test_pairwise_iou_is_that_of_torchvision() -> None:
    a, b = raw_boxes(seed=3).boxes[:, :9], raw_boxes(seed=4).boxes
    expected = torch.stack([box_iou(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(pairwise_iou(a, b), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top_k", [1, 4])
def test_assignment_against_brute_force(top_k: int) -> None:
    raw = raw_boxes()
    boxes = torch.tensor([[[3.0, 3, 30, 30], [20, 10, 60, 40]], [[40, 20, 44, 23], [0, 0, 0, 0]]])
    members = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]).bool()
    positive, index, score = assign(raw, boxes, members, top_k)
    for b in range(2):
        wanted: dict[int, list[tuple[float, int, float]]] = {}
        for m in range(2):
            if not members[b, m].any():
                continue
            iou = box_iou(boxes[b, m : m + 1], raw.boxes[b])[0]
            p = 1 - (1 - raw.logits[b].sigmoid())[:, members[b, m]].prod(1)
            centre, half = (boxes[b, m, :2] + boxes[b, m, 2:]) / 2, (boxes[b, m, 2:] - boxes[b, m, :2]) / 2
            near = [a for a in range(48) if ((raw.points[a] - centre).abs() < half.clamp(min=6)).all()]
            best = sorted(near, key=lambda a: -float(p[a] ** 0.5 * iou[a] ** 6))[:top_k]
            for a in best:
                wanted.setdefault(a, []).append((float(iou[a]), m, float(p[a] ** 0.5 * iou[a] ** 6)))
        assert set(wanted) == set(positive[b].nonzero().flatten().tolist())
        owner = {a: max(rivals) for a, rivals in wanted.items()}
        for a, (_, m, aligned) in owner.items():
            assert int(index[b, a]) == m
            same = [v for v in owner.values() if v[1] == m]
            expected = aligned / max(v[2] for v in same) * max(v[0] for v in same)
            assert float(score[b, a]) == pytest.approx(expected, abs=1e-4)


def test_assignment_is_that_of_float32_under_autocast() -> None:
    raw = raw_boxes()
    boxes = torch.tensor([[[3.0, 3, 30, 30], [20, 10, 60, 40]], [[40, 20, 44, 23], [0, 0, 0, 0]]])
    members = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]).bool()
    expected = assign(raw, boxes, members, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = assign(raw, boxes, members, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_boxes_at_all_is_an_ordinary_batch() -> None:
    raw = raw_boxes()
    none = BoxTargets(torch.zeros(2, 1, 4), torch.zeros(2, 1, 3).bool(), torch.ones(2, 3).bool(), torch.zeros(2, 0, 4))
    nowhere = torch.zeros(2, 48, 3, dtype=torch.bool)
    classify, measure, found = box_loss(raw, none, 1, nowhere)
    p = raw.logits.sigmoid()
    expected = (0.75 * p**2 * -(1 - p).log()).sum((1, 2))
    torch.testing.assert_close(classify, expected, rtol=1e-4, atol=1e-4)
    assert measure.abs().sum() == 0 and float(found) == 0.0


def gradient(targets: BoxTargets, ruled_out: torch.Tensor | None = None) -> torch.Tensor:
    """Of the classification loss by the logits: where it is 0, nothing is learned."""
    raw = raw_boxes(B=1)
    logits = (raw.logits - 6).requires_grad_()  # nothing is believed yet
    nowhere = torch.zeros(1, 48, 3, dtype=torch.bool)
    raw = RawBoxes(logits, raw.boxes, raw.points)
    box_loss(raw, targets, 1, nowhere if ruled_out is None else ruled_out)[0].sum().backward()
    assert logits.grad is not None
    return logits.grad[0]


def test_classes_that_are_not_annotated_give_no_negatives() -> None:
    exhaustive = torch.tensor([[True, False, True]])
    grad = gradient(BoxTargets(torch.zeros(1, 1, 4), torch.zeros(1, 1, 3).bool(), exhaustive, torch.zeros(1, 0, 4)))
    assert grad[:, 1].abs().sum() == 0 and (grad[:, [0, 2]] > 0).all()


def test_ignore_regions_give_no_negatives() -> None:
    ignore = torch.tensor([[[0.0, 0, 32, 48]]])
    everything = torch.ones(1, 3).bool()
    grad = gradient(BoxTargets(torch.zeros(1, 1, 4), torch.zeros(1, 1, 3).bool(), everything, ignore))
    left = raw_boxes().points[:, 0] < 32
    assert grad[left].abs().sum() == 0 and (grad[~left] > 0).all()


def test_one_object_keeps_one_detection_even_of_a_class_that_is_not_exhaustive() -> None:
    box, member = torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[[False, True, False]]])
    grad = gradient(BoxTargets(box, member, torch.zeros(1, 3).bool(), torch.zeros(1, 0, 4)))
    points = raw_boxes().points
    inside = ((points > 8) & (points < 40)).all(1)
    rises = grad[:, 1] < 0
    assert int(rises.sum()) == 1 and inside[rises].all()
    assert (grad[inside & ~rises, 1] > 0).all() and grad[~inside].abs().sum() == 0


def test_a_set_label_leaves_the_choice_within_the_set_open() -> None:
    box, member = torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[[True, True, False]]])
    grad = gradient(BoxTargets(box, member, torch.ones(1, 3).bool(), torch.zeros(1, 0, 4)))
    positive = grad[:, :2].sum(1).argmin()
    assert (grad[positive, :2] < 0).all() and grad[positive, 2] > 0


def test_masks_rule_out_boxes() -> None:
    labels = torch.full((1, 48, 64), 255, dtype=torch.uint8)
    labels[:, :, :32] = 0
    tables = torch.zeros(1, 256, 4, dtype=torch.bool)
    tables[0, 0, [1, 3]] = True  # label 0 is scene class 1 or 3
    points, as_scene = raw_boxes().points, torch.tensor([3, 2, 0])
    out = ruled_out_by_masks(labels, tables, points, as_scene)[0].numpy()
    left = points[:, 0].numpy() < 32
    np.testing.assert_array_equal(out[left], np.tile([False, True, True], (left.sum(), 1)))
    assert not out[~left].any()
