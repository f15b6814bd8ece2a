"""Training in several processes, one a GPU, as torchrun starts them: what one process needs to know of the others.

torchrun --nproc-per-node 4 -m perception.train --data DIR --out RUN

Every process computes its slice of the same global batch. Sums that normalise a loss, and batch norms, are taken over
all of it, and DistributedDataParallel averages the gradients, so the run is that of one process up to rounding.
Stochastic depth and dropout are the exception: their random numbers are drawn by each process for its own slice.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from perception.cli import Config, run
from perception.training.norms import synchronise_norms

__all__ = ["ALONE", "Processes", "Share", "run_together", "together"]

PATIENCE = timedelta(hours=12)  # the first process evaluates and saves while the others wait
SAID = "perception: said what is wrong"  # a key in the store of the group
PATIENCE_WITH_MAIN = timedelta(seconds=20)  # how long a process that fails waits for the first one to fail too


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is. One alone is the ordinary case, and everything here is trivial for it."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU

    @property
    def main(self) -> bool:
        """Whether this is the one that prints, logs, evaluates and saves."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def share_of(self, batch_size: int) -> int:
        """The samples of a global batch that each process takes. Raises ValueError if it is no whole number."""
        if batch_size % self.count:
            raise ValueError(
                f"--loop.batch-size {batch_size} is the batch of all {self.count} processes together: expected a "
                f"multiple of {self.count}, such as {max(1, round(batch_size / self.count)) * self.count}"
            )
        return batch_size // self.count

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes of a tensor that takes no gradient."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """The (b, ...) slices of all processes as the (B, ...) of the global batch, without gradient."""
        if self.count == 1:
            return value.detach()
        slices = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(slices, value.detach().contiguous())
        return torch.cat(slices)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier(device_ids=[self.local_rank] if dist.get_backend() == "nccl" else None)

    def wrap(self, network: nn.Module, unread: bool = False) -> nn.Module:
        """What to call instead of `network`, which is in training mode: it averages the gradients over the processes.

        Batch norms in `network` are replaced by synchronised ones, under the same names. `unread` says that some of its
        parameters reach none of its outputs.
        """
        if self.count == 1:
            return network
        synchronise_norms(network, self.sum)
        device_ids = [self.local_rank] if torch.cuda.is_available() else None
        return DistributedDataParallel(network, device_ids=device_ids, find_unused_parameters=unread)


ALONE = Processes()


@dataclass(frozen=True, slots=True)
class Share:
    """The numbers of the samples that one process reads, in order: its slice of every whole batch from `start` on."""

    start: int  # steps
    total: int  # samples
    batch_size: int  # global
    processes: Processes

    def __iter__(self) -> Iterator[int]:
        size = self.batch_size // self.processes.count
        for first in range(self.start * self.batch_size, self.total - self.batch_size + 1, self.batch_size):
            yield from range(first + self.processes.rank * size, first + (self.processes.rank + 1) * size)

    def __len__(self) -> int:
        return max(0, self.total // self.batch_size - self.start) * (self.batch_size // self.processes.count)


def run_together(
    config: type[Config], body: Callable[[Config, Processes], dict[str, Any]], argv: Sequence[str] | None = None
) -> int:
    """perception.cli.run of a `body` that also takes its Processes, in all of them; only the first gives a summary."""

    def with_others(processes: Processes) -> int:
        @functools.wraps(body)  # the help shows the docstring of its module
        def start(options: Config) -> dict[str, Any]:
            summary = body(options, processes)
            if not processes.main:
                raise SystemExit(0)  # one summary is enough
            return summary

        return run(config, start, argv)

    return together(with_others)


def together(work: Callable[[Processes], int]) -> int:
    """Call `work` in the processes that torchrun started, joined in a group, or alone without torchrun; the exit code.

    Only the first process writes to standard output and error, so that a mistake is one line and not one a process.
    Another one speaks only if the first does not fail too.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))  # this is how torchrun tells its processes who they are
    if count == 1:
        return work(ALONE)
    one = Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
    cuda = torch.cuda.is_available()
    if cuda and one.local_rank >= torch.cuda.device_count():
        print(f"error: process {one.local_rank} has no GPU of its own; lower --nproc-per-node", file=sys.stderr)
        return 2
    if cuda:
        torch.cuda.set_device(one.local_rank)
    store, _, _ = next(iter(rendezvous("env://")))
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=one.rank, world_size=count, timeout=PATIENCE)

    code, unsaid = 1, io.StringIO()
    quiet = contextlib.nullcontext() if one.main else contextlib.redirect_stderr(unsaid)
    try:
        with quiet, contextlib.nullcontext() if one.main else contextlib.redirect_stdout(io.StringIO()):
            code = work(one)
    except SystemExit as leaving:  # tyro, after it has printed what is wrong with an option
        code = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        unsaid.write(traceback.format_exc())
    if code == 0:
        dist.destroy_process_group()
    elif one.main or not heard(store):
        if not heard(store, timedelta(milliseconds=1)):  # else the failure of another one has broken the connection
            print(unsaid.getvalue(), end="", file=sys.stderr, flush=True)
        store.set(SAID, "yes")
    return code


def heard(store: Store, patience: timedelta = PATIENCE_WITH_MAIN) -> bool:
    """Whether another process has said within that time what went wrong."""
    try:
        store.wait([SAID], patience)
    except dist.DistNetworkError:  # whoever kept the store has left
        return True
    except RuntimeError:
        return False
    return True
