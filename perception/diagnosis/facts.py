"""Everything that the diagnosis knows of this machine, collected in one place; all judgement is in findings.py."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from typing import Any, Literal

from perception.diagnosis.selftest import SelfTest, self_test
from perception.engine import Engine
from perception.execution.compiled import openvino_obstacle
from perception.execution.libraries import (
    Gpu,
    cuda_driver,
    cuda_of_onnxruntime,
    cudnn_version,
    driver_version,
    missing_library,
    obstacle,
    preload,
    tensorrt_version,
)
from perception.execution.providers import ORT_NAMES, GpuOptions, Provider
from perception.execution.session import operators
from perception.model import BUNDLED_MODEL

__all__ = ["DECODERS", "ENCODERS", "Facts", "collect"]

PACKAGES = re.compile(
    r"(onnxruntime|opencv|tensorrt|nvidia-(cudnn|cublas|cuda-runtime))[a-z0-9_.-]*|openvino|av|numpy|scipy|torch"
)
VIDEO = re.compile(r"^ *(FFMPEG|GStreamer|v4l/v4l2|DSHOW|DirectShow|Media Foundation|AVFoundation): +YES", re.MULTILINE)
DECODERS = ("h264", "hevc", "av1", "h264_cuvid", "hevc_cuvid")  # FFmpeg's names; cuvid is NVDEC
ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "h264_nvenc", "hevc_nvenc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found. An empty text or collection means: there is none."""

    system: str  # e.g. "Linux x86_64, Python 3.11.9"
    packages: Mapping[str, str] = field(default_factory=dict)  # installed wheels that matter -> version
    onnxruntime: str = ""  # version
    broken: str = ""  # why ONNX Runtime can not be imported
    cuda_of_ort: str = ""  # that ONNX Runtime was built for, e.g. "13.0"
    available: tuple[str, ...] = ()  # providers that ONNX Runtime was built with, by its own names
    no_gpu: str = ""  # why there is no GPU
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""  # version
    cuda_of_driver: str = ""  # the newest that it runs
    missing: Mapping[str, str] = field(default_factory=dict)  # "cuda", "tensorrt" -> the library that is missing
    cudnn: str = ""  # version; looked for where there is a GPU
    tensorrt: str = ""  # version
    failed: Mapping[str, str] = field(default_factory=dict)  # provider that was tried -> why it did not start
    ran: Mapping[str, str] = field(default_factory=dict)  # provider that was tried, also "auto" -> its reason line
    operators: frozenset[str] = frozenset()  # of the bundled model
    decoders: tuple[str, ...] = ()  # of DECODERS, those that FFmpeg has
    encoders: tuple[str, ...] = ()  # of ENCODERS
    ffmpeg: str = ""  # version inside PyAV
    opencv: str = ""  # version
    opencv_video: tuple[str, ...] = ()  # what OpenCV opens cameras and streams with, e.g. "FFMPEG", "v4l/v4l2"
    self_test: SelfTest | None = None  # None = it could not run


def collect(asked: Provider, gpu: GpuOptions, seconds: float) -> Facts:
    """Look at this machine. TensorRT and OpenVINO are tried only if they are asked for.

    Args:
        asked: provider of the self-test.
        gpu: how a GPU is used in it.
        seconds: length of the self-test; 0 = none.
    """
    import av
    import cv2

    onnxruntime, broken = _onnxruntime()
    available = tuple(onnxruntime.get_available_providers()) if onnxruntime else ()
    gpus: tuple[Gpu, ...] = ()
    no_gpu, cuda, missing = "", "", {}
    try:
        gpus, cuda = cuda_driver()
    except OSError as error:
        no_gpu = str(error)
    else:
        for provider in (name for name in ("cuda", "tensorrt") if ORT_NAMES[name] in available):
            preload(provider)
            if library := missing_library(provider):
                missing[provider] = library
    ran, failed = {}, {}
    for provider in ("cpu", "openvino", "cuda", "tensorrt", "auto") if onnxruntime else ():
        about = (available, no_gpu, missing.get(provider), cuda, cuda_of_onnxruntime())
        untried = provider in ("tensorrt", "openvino") and asked != provider
        on_gpu = provider in ("cuda", "tensorrt")
        if untried or (on_gpu and obstacle(provider, *about)) or (provider == "openvino" and openvino_obstacle()):
            continue
        try:
            options = gpu if provider == asked else GpuOptions(device=gpu.device)
            ran[provider] = Engine(BUNDLED_MODEL, provider, 0, options).provider_reason  # type: ignore[arg-type]
        except (ValueError, OSError) as error:
            failed[provider] = str(error)
    tested = None
    if seconds > 0 and not (asked != "auto" and asked not in ran) and "cpu" in ran:
        tested = self_test(asked, gpu, seconds=seconds)
    return Facts(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        packages=_packages(),
        onnxruntime=onnxruntime.__version__ if onnxruntime else "",
        broken=broken,
        cuda_of_ort=cuda_of_onnxruntime() if onnxruntime else "",
        available=available,
        no_gpu=no_gpu,
        gpus=gpus,
        driver=driver_version() or "",
        cuda_of_driver=cuda,
        missing=missing,
        cudnn=(cudnn_version() or "") if gpus else "",
        tensorrt=(tensorrt_version() or "") if onnxruntime else "",
        failed=failed,
        ran=ran,
        operators=frozenset(operators(BUNDLED_MODEL) if onnxruntime else ()),
        decoders=_codecs(DECODERS, "r"),
        encoders=_codecs(ENCODERS, "w"),
        ffmpeg=str(getattr(av, "ffmpeg_version_info", "")),
        opencv=cv2.__version__,
        opencv_video=tuple(VIDEO.findall(cv2.getBuildInformation())),
        self_test=tested,
    )


def _onnxruntime() -> tuple[Any, str]:
    """(the module, ""), or (None, why not): uninstalling one of two builds takes files of the other along."""
    try:
        import onnxruntime
    except ImportError as error:
        return None, str(error)
    if not hasattr(onnxruntime, "InferenceSession"):
        return None, "its folder lacks files"
    return onnxruntime, ""


def _packages() -> dict[str, str]:
    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", str(distribution.metadata["Name"] or "")).lower()
        if PACKAGES.fullmatch(name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _codecs(names: Iterable[str], mode: Literal["r", "w"]) -> tuple[str, ...]:
    """Those that PyAV's FFmpeg was built with; whether the hardware is there is another question."""
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    found = []
    for name in names:
        try:
            Codec(name, mode)
        except UnknownCodecError:
            continue
        found.append(name)
    return tuple(found)
