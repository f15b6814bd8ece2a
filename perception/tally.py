"""What a run has done so far: frames, drops, times by stage. For the summary, the overlay and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from perception.model import Model
from perception.overlay import status_bar
from perception.stages import Passage
from perception.timings import Timings

__all__ = ["Tally"]

STAGES = ("read", "preprocess", "inference", "postprocess", "track")  # and one for each sink


class Tally:
    """What a run has done so far. `add` and `status` may be called from two threads."""

    def __init__(self, cameras: Sequence[str], only_newest: bool, batch: int = 1) -> None:
        self.only_newest, self.batch = only_newest, batch
        self.cameras = {name: {"frames": 0, "dropped": 0, "tracks": 0} for name in cameras}
        self.started = perf_counter()
        self.frames = self.detections = self.dropped = self.calls = 0
        self._next_id = dict.fromkeys(cameras, 0)
        self._timings: dict[str, Timings] = {name: Timings() for name in (*STAGES, "total", "age")}

    def add(self, passage: Passage) -> None:
        """Count a frame that is through."""
        assert passage.result is not None
        frame = passage.frame
        camera = self.cameras[frame.camera]
        lost = frame.id - self._next_id[frame.camera]
        assert lost == 0 or (lost > 0 and self.only_newest), f"{frame.camera}: frame {frame.id}, {lost} were lost"
        self.dropped += lost
        self._next_id[frame.camera] = frame.id + 1
        spent = {**passage.spent, **passage.written}
        spent["total"] = sum(spent.values()) - spent["age"]
        for name, ms in spent.items():
            self._timings.setdefault(name, Timings()).add(ms)
        self.frames += 1
        self.calls += passage.place == 0
        self.detections += len(passage.result.detections)
        camera["frames"] += 1
        camera["dropped"] += lost
        camera["tracks"] = max([camera["tracks"], *(track.id for track in passage.tracks)])  # ids come in order, from 1

    @property
    def fps(self) -> float:
        return self.frames / (perf_counter() - self.started)

    def status(self, passage: Passage, model: Model) -> dict[str, str]:
        """The overlay's status bar."""
        age = self._timings["age"]
        return status_bar(
            fps=self.fps,
            p50_ms=age.percentile(50),
            p99_ms=age.percentile(99),
            dropped=self.dropped if self.only_newest else None,
            provider=model.provider_reason.split(":")[0],
            frame_id=passage.frame.id,
            timestamp_s=passage.frame.timestamp_s,
        )

    def line(self, model: Model) -> str:
        """The same for the terminal."""
        age = self._timings["age"]
        drops = f", {self.dropped} dropped" if self.only_newest else ""
        return (
            f"age p50 {age.percentile(50):.0f} p99 {age.percentile(99):.0f} ms{drops}, "
            + (model.provider_reason.split(":")[0])
        )

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures, for a run that took so long. "share" is the part of a stage in the work of all of them."""
        stages = {name: timings for name, timings in self._timings.items() if name not in ("total", "age")}
        batch = {"size": self.batch, "calls": self.calls, "unused": self.calls * self.batch - self.frames}
        work = sum(timings.summary()["mean"] for timings in stages.values()) or 1.0
        rows = {name: {**t.summary(), "share": round(t.summary()["mean"] / work, 4)} for name, t in stages.items()}
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "seconds": round(seconds, 3),
            "fps": round(self.frames / seconds, 2),
            **({"batch": batch} if self.batch > 1 else {}),
            "detections": self.detections,
            "tracks": sum(camera["tracks"] for camera in self.cameras.values()),
            **({"cameras": self.cameras} if len(self.cameras) > 1 else {}),
            "stages_ms": {**rows, "total": self._timings["total"].summary()},
            "frame_age_ms": self._timings["age"].summary(),
        }
