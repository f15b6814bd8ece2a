"""What every result file says beside its figures: machine, versions, revision, and how noisy the machine was.

A result is one JSON object. `rows` are what `benchmarks/compare.py` compares and `benchmarks/report.py` draws:

    {"schema": 1, "benchmark": "latency", "date": "2026-11-27T02:00:00Z", "revision": "git revision",
     "machine": {...}, "versions": {...}, "noise": {...}, "settings": {...},
     "yardstick": name of a row or null,
     "rows": {name: {"unit": "ms", "better": "lower", "rounds": [one value a round]}},
     "figures": whatever else the benchmark found}

The n-th value of every row comes from the n-th round, so rows can be paired with each other and with the yardstick: a
machine that slows down slows all rows of a round. Everything about load is read from /proc: Linux only; elsewhere those
fields are null.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from perception.revision import revision

__all__ = [
    "Watch", "cpu_seconds", "machine", "markdown", "peak_mb", "reset_peak", "resident_mb", "result", "row",
    "usable_cores",
]  # fmt: skip

SCHEMA = 1
PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime-gpu", "onnxruntime", "av", "scipy", "torch", "timm")
VECTOR_UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
STEAL, OTHERS, FREQUENCY, YARDSTICK = 0.02, 0.05, 0.05, 0.10  # from here on a machine counts as noisy


def machine() -> dict[str, Any]:
    """What the measurements ran on."""
    info = _lines("/proc/cpuinfo")
    memory = {line.split(":")[0]: line.split()[1] for line in _lines("/proc/meminfo") if line.endswith("kB")}
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [line.split(":", 1)[1].strip() for path in gpus for line in _lines(str(path)) if line.startswith("Model")]
    flags = next((line for line in info if line.startswith("flags")), "").split()
    return {
        "cpu": next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "")
        or platform.processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "vector_units": [flag for flag in VECTOR_UNITS if flag in flags],
        "virtual": "hypervisor" in flags,
        "memory_gb": round(int(memory["MemTotal"]) / 1e6, 1) if "MemTotal" in memory else None,
        "gpus": names,
        "system": platform.platform(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Watch:
    """How much of the machine others took while we measured.

    Time that the hypervisor gave to others (steal), time of other processes on our cores, and frequency. `child_s` is
    to be raised by the CPU seconds of processes of ours that are not children which have ended.
    """

    def __init__(self) -> None:
        self.child_s = 0.0
        self._begin, self._stat, self._own = perf_counter(), _stat(), cpu_seconds()
        self._mhz = [_mhz()]
        self._load = _load()

    def mark(self) -> None:
        """Note the frequency once more; between rounds."""
        self._mhz.append(_mhz())

    def result(self, yardstick: Sequence[float] = ()) -> dict[str, Any]:
        """What was seen, and `warnings` in words. `yardstick`: the same fixed work, timed in every round."""
        self.mark()
        seconds = perf_counter() - self._begin
        now = _stat()
        seen: dict[str, Any] = {"seconds": round(seconds, 1), "load_before": self._load, "load_after": _load()}
        warnings = []
        if self._stat is None or now is None:
            seen |= {"steal": None, "others": None}
        else:
            total, steal, busy = (b - a for a, b in zip(self._stat, now, strict=True))
            own = cpu_seconds() - self._own + self.child_s
            ticks = os.sysconf("SC_CLK_TCK")
            seen["steal"] = round(steal / max(total, 1), 4)
            seen["others"] = round(max(0.0, busy / ticks - own) / max(total / ticks, 1e-9), 4)
            if seen["steal"] > STEAL:
                warnings.append(f"the hypervisor took {seen['steal']:.1%} of the time")
            if seen["others"] > OTHERS:
                warnings.append(f"other processes took {seen['others']:.0%} of the machine")
        mhz = [value for value in self._mhz if value]
        seen["mhz"] = [min(mhz), max(mhz)] if mhz else None
        if mhz and max(mhz) / min(mhz) > 1 + FREQUENCY:
            warnings.append(f"the clock moved from {min(mhz):.0f} to {max(mhz):.0f} MHz")
        if len(yardstick) > 1 and max(yardstick) / median(yardstick) > 1 + YARDSTICK:
            slower = max(yardstick) / median(yardstick) - 1
            warnings.append(f"in one round a fixed piece of work was {slower:.0%} slower than in the median round")
        for warning in warnings:
            print(f"warning: noisy machine: {warning}; compare ratios, not times", file=sys.stderr, flush=True)
        return {**seen, "warnings": warnings}


def row(unit: str, rounds: Sequence[float], better: str = "lower") -> dict[str, Any]:
    """One row of a result: a value a round. `better` is "lower" or "higher"."""
    assert better in ("lower", "higher") and rounds, (better, rounds)
    return {"unit": unit, "better": better, "rounds": [float(f"{value:.6g}") for value in rounds]}


def result(
    benchmark: str,
    settings: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    noise: Mapping[str, Any],
    yardstick: str | None = None,
    **figures: Any,
) -> dict[str, Any]:
    """The object that a benchmark writes; see this file's head."""
    assert yardstick is None or yardstick in rows, yardstick
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "revision": revision(),
        "machine": machine(),
        "versions": versions(),
        "noise": dict(noise),
        "settings": dict(settings),
        "yardstick": yardstick,
        "rows": {name: dict(values) for name, values in rows.items()},
        "figures": figures,
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cpu_seconds(pid: int | None = None) -> float:
    """CPU time of this process and of those children that have ended; or of the process `pid` alone (Linux)."""
    if pid is not None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2)


def reset_peak() -> None:
    """Let `peak_mb` count from now on, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(pid: int | None = None) -> float:
    """The most resident memory of this process, or of `pid`, in MB, since its start or `reset_peak`."""
    for line in _lines(f"/proc/{pid or 'self'}/status"):
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) * 1024 / 1e6, 2)
    if pid is not None:
        raise OSError(f"the peak memory of process {pid} can't be read; that needs Linux")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 2)


def _stat() -> tuple[int, int, int] | None:
    """(all, stolen, busy) ticks of all cores since the machine started; busy is without idle, waiting and stolen."""
    lines = _lines("/proc/stat")
    if not lines:
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, lines[0].split()[1:9])
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, steal, busy


def _mhz() -> float | None:
    """Mean frequency of the cores as the system reports it now."""
    values = [float(line.split(":")[1]) for line in _lines("/proc/cpuinfo") if line.startswith("cpu MHz")]
    return round(sum(values) / len(values)) if values else None


def _load() -> float | None:
    """Load average of the last minute."""
    lines = _lines("/proc/loadavg")
    return float(lines[0].split()[0]) if lines else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
