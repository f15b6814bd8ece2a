"""Batch norm over the batches of several processes, as if they were one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
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
    losses is what is minimised. Sums are float64, so that large means do not cancel small variances away. The passes
    over the maps are torch's own kernels: elementwise formulas take several times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Sum
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # with weight and bias, for only then it keeps the statistics of a bf16 map in float32
        _, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        mean, var = mean.double(), inverse.double().pow(-2) - eps
        own_n = torch.tensor([x.numel() / x.shape[1]], dtype=torch.float64, device=x.device)
        sums = total(torch.cat([mean * own_n, (var + mean.square()) * own_n, own_n]))
        n = sums[-1]
        mean, square = (sums[:-1] / n).chunk(2)
        mean, var = (value.to(weight.dtype) for value in (mean, (square - mean.square()).clamp(min=0)))
        ctx.save_for_backward(x, weight, mean, var)
        ctx.n, ctx.eps, ctx.total = n, eps, total
        ctx.mark_non_differentiable(mean, var, n)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        scaled, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight, mean, var, mean, inverse, False, ctx.eps, (True, True, True)
        )  # as if mean and variance were constants
        own = torch.cat([by_bias, by_weight])
        mean_grad, mean_product = (ctx.total(own.double()) / ctx.n).to(own.dtype).chunk(2)
        scale = -weight * inverse
        through = F.batch_norm(x, mean, var, scale * mean_product, scale * mean_grad, eps=ctx.eps)
        return scaled.add_(through), by_weight, by_bias, None, None
