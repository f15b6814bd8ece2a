"""What the page shows of the past, in bounded memory: figures of the last frames, and the lives of the last objects.

The loop's thread adds, the server's threads read.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import Any

from perception.structures import Frame, Track, class_name

__all__ = ["History"]

MAX_POINTS = 1800  # frames: a minute at 30 fps
MAX_TRACKS = 400
MAX_SAMPLES = 600  # of one track


class History:
    """Figures by frame, and samples by track; the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._points: deque[tuple[int, float, float, float]] = deque(maxlen=MAX_POINTS)
        self._tracks: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def add(
        self,
        seq: int,
        now_s: float,
        frame: Frame,
        tracks: Sequence[Track],
        names: Sequence[str],
        spent: Mapping[str, float],
    ) -> None:
        """Take a frame. `seq` counts up by one, `now_s` is a monotonic clock, `spent` is milliseconds by stage."""
        latency_ms = spent.get("age", sum(spent.values()))  # the age of the frame counts the waiting too
        with self._lock:
            self._points.append((seq, round(now_s, 4), round(latency_ms, 2), round(spent.get("inference", 0.0), 2)))
            for track in tracks:
                life = self._tracks.setdefault(track.id, {"id": track.id, "samples": deque(maxlen=MAX_SAMPLES)})
                self._tracks.move_to_end(track.id)
                name = class_name(track.class_id, names)
                seen = track.unseen_s == 0
                life |= {"class": name, "age_s": round(track.age_s, 3), "last_s": round(frame.timestamp_s, 3)}
                life["samples"].append((round(frame.timestamp_s, 3), round(float(track.score), 3), name, seen))
            while len(self._tracks) > MAX_TRACKS:
                self._tracks.popitem(last=False)

    def points(self, after: int) -> list[tuple[int, float, float, float]]:
        """(seq, seconds, latency ms, model ms) of the frames after `after` that are remembered, oldest first.

        Latency is from capture to result; the model's own time is a part of it.
        """
        with self._lock:
            newest = self._points[-1][0] if self._points else 0
            count = min(max(newest - after, 0), len(self._points))
            return list(islice(self._points, len(self._points) - count, None))

    def track(self, track_id: int) -> dict[str, Any] | None:
        """{"id", "class", "age_s", "last_s", "samples": [[timestamp_s, score, class, seen], ...]}, or None."""
        with self._lock:
            life = self._tracks.get(track_id)
            return None if life is None else {**life, "samples": list(life["samples"])}
