"""Paints what stands at the edge of the road on poles: signs, gantries, lamps and traffic lights."""

from __future__ import annotations

import numpy as np

from data.synthetic.camera import View
from data.synthetic.canvas import SCENE, Canvas, Sprite
from data.synthetic.light import Look
from data.synthetic.sprites import make_sign
from data.synthetic.thing import Thing
from perception.labels import BOX_CLASSES

__all__ = ["draw_gantry", "draw_lamp", "draw_sign", "draw_traffic_light"]

BOX = {name: index for index, name in enumerate(BOX_CLASSES)}
STEEL = (118, 116, 114)
THICK = np.array([0, 0.13, 0])  # of arms
Point = tuple[float, float, float]
Place = tuple[float, float, float, float]


def draw_post(
    canvas: Canvas, view: View, look: Look, place: Place, height: float, width: float, colour: Point = STEEL
) -> None:
    """An upright pole, lit from one side."""
    x, y, z, _ = place
    low, high = view.project(np.array([[x, y, z], [x, y + height, z]]))
    half = max(view.f * width / 2 / z, 0.45)
    for left, right, shade in (
        (-half, half, 0.75),
        (-half if look.sun_dir[0] < 0 else 0.0, 0.0 if look.sun_dir[0] < 0 else half, 1.1),
    ):
        quad = np.array(
            [[low[0] + left, low[1]], [high[0] + left, high[1]], [high[0] + right, high[1]], [low[0] + right, low[1]]]
        )
        tone = look.mix(np.array(colour), look.light_at(x, z, 0.5) * shade, z)
        canvas.polygon(quad, tone.tolist(), SCENE["pole"])


def draw_sign(canvas: Canvas, view: View, look: Look, thing: Thing, place: Place) -> None:
    sprite = make_sign(thing.variant, thing.seed)
    x, y, z, _ = place
    base, size = {"guide": (1.8, 1.5), "street": (2.9, 0.32), "chevron": (0.7, 0.8)}.get(thing.variant, (2.0, 0.75))
    draw_post(canvas, view, look, place, base + size * 0.9, 0.07)
    _plate(canvas, view, look, sprite, (x, y, z), base, size, thing.track_id)


def _plate(
    canvas: Canvas,
    view: View,
    look: Look,
    sprite: Sprite,
    at: Point,
    base: float,
    size: float,
    track_id: int,
) -> None:
    """A sign's face at a height over a point of the ground."""
    x, y, z = at
    u, v = view.project(np.array([x, y + base, z]))
    high = view.f * size / z
    wide = high * sprite.levels[0].shape[1] / sprite.levels[0].shape[0]
    box = (float(u - wide / 2), float(v - high), float(u + wide / 2), float(v))
    clear = look.clear(z)
    light = look.light_at(x, z, 0.6) + (0.9 * look.headlights * np.exp(-z / 60) if look.headlights > 0.5 else 0)
    owner = canvas.begin(track_id, BOX["traffic sign"], SCENE["traffic sign"])
    canvas.blit(sprite, box, light * clear, look.fog * (1 - clear), owner)
    canvas.end(owner, box)


def draw_gantry(canvas: Canvas, view: View, look: Look, thing: Thing) -> None:
    """A frame over the carriageway with big signs."""
    road = view.road
    left, right = view.place(thing.s, road.median_m - 0.3), view.place(thing.s, road.right_m + 0.8)
    if min(left[2], right[2]) < 3:
        return
    for end in (left, right):
        draw_post(canvas, view, look, end, 6.6, 0.3)
    beam = view.project(
        np.array([left[:3], right[:3], right[:3], left[:3]])
        + np.array([[0, 6.0, 0], [0, 6.0, 0], [0, 6.5, 0], [0, 6.5, 0]])
    )
    canvas.polygon(beam, look.plain(STEEL, left[0], left[2]), SCENE["pole"])
    for lane in range(0, road.lanes_right, 2 if road.lanes_right > 2 else 1):
        x, y, z, _ = view.place(thing.s - 0.3, road.lane_d(lane))
        _plate(canvas, view, look, make_sign("gantry", thing.seed + lane), (x, y, z), 5.3, 1.7, thing.track_id + lane)


def draw_lamp(canvas: Canvas, view: View, look: Look, thing: Thing, place: Place) -> None:
    """A street lamp with an arm over the road."""
    x, y, z, theta = place
    draw_post(canvas, view, look, place, thing.height, 0.16)
    reach = -thing.yaw * 1.8
    tip = np.array([x + reach * np.cos(theta), y + thing.height + 0.3, z - reach * np.sin(theta)])
    top = np.array([x, y + thing.height - 0.05, z])
    arm = view.project(np.array([top, tip, tip + THICK, top + THICK]))
    canvas.polygon(arm, look.plain(STEEL, x, z), SCENE["pole"])
    u, v = view.project(tip)
    size = max(view.f * 0.35 / z, 0.8)
    head = np.array(
        [
            [u - size, v - size * 0.3],
            [u + size, v - size * 0.3],
            [u + size, v + size * 0.25],
            [u - size, v + size * 0.25],
        ]
    )
    lit = look.lights > 0.45 and look.condition != "rain"
    canvas.polygon(head, (170, 225, 250) if lit else look.plain((150, 148, 146), x, z), SCENE["pole"])
    if lit:
        radius = 1.6 * look.lights * view.f / z + 2
        canvas.glow(float(u), float(v), radius, radius, np.array([130, 195, 235.0]) * look.lights * look.clear(z))


def draw_traffic_light(canvas: Canvas, view: View, look: Look, thing: Thing, place: Place) -> None:
    """Three lamps on a post, or hanging from a mast arm over the lanes."""
    x, y, z, _ = place
    high = 3.2
    if thing.variant == "mast":
        high = 5.6
        draw_post(canvas, view, look, place, 6.4, 0.2, colour=(60, 62, 64))
        reach = -(place[0] - view.place(thing.s, view.d)[0])
        tip = np.array([x + reach, y + 6.3, z])
        arm = view.project(np.array([[x, y + 6.0, z], tip, tip + THICK, [x, y + 6.2, z]]))
        canvas.polygon(arm, look.plain((60, 62, 64), x, z), SCENE["pole"])
        x = float(tip[0])
    else:
        draw_post(canvas, view, look, place, high - 0.2, 0.13, colour=(62, 64, 66))
    u, v = view.project(np.array([x, y + high - 0.55 + (0 if thing.variant == "mast" else 0.35), z]))
    h, w = view.f * 1.0 / z, view.f * 0.36 / z
    box = (float(u - w / 2), float(v - h), float(u + w / 2), float(v))
    owner = canvas.begin(thing.track_id, BOX["traffic light"], SCENE["traffic light"])
    corners = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])
    canvas.polygon(corners, look.plain((24, 26, 26), x, z, 0.3), owner)
    lamps = (((50, 45, 250), (0, 1)), ((40, 190, 250), (1, 3)), ((150, 235, 60), (2,)))
    angle = np.linspace(0, 2 * np.pi, 13)[:-1]
    for index, (colour, states) in enumerate(lamps):
        on = int(thing.phase) in states
        centre = (float(u), float(v - h * (5 - 2 * index) / 6))
        radius = h * 0.135
        tone = (
            tuple(look.mix(np.array(colour, np.float32), 1.0, z * 0.5).tolist())
            if on
            else look.plain(tuple(0.22 * c for c in colour), x, z)
        )
        if radius > 0.4 or on:
            circle = np.stack(
                [centre[0] + max(radius, 0.7) * np.cos(angle), centre[1] + max(radius, 0.7) * np.sin(angle)], 1
            )
            canvas.polygon(circle, tone)
        if on:
            strength = 0.35 + 0.65 * look.lights
            glow = (0.35 + 0.5 * look.lights) * view.f / z + 2
            canvas.glow(*centre, glow, glow, np.array(colour) * strength * look.clear(z))
    canvas.end(owner, box)
