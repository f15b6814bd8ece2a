"""Batch norm over the batches of several processes, as if they were one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

__all__ = ["SyncNorm", "synchronise_norms"]

Sum = Callable[[Tensor], Tensor]  # the sum over all processes


def synchronise_norms(network: nn.Module, total: Sum) -> None:
    """Replace each batch norm of `network` that is in training mode by a synchronised one with the same state dict.

    Frozen ones, which are in evaluation mode, stay: their statistics are not those of any batch.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child.training:
                on_gpu = child.running_mean is not None and child.running_mean.is_cuda
                # torch's own is for GPUs only, and its converter would lose the activation inside timm's norms
                setattr(parent, name, convert_sync_batchnorm(child) if on_gpu else SyncNorm(child, total))


class SyncNorm(nn.BatchNorm2d):
    """An nn.BatchNorm2d, or timm's with an activation in it, whose statistics are those of all processes together."""

    def __init__(self, norm: nn.BatchNorm2d, total: Sum) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        assert norm.affine and norm.track_running_stats and norm.momentum is not None
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.after = nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)))
        self.total = total
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        if not self.training:
            return self.after(super().forward(input))
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        out, mean, var, n = _Normalise.apply(input, self.weight, self.bias, self.eps, self.total)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)  # like torch: unbiased in the running average
            self.num_batches_tracked.add_(1)
        return self.after(out)


class _Normalise(torch.autograd.Function):
    """(x, weight, bias) -> (y, mean (C,), biased variance (C,), number of values ()), over all processes.

    The gradient is the textbook one with its two sums taken over all processes (arXiv:1502.03167): the mean of their
    losses is what is minimised. Sums are float64, so that large means do not cancel small variances away.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Sum
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _wide(x)
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        own_n = torch.tensor([x.numel() / x.shape[1]], dtype=torch.float64, device=x.device)
        mean, var = mean.double(), var.double()
        sums = total(torch.cat([mean * own_n, (var + mean.square()) * own_n, own_n]))
        n = sums[-1]
        mean, square = (sums[:-1] / n).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        inverse = (var + eps).rsqrt()
        scale = (weight * inverse).to(wide.dtype)
        shift = (bias - mean * scale).to(wide.dtype)
        mean, var, inverse = (value.to(wide.dtype) for value in (mean, var, inverse))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.n, ctx.total = n, total
        y = torch.addcmul(_channels(shift), wide, _channels(scale)).to(x.dtype)
        ctx.mark_non_differentiable(mean, var, n)
        return y, mean, var, n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = _wide(grads[0])
        normal = (_wide(x) - _channels(mean)) * _channels(inverse)
        own = torch.cat([grad.sum((0, 2, 3)), (grad * normal).sum((0, 2, 3))])
        by_bias, by_weight = own.chunk(2)
        both = (ctx.total(own.double()) / ctx.n).to(grad.dtype)
        mean_grad, mean_product = both.chunk(2)
        by_x = (grad - _channels(mean_grad) - normal * _channels(mean_product)) * _channels(weight * inverse)
        return by_x.to(x.dtype), by_weight, by_bias, None, None


def _wide(x: Tensor) -> Tensor:
    """float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _channels(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return values[None, :, None, None]
