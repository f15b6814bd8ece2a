"""What can run here, what can not, why, and the command that mends it.

Looks at the NVIDIA driver and GPUs, CUDA, cuDNN, TensorRT, ONNX Runtime, the wheels beside it, and video codecs; then
runs the bundled model for two seconds and compares its answer with the one written down. Exit code: 0 = what was asked
for works, 1 = it does not (an "error" is listed), 2 = an option makes no sense. Without --provider any provider will
do, so a machine without a GPU is in order.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import tyro

from perception import __version__
from perception.cli import run
from perception.diagnosis.facts import Facts, collect
from perception.diagnosis.findings import Finding, findings, works
from perception.diagnosis.selftest import EXPECTATION, SECONDS, renew
from perception.execution.providers import LABELS, GpuOptions, Provider

__all__ = ["DoctorConfig", "main", "text"]

WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What must work."""

    provider: Provider = "auto"
    """What must run the model; TensorRT is tried only if it is named here, and may first build for minutes."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """How a GPU is used."""
    seconds: float = SECONDS
    """Length of the self-test; 0 = none."""
    renew: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write down what the bundled model answers on the CPU, after it was replaced: for work on this project."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything as one line of JSON to this file; - = last line of standard output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    errors: list[Finding] = []

    def doctor(config: DoctorConfig) -> dict[str, Any]:
        if config.seconds < 0:
            raise ValueError(f"--seconds must be 0 or more, but got {config.seconds}")
        if config.renew:
            print(f"{EXPECTATION} written")
            return asdict(renew())
        facts = collect(config.provider, config.gpu, config.seconds)
        found = findings(facts, config.provider, config.gpu)
        errors.extend(finding for finding in found if finding.level == "error")
        print(text(facts, found))
        about = {name: sorted(v) if isinstance(v, frozenset) else v for name, v in asdict(facts).items()}
        return {"version": __version__, **about, "findings": [asdict(finding) for finding in found]}

    return run(DoctorConfig, doctor, argv) or int(bool(errors))


def text(facts: Facts, found: Sequence[Finding]) -> str:
    """The diagnosis for people: aligned lines, no colours."""
    return "\n".join(
        [*_machine(facts), "", *_providers(facts), "", *_video(facts), "", *_test(facts), "", *_found(found)]
    )


def _machine(facts: Facts) -> list[str]:
    build = f", built for CUDA {facts.cuda_of_ort}" if facts.cuda_of_ort else ", without CUDA"
    gpus = [f"{gpu.name}, {gpu.memory_mb} MB, compute {gpu.compute[0]}.{gpu.compute[1]}" for gpu in facts.gpus]
    driver = f"{facts.driver or 'version unknown'}, runs CUDA up to {facts.cuda_of_driver}" if gpus else "none found"
    rows = [
        ("driving-perception", f"{__version__}, {facts.system}"),
        ("NVIDIA driver", driver),
        *(("GPU", gpu) for gpu in gpus or [f"none ({facts.no_gpu})"]),
        ("ONNX Runtime", f"{facts.onnxruntime}{build}" if facts.onnxruntime else "missing or broken"),
        *([("cuDNN", facts.cudnn or "not found")] if facts.gpus else []),
        ("TensorRT", facts.tensorrt or "not found"),
        ("wheels", ", ".join(f"{name} {version}" for name, version in facts.packages.items())),
    ]
    return _rows(rows)


def _providers(facts: Facts) -> list[str]:
    rows = []
    for provider, label in LABELS.items():
        if reason := works(facts, provider):
            rows.append((label, f"can not run: {reason[0]}"))
        elif provider in facts.ran:
            rows.append((label, "runs" + (f" ({facts.ran[provider]})" if provider != "cpu" else "")))
        else:
            rows.append((label, f"nothing speaks against it; --provider {provider} tries it"))
    if "auto" in facts.ran:
        rows.append(("auto", f"takes {facts.ran['auto']}"))
    return ["providers", *_rows(rows)]


def _video(facts: Facts) -> list[str]:
    hardware = "NVDEC and NVENC need an NVIDIA GPU" if not facts.gpus else "NVDEC, NVENC: built in, not tried"
    rows = [
        ("decoders", f"{', '.join(facts.decoders) or 'none'} (FFmpeg {facts.ffmpeg} in PyAV)"),
        ("encoders", f"{', '.join(facts.encoders) or 'none'} ({hardware})"),
        ("OpenCV", f"{facts.opencv} (cameras and streams by {', '.join(facts.opencv_video) or 'nothing'})"),
    ]
    return ["video", *_rows(rows)]


def _test(facts: Facts) -> list[str]:
    test = facts.self_test
    if test is None:
        return ["self-test: not run"]
    verdict = "WRONG" if test.wrong else "the expected answer"
    return [f"self-test: bundled model, {verdict}; p50 {test.p50_ms:.1f} ms of {test.runs} runs, batch 1, model alone",
            f"  {test.ran_on}"]  # fmt: skip


def _found(found: Sequence[Finding]) -> list[str]:
    if not found:
        return ["nothing wrong was found"]
    lines = []
    for finding in found:
        lines += _rows([(finding.level, finding.text), *([("  mend", finding.mend)] if finding.mend else [])])
    return lines


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    """ "  name                value", the value wrapped under itself; commands are never broken."""
    lines = []
    for name, value in rows:
        parts = [value] if name.strip() == "mend" else textwrap.wrap(value, WIDTH - 22, break_long_words=False)
        lines += [f"  {name if not i else '':<20}{part}" for i, part in enumerate(parts)]
    return lines


if __name__ == "__main__":
    sys.exit(main())
