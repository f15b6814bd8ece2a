"""Which anchor points learn which object: task-aligned assignment (TOOD, arXiv:2108.07755), for labels that are sets.

Legend: B = batch, C = classes, A = anchor points, M = boxes of an image (padded).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.network.boxes import RawBoxes, pairwise_iou

__all__ = ["assign"]

ALPHA, BETA = 0.5, 6.0  # weight of the score and of the IoU in the alignment, as in TOOD
MIN_SIDE = 12.0  # an object smaller than this, in pixels, is looked for as if it were so large


@torch.no_grad()
def assign(raw: RawBoxes, boxes: Tensor, members: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, M, 4) boxes, (B, M, C) sets -> for each point: positive (B, A) bool, box index (B, A), target score (B, A).

    The `top_k` best aligned points near each object are positive; a point wanted by several objects goes to the one it
    overlaps most. The target score is the alignment, scaled so that an object's best point gets its best IoU.
    """
    A = raw.logits.shape[1]
    assert boxes.shape[1] >= 1, "pad a batch without boxes"
    real = members.any(-1)  # (B, M)
    with torch.autocast(raw.logits.device.type, enabled=False):  # bf16 would tie points that float32 tells apart
        log_absent = torch.einsum("bmc,bac->bma", members.float(), F.softplus(raw.logits))
    p = -torch.expm1(-log_absent)  # noisy or, (B, M, A)
    iou = pairwise_iou(boxes, raw.boxes)  # (B, M, A)

    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    reach = half.clamp(min=MIN_SIDE / 2)
    near = ((raw.points - centre[:, :, None]).abs() < reach[:, :, None]).all(-1) & real[..., None]  # (B, M, A)
    aligned = (p.pow(ALPHA) * iou.pow(BETA)).masked_fill(~near, -1.0)

    best = aligned.topk(min(top_k, A), dim=2).indices
    chosen = torch.zeros_like(near).scatter_(2, best, True) & near
    rival = iou.masked_fill(~chosen, -1.0)
    index = rival.argmax(1)  # (B, A)
    positive = chosen.any(1)
    chosen = chosen & (F.one_hot(index, boxes.shape[1]).transpose(1, 2) > 0)

    aligned = aligned.masked_fill(~chosen, 0.0)
    scale = iou.masked_fill(~chosen, 0.0).amax(2, keepdim=True) / aligned.amax(2, keepdim=True).clamp(min=1e-12)
    score = (aligned * scale).amax(1).clamp(0.0, 1.0)  # (B, A)
    return positive, index, score
