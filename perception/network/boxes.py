"""Features -> boxes: an anchor-free dense head in two branches, and the decoding that the ONNX graph carries.

As in YOLOv10 (arXiv:2405.14458): the one-to-many branch gives rich supervision in training; the one-to-one branch,
trained beside it, gives one box an object. By measurement the former answers, with duplicates suppressed in the graph,
until the latter has had enough training. Weights are shared over the levels, as in FCOS (arXiv:1904.01355).

Legend: B = batch, C = box classes, A = anchor points of all levels together, K = boxes returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.network.features import Separable
from perception.structures import BranchName

__all__ = ["STRIDES", "BoxHead", "BranchName", "RawBoxes", "decode", "pairwise_iou"]

STRIDES = (8, 16, 32)
DUPLICATE_IOU = 0.6
PRIOR = -math.log((1 - 0.01) / 0.01)  # every class starts at 1 percent, as in RetinaNet, arXiv:1708.02002


@dataclass(frozen=True, slots=True)
class RawBoxes:
    """What one branch says at each anchor point, before any selection."""

    logits: Tensor  # (B, A, C), sigmoid gives the probability of each class
    boxes: Tensor  # (B, A, 4) xyxy, model pixels
    points: Tensor  # (A, 2) xy of the anchor points, model pixels


class Branch(nn.Module):
    """Class logits and box distances of every level, with weights shared over the levels."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        logits, distances = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        self.classify = nn.Sequential(Separable(width, width), Separable(width, width), logits)
        self.measure = nn.Sequential(Separable(width, width), Separable(width, width), distances)
        for layer, bias in ((logits, PRIOR), (distances, 1.0)):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, bias)
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))  # distances of each level, in strides

    def forward(self, levels: list[Tensor]) -> RawBoxes:
        logits, boxes, points = [], [], []
        for level, stride, scale in zip(levels, STRIDES, self.scale, strict=True):
            h, w = level.shape[2:]
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            xy = (torch.stack([x, y], -1).reshape(-1, 2).to(level) + 0.5) * stride  # (h*w, 2)
            ltrb = F.softplus(self.measure(level) * scale).flatten(2).transpose(1, 2).float() * stride  # (B, h*w, 4)
            boxes.append(torch.cat([xy - ltrb[..., :2], xy + ltrb[..., 2:]], -1))
            logits.append(self.classify(level).flatten(2).transpose(1, 2).float())
            points.append(xy)
        return RawBoxes(torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(points))


class BoxHead(nn.Module):
    """[p8, p16, p32] -> {branch: RawBoxes}: both branches in training, else only the one that answers."""

    def __init__(self, width: int, classes: int, answering: BranchName) -> None:
        super().__init__()
        self.one_to_many = Branch(width, classes)
        self.one_to_one = Branch(width, classes)
        self.answering = answering

    def forward(self, levels: list[Tensor]) -> dict[str, RawBoxes]:
        if not self.training:
            return {self.answering: getattr(self, self.answering)(levels)}
        detached = [level.detach() for level in levels]  # only the rich supervision shapes the features
        return {"one_to_one": self.one_to_one(detached), "one_to_many": self.one_to_many(levels)}


def decode(raw: RawBoxes, hw: tuple[int, int], k: int) -> Tensor:
    """The K best anchor points (fewer if there are fewer) -> (B, K, 6): x1, y1, x2, y2 clipped to the input, score,
    class; by falling score.

    A box that overlaps a better one by more than DUPLICATE_IOU, whatever their classes, is the same object: its score
    becomes 0. This is the fast NMS of YOLACT (arXiv:1904.02689): plain tensor operations of fixed shape.
    """
    scores, classes = raw.logits.sigmoid().max(-1)  # (B, A)
    k = min(k, scores.shape[1])
    best, index = scores.topk(k, dim=1)  # (B, K)
    boxes = raw.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    limit = torch.tensor([hw[1], hw[0], hw[1], hw[0]], dtype=boxes.dtype, device=boxes.device)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    overlap = pairwise_iou(boxes, boxes).triu(1).amax(1)  # (B, K) with any better box
    best, order = torch.where(overlap > DUPLICATE_IOU, 0.0, best).topk(k, dim=1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    names = classes.gather(1, index).gather(1, order)
    return torch.cat([boxes, best[..., None], names[..., None].to(boxes.dtype)], -1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, M, 4) and (B, A, 4) xyxy -> (B, M, A) intersection over union; 0 for boxes without area."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)[:, :, None]
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)[:, None]
    return shared / (area_a + area_b - shared).clamp(min=1e-9)
