"""The losses of several tasks -> one loss, by weights that are given or learned from each task's uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Balance", "gradient_norms", "task_weights"]


class Balance(nn.Module):
    """{task: (B,) losses} -> the loss to train on, ().

    "fixed": the sum of weight * mean loss. "uncertainty" (Kendall et al., arXiv:1705.07115): each task also has a
    learned log variance s, and counts as weight * (exp(-s) * mean loss + s) / 2: what stays noisy is trusted less.
    """

    def __init__(
        self, tasks: Iterable[str], weights: Mapping[str, float], kind: Literal["fixed", "uncertainty"]
    ) -> None:
        super().__init__()
        self.weights = {task: weights.get(task, 1.0) for task in tasks}
        names = list(self.weights) if kind == "uncertainty" else []
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in names})

    def forward(self, parts: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for task, losses in parts.items():
            loss = losses.mean()
            if task in self.log_variance:
                s = self.log_variance[task]
                loss = ((-s).exp() * loss + s) / 2
            total = total.to(loss) + self.weights[task] * loss
        return total

    def parameter_group(self, lr: float) -> dict[str, object]:
        """The optimiser's group of the log variances, in the form of optim.parameter_groups; they do not decay."""
        names = [f"balance.{name}" for name, _ in self.named_parameters()]
        return {"params": list(self.parameters()), "names": names, "lr_scale": 1.0, "lr": lr, "weight_decay": 0.0}

    def to_json(self) -> dict[str, float]:
        """The log variances, exact, for meta.json."""
        return {task: value.item() for task, value in self.log_variance.items()}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, float]) -> None:
        """The inverse of `to_json`."""
        for task, value in self.log_variance.items():
            value.fill_(saved[task])


def task_weights(options: Sequence[str], tasks: Sequence[str]) -> dict[str, float]:
    """("drive=2", ...) -> {"drive": 2.0}; "boxes" speaks for both branches of the box head.

    Raises ValueError for anything but TASK=WEIGHT with a task of this network and a weight of 0 or more.
    """
    known = list(dict.fromkeys("boxes" if task.startswith("boxes") else task for task in tasks))
    out: dict[str, float] = {}
    for option in options:
        task, _, text = option.partition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        if task not in known or not 0 <= weight < float("inf"):
            raise ValueError(f"task weight {option!r}: expected TASK=WEIGHT with TASK one of {', '.join(known)}")
        out |= {name: weight for name in tasks if name == task or (task == "boxes" and name.startswith("boxes"))}
    return out


def gradient_norms(network: nn.Module, parts: Mapping[str, str]) -> dict[str, Tensor]:
    """{name: prefix of parameter names} -> {name: L2 norm of their gradients}; parts without gradients are left out."""
    out = {}
    for name, prefix in parts.items():
        grads = [p.grad for n, p in network.named_parameters() if n.startswith(prefix) and p.grad is not None]
        if grads:
            out[name] = torch.stack(torch._foreach_norm(grads)).norm()
    return out
