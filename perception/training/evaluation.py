"""Evaluation in the middle of training: the averaged weights on the val split of every dataset."""

from __future__ import annotations

from typing import Any

from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.model import Model
from perception.network.network import Network
from perception.training.checkpoint import TorchEngine, metadata
from perception.training.dataset import Mixture
from perception.training.optim import Ema

__all__ = ["evaluate_network"]


def evaluate_network(network: Network, ema: Ema, mixture: Mixture, limit: int, meta: dict[str, Any]) -> dict[str, Any]:
    """{dataset name: figures} of the averaged weights.

    Datasets without a val split, and those that share no task with the network's heads, are left out.
    """
    averaged = Network(network.config)
    averaged.load_state_dict({name: value.cpu() for name, value in ema.state.items()})
    model = Model(TorchEngine(averaged, metadata(averaged, meta)), SCORE_THRESHOLD)
    select = Selection(split="val", limit=limit or None, own_space=mixture.own_labels)
    out = {}
    for folder, labels in zip(mixture.folders, mixture.labels, strict=True):
        shared = set(labels.masks) & set(network.masks) or (
            network.boxes is not None and labels.boxes and labels.boxes.has_classes
        )
        if shared and (folder / "images" / "val").is_dir():
            out[labels.name] = evaluate(model, folder, select)
    return out
