"""Tracks from detections: boxes of single frames in, objects that keep their id out.

A tracker in the manner of ByteTrack (Zhang et al. 2022, arXiv:2110.06864): confident detections choose tracks first,
the weak ones then go to the tracks left over, so that an object survives moments in which the detector half loses it. A
Kalman filter of constant velocity in the world moves every box between frames, and where pictures are given too, all
boxes move with the camera's turning (`motion.py`). All times are seconds: 10 fps, 30 fps and dropped frames are alike.

Legend: T = tracks, D = detections, C = box classes. A box is filtered as (cx, cy, log w, log h), each with its rate per
second; errors of the four are taken as independent, so a state is mean (T, 4, 2) and covariance (T, 4, 2, 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception.labels import BOX_CLASSES
from perception.motion import CameraMotion
from perception.structures import Detections, Track

__all__ = ["Tracker", "TrackerConfig"]

MOST_NEARER = 0.5  # of its depth an object comes nearer in one prediction, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerConfig:
    """When a detection continues a track, begins one, and when a track ends.

    "Size" is sqrt(w h) of the box; what is measured in sizes holds for near and far objects and for any resolution.
    """

    high_score: float = 0.45
    """Detections from here on choose their track first, and only they begin new ones."""
    low_score: float = 0.15
    """Detections below this are ignored; those between only continue tracks."""
    min_iou: float = 0.2
    """Overlap that a confident detection needs with the predicted box, both grown by `margin_sigmas`."""
    min_iou_low: float = 0.3
    """The same for a weak detection, which may well be something else, and for a track not yet confirmed."""
    margin_sigmas: float = 2.0
    """Boxes are compared after growing by so many standard deviations of the prediction, at most half their size."""
    duplicate_iou: float = 0.8
    """A box that overlaps a better one of a confusable class so much is the same object: it only adds its vote."""
    other_class_penalty: float = 0.1
    """Taken from the overlap where the classes differ, though confusable."""
    confusable: tuple[tuple[str, ...], ...] = (
        ("car", "truck", "bus", "train"),
        ("pedestrian", "rider"),
        ("motorcycle", "bicycle"),
    )
    """Classes that a detector mixes up on one object. Any other two classes never share a track."""
    confirm_within_s: float = 0.3
    """A new track needs a second detection within this time, else it never was one. It gets its id then."""
    max_unseen_s: float = 1.0
    """A track without a detection for longer has ended."""
    min_visible: float = 0.3
    """A track that is not seen and has less than this share of its box inside the frame has left."""
    position_noise: float = 0.04
    """Standard deviation of a detection's centre, in sizes."""
    size_noise: float = 0.06
    """Standard deviation of a detection's log w and log h."""
    acceleration: float = 1.0
    """How the centre's velocity wanders: standard deviation after one second, in sizes per second."""
    growth_acceleration: float = 0.3
    """The same for the growth of log w and log h, per second."""
    start_speed: float = 2.0
    """Standard deviation of a new track's velocity, in sizes per second."""
    start_growth: float = 0.5
    """Standard deviation of a new track's growth of log w and log h, per second."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "confusable" and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"TrackerConfig.{field.name} must be 0 or more, but got {value}")
        if not self.low_score <= self.high_score:
            got = f"{self.low_score} > {self.high_score}"
            raise ValueError(f"TrackerConfig.low_score must not be over high_score, but got {got}")
        if min(self.position_noise, self.size_noise, self.min_iou, self.min_iou_low) <= 0:
            raise ValueError("TrackerConfig: position_noise, size_noise, min_iou and min_iou_low must be over 0")


class Tracker:
    """Follows the objects of one source; every instance counts its ids from 1.

    Args:
        config: thresholds and noise.
        box_names: class names by class id, as in `Result.box_names`; `config.confusable` speaks of them.
    """

    def __init__(self, config: TrackerConfig | None = None, box_names: Sequence[str] = BOX_CLASSES) -> None:
        self.config = config or TrackerConfig()
        self._group = np.arange(len(box_names))  # (C,) classes of one group may share a track
        for names in self.config.confusable:
            members = [i for i, name in enumerate(box_names) if name in names]
            self._group[members] = min(members, default=0)
        self._next_id = 1
        self._frame_hw = (0, 0)
        self._time_s = -math.inf
        self._motion = CameraMotion()
        self._states = _States.empty(len(box_names))

    def __len__(self) -> int:
        """How many tracks are held, with those not yet confirmed."""
        return len(self._states.ids)

    def reset(self) -> None:
        """Forget all tracks. Ids go on, so that none is given twice."""
        self._states = self._states[:0]
        self._time_s = -math.inf
        self._motion.reset()

    def update(
        self, detections: Detections, timestamp_s: float, frame_hw: tuple[int, int], image: np.ndarray | None = None
    ) -> list[Track]:
        """Take the detections of the next frame and return every confirmed track that lives, by rising id.

        Args:
            detections: N boxes in frame pixels; also to be called with none of them.
            timestamp_s: when the frame was taken. Any step forward is fine; a step back (a looped source) begins anew.
            frame_hw: height and width of the frame, or its shape; another size than before begins anew too.
            image: the frame, (H, W, 3) uint8 BGR, to tell the camera's turning from the objects' own motion; None
                leaves that to the filter.

        A track that no detection continued has `unseen_s` > 0 and the box where it is expected. Boxes are clipped to
        the frame. Raises ValueError for a time that is not finite, a class id without a name, an image that is none.
        """
        if not math.isfinite(timestamp_s):
            raise ValueError(f"timestamp_s must be a finite number of seconds, but got {timestamp_s}")
        if timestamp_s < self._time_s or self._frame_hw != tuple(frame_hw[:2]):
            self.reset()
        config = self.config
        boxes, scores, votes = self._measured(detections)
        states = self._states[timestamp_s - self._states.seen_s <= config.max_unseen_s + 1e-6]
        if len(states.ids):
            before = box_from_state(states.mean)
            states.mean, states.cov = predict(states.mean, states.cov, timestamp_s - self._time_s, config)
        if image is not None:
            shift = self._motion.update(image, before if len(states.ids) else np.zeros((0, 4)))
            states.mean[:, :2, 0] += shift
        self._time_s, self._frame_hw = timestamp_s, (frame_hw[0], frame_hw[1])

        tracks, found = self._associate(states, boxes, scores, votes)
        states.mean[tracks], states.cov[tracks] = correct(
            states.mean[tracks], states.cov[tracks], state_from_box(boxes[found]), config
        )
        states.seen_s[tracks] = timestamp_s
        states.scores[tracks] = scores[found]
        states.votes[tracks] += votes[found]
        for i in tracks[states.ids[tracks] == 0]:  # the second detection confirms; rows are in the order of birth
            states.ids[i], self._next_id = self._next_id, self._next_id + 1

        free = scores >= config.high_score
        free[found] = False
        states = states + self._born(boxes[free], scores[free], votes[free])
        self._states = states[self._alive(states)]
        return self._output()

    def predicted(self, timestamp_s: float) -> list[Track]:
        """Where the confirmed tracks are expected at a later time, for a frame that was not looked at.

        As `update` without detections would say; nothing changes in the tracker.
        """
        if not timestamp_s >= self._time_s:
            raise ValueError(f"timestamp_s must not be before the last update, {self._time_s}, but got {timestamp_s}")
        if not math.isfinite(self._time_s):
            return []
        return deepcopy(self).update(Detections.empty(), timestamp_s, self._frame_hw)

    def _measured(self, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One row an object: boxes (D, 4), scores (D,), votes (D, C) with the score given to each class."""
        config, classes = self.config, detections.classes
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._group):
            raise ValueError(
                f"class ids must be 0 to {len(self._group) - 1}, but got {classes.min()} to {classes.max()}; "
                "give Tracker the box_names of the model"
            )
        boxes = detections.boxes.astype(np.float64)
        real = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        order = np.argsort(-detections.scores, kind="stable")
        order = order[(real & (detections.scores >= config.low_score))[order]]
        boxes, scores, classes = boxes[order], detections.scores[order].astype(np.float64), classes[order]
        votes = np.zeros((len(order), len(self._group)))
        votes[np.arange(len(order)), classes] = scores

        group = self._group[classes]
        same = (iou(boxes, boxes) >= config.duplicate_iou) & (group[:, None] == group)  # (D, D)
        kept = np.ones(len(order), bool)
        for i in np.flatnonzero(np.tril(same, -1).any(1)):  # by falling score: whatever repeats one that is kept
            better = np.flatnonzero(same[i, :i] & kept[:i])
            if len(better):
                kept[i] = False
                votes[better[0]] += votes[i]
        return boxes[kept], scores[kept], votes[kept]

    def _associate(
        self, states: _States, boxes: np.ndarray, scores: np.ndarray, votes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the tracks that go on, rising, and the rows of the detections that continue them."""
        config = self.config
        similarity = self._similarity(states, boxes, votes)  # (T, D), 0 = never
        confirmed, high = states.ids > 0, scores >= config.high_score
        pairs = np.full(len(states.ids), -1)  # track -> detection
        free = np.ones(len(scores), bool)  # detections
        for rows, columns, least in (
            (confirmed, high, config.min_iou),
            (confirmed, ~high, config.min_iou_low),
            (~confirmed, high, config.min_iou_low),
            (~confirmed, ~high, config.min_iou_low),
        ):
            free_rows = np.flatnonzero(rows & (pairs < 0))
            free_columns = np.flatnonzero(columns & free)
            if len(free_rows) and len(free_columns):
                i, j = assign(similarity[np.ix_(free_rows, free_columns)], least)
                pairs[free_rows[i]] = free_columns[j]
                free[free_columns[j]] = False
        tracks = np.flatnonzero(pairs >= 0)
        return tracks, pairs[tracks]

    def _similarity(self, states: _States, boxes: np.ndarray, votes: np.ndarray) -> np.ndarray:
        """(T, D) overlap of predicted and detected boxes within the margin, less the class penalty; 0 = never."""
        sigmas = np.sqrt(states.cov[:, :2, 0, 0])  # (T, 2) of cx, cy
        sizes = np.exp(states.mean[:, 2:, 0])  # (T, 2) w, h
        margin = np.minimum(self.config.margin_sigmas * sigmas, sizes / 2)[:, None]  # (T, 1, 2)
        grow = np.concatenate([-margin, margin], 2)  # (T, 1, 4)
        overlap = _iou(box_from_state(states.mean)[:, None] + grow, boxes + grow)  # (T, D)
        old, new = states.votes.argmax(1), votes.argmax(1)
        overlap -= self.config.other_class_penalty * (old[:, None] != new)
        return np.where(self._group[old][:, None] == self._group[new], overlap, 0).clip(0)

    def _born(self, boxes: np.ndarray, scores: np.ndarray, votes: np.ndarray) -> _States:
        """New tracks, not yet confirmed, at rest."""
        config, n = self.config, len(boxes)
        mean = np.zeros((n, 4, 2))
        mean[..., 0] = state_from_box(boxes)
        cov = np.zeros((n, 4, 2, 2))
        cov[..., 0, 0] = measurement_variance(mean, config)
        cov[..., 1, 1] = _in_sizes(mean, config.start_speed, config.start_growth) ** 2
        return _States(np.zeros(n, np.int64), mean, cov, scores, votes, *np.full((2, n), self._time_s))

    def _alive(self, states: _States) -> np.ndarray:
        """(T,) bool: still in the frame, and confirmed or young enough to be."""
        unseen_s = self._time_s - states.seen_s
        boxes, seen = box_from_state(states.mean), unseen_s == 0
        visible = _area(_clip(boxes, self._frame_hw)) / _area(boxes)
        lasting = (states.ids > 0) | (unseen_s < self.config.confirm_within_s)
        return np.asarray((visible > 0) & (seen | (lasting & (visible >= self.config.min_visible))))

    def _output(self) -> list[Track]:
        states = self._states
        boxes = _clip(box_from_state(states.mean), self._frame_hw)
        growth, growth_std = _growth(states, boxes, self._frame_hw)
        bottom_std = np.sqrt(states.cov[:, 1, 0, 0] + states.cov[:, 3, 0, 0] * np.exp(2 * states.mean[:, 3, 0]) / 4)
        order = np.argsort(states.ids)
        return [
            Track(
                id=int(states.ids[i]),
                box=tuple(boxes[i].tolist()),
                score=float(states.scores[i]),
                class_id=int(states.votes[i].argmax()),
                age_s=float(self._time_s - states.born_s[i]),
                unseen_s=float(self._time_s - states.seen_s[i]),
                velocity_xy=(float(states.mean[i, 0, 1]), float(states.mean[i, 1, 1])),
                growth_per_s=float(growth[i]) if math.isfinite(growth_std[i]) else None,
                growth_std_per_s=float(growth_std[i]) if math.isfinite(growth_std[i]) else None,
                bottom_std_px=float(bottom_std[i]),
            )
            for i in order[states.ids[order] > 0]
        ]


@dataclass(slots=True)
class _States:
    """T tracks, one row each, in the order of birth."""

    ids: np.ndarray  # (T,) int64, 0 = not yet confirmed
    mean: np.ndarray  # (T, 4, 2) of cx, cy, log w, log h: value, rate per second
    cov: np.ndarray  # (T, 4, 2, 2)
    scores: np.ndarray  # (T,) of the newest detection
    votes: np.ndarray  # (T, C) sum of scores for each class
    born_s: np.ndarray  # (T,)
    seen_s: np.ndarray  # (T,)

    @classmethod
    def empty(cls, classes: int) -> _States:
        none = np.zeros(0)
        return cls(none.astype(np.int64), np.zeros((0, 4, 2)), np.zeros((0, 4, 2, 2)), none, np.zeros((0, classes)),
                   none, none)  # fmt: skip

    def __getitem__(self, rows: np.ndarray | slice) -> _States:
        return _States(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __add__(self, other: _States) -> _States:
        return _States(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def predict(mean: np.ndarray, cov: np.ndarray, dt: float, config: TrackerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Kalman prediction of (T, 4, 2) and (T, 4, 2, 2) over `dt` seconds; velocities do a random walk in time.

    A steady course is one in the world, not in the picture: while the depth Z changes evenly, the growth g = -Z' / Z
    obeys g' = g^2 and the centre's velocity v' = 2 g v, so that they become g / (1 - g dt) and v / (1 - g dt)^2.
    """
    rate, variance = mean[..., 1], cov[..., 1, 1]  # (T, 4)
    whole = _unbiased(rate[:, 2:].mean(1), variance[:, 2:].mean(1) / 2)[:, None]  # (T, 1) of w and h
    growth = np.concatenate([whole, whole, _unbiased(rate[:, 2:], variance[:, 2:])], 1)  # (T, 4)
    nearer = (growth * dt).clip(-MOST_NEARER, MOST_NEARER)
    stretch = 1 / (1 - nearer)
    step = np.stack([stretch**0, dt * stretch, 0 * stretch, stretch**2], -1).reshape(*rate.shape, 2, 2)
    moved = (step @ mean[..., None])[..., 0]  # exact for cx and cy; `step` is the derivative for log w and log h
    moved[:, 2:, 0] = (mean[..., 0] + dt * rate + np.log(stretch) - nearer)[:, 2:]
    moved[:, 2:, 1] = (rate + growth * (stretch - 1))[:, 2:]
    noise = np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])  # of white acceleration: two short steps = a long one
    density = _in_sizes(mean, config.acceleration, config.growth_acceleration) ** 2  # (T, 4)
    return moved, step @ cov @ np.swapaxes(step, -1, -2) + density[..., None, None] * noise


def _unbiased(rate: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """`rate` so much nearer to 0 that its square has no part that is noise, which would seem to come nearer."""
    return np.asarray(np.sign(rate) * np.sqrt((rate**2 - variance).clip(0)))


def correct(
    mean: np.ndarray, cov: np.ndarray, measured: np.ndarray, config: TrackerConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Kalman correction of (T, 4, 2) and (T, 4, 2, 2) by `measured` (T, 4) = cx, cy, log w, log h."""
    gain = cov[..., 0] / (cov[..., 0, 0] + measurement_variance(mean, config))[..., None]  # (T, 4, 2)
    innovation = measured - mean[..., 0]  # (T, 4)
    return mean + gain * innovation[..., None], cov - gain[..., None] * cov[..., None, 0, :]


def measurement_variance(mean: np.ndarray, config: TrackerConfig) -> np.ndarray:
    """(T, 4) variance of a detection's cx, cy, log w, log h."""
    return _in_sizes(mean, config.position_noise, config.size_noise) ** 2


def _in_sizes(mean: np.ndarray, centre: float, log_size: float) -> np.ndarray:
    """(T, 4): `centre` times the size of each box for cx and cy, `log_size` for log w and log h."""
    size = np.exp(mean[:, 2:, 0].mean(1, keepdims=True))  # (T, 1)
    return np.concatenate([centre * size, centre * size, np.full((len(mean), 2), log_size)], 1)


def state_from_box(boxes: np.ndarray) -> np.ndarray:
    """(T, 4) xyxy -> (T, 4) cx, cy, log w, log h."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.log(boxes[:, 2:] - boxes[:, :2])], 1)


def box_from_state(mean: np.ndarray) -> np.ndarray:
    """(T, 4, 2) -> (T, 4) xyxy."""
    centre, half = mean[:, :2, 0], np.exp(mean[:, 2:, 0]) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _growth(states: _States, boxes: np.ndarray, frame_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(T,) rate of the logarithm of each box's size and its standard deviation, per second; infinite where unknown.

    Width and height are two measurements of one rate, weighted by their precision. A side that the frame cuts off, or
    may (it ends within a tenth of itself from the border), says nothing.
    """
    near = 1 + 0.1 * (boxes[:, 2:] - boxes[:, :2])  # (T, 2) of x and y
    cut = (boxes[:, :2] <= near) | (boxes[:, 2:] >= [frame_hw[1], frame_hw[0]] - near)
    precision = np.where(cut, 0, 1 / states.cov[:, 2:, 1, 1])  # (T, 2)
    total = precision.sum(1)
    known = total > 0
    rate = (precision * states.mean[:, 2:, 1]).sum(1) / np.where(known, total, 1)
    return rate, np.where(known, 1 / np.sqrt(np.where(known, total, 1)), np.inf)


def assign(similarity: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs with the greatest total similarity, none of them under `least` (> 0)."""
    gated = np.where(similarity >= least, similarity, 0.0)
    rows, columns = linear_sum_assignment(gated, maximize=True)
    taken = gated[rows, columns] > 0
    return rows[taken], columns[taken]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of (T, 4) and (D, 4) xyxy -> (T, D)."""
    return _iou(a[:, None], b[None])


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Elementwise over two broadcastable (..., 4)."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    both = width.clip(0) * height.clip(0)
    return np.asarray(both / (_area(a) + _area(b) - both))


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _clip(boxes: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
    return boxes.clip(0, [*frame_hw[::-1], *frame_hw[::-1]])
