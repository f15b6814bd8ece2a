"""Train a perception network on one or several driving datasets in the common layout (see data/).

python -m perception.train --data DIR [DIR ...] --out RUN
python -m perception.train --out RUN --resume
torchrun --nproc-per-node GPUS -m perception.train --data DIR [DIR ...] --out RUN
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.jsonfile import from_json, read_object
from perception.labels import BOX_CLASSES, HEADS
from perception.layout import split_weight
from perception.model import bundled_names, model_file
from perception.network.network import Network, NetworkConfig
from perception.network.tokens import WEIGHT_SUFFIXES
from perception.training import checkpoint
from perception.training.augment import AugmentConfig
from perception.training.dataset import Mixture
from perception.training.distributed import ALONE, Processes, run_together
from perception.training.evaluation import require_sound_val
from perception.training.from_onnx import network_from_onnx, settle_norms
from perception.training.loop import LoopConfig, train
from perception.training.policy import load_policy, save_policy

__all__ = ["TrainConfig", "main"]

ENCODER = Path(__file__).parent / "assets" / "vit-t-drive.safetensors"  # see MODEL_CARD.md
ENCODER_VIT = "vit_tiny_patch16_224"
SETTLE_ON = 32  # images that batch norms are measured on after an .onnx file


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train on driving datasets."""

    data: tuple[str, ...] = ()
    """Dataset folders in the common layout; add :WEIGHT to draw from one more or less often (DIR:2)."""
    out: Path
    """Run directory: checkpoints, metrics.jsonl, TensorBoard."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, with the options that it was started with."""
    init: str | None = None
    """Start from a run, an exported .onnx file or a bundled model by its name (drive-n), or the ViT from a timm state
    dict (.safetensors, .pth), or random.

    Left out, and without --pretrained: the bundled encoder, where --vit is its kind, else random."""
    detail_weights: str | None = None
    """ImageNet weights of the detail path as a file (.safetensors, .pth); needs no internet."""
    pretrained: bool = False
    """Fetch timm's pretrained weights of the ViT and the detail path from the hub."""
    freeze_details: Literal["none", "early", "all"] = "early"
    """Which stages of the detail path, if it is pretrained, stay as they are. The early ones cost the most to train."""
    freeze_vit: int = 0
    """Blocks of the ViT, counted from the image, that stay as they are, and the embeddings with them; 0 = none."""
    heads: tuple[str, ...] = ("boxes", *HEADS)
    """Heads to train: any of boxes, scene, drive. With --own-labels: boxes alone, or masks, with or without boxes."""
    own_labels: bool = False
    """Train in the one dataset's own label space instead of ours, for figures that compare with publications."""
    hw: tuple[int, int] = (256, 448)
    """Input height and width, multiples of 32."""
    vit: str = "vit_tiny_patch16_224"
    """Any plain Vision Transformer of timm."""
    detail: str = "tf_efficientnet_lite0"
    """Any timm CNN with features at strides 4, 8 and 16 as the detail path; none = the Vision Transformer alone."""
    share: float = 1.0
    """Share of each dataset's training images that are used, drawn by the seed: what would fewer labels have given?"""
    drop_path: float = 0.0
    """Stochastic depth of the ViT."""
    threads: int = 0
    """CPU threads of the network; 0 = one a core."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    json: str | None = None
    """Write the final summary as one line of JSON to this file, or - for the last line of standard output."""


def network_for(config: TrainConfig, mixture: Mixture, before: NetworkConfig | None) -> NetworkConfig:
    """The NetworkConfig that the options and, with --own-labels, the dataset ask for.

    `before` is the network to go on from: what perception.prune has left of its ViT stays.
    """
    blocks = before.blocks if before and before.vit == config.vit else ()
    base = NetworkConfig(hw=config.hw, vit=config.vit, detail=config.detail, drop_path=config.drop_path, blocks=blocks)
    if config.own_labels:
        labels = mixture.labels[0]
        boxes = labels.boxes.classes if labels.boxes and "boxes" in config.heads else ()
        masks = labels.masks if set(config.heads) - {"boxes"} else {}
        heads = {name: spec.classes for name, spec in masks.items() if spec.classes}
        return replace(base, box_classes=boxes, heads=heads)
    if unknown := sorted(set(config.heads) - {"boxes", *HEADS}):
        raise ValueError(f"--heads: unknown head {unknown[0]!r}; expected any of boxes, {', '.join(HEADS)}")
    heads = {name: classes for name, classes in HEADS.items() if name in config.heads}
    return replace(base, box_classes=BOX_CLASSES if "boxes" in config.heads else (), heads=heads)


def goes_on(config: TrainConfig) -> bool:
    """Whether --init names a whole network, and not the ViT alone or nothing."""
    return config.init not in (None, "random") and Path(str(config.init)).suffix not in WEIGHT_SUFFIXES


def whole_source(config: TrainConfig) -> Path | None:
    """The run or exported file that --init names; None where it names the ViT alone or nothing."""
    if not goes_on(config):
        return None
    path = model_file(config.init)
    if not path.exists():
        names = ", ".join(bundled_names())
        raise FileNotFoundError(f"--init: there is no {path}; expected a run, a file, or a bundled model ({names})")
    return path


def opened(source: Path) -> tuple[dict[str, Tensor], NetworkConfig]:
    """The (averaged) weights of a run or of an exported file, and the network that they are of."""
    if source.suffix != ".onnx":
        return checkpoint.averaged(source)
    exported = network_from_onnx(source)
    return exported.state_dict(), exported.config


def initial_network(config: TrainConfig, mixture: Mixture) -> Network:
    """A network with the weights that the options name; with --resume the checkpoint replaces them all."""
    given = config.pretrained or config.detail_weights is not None
    trained = given or goes_on(config)  # the detail path
    if config.resume:
        saved = checkpoint.network_config(checkpoint.read_meta(checkpoint.latest(config.out)))
        network = Network(network_for(config, mixture, saved))
    elif whole := whole_source(config):
        state, before = opened(whole)
        network = Network(network_for(config, mixture, before), config.pretrained, None, config.detail_weights)
        print(f"init: {whole}")
        if new := checkpoint.adopt(network, state, before):
            print(f"{len(new)} weights are new, the first is {new[0]}")
            trained = given or not any(name.startswith("pyramid.detail.") for name in new)
        if whole.suffix == ".onnx":
            images = [mixture[n].image for n in range(min(SETTLE_ON, len(mixture)))]
            settle_norms(network, torch.from_numpy(np.stack(images)))
    else:
        init = bundled_encoder(config) if config.init is None else config.init
        vit = None if init == "random" else init
        network = Network(network_for(config, mixture, None), config.pretrained, vit, config.detail_weights)
        print(f"init of the ViT: {vit or ('the hub' if config.pretrained else 'random')}")
    detail = network.pyramid.detail
    if detail is not None and config.freeze_details != "none" and trained:
        detail.freeze(all_stages=config.freeze_details == "all")
    network.pyramid.tokens.freeze(config.freeze_vit)
    return network


def bundled_encoder(config: TrainConfig) -> str | None:
    """The pretrained ViT that comes with this package, if it is of the kind to train and nothing else is asked."""
    fits = config.vit == ENCODER_VIT and not config.pretrained and ENCODER.is_file()
    return str(ENCODER) if fits else None


def tasks_with_labels(network: Network, mixture: Mixture) -> tuple[list[str], list[str]]:
    """Of boxes and heads of the network, those that some dataset has labels for, and those that none has."""
    known = {head for labels in mixture.labels for head, spec in labels.masks.items() if any(spec.sets.values())}
    known |= {"boxes" for labels in mixture.labels if labels.boxes and labels.boxes.has_classes}
    tasks = [*(["boxes"] if network.boxes is not None else []), *network.masks]
    return [task for task in tasks if task in known], [task for task in tasks if task not in known]


def saved_options(config: TrainConfig) -> TrainConfig:
    """The options in RUN/config.json, to go on with. Raises FileNotFoundError if there is no run."""
    checkpoint.latest(config.out)
    path = config.out / "config.json"
    saved = read_object(path)
    augment = AugmentConfig.from_json(saved.get("augment"), f"{path}: augment")
    saved["augment"] = replace(augment, policy=str(config.out / "policy.json"))  # as it was at the start
    return replace(from_json(TrainConfig, saved, str(path)), out=config.out, resume=True, json=config.json)


def body(config: TrainConfig, processes: Processes = ALONE) -> dict[str, Any]:
    """Check the options, build what they ask for, and train it."""
    if config.resume:
        config = saved_options(config)
    elif any(config.out.glob("step_*")):
        raise ValueError(f"{config.out} already holds a run; add --resume to go on with it, or choose another --out")
    if not config.data:
        raise ValueError("--data: name at least one dataset in the common layout (data/<name>/prepare.py makes one)")
    if not 0 < config.share <= 1:
        raise ValueError(f"--share must be over 0 and up to 1, but got {config.share}")
    if config.own_labels and len(config.data) != 1:
        raise ValueError(f"--own-labels trains on one dataset, but got {len(config.data)}")
    processes.share_of(config.loop.batch_size)
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.loop.seed)

    folders, weights = zip(*(split_weight(entry) for entry in config.data), strict=True)
    total = config.loop.steps * config.loop.batch_size
    mixture = Mixture(
        list(folders),
        list(weights),
        total,
        config.hw,
        config.augment,
        config.loop.seed,
        config.own_labels,
        config.share,
    )
    for folder in folders:  # better said now than at the first evaluation
        require_sound_val(folder, config.own_labels)
    network = initial_network(config, mixture)
    if network.pyramid.detail is not None and not network.pyramid.detail.frozen:
        config = replace(config, freeze_details="none")  # for --resume, which does not see where they came from
    if processes.main and not config.resume:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str))
        save_policy(load_policy(config.augment.policy), config.out / "policy.json")
    for name, labels, samples, weight in zip(mixture.names, mixture.labels, mixture.samples, weights, strict=True):
        print(f"data: {name}, {len(samples)} images, weight {weight:g} ({labels.licence})")
    labelled, others = tasks_with_labels(network, mixture)
    if others:
        text = "learns nothing, and may get worse as the ViT changes under it"
        print(f"no dataset has labels for {', '.join(others)}: {text}; --heads {' '.join(labelled)} leaves it out")
    if config.loop.warmup >= config.loop.steps:
        length = f"{config.loop.warmup} steps of warm-up in a run of {config.loop.steps}"
        print(
            f"{length}: --loop.lr is never reached; --loop.warmup {config.loop.steps // 10} would leave time to learn"
        )
    about = {
        "data": mixture.names,
        "images": [len(samples) for samples in mixture.samples],
        "revision": checkpoint.revision(),
        "train": {"own_labels": config.own_labels},
    }
    summary = train(network, mixture, config.out, config.loop, about, processes)
    print(f"python -m perception.export {config.out} --out FILE.onnx makes the file that perception.live runs")
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, train, and return the exit code."""
    return run_together(TrainConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
