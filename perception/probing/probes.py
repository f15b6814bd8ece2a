"""Two ways to read segmentation from frozen features: a linear classifier, and nearest neighbours.

Legend: B = batch, D = width of the transformer, h, w = its grid, H, W = the model's input, C = classes, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.labels import IGNORE
from perception.network.masks import class_map
from perception.probing.bank import CELLS, Bank

__all__ = ["linear_probe", "neighbour_probe"]

EPOCHS, BATCH, LR = 20, 16, 3e-3
FEWEST_STEPS = 400
KEYS = 20_000  # patches of the bank that are searched
NEIGHBOURS = 20
SHARPNESS = 20.0  # of the vote's weights exp(s * cosine)


def linear_probe(bank: Bank, hw: tuple[int, int], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Train a 1x1 convolution on the bank; the result takes (B, D, h, w) to (B, H, W) class ids.

    Its logits are enlarged bilinearly before the loss, as they are before the answer. AdamW, cosine to 0.
    Raises ValueError if no image has a label.
    """
    labelled = (bank.labels != IGNORE).flatten(1).any(1).nonzero()[:, 0]  # a batch without labels would teach nan
    if not len(labelled):
        raise ValueError(f"nothing to learn from: no mask of {bank.head!r} has a label in the train split")
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(bank.features.shape[1], len(bank.classes), 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    steps = max(FEWEST_STEPS, EPOCHS * len(bank.features) // BATCH)
    optimizer = torch.optim.AdamW(layer.parameters(), LR, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        some = labelled[torch.randint(len(labelled), (BATCH,), generator=generator)]
        logits = F.interpolate(layer(bank.features[some]), scale_factor=CELLS, mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, bank.labels[some], ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return lambda features: class_map(layer(features), hw)


def neighbour_probe(bank: Bank, hw: tuple[int, int], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Nothing is trained: a patch is what the K patches of the bank that are most like it were, by cosine.

    Each neighbour gives the shares of the classes in its patch, weighted by exp(20 cosine).
    """
    C = len(bank.classes)
    known = bank.labels != IGNORE
    one_hot = F.one_hot(bank.labels.where(known, 0), C).float() * known[..., None]
    shares = F.avg_pool2d(one_hot.permute(0, 3, 1, 2), CELLS).permute(0, 2, 3, 1).reshape(-1, C)
    keys = F.normalize(bank.features.permute(0, 2, 3, 1).reshape(len(shares), -1), dim=1)
    labelled = (shares.sum(1) > 0).nonzero()[:, 0]
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))[:KEYS]
    keys, shares = keys[labelled[order]], shares[labelled[order]]

    def read(features: Tensor) -> Tensor:
        B, _, h, w = features.shape
        queries = F.normalize(features.permute(0, 2, 3, 1).reshape(B * h * w, -1), dim=1)
        cosine, near = (queries @ keys.T).topk(min(NEIGHBOURS, len(keys)))
        votes = (torch.exp(SHARPNESS * (cosine - 1))[..., None] * shares[near]).sum(1)
        return class_map(votes.view(B, h, w, C).permute(0, 3, 1, 2), hw)

    return read
