"""A trained network -> a smaller one: the blocks, attention heads and hidden units of its ViT that matter least go.

A head or a hidden unit is judged by what the loss would change, to first order, without it: its weights times their
gradients, added up over all weights that read it, squared and averaged over batches (Molchanov et al.,
arXiv:1906.10771). The units of all blocks compete. A whole block is too much for a first order: each is left out in
turn, and the one that is missed least goes. What is left then takes over, as far as a linear map can, what the removed
heads and hidden units gave: least squares on the activations that were seen (ThiNet, arXiv:1707.06342; He et al.,
arXiv:1707.06168). No weight is trained here.

Legend: H = heads of a block, U = hidden units of its MLP, D = width of the transformer, d = width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from perception.network.blocks import block_shape, keep_units
from perception.network.network import Network
from perception.training.batch import Batch

__all__ = ["Seen", "choose", "drop_block", "look", "mean_loss", "prune", "remove_blocks"]

Loss = Callable[[Batch], Tensor]  # of the network that is pruned, to be made small
HIDDEN_STEP = 32  # a block keeps a multiple of so many hidden units: a width that matrix units like
EVERY = 4  # of so many tokens one is looked at for the least squares
RIDGE = 1e-4  # of the mean square of an activation


@dataclass(frozen=True, slots=True)
class Seen:
    """What batches told of the heads and hidden units of one block."""

    heads: Tensor  # (H,) float32, importance
    hidden: Tensor  # (U,) float32, importance
    attended: Tensor  # (H * d + 1, H * d + 1) float64, sum of products of what the heads gave, and of a constant 1
    activated: Tensor  # (U + 1, U + 1) float64, the same of the hidden units


@torch.no_grad()
def mean_loss(loss: Loss, batches: Sequence[Batch]) -> float:
    """The mean loss of some batches."""
    return sum(float(loss(batch)) for batch in batches) / len(batches)


def remove_blocks(network: Network, count: int, loss: Loss, batches: Sequence[Batch]) -> list[int]:
    """Remove `count` blocks, one after the other that without which the loss is lowest; their numbers, as they went.

    Raises ValueError if there are not more of them than that.
    """
    numbers = list(range(len(blocks_of(network))))
    if not 0 <= count < len(numbers):
        raise ValueError(
            f"the ViT has {len(numbers)} blocks; expected 0 to {len(numbers) - 1} to remove, but got {count}"
        )
    gone = []
    for _ in range(count):
        losses = []
        whole = network.pyramid.tokens.vit.blocks
        for place in range(len(numbers)):
            drop_block(network, place)
            losses.append(mean_loss(loss, batches))
            network.pyramid.tokens.vit.blocks = whole
        least = min(range(len(numbers)), key=losses.__getitem__)
        drop_block(network, least)
        gone.append(numbers.pop(least))
    if gone:
        remember_shape(network)
    return gone


def drop_block(network: Network, place: int) -> None:
    """Leave out one block of the ViT; those after it move up."""
    kept = [block for n, block in enumerate(blocks_of(network)) if n != place]
    network.pyramid.tokens.vit.blocks = nn.Sequential(*kept)


def look(network: Network, loss: Loss, batches: Sequence[Batch]) -> list[Seen]:
    """Judge every head and hidden unit of every block by the loss of these batches, and keep their statistics.

    Raises ValueError for a ViT whose blocks can't have fewer units.
    """
    found = []
    for block in blocks_of(network):
        H, U = block_shape(block)
        inner = H * block.attn.head_dim
        squares = [torch.zeros(n + 1, n + 1, dtype=torch.float64) for n in (inner, U)]
        found.append(Seen(torch.zeros(H), torch.zeros(U), *squares))

    def watch(layer: nn.Module, square: Tensor) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()[:, ::EVERY].flatten(0, 1).float()  # (tokens, n)
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            square.add_(x.T @ x)

        return layer.register_forward_pre_hook(hook)

    blocks = blocks_of(network)
    handles = [watch(b.attn.proj, seen.attended) for b, seen in zip(blocks, found, strict=True)]
    handles += [watch(b.mlp.fc2, seen.activated) for b, seen in zip(blocks, found, strict=True)]
    try:
        for batch in batches:
            weights = [weight for b in blocks for weight in (b.attn.proj.weight, b.mlp.fc2.weight)]
            gradients = torch.autograd.grad(loss(batch), weights)
            changes = [(w.detach() * g).sum(0) for w, g in zip(weights, gradients, strict=True)]  # of each input
            for block, seen, of_heads, of_hidden in zip(blocks, found, changes[::2], changes[1::2], strict=True):
                seen.heads.add_(of_heads.unflatten(0, (-1, block.attn.head_dim)).sum(1) ** 2 / len(batches))
                seen.hidden.add_(of_hidden**2 / len(batches))
    finally:
        for handle in handles:
            handle.remove()
    return found


def choose(scores: Sequence[Tensor], share: float, step: int = 1) -> list[list[int]]:
    """Which units of each block stay if `share` of all units go: those that score highest, whatever their block.

    A block keeps a multiple of `step` units, at least `step`, or all that it has. Raises ValueError unless `share` is
    from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share to remove must be from 0 to below 1, but got {share:g}")
    total = torch.cat(list(scores))
    keep = len(total) - round(share * len(total))
    if keep == len(total):
        return [list(range(len(own))) for own in scores]
    least = total.sort(descending=True).values[max(0, keep - 1)]
    kept = []
    for own in scores:
        count = max(step, round(int((own >= least).sum()) / step) * step)
        best = own.sort(descending=True, stable=True).indices[: min(len(own), count)]
        kept.append(sorted(best.tolist()))
    return kept


@torch.no_grad()
def prune(
    network: Network, seen: Sequence[Seen], heads: Sequence[Sequence[int]], hidden: Sequence[Sequence[int]]
) -> None:
    """Leave only these heads and hidden units in each block, in place, and let them take over what is removed."""
    for block, one, kept_heads, kept_hidden in zip(blocks_of(network), seen, heads, hidden, strict=True):
        d = block.attn.head_dim
        take_over(block.attn.proj, one.attended, [i for h in kept_heads for i in range(h * d, (h + 1) * d)])
        take_over(block.mlp.fc2, one.activated, kept_hidden)
        keep_units(block, kept_heads, kept_hidden)
    remember_shape(network)


def take_over(layer: nn.Linear, square: Tensor, kept: Sequence[int]) -> None:
    """Change a layer so that the inputs in `kept`, and its bias, give what all gave, by least squares; in place.

    `square` (n + 1, n + 1) holds the sums of products of its n inputs and of a constant 1.
    """
    n = layer.in_features
    gone = sorted(set(range(n)) - set(kept))
    if not gone:
        return
    known = [*kept, n] if layer.bias is not None else list(kept)
    within = square[known][:, known]
    ridge = RIDGE * within.diagonal()[: len(kept)].mean().clamp(min=1e-12)
    share = torch.linalg.solve(within + ridge * torch.eye(len(known)).double(), square[known][:, gone])  # (known, gone)
    more = layer.weight[:, gone].double() @ share.T  # (D, known)
    layer.weight[:, list(kept)] += more[:, : len(kept)].to(layer.weight)
    if layer.bias is not None:
        layer.bias.add_(more[:, -1].to(layer.bias))


def blocks_of(network: Network) -> Any:
    """The transformer's blocks, in their order."""
    return network.pyramid.tokens.vit.blocks


def remember_shape(network: Network) -> None:
    """Write into the network's config what its blocks are now."""
    network.config = replace(network.config, blocks=tuple(block_shape(block) for block in blocks_of(network)))
