"""A model file -> a session that runs on the provider asked for, and the reason why that one.

ONNX Runtime falls back to the CPU with no more than a log line, and lists CUDA as available on machines without a GPU.
So what was asked for is compared with what the session got, node by node. The GPU paths are written against ONNX
Runtime's documentation; they have not been run on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perception.execution.compiled import Compiled, openvino_for_auto, openvino_obstacle
from perception.execution.faults import known_faults
from perception.execution.libraries import REMEDY, Gpu, cuda_driver, tensorrt_version, why_not
from perception.execution.providers import (
    LABELS,
    ORT_NAMES,
    GpuOptions,
    Node,
    Provider,
    engine_folder,
    file_sha256,
    graph_obstacle,
    left_out,
    node_names,
    provider_list,
)
from perception.execution.waiting import waiting

__all__ = ["ProviderError", "Started", "start"]

log = logging.getLogger(__name__)

ENGINES = Path("~/.cache/perception/tensorrt")


class ProviderError(ValueError):
    """A provider that could not be had, or could not run the whole model."""


class Started(NamedTuple):
    """A session, and what runs it."""

    session: Any  # onnxruntime.InferenceSession, or Compiled, which has its `run`
    provider: str  # "tensorrt", "cuda", "openvino" or "cpu"
    reason: str  # why that one, and which nodes run elsewhere
    cuda_graph: bool  # whether its runs are recorded


def start(path: Path, provider: Provider, threads: int, gpu: GpuOptions) -> Started:
    """Load `path` on `provider`; "auto" takes CUDA where it works, else OpenVINO as `openvino_for_auto` says, else
    the CPU.

    Raises:
        ProviderError: the provider asked for can not run this model here.
        ValueError: the file is not an ONNX model, or an option is for another provider.
    """
    if gpu.fp16 and provider != "tensorrt":
        raise ValueError(f"gpu.fp16 is for provider tensorrt, but got {provider}; else choose it at perception.export")
    if gpu.cuda_graph and provider not in ("cuda", "tensorrt"):
        raise ValueError(f"gpu.cuda_graph is for provider cuda or tensorrt, but got {provider}")
    if provider == "openvino":
        if obstacle := openvino_obstacle():
            raise ProviderError(f"provider openvino can not run here: {'; '.join(obstacle)}; or use --provider cpu")
        return _compiled(path, threads, "as asked for")
    if provider != "auto":
        if provider != "cpu" and (missing := why_not(provider)):
            raise ProviderError(f"provider {provider} can not run here: {missing}; or use --provider cpu")
        return _started(path, provider, threads, gpu, "as asked for", strict=True)
    missing = why_not("cuda")
    if missing is None:
        try:
            return _started(path, "cuda", threads, gpu, "NVIDIA GPU found", strict=False)
        except ProviderError as error:
            missing = str(error)
    against = openvino_for_auto()
    if against is None:
        try:
            return _compiled(path, threads, missing)
        except ValueError as error:
            against = str(error)
    return _started(path, "cpu", threads, gpu, f"{missing}; {against}", strict=True)


def _compiled(path: Path, threads: int, reason: str) -> Started:
    """The file in OpenVINO; the reason also says its version and arithmetic."""
    session = Compiled(path, threads)
    return Started(session, "openvino", f"{reason}; {session.description}", False)


def _started(path: Path, provider: str, threads: int, gpu: GpuOptions, reason: str, strict: bool) -> Started:
    """A session with all that must be known about it; `strict` allows no node on the CPU beside a GPU."""
    if provider == "cpu":
        return Started(_session(path, [(ORT_NAMES["cpu"], {})], threads), "cpu", reason, False)
    engines = Path()
    if provider == "tensorrt":
        require_no_fault(path, gpu)
        engines = _engines(path, gpu)
        with waiting(f"TensorRT looks for or builds its engine of {path.name}; the first time may take minutes"):
            session = _strict(path, provider_list(provider, gpu, engines), threads)
    else:
        wanted = provider_list(provider, gpu, engines)
        session = _strict(path, wanted, threads) if strict else _session(path, wanted, threads)
    nodes = placement(session)
    reason += left_out(nodes, provider)
    if not gpu.cuda_graph:
        return Started(session, provider, reason, False)
    shapes = [node.shape for node in (*session.get_inputs(), *session.get_outputs())]
    if obstacle := graph_obstacle(nodes, provider, shapes):
        raise ProviderError(f"a CUDA graph of this model can not be recorded: {obstacle}; leave out gpu.cuda_graph")
    return Started(session, provider, reason + ", replayed as a CUDA graph", True)


def placement(session: Any) -> list[Node]:
    """Where each node of the optimised graph runs; empty where ONNX Runtime is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [Node(part.ep_name, node.name, node.op_type) for part in parts for node in part.get_nodes()]


def require_no_fault(path: Path, gpu: GpuOptions) -> None:
    """Refuse a TensorRT that is known to compute a graph like this wrong; warn where that is less certain.

    Raises ProviderError with the report's address.
    """
    version = tensorrt_version()
    found = known_faults(version, operators(path), gpu.fp16, gpu_of(gpu).compute)
    if refused := [fault for fault in found if fault.refused]:
        raise ProviderError(f"TensorRT {version} must not run this model: {refused[0]}")
    for fault in found:
        log.warning("TensorRT %s: %s", version, fault)


def operators(path: Path) -> set[str]:
    """Kinds of the nodes in a model file, as they are written there. Raises ValueError if it is no ONNX model."""
    return {node.op for node in placement(_session(path, [(ORT_NAMES["cpu"], {})], 1, optimise=False))}


def gpu_of(options: GpuOptions) -> Gpu:
    """The GPU that the options name. Raises ProviderError if it is not there."""
    try:
        gpus, _ = cuda_driver()
    except OSError as error:
        raise ProviderError(f"TensorRT could not be started: {error}") from None
    if options.device >= len(gpus):
        raise ProviderError(f"gpu.device {options.device} is not there: the driver finds {len(gpus)}, counted from 0")
    return gpus[options.device]


def _engines(path: Path, gpu: GpuOptions) -> Path:
    """The folder of this model's engines, made. Raises OSError if it can not be."""
    import onnxruntime

    root = (gpu.engine_cache or ENGINES).expanduser()
    versions = onnxruntime.__version__, tensorrt_version() or "unknown"
    folder = engine_folder(root, file_sha256(path), gpu_of(gpu).name, *versions)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _strict(path: Path, wanted: Sequence[tuple[str, dict[str, str]]], threads: int) -> Any:
    """A session without a node on the CPU. Raises ProviderError that names those nodes if it can not be had."""
    try:
        return _session(path, wanted, threads, cpu_fallback=False)
    except ProviderError as error:
        if "assigned to the default CPU EP" not in str(error):
            raise
        rest = [node for node in placement(_session(path, wanted, threads)) if node.provider == ORT_NAMES["cpu"]]
        label = next(LABELS[key] for key, name in ORT_NAMES.items() if name == wanted[0][0])
        raise ProviderError(
            f"{label} can not run {node_names(rest)} of this model; --provider auto leaves such nodes to the CPU"
        ) from None


def _session(
    path: Path,
    wanted: Sequence[tuple[str, dict[str, str]]],
    threads: int,
    cpu_fallback: bool = True,
    optimise: bool = True,
) -> Any:
    """An InferenceSession whose first provider is the first of `wanted`.

    Raises ProviderError if another one is, ValueError if the file is not an ONNX model.
    """
    import onnxruntime

    first = wanted[0][0]
    provider = next(key for key, name in ORT_NAMES.items() if name == first)
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    # Its threads sleep while they wait: spinning would take the cores from the loop's other stages, and gains nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal only: what goes wrong is raised below, in one line
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not cpu_fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(wanted), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        reason = " ".join(str(error).split())
        if provider == "cpu" or "Load model" in reason:
            raise ValueError(f"{path}: not an ONNX model that can be loaded ({reason})") from None
        raise ProviderError(f"{LABELS[provider]} failed: {reason}") from None
    finally:
        onnxruntime.set_default_logger_severity(2)  # ONNX Runtime's default: warnings
    if session.get_providers()[0] != first:
        raise ProviderError(f"{LABELS[provider]} could not be started; {REMEDY.get(provider, '')}")
    return session
