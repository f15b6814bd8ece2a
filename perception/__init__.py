"""Perception for driving cameras: boxes and class maps for every frame, in real time.

    import perception
    model = perception.load()
    result = model(frame_bgr)          # boxes, scores, classes, class_maps in frame pixels, plain numpy

    tracker = perception.Tracker(box_names=model.box_names)
    tracks = tracker.update(result.detections, timestamp_s, frame_bgr.shape[:2], frame_bgr)
    picture_bgr = perception.draw(frame_bgr, result, tracks)

`open_source` gives the frames of videos, folders, cameras and streams. Importing this package imports numpy and OpenCV,
and never torch; what else is needed comes with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perception.engine import Engine, Metadata
from perception.model import Model, load
from perception.structures import Detections, Frame, Letterbox, Result, Track

if TYPE_CHECKING:
    from perception.frames import open_source
    from perception.overlay import draw
    from perception.tracks import Tracker, TrackerConfig

__all__ = [
    "Detections", "Engine", "Frame", "Letterbox", "Metadata", "Model", "Result", "Track", "Tracker", "TrackerConfig",
    "__version__", "draw", "load", "open_source",
]  # fmt: skip

__version__ = "0.1.0"

_LATER = {  # name -> module: PyAV and SciPy are not loaded for whoever only asks a model
    "Tracker": "perception.tracks",
    "TrackerConfig": "perception.tracks",
    "draw": "perception.overlay",
    "open_source": "perception.frames",
}


def __getattr__(name: str) -> Any:
    """The names of `_LATER`, from their modules."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LATER))
