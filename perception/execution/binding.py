"""How a session is run: from ordinary arrays, or between buffers that stay where they are on the device.

On the CPU input and outputs are where they should be already, so a plain `session.run` is what runs there. A GPU
wants the input in its own memory, and a CUDA graph wants the same addresses and the same thread at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

__all__ = ["Bound", "OneThread", "plain"]

Run = Callable[[np.ndarray], dict[str, np.ndarray]]

NUMPY = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}  # types of the ONNX contract


def plain(session: Any, outputs: Sequence[str]) -> Run:
    """A function from the input `image` to the named outputs, in arrays of their own. Any thread may call it."""
    return lambda tensor: dict(zip(outputs, session.run(outputs, {"image": tensor}), strict=True))


class Bound:
    """The same, through one input buffer and one buffer for each output at fixed addresses on a device.

    Callers get copies, so that an answer stays what it is while the next one is computed. One caller at a time: others
    wait. Its logic is tested on the CPU; it has not been run on a GPU. Host memory is ordinary, not pinned.

    Args:
        session: of onnxruntime, whose shapes are all fixed.
        outputs: names of the outputs that are wanted.
        device: "cpu" or "cuda".
        index: which of the devices.

    Raises ValueError where a shape is open.
    """

    def __init__(self, session: Any, outputs: Sequence[str], device: str, index: int = 0) -> None:
        import onnxruntime

        nodes = {node.name: node for node in [*session.get_inputs(), *session.get_outputs()]}
        if open_ := [name for name in ("image", *outputs) if not all(isinstance(n, int) for n in nodes[name].shape)]:
            raise ValueError(f"buffers need fixed shapes, but {', '.join(open_)} is open")

        def buffer(name: str) -> Any:
            node = nodes[name]
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(node.shape, NUMPY[node.type], device, index)

        self._session, self._lock = session, Lock()
        self._image = buffer("image")
        self._outputs = {name: buffer(name) for name in outputs}
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("image", self._image)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Of the input and of each output, on the device."""
        return tuple(value.data_ptr() for value in (self._image, *self._outputs.values()))

    def __call__(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """(B, h, w, 3) uint8 -> the outputs by name."""
        with self._lock:
            self._image.update_inplace(np.ascontiguousarray(tensor))
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


class OneThread:
    """Calls a function in one thread of its own, whoever asks: a CUDA graph is recorded and replayed by one thread.

    The caller waits, and gets the exception where there is one. The thread ends with the process.
    """

    def __init__(self, run: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> None:
        self._run, self._pool = run, ThreadPoolExecutor(1, thread_name_prefix="engine")

    def __call__(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        return dict(self._pool.submit(self._run, tensor).result())
