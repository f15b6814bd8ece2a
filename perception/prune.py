"""Make a trained network smaller: remove the blocks, attention heads and hidden units of its ViT that matter least.

    python -m perception.prune RUN|FILE.onnx --data DIR [DIR ...] --mlp 0.5 --out PRUNED
    python -m perception.train --init PRUNED --data DIR [DIR ...] --out RECOVERED

What comes out is a run: perception.evaluate and perception.export take it, and perception.train --init goes on from it.
A short training recovers most of what pruning costs; give it the data that the network was trained on.
How units are judged: perception/training/pruning.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import tyro
from torch import Tensor

from perception.cli import run as run_cli
from perception.layout import split_weight
from perception.model import model_file
from perception.network.network import Network
from perception.training import checkpoint
from perception.training.augment import AugmentConfig
from perception.training.batch import Batch
from perception.training.dataset import Mixture, batches
from perception.training.from_onnx import read, settle_norms
from perception.training.loop import label_tables, losses, precision_for
from perception.training.pruning import HIDDEN_STEP, choose, look, mean_loss, prune, remove_blocks

__all__ = ["PruneConfig", "main"]

FOR_BLOCKS = 4  # blocks are judged on one in so many batches: each takes a pass of its own


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Remove parts of a trained network's Vision Transformer."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory of perception.train, an fp32 .onnx file of perception.export, or name of a bundled model."""
    data: tuple[str, ...]
    """Datasets in the common layout whose train images are looked at; DIR:2 draws from one twice as often."""
    out: Path
    """Run directory to write."""
    blocks: int = 0
    """How many whole blocks go."""
    heads: float = 0.0
    """Share of the attention heads of the remaining blocks that goes, from 0 to below 1. Each keeps at least one."""
    mlp: float = 0.0
    """Share of the hidden units of the remaining blocks' MLPs that goes, from 0 to below 1. Each keeps at least 32."""
    images: int = 256
    """Training images that units are judged on."""
    batch_size: int = 8
    """Images at once."""
    seed: int = 0
    """Decides which images these are."""
    threads: int = 0
    """CPU threads; 0 = one a core."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def check(config: PruneConfig) -> None:
    """Raises ValueError for what can be seen to be wrong before anything is loaded."""
    for name, share in (("heads", config.heads), ("mlp", config.mlp)):
        if not 0 <= share < 1:
            raise ValueError(f"--{name} is the share to remove, from 0 to below 1, but got {share:g}")
    if config.blocks < 0 or not (config.blocks or config.heads or config.mlp):
        raise ValueError("nothing to remove: give a number of --blocks, or a share of --heads or of --mlp")
    if not 0 < config.batch_size <= config.images:
        raise ValueError(f"--images must be at least --batch-size, but got {config.images} and {config.batch_size}")
    if not config.data:
        raise ValueError("--data: name at least one dataset in the common layout (data/<name>/prepare.py makes one)")
    if config.out.exists():
        raise ValueError(f"{config.out} exists; name a new folder")


def open_trained(source: Path) -> tuple[Network, dict[str, Any]]:
    """The averaged weights of a run, or those of an exported file, and what is known of them as in meta.json."""
    if source.suffix != ".onnx":
        return checkpoint.load_network(source)
    network, about = read(source)
    return network.eval(), checkpoint.meta_of(about)


def loss_of(network: Network, mixture: Mixture) -> Callable[[Batch], Tensor]:
    """The mean training loss of a batch, without what never reaches the ViT: the branch that learns from its features.

    Batch norms keep their statistics.
    """
    tables, weights = label_tables(network, mixture)
    dtype, _ = precision_for("auto", torch.device("cpu"))
    network.eval()
    if network.boxes is not None:
        network.boxes.training = True  # both branches answer; the layers within stay in evaluation

    def loss(batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            parts = losses(network, batch, tables, weights)
        return torch.stack([part.mean() for task, part in parts.items() if task != "boxes_one_to_one"]).sum()

    return loss


def body(config: PruneConfig) -> dict[str, Any]:
    """Look, remove, and write a run."""
    check(config)
    config = replace(config, run=model_file(config.run))
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.seed)
    network, meta = open_trained(config.run)
    own = bool(meta.get("train", {}).get("own_labels", False))
    if own and len(config.data) != 1:
        raise ValueError(f"{config.run} was trained with --own-labels on one dataset, but got {len(config.data)}")
    folders, shares = zip(*(split_weight(entry) for entry in config.data), strict=True)
    plain = AugmentConfig(magnitude=0.0, crop=0.0, mosaic=0.0)
    mixture = Mixture(list(folders), list(shares), config.images, network.config.hw, plain, config.seed, own)
    seen = list(batches(mixture, config.batch_size, 0, 0))

    loss = loss_of(network, mixture)
    before = {"parameters": parameters(network), "loss": mean_loss(loss, seen)}
    if before["loss"] == 0:  # only where no image has a label
        raise ValueError(
            f"nothing in --data is labelled for the heads of {config.run}: its units can not be judged by it"
        )
    gone = remove_blocks(network, config.blocks, loss, seen[::FOR_BLOCKS])
    found = look(network, loss, seen)
    heads = choose([one.heads for one in found], config.heads)
    hidden = choose([one.hidden for one in found], config.mlp, HIDDEN_STEP)
    prune(network, found, heads, hidden)
    after = {"parameters": parameters(network), "loss": mean_loss(loss, seen)}
    if config.run.suffix == ".onnx":
        settle_norms(network, torch.cat([batch.image for batch in seen[:FOR_BLOCKS]]))

    asked = {"from": config.run.name, "blocks": gone, "heads": config.heads, "mlp": config.mlp}
    record = {
        "network": asdict(network.config),
        "data": meta.get("data", []),
        "train": meta.get("train", {}),
        "revision": checkpoint.revision(),
        "pruned": asked,
    }
    checkpoint.save_weights(config.out, int(meta.get("step", 0)), network.state_dict(), record)
    # perception.export looks here for images to check on
    (config.out / "config.json").write_text(json.dumps({"data": list(config.data)}, indent=1))
    if gone:
        print(f"blocks that went, of {len(found) + len(gone)}, in that order: {', '.join(map(str, gone))}")
    print("heads, hidden units: " + ", ".join(f"{h} {u}" for h, u in network.config.blocks))
    for name, facts in (("before", before), ("after", after)):
        size = f"{facts['parameters'] / 1e6:.2f} M parameters"
        print(f"{name}: {size}, loss {facts['loss']:.4f} on {config.images} images")
    return {"out": str(config.out), "shape": network.config.blocks, **asked, "before": before, "after": after}


def parameters(network: Network) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, prune, and return the exit code."""
    return run_cli(PruneConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
