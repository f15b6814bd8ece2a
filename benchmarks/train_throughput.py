"""Images per second of training, and whether reading and augmenting keep up with the network.

    python benchmarks/train_throughput.py --data DATA/idd_lite DATA/kitti --workers 2
    python benchmarks/train_throughput.py --data DATA/idd_lite --processes 1 2
    torchrun --nproc-per-node 2 benchmarks/train_throughput.py --data DATA/idd_lite

Three parts are timed: (step) forward, losses, backward, clipping, optimiser and average on batches that are in memory;
(loader) reading, augmentation and batching alone; (training) both together, as in perception.train. They take turns in
rounds within one process, so that a machine that slows down slows all of them, and the ratio of training to step of
each round still holds: at 1.0 the loader costs nothing. Evaluation and checkpoints are not in it. Timed with a
monotonic clock after the device is idle; a part's first batches, which fill or empty the loader's queue, are not.

With --processes each round starts torchrun anew with each number of processes in turn (on a CPU: gloo), the cores
shared out among them and the global batch the same; starting is not in the figures. What it shows on one machine's CPU
is the price of being several, for there the processes share what one would have: it is no measure of more machines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from torch import nn

from benchmarks.machine import Watch, markdown, result, row, usable_cores
from benchmarks.roofline import Yardsticks
from perception.layout import split_weight
from perception.network.network import Network, NetworkConfig
from perception.training.augment import AugmentConfig
from perception.training.balance import Balance
from perception.training.batch import Batch
from perception.training.dataset import Mixture, batches
from perception.training.distributed import ALONE, Processes, run_together
from perception.training.loop import LoopConfig, label_tables, losses, precision_for, tasks_of, to_device
from perception.training.optim import Ema, parameter_groups

PARTS = ("step", "loader", "training")
KEPT = 4  # batches in memory for the part without a loader


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """Options of benchmarks/train_throughput.py."""

    data: tuple[str, ...] = ()
    """Datasets in the common layout; DIR:WEIGHT draws from one more or less often."""
    hw: tuple[int, int] = (256, 448)
    """Input height and width, multiples of 32."""
    batch_size: int = 8
    """Of all processes together."""
    workers: int = 1
    """Processes that read and augment, for each one that trains."""
    rounds: int = 7
    """How often the three parts take turns."""
    steps: int = 20
    """Batches of each part in a round."""
    vit: str = "vit_tiny_patch16_224"
    """Any plain Vision Transformer of timm."""
    threads: int = 0
    """CPU threads of the network; 0 = as torch chooses."""
    precision: str = "auto"
    """auto, fp32 or bf16."""
    processes: tuple[int, ...] = ()
    """Numbers of processes that take turns, each in a torchrun of its own; left out: this process, or torchrun's."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "rounds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, but got {getattr(self, name)}")
        if any(count < 1 for count in self.processes) or len(set(self.processes)) != len(self.processes):
            raise ValueError(f"--processes must be different numbers, 1 or more, but got {self.processes}")


class Step:
    """One step of training without schedule and log: a batch in, new weights."""

    def __init__(self, network: Network, mixture: Mixture, config: LoopConfig, processes: Processes) -> None:
        self.network, self.config, self.processes = network, config, processes
        self.device = processes.device()
        self.dtype, self.why = precision_for(config.precision, self.device)
        network.to(self.device).to(memory_format=torch.channels_last)
        network.pyramid.tokens.fuse_attention(self.device.type == "cuda")
        groups = parameter_groups(network, config.lr, config.weight_decay, config.layer_decay, config.detail_lr)
        self.optimizer, self.ema = torch.optim.AdamW(groups, betas=(0.9, 0.98)), Ema(network, config.ema)
        self.tables, self.weights = label_tables(network, mixture, self.device)
        self.balance = Balance(tasks_of(network), {}, config.balance).to(self.device)
        network.train()
        self.forward = processes.wrap(network)

    def __call__(self, batch: Batch) -> None:
        batch = to_device(batch, self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            parts = losses(
                self.network, batch, self.tables, self.weights, processes=self.processes, forward=self.forward
            )
        loss = self.balance(parts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self.ema.update(self.network, 1000)

    def idle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def timed(work: Callable[[], object], steps: int, step: Step) -> float:
    """Seconds that `work` takes `steps` times, when all processes have begun, until all are done."""
    step.idle()
    step.processes.wait()
    start = time.perf_counter()
    for _ in range(steps):
        work()
    step.idle()
    step.processes.wait()
    return time.perf_counter() - start


def measure(config: ThroughputConfig, mixture: Mixture, step: Step) -> list[dict[str, float]]:
    """Seconds of each part, round by round."""
    queue = 2 * config.workers + 1  # batches that a loader has ready at most, and one in hand
    used = 0

    def loader(count: int) -> Iterator[Batch]:
        """Images that were not there yet, with new workers."""
        nonlocal used
        start, used = used, used + count
        return iter(batches(mixture, config.batch_size, start, config.workers, step.processes))

    stream = loader(KEPT)
    kept = [next(stream) for _ in range(KEPT)]
    del stream
    for batch in kept[:2]:
        step(batch)  # memory is allocated, kernels are chosen
    rounds = []
    for _ in range(config.rounds):
        seconds = {}
        places = iter(range(config.steps))
        seconds["step"] = timed(lambda places=places: step(kept[next(places) % KEPT]), config.steps, step)
        stream = loader(queue + config.steps)
        for _ in range(queue):
            next(stream)
        seconds["loader"] = timed(lambda stream=stream: next(stream), config.steps, step)
        stream = loader(queue + config.steps)
        for _ in range(queue):
            step(next(stream))
        seconds["training"] = timed(lambda stream=stream: step(next(stream)), config.steps, step)
        del stream  # its workers leave
        rounds.append(seconds)
    return rounds


def summary(
    config: ThroughputConfig,
    rounds: Sequence[dict[str, float]],
    step: Step,
    names: list[str],
    noise: Mapping[str, Any],
) -> dict[str, Any]:
    """Every figure, and on what it was measured."""
    images = config.batch_size * config.steps
    rows = {part: row("images/s", [images / seconds[part] for seconds in rounds], "higher") for part in PARTS}
    ratios = sorted(seconds["step"] / seconds["training"] for seconds in rounds)
    settings = {name: getattr(config, name) for name in ("hw", "batch_size", "workers", "steps", "vit")}
    settings |= {
        "data": names,
        "processes": step.processes.count,
        "precision": str(step.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if step.device.type == "cuda" else "cpu",
    }
    ratio = {"median": median(ratios), "min": ratios[0], "max": ratios[-1]}
    return result("train_throughput", settings, rows, noise, training_over_step=ratio)


def table(found: Mapping[str, Any]) -> str:
    """Markdown: the median of the rounds, and their range."""
    s, m = found["settings"], found["machine"]
    where = s["device"] if s["device"] != "cpu" else m["cpu"]
    each = f"{s['processes']} x {s['threads']} threads and {s['workers']} workers"
    head = (
        f"{where}, {m['cores']} cores, {s['precision']}, {each}; {s['vit']} at {s['hw'][0]}x{s['hw'][1]}, "
        f"batch {s['batch_size']}; {', '.join(s['data'])}"
    )
    parts = {part: values["rounds"] for part, values in found["rows"].items()}
    lines = [[part, f"{median(v):.1f}", f"{min(v):.1f} to {max(v):.1f}"] for part, v in parts.items()]
    ratio = found["figures"]["training_over_step"]
    lines.append(["training / step", f"{ratio['median']:.3f}", f"{ratio['min']:.3f} to {ratio['max']:.3f}"])
    return f"{head}\n\n{markdown(('part', 'images/s', 'range'), lines)}"


def one_round(config: ThroughputConfig, count: int, threads: int, folder: Path) -> dict[str, Any]:
    """The result of one round in `count` processes that torchrun starts. Raises ValueError with their last words."""
    out = folder / "round.json"
    names = ("hw", "batch_size", "workers", "steps", "vit", "precision")
    options = {name: getattr(config, name) for name in names} | {"rounds": 1, "threads": threads, "json": out}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += [str(Path(__file__)), "--data", *config.data]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no word"]
        raise ValueError(f"{count} processes: {words[0]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def in_turns(config: ThroughputConfig) -> dict[str, Any]:
    """Every number of processes in every round, nobody always first; the ratios to the first number are paired."""
    threads = config.threads or usable_cores()
    watch, stick = Watch(), Yardsticks(threads)
    rows: dict[str, list[float]] = {}
    ran: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(config.rounds):
            stick.measure()
            watch.mark()
            shift = number % len(config.processes)
            for count in (*config.processes[shift:], *config.processes[:shift]):
                found = one_round(config, count, max(1, threads // count), Path(folder))
                ran[named(count)] = {
                    name: found["settings"][name] for name in ("processes", "threads", "precision", "device")
                }
                for part in PARTS:
                    rows.setdefault(f"{named(count)}: {part}", []).extend(found["rows"][part]["rounds"])
                print(
                    f"round {number + 1}, {named(count)}: {rows[f'{named(count)}: training'][-1]:.1f} images/s",
                    flush=True,
                )
    first = named(config.processes[0])
    ratios = {
        name: median(a / b for a, b in zip(values, rows[f"{first}: {name.split(': ')[1]}"], strict=True))
        for name, values in rows.items()
    }
    lines = [[n, f"{median(v):.1f}", f"{min(v):.1f} to {max(v):.1f}", f"{ratios[n]:.2f}"] for n, v in rows.items()]
    print(markdown(("part", "images/s", "range", f"of {first}, round by round"), lines))
    asked = {name: getattr(config, name) for name in ("hw", "batch_size", "workers", "steps", "vit", "rounds")}
    asked |= {"data": [Path(split_weight(entry)[0]).name for entry in config.data], "ran": ran}
    units = {name: row("images/s", values, "higher") for name, values in rows.items()}
    units["matrix product"] = row("ms", stick.product_ms)
    noise = watch.result(stick.product_ms)
    return result("train_throughput", asked, units, noise, "matrix product", of_first=ratios)


def named(count: int) -> str:
    """ "1 process", "2 processes"."""
    return f"{count} process{'es' * (count > 1)}"


def body(config: ThroughputConfig, processes: Processes = ALONE) -> dict[str, Any]:
    """Measure and print the table."""
    if not config.data:
        raise ValueError("--data: name at least one dataset in the common layout (data/<name>/prepare.py makes one)")
    if config.processes:
        if processes.count > 1:
            raise ValueError("--processes starts torchrun by itself: leave one of the two out")
        for count in config.processes:
            Processes(count=count).share_of(config.batch_size)
        return in_turns(config)
    processes.share_of(config.batch_size)
    if config.threads:
        torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    folders, weights = zip(*(split_weight(entry) for entry in config.data), strict=True)
    total = config.batch_size * (KEPT + 2 * config.rounds * (config.steps + 2 * config.workers + 1))
    mixture = Mixture(list(folders), list(weights), total, config.hw, AugmentConfig(), seed=0)
    settings = LoopConfig(batch_size=config.batch_size, precision=config.precision)
    step = Step(Network(NetworkConfig(hw=config.hw, vit=config.vit)), mixture, settings, processes)
    watch = Watch()
    rounds = measure(config, mixture, step)
    found = summary(config, rounds, step, mixture.names, watch.result([seconds["step"] for seconds in rounds]))
    print(table(found))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_together(ThroughputConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
