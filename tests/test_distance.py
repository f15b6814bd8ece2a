"""perception.distance: against worlds whose depths are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data.synthetic import Drive
from perception.camera import Camera
from perception.distance import ground_distance, measured, time_to_collision
from perception.labels import BOX_CLASSES
from perception.structures import Detections, Track
from perception.tracks import Tracker

CAMERA = Camera(hw=(360, 640), focal_xy=(500.0, 500.0), centre_xy=(319.5, 179.5), height_m=1.5)
CAR, SIGN = BOX_CLASSES.index("car"), BOX_CLASSES.index("traffic sign")


@pytest.mark.parametrize("pitch", [0.0, 2.0, -2.0])
@pytest.mark.parametrize("z", [3.0, 10.0, 25.0])
def test_distance_inverts_the_projection(pitch, z):
    camera = Camera(hw=(360, 640), focal_xy=(500.0, 500.0), centre_xy=(319.5, 179.5), height_m=1.5, pitch_deg=pitch)
    p = math.radians(pitch)
    down, forward = 1.5 * math.cos(p) - z * math.sin(p), 1.5 * math.sin(p) + z * math.cos(p)
    found = ground_distance((400.0, 180 + 500 * down / forward), 1.0, camera)
    assert found is not None and found[0] == pytest.approx(z)


def test_the_deviation_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    row = 180 + 500 * 1.5 / 15.0
    told = ground_distance((320.0, row), 1.5, CAMERA)
    assert told is not None
    angle = np.arctan((row + 1.5 * rng.normal(size=40_000) - 180) / 500) + np.radians(0.3) * rng.normal(size=40_000)
    metres = (1.5 + 0.05 * rng.normal(size=40_000)) / np.tan(angle)
    quarter, three = np.percentile(metres, [16, 84])
    assert told[1] == pytest.approx((three - quarter) / 2, rel=0.05)


def test_unknown_distances():
    assert ground_distance((320.0, 100.0), 1.0, CAMERA) is None  # sky
    assert ground_distance((320.0, 181.0), 1.0, CAMERA) is None  # hundreds of metres, give or take as many
    bare = Camera(hw=(360, 640), focal_xy=(500.0, 500.0), centre_xy=(319.5, 179.5))
    assert ground_distance((320.0, 300.0), 1.0, bare) is None


def track(box: tuple[float, float, float, float], class_id: int = CAR, **changes: float) -> Track:
    return Track(id=1, box=box, score=0.9, class_id=class_id, age_s=1.0, **changes)


def test_what_hangs_or_is_cut_off_has_no_distance():
    box = (300.0, 200.0, 360.0, 260.0)
    on_road, on_pole = measured([track(box), track(box, SIGN)], (360, 640), BOX_CLASSES, CAMERA)
    assert on_road.distance_m == pytest.approx(1.5 * 500 / 80) and on_road.distance_std_m is not None
    assert on_pole.distance_m is None
    (cut,) = measured([track((300.0, 200.0, 360.0, 360.0))], (360, 640), BOX_CLASSES, CAMERA)
    assert cut.distance_m is None and cut.distance_std_m is None
    (blind,) = measured([track(box, growth_per_s=0.5, growth_std_per_s=0.1)], (360, 640), BOX_CLASSES)
    assert blind.distance_m is None and blind.ttc_s == pytest.approx(2.0)
    (half,) = measured([track((150.0, 100.0, 180.0, 130.0))], (180, 320), BOX_CLASSES, CAMERA)
    assert half.distance_m == pytest.approx(on_road.distance_m)


def test_time_to_collision_needs_growth_that_is_sure():
    assert time_to_collision(0.5, 0.1) == (pytest.approx(2.0), pytest.approx(math.hypot(0.4, 0.4, 0.1)))
    for growth, std in ((0.5, 0.3), (-0.5, 0.1), (0.0, 0.0), (0.01, 0.001)):
        assert time_to_collision(growth, std) is None
    assert time_to_collision(0.19, 0.1) is None
    told = time_to_collision(0.19, 0.1, significant=1.0)
    assert told is not None and told[0] == pytest.approx(1 / 0.19)


def test_a_car_that_is_approached_is_reached_when_told():
    tracker, speed, start = Tracker(), 10.0, 60.0
    for i in range(90):  # 25 frames per second
        z = start - speed * i / 25
        half, foot = 500 * 0.9 / z, 180 + 500 * 1.5 / z
        boxes = np.array([[320 - half, foot - 2 * half, 320 + half, foot]], np.float32)
        found = Detections(boxes, np.array([0.9], np.float32), np.array([CAR]))
        tracks = measured(tracker.update(found, i / 25, (360, 640)), (360, 640), BOX_CLASSES, CAMERA)
    assert tracks[0].ttc_s == pytest.approx(z / speed, rel=0.2)
    assert tracks[0].distance_m == pytest.approx(z, rel=0.03)


def test_a_box_at_the_border_says_nothing_of_growth():
    tracker = Tracker()
    for i in range(4):
        found = Detections(np.array([[0, 0, 100 + 9 * i, 360]], np.float32), np.ones(1, np.float32), np.array([CAR]))
        tracks = tracker.update(found, i / 25, (360, 640))
    assert tracks[0].growth_per_s is None and measured(tracks, (360, 640), BOX_CLASSES, CAMERA)[0].ttc_s is None


def test_synthetic_drive_with_perfect_boxes():
    hw = (216, 384)
    drive = Drive(21, hw, frames=40, density=1.0, flat=True)
    camera = Camera(hw=hw, focal_xy=(drive.focal_px,) * 2, centre_xy=(hw[1] / 2 - 0.5, hw[0] * drive.horizon - 0.5),
                    height_m=drive.height_m)  # fmt: skip
    errors, deviations = [], []
    for index in range(0, 40, 8):
        frame = drive[index]
        for box, class_id, depth in zip(frame.boxes.tolist(), frame.classes, frame.depth_m.tolist(), strict=True):
            (told,) = measured([track(tuple(box), int(class_id))], hw, BOX_CLASSES, camera)
            assert told.distance_m is None or math.isfinite(depth)
            if told.distance_m is not None and told.distance_std_m is not None and 5 < depth < 60:
                errors.append(abs(told.distance_m - depth) / depth)
                deviations.append(abs(told.distance_m - depth) / told.distance_std_m)
    assert len(errors) > 20
    assert np.median(errors) < 0.06
    assert np.mean(np.array(deviations) < 1) > 0.68
