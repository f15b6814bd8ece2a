"""A model file compiled by OpenVINO for this CPU: an optional second engine beside ONNX Runtime.

OpenVINO computes in bfloat16 where the CPU has instructions for it (AMX, AVX512-BF16), which ONNX Runtime's CPU
provider does not, and in float32 elsewhere. What that changes in the answers is measured: see benchmarks/README.md.
Its wheel brings openvino-telemetry along, for conversion tools; nothing here makes it connect to anyone (a test).
Keep it out of processes that train: beside torch and its forked workers it has hung and crashed a long run of tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np

__all__ = ["Compiled", "openvino_obstacle"]

INSTALL = "pip install openvino"


def openvino_obstacle() -> tuple[str, str] | None:
    """(why OpenVINO can not run here, what mends it); None when nothing speaks against it."""
    return None if find_spec("openvino") else ("it is not installed", INSTALL)


class Compiled:
    """A function from the input `image` to the named outputs, in arrays of their own. Callers take turns.

    Args:
        path: ONNX file that has been checked.
        outputs: names of the outputs that are wanted.
        threads: of one inference; 0 = OpenVINO's choice.

    Attributes:
        description: version and arithmetic, e.g. "2026.4.1, computing in bf16".

    Raises ValueError if OpenVINO can not compile the file.
    """

    def __init__(self, path: Path, outputs: Sequence[str], threads: int) -> None:
        import openvino

        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: OpenVINO can not compile it ({reason})") from None
        self._request, self._lock = compiled.create_infer_request(), Lock()
        self._outputs = {name: compiled.output(name) for name in outputs}
        arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        version = openvino.__version__.split("-")[0]
        self.description = f"{version}, computing in {arithmetic}"

    def __call__(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(B, h, w, 3) uint8 -> the outputs by name."""
        with self._lock:
            found = self._request.infer({"image": tensor}, share_inputs=True, share_outputs=True)
            return {name: np.array(found[output]) for name, output in self._outputs.items()}
