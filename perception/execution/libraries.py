"""Which NVIDIA driver, GPUs and libraries are here, and why a provider can not run: asked through ctypes alone.

Not run on a GPU: there, each function loads what it needs and reports the first thing that is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.execution.providers import LABELS, ORT_NAMES

__all__ = [
    "REMEDY",
    "Gpu",
    "cuda_driver",
    "cuda_of_onnxruntime",
    "cudnn_version",
    "driver_version",
    "missing_library",
    "obstacle",
    "preload",
    "remedy",
    "tensorrt_major",
    "tensorrt_version",
    "why_not",
]

DRIVER, NVML = ("nvcuda.dll", "nvml.dll") if sys.platform == "win32" else ("libcuda.so.1", "libnvidia-ml.so.1")
CUDNN = "libcudnn.so.9"
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # CUdevice_attribute
REMEDY = {  # what to install when a provider's libraries are missing
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "tensorrt": "pip install 'tensorrt-cu13<11' 'onnxruntime-gpu[cuda,cudnn]'",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as the driver describes it."""

    name: str
    compute: tuple[int, int]  # compute capability
    memory_mb: int


def cuda_driver() -> tuple[tuple[Gpu, ...], str]:
    """(the GPUs, the newest CUDA that the driver runs, as "13.0"). Raises OSError if there is no driver or no GPU."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        raise OSError(f"no NVIDIA GPU/driver found ({DRIVER})") from None
    number = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number)) or not number.value:
        raise OSError(f"the NVIDIA driver ({DRIVER}) finds no GPU")
    gpus = tuple(_gpu(cuda, index) for index in range(number.value))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return gpus, f"{number.value // 1000}.{number.value % 1000 // 10}"


def _gpu(cuda: Any, index: int) -> Gpu:
    name, device, number = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    size = ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    compute = []
    for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        compute.append(number.value)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name.value.decode(errors="replace"), (compute[0], compute[1]), size.value // 2**20)


def driver_version() -> str | None:
    """Version of the NVIDIA driver, e.g. "580.95.05"; None where NVML is missing or does not say."""
    try:
        nvml = ctypes.CDLL(NVML)
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text)):
            return None
    except (OSError, AttributeError):
        return None
    return text.value.decode(errors="replace")


def preload(provider: str) -> None:
    """Load the CUDA, cuDNN and TensorRT libraries that pip installed, where the linker would not find them.

    Where torch is imported already and its copies do, they are kept: a second copy of cuDNN in one process asks for
    trouble (github.com/microsoft/onnxruntime/pull/23744). ONNX Runtime prints what it can not find; `why_not` says the
    same in one line.
    """
    import onnxruntime

    if "torch" in sys.modules and missing_library(provider) is None:
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RuntimeError):
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        if provider == "tensorrt":
            with contextlib.suppress(ImportError):
                importlib.import_module("tensorrt_libs")  # NVIDIA's wheel loads its libraries on import


def missing_library(provider: str) -> str | None:
    """The first library that a provider of ONNX Runtime needs and the loader can not find; None = all are there.

    Linux only; call `preload` first. cuDNN is asked for as well: ONNX Runtime loads it no sooner than at the first
    convolution.
    """
    if sys.platform == "win32":
        return None
    for name in (str(_provider_library(provider)), CUDNN):
        try:
            ctypes.CDLL(name)
        except OSError as error:
            if "cannot open shared object" in str(error):  # another complaint is left to ONNX Runtime itself
                return str(error).split(":")[0]
    return None


def remedy(provider: str, library: str, cuda_of_driver: str, cuda_of_ort: str) -> str:
    """The command that mends a missing library, e.g. "libcublasLt.so.13".

    Args:
        provider: "cuda" or "tensorrt".
        library: name of the file that the loader did not find.
        cuda_of_driver: the newest CUDA that the driver runs, e.g. "12.4"; "" = not known.
        cuda_of_ort: the CUDA that ONNX Runtime was built for, e.g. "13.0"; "" = not known.
    """
    have, need = (int(text.split(".")[0] or 0) for text in (cuda_of_driver, cuda_of_ort))
    if have and need and have < need:
        return f"the driver runs CUDA {cuda_of_driver} and onnxruntime-gpu was built for {cuda_of_ort}: " + (
            "update the driver, or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"
            if have >= 12
            else "update the driver"
        )
    major = re.search(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)", library)
    if provider == "tensorrt" and major:
        newest = int(major[1]) + 1  # another major version has other file names, and pip takes the newest
        return f"pip install 'tensorrt-cu{need or 13}<{newest}'"
    return REMEDY["cuda"]


def cudnn_version() -> str | None:
    """Version of cuDNN 9 as the process finds it, e.g. "9.24.0"; None = it is not there. Call `preload` first."""
    try:
        number = int(ctypes.CDLL("cudnn64_9.dll" if sys.platform == "win32" else CUDNN).cudnnGetVersion())  # 92400
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def tensorrt_major() -> int:
    """Major version of the TensorRT that the installed ONNX Runtime was linked with; 10 where it does not say."""
    try:
        found = re.search(rb"libnvinfer\.so\.(\d+)", _provider_library("tensorrt").read_bytes())
    except OSError:
        return 10
    return int(found[1]) if found else 10


def tensorrt_version() -> str | None:
    """Version of TensorRT's library as the process finds it, e.g. "10.9.0"; None = it is not there."""
    major = tensorrt_major()
    name = f"nvinfer_{major}.dll" if sys.platform == "win32" else f"libnvinfer.so.{major}"
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())  # 100900: since version 10 two digits each
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _provider_library(provider: str) -> Path:
    """The file that holds a provider of ONNX Runtime, on Linux."""
    import onnxruntime

    return Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"


def obstacle(
    provider: str, available: Collection[str], no_gpu: str, library: str | None, cuda_of_driver: str, cuda_of_ort: str
) -> tuple[str, str] | None:
    """(why a GPU provider can not run, what mends it), from what was found out; None when nothing speaks against it.

    Args:
        provider: "cuda" or "tensorrt".
        available: names of the providers that ONNX Runtime was built with.
        no_gpu: why there is no GPU; "" = there is one.
        library: the library that is missing, None = none.
        cuda_of_driver, cuda_of_ort: as in `remedy`.
    """
    if ORT_NAMES[provider] not in available:
        mend = "pip uninstall -y onnxruntime && pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'"
        return f"this onnxruntime was built without {LABELS[provider]}", mend
    if no_gpu:
        return no_gpu, ""
    if library:
        return f"{library} is missing", remedy(provider, library, cuda_of_driver, cuda_of_ort)
    return None


def why_not(provider: str) -> str | None:
    """Why a GPU provider can not run here, with the remedy where there is one; None when nothing speaks against it."""
    import onnxruntime

    no_gpu, library, cuda = "", None, ""
    try:
        _, cuda = cuda_driver()
    except OSError as error:
        no_gpu = str(error)
    else:
        preload(provider)
        library = missing_library(provider)
    found = obstacle(provider, onnxruntime.get_available_providers(), no_gpu, library, cuda, cuda_of_onnxruntime())
    return "; ".join(part for part in found if part) if found else None


def cuda_of_onnxruntime() -> str:
    """The CUDA that the installed ONNX Runtime was built for, e.g. "13.0"; "" for a build without CUDA."""
    import onnxruntime

    return str(getattr(onnxruntime, "cuda_version", "") or "")
