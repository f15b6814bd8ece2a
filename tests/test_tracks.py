"""perception.tracks: ids that last, the filter and the matching against slow truths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from perception.labels import BOX_CLASSES
from perception.structures import Detections, Track
from perception.tracks import Tracker, TrackerConfig, assign, correct, measurement_variance, predict

HW = (540, 960)
CAR, TRUCK, PEDESTRIAN, SIGN = (BOX_CLASSES.index(name) for name in ("car", "truck", "pedestrian", "traffic sign"))
CONFIG = TrackerConfig()
Box = tuple[float, float, float, float]  # cx, cy, w, h


def seen(*boxes: Iterable[float], scores: Iterable[float] = (), classes: Iterable[int] = ()) -> Detections:
    """Boxes as (cx, cy, w, h); cars with score 0.8 unless said otherwise."""
    cx, cy, w, h = np.array([list(box) for box in boxes], np.float32).reshape(-1, 4).T
    n = len(cx)
    xyxy = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    score_array = np.array(list(scores) or [0.8] * n, np.float32)
    return Detections(xyxy, score_array, np.array(list(classes) or [CAR] * n, np.int64))


def confirmed(tracker: Tracker, *boxes: Iterable[float], start_s: float = 0.0, frames: int = 5) -> float:
    """Show boxes at rest for some frames of 0.1 s. Returns the time of the last one."""
    for i in range(frames):
        tracker.update(seen(*boxes), start_s + i / 10, HW)
    return start_s + (frames - 1) / 10


# the two slow truths


def textbook_kalman(x: np.ndarray, p: np.ndarray, z: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """One prediction and correction of one track with 8x8 matrices, state (cx, cy, log w, log h, and their rates)."""
    size = np.sqrt(np.exp(x[2]) * np.exp(x[3]))
    f = np.eye(8)
    f[:4, 4:] = dt * np.eye(4)
    density = np.diag([CONFIG.acceleration * size] * 2 + [CONFIG.growth_acceleration] * 2) ** 2
    q = np.block([[density * dt**3 / 3, density * dt**2 / 2], [density * dt**2 / 2, density * dt]])
    x, p = f @ x, f @ p @ f.T + q
    size = np.sqrt(np.exp(x[2]) * np.exp(x[3]))
    r = np.diag([CONFIG.position_noise * size] * 2 + [CONFIG.size_noise] * 2) ** 2
    h = np.eye(4, 8)
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + r)
    return x + gain @ (z - h @ x), (np.eye(8) - gain @ h) @ p


def test_kalman_equals_the_textbook() -> None:
    rng = np.random.default_rng(0)
    n = 7
    values = np.concatenate([rng.uniform(0, 900, (n, 2)), rng.uniform(2, 5, (n, 2))], 1)
    mean = np.stack([values, np.zeros((n, 4))], 2)
    cov = np.zeros((n, 4, 2, 2))
    cov[..., 0, 0], cov[..., 1, 1] = measurement_variance(mean, CONFIG), 3.0
    x = [np.concatenate([mean[i, :, 0], mean[i, :, 1]]) for i in range(n)]
    p = [np.diag(np.concatenate([cov[i, :, 0, 0], cov[i, :, 1, 1]])) for i in range(n)]
    for dt in (0.033, 0.1, 0.0, 0.5, 0.04):
        z = values + rng.normal(0, [0.1, 0.1, 0.01, 0.01], (n, 4))  # so little growth that none is sure
        mean, cov = correct(*predict(mean, cov, dt, CONFIG), z, CONFIG)
        for i in range(n):
            x[i], p[i] = textbook_kalman(x[i], p[i], z[i], dt)
            np.testing.assert_allclose(mean[i].T.ravel(), x[i], rtol=1e-9, atol=1e-9)
            blocks = p[i].reshape(2, 4, 2, 4)  # rate?, coordinate, rate?, coordinate
            np.testing.assert_allclose(cov[i], np.einsum("akbk->kab", blocks), rtol=1e-6, atol=1e-9)
            assert np.abs(blocks - np.einsum("akbl,kl->akbl", blocks, np.eye(4))).max() < 1e-9  # coordinates are apart


def test_one_long_prediction_equals_many_short_ones() -> None:
    mean = np.array([[[100, 50.0], [200, -9.0], [3, 0.0], [4, 0.0]]])
    cov = np.broadcast_to(np.array([[2.0, 0.5], [0.5, 1.0]]), (1, 4, 2, 2))
    short = mean, cov
    for _ in range(30):
        short = predict(*short, 1 / 30, CONFIG)
    for got, expected in zip(short, predict(mean, cov, 1.0, CONFIG), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("closing", [9.0, -20.0, 0.0])
def test_a_prediction_is_a_straight_course_in_the_world(closing: float) -> None:
    """Against the projection of a thing that is W x H metres and moves along X, Y and Z, seen with a focal length F."""
    x, y, z, across, down, w, h, f = 3.0, 1.2, 30.0, -2.0, 0.3, 1.8, 1.5, 500.0

    def state(t: float) -> np.ndarray:
        depth = z - closing * t
        return np.array(
            [f * (x + across * t) / depth, f * (y + down * t) / depth, *np.log(f * np.array([w, h]) / depth)]
        )

    def with_rates(t: float) -> np.ndarray:
        return np.stack([state(t), (state(t + 1e-5) - state(t - 1e-5)) / 2e-5], 1)[None]

    cov = np.zeros((1, 4, 2, 2))  # everything is known
    for dt in (0.04, 0.1, 1.0):
        moved, spread = predict(with_rates(0.5), cov, dt, CONFIG)
        np.testing.assert_allclose(moved, with_rates(0.5 + dt), rtol=1e-5, atol=1e-5)
    still = predict(with_rates(0.5), cov, 0.1, replace(CONFIG, acceleration=0, growth_acceleration=0))[1]
    assert not still.any() and spread[..., 0, 0].min() > 0
    cov[..., 1, 1] = 1.0  # so uncertain a growth may be none
    assert predict(with_rates(0.5), cov, 0.1, CONFIG)[0][0, 2, 1] == pytest.approx(with_rates(0.5)[0, 2, 1])


def test_the_spread_of_a_prediction_is_that_of_a_simulation() -> None:
    rng, n, calm = np.random.default_rng(0), 20_000, replace(CONFIG, acceleration=0, growth_acceleration=0)
    mean = np.array([[[90, 40.0], [60, 20.0], [4, 0.9], [3, 0.9]]])
    cov = np.zeros((1, 4, 2, 2))
    cov[..., 0, 0], cov[0, :, 1, 1] = 0.01, [4.0, 4.0, 1e-3, 1e-3]
    drawn = mean + rng.normal(size=(n, 4, 2)) * np.sqrt(np.diagonal(cov, axis1=2, axis2=3))
    simulated, _ = predict(drawn, np.zeros((n, 4, 2, 2)), 0.3, calm)
    told = predict(mean, cov, 0.3, calm)[1]
    expected = np.array([[np.cov(simulated[:, i].T) for i in (2, 3)]])
    np.testing.assert_allclose(told[:, 2:], expected, rtol=0.05, atol=5e-4)


def test_an_object_at_the_camera_does_not_explode() -> None:
    mean = np.array([[[90, 40.0], [60, 20.0], [6, 30.0], [6, 30.0]]])
    cov = np.full((1, 4, 2, 2), 1e-6)
    moved, spread = predict(mean, cov, 1.0, CONFIG)
    assert np.isfinite(moved).all() and np.isfinite(spread).all() and moved[0, 2, 1] == pytest.approx(60, rel=1e-3)


def best_total(similarity: np.ndarray, least: float) -> float:
    """The greatest total of any matching, by trying them all."""
    rows, columns = similarity.shape
    if rows > columns:
        return best_total(similarity.T, least)
    allowed = np.where(similarity >= least, similarity, 0)
    return max(
        sum(allowed[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(columns), rows)
    )


@pytest.mark.parametrize("seed", range(20))
def test_assign_is_as_good_as_the_best_of_all_matchings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(0, 1, rng.integers(1, 6, 2))
    rows, columns = assign(similarity, 0.3)
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    assert (similarity[rows, columns] >= 0.3).all()
    assert similarity[rows, columns].sum() == pytest.approx(best_total(similarity, 0.3))


def test_assign_nothing() -> None:
    for shape in ((0, 0), (0, 3), (3, 0)):
        assert [len(part) for part in assign(np.zeros(shape), 0.3)] == [0, 0]


# what a user relies on


def test_a_track_needs_two_detections_then_has_the_box() -> None:
    tracker = Tracker()
    assert tracker.update(seen((100, 100, 40, 30)), 0.0, HW) == []
    (track,) = tracker.update(seen((100, 100, 40, 30)), 0.1, HW)
    assert (track.id, track.class_id, track.unseen_s) == (1, CAR, 0)
    assert track.age_s == pytest.approx(0.1) and track.score == pytest.approx(0.8)
    np.testing.assert_allclose(track.box, (80, 85, 120, 115), atol=1e-3)
    assert all(type(value) is float for value in (*track.box, track.score, track.age_s, *track.velocity_xy))


def test_no_detection_at_all() -> None:
    tracker = Tracker()
    assert all(tracker.update(Detections.empty(), i / 30, HW) == [] for i in range(50))
    assert len(tracker) == 0


def test_a_single_false_alarm_is_forgotten_and_takes_no_id() -> None:
    tracker = Tracker()
    tracker.update(seen((300, 300, 50, 50)), 0.0, HW)
    for i in range(1, 6):
        assert tracker.update(Detections.empty(), i / 10, HW) == []
    assert len(tracker) == 0
    confirmed(tracker, (100, 100, 40, 30), start_s=1.0)
    assert [track.id for track in tracker.update(seen((100, 100, 40, 30)), 1.5, HW)] == [1]


def test_velocity_is_in_pixels_per_second() -> None:
    tracker = Tracker()
    for i in range(30):
        tracks = tracker.update(seen((100 + 120 * i / 30, 300 - 60 * i / 30, 80, 60)), i / 30, HW)
    assert tracks[0].velocity_xy == pytest.approx((120, -60), rel=0.05)


def crossing(time_s: float) -> list[Box]:
    """Two cars that pass one another, and a third that stands."""
    return [(100 + 250 * time_s, 300, 80, 60), (700 - 250 * time_s, 315, 80, 60), (850, 200, 40, 30)]


def follow(times: Iterable[float], place: Callable[[float], list[Box]]) -> list[list[int]]:
    """Run a tracker; for each time with all objects tracked, the ids in the order of `place`."""
    tracker, rows = Tracker(), []
    for time_s in times:
        boxes = place(time_s)
        tracks = tracker.update(seen(*boxes), time_s, HW)
        if len(tracks) == len(boxes):
            centres = np.array([((t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2) for t in tracks])
            rows.append([tracks[np.abs(centres - box[:2]).sum(1).argmin()].id for box in boxes])
    return rows


@pytest.mark.parametrize("fps", [10, 15, 30, 60])
def test_crossing_objects_keep_their_ids_at_every_frame_rate(fps: int) -> None:
    rows = follow(np.arange(0, 2.4, 1 / fps), crossing)
    assert len(rows) >= 2.4 * fps - 4
    assert {tuple(sorted(row)) for row in rows} == {(1, 2, 3)}
    assert rows[0] == rows[-1] == [1, 2, 3]


def test_irregular_times_and_dropped_frames_keep_ids() -> None:
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([0.02, 0.033, 0.1, 0.2], 40, p=[0.3, 0.3, 0.3, 0.1]))
    rows = follow(times[times < 2.4], crossing)
    assert len(rows) > 15 and rows[-1] == [1, 2, 3]


@pytest.mark.parametrize("gap_s", [0.5, 0.9])
def test_occlusion_keeps_the_id_and_says_how_long(gap_s: float) -> None:
    tracker = Tracker()
    tracks: list[Track] = []
    for i in range(60):
        time_s = i / 30
        hidden = 0.8 < time_s < 0.8 + gap_s
        boxes = [] if hidden else [(100 + 200 * time_s, 300, 80, 60)]
        tracks = tracker.update(seen(*boxes), time_s, HW)
        if hidden:
            assert tracks[0].unseen_s == pytest.approx(time_s - 0.8, abs=0.04)
            assert (tracks[0].box[0] + tracks[0].box[2]) / 2 == pytest.approx(100 + 200 * time_s, abs=20)
    assert [(track.id, track.unseen_s) for track in tracks] == [(1, 0)]


def test_a_track_ends_when_unseen_too_long_even_over_one_long_gap() -> None:
    for gap_s in (1.2, 60.0, 1e12):
        tracker = Tracker()
        time_s = confirmed(tracker, (300, 300, 80, 60))
        assert tracker.update(seen((300, 300, 80, 60)), time_s + gap_s, HW) == []
        assert len(tracker) == 1  # the new one


def test_weak_detections_continue_a_track_but_begin_none() -> None:
    tracker = Tracker()
    time_s = confirmed(tracker, (300, 300, 80, 60))
    for i in range(1, 31):
        weak = seen((300, 300, 80, 60), (600, 300, 80, 60), scores=(0.25, 0.25))
        tracks = tracker.update(weak, time_s + i / 10, HW)
        assert [(track.id, track.unseen_s) for track in tracks] == [(1, 0)]
    below = seen((300, 300, 80, 60), scores=(0.1,))
    assert tracker.update(below, time_s + 3.1, HW)[0].unseen_s == pytest.approx(0.1)


def test_a_weak_detection_confirms_a_new_track() -> None:
    tracker = Tracker()
    tracker.update(seen((300, 300, 80, 60), scores=(0.5,)), 0.0, HW)
    tracks = tracker.update(seen((300, 300, 80, 60), scores=(0.3,)), 0.1, HW)
    assert [track.score for track in tracks] == [pytest.approx(0.3)]


def test_one_detection_continues_one_track() -> None:
    tracker = Tracker()
    time_s = confirmed(tracker, (300, 300, 80, 60))
    tracker.update(seen((300, 300, 80, 60), (340, 300, 80, 60)), time_s + 0.1, HW)  # the second is not yet confirmed
    tracks = tracker.update(seen((318, 300, 80, 60)), time_s + 0.2, HW)
    assert [(track.id, track.unseen_s) for track in tracks] == [(1, 0)]


def test_a_confident_detection_is_served_before_a_weak_one() -> None:
    tracker = Tracker()
    time_s = confirmed(tracker, (300, 300, 80, 60))
    both = seen((300, 300, 80, 60), (312, 300, 80, 60), scores=(0.3, 0.9))
    assert tracker.update(both, time_s + 0.1, HW)[0].score == pytest.approx(0.9)


def test_the_class_is_voted_for() -> None:
    tracker = Tracker()
    flicker = [CAR, TRUCK, CAR, CAR, CAR, TRUCK]
    for i, kind in enumerate(flicker):
        tracks = tracker.update(seen((300, 300, 80, 60), classes=[kind]), i / 10, HW)
    assert [(track.id, track.class_id) for track in tracks] == [(1, CAR)]
    for i in range(6, 20):
        tracks = tracker.update(seen((300, 300, 80, 60), classes=[TRUCK]), i / 10, HW)
    assert [(track.id, track.class_id) for track in tracks] == [(1, TRUCK)]


def test_one_object_reported_as_two_classes_is_one_track() -> None:
    tracker = Tracker()
    for i in range(10):
        double = seen((300, 300, 80, 60), (301, 300, 80, 60), scores=(0.5, 0.6), classes=(CAR, TRUCK))
        tracks = tracker.update(double, i / 10, HW)
    assert [track.class_id for track in tracks] == [TRUCK] and len(tracker) == 1


def test_the_same_class_is_preferred_to_a_confusable_one() -> None:
    tracker = Tracker()
    time_s = confirmed(tracker, (300, 300, 80, 60))
    pair = seen((291, 300, 80, 60), (310, 300, 80, 60), classes=(TRUCK, CAR))  # the truck overlaps a little more
    for i in (1, 2):
        tracks = tracker.update(pair, time_s + i / 10, HW)
    assert [(track.id, track.class_id) for track in tracks] == [(1, CAR), (2, TRUCK)]


def test_classes_that_nothing_confuses_never_share_a_track() -> None:
    tracker = Tracker()
    time_s = confirmed(tracker, (300, 300, 80, 60))
    for i in (1, 2):
        tracks = tracker.update(seen((300, 300, 80, 60), classes=[SIGN]), time_s + i / 10, HW)
    assert [(track.id, track.class_id) for track in tracks] == [(1, CAR), (2, SIGN)]
    assert tracks[0].unseen_s == pytest.approx(0.2) and tracks[1].unseen_s == 0


def test_other_class_names() -> None:
    tracker = Tracker(box_names=("Car", "Van"))
    with pytest.raises(ValueError, match=r"class ids must be 0 to 1, but got 2 to 2; give Tracker the box_names"):
        tracker.update(seen((300, 300, 80, 60), classes=[2]), 0.0, HW)


def test_a_track_that_leaves_the_frame_ends() -> None:
    tracker = Tracker()
    for i in range(20):
        x = 860 + 200 * i / 30
        tracks = tracker.update(seen((x, 300, 80, 60)) if x < 940 else Detections.empty(), i / 30, HW)
        assert all(0 <= track.box[0] < track.box[2] <= 960 for track in tracks)
    assert tracks == [] and len(tracker) == 0


def test_time_backwards_and_another_frame_size_begin_anew_with_fresh_ids() -> None:
    tracker = Tracker()
    confirmed(tracker, (300, 300, 80, 60), start_s=5)
    assert tracker.update(seen((300, 300, 80, 60)), 0.0, HW) == []
    assert [t.id for t in tracker.update(seen((300, 300, 80, 60)), 0.1, HW)] == [2]
    assert tracker.update(seen((300, 300, 80, 60)), 0.2, (HW[0] * 2, HW[1])) == []
    assert len(tracker) == 1


def test_the_shape_of_a_picture_serves_as_its_size() -> None:
    tracker = Tracker()
    for i in range(3):
        tracks = tracker.update(seen((300, 300, 80, 60)), i / 10, (*HW, 3))  # type: ignore[arg-type]
    assert [track.id for track in tracks] == [1]


def test_a_picture_that_is_no_frame_is_refused_and_does_no_harm() -> None:
    tracker = Tracker()
    confirmed(tracker, (300, 300, 80, 60))
    with pytest.raises(ValueError, match="expected an image"):
        tracker.update(seen((300, 300, 80, 60)), 1.0, HW, np.zeros(HW, np.uint8))
    assert [track.id for track in tracker.update(seen((300, 300, 80, 60)), 1.0, HW)] == [1]


def test_the_same_time_twice_is_no_step() -> None:
    tracker = Tracker()
    for _ in range(5):
        tracks = tracker.update(seen((300, 300, 80, 60)), 0.0, HW)
    assert [(track.id, track.age_s) for track in tracks] == [(1, 0)]


def test_instances_count_alone() -> None:
    for _ in range(2):
        tracker = Tracker()
        confirmed(tracker, (300, 300, 80, 60))
        assert tracker.update(seen((300, 300, 80, 60)), 0.5, HW)[0].id == 1


def test_inputs_are_not_changed_and_tracks_do_not_change_later() -> None:
    tracker = Tracker()
    detections = seen((300, 300, 80, 60), (305, 300, 80, 60), (100, 100, 30, 30), scores=(0.3, 0.9, 0.6))
    copies = [array.copy() for array in (detections.boxes, detections.scores, detections.classes)]
    for array in (detections.boxes, detections.scores, detections.classes):
        array.setflags(write=False)
    tracker.update(detections, 0.0, HW)
    tracks = tracker.update(detections, 0.1, HW)
    before = [track.box for track in tracks]
    tracker.update(seen((320, 300, 80, 60)), 0.2, HW)
    assert before == [track.box for track in tracks]
    for array, copy in zip((detections.boxes, detections.scores, detections.classes), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_boxes_without_area_are_left_out() -> None:
    boxes = np.array([[10, 10, 10, 50], [60, 60, 50, 70], [np.nan, 0, 5, 5], [0, 0, np.inf, 9]], np.float32)
    bad = Detections(boxes, np.full(4, 0.9, np.float32), np.full(4, CAR))
    tracker = Tracker()
    tracker.update(bad, 0.0, HW)
    assert len(tracker) == 0


def test_one_pixel_frame_and_portrait() -> None:
    for hw in ((1, 1), (960, 540)):
        tracker = Tracker()
        boxes = Detections(np.array([[0, 0, hw[1], hw[0]]], np.float32), np.array([0.9], np.float32), np.array([CAR]))
        for i in range(3):
            tracks = tracker.update(boxes, i / 10, hw)
        np.testing.assert_allclose(tracks[0].box, (0, 0, hw[1], hw[0]), rtol=1e-6)


def test_thousands_of_frames_in_constant_memory() -> None:
    rng = np.random.default_rng(2)
    tracker, most = Tracker(), 0
    for i in range(2000):
        stand = [(200, 300, 80, 60), (600, 300, 80, 60)]
        noise = [tuple(rng.uniform((0, 0, 10, 10), (960, 540, 60, 60)))] if i % 3 == 0 else []
        tracks = tracker.update(seen(*stand, *noise), i / 30, HW)
        most = max(most, len(tracker))
    assert [track.id for track in tracks][:2] == [1, 2]
    assert most < 30 and all(len(getattr(tracker._states, name)) == len(tracker) for name in ("mean", "votes"))


def test_noise_and_missed_detections_keep_ids() -> None:
    rng = np.random.default_rng(3)
    tracker = Tracker()
    ids: set[int] = set()
    for i in range(300):
        time_s = i / 30
        boxes = np.array([(100 + 30 * time_s, 300, 60, 45), (800 - 25 * time_s, 260, 40, 30), (480, 100, 20, 20)])
        boxes += rng.normal(0, 0.06, boxes.shape) * boxes[:, 2:3]
        keep = rng.uniform(size=3) < 0.7
        scores = rng.uniform(0.2, 0.6, 3)[keep]
        kinds = np.array([CAR, CAR, SIGN])[keep]
        ids |= {track.id for track in tracker.update(seen(*boxes[keep], scores=scores, classes=kinds), time_s, HW)}
    assert ids == {1, 2, 3}


@pytest.mark.parametrize(
    "wrong",
    [{"low_score": 0.6}, {"max_unseen_s": -1.0}, {"position_noise": 0.0}, {"acceleration": float("nan")}],
)
def test_wrong_configuration(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="TrackerConfig"):
        TrackerConfig(**wrong)  # type: ignore[arg-type]


def test_time_must_be_finite() -> None:
    with pytest.raises(ValueError, match="timestamp_s must be a finite number"):
        Tracker().update(Detections.empty(), float("nan"), HW)


def test_predicted_is_what_update_without_detections_would_say_and_changes_nothing() -> None:
    def seen(x: float) -> Detections:
        box = np.array([[x, 20, x + 40, 60]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([2]))

    one, other = Tracker(), Tracker()
    assert one.predicted(3.0) == []
    for i in range(6):
        for tracker in (one, other):
            tracker.update(seen(10.0 + 4 * i), i / 10, (200, 400))
    expected = one.predicted(0.6)
    assert [round(track.unseen_s, 6) for track in expected] == [0.1] and expected[0].box[0] > 31
    assert one.predicted(0.55) and one.predicted(0.6) == expected
    assert one.update(seen(50.0), 0.7, (200, 400)) == other.update(seen(50.0), 0.7, (200, 400))
    other = Tracker()
    for i in range(6):
        other.update(seen(10.0 + 4 * i), i / 10, (200, 400))
    assert other.update(Detections.empty(), 0.6, (200, 400)) == expected
    with pytest.raises(ValueError, match="before the last update"):
        one.predicted(0.1)


# the camera turns


def turning(shift: float, frames: int, with_image: bool) -> set[int]:
    """Ids of two small boxes in a picture that jumps by `shift` pixels to and fro."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 92, 3), np.uint8)
    world = cv2.resize(noise, (1104, 576), interpolation=cv2.INTER_CUBIC)
    tracker, ids = Tracker(), set[int]()
    for i in range(frames):
        x = round(shift * (i % 2))
        image = np.ascontiguousarray(world[:540, 144 - 72 - x : 144 - 72 - x + 960])
        boxes = [(300 + x, 300, 40, 30), (360 + x, 300, 40, 30)]
        tracks = tracker.update(seen(*boxes), i / 25, HW, image if with_image else None)
        ids |= {track.id for track in tracks}
    return ids


def test_a_jumping_camera_keeps_ids_with_pictures_and_swaps_them_without() -> None:
    assert turning(60, 12, with_image=True) == {1, 2}
    assert turning(60, 12, with_image=False) != {1, 2}


def test_growth_is_the_rate_of_the_logarithm_of_size() -> None:
    tracker = Tracker()
    for i in range(40):
        grown = math.exp(0.4 * i / 25)
        tracks = tracker.update(seen((480, 270, 40 * grown, 30 * grown)), i / 25, HW)
    assert tracks[0].growth_per_s == pytest.approx(0.4, abs=0.05)
    assert tracks[0].growth_std_per_s is not None and 0 < tracks[0].growth_std_per_s < 0.4
    assert 0 < tracks[0].bottom_std_px < 5
