"""How far off a tracked object stands, and in how many seconds we reach it, each with its standard deviation.

Distance is where the ray through the lower edge of the box meets a flat road (Stein et al. 2003, "Vision-based ACC with
a single camera"). With an angle a below the horizon it is h / tan(a), so an error of the angle grows with the square of
the distance: bumps and hills, which are in `Camera.pitch_std_deg`, limit what a camera can say beyond 40 m or so. It is
the distance to where the object stands: the bumper of a car is up to a metre nearer than its wheels.

Time to collision needs no camera: an object at distance Z has a size ~ 1 / Z, so log(size) grows at the rate -Z' / Z,
which is 1 / TTC (Lee 1976, "A theory of visual control of braking based on information about time-to-collision"). It is
the time to the plane of the camera: whether the object is then in our way is another question.

Legend: T = tracks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perception.camera import Camera
from perception.structures import Track

__all__ = ["ground_distance", "measured", "time_to_collision"]

ABOVE_GROUND = ("traffic light", "traffic sign")  # hang on poles: the lower edge says nothing
SIGNIFICANT = 2.0  # growth of fewer standard deviations may be none
# Beside the noise of the rate, measured on synthetic drives: what comes near turns its side to us, which is a part of
# the time; and its parts, say bumper and wheels, are reached one after the other, which is a time.
SHAPE_STD, DEPTH_STD_S = 0.2, 0.1
LONGEST_S = 30.0  # a longer time to collision is no news
MOST_UNCERTAIN = 0.5  # distances with a greater relative standard deviation are not told


def measured(
    tracks: Sequence[Track],
    frame_hw: tuple[int, int],
    box_names: Sequence[str],
    camera: Camera | None = None,
    significant: float = SIGNIFICANT,
) -> list[Track]:
    """The tracks with time to collision and, where the camera's height is known, distance.

    Args:
        tracks: of perception.tracks, boxes in pixels of undistorted frames of `frame_hw`.
        box_names: names of the classes, to leave out what does not stand on the road.
        camera: the calibration; frames are expected to have gone through its `undistort`.
        significant: a time to collision is told where the growth is so many standard deviations over 0. A time that
            can only just be told is then one that noise has made too short, which is the safe side.

    Raises ValueError if frames of `frame_hw` are not this camera's.
    """
    straight = camera.scaled(frame_hw).straight if camera is not None else None
    return [_measured(track, frame_hw, box_names, straight, significant) for track in tracks]


def _measured(
    track: Track, frame_hw: tuple[int, int], box_names: Sequence[str], camera: Camera | None, significant: float
) -> Track:
    if track.growth_per_s is not None and track.growth_std_per_s is not None:
        ttc = time_to_collision(track.growth_per_s, track.growth_std_per_s, significant)
        if ttc is not None:
            track = replace(track, ttc_s=ttc[0], ttc_std_s=ttc[1])
    stands = track.box[3] < frame_hw[0] - 1 - track.bottom_std_px and box_names[track.class_id] not in ABOVE_GROUND
    if camera is not None and stands:
        foot = ((track.box[0] + track.box[2]) / 2, track.box[3])
        if (distance := ground_distance(foot, track.bottom_std_px, camera)) is not None:
            track = replace(track, distance_m=distance[0], distance_std_m=distance[1])
    return track


def ground_distance(foot: tuple[float, float], std_px: float, camera: Camera) -> tuple[float, float] | None:
    """(metres along the forward axis, standard deviation) to the road under a point; None where it sees no road.

    `foot` is in pixels, `std_px` the standard deviation of its y. None too if the camera's height is unknown, or the
    standard deviation more than half the distance: too near the horizon.
    """
    if camera.height_m is None:
        return None
    _, down, forward = camera.rays(np.array([foot]))[0].tolist()
    if down <= 0 or forward <= 0:
        return None
    slope = down / forward  # tangent of the angle below the horizon
    distance = camera.height_m / slope
    angle_std = math.hypot(std_px / camera.focal_xy[1], math.radians(camera.pitch_std_deg))
    # d log(h / tan a) = dh / h - da (1 + tan^2 a) / tan a
    relative = math.hypot(angle_std * (1 + slope * slope) / slope, camera.height_std_m / camera.height_m)
    return (distance, distance * relative) if relative <= MOST_UNCERTAIN else None


def time_to_collision(
    growth_per_s: float, growth_std_per_s: float, significant: float = SIGNIFICANT
) -> tuple[float, float] | None:
    """(seconds, standard deviation) from the rate of log(size); None if it does not grow for sure, or slowly."""
    if growth_per_s < max(significant * growth_std_per_s, 1 / LONGEST_S):
        return None
    ttc = 1 / growth_per_s
    return ttc, math.hypot(ttc * ttc * growth_std_per_s, ttc * SHAPE_STD, DEPTH_STD_S)
