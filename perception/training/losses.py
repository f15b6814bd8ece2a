"""Losses for labels that are sets of classes: -log of the probability summed over the set.

A dataset that only says "vehicle" teaches {car, truck, bus ...} without saying which; a class that a dataset does not
annotate gives no negatives. With sets of one class these are the ordinary losses.

Legend: B = batch, C = classes, h, w = size of the logits, A = anchor points, M = boxes of an image (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss

from perception.network.boxes import RawBoxes
from perception.training.assign import assign

__all__ = ["BoxTargets", "box_loss", "mask_loss", "ruled_out_by_masks", "set_cross_entropy", "set_log_probabilities"]


@dataclass(frozen=True, slots=True)
class BoxTargets:
    """The boxes of a batch, padded to the largest number in it, and to 1 at least."""

    boxes: Tensor  # (B, M, 4) xyxy, model pixels
    members: Tensor  # (B, M, C) bool: the set of classes that the box may be; all False is padding
    exhaustive: Tensor  # (B, C) bool: the classes whose every instance is annotated
    ignore: Tensor  # (B, I, 4) xyxy: regions where nothing is said; zeros are padding


def set_cross_entropy(logits: Tensor, member: Tensor) -> Tensor:
    """Softmax logits (..., C), sets (..., C) bool -> -log of the sum of the set's probabilities; 0 for an empty set."""
    allowed = member | ~member.any(-1, keepdim=True)  # nothing is asked: every class will do
    inside = logits.masked_fill(~allowed, float("-inf"))
    return logits.logsumexp(-1) - inside.logsumexp(-1)


def mask_loss(
    logits: Tensor, labels: Tensor, tables: Tensor, weights: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Of each image: the weighted sum of the set cross-entropy over labelled pixels, and the sum of the weights.

    logits (B, C, h, w) at stride 4; labels (B, H, W) uint8 label ids of its own dataset; tables (B, 256, C) bool
    says what they mean; weights (C,): a pixel weighs what the lightest class of its set weighs. Compared at stride 2:
    thin lines need it finer than the logits, and full size would cost four times as much.
    """
    labels = labels[:, 1::2, 1::2].long()  # (B, H/2, W/2)
    logits = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    member = tables[torch.arange(len(labels))[:, None, None], labels]  # (B, H/2, W/2, C)
    loss = set_cross_entropy(logits.permute(0, 2, 3, 1), member)
    if smoothing:  # arXiv:1512.00567, with a set in the place of the class
        uniform = logits.logsumexp(1) - logits.mean(1)  # cross-entropy against all classes alike, (B, H/2, W/2)
        loss = (1 - smoothing) * loss + smoothing * uniform
    weight = torch.where(member, weights, float("inf")).amin(-1)
    weight = weight.masked_fill(weight.isinf(), 0.0)
    return (loss * weight).flatten(1).sum(1), weight.flatten(1).sum(1)


def set_log_probabilities(logits: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Sigmoid logits (..., C) and sets (..., C) -> log p and log(1 - p) of "at least one of the set" (noisy or)."""
    log_absent = -(F.softplus(logits) * members).sum(-1)  # log of the product of (1 - p_c)
    small = log_absent.clamp(max=-1e-6)
    return torch.log(-torch.expm1(small)), log_absent


def box_loss(raw: RawBoxes, targets: BoxTargets, top_k: int, ruled_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(classification loss (B,), box loss (B,), sum of the target scores ()) of one branch.

    Classification is the varifocal loss (arXiv:2008.13367) over sets; boxes learn by complete IoU (arXiv:1911.08287).
    `top_k` anchor points learn each object: 1 for the one-to-one branch. `ruled_out` (B, A, C) bool adds negatives that
    the masks know of (see `ruled_out_by_masks`). Divide both losses by the sum over the global batch, 1 at least.
    """
    positive, index, score = assign(raw, targets.boxes, targets.members, top_k)  # (B, A) each
    member = targets.members.gather(1, index[..., None].expand(-1, -1, targets.members.shape[2]))  # (B, A, C)
    member = member & positive[..., None]

    log_p, log_absent = set_log_probabilities(raw.logits, member)
    found = score * -(score * log_p + (1 - score) * log_absent)  # (B, A), 0 where not positive
    suspicion = raw.logits.detach().sigmoid().square() * 0.75  # only confident mistakes matter
    absent = suspicion * F.softplus(raw.logits) * ((may_be_negative(raw, targets, positive) | ruled_out) & ~member)
    classify = found.masked_fill(~positive, 0.0).sum(1) + absent.sum((1, 2))

    wanted = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    measure = torch.zeros_like(score)
    measure[positive] = complete_box_iou_loss(raw.boxes[positive], wanted[positive]) * score[positive]
    return classify, measure.sum(1), score.sum()


def may_be_negative(raw: RawBoxes, targets: BoxTargets, positive: Tensor) -> Tensor:
    """(B, A, C) bool: where "this class is not here" is known.

    At a positive point, every class outside the set. Elsewhere, the classes that the dataset annotates in full, but not
    in its ignore regions; and inside an annotated box the classes of that box, so that one object keeps one detection.
    """
    known = targets.exhaustive[:, None, :] & ~within(raw.points, targets.ignore).any(1)[..., None]
    inside = within(raw.points, targets.boxes) & targets.members.any(-1, keepdim=True)  # (B, M, A)
    same_object = torch.einsum("bma,bmc->bac", inside.float(), targets.members.float()) > 0
    return known | same_object | positive[..., None]


def ruled_out_by_masks(labels: Tensor, tables: Tensor, points: Tensor, as_scene: Tensor) -> Tensor:
    """(B, A, C) bool: box classes that can not be at an anchor point, because the scene mask says what is there.

    So a dataset without a single box still teaches what is no traffic sign. labels (B, H, W) uint8; tables (B, 256, S)
    bool over the S scene classes; points (A, 2) xy; as_scene (C,) is the scene class of each box class.
    """
    x, y = points.long().unbind(-1)
    member = tables[torch.arange(len(labels), device=labels.device)[:, None], labels[:, y, x].long()]  # (B, A, S)
    return member.any(-1, keepdim=True) & ~member[..., as_scene]


def within(points: Tensor, boxes: Tensor) -> Tensor:
    """(A, 2) points, (B, M, 4) xyxy boxes -> (B, M, A) bool."""
    low = points > boxes[:, :, None, :2]
    high = points < boxes[:, :, None, 2:]
    return (low & high).all(-1)
