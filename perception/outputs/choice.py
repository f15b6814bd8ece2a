"""Which outputs a run can have, the files that each leaves behind, and the extras that some need.

What tells several cameras apart is their name, in files, topics and entities the same one: see `path_parts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

__all__ = ["FILES", "Output", "files_of", "path_parts", "require_extras"]

Output = Literal["records", "video", "mot", "coco", "mcap", "rrd"]
FILES: dict[str, tuple[str, ...]] = {
    "records": ("records.jsonl",),
    "video": ("overlay.mp4",),
    "mot": ("mot.txt",),
    "coco": ("coco_results.json", "coco_frames.json"),
    "mcap": ("run.mcap",),
    "rrd": ("run.rrd",),
}
MAX_PART = 80  # characters: a file's name may have 255 bytes
EXTRAS = {  # what is asked for -> option, module that it needs, extra that brings it
    "mcap": ("--outputs mcap", "mcap", "mcap"),
    "rrd": ("--outputs rrd", "rerun", "rerun"),
    "serve": ("--serve", "uvicorn", "serve"),
}


def files_of(output: str, cameras: Sequence[str]) -> list[str]:
    """Names of the files of an output, for the cameras of these names; MOT text has one for each of several."""
    if output == "mot" and len(cameras) > 1:
        return [f"mot-{part}.txt" for part in path_parts(cameras).values()]
    return list(FILES[output])


def path_parts(cameras: Sequence[str]) -> dict[str, str]:
    """Name of a camera -> what stands for it in file names, topics and entity paths; "" stays "".

    ASCII letters, digits, _ and -, with nothing else at the ends than a letter or digit. They are all different, also
    where a file system makes nothing of case.
    """
    parts: dict[str, str] = {}
    taken: set[str] = set()
    for camera in cameras:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", camera)[:MAX_PART].strip("_-") or ("camera" if camera else "")
        part, count = stem, 1
        while part.lower() in taken:
            count += 1
            part = f"{stem}-{count}"
        taken.add(part.lower())
        parts[camera] = part
    return parts


def require_extras(wanted: Sequence[str]) -> None:
    """Raise ValueError with the pip command if a package is missing; `wanted` are outputs, or "serve"."""
    for option, module, extra in (EXTRAS[name] for name in wanted if name in EXTRAS):
        if find_spec(module) is None:
            raise ValueError(
                f"{option} needs the package {module}, which is not installed; "
                f"pip install 'driving-perception[{extra}]', or leave it out"
            )
