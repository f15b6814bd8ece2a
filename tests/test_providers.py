"""perception.execution.providers, faults, waiting: what is asked of ONNX Runtime and what is made of its answers."""

from __future__ import annotations

import mmap
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from perception.execution import libraries
from perception.execution.faults import FAULTS, known_faults, version_tuple
from perception.execution.libraries import remedy
from perception.execution.providers import GpuOptions, Node, engine_folder, graph_obstacle, left_out, provider_list
from perception.execution.waiting import waiting

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
EVERYTHING = GpuOptions(device=1, memory_limit_mb=2048, cuda_graph=True, fp16=True)
VIT = {"MatMul", "Softmax", "LayerNormalization", "Conv", "Add"}


def test_cuda_is_asked_for_with_a_limit_and_a_graph() -> None:
    assert provider_list("cuda", EVERYTHING, Path("e")) == [
        (CUDA, {"device_id": "1", "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": "1",
                "gpu_mem_limit": "2147483648"})
    ]  # fmt: skip
    assert provider_list("cpu", EVERYTHING, Path("e")) == [(CPU, {})]


def test_tensorrt_keeps_what_it_builds_and_has_cuda_behind_it() -> None:
    (first, options), (second, cuda) = provider_list("tensorrt", EVERYTHING, Path("engines"))
    assert (first, second) == (TENSORRT, CUDA)
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "engines"
    assert (
        options["trt_fp16_enable"] == options["trt_layer_norm_fp32_fallback"] == options["trt_cuda_graph_enable"] == "1"
    )
    assert cuda["enable_cuda_graph"] == "0"  # TensorRT records; CUDA beside it must not
    plain = provider_list("tensorrt", GpuOptions(), Path("engines"))[0][1]
    assert plain["trt_fp16_enable"] == "0" and "trt_max_workspace_size" not in plain


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_installed_libraries_know_every_option(provider: str) -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.exists():
        pytest.skip("this onnxruntime has no GPU providers, or is not Linux's")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        unknown = [
            name for name in provider_list(provider, EVERYTHING, Path())[0][1] if content.find(name.encode()) < 0
        ]
        assert unknown == []


@pytest.mark.parametrize("options", [{"device": -1}, {"memory_limit_mb": 0}])
def test_options_that_can_not_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"gpu.{next(iter(options))} must be"):
        provider_list("cuda", GpuOptions(**options), Path())  # type: ignore[arg-type]


def test_each_model_gpu_and_version_has_engines_of_its_own() -> None:
    ways = [("ab" * 32, "NVIDIA T4", "1.31.1", "10.9.0"), ("cd" * 32, "NVIDIA T4", "1.31.1", "10.9.0"),
            ("ab" * 32, "NVIDIA L4", "1.31.1", "10.9.0"), ("ab" * 32, "NVIDIA T4", "1.30.0", "10.9.0"),
            ("ab" * 32, "NVIDIA T4", "1.31.1", "10.9.1")]  # fmt: skip
    folders = [engine_folder(Path("root"), *way) for way in ways]
    assert len(set(folders)) == 5 and folders[0] == Path("root/abababababababab-NVIDIA-T4-ort1.31.1-trt10.9.0")
    assert engine_folder(Path("root"), "a", "../../x/y", "1", "2").parent == Path("root")


def test_nodes_elsewhere_are_counted_and_named() -> None:
    nodes = [Node(CUDA, "c", "Conv")] * 7 + [Node(CPU, "top", "TopK"), Node(CPU, "", "NonZero")]
    assert left_out(nodes, "cuda") == ", but 2 nodes (TopK top, NonZero) of 9 on CPU"
    assert left_out(nodes[:7], "cuda") == "" and left_out([], "cuda") == ""
    assert "7 nodes (Conv c, Conv c, Conv c, Conv c, Conv c, ...) of 9 on CUDA and 2" in left_out(nodes, "tensorrt")


def test_what_stands_against_a_cuda_graph() -> None:
    conv, fixed = Node(CUDA, "c", "Conv"), [[1, 64, 96, 3], [1, 4, 6]]
    assert graph_obstacle([conv], "cuda", fixed) is None
    assert graph_obstacle([conv, Node(CUDA, "", "Loop")], "cuda", fixed) == "it has Loop"
    assert graph_obstacle([conv, Node(CPU, "t", "TopK")], "cuda", fixed) == "1 node (TopK t) not on CUDA"
    assert graph_obstacle([conv], "cuda", [[1, "k", 6]]) == "a shape is open"


@pytest.mark.parametrize(
    ("tensorrt", "ops", "fp16", "compute", "sources"),
    [
        ("10.3.0", VIT, True, (8, 9), ["4723"]),
        ("10.5.9", VIT, True, (8, 9), ["4723"]),
        ("10.6.0", VIT, True, (8, 9), []),
        ("10.2.0", VIT, True, (8, 9), []),
        ("10.3.0", VIT, False, (8, 9), []),
        ("10.3.0", {"Conv", "Add"}, True, (8, 9), []),
        ("10.4.0", VIT, False, (8, 9), ["4742"]),
        ("10.16.1", VIT, True, (12, 0), ["4837"]),
        ("10.16.1", VIT, True, None, ["4837"]),
        ("10.16.1", VIT, False, (12, 0), []),
        ("10.13.3", {"GridSample"}, False, (8, 9), ["4646"]),
        ("11.2.1.2", {"Conv", "Add", "Concat"}, True, (8, 9), ["4854"]),
        (None, VIT, True, (12, 0), []),
    ],
)
def test_known_faults(
    tensorrt: str | None, ops: set[str], fp16: bool, compute: tuple[int, int] | None, sources: list[str]
) -> None:
    found = known_faults(tensorrt, ops, fp16, compute)
    assert [source in fault.source for fault, source in zip(found, sources, strict=True)] == [True] * len(sources)


def test_every_fault_names_its_report_and_a_way_out() -> None:
    assert all("/issues/" in str(fault) and ("or newer" in str(fault)) == fault.refused for fault in FAULTS)


def test_the_documents_list_every_fault() -> None:
    page = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text()
    assert not [number for fault in FAULTS for number in re.findall(r"issues/\d+", fault.source) if number not in page]


def test_versions_compare_as_numbers() -> None:
    assert version_tuple("10.13.3.9") > version_tuple("10.6") > version_tuple("8.6.1rc2") == (8, 6, 1)
    assert version_tuple("unknown") == ()


@pytest.mark.parametrize(
    ("provider", "library", "driver", "ort", "expected"),
    [
        ("cuda", "libcublasLt.so.13", "13.0", "13.0", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("cuda", "libcublasLt.so.13", "12.4", "13.0", "or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"),
        ("cuda", "libcublasLt.so.13", "11.8", "13.0", "built for 13.0: update the driver"),
        ("tensorrt", "libnvinfer.so.10", "13.0", "13.0", "pip install 'tensorrt-cu13<11'"),
        ("tensorrt", "libcudnn.so.9", "13.0", "13.0", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("cuda", "libcublasLt.so.12", "", "", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ],
)  # fmt: skip
def test_the_remedy_of_a_missing_library(provider: str, library: str, driver: str, ort: str, expected: str) -> None:
    assert remedy(provider, library, driver, ort).endswith(expected)


@pytest.mark.parametrize(
    ("torch", "missing", "loaded"), [(False, None, True), (True, None, False), (True, "libcublasLt.so.13", True)]
)
def test_libraries_of_torch_are_kept_where_they_do(
    torch: bool, missing: str | None, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append(True), raising=False)
    monkeypatch.setattr(libraries, "missing_library", lambda provider: missing)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    if torch:
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    libraries.preload("cuda")
    assert calls == [True] * loaded


@pytest.mark.parametrize(("content", "major"), [(b"..libnvinfer.so.11..", 11), (b"nothing", 10), (None, 10)])
def test_the_tensorrt_that_onnxruntime_was_linked_with(
    content: bytes | None, major: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_provider_library", lambda provider: tmp_path / "provider.so")
    if content is not None:
        (tmp_path / "provider.so").write_bytes(content)
    assert libraries.tensorrt_major() == major


def test_a_driver_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with two GPUs, played: numbers go through pointers as CUDA's driver interface has it."""

    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, number: Any) -> int:
            number._obj.value = 2
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:
            device._obj.value = index + 40
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
            name.value = f"GPU {device.value}".encode()
            return 0

        def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:
            number._obj.value = {75: 8, 76: 9}[attribute]
            return 0

        def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
            size._obj.value = 24 * 2**30
            return 0

        def cuDriverGetVersion(self, number: Any) -> int:
            number._obj.value = 12040
            return 0

    monkeypatch.setattr(libraries.ctypes, "CDLL", lambda name: Driver())
    gpus, cuda = libraries.cuda_driver()
    assert gpus == (libraries.Gpu("GPU 40", (8, 9), 24576), libraries.Gpu("GPU 41", (8, 9), 24576)) and cuda == "12.4"
    monkeypatch.setattr(Driver, "cuInit", lambda self, flags: 100)
    with pytest.raises(OSError, match="finds no GPU"):
        libraries.cuda_driver()


def test_long_work_is_reported_and_short_work_is_not() -> None:
    said: list[str] = []
    with waiting("building", said.append, every_s=0.02):
        time.sleep(0.15)
    assert len(said) >= 2 and said[0] == "building: 0 s"
    count = len(said)
    with pytest.raises(KeyError), waiting("building", said.append, every_s=5):
        raise KeyError
    time.sleep(0.05)
    assert len(said) == count
