"""Virtual environments for systems whose packages must not meet ours, made with venv and pip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peer_list import ENVIRONMENTS, SHARED

__all__ = ["environment", "installed"]


def environment(work: Path, name: str) -> Path:
    """The python of environment `name` under `work`, made at its first use; ValueError with pip's words if it can't be.

    torch is several GB, so all environments see the packages of one called `shared`, through a path file; what one
    installs for itself comes first.
    """
    shared = _made(work / "shared", SHARED, None)
    packages = ENVIRONMENTS[name]
    return _made(work / name, packages, _site(shared)) if packages else shared


def installed(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that an environment has."""
    code = (
        "import sys, json, importlib.metadata as m\n"
        "have = {d.metadata['Name'].lower(): d.version for d in reversed(list(m.distributions()))}\n"
        "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    )
    import json

    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _made(folder: Path, packages: Sequence[str], site: Path | None) -> Path:
    """A finished environment. The stamp comes last, so that an interrupted install is begun again."""
    python, stamp = folder / "bin" / "python", folder / ".ready"
    if not stamp.exists() or stamp.read_text().split() != list(packages):
        print(f"installing {', '.join(packages)} into {folder} (once)", flush=True)
        _run(folder, [sys.executable, "-m", "venv", *(["--without-pip"] if site else []), folder])
        if site:
            (_site(python) / "shared.pth").write_text(f"{site}\n")
        _run(folder, [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        stamp.write_text(" ".join(packages))
    return python


def _site(python: Path) -> Path:
    """Where the environment of `python` keeps its packages."""
    return next((python.parent.parent / "lib").glob("python3*")) / "site-packages"


def _run(folder: Path, command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if "error" in line.lower()] or [done.stderr[-300:]]
        raise ValueError(f"{folder.name}: its packages can't be installed: {words[-1].strip()}")
