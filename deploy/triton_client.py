"""perception.live with its model on a Triton server: frames are prepared, tracked and written here, computed there.

    python deploy/triton_client.py VIDEO --server localhost:8000 --model drive-n [--out DIR]

`TritonEngine` stands where perception.Engine stands, so that everything before and after it is the same code and the
answers are those of perception.load: it speaks the HTTP form of the KServe v2 protocol with Triton's binary tensors,
over one connection that stays open. What the model is comes from the server (see deploy/triton_repository.py).

    model = perception.Model(TritonEngine("localhost:8000", "drive-n"))
    result = model(frame_bgr)
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from perception.cli import run
from perception.engine import METADATA_KEY, Metadata
from perception.frames import open_source
from perception.live import LiveConfig, Stop, process
from perception.model import SCORE_THRESHOLD, Model

__all__ = ["ClientConfig", "TritonEngine", "client", "main"]

HEADER = "Inference-Header-Content-Length"  # bytes of JSON before the tensors
TYPES = {"UINT8": np.uint8, "FP32": np.float32}


class TritonEngine:
    """A model on a server, as perception.model.EngineLike describes it. Serves one thread at a time.

    Attributes:
        metadata: what the file said of itself.
        input_hw: (height, width) of the input in pixels.
        provider_reason: one line that says what runs.
    """

    def __init__(self, server: str, name: str, timeout_s: float = 10.0) -> None:
        """Ask `server` (HOST:PORT of its HTTP door) about the model `name`.

        Raises:
            ValueError: the model there does not come from deploy/triton_repository.py, or takes several frames a call.
            OSError: no answer within `timeout_s` seconds, or the server does not have the model.
        """
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"expected a server as HOST:PORT, such as localhost:8000, but got {server!r}")
        self.server, self.name = server, name
        self._connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
        try:
            self.metadata = self._model()
        except BaseException:
            self.close()
            raise
        self.input_hw = self.metadata.input_hw
        self.provider_reason = f"Triton: model {name} at {server}"
        outputs = ["boxes"] * bool(self.metadata.box_names) + list(self.metadata.heads)
        shape = [1, *self.input_hw, 3]
        size = {"binary_data_size": math.prod(shape)}
        self._head = json.dumps(
            {
                "inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "parameters": size}],
                "outputs": [{"name": output, "parameters": {"binary_data": True}} for output in outputs],
            }
        ).encode()

    def run(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        """(1, h, w, 3) uint8 RGB -> what Engine.run gives. Raises OSError if the server does not answer."""
        assert tensor.shape == (1, *self.input_hw, 3) and tensor.dtype == np.uint8
        body, head_size = self._ask("POST", f"/v2/models/{self.name}/infer", self._head + tensor.tobytes())
        outputs, at = {}, head_size
        for output in json.loads(body[:head_size])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(
                body, TYPES[output["datatype"]], size // np.dtype(TYPES[output["datatype"]]).itemsize, at
            )
            outputs[output["name"]] = values.reshape(output["shape"])
            at += size
        return outputs

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _model(self) -> Metadata:
        """What the server says of the model."""
        config = json.loads(self._ask("GET", f"/v2/models/{self.name}/config")[0])
        where = f"{self.server}: model {self.name}"
        try:
            metadata = Metadata.from_json(config["parameters"][METADATA_KEY]["string_value"])
        except KeyError:
            raise ValueError(
                f"{where} has no parameter `{METADATA_KEY}`; deploy/triton_repository.py writes it"
            ) from None
        dims = [int(n) for n in config["input"][0]["dims"]]
        if dims not in ([1, *metadata.input_hw, 3], [*metadata.input_hw, 3]):
            raise ValueError(f"{where} takes {dims}; expected one frame a call; export it with batch 1")
        return metadata

    def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[bytes, int]:
        """(the answer, bytes of JSON at its beginning). A connection that the server has closed is opened again."""
        headers = {"Content-Type": "application/octet-stream", HEADER: str(len(self._head))} if body else {}
        try:
            try:
                answer = self._answer(method, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                answer = self._answer(method, path, body, headers)
            content = answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            reason = str(error) or type(error).__name__
            raise OSError(
                f"{self.server}: no answer ({reason}); is tritonserver running, and its HTTP port open?"
            ) from None
        if answer.status != 200:
            told = content.decode(errors="replace").strip()
            raise OSError(f"{self.server}: expected 200 for {path}, but got {answer.status}: {told[:300]}")
        return content, int(answer.headers.get(HEADER, len(content)))

    def _answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, path, body or None, headers)
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Options of deploy/triton_client.py."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Video file, image folder, glob, camera number or rtsp/http address."""
    server: str = "localhost:8000"
    """HOST:PORT of the server's HTTP door."""
    model: str = "drive-n"
    """Name of the model on the server."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/triton")
    """Folder for the overlay video and the records."""
    max_frames: int | None = None
    """Stop after so many frames."""
    score_threshold: float = SCORE_THRESHOLD
    """As in perception.live."""
    json: str | None = None
    """Write the summary as one line of JSON to this file; - = last line of standard output."""


def client(config: ClientConfig) -> dict[str, Any]:
    """Run the loop of perception.live and return its summary."""
    engine = TritonEngine(config.server, config.model)
    print(engine.provider_reason, flush=True)
    live = LiveConfig(
        model=Path(config.model), out=config.out, max_frames=config.max_frames, score_threshold=config.score_threshold
    )
    with ExitStack() as opened:
        opened.callback(engine.close)
        source = opened.enter_context(open_source(config.source))
        summary = process(live, Model(engine, config.score_threshold / 2), [source], Stop())
    print("{frames} frames, {fps:.1f} a second, {detections} detections; wrote ".format(**summary), end="")
    print(", ".join(summary["files"]), flush=True)
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    return run(ClientConfig, client, argv)


if __name__ == "__main__":
    raise SystemExit(main())
