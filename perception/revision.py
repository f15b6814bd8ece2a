"""Which version of the code this is."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["revision"]


def revision() -> str:
    """The git revision of the code, with + if it was changed since; "unknown" outside a checkout."""
    try:
        folder = Path(__file__).parent
        sha = subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, stderr=subprocess.DEVNULL
        )
        return sha.decode().strip() + ("+" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
