"""A model file compiled by OpenVINO for this CPU: an optional second engine beside ONNX Runtime.

OpenVINO computes in bfloat16 where the CPU has instructions for it (AMX, AVX512-BF16), which ONNX Runtime's CPU
provider does not, and in float32 elsewhere. What that changes in the answers is measured: see benchmarks/README.md.
Its wheel brings openvino-telemetry along, for conversion tools; nothing here makes it connect to anyone (a test).
A fork copies what OpenVINO holds, but not its threads: a child that destroys a compiled model waits for them for ever,
or ends with "terminate called without an active exception". Garbage collection in a forked worker of torch's loader is
enough; that is how it once hung and crashed a long run of tests. So a child keeps what it was born with (`_keep`), and
`--provider auto` still leaves OpenVINO alone in processes that have torch. A child must not run it, only leave it be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np

__all__ = ["INSTALL", "MISSING", "Compiled", "for_auto", "openvino_for_auto", "openvino_obstacle"]

INSTALL = "pip install openvino"
MISSING = ("it is not installed", INSTALL)  # what is wrong, and what mends it


def openvino_obstacle() -> tuple[str, str] | None:
    """(why OpenVINO can not run here, what mends it); None when nothing speaks against it."""
    return None if find_spec("openvino") else MISSING


def for_auto(installed: bool, loaded: Container[str]) -> str | None:
    """Why `--provider auto` leaves OpenVINO alone, in a few words; None if it takes it.

    Args:
        installed: whether OpenVINO is.
        loaded: names of the modules of this process, as in sys.modules.
    """
    if not installed:
        return f"OpenVINO is not installed ({INSTALL})"
    return "OpenVINO is not taken beside torch in one process" if "torch" in loaded else None


def openvino_for_auto() -> str | None:
    """`for_auto` of this process as it is now."""
    return for_auto(openvino_obstacle() is None, sys.modules)


class Compiled:
    """What `onnxruntime.InferenceSession` is, as far as an engine needs it. Callers take turns.

    Args:
        path: ONNX file that has been checked.
        threads: of one inference; 0 = OpenVINO's choice.
        options: more of OpenVINO's properties, such as {"INFERENCE_PRECISION_HINT": "f32"}.

    Attributes:
        names: of the outputs.
        arithmetic: "bf16" or "f32", or another that the options ask for: what most of the file is computed in.
        description: version and arithmetic, e.g. "2026.4.1, computing in bf16".

    Raises ValueError if OpenVINO can not be loaded, or not compile the file.
    """

    def __init__(self, path: Path, threads: int, options: Mapping[str, str | int] | None = None) -> None:
        wanted: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, **(options or {})}
        if threads:
            wanted["INFERENCE_NUM_THREADS"] = threads
        try:
            import openvino

            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", wanted)
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: OpenVINO can not compile it ({reason})") from None
        self._request, self._lock = compiled.create_infer_request(), Lock()
        _here.add(self)
        self._outputs = {name: output for output in compiled.outputs for name in output.get_names()}
        self.names = tuple(self._outputs)
        self.arithmetic = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        version = openvino.__version__.split("-")[0]
        self.description = f"{version}, computing in {self.arithmetic}"

    def run(self, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs, in arrays of the caller's own, of the input {"image": (B, h, w, 3) uint8 RGB}."""
        with self._lock:
            found = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            return [np.array(found[self._outputs[name]]) for name in names]


_here: WeakSet[Compiled] = WeakSet()  # all of this process
_born_with: list[Any] = []  # in a forked child: what its parent had


def _keep() -> None:
    """In a forked child: let nothing of OpenVINO be destroyed, see the head of this file."""
    _born_with.extend(_here)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
