"""Facts -> what is wrong, how bad it is, and the command that mends it: pure, and tested with made-up machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from perception.diagnosis.facts import Facts
from perception.execution.compiled import MISSING
from perception.execution.faults import known_faults, version_tuple
from perception.execution.libraries import obstacle
from perception.execution.providers import LABELS, ORT_NAMES, GpuOptions, Provider

__all__ = ["Finding", "findings", "works"]

ORT_WHEELS = ("onnxruntime", "onnxruntime-gpu")
CV_WHEELS = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless", "opencv-python-headless")
REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
BOTH_ORT = "github.com/microsoft/onnxruntime/issues/26996"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    level: Literal["error", "warning", "note"]  # error = what was asked for does not work
    text: str
    mend: str = ""  # a command, or what to do; "" = nothing to be done here


def works(facts: Facts, provider: str) -> tuple[str, str] | None:
    """(why `provider` does not run, what mends it); None if it was started, or nothing speaks against it."""
    if facts.broken:
        return f"ONNX Runtime is missing or broken ({facts.broken})", REINSTALL
    if provider == "openvino":
        if "openvino" not in facts.packages:
            return MISSING
    elif provider != "cpu":
        found = obstacle(
            provider, facts.available, facts.no_gpu, facts.missing.get(provider),
            facts.cuda_of_driver, facts.cuda_of_ort,
        )  # fmt: skip
        if found:
            return found
    return (facts.failed[provider], "") if provider in facts.failed else None


def findings(facts: Facts, asked: Provider, gpu: GpuOptions) -> list[Finding]:
    """All that is wrong, the worst first. `asked` is what must work; with "auto" that is some provider."""
    order = ("error", "warning", "note")
    found = [*_providers(facts, asked), *_wheels(facts), *_faults(facts, asked, gpu), *_video(facts), *_test(facts)]
    return sorted(found, key=lambda finding: order.index(finding.level))


def _providers(facts: Facts, asked: Provider) -> Iterator[Finding]:
    for provider in ("cpu", "openvino", "cuda", "tensorrt"):
        if (reason := works(facts, provider)) is None:
            continue
        if provider == asked or (provider == "cpu" and asked == "auto"):
            yield Finding("error", f"{LABELS[provider]} can not run: {reason[0]}", reason[1])
        elif facts.gpus and provider != "openvino":  # a GPU that lies idle is worth a word; none at all is not
            level: Literal["warning", "note"] = "warning" if provider == "cuda" else "note"
            yield Finding(level, f"{LABELS[provider]} can not run: {reason[0]}", reason[1])


def _wheels(facts: Facts) -> Iterator[Finding]:
    if all(name in facts.packages for name in ORT_WHEELS):
        gone = ORT_NAMES["cuda"] not in facts.available
        yield Finding(
            "warning",
            "onnxruntime and onnxruntime-gpu are both installed, in the same folder"
            + (": the GPU providers are gone" if gone else "")
            + f" ({BOTH_ORT})",
            REINSTALL,
        )
    if len(several := [name for name in CV_WHEELS if name in facts.packages]) > 1:
        yield Finding(
            "warning",
            f"{' and '.join(several)} are installed over each other: which cv2 runs is chance",
            f"pip uninstall -y {' '.join(several)} && pip install opencv-python-headless",
        )
    need = facts.cuda_of_ort.split(".")[0]
    cudnn = [name for name in facts.packages if name.startswith("nvidia-cudnn-cu")]
    if facts.gpus and need and cudnn and f"nvidia-cudnn-cu{need}" not in cudnn:
        yield Finding(
            "warning",
            f"{' and '.join(cudnn)} is installed, but this onnxruntime-gpu needs CUDA {need}",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    wheels = [(name, v) for name, v in facts.packages.items() if name in ("tensorrt", f"tensorrt-cu{need}")]
    if facts.missing.get("tensorrt", "").startswith("libnv") and wheels:
        name, version = wheels[0]
        yield Finding(
            "note",
            f"{name} {version} is installed, but ONNX Runtime asks for {facts.missing['tensorrt']} "
            "(github.com/microsoft/onnxruntime/issues/32278)",
            (works(facts, "tensorrt") or ("", ""))[1],
        )


def _faults(facts: Facts, asked: Provider, gpu: GpuOptions) -> Iterator[Finding]:
    compute = facts.gpus[gpu.device].compute if gpu.device < len(facts.gpus) else None
    for fault in known_faults(facts.tensorrt or None, facts.operators, gpu.fp16, compute):
        level: Literal["error", "warning"] = "error" if fault.refused and asked == "tensorrt" else "warning"
        yield Finding(level, f"TensorRT {facts.tensorrt}: {fault}")


def _video(facts: Facts) -> Iterator[Finding]:
    mend = "pip install --force-reinstall --no-deps 'av>=15'"
    if lacking := [name for name in ("h264", "hevc") if name not in facts.decoders]:
        yield Finding("warning", f"PyAV's FFmpeg can not decode {', '.join(lacking)}", mend)
    if "FFMPEG" not in facts.opencv_video:
        text = f"OpenCV {facts.opencv} was built without FFmpeg: rtsp and http sources can not be opened"
        yield Finding("warning", text, "pip install --force-reinstall --no-deps opencv-python-headless")
    if not facts.encoders:
        yield Finding("warning", "PyAV's FFmpeg has no H.264 encoder: live needs --no-video", mend)
    if facts.packages.get("av") and version_tuple(facts.packages["av"]) < (15,):
        yield Finding("warning", f"PyAV {facts.packages['av']} is older than this project allows", mend)


def _test(facts: Facts) -> Iterator[Finding]:
    if facts.self_test and facts.self_test.wrong:
        yield Finding("error", f"the bundled model answers wrong on {facts.self_test.ran_on}: {facts.self_test.wrong}")
