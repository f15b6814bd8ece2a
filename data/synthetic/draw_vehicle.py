"""Paints a vehicle: its quads in the light, cut at the camera where it is beside us, with wheels, lamps and shadow."""

from __future__ import annotations

import cv2
import numpy as np

from data.synthetic.camera import NEAR_M, View
from data.synthetic.canvas import Canvas
from data.synthetic.light import BEAM, Look
from data.synthetic.mesh import RIM, TYRE, Kind, Vehicle

__all__ = ["draw_vehicle"]

COARSE_PX, TINY_PX = 28, 12  # vehicles of less height are drawn without small things, or as outlines
WHEEL = np.array([(17, 17, 17), TYRE, RIM, (70, 70, 70)], np.float32)  # arch, tyre, rim, hub
SHADOW = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32)


def draw_vehicle(
    canvas: Canvas, view: View, look: Look, vehicle: Vehicle, place: tuple[float, float, float, float], yaw: float,
    owner: int, braking: bool = False,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Paint a vehicle standing at `place` (View.place), turned by `yaw` against the road; returns its outline's box."""
    x, y, z, theta = place
    height_px = view.f * vehicle.height / max(z, 1.0)
    if height_px < COARSE_PX and vehicle.coarse:
        vehicle = vehicle.coarse
    c, s = float(np.cos(theta + yaw)), float(np.sin(theta + yaw))
    spin = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)  # row vectors: vehicle -> camera
    origin = np.array([x, y, z], np.float32)
    hulls = [hull @ spin + origin for hull in vehicle.hulls]
    cut = min(float(hull[:, 2].min()) for hull in hulls) < NEAR_M
    if height_px < TINY_PX and not cut:
        return _draw_tiny(canvas, view, look, vehicle, hulls, origin, owner)
    if height_px > 14:
        _shade(canvas, view, look, vehicle, spin, origin)

    quads = vehicle.quads @ spin + origin  # (Q, 4, 3)
    normals = vehicle.normals @ spin
    colours = _colours(look, vehicle, normals, origin, braking)
    visible = ((np.array([0, view.height_m, 0], np.float32) - quads[:, 0]) * normals).sum(1) > 0
    flat = view.project(quads)
    a, b = flat[:, 2] - flat[:, 0], flat[:, 3] - flat[:, 1]
    visible &= abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) > 2.0  # twice the area in pixels
    under = look.plain((13, 13, 13), x, z, 0.0)
    order = list(range(len(hulls)))
    if not vehicle.stacked:
        order.sort(key=lambda part: -float(hulls[part][:, 2].mean()))
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for index, part in enumerate(order):
        outlines = [
            (hulls[part], colours[vehicle.part == part].mean(0).tolist() if part or not vehicle.stacked else under)
        ]
        if not vehicle.stacked and index == 0:  # wheels and frame below the bodies
            outlines.append((vehicle.floor @ spin + origin, under))
        for points, colour in outlines:
            outline = cv2.convexHull(view.project(_cut_hull(points) if cut else points))[:, 0]
            low, high = np.minimum(low, outline.min(0)), np.maximum(high, outline.max(0))
            canvas.polygon(outline, colour, owner)
        chosen = np.flatnonzero(visible & (vehicle.part == part))
        if cut:
            for quad in chosen.tolist():
                if len(points := _cut_polygon(quads[quad])) > 2:
                    canvas.polygon(view.project(points), colours[quad].tolist())
        else:
            canvas.polygons(flat[chosen], colours[chosen])
        if index == (0 if vehicle.stacked else len(hulls) - 1) and height_px > 12:
            _draw_wheels(canvas, view, look, vehicle, spin, origin)
    if not cut:
        _draw_lamps(canvas, view, look, vehicle, spin, origin, braking)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _draw_tiny(
    canvas: Canvas, view: View, look: Look, vehicle: Vehicle, hulls: list[np.ndarray], origin: np.ndarray, owner: int
) -> tuple[float, float, float, float]:
    """A vehicle far away: the outlines of its parts; returns its box."""
    x, _, z = origin.tolist()
    flat = [view.project(hull) for hull in hulls]
    colours = look.mix(vehicle.part_colours, look.light_at(x, z, 0.45) * 0.85, z).tolist()
    order = [0, 1] if vehicle.stacked else sorted(range(len(flat)), key=lambda part: -float(hulls[part][:, 2].mean()))
    for part in order[: len(flat)]:
        canvas.polygon(cv2.convexHull(flat[part])[:, 0], colours[part], owner)
    points = np.concatenate(flat)
    low, high = points.min(0), points.max(0)
    if look.lights > 0.2:
        away = vehicle.tail_lamps if float(hulls[0][0, 2]) > z else vehicle.head_lamps
        colour = (60, 50, 225) if away is vehicle.tail_lamps else (225, 240, 250)
        middle, reach = (low + high) / 2, (high - low) * 0.3
        for u in (middle[0] - reach[0], middle[0] + reach[0]):
            corners = np.array(
                [[u - 0.6, middle[1]], [u + 0.6, middle[1]], [u + 0.6, middle[1] + 1], [u - 0.6, middle[1] + 1]]
            )
            canvas.polygon(corners, look.mix(np.array(colour), 1.0, z * 0.5).tolist())
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _colours(look: Look, vehicle: Vehicle, normals: np.ndarray, origin: np.ndarray, braking: bool) -> np.ndarray:
    """(Q, 3) colours of the quads in the light and at the distance."""
    x, _, z = origin.tolist()
    facing = np.maximum(normals @ look.sun_dir, 0)[:, None]
    up = normals[:, 1:2]
    light = look.ambient * (0.80 + 0.28 * up + 0.06 * normals[:, :1]) + look.sun * (0.18 + 0.95 * facing)
    if beam := look.beam(x, z):
        light += BEAM * beam * np.maximum(-normals[:, 2:3], 0.15)
    colours = vehicle.colours * light
    kind = vehicle.kind
    gloss = kind == Kind.PAINT  # paint mirrors some sky
    colours[gloss] += look.sky_low * (0.035 + 0.10 * np.maximum(up[gloss], 0))
    glass = kind == Kind.GLASS
    mirror = (0.30 + 0.4 * up[glass]).clip(0.12, 0.6)
    sky = look.sky_low * (0.30 + 0.0042 * vehicle.colours[glass, :1])
    colours[glass] = colours[glass] * (1 - mirror) + sky * mirror
    if look.lights > 0.2 or braking:
        colours[kind == Kind.TAIL] = np.array([70, 60, 255]) * (1.0 if braking else 0.65)
    if look.lights > 0.2:
        colours[kind == Kind.HEAD] = (240, 250, 255)
    return look.mix(colours, 1.0, max(z, 0.0))


def _shade(canvas: Canvas, view: View, look: Look, vehicle: Vehicle, spin: np.ndarray, origin: np.ndarray) -> None:
    """The shadow on the ground, pushed away from the sun."""
    size = np.array([vehicle.width / 2 * 1.35, 0, vehicle.length / 2 * 1.18], np.float32)
    lean = np.array([-look.sun_dir[0], 0, -look.sun_dir[2]], np.float32) * (0.35 if float(look.sun.max()) > 0.2 else 0)
    ground = (SHADOW * size) @ spin + origin + lean
    if ground[:, 2].min() > 1.0:
        canvas.shade(view.project(ground), look.shadow * look.clear(float(origin[2])))


def _cut_hull(points: np.ndarray) -> np.ndarray:
    """The corners of a convex body (N, 3) in front of the camera."""
    near = NEAR_M + 0.05
    front, back = points[points[:, 2] >= near], points[points[:, 2] < near]
    if not len(front):
        return np.array([[0, -50, near], [0.01, -50, near], [0, -50.01, near]], np.float32)
    t = (near - front[:, None, 2]) / (back[None, :, 2] - front[:, None, 2] - 1e-6)  # (F, B)
    edge = front[:, None] + (back[None] - front[:, None]) * t[..., None]
    return np.concatenate([front, edge.reshape(-1, 3)])


def _cut_polygon(points: np.ndarray) -> np.ndarray:
    """The part of a convex polygon (N, 3) in front of the camera."""
    near = NEAR_M + 0.05
    kept = []
    for index in range(len(points)):
        a, b = points[index - 1], points[index]
        if (a[2] < near) != (b[2] < near):
            kept.append(a + (b - a) * (near - a[2]) / (b[2] - a[2]))
        if b[2] >= near:
            kept.append(b)
    return np.array(kept, np.float32).reshape(-1, 3)


def _draw_wheels(
    canvas: Canvas, view: View, look: Look, vehicle: Vehicle, spin: np.ndarray, origin: np.ndarray
) -> None:
    """Wheels on the sides that face the camera: arch, tyre, rim, hub."""
    x, _, z = origin.tolist()
    points = vehicle.discs @ spin + origin  # (D, 14, 3)
    discs = view.project(points)
    shades = look.mix(WHEEL, look.light_at(x, z, 0.3), z).tolist()
    a, b = discs[:, 4] - discs[:, 0], discs[:, 8] - discs[:, 4]
    cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    for index in range(0, len(discs), 4):
        right = (index // 4) % 2 == 1
        if (cross[index] > 0) == right or abs(cross[index]) < 1.0 or points[index, :, 2].min() < NEAR_M:
            continue
        for layer, shade in enumerate(shades):
            canvas.polygon(discs[index + layer], shade)


def _draw_lamps(
    canvas: Canvas, view: View, look: Look, vehicle: Vehicle, spin: np.ndarray, origin: np.ndarray, braking: bool
) -> None:
    """Glow of the lamps that face the camera, and their streaks on a wet road."""
    z = float(origin[2])
    away = float(spin[2] @ (origin - np.array([0, view.height_m, 0], np.float32))) > 0
    if away:
        lamps, colour, strength = vehicle.tail_lamps, np.array([30, 25, 235.0]), 0.6 * max(look.lights, 0.6 * braking)
    else:
        lamps, colour, strength = vehicle.head_lamps, np.array([225, 240, 250.0]), look.lights
    points = lamps @ spin + origin
    if strength < 0.15 or points[:, 2].min() < 1.0:
        return
    colour = colour * (look.clear(z) * abs(float(spin[2, 2])))
    radius = (0.55 if away else 0.95) * strength * view.f / z + 1.5
    for (u, v), point in zip(view.project(points).tolist(), points, strict=True):
        canvas.glow(u, v, radius, radius, colour)
        if look.wet > 0.3:
            foot = float(view.project(point * (1, 0, 1) + (0, origin[1], 0))[1])
            canvas.glow(u, foot + 1.2 * (foot - v), radius * 0.45, 1.6 * (foot - v) + 2, colour * (0.55 * look.wet))
