"""The picture for people: drivable area, lane markings, boxes, tracks and a status bar over the camera frame.

All colours are BGR. The tint of the road is composed at a few hundred pixels' width (the model sees no finer) and laid
over the frame in one pass, so that its cost hardly depends on how many layers there are.

Legend: H, W = the frame; h, w = the small tint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from perception.colours import BOX_COLOURS, MAP_COLOURS, Colour, colour_map, colour_of, rgb
from perception.structures import Result, Track, require_bgr

__all__ = ["OverlayStyle", "draw", "draw_boxes", "status_bar"]

Box = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels


ROAD, LANE = MAP_COLOURS["drivable"], rgb(0xFFE14D)
WHITE, GREY, DARK = rgb(0xFFFFFF), rgb(0xA9B4BE), rgb(0x12161A)
FONT = cv2.FONT_HERSHEY_SIMPLEX
TINT_WIDTH = 480  # pixels; the class maps come from a model about as wide
SOFT_EDGE = np.interp(np.arange(256), [60, 170], [0, 255]).astype(np.uint8)  # a blurred edge, steeper again
FAR = 20_000  # pixels; OpenCV's fixed-point coordinates go no farther
LEGIBLE_PX = 160  # frames with a shorter side get no text
QUARTER = np.linspace(0, np.pi / 2, 5)
ARC = 1 - np.stack([np.cos(QUARTER), np.sin(QUARTER)], 1)  # (5, 2) from (0, 1) to (1, 0), round a corner at (0, 0)
INWARDS = np.array([[(1, 1)], [(-1, 1)], [(-1, -1)], [(1, -1)]])  # (4, 1, 2) from the corners of a box


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayStyle:
    """How strong the layers are, and what is shown of a track."""

    road: float = 0.34
    """Opacity of the drivable area near the camera; it fades towards the horizon."""
    lanes: float = 0.9
    """Opacity of the lane markings."""
    scene: float | None = None
    """Opacity of the scene classes; None = none where the drivable area is known, else 0.35."""
    trail_s: float = 0.5
    """Length of a track's trail: where it was up to so long ago, by its velocity."""
    hide_unseen_s: float = 0.4
    """A track is drawn, dimmed, for so long after its last detection."""
    labels: bool = True
    """Write class, id and score; of a track with a known distance or time to collision also these."""


def draw(
    image_bgr: np.ndarray,
    result: Result,
    tracks: Sequence[Track] | None = None,
    status: Mapping[str, str] | None = None,
    *,
    style: OverlayStyle | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw what the model sees. Returns a new (H, W, 3) uint8 BGR image, or `out`; `image_bgr` stays as it is.

    Args:
        image_bgr: (H, W, 3) uint8 BGR, of any size and memory layout.
        result: class maps in frame pixels and, if there are no tracks, boxes. Unknown names get a colour of their own.
        tracks: drawn instead of the plain detections; None = draw the detections.
        status: name -> value for the bar at the top, see `status_bar`.
        style: opacities and times.
        out: where to draw, (H, W, 3) uint8 C-contiguous; may be `image_bgr` itself if that may be lost.
    """
    require_bgr(image_bgr)
    style = style or OverlayStyle()
    if out is None:
        out = np.empty(image_bgr.shape, np.uint8)
    elif out.shape != image_bgr.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be {image_bgr.shape} uint8 C-contiguous, but got {out.shape} {out.dtype}")
    np.copyto(out, image_bgr)
    _draw_maps(out, result, style)
    _draw_boxes(out, _marks(result, tracks, style), style)
    if status:
        _draw_status(out, status)
    return out


def draw_boxes(
    out: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colours: Sequence[Colour],
    style: OverlayStyle | None = None,
) -> None:
    """Draw boxes (N, 4) xyxy into `out`, (H, W, 3) uint8 BGR contiguous, with N texts ("" = none) and N colours."""
    marks = [_Mark(_pixels(box), colour, text, text) for box, text, colour in zip(boxes, texts, colours, strict=True)]
    _draw_boxes(out, sorted(marks, key=lambda mark: mark.box[3]), style or OverlayStyle())


def status_bar(
    *,
    frame_id: int | None = None,
    timestamp_s: float | None = None,
    fps: float | None = None,
    p50_ms: float | None = None,
    p99_ms: float | None = None,
    dropped: int | None = None,
    provider: str | None = None,
) -> dict[str, str]:
    """The texts of the status bar, the most wanted first: what does not fit into a narrow frame is left out."""
    return {
        name: text
        for name, text, value in (
            ("fps", f"{fps:.1f}" if fps is not None else "", fps),
            ("p50", f"{p50_ms:.1f} ms" if p50_ms is not None else "", p50_ms),
            ("p99", f"{p99_ms:.1f} ms" if p99_ms is not None else "", p99_ms),
            ("dropped", f"{dropped}", dropped),
            ("on", f"{provider}", provider),
            ("frame", f"{frame_id}", frame_id),
            ("time", f"{timestamp_s:.2f} s" if timestamp_s is not None else "", timestamp_s),
        )
        if value is not None
    }


# the tint. A layer is (ink, veil), both (h, w, 3) uint8: what lies below shines through as below * veil / 255 + ink


def _draw_maps(out: np.ndarray, result: Result, style: OverlayStyle) -> None:
    """Blend the class maps into `out` (H, W, 3)."""
    H, W = out.shape[:2]
    w = min(W, TINT_WIDTH)
    h = max(1, round(H * w / W))
    names = {head: result.map_names.get(head, ()) for head in result.class_maps}
    small = {
        head: cv2.resize(class_map, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
        for head, class_map in result.class_maps.items()
    }
    roads = [head for head in small if "drivable" in names[head]]
    scene = style.scene if style.scene is not None else 0.0 if roads else 0.35
    layers = [_scene_layer(small[head], names[head], scene) for head in small if scene and head not in roads]
    layers += [_road_layer(small[head], names[head], style) for head in roads]
    if not layers:
        return
    ink, veil = layers[0]
    for ink_above, veil_above in layers[1:]:
        ink, veil = _over(ink, ink_above, veil_above), cv2.multiply(veil, veil_above, scale=1 / 255)
    top = int((veil.min((1, 2)) < 255).argmax())  # the first row with any colour: the sky keeps its pixels
    y = top * H // h
    ink, veil = (cv2.resize(part[top:], (W, H - y), interpolation=cv2.INTER_LINEAR) for part in (ink, veil))
    out[y:] = _over(out[y:], ink, veil)


def _over(below: np.ndarray, ink: np.ndarray, veil: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.add(cv2.multiply(below, veil, scale=1 / 255), ink), np.uint8)


def _scene_layer(class_map: np.ndarray, names: Sequence[str], opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """Every class in its colour; where there is no class, nothing."""
    veil = np.full(256, 255, np.uint8)
    veil[: len(names)] = round(255 * (1 - opacity))
    ink = cv2.convertScaleAbs(colour_map(class_map, names), alpha=opacity)
    return np.asarray(ink), np.asarray(cv2.merge([cv2.LUT(class_map, veil)] * 3))


def _road_layer(class_map: np.ndarray, names: Sequence[str], style: OverlayStyle) -> tuple[np.ndarray, np.ndarray]:
    """Drivable area, stronger near the camera than far away, with a bright rim; lane markings above it."""
    h, w = class_map.shape
    lane = _mask(class_map, names, "lane marking")
    road = cv2.max(_mask(class_map, names, "drivable"), lane)
    inner = cv2.erode(road, np.ones((3, 3), np.uint8))  # the border of the frame makes no rim
    rim = cv2.convertScaleAbs(cv2.GaussianBlur(cv2.subtract(road, inner), (3, 3), 0), alpha=min(2.4 * style.road, 1))
    first = int(road.any(1).argmax())
    fade = np.interp(np.arange(h), [first, h], [100 * style.road, 255 * style.road]).astype(np.uint8)
    area = cv2.multiply(_soft(road), np.repeat(fade, w).reshape(h, w), scale=1 / 255)

    over = cv2.convertScaleAbs(_soft(lane), alpha=style.lanes)  # (h, w) opacities of the lane markings
    rest = cv2.bitwise_not(over)
    under = cv2.multiply(cv2.max(area, rim), rest, scale=1 / 255)  # and of the area, as far as it shows
    ink = [cv2.addWeighted(under, ROAD[i] / 255, over, LANE[i] / 255, 0) for i in range(3)]
    return np.asarray(cv2.merge(ink)), np.asarray(cv2.merge([cv2.subtract(rest, under)] * 3))


def _mask(class_map: np.ndarray, names: Sequence[str], wanted: str) -> np.ndarray:
    """(h, w) uint8, 255 where the map has the class `wanted`."""
    table = np.zeros(256, np.uint8)
    table[[i for i, name in enumerate(names) if name == wanted]] = 255
    return np.asarray(cv2.LUT(class_map, table), np.uint8)


def _soft(mask: np.ndarray) -> np.ndarray:
    """(h, w) uint8 0 or 255 -> 0 to 255, without the stairs of the pixels."""
    return np.asarray(cv2.LUT(cv2.GaussianBlur(mask, (5, 5), 0), SOFT_EDGE), np.uint8)


# boxes, trails, labels


@dataclass(frozen=True, slots=True)
class _Mark:
    """One box to draw."""

    box: Box  # may lie over the border of the frame
    colour: Colour
    text: str
    short: str  # instead of `text` for a small box
    dim: bool = False
    motion: tuple[float, float] = (0.0, 0.0)  # pixels, over the length of the trail


def _marks(result: Result, tracks: Sequence[Track] | None, style: OverlayStyle) -> list[_Mark]:
    """What is to be drawn, far objects first, so that near ones lie over them."""
    marks = []
    if tracks is None:
        found = result.detections
        for xyxy, score, class_id in zip(found.boxes, found.scores, found.classes, strict=True):
            name = _name(result, int(class_id))
            marks.append(_Mark(_pixels(xyxy), colour_of(name, BOX_COLOURS), f"{name} {score:.2f}", name))
    for track in tracks or ():
        if track.unseen_s <= style.hide_unseen_s:
            name, dim = _name(result, track.class_id), track.unseen_s > 0
            text = f"{name} {track.id}" if dim else f"{name} {track.id} {track.score:.2f}"
            text += f" {track.distance_m:.0f} m" if track.distance_m is not None else ""
            text += f" {track.ttc_s:.1f} s" if track.ttc_s is not None else ""
            motion = track.velocity_xy[0] * style.trail_s, track.velocity_xy[1] * style.trail_s
            colour = colour_of(name, BOX_COLOURS)
            marks.append(_Mark(_pixels(track.box), colour, text, str(track.id), dim, motion))
    return sorted(marks, key=lambda mark: mark.box[3])


def _name(result: Result, class_id: int) -> str:
    return result.box_names[class_id] if 0 <= class_id < len(result.box_names) else f"class {class_id}"


def _pixels(xyxy: Sequence[float] | np.ndarray) -> Box:
    """Rounded, and near enough to the frame for OpenCV's fixed-point coordinates."""
    left, top, right, bottom = (round(min(max(float(value), -FAR), FAR)) for value in xyxy)
    return left, top, right, bottom


def _draw_boxes(out: np.ndarray, marks: Sequence[_Mark], style: OverlayStyle) -> None:
    unit = _unit(out)
    marks = [mark for mark in marks if _inside(out, mark.box).size]
    for mark in marks:
        _draw_trail(out, mark, unit)
        _draw_frame(out, mark, unit)
    if style.labels and min(out.shape[:2]) >= LEGIBLE_PX:
        taken: list[Box] = []
        for mark in (mark for mark in reversed(marks) if mark.text):  # near objects choose their place first
            _draw_label(out, mark, unit, taken)


def _draw_trail(out: np.ndarray, mark: _Mark, unit: float) -> None:
    """A tail that narrows from the object's foot to where the foot was."""
    left, _, right, bottom = mark.box
    past = np.array(mark.motion)
    length = float(np.hypot(*past))
    if mark.dim or length < max(10 * unit, 0.2 * (right - left)):
        return
    across = past[::-1] * (1, -1) * (2.2 * unit / length)
    foot = np.array([(left + right) / 2, bottom])
    tail = np.clip([foot - past, foot - across, foot + across], -FAR, FAR)
    cv2.fillPoly(out, [np.round(8 * tail).astype(np.int32)], mark.colour, cv2.LINE_AA, 3)


def _draw_frame(out: np.ndarray, mark: _Mark, unit: float) -> None:
    """Four rounded corners around a faint fill; dim: the corners alone, darker."""
    left, top, right, bottom = mark.box
    if not mark.dim:
        inside = _inside(out, mark.box)
        inside[:] = cv2.addWeighted(inside, 0.88, np.full(inside.shape, mark.colour, np.uint8), 0.12, 0)
    H, W = out.shape[:2]
    box = max(left, 0), max(top, 0), min(right, W) - 1, min(bottom, H) - 1
    side = min(box[2] - box[0], box[3] - box[1])
    corners = _corners(box, min(side / 4, 5 * unit), min(side / 2, 3 * unit + 0.2 * side, 20 * unit))
    line = max(1, round(1.8 * unit))
    if mark.dim:
        cv2.polylines(out, corners, False, tuple(c // 2 + 50 for c in mark.colour), max(1, line // 2), cv2.LINE_AA, 3)
        return
    if side > 36 * unit:  # on small boxes a dark contour would cover the object
        cv2.polylines(out, corners, False, DARK, line + max(1, round(unit)), cv2.LINE_AA, 3)
    cv2.polylines(out, corners, False, mark.colour, line, cv2.LINE_AA, 3)


def _draw_label(out: np.ndarray, mark: _Mark, unit: float, taken: list[Box]) -> None:
    """Write over the box, or under it, or inside, wherever no label of a nearer object is; nowhere if all are taken."""
    left, top, right, bottom = mark.box
    H, W = out.shape[:2]
    scale, high, pad = 0.4 * unit, round(15 * unit), round(4 * unit)
    text = mark.text
    wide = _text_width(text, scale) + 2 * pad
    if right - left < wide / 3:
        text = mark.short
        wide = _text_width(text, scale) + 2 * pad
    x = min(max(left, 0), max(W - wide, 0))
    for y in (top - high - pad // 2, bottom + pad // 2, max(top, 0) + pad):
        place = x, y, x + wide, y + high
        if y >= 0 and place[3] <= H and not any(_touch(place, other) for other in taken):
            taken.append(place)
            _fill_pill(out, place, DARK if mark.dim else mark.colour)
            colour = GREY if mark.dim else DARK
            cv2.putText(out, text, (x + pad, y + round(11 * unit)), FONT, scale, colour, 1, cv2.LINE_AA)
            return


def _draw_status(out: np.ndarray, status: Mapping[str, str]) -> None:
    """One dark strip at the top: names in grey, values in white; from the left, as many as fit."""
    H, W = out.shape[:2]
    if min(H, W) < LEGIBLE_PX:
        return
    unit = _unit(out)
    scale, high, gap = 0.42 * unit, round(24 * unit), round(7 * unit)
    strip = out[:high]
    strip[:] = cv2.addWeighted(strip, 0.3, np.full(strip.shape, DARK, np.uint8), 0.7, 0)
    x, y = 2 * gap, round(16 * unit)
    for name, value in status.items():
        wide = _text_width(name, scale), _text_width(value, scale)
        if x + sum(wide) + gap > W:
            return
        cv2.putText(out, name, (x, y), FONT, scale, GREY, 1, cv2.LINE_AA)
        cv2.putText(out, value, (x + wide[0] + gap, y), FONT, scale, WHITE, 1, cv2.LINE_AA)
        x += sum(wide) + 4 * gap


def _unit(out: np.ndarray) -> float:
    """Frame pixels in one unit of drawing: 1 at 960x540 and at 540x960."""
    return max(float(min(out.shape[:2])) / 540, 0.8)


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, FONT, scale, 1)[0][0])


def _inside(out: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of the box: a view, empty if none is in the frame."""
    left, top, right, bottom = (max(value, 0) for value in box)
    return out[top:bottom, left:right]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fill_pill(out: np.ndarray, box: Box, colour: Colour) -> None:
    """A filled rectangle with round corners."""
    left, top, right, bottom = box
    a, b, c, d = _corners((left, top, right - 1, bottom - 1), (bottom - top) / 4)
    cv2.fillPoly(out, [np.concatenate([a, b[::-1], c, d[::-1]])], colour, cv2.LINE_AA, 3)


def _corners(box: Box, radius: float, reach: float = 0.0) -> list[np.ndarray]:
    """Top left, top right, bottom right, bottom left: (P, 2) int32 in 1/8 pixel, from the upright side to the level.

    `reach` > 0 adds straight ends up to so far from the corner.
    """
    bend = radius * ARC
    if reach > radius:
        bend = np.array([(0.0, reach), *bend.tolist(), (reach, 0.0)])
    left, top, right, bottom = box
    places = np.array([[(left, top)], [(right, top)], [(right, bottom)], [(left, bottom)]])  # (4, 1, 2)
    return list(np.round(8 * (places + INWARDS * bend)).astype(np.int32))
