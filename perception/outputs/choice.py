"""Which outputs a run can have, the files that each leaves behind, and the extras that some need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

__all__ = ["FILES", "Output", "require_extras"]

Output = Literal["records", "video", "mot", "coco", "mcap", "rrd"]
FILES: dict[str, tuple[str, ...]] = {
    "records": ("records.jsonl",),
    "video": ("overlay.mp4",),
    "mot": ("mot.txt",),
    "coco": ("coco_results.json", "coco_frames.json"),
    "mcap": ("run.mcap",),
    "rrd": ("run.rrd",),
}
EXTRAS = {  # what is asked for -> option, module that it needs, extra that brings it
    "mcap": ("--outputs mcap", "mcap", "mcap"),
    "rrd": ("--outputs rrd", "rerun", "rerun"),
    "serve": ("--serve", "uvicorn", "serve"),
}


def require_extras(wanted: Sequence[str]) -> None:
    """Raise ValueError with the pip command if a package is missing; `wanted` are outputs, or "serve"."""
    for option, module, extra in (EXTRAS[name] for name in wanted if name in EXTRAS):
        if find_spec(module) is None:
            raise ValueError(
                f"{option} needs the package {module}, which is not installed; "
                f"pip install 'driving-perception[{extra}]', or leave it out"
            )
