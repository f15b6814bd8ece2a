"""Two processes on one machine train like one: synchronised norms, equal losses and weights, resume on another number.

Runs are compared in float64: in float32 the rounding of a batch norm moves values over the kink of a ReLU, and
gradients of the detail path differ by a percent from the true ones, in torch's own norms too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from perception import train
from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter
from perception.training import checkpoint, dataset, loop
from perception.training.distributed import ALONE, Processes, Share, together
from perception.training.norms import SyncNorm, synchronise_norms

STEPS, STOP = 5, 3
STOPS = (2, 4)  # of a run that one process begins, two go on with, and one ends
LABELS = DatasetLabels(
    name="toy",
    licence="ours",
    boxes=BoxLabels({"car": frozenset({"car"})}, frozenset({"car"})),
    masks={
        "scene": MaskLabels(
            "seg", {0: "road", 1: "sky"}, {0: frozenset({"road"}), 1: frozenset({"sky"})}, SCENE_CLASSES
        )
    },
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that differ in what is labelled on them, so that every process has another share of the labels."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    rng = np.random.default_rng(0)
    with LayoutWriter(folder, LABELS) as writer:
        for i in range(11):
            image = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8)
            mask = np.full((64, 96), 255, np.uint8)
            mask[: 7 * i, : 10 * i] = i % 2
            image[mask == 1] //= 4
            boxes = [[5.0 * j, 10, 5 * j + 20 + i, 50] for j in range(i % 4)]
            split, names = "train" if i < 9 else "val", ["car"] * len(boxes)
            writer.add(split, f"{i}", image, boxes=np.array(boxes).reshape(-1, 4), categories=names,
                       masks={"seg": mask})  # fmt: skip
    return folder


def options(data: Path, out: Path, *more: str) -> list[str]:
    small = [
        "--hw",
        "64",
        "96",
        "--loop.batch-size",
        "4",
        "--loop.workers",
        "0",
        "--loop.warmup",
        "1",
        "--threads",
        "1",
    ]
    often = ["--loop.log-every", "1", "--loop.save-every", str(STOP), "--loop.steps", str(STEPS), "--loop.lr", "1e-3"]
    return ["--data", str(data), "--out", str(out), "--loop.precision", "fp32", *small, *often, *more]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def interrupted_at(stop: int) -> Iterator[None]:
    """Training ends as by Ctrl-C before its step number `stop`, from 0."""
    usual = loop.learning_rate

    def interrupt(step: int, *rest: int) -> float:
        if step == stop:
            raise KeyboardInterrupt
        return usual(step, *rest)

    loop.learning_rate = interrupt
    try:
        yield
    finally:
        loop.learning_rate = usual


def as_one_of_two(rank: int, ports: list[int], folder: Path, toy: Path) -> None:
    """In a process of its own: the norms, whole runs, one that is interrupted, one that goes on and is then too."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)

    def norms(processes: Processes) -> int:
        torch.save(two_norm_steps(processes), folder / f"norms{rank}.pt")
        return 0

    os.environ["MASTER_PORT"] = str(ports[0])
    assert together(norms) == 0
    os.environ["MASTER_PORT"] = str(ports[1])
    assert train.main(options(toy, folder / "two", "--json", str(folder / "summary.json"))) == 0

    for port, stop, more in (
        (ports[2], STOP, options(toy, folder / "cut")),
        (ports[7], STOPS[1], ["--out", str(folder / "twice"), "--resume"]),
    ):
        os.environ["MASTER_PORT"] = str(port)
        with interrupted_at(stop):
            assert train.main(more) == 130
        dist.barrier()  # the first process holds the store: it may not leave before the other has heard
        dist.destroy_process_group()

    torch.set_default_dtype(torch.float32)
    os.environ["MASTER_PORT"] = str(ports[3])
    assert train.main(options(toy, folder / "bf16", "--loop.precision", "bf16")) == 0
    for head, port in zip(("scene", "boxes"), ports[5:7], strict=True):
        os.environ["MASTER_PORT"] = str(port)
        assert train.main(options(toy, folder / head, "--heads", head, "--loop.save-every", str(STEPS))) == 0

    def unreadable(*_: object) -> None:
        raise ValueError("an image that only the second process reads is broken")

    if rank == 1:
        dataset.read_frame = unreadable
    os.environ["MASTER_PORT"] = str(ports[4])
    with (folder / f"stderr{rank}").open("w") as file, contextlib.redirect_stderr(file):
        assert train.main(options(toy, folder / "broken")) != 0
    if rank == 0:  # it holds the store: it may not leave before the other has spoken
        until = time.monotonic() + 60
        while not (folder / "stderr1").read_text() and time.monotonic() < until:
            time.sleep(0.05)


def two_norm_steps(processes: Processes) -> dict[str, torch.Tensor]:
    """Two steps of a small network with both kinds of norm on this process's share of a batch: all that comes out."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.2), BatchNormAct2d(6), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
    )
    network[4].eval()  # frozen
    x, wanted = torch.randn(2, 4, 3, 9, 7) * 3 + 50, torch.randn(4, 4, 7, 5)
    size = processes.share_of(4)
    mine = slice(processes.rank * size, (processes.rank + 1) * size)
    forward = processes.wrap(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    out = {}
    for step in range(2):
        inputs = x[step, mine].clone().requires_grad_()
        answer = forward(inputs)
        loss = (answer - wanted[mine]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert inputs.grad is not None
        out |= {
            f"answer{step}": processes.gather(answer),
            f"grad{step}": processes.gather(inputs.grad) / processes.count,
        }
        out |= {f"grad{step}.{name}": value.grad.clone() for name, value in network.named_parameters()}
        optimizer.step()
    return out | {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    """Networks in float64 for as long as this file is tested."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def runs(double: None, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes wrote, and the run "one" of a single process."""
    folder = tmp_path_factory.mktemp("runs")
    ports = [free_port() for _ in range(8)]
    with interrupted_at(STOPS[0]):
        assert train.main(options(toy, folder / "twice", "--loop.save-every", str(STOPS[0]))) == 130
    torch.multiprocessing.spawn(as_one_of_two, (ports, folder, toy), nprocs=2)
    assert train.main(options(toy, folder / "one")) == 0
    torch.set_default_dtype(torch.float32)
    assert train.main(options(toy, folder / "one_bf16", "--loop.precision", "bf16")) == 0
    torch.set_default_dtype(torch.float64)
    return folder


def test_synchronised_norms_are_batch_norm_over_the_whole_batch(runs: Path) -> None:
    torch.set_num_threads(1)
    whole = two_norm_steps(ALONE)
    for rank in range(2):
        half = torch.load(runs / f"norms{rank}.pt", weights_only=True)
        assert half.keys() == whole.keys()  # a state dict of the same names, so that checkpoints are exchanged
        for name, value in whole.items():
            torch.testing.assert_close(half[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_run(run: Path, whole: Path) -> None:
    """Equal up to rounding: the moments of the gradients, the weights, and the average of the weights."""
    for kind in ("optimizer", "network", "ema"):
        a, b = (load_file(checkpoint.latest(path) / f"{kind}.safetensors") for path in (run, whole))
        assert a.keys() == b.keys()
        for name, value in b.items():
            error = float((a[name] - value).double().norm())
            assert error <= 1e-4 * float(value.double().norm()) + 1e-7, f"{kind} {name}: {error} of {value.norm()}"


def logged(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "lr" in line]


def test_two_processes_train_like_one(runs: Path) -> None:
    assert_same_run(runs / "two", runs / "one")
    one, two = logged(runs / "one"), logged(runs / "two")
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() and {"loss/scene", "loss/boxes"} <= a.keys()
        for name in a.keys() - {"images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=2e-5), name
    assert json.loads((runs / "summary.json").read_text())["step"] == STEPS
    assert len(list((runs / "two").glob("events*"))) == 1


def test_a_run_of_two_processes_is_resumed_by_one(runs: Path) -> None:
    assert checkpoint.latest(runs / "cut").name == f"step_{STOP:06d}"
    assert train.main(["--out", str(runs / "cut"), "--resume"]) == 0
    assert_same_run(runs / "cut", runs / "one")


def test_a_run_that_is_stopped_twice_and_once_goes_on_in_two_ends_with_the_same_figures(runs: Path) -> None:
    assert checkpoint.latest(runs / "twice").name == f"step_{STOPS[1]:06d}"
    assert train.main(["--out", str(runs / "twice"), "--resume"]) == 0
    assert_same_run(runs / "twice", runs / "one")
    found, wanted = (
        loop.flatten(json.loads((runs / run / "metrics.jsonl").read_text().splitlines()[-1])["evaluation"])
        for run in ("twice", "one")
    )
    assert {"toy/masks/scene/mIoU", "toy/boxes/images"} <= wanted.keys()
    assert found == pytest.approx(wanted, abs=2e-3)


def test_two_processes_train_like_one_in_bf16(runs: Path) -> None:
    one, two = logged(runs / "one_bf16"), logged(runs / "bf16")
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        assert b["loss/scene"] == pytest.approx(a["loss/scene"], rel=0.03)


@pytest.mark.parametrize("head", ["scene", "boxes"])
def test_two_processes_train_one_head(runs: Path, head: str) -> None:
    # parts of the pyramid that this head does not read have no gradient to average
    assert checkpoint.latest(runs / head).name == f"step_{STEPS:06d}"
    tasks = {"scene": ["scene"], "boxes": ["boxes", "boxes_one_to_one"]}[head]
    losses = {name for line in logged(runs / head) for name in line if name.startswith("loss/")}
    assert losses == {f"loss/{task}{dataset}" for task in tasks for dataset in ("", "/toy")}


def test_what_only_one_process_meets_ends_all_and_is_said_once(runs: Path) -> None:
    said = [line for rank in range(2) for line in (runs / f"stderr{rank}").read_text().splitlines()]
    assert [line for line in said if "only the second process" in line] == [line for line in said if "error" in line]
    assert len([line for line in said if "only the second process" in line]) == 1, said


def test_the_shares_of_all_processes_are_the_batches_of_one() -> None:
    whole = list(Share(2, 50, 6, ALONE))
    assert whole == list(range(12, 48)) and len(whole) == len(Share(2, 50, 6, ALONE))
    shares = [list(Share(2, 50, 6, Processes(rank, 3))) for rank in range(3)]
    assert [len(share) for share in shares] == [12] * 3 == [len(Share(2, 50, 6, Processes(r, 3))) for r in range(3)]
    together_again = np.array(shares).reshape(3, -1, 2).transpose(1, 0, 2).reshape(-1)
    assert together_again.tolist() == whole


def test_statistics_of_bf16_maps_are_as_exact_as_those_of_batch_norm() -> None:
    x = (torch.randn(4, 6, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 3 + 50).bfloat16()
    whole = nn.BatchNorm2d(6, dtype=torch.float32)
    norm = SyncNorm(nn.BatchNorm2d(6, dtype=torch.float32), lambda value: value).float()
    torch.testing.assert_close(norm(x), whole(x), rtol=0.01, atol=0.01)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norm, name), getattr(whole, name), rtol=1e-5, atol=1e-5)


def test_frozen_norms_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval(), nn.Sequential(BatchNormAct2d(2)))
    names, frozen = network.state_dict().keys(), network[1]
    synchronise_norms(network, ALONE.sum)
    assert isinstance(network[0], SyncNorm) and network[1] is frozen and isinstance(network[2][0], SyncNorm)
    assert network.state_dict().keys() == names
    x = torch.randn(3, 2, 4, 4)
    assert network[2][0](x).min() == 0, "the activation inside the norm is kept"
    plain = nn.BatchNorm2d(2)
    plain.load_state_dict(network[0].state_dict())
    torch.testing.assert_close(network[0].eval()(x), plain.eval()(x))


def test_a_mistake_is_one_line_of_all_processes(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m",
               "perception.train", *options(toy, tmp_path / "run", "--loop.batch-size", "5")]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(lines) == 1 and "multiple of 2" in lines[0], done.stderr
    assert not (tmp_path / "run").exists()
