"""Evaluation in the middle of training: the averaged weights on the val split of every dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception.evaluation.figures import NothingToCompare, Selection, evaluate
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.layout import read_layout
from perception.model import Model
from perception.network.network import Network
from perception.training.checkpoint import TorchEngine, metadata
from perception.training.dataset import Mixture
from perception.training.optim import Ema

__all__ = ["evaluate_network", "require_sound_val"]


def require_sound_val(folder: Path, own_space: bool = False) -> None:
    """Raise ValueError if the val split of a dataset, if it has one, can not be evaluated on: empty, or broken."""
    if (folder / "images" / "val").is_dir():
        read_layout(folder, "val", own_space)


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
    for folder, name in zip(mixture.folders, mixture.names, strict=True):
        if (folder / "images" / "val").is_dir():
            try:
                out[name] = evaluate(model, folder, select) | {"dataset": name}
            except NothingToCompare as error:  # no reason to end a run
                print(f"not evaluated: {error}")
    return out
