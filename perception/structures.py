"""The vocabulary of the runtime: frames in, detections and class maps out (numpy and OpenCV only).

Legend: H, W = height, width; N = number of boxes. Boxes are `xyxy`: left, top, right, bottom in pixels, measured on
pixel edges, so that a box over the whole frame is (0, 0, W, H). Size pairs say their order in their name (`frame_hw`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

__all__ = ["BranchName", "Detections", "Frame", "Letterbox", "Result", "Track", "class_name", "require_bgr"]

GEOMETRY = ("distance_m", "distance_std_m", "ttc_s", "ttc_std_s")  # of a track, where known
AREA_ROWS = 256  # rows of a class map that are counted for `areas`, at least, and columns as dense
BranchName = Literal["one_to_many", "one_to_one"]  # of the box head: the one that answers, see network/boxes.py


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera frame: (H, W, 3) uint8 BGR pixels, where it stands in its source, and when it was taken."""

    image: np.ndarray  # (H, W, 3) uint8, BGR as OpenCV reads it
    id: int  # position in the source from 0; a gap means that frames were dropped
    timestamp_s: float  # presentation time from the container, seconds from the start of the source
    source: str = ""  # file, URL or camera that it came from
    camera: str = ""  # short name, where there are several; ids and times are those of this camera

    def __post_init__(self) -> None:
        require_bgr(self.image)
        if self.id < 0:
            raise ValueError(f"Frame.id must be 0 or more, but got {self.id}")

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a frame lies inside the model's input: scaled to `content_hw`, its top left corner at (`top`, `left`)."""

    frame_hw: tuple[int, int]
    model_hw: tuple[int, int]
    content_hw: tuple[int, int]
    top: int
    left: int

    def __post_init__(self) -> None:
        for name in ("frame_hw", "model_hw", "content_hw"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"Letterbox.{name} must be at least 1x1, but got {getattr(self, name)}")

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Model pixels per frame pixel along x and y (they differ only by the rounding of `content_hw`)."""
        return self.content_hw[1] / self.frame_hw[1], self.content_hw[0] / self.frame_hw[0]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N boxes of one frame with their scores and class ids; N = 0 is an ordinary value."""

    boxes: np.ndarray  # (N, 4) float32 xyxy, pixels
    scores: np.ndarray  # (N,) float32 in [0, 1]
    classes: np.ndarray  # (N,) int64, index into the model's box class names

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4):
            raise ValueError(f"Detections.boxes must be a 2D array of shape (N, 4), but got shape {self.boxes.shape}")
        for name, expected in (("scores", self.scores), ("classes", self.classes)):
            if expected.shape != (n,):
                raise ValueError(f"Detections.{name} must have shape ({n},) like the boxes, but got {expected.shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: np.ndarray | slice) -> Detections:
        """The detections that a boolean mask, an index array or a slice selects."""
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Track:
    """One object followed over frames, as it stands now."""

    id: int  # unique within one tracker, from 1
    box: tuple[float, float, float, float]  # xyxy, frame pixels
    score: float  # of the newest detection
    class_id: int
    age_s: float  # since it was first seen
    unseen_s: float = 0.0  # since the last detection that confirmed it; 0 when seen in this frame
    velocity_xy: tuple[float, float] = (0.0, 0.0)  # of the box centre, frame pixels per second; where the tracker was
    # given the pictures, against the still far world, so without the camera's own turning
    growth_per_s: float | None = None  # rate of log(size); None = the frame cuts the box off
    growth_std_per_s: float | None = None
    bottom_std_px: float = 0.0  # standard deviation of the lower edge
    distance_m: float | None = None  # along the camera's forward axis to where it stands; None = unknown
    distance_std_m: float | None = None
    ttc_s: float | None = None  # time to collision if nobody changes speed; None = unknown, or it does not come nearer
    ttc_std_s: float | None = None

    def to_dict(self, box_names: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, as docs/records.md describes them under `tracks`; `box_names` are those of its Result."""
        known = {name: getattr(self, name) for name in GEOMETRY}
        return {
            "id": self.id,
            **_object(self.box, self.score, self.class_id, box_names),
            "age_s": round(self.age_s, 3),
            "unseen_s": round(self.unseen_s, 3),
            "velocity_xy": [round(float(value), 1) for value in self.velocity_xy],
            **{name: round(float(value), 2) for name, value in known.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """What the model sees in one frame, in the pixels of that frame."""

    detections: Detections
    class_maps: Mapping[str, np.ndarray]  # head name -> (H, W) uint8 of class ids
    box_names: tuple[str, ...] = ()  # names of the box classes, by id
    map_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # head name -> names of its classes, by id

    def __repr__(self) -> str:
        """What is in it, in one line: the arrays are too large to print."""
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        maps = ", ".join(f"{head} {ids.shape[1]}x{ids.shape[0]}" for head, ids in self.class_maps.items())
        return f"Result(boxes: {counts or 'none'}; class maps: {maps or 'none'})"

    def above(self, score: float) -> Result:
        """The same with only the detections that score at least `score`."""
        return replace(self, detections=self.detections[self.detections.scores >= score])

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) float32 xyxy, frame pixels."""
        return self.detections.boxes

    @property
    def scores(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return self.detections.scores

    @property
    def classes(self) -> np.ndarray:
        """(N,) int64, index into `box_names`."""
        return self.detections.classes

    @property
    def names(self) -> list[str]:
        """The class name of each of the N boxes."""
        return [class_name(class_id, self.box_names) for class_id in self.classes.tolist()]

    def to_dict(self, tracks: Sequence[Track] = ()) -> dict[str, Any]:
        """Plain JSON values: "boxes", "tracks" and "areas", as docs/records.md describes them."""
        found = zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), strict=True)
        return {
            "boxes": [_object(box, score, class_id, self.box_names) for box, score, class_id in found],
            "tracks": [track.to_dict(self.box_names) for track in tracks],
            "areas": {head: _areas(ids, self.map_names.get(head, ())) for head, ids in self.class_maps.items()},
        }


def class_name(class_id: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)


def _object(box: Sequence[float], score: float, class_id: int, names: Sequence[str]) -> dict[str, Any]:
    """What a box and a track have in common. xyxy to 0.1 pixel."""
    return {
        "xyxy": [round(float(value), 1) for value in box],
        "score": round(float(score), 4),
        "class": class_name(int(class_id), names),
        "class_id": int(class_id),
    }


def _areas(class_map: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """(H, W) uint8 of class ids -> share of the pixels by class name; classes that are absent are left out.

    Of a large frame every second row and column is counted, or every third and so on: the model sees fewer anyway.
    """
    step = max(1, class_map.shape[0] // AREA_ROWS)
    class_map = np.ascontiguousarray(class_map[::step, ::step])
    counts = cv2.calcHist([class_map], [0], None, [256], [0, 256]).ravel()
    return {class_name(i, names): round(float(counts[i]) / class_map.size, 5) for i in np.flatnonzero(counts).tolist()}


def require_bgr(image: object) -> None:
    """Raise ValueError, with what would make it one, unless `image` is (H, W, 3) uint8 of at least one pixel."""
    if not isinstance(image, np.ndarray):
        found = type(image).__name__
    elif image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.shape} {image.dtype}"
    else:
        return
    raise ValueError(f"expected an image (H, W, 3) uint8 BGR as a numpy array, but got {found}{_remedy(image)}")


def _remedy(image: object) -> str:
    """What makes a frame of something that is none, as the end of a message; empty if nobody can say."""
    if not isinstance(image, np.ndarray):
        if image is None:
            return "; cv2.imread gives None for a file that it can not read"
        if isinstance(image, str | Path):
            return "; perception.open_source(path) gives the frames of a file, folder or camera"
        if isinstance(image, list | tuple):
            return "; give frames one by one"
        return "; of a PIL image: np.asarray(image.convert('RGB'))[..., ::-1]"
    if image.size == 0:
        return "; it has no pixels"
    if image.ndim == 4:
        return "; give frames one by one"
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        return "; channels come last: image.transpose(1, 2, 0)"
    if image.dtype == np.uint16:
        return "; of 16 bits: (image >> 8).astype(np.uint8)"
    if image.dtype.kind == "f":
        return "; of values from 0 to 1: (255 * image).round().astype(np.uint8)"
    if image.dtype != np.uint8:
        return "; of values from 0 to 255: image.astype(np.uint8)"
    channels = 1 if image.ndim == 2 else image.shape[-1]
    code = {1: "cv2.COLOR_GRAY2BGR", 4: "cv2.COLOR_BGRA2BGR"}.get(channels)
    return f"; cv2.cvtColor(image, {code}) makes one" if code else ""
