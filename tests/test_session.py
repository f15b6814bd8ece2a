"""perception.execution.session: what a GPU would do, played by the CPU, and what is refused on the way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception import engine as engine_module
from perception.engine import Engine
from perception.execution import session as session_module
from perception.execution.binding import Bound, OneThread
from perception.execution.libraries import Gpu
from perception.execution.providers import GpuOptions, Node
from perception.execution.session import ProviderError, Started, operators, placement, require_no_fault, start

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any model has attention, and the GPU is a T4."""
    monkeypatch.setattr(session_module, "operators", lambda path: {"MatMul", "Softmax"})
    monkeypatch.setattr(session_module, "gpu_of", lambda options: Gpu("NVIDIA T4", (7, 5), 15109))


def test_the_kinds_of_nodes_are_read_as_they_are_written(tiny_model: Path) -> None:
    kinds = operators(tiny_model)
    assert {"Cast", "Greater", "TopK", "ReduceMax"} <= kinds and "Softmax" not in kinds


def test_every_node_of_a_cpu_session_is_on_the_cpu(tiny_model: Path) -> None:
    nodes = placement(start(tiny_model, "cpu", 1, GpuOptions()).session)
    assert len(nodes) > 20 and {node.provider for node in nodes} == {CPU}


def test_a_tensorrt_known_to_be_wrong_is_refused(vit: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "tensorrt_version", lambda: "10.3.0")
    with pytest.raises(ProviderError, match=r"TensorRT 10\.3\.0 must not run this model: .*4723.* use TensorRT 10\.6"):
        require_no_fault(tiny_model, GpuOptions(fp16=True))
    require_no_fault(tiny_model, GpuOptions())


def test_a_less_certain_fault_is_a_warning(
    vit: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_module, "tensorrt_version", lambda: "10.16.1")
    monkeypatch.setattr(session_module, "gpu_of", lambda options: Gpu("RTX 5090", (12, 0), 32000))
    with caplog.at_level(logging.WARNING):
        require_no_fault(tiny_model, GpuOptions(fp16=True))
    assert "TensorRT 10.16.1: " in caplog.text and "issues/4837" in caplog.text


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> list[dict[str, Any]]:
    """A session for "CUDA" that is the CPU's, with one node left on the CPU; what was asked for is recorded."""
    real, asked = session_module._session, []

    def session(path: Path, wanted: Any, threads: int, cpu_fallback: bool = True, optimise: bool = True) -> Any:
        asked.append({"wanted": wanted, "cpu_fallback": cpu_fallback})
        if not cpu_fallback:
            raise ProviderError("CUDA failed: ... assigned to the default CPU EP ...")
        return real(path, [(CPU, {})], threads)

    monkeypatch.setattr(session_module, "_session", session)
    monkeypatch.setattr(session_module, "why_not", lambda provider: None)
    nodes = [Node(CUDA, "a", "Conv"), Node(CPU, "top", "TopK")]
    monkeypatch.setattr(session_module, "placement", lambda session: nodes)
    return asked


def test_nodes_that_cuda_can_not_run_are_named_and_refused(played: list[dict[str, Any]], tiny_model: Path) -> None:
    message = r"CUDA can not run 1 node \(TopK top\) of this model; --provider auto leaves such nodes to the CPU"
    with pytest.raises(ProviderError, match=message):
        start(tiny_model, "cuda", 1, GpuOptions())
    assert [ask["cpu_fallback"] for ask in played] == [False, True]


def test_auto_leaves_them_to_the_cpu_and_says_so(played: list[dict[str, Any]], tiny_model: Path) -> None:
    started = start(tiny_model, "auto", 1, GpuOptions(memory_limit_mb=100))
    assert started[1:] == ("cuda", "NVIDIA GPU found, but 1 node (TopK top) of 2 on CPU", False)
    assert played[0]["wanted"][0][1]["gpu_mem_limit"] == str(100 * 2**20)


def test_options_of_another_provider_are_not_ignored(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"gpu.fp16 is for provider tensorrt, but got cpu"):
        Engine(tiny_model, "cpu", gpu=GpuOptions(fp16=True))
    with pytest.raises(ValueError, match=r"gpu.cuda_graph is for provider cuda or tensorrt, but got auto"):
        Engine(tiny_model, gpu=GpuOptions(cuda_graph=True))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_gpu_engine_answers_through_buffers(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool
) -> None:
    """The whole path of a GPU, with buffers in the CPU's memory."""
    cpu = Engine(tiny_model, "cpu")
    real = start(tiny_model, "cpu", 1, GpuOptions()).session
    monkeypatch.setattr(engine_module, "start", lambda *_: Started(real, "cuda", "as asked for", cuda_graph))
    monkeypatch.setattr(engine_module, "Bound", lambda session, names, device, index: Bound(session, names, "cpu"))
    gpu = Engine(tiny_model, "cuda")
    assert isinstance(gpu._run, OneThread if cuda_graph else Bound) and gpu.provider_reason == "CUDA: as asked for"
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    ours, theirs = gpu.run(image), cpu.run(image)
    assert list(ours) == list(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    calls = []
    gpu._run = lambda tensor: calls.append(1) or ours
    gpu.warm_up(2)
    assert len(calls) == (4 if cuda_graph else 2)
    assert np.array_equal(ours["boxes"], theirs["boxes"])
