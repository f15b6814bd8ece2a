"""Frames through a Triton server, with the answers of `perception.load()`.

pip install 'tritonclient[http]'
python deploy/triton_client.py VIDEO --url localhost:8000 --model drive-t

Only `run` differs from the local engine: the metadata comes from the same ONNX file that the repository was made of, and
pre- and postprocessing are `perception.model`'s, so the results are those of the local model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from perception.cli import run
from perception.engine import Engine, Metadata
from perception.frames import open_source
from perception.model import BUNDLED_MODEL, Model


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Send frames to Triton and print what it finds."""

    source: Annotated[str, tyro.conf.Positional]
    """Video, image, folder, glob, camera or stream."""
    url: str = "localhost:8000"
    """HTTP address of the server."""
    model: str = "drive-t"
    """Name of the model there."""
    file: Path = BUNDLED_MODEL
    """The ONNX file that the repository was made of: it says what the answers mean."""
    max_frames: int = 100
    """Stop after so many frames."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


class TritonEngine:
    """A model on a Triton server, in the place of perception.engine.Engine."""

    def __init__(self, url: str, model: str, metadata: Metadata) -> None:
        self.metadata, self.input_hw, self._model = metadata, metadata.input_hw, model
        self._client = InferenceServerClient(url)
        names = ["boxes"] * bool(metadata.box_names) + list(metadata.heads)
        self._outputs = [InferRequestedOutput(name, binary_data=True) for name in names]

    def run(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """See perception.model.EngineLike.run. Raises ValueError with the server's words; OSError if there is none."""
        image = InferInput("image", list(tensor.shape), "UINT8")
        image.set_data_from_numpy(tensor)
        try:
            answer = self._client.infer(self._model, [image], outputs=self._outputs)
        except InferenceServerException as error:
            raise ValueError(f"Triton refused {self._model!r}: {error}") from None
        return {output.name(): answer.as_numpy(output.name()) for output in self._outputs}


def follow(config: ClientConfig) -> dict[str, Any]:
    """Send frames; counts and the median round trip."""
    model = Model(TritonEngine(config.url, config.model, Engine(config.file, "cpu").metadata))
    found, spent = 0, []
    with open_source(config.source) as frames:
        for frame in islice(frames, config.max_frames):
            begin = time.perf_counter()
            result = model(frame.image)
            spent.append(1e3 * (time.perf_counter() - begin))
            found += len(result.boxes)
    if not spent:
        raise ValueError(f"{config.source} has no frame")
    print(f"{len(spent)} frames, {found} boxes, median {np.median(spent):.1f} ms a frame with the way there and back")
    return {"frames": len(spent), "boxes": found, "p50_ms": float(np.median(spent))}


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(ClientConfig, follow, argv)


if __name__ == "__main__":
    raise SystemExit(main())
