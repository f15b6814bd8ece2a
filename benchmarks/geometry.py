"""How far off are distances and times to collision? Tracks on synthetic drives against the world's own depths.

    python benchmarks/geometry.py --json benchmarks/results/geometry.json

The camera's height and focal length are known exactly; its bounce is not told. Flat roads, where the assumption of a
flat road holds, and hilly ones, where it does not. Detections are those of benchmarks/tracking.py. Figures are over all
drives, which are the one round of the result. Errors are told by bands of what was TOLD, which is what users see; what
is told in the mean, by bands of the TRUTH, since choosing by what was told chooses errors to one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import Watch, result, row
from benchmarks.tracking import HW, detect
from data.synthetic import Drive
from perception.camera import Camera
from perception.cli import run
from perception.distance import SIGNIFICANT, measured
from perception.labels import BOX_CLASSES
from perception.tracks import Tracker, iou

BANDS_M = ((0, 10), (10, 20), (20, 40), (40, 80))
BANDS_S = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 20))


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Options of benchmarks/geometry.py."""

    seeds: tuple[int, ...] = (23, 24, 25, 26, 27, 28)
    """One drive a seed."""
    seconds: float = 5.0
    """Length of a drive."""
    significant: float = SIGNIFICANT
    """A time to collision is told where the growth is so many standard deviations over 0; 0 shows the filter alone."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def samples(
    seed: int, seconds: float, flat: bool, significant: float = SIGNIFICANT, fps: float = 25.0
) -> tuple[list[list[float]], list[list[float]]]:
    """[(truth, told, standard deviation)] of distances in metres and of times to collision in seconds."""
    drive = Drive(seed, HW, fps, max(round(seconds * fps), 3), "day", density=1.0, flat=flat)
    camera = Camera(
        hw=HW, focal_xy=(drive.focal_px,) * 2, centre_xy=(HW[1] / 2 - 0.5, HW[0] * drive.horizon - 0.5),
        height_m=drive.height_m,
    )  # fmt: skip
    rng, tracker = np.random.default_rng(seed), Tracker()
    frames = list(drive)
    depth = [dict(zip(frame.track_ids.tolist(), frame.depth_m.tolist(), strict=True)) for frame in frames]
    metres: list[list[float]] = []
    times: list[list[float]] = []
    for i, frame in enumerate(frames):
        seen = detect(frame, rng)
        tracks = tracker.update(seen.detections, seen.timestamp_s, HW, seen.image)
        tracks = [track for track in measured(tracks, HW, BOX_CLASSES, camera, significant) if track.unseen_s == 0]
        boxes = np.array([track.box for track in tracks], np.float64).reshape(-1, 4)
        overlap = iou(boxes, seen.boxes.astype(np.float64))
        for i_track, track in enumerate(tracks):
            if not overlap.shape[1] or overlap[i_track].max() < 0.5:
                continue
            number = int(seen.ids[overlap[i_track].argmax()])
            z = depth[i][number]
            if track.distance_m is not None and track.distance_std_m is not None and np.isfinite(z) and z > 1:
                metres.append([z, track.distance_m, track.distance_std_m])
            around = [depth[j].get(number, np.nan) for j in (i - 2, i + 2) if 0 <= j < len(frames)]
            if track.ttc_s is not None and track.ttc_std_s is not None and len(around) == 2:
                closing = (around[0] - around[1]) * fps / 4
                if np.isfinite(closing):
                    times.append([z / closing if closing > 0 else np.inf, track.ttc_s, track.ttc_std_s])
    return metres, times


def judged(rows: list[list[float]], bands: Sequence[tuple[float, float]], unit: str) -> dict[str, dict[str, float]]:
    """Errors and the share within one standard deviation, by band of what was told; told / truth by band of the truth.

    Told of an object that does not come nearer (its truth is infinite) is an error outside every deviation.
    """
    truth, told, std = np.array(rows, np.float64).reshape(-1, 3).T
    out = {}
    for low, high in bands:
        chosen, true = (told >= low) & (told < high), (truth >= low) & (truth < high)
        if min(chosen.sum(), true.sum()) < 30:
            continue
        error = np.abs(told[chosen] - truth[chosen])
        finite = np.isfinite(truth[chosen])
        out[f"{low} to {high} {unit}"] = {
            "samples": int(chosen.sum()),
            "median relative error": round(float(np.median(error[finite] / truth[chosen][finite])), 4),
            "within 1 sigma": round(float((error <= std[chosen]).mean()), 3),
            "does not come nearer": round(float(1 - finite.mean()), 4),
            "median relative sigma": round(float(np.median(std[chosen] / told[chosen])), 4),
            "told / truth": round(float(np.median(told[true] / truth[true])), 4),
        }
    return out


def body(config: GeometryConfig) -> dict[str, Any]:
    """Render, follow, compare, print the tables."""
    results: dict[str, dict[str, Any]] = {}
    watch, rows = Watch(), dict[str, Any]()
    for name, flat in (("flat road", True), ("hills", False)):
        found = [samples(seed, config.seconds, flat, config.significant) for seed in config.seeds]
        results[name] = {
            "distance": judged([row for metres, _ in found for row in metres], BANDS_M, "m"),
            "time to collision": judged([row for _, times in found for row in times], BANDS_S, "s"),
        }
        for figure, bands in results[name].items():
            print(f"\n{name}: {figure}")
            for band, values in bands.items():
                print(f"{band:14}" + "".join(f"  {key} {value}" for key, value in values.items()), flush=True)
                error = 100 * values["median relative error"]
                rows[f"{name}: {figure}, {band}: median relative error"] = row("%", [error])
                rows[f"{name}: {figure}, {band}: within 1 sigma"] = row("%", [100 * values["within 1 sigma"]], "higher")
    if not rows:
        raise ValueError(f"nothing to judge in drives of {config.seconds} s; expected longer ones, or more --seeds")
    settings = {"seeds": list(config.seeds), "seconds": config.seconds, "significant": config.significant}
    return result("geometry", settings, rows, watch.result(), tables=results)


def main(argv: Sequence[str] | None = None) -> int:
    return run(GeometryConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
