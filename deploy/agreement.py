"""Does a file on a provider answer like the reference file on the CPU? Class maps, boxes, on real frames.

python deploy/agreement.py REFERENCE.onnx FILE.onnx --provider cuda
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from perception.cli import run
from perception.demo import demo_source
from perception.engine import Engine, Provider
from perception.frames import model_inputs
from perception.parity import compare


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """Compare two files, or one on two providers."""

    reference: Annotated[Path, tyro.conf.Positional]
    """What is taken for the truth, on the CPU."""
    model: Annotated[Path, tyro.conf.Positional]
    """What is compared with it; may be the same file."""
    provider: Provider = "auto"
    """What runs it."""
    source: str | None = None
    """Video or images; left out: demo footage."""
    frames: int = 20
    """How many, spread over the source."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def agreement(config: AgreementConfig) -> dict[str, Any]:
    """Run both on the same frames."""
    truth, other = Engine(config.reference, "cpu"), Engine(config.model, config.provider)
    if truth.input_hw != other.input_hw:
        raise ValueError(f"the files take different inputs, {truth.input_hw} and {other.input_hw}: export one again")
    source = config.source or demo_source()[0]
    tensors = [image[None] for image in model_inputs(source, truth.input_hw, config.frames)]
    if not tensors:
        raise ValueError(f"{source} has no frame")
    parity = compare([dict(truth.run(t)) for t in tensors], [dict(other.run(t)) for t in tensors])
    print(f"{other.provider_reason}\n{len(tensors)} frames\n{parity}")
    return {"provider": other.provider, "frames": len(tensors), **parity.to_json()}


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(AgreementConfig, agreement, argv)


if __name__ == "__main__":
    raise SystemExit(main())
