"""An exported ONNX file -> a network to train on: the weights by their names, and batch norms taken apart again.

The exporter transposes the weights of linear layers, folds batch norms into their convolutions, and leaves out the
branch that does not answer. This is the way back: whoever has only the file (the bundled one, say) can fine-tune it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from perception.engine import METADATA_KEY, Metadata
from perception.execution.modelfile import check_model_file
from perception.network.boxes import BranchName
from perception.network.network import Network
from perception.training.checkpoint import TorchEngine, network_config, open_run

__all__ = ["network_from_onnx", "open_torch", "read", "settle_norms"]

PREFIX = "network."  # export.Stages holds the network under this name
BRANCHES = ("boxes.one_to_many.", "boxes.one_to_one.")


def network_from_onnx(path: Path) -> Network:
    """The network in a file of perception.export, with every batch norm that was folded as a plain shift.

    It answers like the file. Before it is trained, `settle_norms` has to see some images.
    Raises ValueError if the file is not one of ours, or its graph lacks weights; OSError if there is none.
    """
    return read(path)[0]


def open_torch(path: Path, branch: BranchName | None = None) -> TorchEngine:
    """A run directory, or the network in a file of perception.export, ready to predict in torch.

    `branch` is of a run directory: a file has one. Raises what `network_from_onnx` or `checkpoint.open_run` does.
    """
    if path.is_dir():
        return open_run(path, branch=branch)
    network, about = read(path)
    return TorchEngine(network, replace(about, batch=1))  # torch takes as many images as it gets


def read(path: Path) -> tuple[Network, Metadata]:
    """The network in a file, and what the file says of itself; raises what `network_from_onnx` does."""
    model, about = read_file(path)
    network = Network(network_config(about.config))
    found = named_weights(model.graph, about.batch)
    own = network.state_dict()
    for conv, norm in folded_norms(network):
        if f"{conv}.weight_bias" in found:
            layer = network.get_submodule(norm)
            assert isinstance(layer, nn.BatchNorm2d)
            own[f"{norm}.running_mean"].zero_()
            own[f"{norm}.running_var"].fill_(1 - layer.eps)
            own[f"{norm}.weight"].fill_(1.0)
            own[f"{norm}.bias"].copy_(found.pop(f"{conv}.weight_bias"))
    for name in own:
        for branch, other in (BRANCHES, BRANCHES[::-1]):  # the branch that was left out starts like the one that is in
            if name.startswith(branch) and name not in found and name.replace(branch, other) in found:
                found[name] = found[name.replace(branch, other)]
    norms = {f"{norm}.{part}" for _, norm in folded_norms(network) for part in network.get_submodule(norm).state_dict()}
    if missing := [name for name in own if name not in found and name not in norms]:
        raise ValueError(f"{path} has no weights for {missing[0]} ({len(missing)} are missing); export it anew")
    network.load_state_dict(own | {name: value for name, value in found.items() if name in own})
    return network, about


def read_file(path: Path) -> tuple[onnx.ModelProto, Metadata]:
    """A file of perception.export that can be trained on, and what it says of itself, "network" in its config.

    Raises ValueError if it is none, OSError if there is none.
    """
    if path.is_file():
        check_model_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} can't be read as ONNX: {error}; expected a file of perception.export") from None
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in texts:
        raise ValueError(f"{path} is not a file of perception.export: it does not say what it is")
    about = Metadata.from_json(texts[METADATA_KEY])
    config = about.config
    if "network" not in config:
        raise ValueError(f"{path} holds no network of ours: its configuration is {dict(config)}")
    if kind := config.get("precision", {}).get("kind"):
        raise ValueError(f"{path} is {kind}, and can't be trained on; start from the fp32 file that it was made of")
    return model, about


def named_weights(graph: onnx.GraphProto, batch: int = 1) -> dict[str, Tensor]:
    """{name in the network's state dict: float32 weights}, linear layers the way round that torch has them.

    The exporter repeats the class token for each of the `batch` images of a call.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:  # weights stored as fp16 are widened by a Cast
        if node.op_type == "Cast" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].astype(np.float32)
    readers = {name: node for node in graph.node for name in node.input}
    out = {name.removeprefix(PREFIX): torch.tensor(a) for name, a in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:  # x @ W, then + "network.<layer>.bias"
            after = readers.get(node.output[0])
            bias = next((n for n in after.input if n.startswith(PREFIX)), "") if after is not None else ""
            if bias.endswith(".bias"):
                name = bias.removeprefix(PREFIX).removesuffix("bias") + "weight"
                out[name] = torch.tensor(arrays[node.input[1]].T.copy())
    scales = []  # measure(level) * scale, level by level
    for node in graph.node:
        after = readers.get(node.output[0])
        if node.op_type == "Conv" and node.input[1].endswith(".measure.2.weight") and after is not None:
            scales += [arrays[name] for name in after.input if name in arrays]
    if scales:
        out["boxes.one_to_many.scale"] = torch.tensor(np.array(scales).reshape(-1))
    for name, array in arrays.items():
        if not name.startswith(PREFIX) and array.ndim == 3 and array.shape[:2] in ((1, 1), (batch, 1)):
            out["pyramid.tokens.vit.cls_token"] = torch.tensor(array[:1])  # the only such constant of a plain ViT
    return out


def folded_norms(network: nn.Module) -> Iterator[tuple[str, str]]:
    """(name of a convolution, name of the batch norm behind it), in the order of the modules."""
    conv = ""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            conv = name
        elif isinstance(module, nn.BatchNorm2d):
            yield conv, name


@torch.no_grad()
def settle_norms(network: Network, images: Tensor) -> None:
    """Give every batch norm the statistics of its input over `images` (B, h, w, 3) uint8, and let it answer as before.

    Needed before training, which would otherwise rescale what was folded away. A norm that levels of the pyramid share
    gets the mean over them, which is what its running average tends to.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = defaultdict(list)  # (2, C) mean and variance of every call

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        seen[module].append(torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3))]))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    training = network.training
    network.eval()(images)
    if network.boxes is not None:  # evaluation leaves out a branch
        network.boxes.train()
        for norm in network.boxes.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        network(images)
    for handle in handles:
        handle.remove()
    for norm in norms:
        mean, var = torch.stack(seen[norm]).mean(0)
        old = norm.weight / (norm.running_var + norm.eps).sqrt()  # y = (x - running_mean) * old + bias
        norm.bias.add_((mean - norm.running_mean) * old)
        norm.weight.copy_(old * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
    network.train(training)
