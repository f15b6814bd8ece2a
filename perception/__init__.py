"""Perception for driving cameras: boxes and class maps for every frame, in real time.

    import perception
    model = perception.load()
    result = model(frame_bgr)          # boxes, scores, classes, class_maps in frame pixels, plain numpy

Importing this package imports numpy and OpenCV, and never torch.
"""

from perception.engine import Engine, Metadata
from perception.model import Model, load
from perception.structures import Detections, Frame, Letterbox, Result, Track

__all__ = ["Detections", "Engine", "Frame", "Letterbox", "Metadata", "Model", "Result", "Track", "__version__", "load"]

__version__ = "0.1.0"
