"""perception.overlay: the right colours in the right places, at any size, with anything missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from perception.colours import BOX_COLOURS, MAP_COLOURS, colour_map
from perception.labels import BOX_CLASSES, DRIVE_CLASSES, HEADS, SCENE_CLASSES
from perception.overlay import LANE, ROAD, OverlayStyle, draw, status_bar
from perception.structures import Detections, Result, Track

CAR = BOX_CLASSES.index("car")
STATUS = status_bar(frame_id=12, timestamp_s=0.4, fps=30.0, p50_ms=9.0, p99_ms=12.5, dropped=3, provider="CPU")


def grey(hw: tuple[int, int]) -> np.ndarray:
    return np.full((*hw, 3), 90, np.uint8)


def drive_map(hw: tuple[int, int]) -> np.ndarray:
    """The lower half can be driven on, with a line down its middle."""
    class_map = np.zeros(hw, np.uint8)
    class_map[hw[0] // 2 :] = 1
    middle, half = hw[1] // 2, max(1, hw[1] // 40)
    class_map[hw[0] // 2 :, middle - half : middle + half] = 2
    return class_map


def result(
    hw: tuple[int, int], maps: Mapping[str, np.ndarray] | None = None, found: Detections | None = None
) -> Result:
    maps = {"drive": drive_map(hw)} if maps is None else maps
    return Result(found or Detections.empty(), maps, BOX_CLASSES, HEADS)


def one(box: tuple[float, float, float, float], class_id: int = CAR) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.83], np.float32), np.array([class_id]))


def track(box: tuple[float, float, float, float], **changes: object) -> Track:
    return Track(**({"id": 12, "box": box, "score": 0.83, "class_id": CAR, "age_s": 1.0} | changes))  # type: ignore[arg-type]


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W) bool."""
    return np.asarray((before != after).any(2))


def nearer(pixel: np.ndarray, before: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether the pixel has moved straight towards the colour."""
    way, wanted = pixel.astype(float) - before, np.array(colour, float) - before
    return bool(way @ wanted / (np.linalg.norm(way) * np.linalg.norm(wanted)) > 0.98)


@pytest.mark.parametrize("hw", [(1, 1), (2, 3), (16, 16), (1, 700), (700, 1), (101, 333), (640, 360), (540, 960)])
def test_any_size_and_the_input_stays(hw: tuple[int, int]) -> None:
    image = grey(hw)
    image.setflags(write=False)
    maps = {"drive": drive_map(hw), "scene": np.full(hw, 255, np.uint8)}
    box = (0.1 * hw[1], 0.4 * hw[0], 0.8 * hw[1], 1.2 * hw[0])
    tracks = [track(box, velocity_xy=(300.0, -40.0)), track((0, 0, 1, 1), unseen_s=0.1)]
    for drawn in (draw(image, result(hw, maps, one(box)), None, STATUS), draw(image, result(hw, maps), tracks, STATUS)):
        assert drawn.shape == image.shape and drawn.dtype == np.uint8 and not np.shares_memory(drawn, image)
    assert (image == 90).all()


def test_4k() -> None:
    hw = (2160, 3840)
    drawn = draw(grey(hw), result(hw), [track((100, 1500, 900, 2000))], STATUS)
    assert changed(grey(hw), drawn)[1100:].all()


def test_nothing_to_draw_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    nothing = Result(Detections.empty(), {})
    for drawn in (
        draw(image, nothing),
        draw(image, nothing, []),
        draw(image, result((60, 80), {"drive": np.zeros((60, 80), np.uint8)})),
        draw(image, Result(Detections.empty(), {"drive": drive_map((60, 80))})),  # a map whose classes nobody named
    ):
        np.testing.assert_array_equal(drawn, image)


def test_drivable_area_and_lanes_have_their_colours_and_the_sky_its_pixels() -> None:
    image = grey((270, 480))
    drawn = draw(image, result((270, 480)))
    np.testing.assert_array_equal(drawn[:130], image[:130])
    assert nearer(drawn[260, 100], image[260, 100], ROAD)
    assert nearer(drawn[260, 240], image[260, 240], LANE)
    assert np.abs(drawn[260, 240].astype(int) - LANE).max() < 40  # lane markings are all but opaque
    near, far = (np.abs(drawn[y, 100].astype(int) - 90).sum() for y in (260, 150))
    assert near > 1.5 * far  # the area fades towards the horizon


def test_opacity_zero_is_invisible() -> None:
    image = grey((270, 480))
    drawn = draw(image, result((270, 480)), style=OverlayStyle(road=0, lanes=0))
    assert np.abs(drawn.astype(int) - image).max() <= 1


def test_the_scene_shows_when_there_is_no_drive_head_or_when_asked() -> None:
    hw = (120, 160)
    scene = np.full(hw, SCENE_CLASSES.index("vegetation"), np.uint8)
    scene[:, :80] = 255
    image = grey(hw)
    alone = draw(image, result(hw, {"scene": scene}))
    np.testing.assert_array_equal(alone[:, :79], image[:, :79])  # not labelled
    expected = 0.65 * image[0, 100] + 0.35 * np.array(MAP_COLOURS["vegetation"])
    np.testing.assert_allclose(alone[60, 100], expected, atol=2)
    both = {"scene": scene, "drive": drive_map(hw)}
    np.testing.assert_array_equal(draw(image, result(hw, both)), draw(image, result(hw)))
    asked = draw(image, result(hw, both), style=OverlayStyle(scene=0.35))
    np.testing.assert_allclose(asked[10, 100], expected, atol=2)
    assert (asked[110, 100] != draw(image, result(hw))[110, 100]).any()  # the road lies over the scene


def test_a_box_is_drawn_where_it_is() -> None:
    image = grey((540, 960))
    drawn = draw(image, result((540, 960), {}, one((400, 300, 600, 420))), style=OverlayStyle(labels=False))
    touched = np.argwhere(changed(image, drawn))
    np.testing.assert_allclose(touched.min(0), (300, 400), atol=3)
    np.testing.assert_allclose(touched.max(0), (420, 600), atol=3)
    assert np.abs(drawn[300:303, 410:425].astype(int) - BOX_COLOURS["car"]).sum(2).min() < 30
    assert np.abs(drawn[360, 500].astype(int) - 90).max() < 30  # the object stays visible


def test_tracks_replace_detections() -> None:
    image = grey((540, 960))
    seen = result((540, 960), {}, one((700, 300, 800, 400)))
    drawn = draw(image, seen, [track((100, 300, 200, 400))])
    assert changed(image, drawn)[:, :300].any() and not changed(image, drawn)[:, 600:].any()
    np.testing.assert_array_equal(draw(image, seen, []), image)


def test_labels_differ_by_id_class_and_score() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    box = (100.0, 300.0, 260.0, 420.0)
    pictures = [
        draw(image, nothing, [track(box, **change)])
        for change in ({}, {"id": 13}, {"score": 0.4}, {"class_id": CAR + 1}, {"unseen_s": 0.1})
    ]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])
    assert changed(image, pictures[0])[280:298, 100:180].any()  # over the box


def test_labels_stay_in_the_frame_and_apart() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    for box in ((-50, -20, 60, 40), (900, 500, 990, 580), (0, 0, 960, 540)):
        plain = draw(image, nothing, [track(box)], style=OverlayStyle(labels=False))
        assert changed(plain, draw(image, nothing, [track(box)])).sum() > 100
    crowd = [track((300 + i, 300, 420 + i, 400), id=i) for i in range(40)]
    assert draw(image, nothing, crowd).shape == image.shape


def test_boxes_outside_the_frame_leave_no_trace() -> None:
    image = grey((540, 960))
    for box in ((-90, 10, -10, 90), (10, 600, 90, 700), (1e9, 0, 2e9, 50), (50, 50, 50, 50), (90, 90, 20, 20)):
        np.testing.assert_array_equal(draw(image, result((540, 960), {}), [track(box)]), image)


def test_a_long_unseen_track_is_hidden_and_a_short_one_dim() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    box = (100.0, 300.0, 260.0, 420.0)
    strength = [
        np.abs(draw(image, nothing, [track(box, unseen_s=unseen_s)]).astype(int) - 90).sum()
        for unseen_s in (0.0, 0.2, 1.0)
    ]
    assert strength[0] > 2 * strength[1] > 0 and strength[2] == 0


def test_a_moving_track_has_a_tail_behind_it() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    box = (400.0, 300.0, 460.0, 340.0)
    rest = draw(image, nothing, [track(box)])
    tail = changed(rest, draw(image, nothing, [track(box, velocity_xy=(300.0, 0.0))]))
    x = np.flatnonzero(tail.any(0))
    assert x.min() == pytest.approx(430 - 150, abs=12) and x.max() <= 432  # 0.5 s back from the foot
    assert not changed(rest, draw(image, nothing, [track(box, velocity_xy=(5.0, 5.0))])).any()  # noise


def test_status_bar_shows_what_it_is_given() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    bar = draw(image, nothing, status=STATUS)
    assert changed(image, bar)[:20].all() and not changed(image, bar)[30:].any()
    assert (bar != draw(image, nothing, status=STATUS | {"fps": "29.9"})).any()
    assert list(STATUS) == ["fps", "p50", "p99", "dropped", "on", "frame", "time"]
    assert STATUS["p99"] == "12.5 ms" and STATUS["dropped"] == "3" and status_bar(dropped=0) == {"dropped": "0"}
    assert status_bar() == {}


def test_non_contiguous_input() -> None:
    hw = (270, 480)
    image = np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)
    class_map = drive_map(hw)
    expected = draw(image, result(hw))
    views = (
        image[::-1].copy()[::-1],
        np.asfortranarray(image),
        image[..., ::-1].copy()[..., ::-1],
        np.repeat(image, 2, 1)[:, ::2],
    )
    for view in views:
        np.testing.assert_array_equal(draw(view, result(hw)), expected)
    for view in (np.asfortranarray(class_map), np.repeat(class_map, 2, 1)[:, ::2], class_map[::-1].copy()[::-1]):
        np.testing.assert_array_equal(draw(image, result(hw, {"drive": view})), expected)
        np.testing.assert_array_equal(colour_map(view, DRIVE_CLASSES), colour_map(class_map, DRIVE_CLASSES))


def test_out_is_used_and_checked() -> None:
    image = grey((60, 80))
    out = np.empty_like(image)
    assert draw(image, result((60, 80)), out=out) is out
    np.testing.assert_array_equal(out, draw(image, result((60, 80))))
    for wrong in (np.empty((60, 81, 3), np.uint8), np.empty((60, 80, 3), np.float32), np.empty((60, 160, 3), np.uint8)):
        with pytest.raises(ValueError, match="out must be"):
            draw(image, result((60, 80)), out=wrong[:, ::2] if wrong.shape[1] == 160 else wrong)


def test_wrong_images_are_refused() -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected an image"):
            draw(wrong, Result(Detections.empty(), {}))


def test_the_result_of_another_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of a frame of \(60, 80\).*but the image has \(120, 160\)"):
        draw(grey((120, 160)), result((60, 80)))


def test_a_class_without_a_name_is_drawn_all_the_same() -> None:
    image = grey((540, 960))
    assert changed(image, draw(image, result((540, 960), {}, one((10, 100, 90, 200), class_id=77)))).any()


def test_labels_of_far_objects_make_room_for_near_ones() -> None:
    image, nothing = grey((540, 960)), result((540, 960), {})
    near, far = track((400, 300, 520, 420)), track((410, 301, 530, 405), id=13)
    alone, both = draw(image, nothing, [near]), draw(image, nothing, [far, near])
    label = np.s_[284:297, 402:450]
    assert changed(image, alone)[label].all()
    np.testing.assert_array_equal(both[label], alone[label])
    plain = draw(image, nothing, [far, near], style=OverlayStyle(labels=False))
    assert changed(plain, both)[405:430, 410:480].sum() > 500  # under its box


def test_a_narrow_frame_leaves_out_what_does_not_fit() -> None:
    image, nothing = grey((480, 300)), result((480, 300), {})
    short = {"fps": "30.0", "p50": "9 ms"}
    bar = draw(image, nothing, status=short)
    np.testing.assert_array_equal(draw(image, nothing, status=short | {"on": "a" * 60, "frame": "1"}), bar)
    assert (bar != draw(image, nothing, status={"fps": "30.0"})).any()


def test_distance_and_time_to_collision_are_on_the_label():
    box = (200.0, 150.0, 300.0, 260.0)
    image, empty = grey((360, 640)), result((360, 640))
    plain, told = (draw(image, empty, [track(box, **more)]) for more in ({}, {"distance_m": 23.4, "ttc_s": 3.2}))
    assert changed(plain, told).any()
