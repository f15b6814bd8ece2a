"""One runtime of benchmarks/runtimes.py, in a process of its own: started there, told and asked as peer_worker.py is.

"frames" are the model's input tensors, (h, w, 3) uint8 RGB; a frame is one call with a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_worker import Kinds, System, main


class OnnxRuntime(System):
    """As perception.live runs the file on the CPU."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        from perception.engine import Engine

        engine = Engine(options["file"], "cpu", options["threads"])
        self.answer: Callable[[np.ndarray], object] = engine.run
        self.about = engine.provider_reason
        self.frame(frame)

    def frame(self, image: np.ndarray) -> int:
        self.answer(image[None])
        return 0


class OpenVino(OnnxRuntime):
    """The file in OpenVINO; `arithmetic` is what it must compute in, "" = its own choice."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        self.options = options
        from perception.execution.compiled import Compiled

        wish = options["arithmetic"]
        hint = {"INFERENCE_PRECISION_HINT": wish} if wish else {}
        compiled = Compiled(Path(options["file"]), options["threads"], hint)
        if wish not in ("", compiled.arithmetic):
            raise ValueError(f"OpenVINO computes in {compiled.arithmetic} on this CPU, not in {wish}")
        names = compiled.names
        self.answer = lambda tensor: compiled.run(names, {"image": tensor})
        self.about = compiled.description
        self.frame(frame)


class Torch(OnnxRuntime):
    """The file's network in torch, eager: its CPU kernels are oneDNN's."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        self.options = options
        import torch

        from perception.training.from_onnx import network_from_onnx

        torch.set_num_threads(options["threads"])
        network = network_from_onnx(Path(options["file"])).eval()

        def answer(tensor: np.ndarray) -> Any:
            with torch.inference_mode():
                return network.predict(torch.from_numpy(tensor))

        self.answer, self.about = answer, f"{torch.__version__.split('+')[0]}, eager"
        self.frame(frame)


KINDS: Kinds = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "torch": Torch}

if __name__ == "__main__":
    raise SystemExit(main(KINDS))
