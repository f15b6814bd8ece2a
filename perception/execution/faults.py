"""Versions that are known to compute wrong numbers without a word, each with the report that says so.

They were found in public issue trackers, not by us: no GPU was at hand. A fault is matched by version, precision, the
kinds of nodes in the graph and the GPU. Where a report names the version that mended it, the range ends there; else it
stays open, and only warns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = ["FAULTS", "Fault", "known_faults", "version_tuple"]

ATTENTION = frozenset({"MatMul", "Softmax"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One known fault of TensorRT."""

    since: str  # first version reported wrong
    before: str | None  # first version reported right; None = none known
    ops: frozenset[str]  # all of these are in the graph
    fp16: bool  # only in 16 bits
    compute: tuple[int, int] | None = None  # only on GPUs of this compute capability
    what: str
    source: str  # address of the report

    @property
    def refused(self) -> bool:
        """Whether it is an error rather than a warning: there is a version to go to."""
        return self.before is not None

    def __str__(self) -> str:
        remedy = (
            f"use TensorRT {self.before} or newer, or provider cuda" if self.before else "compare with provider cuda"
        )
        return f"{self.what} ({self.source}); {remedy}"


FAULTS = (
    Fault(
        since="10.3", before="10.6", ops=ATTENTION, fp16=True,
        what="TensorRT 10.3 to 10.5 in FP16 gives ViTs wrong answers: one class everywhere, no boxes",
        source="github.com/NVIDIA/TensorRT/issues/4723, github.com/Intellindust-AI-Lab/DEIMv2/issues/112",
    ),
    Fault(
        since="10.4", before="10.5", ops=ATTENTION, fp16=False,
        what="TensorRT 10.4 gives a ViT wrong answers even in FP32",
        source="github.com/NVIDIA/TensorRT/issues/4742",
    ),
    Fault(
        since="10.0", before=None, ops=ATTENTION, fp16=True, compute=(12, 0),
        what="TensorRT's fused attention was wrong in FP16 on GPUs of compute capability 12.0, up to 10.16",
        source="github.com/NVIDIA/TensorRT/issues/4837",
    ),
    Fault(
        since="10.13", before=None, ops=frozenset({"GridSample"}), fp16=False,
        what="TensorRT computed GridSample of opset 20 wrong",
        source="github.com/NVIDIA/TensorRT/issues/4646",
    ),
    Fault(
        since="11.2", before=None, ops=frozenset({"Conv", "Add", "Concat"}), fp16=True,
        what="TensorRT 11.2 in FP16 may read a residual beside a concatenation wrong",
        source="github.com/NVIDIA/TensorRT/issues/4854",
    ),
)  # fmt: skip


def known_faults(
    tensorrt: str | None,
    ops: Iterable[str],
    fp16: bool,
    compute: tuple[int, int] | None = None,
    faults: Collection[Fault] = FAULTS,
) -> list[Fault]:
    """The faults that meet this TensorRT, graph, precision and GPU; none where TensorRT's version is not known.

    Args:
        tensorrt: version as "10.4.0"; None = it is not used.
        ops: kinds of the graph's nodes.
        fp16: whether TensorRT may compute in 16 bits.
        compute: compute capability of the GPU; None = not known, and a fault of one GPU alone is then kept.
    """
    if tensorrt is None:
        return []
    kinds, version = frozenset(ops), version_tuple(tensorrt)
    return [
        fault
        for fault in faults
        if version_tuple(fault.since) <= version
        and (fault.before is None or version < version_tuple(fault.before))
        and fault.ops <= kinds
        and (fp16 or not fault.fp16)
        and (fault.compute is None or compute is None or fault.compute == compute)
    ]


def version_tuple(version: str) -> tuple[int, ...]:
    """ "10.4.0.26" -> (10, 4, 0, 26), so that versions can be compared; what is no number ends it."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
