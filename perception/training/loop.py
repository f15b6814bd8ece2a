"""The training loop, in its order: schedule, forward, losses, backward, clip, step, average, log, save, evaluate."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from perception.evaluation.tables import summary_table
from perception.labels import BOX_CLASSES
from perception.network.network import Network
from perception.training import checkpoint
from perception.training.balance import Balance, gradient_norms, task_weights
from perception.training.batch import Batch
from perception.training.dataset import Mixture, batches
from perception.training.distributed import ALONE, Processes
from perception.training.evaluation import evaluate_network
from perception.training.losses import box_loss, mask_loss, ruled_out_by_masks
from perception.training.optim import Ema, learning_rate, parameter_groups

__all__ = ["LoopConfig", "label_tables", "losses", "precision_for", "record", "train"]

CLASS_WEIGHTS = {"lane marking": 3.0}  # thin and rare; every other class weighs 1
SCENE_OF_BOX = tuple({"pedestrian": "person"}.get(name, name) for name in BOX_CLASSES)
MAX_BAD_STEPS = 3  # consecutive steps whose loss is not finite, before the run is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a network is trained."""

    steps: int = 20_000  # optimiser steps
    batch_size: int = 8  # of all processes together
    lr: float = 1e-3  # peak learning rate of the heads
    weight_decay: float = 0.05
    layer_decay: float = 1.0  # each earlier ViT block learns this much slower; 0.75 suits pretrained weights
    detail_lr: float = 0.2  # learning rate of the pretrained detail path, as a share of lr
    warmup: int = 200  # steps
    clip: float = 5.0  # largest gradient norm
    ema: float = 0.998  # decay of the averaged weights
    task_weights: tuple[str, ...] = ()  # TASK=WEIGHT of the loss (boxes=2 drive=0.5); every other task weighs 1
    balance: Literal["fixed", "uncertainty"] = "fixed"  # or let each task's weight be learned, arXiv:1705.07115
    label_smoothing: float = 0.0  # share of a pixel's label that goes to all classes alike, arXiv:1512.00567
    log_every: int = 20  # steps
    eval_every: int = 1000  # steps; 0 = only at the end
    eval_limit: int = 100  # images of each dataset's val split; 0 = all
    save_every: int = 200  # steps
    keep: int = 1  # newest checkpoints that stay; more than one for perception.soup
    workers: int = 1  # processes that read and augment, for each one that trains
    precision: str = "auto"  # auto, fp32 or bf16
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, ("steps", "batch_size", "log_every", "save_every"))
        require_counts(self, ("eval_every", "eval_limit", "warmup", "workers"), 0)
        if not (0 <= self.ema <= 1 and 0 <= self.label_smoothing <= 1 and self.clip > 0):
            raise ValueError(
                "--loop.ema and --loop.label-smoothing must be from 0 to 1 and --loop.clip over 0, but got "
                f"{self.ema:g}, {self.label_smoothing:g} and {self.clip:g}"
            )


def require_counts(options: object, names: Iterable[str], least: int = 1) -> None:
    """Raise ValueError for an option of the loop that counts something and is below `least`."""
    for name in names:
        if (count := getattr(options, name)) < least:
            raise ValueError(f"--loop.{name.replace('_', '-')} must be {least} or more, but got {count}")


def losses(
    network: Network,
    batch: Batch,
    tables: dict[str, Tensor],
    weights: dict[str, Tensor],
    smoothing: float = 0.0,
    processes: Processes = ALONE,
    forward: nn.Module | None = None,
) -> dict[str, Tensor]:
    """{"scene": (B,), ..., "boxes": (B,), "boxes_one_to_one": (B,)}: each task's loss of each image, normalised.

    The mean over the batch is what is trained; an image without labels for a task has 0 there. The batch may be the
    share of one of several processes, and `forward` the network as they wrap it: an image's losses stay the same.
    """
    raw = (network if forward is None else forward)(batch.image)
    images = len(batch.image) * processes.count
    out: dict[str, Tensor] = {}
    for head in network.masks:
        total, weight = mask_loss(
            raw.masks[head], batch.masks[head], tables[head][batch.dataset], weights[head], smoothing
        )
        out[head] = total / processes.sum(weight.sum()).clamp(min=1.0) * images
    if raw.boxes:
        branches = raw.boxes
        ruled_out = torch.zeros_like(branches["one_to_one"].logits, dtype=torch.bool)
        scene = network.config.heads.get("scene", ())  # a dataset's own labels may call a head so too
        if network.config.box_classes == BOX_CLASSES and set(SCENE_OF_BOX) <= set(scene):
            points, table = branches["one_to_one"].points, tables["scene"][batch.dataset]
            as_scene = torch.tensor([scene.index(name) for name in SCENE_OF_BOX], device=batch.image.device)
            ruled_out = ruled_out_by_masks(batch.masks["scene"], table, points, as_scene)
        for name, branch, top_k in (("boxes", "one_to_many", 10), ("boxes_one_to_one", "one_to_one", 1)):
            classify, measure, found = box_loss(branches[branch], batch.boxes, top_k, ruled_out)
            out[name] = (classify + 2.0 * measure) / processes.sum(found).clamp(min=1.0) * images
    return out


def label_tables(
    network: Network, mixture: Mixture, device: torch.device | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `losses` needs of each mask head: (datasets, 256, C) bool, `Mixture.tables`; (C,) weights of its classes."""
    classes = network.config.heads
    tables = {head: mixture.tables(head, len(names)).to(device) for head, names in classes.items()}
    weights = {
        head: torch.tensor([CLASS_WEIGHTS.get(name, 1.0) for name in names], device=device)
        for head, names in classes.items()
    }
    return tables, weights


def tasks_of(network: Network) -> list[str]:
    """The keys of `losses`."""
    return [*network.masks, *(("boxes", "boxes_one_to_one") if network.boxes is not None else ())]


def parts_of(network: Network) -> dict[str, str]:
    """Parts whose gradients are watched: the name to log -> prefix of the parameters' names."""
    shared = {"vit": "pyramid.tokens.", "details": "pyramid.detail."}
    heads = {head: f"masks.{head}." for head in network.masks}
    return shared | heads | ({"boxes": "boxes."} if network.boxes is not None else {})


def train(
    network: Network,
    mixture: Mixture,
    run: Path,
    config: LoopConfig,
    about: dict[str, Any],
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train `network` on `mixture` up to `config.steps`, from the checkpoint in `run` if there is one; the summary.

    Of several processes all compute the same weights; the first one averages, logs, saves and evaluates them.
    """
    device = processes.device()
    dtype, reason = precision_for(config.precision, device)
    others = f" and {processes.count - 1} more" if processes.count > 1 else ""
    print(f"device: {device}{others}, {str(dtype).removeprefix('torch.')}: {reason}")
    network.to(device=device).to(memory_format=torch.channels_last)
    network.pyramid.tokens.fuse_attention(device.type == "cuda")  # on a CPU the plain formula trains 1.15 x as fast
    groups = parameter_groups(network, config.lr, config.weight_decay, config.layer_decay, config.detail_lr)
    tasks = tasks_of(network)
    balance = Balance(tasks, task_weights(config.task_weights, tasks), config.balance).to(device)
    if config.balance == "uncertainty":
        groups.append(balance.parameter_group(config.lr))
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    ema = Ema(network, config.ema)
    start = 0
    if any(run.glob("step_*")):
        state = checkpoint.resume(run, network, ema, optimizer)
        start = int(state["step"])
        balance.restore(state.get("balance", {}))
        if (before := state.get("images")) not in (None, now := about.get("images")):
            print(
                f"the datasets had {before} images when the run was stopped, and now {now}: it goes on with other ones"
            )

    tables, weights = label_tables(network, mixture, device)
    loader = batches(mixture, config.batch_size, start, config.workers, processes)
    meta = {**about, "train": asdict(config) | about.get("train", {})}
    log, board = Log(run, mixture.names), SummaryWriter(str(run)) if processes.main else None

    def judged(board: SummaryWriter, done: int) -> dict[str, Any]:
        found = evaluate_network(network, ema, mixture, config.eval_limit, {**meta, "step": done})
        record(run, {"step": done, "evaluation": found})
        if found:
            tqdm.write(f"step {done}, averaged weights:\n{summary_table(list(found.values()))}")
        for name, value in flatten(found).items():
            board.add_scalar(f"val/{name}", value, done)
        return found

    bar = tqdm(loader, total=config.steps, initial=start, desc="train", unit="step", disable=None)
    network.train()
    # no head reads stride 32 without boxes, nor stride 4 without masks
    forward = processes.wrap(network, unread=network.boxes is None or not network.masks)
    bad = 0
    for step, batch in enumerate(bar, start):
        # Stochastic depth is a function of the step, so a resumed run repeats it; it is another one in each process.
        torch.manual_seed(config.seed + step + 1_000_003 * processes.rank)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"] * learning_rate(step, config.steps, config.warmup)

        batch = to_device(batch, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            parts = losses(network, batch, tables, weights, config.label_smoothing, processes, forward)
        loss = balance(parts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in balance.parameters():  # those of the network are averaged by DistributedDataParallel
            assert parameter.grad is not None
            parameter.grad = processes.sum(parameter.grad) / processes.count
        watched = gradient_norms(network, parts_of(network)) if (step + 1) % config.log_every == 0 else {}
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        parts = {task: processes.gather(value) for task, value in parts.items()}  # (B,) of the global batch
        dataset = processes.gather(batch.dataset)
        if torch.isfinite(norm):  # in no process or in all: they hold the same gradient
            optimizer.step()
            if processes.main:
                ema.update(network, step)
            bad = 0
        else:
            bad += 1
            mend_statistics(network, ema)
            print(
                f"step {step}: the gradient is not finite, step skipped; losses: "
                + ", ".join(f"{task} {value.mean():.3g}" for task, value in parts.items())
            )
            if bad == MAX_BAD_STEPS:
                raise ValueError(
                    f"{bad} steps in a row were not finite; --init {run} starts another run from the last checkpoint, "
                    f"with a lower --loop.lr (now {config.lr})"
                )

        done = step + 1
        if board is not None:  # the other processes go on, and wait in the next step's first sum
            log.add(dataset, parts, float(norm))
            if done % config.log_every == 0:
                more = {f"gradient_norm/{part}": float(value) for part, value in watched.items()}
                more |= {f"log_variance/{task}": value for task, value in balance.to_json().items()}
                shown = log.write(board, done, float(optimizer.param_groups[0]["lr"]), more)
                bar.set_postfix(shown)
                if bar.disable:  # no terminal: a line in a file, instead of a bar
                    print(f"step {done}/{config.steps}", *map(" ".join, shown.items()), sep=", ", flush=True)
            if done % config.save_every == 0 or done == config.steps:
                checkpoint.save(run, done, network, ema, optimizer, {**meta, "balance": balance.to_json()}, config.keep)
            if config.eval_every and done % config.eval_every == 0 and done < config.steps:
                judged(board, done)
    last = {}
    if board is not None:  # also where nothing was left to train: the run may have been killed after its last step
        last = judged(board, config.steps)
        board.close()
    processes.wait()
    return {"run": str(run), "step": config.steps, "evaluation": last}


def mend_statistics(network: Network, ema: Ema) -> None:
    """Running statistics of batch norms that saw values which are not finite become those of the average.

    Of several processes those of the first one count: DistributedDataParallel sends them to the others.
    """
    for name, value in network.named_buffers():
        if name in ema.state and not torch.isfinite(value).all():
            value.copy_(ema.state[name])


def precision_for(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of autocast, and why: bf16 wherever the machine computes in it faster than in float32."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, but got {wanted!r}")
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), "as asked"
    if device.type == "cuda":
        return (
            (torch.bfloat16, "the GPU has it")
            if torch.cuda.is_bf16_supported()
            else (torch.float32, "no bf16 on this GPU")
        )
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "amx_bf16" in flags or "avx512_bf16" in flags:
        return torch.bfloat16, "the CPU has bf16 instructions"
    return torch.float32, "the CPU has no bf16 instructions, and emulating them is slower"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch."""
    if device.type == "cpu":
        return batch
    boxes = type(batch.boxes)(
        *(getattr(batch.boxes, f).to(device) for f in ("boxes", "members", "exhaustive", "ignore"))
    )
    masks = {head: mask.to(device) for head, mask in batch.masks.items()}
    return Batch(batch.image.to(device), boxes, masks, batch.dataset.to(device))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures -> {"a/b": 0.5}."""
    out: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            out[f"{prefix}{key}"] = float(value)
    return out


class Log:
    """metrics.jsonl and TensorBoard: mean loss a task, and a task and dataset, since the last line."""

    def __init__(self, run: Path, names: list[str]) -> None:
        self.run, self.names = run, names
        self.clear()

    def clear(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)
        self.images, self.since = 0, time.perf_counter()

    def add(self, dataset: Tensor, parts: dict[str, Tensor], norm: float) -> None:
        """Remember one step's losses. Reading them is a synchronisation point on a GPU."""
        self.images += len(dataset)
        self.values["gradient_norm"].append(norm)
        for task, value in parts.items():
            for index, one in zip(dataset.tolist(), value.detach().tolist(), strict=True):
                self.values[f"loss/{task}"].append(one)
                if one:
                    self.values[f"loss/{task}/{self.names[index]}"].append(one)

    def write(self, board: SummaryWriter, step: int, lr: float, more: dict[str, float]) -> dict[str, str]:
        """Write the means, and `more` as it is; returns those to show in the progress bar."""
        means = {name: sum(v) / len(v) for name, v in sorted(self.values.items())}
        means |= {"images_per_second": self.images / (time.perf_counter() - self.since), "lr": lr, **more}
        for name, value in means.items():
            board.add_scalar(name, value, step)
        record(self.run, {"step": step, **{name: round(value, 5) for name, value in means.items()}})
        self.clear()
        return {
            name[5:]: f"{value:.2f}"
            for name, value in means.items()
            if name.startswith("loss/") and name.count("/") == 1
        }


def record(run: Path, entry: dict[str, Any]) -> None:
    """Append one line of JSON to RUN/metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
