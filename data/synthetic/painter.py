"""Paints the things of the world, the farthest first."""

from __future__ import annotations

import numpy as np

from data.synthetic.camera import NEAR_M, View
from data.synthetic.canvas import SCENE, Canvas
from data.synthetic.draw_vehicle import draw_vehicle
from data.synthetic.facades import draw_face, make_facade, make_fence
from data.synthetic.figure import COARSE_PX_M, draw_figure
from data.synthetic.furniture import draw_gantry, draw_lamp, draw_sign, draw_traffic_light
from data.synthetic.light import Look
from data.synthetic.people import STEPS, bicycle, cyclist, motorcycle, motorcyclist, pedestrian
from data.synthetic.sprites import make_tree
from data.synthetic.thing import Thing
from data.synthetic.vehicles import make_vehicle
from data.synthetic.world import World
from perception.labels import BOX_CLASSES

__all__ = ["paint"]

BOX = {name: index for index, name in enumerate(BOX_CLASSES)}
REACH = {"truck": 5.8, "bus": 6.4, "car": 2.8, "bicycle": 1.0, "cyclist": 1.0, "motorcycle": 1.2, "tree": 4.0,
         "lamp": 2.5, "light": 9.0, "gantry": 12.0}  # fmt: skip
SMALLEST_M = {  # what is less than two pixels to so many metres away is left out
    "pedestrian": 1.0, "cyclist": 0.8, "bicycle": 0.5, "motorcycle": 0.7, "sign": 0.5, "light": 0.8, "car": 0.35,
    "truck": 0.5, "bus": 0.5,
}  # fmt: skip
CLEAR = 0.035  # and so is what fog leaves less of
OVERHANG_M = {"car": 1.7, "truck": 2.4, "bus": 4.0}  # of the body beyond the outer wheels, both ends
CYCLE_M = 1.1  # between the wheels of what is ridden
RIDER_ID = 250_000_000  # added to the track id of what is ridden
Point = tuple[float, float, float]
Place = tuple[float, float, float, float]


def paint(canvas: Canvas, view: View, look: Look, world: World, t: float) -> None:
    """Paint all things that are to be seen at time t."""
    things = list(world.things(t))
    ends = np.array([(thing.s, thing.d, thing.s + thing.length) for thing in things], np.float64).reshape(-1, 3)
    near, far = view.place_many(ends[:, 0], ends[:, 1]), view.place_many(ends[:, 2], ends[:, 1])
    reach = np.array([REACH.get(thing.kind, 0.5) for thing in things])
    side = np.minimum(abs(near[:, 0]), abs(far[:, 0])) - reach
    z = np.maximum(near[:, 2], far[:, 2])
    inside = (z + reach > 2.0) & ((side < (z + reach) * (0.5 * view.hw[1] / view.f) + 1.0) | (ends[:, 2] > ends[:, 0]))
    inside &= np.minimum(near[:, 2], far[:, 2]) < -np.log(CLEAR) * look.fog_m
    crests = view.crest_rows(np.minimum(near[:, 2], far[:, 2]) - reach)
    depths = z + 0.01 * abs(ends[:, 1]) * (ends[:, 2] > ends[:, 0])
    order = np.lexsort((ends[:, 1], ends[:, 0], -depths))
    for index in order[inside[order]].tolist():
        thing, place = things[index], tuple(near[index].tolist())
        if view.f / max(place[2], 1.0) * SMALLEST_M.get(thing.kind, 9.0) < 2.0:
            continue
        canvas.behind_crest(int(crests[index]))
        if thing.kind == "building":
            _building(canvas, view, look, thing)
        elif thing.kind == "fence":
            line = np.stack([near[index, :3], far[index, :3]])
            draw_face(canvas, view, look, make_fence(thing.seed, thing.variant), line, thing.height, 0.5)
        elif thing.kind == "tree":
            _tree(canvas, view, look, thing, place)
        elif thing.kind in ("car", "truck", "bus"):
            mesh = make_vehicle(thing.seed, thing.kind)
            owner = canvas.begin(thing.track_id, BOX[mesh.box_name], SCENE[mesh.box_name])
            box = draw_vehicle(canvas, view, look, mesh, place, thing.yaw, owner, thing.braking)
            canvas.end(owner, box, _nearest(place, thing.yaw, mesh.length - OVERHANG_M[thing.kind], mesh.width))
        elif thing.kind in ("pedestrian", "cyclist", "bicycle", "motorcycle"):
            _people(canvas, view, look, thing, place)
        elif thing.kind == "light":
            draw_traffic_light(canvas, view, look, thing, place)
        elif thing.kind == "lamp":
            draw_lamp(canvas, view, look, thing, place)
        elif thing.kind == "gantry":
            draw_gantry(canvas, view, look, thing)
        else:
            draw_sign(canvas, view, look, thing, place)
    canvas.behind_crest(canvas.hw[0])


def _building(canvas: Canvas, view: View, look: Look, thing: Thing) -> None:
    """The face along the road, the end towards us, and on houses a roof."""
    side = 1.0 if thing.d > 0 else -1.0
    house = thing.variant == "house"
    deep = 8.0
    front = make_facade(
        thing.seed, round(thing.length, 1), round(thing.height, 1), look.lights, thing.variant == "shop"
    )
    end = make_facade(thing.seed, deep, round(thing.height, 1), look.lights, False)
    s0, s1, d = thing.s, thing.s + thing.length, thing.d
    corners = view.place_many(np.array([s0, s1, s0, s1]), np.array([d, d, d + side * deep, d + side * deep]))[:, :3]
    sun = look.sun_dir
    along = 0.25 + 0.75 * max(-side * float(sun[0]), 0)
    across = 0.25 + 0.75 * max(-float(sun[2]), 0)
    if house:
        _roof(canvas, view, look, thing, corners, side, front.roof)
    if corners[0, 2] > 1.0 and not thing.phase:  # phase 1: a neighbour hides the end
        draw_face(canvas, view, look, end, corners[[0, 2]], thing.height, across)
    draw_face(canvas, view, look, front, corners[[0, 1]], thing.height, along)


def _roof(
    canvas: Canvas,
    view: View,
    look: Look,
    thing: Thing,
    corners: np.ndarray,
    side: float,
    colour: Point,
) -> None:
    """The slope over the front and the gable over the end."""
    up = np.array([0, thing.height - 0.1, 0])
    ridge = (corners[:2] + corners[2:]) / 2 + up + (0, 2.4, 0)
    eaves = corners[:2] + up
    gable = np.array([corners[0] + up, corners[2] + up, ridge[0]])
    quad = np.array([eaves[0], eaves[1], ridge[1], ridge[0]])
    z = float(corners[:, 2].mean())
    if gable[:, 2].min() > 1.0:
        wall = tuple(
            look.mix(
                np.array([150, 160, 170.0]), look.light_at(float(corners[0, 0]), z, 0.4), float(corners[0, 2])
            ).tolist()
        )
        canvas.polygon(view.project(gable), wall, SCENE["building"])
    if quad[:, 2].min() > 1.0:
        canvas.polygon(view.project(quad), look.plain(colour, float(corners[0, 0]), z, 0.7), SCENE["building"])


def _tree(canvas: Canvas, view: View, look: Look, thing: Thing, place: Place) -> None:
    sprite = make_tree(thing.seed, thing.variant)
    x, _, z, _ = place
    high = view.f * thing.height / z
    wide = high * sprite.levels[0].shape[1] / sprite.levels[0].shape[0]
    u, v = view.project(np.array(place[:3]))
    clear = look.clear(z)
    if not look.sun.max() < 0.1 or look.condition == "rain":
        canvas.shade(view.project(_square(place, 0.22 * thing.height)), look.shadow * 0.6 * clear)
    canvas.blit(
        sprite,
        (u - wide / 2, v - high, u + wide / 2, v),
        look.light_at(x, z, 0.75) * clear,
        look.fog * (1 - clear),
        SCENE["vegetation"],
    )


def _square(place: Place, half: float) -> np.ndarray:
    """(4, 3) corners of a square on the ground."""
    x, y, z, _ = place
    z = max(z, NEAR_M + half + 0.6)
    return np.array(
        [[x - half, y, z - half], [x + half, y, z - half], [x + half, y, z + half], [x - half, y, z + half]]
    )


def _nearest(place: Place, yaw: float, length: float, width: float) -> float:
    """Depth of the nearest corner of a (length, width) rectangle on the ground around `place`, turned by `yaw`."""
    angle = place[3] + yaw
    return float(place[2] - abs(np.cos(angle)) * length / 2 - abs(np.sin(angle)) * width / 2)


def _people(canvas: Canvas, view: View, look: Look, thing: Thing, place: Place) -> None:
    """People on foot, and cycles with and without riders: two objects each."""
    if view.f / place[2] > COARSE_PX_M:
        patch = _square(place, 0.38 if thing.kind == "pedestrian" else 0.7)
        canvas.shade(view.project(patch), look.shadow * 0.8 * look.clear(place[2]))
    step = int(thing.phase * STEPS / (2 * np.pi)) % STEPS
    if thing.kind == "pedestrian":
        figures = [("pedestrian", pedestrian(thing.seed, step, thing.variant == "standing"))]
    elif thing.kind == "bicycle":
        figures = [("bicycle", bicycle(thing.seed))]
    elif thing.kind == "cyclist":
        figures = [("bicycle", bicycle(thing.seed)), ("rider", cyclist(thing.seed, step))]
    else:
        figures = [("motorcycle", motorcycle(thing.seed)), ("rider", motorcyclist(thing.seed))]
        if np.cos(thing.yaw) < -0.5:
            figures.reverse()
    for name, figure in figures:
        track_id = thing.track_id + RIDER_ID * (name == "rider")
        owner = canvas.begin(track_id, BOX[name], SCENE["person" if name == "pedestrian" else name])
        box = draw_figure(canvas, view, look, figure, place, thing.yaw, owner)
        canvas.end(owner, box, _nearest(place, thing.yaw, CYCLE_M if name != "pedestrian" else 0.0, 0.0))
    if thing.kind == "motorcycle" and look.lights > 0.2:
        back = np.cos(thing.yaw) > 0
        u, v = view.project(np.array([place[0], place[1] + (0.72 if back else 0.9), place[2]]))
        radius = 0.5 * look.lights * view.f / place[2] + 1.5
        canvas.glow(
            float(u), float(v), radius, radius, np.array([30, 25, 235.0]) if back else np.array([225, 240, 250.0])
        )
