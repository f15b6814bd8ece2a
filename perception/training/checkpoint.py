"""A run on disk. A checkpoint can't run code (safetensors, JSON) and can't be half-written (a folder that is renamed).

RUN/
  config.json                  the resolved configuration
  metrics.jsonl                one line a log or evaluation
  step_000123/
    network.safetensors        the weights that are trained
    ema.safetensors            their moving average: evaluated, exported
    optimizer.safetensors      <parameter>.<state>
    meta.json                  step, network config, datasets, revision
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perception.engine import Metadata
from perception.jsonfile import from_json, read_object, shown
from perception.network.boxes import BranchName
from perception.network.masks import class_probabilities
from perception.network.network import Network, NetworkConfig
from perception.network.tokens import fit_position_embedding, read_weights
from perception.revision import revision
from perception.training.optim import Ema

__all__ = [
    "TorchEngine", "adopt", "at_size", "averaged", "fill", "keep_newest", "latest", "load_network", "meta_of",
    "metadata", "network_config", "open_run", "optimizer_state", "read_meta", "restore_optimizer", "resume",
    "revision", "save", "save_weights", "write",
]  # fmt: skip

SCHEMA = 1
POSITION = "pyramid.tokens.vit.pos_embed"


def save(
    run: Path,
    step: int,
    network: Network,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
    keep: int = 1,
) -> None:
    """Write RUN/step_N beside its name, rename it into place, then remove all but the `keep` newest."""
    files = {"network": network.state_dict(), "ema": ema.state, "optimizer": optimizer_state(optimizer)}
    write(run, step, files, {"network": asdict(network.config), **meta})
    keep_newest(run, keep)


def save_weights(run: Path, step: int, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """A checkpoint of nothing but weights, as both the trained and the averaged ones. It can not be resumed."""
    write(run, step, {"network": state, "ema": state}, meta)


def write(run: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> None:
    """RUN/step_N with one safetensors file a state and meta.json; it appears when it is complete."""
    target, draft = run / f"step_{step:06d}", run / f".step_{step:06d}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, state in files.items():
        save_file(tensors(state), draft / f"{name}.safetensors")
    record = {"schema": SCHEMA, **meta, "step": step}
    (draft / "meta.json").write_text(json.dumps(record, indent=1))
    if target.exists():
        shutil.rmtree(target)
    os.replace(draft, target)


def keep_newest(run: Path, keep: int) -> None:
    """Remove all checkpoints but the `keep` newest."""
    for old in in_order(run)[: -max(1, keep)]:
        shutil.rmtree(old)


def in_order(run: Path) -> list[Path]:
    """The folders RUN/step_N by rising N: names would not do, step_1000000 sorts before step_999999."""
    numbered = {path: path.name.removeprefix("step_") for path in run.glob("step_*")}
    return sorted((path for path, n in numbered.items() if n.isdecimal()), key=lambda path: int(numbered[path]))


def tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"<parameter>.<state>": tensor} for groups that carry "names"."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`, for AdamW."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            keys = {key: f"{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in state}
            moments = {key: state[full].to(parameter.device) for key, full in keys.items() if key != "step"}
            counts = {key: state[full] for key, full in keys.items() if key == "step"}  # AdamW counts on the CPU
            optimizer.state[parameter] = counts | moments


def latest(run: Path) -> Path:
    """The newest checkpoint of a run. Raises FileNotFoundError if it has none."""
    found = [path for path in in_order(run) if (path / "meta.json").is_file()]
    if not found:
        raise FileNotFoundError(
            f"{run} holds no checkpoint; expected a run directory of perception.train or perception.pretrain"
        )
    return found[-1]


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """meta.json. Raises ValueError if it is not one of this schema."""
    path = checkpoint / "meta.json"
    meta = read_object(path)
    if meta.get("schema") != SCHEMA:
        raise ValueError(f"{checkpoint} has checkpoint schema {meta.get('schema')}, but this version reads {SCHEMA}")
    if type(meta.get("step")) is not int or not 0 <= meta["step"] < 2**53:
        raise ValueError(f"{path}: step must be a whole number, 0 or more, but is {shown(meta.get('step'))}")
    if not isinstance(meta.get("data", []), list) or not all(isinstance(name, str) for name in meta.get("data", [])):
        raise ValueError(f"{path}: data must be a list of names, but is {shown(meta['data'])}")
    return meta


def network_config(meta: Mapping[str, Any]) -> NetworkConfig:
    """The NetworkConfig under "network" of a checkpoint's or a model file's JSON.

    Raises ValueError if it is none. Names of timm's models are plain ones: others would be looked up on the hub, or
    in folders.
    """
    config = from_json(NetworkConfig, meta.get("network"), "network")
    for name in (config.vit, config.detail):
        if not re.fullmatch(r"\w+(\.\w+)?", name):
            raise ValueError(f"network: expected the name of a model of timm, but got {shown(name)}")
    return config


def load_network(run: Path, averaged: bool = True, branch: BranchName | None = None) -> tuple[Network, dict[str, Any]]:
    """The averaged (or the last) weights of a run's newest checkpoint, ready to predict, and its meta.

    `branch` of the box head answers, instead of the one that the run was trained to answer with.
    """
    checkpoint = latest(run)
    meta = read_meta(checkpoint)
    try:
        config = network_config(meta)
        network = Network(replace(config, branch=branch) if branch else config)
    except (ValueError, RuntimeError) as error:  # a RuntimeError is timm's
        raise ValueError(f"{checkpoint} holds a network that can't be built: {error}") from None
    fill(network, checkpoint / ("ema.safetensors" if averaged else "network.safetensors"))
    return network.eval(), meta


def resume(run: Path, network: Network, ema: Ema, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights, average and optimiser from the newest checkpoint; its meta says at which step to go on."""
    checkpoint = latest(run)
    meta = read_meta(checkpoint)
    if network_config(meta) != network.config:
        raise ValueError(f"{checkpoint} was trained with another network; expected the options it was started with")
    fill(network, checkpoint / "network.safetensors")
    average = read_weights(checkpoint / "ema.safetensors")
    if {name: value.shape for name, value in average.items()} != {n: value.shape for n, value in ema.state.items()}:
        raise ValueError(
            f"{checkpoint / 'ema.safetensors'} does not fit the network that meta.json beside it describes"
        )
    ema.state = {name: value.to(ema.state[name].device) for name, value in average.items()}
    restore_optimizer(optimizer, read_weights(checkpoint / "optimizer.safetensors"))
    return meta


def averaged(run: Path) -> tuple[dict[str, Tensor], NetworkConfig]:
    """The averaged weights in a run's newest checkpoint, and the network that they are of, for `adopt`."""
    checkpoint = latest(run)
    return read_weights(checkpoint / "ema.safetensors"), network_config(read_meta(checkpoint))


def fill(module: nn.Module, path: Path) -> None:
    """Load all weights of `module` from a file. Raises ValueError if they do not fit."""
    try:
        module.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that meta.json beside it describes: {error}") from None


def adopt(network: Network, state: dict[str, Tensor], config: NetworkConfig) -> list[str]:
    """Load what fits of the weights of another network, whose config this is. Returns what did not and stays new.

    The last layer of a head is taken class by class, by their names.
    """
    tokens = network.pyramid.tokens
    old_grid = (config.hw[0] // tokens.stride, config.hw[1] // tokens.stride)
    with suppress(ValueError):  # of a ViT with other patches: it stays new
        fit_position_embedding(state, POSITION, old_grid, tokens.grid_hw, tokens.prefix)
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    for layer, had, has in last_layers(config, network.config):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            fitting.pop(name, None)
            alike = name in own and name in state and state[name].shape == (len(had), *own[name].shape[1:])
            if alike and set(had) & set(has):
                fitting[name] = own[name].clone()
                for row, of in enumerate(has):
                    if of in had:
                        fitting[name][row] = state[name][had.index(of)]
    network.load_state_dict({**own, **fitting})
    return sorted(own.keys() - fitting.keys())


def last_layers(old: NetworkConfig, new: NetworkConfig) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """The layers that have a row for each class: name in the state dict, the classes that it had, those that it has."""
    for branch in ("one_to_many", "one_to_one"):
        yield f"boxes.{branch}.classify.2", old.box_classes, new.box_classes
    for head, has in new.heads.items():
        yield f"masks.{head}.1", tuple(old.heads.get(head, ())), tuple(has)


def at_size(network: Network, hw: tuple[int, int]) -> Network:
    """The same weights for inputs of another height and width, ready to predict: the position embedding is resampled.

    Raises ValueError if `hw` are no multiples of 32.
    """
    sized = Network(replace(network.config, hw=hw))
    new = adopt(sized, network.state_dict(), network.config)
    if new:
        raise ValueError(f"{new[0]} has another shape at {hw[0]}x{hw[1]}: such a network has one input size")
    return sized.eval()


def metadata(network: Network, meta: Mapping[str, Any]) -> Metadata:
    """What an ONNX file says of itself."""
    return Metadata(
        input_hw=network.config.hw,
        box_names=network.config.box_classes,
        heads=network.config.heads,
        config={"network": asdict(network.config), "train": meta.get("train", {})},
        revision=meta.get("revision", "unknown"),
        data=tuple(meta.get("data", ())),
        step=int(meta.get("step", 0)),
    )


def meta_of(about: Metadata) -> dict[str, Any]:
    """The way back from `metadata`: what a checkpoint's meta.json would say of an exported file's making."""
    train = about.config.get("train", {})
    return {"train": train, "revision": about.revision, "data": list(about.data), "step": about.step}


class TorchEngine:
    """A network behind the interface of perception.engine.Engine, for evaluation and comparison in torch."""

    provider = "torch"

    def __init__(self, network: Network, about: Metadata) -> None:
        self.network = network.eval()
        self.metadata = about
        self.input_hw = network.config.hw

    def run(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(B, h, w, 3) uint8 RGB -> the outputs of the ONNX file."""
        with torch.inference_mode():
            out = self.network.predict(torch.from_numpy(tensor))
        return {name: value.numpy() for name, value in out.items()}

    def probabilities(self, tensor: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The outputs of `run`, and each head's (B, classes, h, w) float32 probabilities in model pixels."""
        with torch.inference_mode():
            raw = self.network(torch.from_numpy(tensor))
            out = self.network.finish(raw)
            maps = {name: class_probabilities(logits, self.input_hw) for name, logits in raw.masks.items()}
        return {k: v.numpy() for k, v in out.items()}, {k: v.numpy() for k, v in maps.items()}


def open_run(run: str | Path, averaged: bool = True, branch: BranchName | None = None) -> TorchEngine:
    """The newest checkpoint of a run, ready to predict; see `load_network`."""
    network, meta = load_network(Path(run), averaged, branch)
    return TorchEngine(network, metadata(network, meta))
