"""Evaluation in the middle of training: the averaged weights on the val split of every dataset."""

from __future__ import annotations

from typing import Any

from perception.evaluation.figures import NothingToCompare, Selection, evaluate
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.model import Model
from perception.network.network import Network
from perception.training.checkpoint import TorchEngine, metadata
from perception.training.dataset import Mixture
from perception.training.optim import Ema

__all__ = ["evaluate_network"]


def evaluate_network(network: Network, ema: Ema, mixture: Mixture, limit: int, meta: dict[str, Any]) -> dict[str, Any]:
    """{dataset name: figures} of the averaged weights.

    Datasets without a val split are left out, and so, with a word, are those whose val split has no label for any of
    the network's heads.
    """
    averaged = Network(network.config)
    averaged.load_state_dict({name: value.cpu() for name, value in ema.state.items()})
    model = Model(TorchEngine(averaged, metadata(averaged, meta)), SCORE_THRESHOLD)
    select = Selection(split="val", limit=limit or None, own_space=mixture.own_labels)
    out = {}
    for folder, labels in zip(mixture.folders, mixture.labels, strict=True):
        if (folder / "images" / "val").is_dir():
            try:
                out[labels.name] = evaluate(model, folder, select)
            except NothingToCompare as error:  # no reason to end a run
                print(f"not evaluated: {error}")
    return out
