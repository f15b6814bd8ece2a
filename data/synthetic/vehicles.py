"""Cars, vans, trucks and buses as small meshes of quads, shaded by the sun.

Vehicle space: x right, y up, z to the front, origin on the ground below the middle; metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from data.synthetic.camera import View
from data.synthetic.canvas import Canvas
from data.synthetic.dice import Dice
from data.synthetic.light import Look

__all__ = ["Mesh", "draw_vehicle", "make_vehicle"]

PAINT = [(232, 232, 230), (225, 226, 228), (28, 27, 26), (45, 43, 42), (120, 118, 116), (168, 166, 164), (175, 172, 170),
         (42, 34, 150), (35, 30, 185), (130, 72, 32), (95, 50, 25), (150, 110, 60), (60, 85, 50), (80, 150, 190),
         (40, 120, 205), (60, 70, 90), (110, 130, 150), (25, 195, 235)]  # fmt: skip
GLASS, TRIM, TYRE = (62, 52, 44), (38, 37, 36), (24, 23, 23)
LENS, LAMP, PLATE, RIM, CHROME = (40, 28, 175), (225, 228, 230), (215, 222, 224), (150, 148, 146), (190, 188, 186)
Point = tuple[float, float, float]


@dataclass
class Mesh:
    """Parts of a vehicle, each convex: quads in painting order."""

    length: float
    width: float
    height: float
    box_name: str
    quads: list[list[Point]] = field(default_factory=list)
    colours: list[tuple[float, float, float]] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)  # 0 plain, 1 glass, 2 tail lamp, 3 head lamp
    part: list[int] = field(default_factory=list)
    wheels: list[tuple[float, float, float]] = field(default_factory=list)  # x, z, radius
    tail_lamps: list[Point] = field(default_factory=list)
    head_lamps: list[Point] = field(default_factory=list)
    hulls: list[list[Point]] = field(default_factory=list)  # one a part
    current: int = 0

    def quad(self, points: list[Point], colour: tuple[float, float, float], kind: int = 0) -> None:
        """Add a quad whose corners run clockwise seen from outside."""
        self.quads.append(points)
        self.colours.append(colour)
        self.kind.append(kind)
        self.part.append(self.current)

    def freeze(self) -> Frozen:
        """As arrays."""
        quads = np.array(self.quads, np.float32)
        parts = np.array(self.part)
        middle = np.array([np.mean(hull, 0) for hull in self.hulls], np.float32)[parts]  # (Q, 3)
        across = np.cross(quads[:, 1] - quads[:, 0], quads[:, 2] - quads[:, 0])
        inward = ((quads.mean(1) - middle) * across).sum(1) < 0
        quads[inward] = quads[inward, ::-1]
        normals = np.cross(quads[:, 1] - quads[:, 0], quads[:, 2] - quads[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        discs = [
            [(x, r + r * k * np.sin(a), z + r * k * np.cos(a)) for a in angle]
            for x, z, r in self.wheels
            for k in (1.22, 1.0, 0.66)
        ]
        return Frozen(
            self.length, self.width, self.height, self.box_name, quads, normals, np.array(self.colours, np.float32),
            np.array(self.kind), parts, np.array(discs, np.float32).reshape(-1, 14, 3),
            np.array(self.tail_lamps, np.float32), np.array(self.head_lamps, np.float32),
            [np.array(hull, np.float32) for hull in self.hulls],
        )  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """A mesh as arrays: Q quads, D discs (arch, tyre, rim of each wheel side)."""

    length: float
    width: float
    height: float
    box_name: str
    quads: np.ndarray  # (Q, 4, 3)
    normals: np.ndarray  # (Q, 3)
    colours: np.ndarray  # (Q, 3) BGR
    kind: np.ndarray  # (Q,)
    part: np.ndarray  # (Q,)
    discs: np.ndarray  # (D, 14, 3)
    tail_lamps: np.ndarray  # (T, 3)
    head_lamps: np.ndarray  # (T, 3)
    hulls: list[np.ndarray]


def _ring(half: float, front: float, rear: float, y_front: float, y_rear: float, cut: float) -> list[Point]:
    """Eight corners of a rectangle with cut corners, clockwise from above, starting right of the nose."""
    nose, tail = half - cut, half - cut
    return [(nose, y_front, front), (half, y_front, front - cut * 1.3), (half, y_rear, rear + cut),
            (tail, y_rear, rear), (-tail, y_rear, rear), (-half, y_rear, rear + cut),
            (-half, y_front, front - cut * 1.3), (-nose, y_front, front)]  # fmt: skip


def _band(mesh: Mesh, low: list[Point], high: list[Point], colour: tuple[float, float, float]) -> None:
    n = len(low)
    for i in range(n):
        j = (i + 1) % n
        mesh.quad([low[i], high[i], high[j], low[j]], colour)


def _inset(face: list[Point], u1: float, u2: float, v1: float, v2: float, out: float = 0.0) -> list[Point]:
    """A part of a quad (low a, high a, high b, low b) in its own coordinates, u from a to b, v from low to high."""
    c = np.array(face)

    def at(u: float, v: float) -> Point:
        p = (c[0] * (1 - v) + c[1] * v) * (1 - u) + (c[3] * (1 - v) + c[2] * v) * u
        return (float(p[0]), float(p[1]), float(p[2]))

    return [at(u1, v1), at(u1, v2), at(u2, v2), at(u2, v1)]


def _panel(mesh: Mesh, x1: float, x2: float, y1: float, y2: float, z: float, colour: tuple[float, float, float],
           kind: int = 0) -> None:  # fmt: skip
    """A flat panel across the rear (z < 0) or the front (z > 0)."""
    a, b = (x2, x1) if z > 0 else (x1, x2)
    mesh.quad([(a, y1, z), (a, y2, z), (b, y2, z), (b, y1, z)], colour, kind)


def _wheels(mesh: Mesh, radius: float, axles: list[float]) -> None:
    half = mesh.width / 2
    for z in axles:
        for side in (-1, 1):
            x = side * (half - 0.12)
            for zz in (z - radius * 0.9, z + radius * 0.9):
                _panel(mesh, x - 0.11, x + 0.11, 0.0, radius * 1.2, zz if zz * z > 0 else zz, TYRE)
            mesh.wheels.append((side * (half + 0.005), z, radius))


def _car(dice: Dice, kind: str) -> Mesh:
    """A hatchback, saloon, estate, SUV or van."""
    length, width, height, nose, tail, slope = {
        "hatch": (4.0, 1.76, 1.47, 1.15, 0.05, 0.45), "saloon": (4.7, 1.83, 1.45, 1.30, 0.75, 0.75),
        "estate": (4.6, 1.82, 1.50, 1.25, 0.05, 0.40), "suv": (4.6, 1.90, 1.72, 1.20, 0.06, 0.32),
        "van": (5.3, 1.98, 2.15, 0.75, 0.04, 0.12), "pickup": (5.3, 1.92, 1.80, 1.35, 1.65, 0.30),
    }[kind]  # fmt: skip
    length, height = length * dice.uniform(0.96, 1.05), height * dice.uniform(0.97, 1.04)
    paint = dice.choice(PAINT)
    mesh = Mesh(length, width, height, "car")
    front, rear, half = length / 2, -length / 2, width / 2
    low, belt = (0.24, 0.92) if height < 1.6 else (0.30, 1.06)
    belt = belt if kind != "van" else 1.15
    wheel = 0.32 if height < 1.6 else 0.36
    _wheels(mesh, wheel, [front - 0.85, rear + 0.82])
    hood = belt - 0.14
    rings = [
        _ring(half * 0.96, front - 0.08, rear + 0.10, low, low, 0.16),
        _ring(half, front, rear, low + 0.22, low + 0.24, 0.16),
        _ring(half, front - 0.03, rear + 0.02, hood - 0.12, belt - 0.22, 0.16),
        _ring(half * 0.94, front - 0.22, rear + 0.10, hood, belt, 0.20),
    ]
    dark = tuple(0.55 * c for c in paint)
    sill = TRIM if kind in ("suv", "van", "pickup") or dice.chance(0.3) else dark
    for (a, b), colour in zip(zip(rings, rings[1:], strict=False), (sill, paint, paint), strict=True):
        _band(mesh, a, b, colour)  # type: ignore[arg-type]
    top = rings[3]
    mesh.quad([top[7], top[6], top[1], top[0]], paint)  # bonnet and deck
    mesh.quad([top[6], top[5], top[2], top[1]], paint)
    mesh.quad([top[5], top[4], top[3], top[2]], paint)
    # rear: bumper, plate, lamps; front: grille, plate, lamps
    z = rear - 0.012
    y1, y2 = belt - 0.36, belt - 0.17
    if kind in ("van", "suv") and dice.chance(0.6):
        y1 = belt - 0.55
    lamp = dice.uniform(0.28, 0.42)
    _panel(mesh, -half * 0.9, half * 0.9, low + 0.02, low + 0.14, z, TRIM)
    _panel(mesh, -half * 0.88, half * 0.88, low + 0.30, low + 0.325, z, dark)  # type: ignore[arg-type]
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.06), side * (half - 0.06 - lamp)))
        _panel(mesh, a, b, y1, y2, z, LENS, 2)
        a, b = sorted((side * (half - 0.08), side * (half - 0.02 - lamp)))
        _panel(mesh, a, b, hood - 0.26, hood - 0.12, front + 0.012, LAMP, 3)
        mesh.tail_lamps.append((side * (half - 0.06 - lamp / 2), (y1 + y2) / 2, z))
        mesh.head_lamps.append((side * (half - 0.25), hood - 0.19, front + 0.02))
    _panel(mesh, -0.27, 0.27, y1 + 0.01, y1 + 0.13, z - 0.01, PLATE)
    _panel(mesh, -half * 0.52, half * 0.52, hood - 0.28, hood - 0.13, front + 0.012, TRIM)
    _panel(mesh, -half * 0.75, half * 0.75, low + 0.04, low + 0.20, front + 0.012, TRIM)
    _panel(mesh, -0.27, 0.27, low + 0.18, low + 0.29, front + 0.02, PLATE)
    for side in (-1, 1):  # door lines and handles on the sides
        x = side * (half + 0.006)
        for zz in (front - nose - 0.15, front - nose - 1.2, front - nose - 2.1):
            if rear + 0.6 < zz:
                ends = (zz - 0.012, zz + 0.012) if side > 0 else (zz + 0.012, zz - 0.012)
                mesh.quad([(x, low + 0.2, ends[0]), (x, belt - 0.2, ends[0]), (x, belt - 0.2, ends[1]), (x, low + 0.2, ends[1])], dark)  # type: ignore[arg-type]
        handle = (front - nose - 1.1, front - nose - 0.92)[:: side]
        mesh.quad([(x, belt - 0.3, handle[0]), (x, belt - 0.26, handle[0]), (x, belt - 0.26, handle[1]), (x, belt - 0.3, handle[1])], dark)  # type: ignore[arg-type]
    mesh.hulls.append([p for ring in rings for p in ring] + [(sx * (half - 0.06), 0.0, zz) for sx in (-1, 1) for zz in (front - 0.85 - wheel * 0.6, front - 0.85 + wheel * 0.6, rear + 0.82 - wheel * 0.6, rear + 0.82 + wheel * 0.6)])
    # cabin
    mesh.current = 1
    zf, zr = front - nose, rear + 0.10 + tail
    if kind == "pickup":
        zr = rear + tail
    rake = 0.75 if kind != "van" else 0.55
    bottom = [(half * 0.92, belt - 0.05, zf), (half * 0.92, belt, zr), (-half * 0.92, belt, zr), (-half * 0.92, belt - 0.05, zf)]
    roof_half = half * (0.74 if kind != "van" else 0.84)
    roof = [(roof_half, height - 0.04, zf - rake), (roof_half, height - 0.02, zr + slope), (-roof_half, height - 0.02, zr + slope), (-roof_half, height - 0.04, zf - rake)]
    faces = [[bottom[i], roof[i], roof[(i + 1) % 4], bottom[(i + 1) % 4]] for i in range(4)]  # right, rear, left, front
    for face in faces:
        mesh.quad(face, paint)
    mesh.quad([roof[0], roof[3], roof[2], roof[1]], paint)
    blind = kind == "van" and dice.chance(0.6)
    for side, face in ((1, faces[0]), (-1, faces[2])):
        spans = ((0.10, 0.47), (0.50, 0.72), (0.75, 0.93)) if kind != "pickup" else ((0.12, 0.52), (0.56, 0.9))
        for index, (u1, u2) in enumerate(spans):
            if blind and index:
                continue
            a, b = (u1, u2) if side > 0 else (1 - u2, 1 - u1)
            mesh.quad(_inset(face, a, b, 0.10, 0.50), GLASS, 1)
            mesh.quad(_inset(face, a, b, 0.50, 0.86), tuple(c * 1.5 for c in GLASS), 1)  # type: ignore[arg-type]
    for face in (faces[1], faces[3]):
        if not (blind and face is faces[1]):
            mesh.quad(_inset(face, 0.09, 0.91, 0.10, 0.50), GLASS, 1)
            mesh.quad(_inset(face, 0.09, 0.91, 0.50, 0.90), tuple(c * 1.55 for c in GLASS), 1)  # type: ignore[arg-type]
    mesh.quad(_inset(faces[1], 0.42, 0.58, 0.90, 0.97), LENS, 2)
    for side in (-1, 1):  # mirrors
        x1, x2 = sorted((side * (half + 0.02), side * (half + 0.2)))
        for sign in (-1, 1):
            _panel(mesh, x1, x2, belt + 0.02, belt + 0.16, sign * (zf - 0.35) if sign > 0 else zf - 0.45, TRIM if dice.chance(0.5) else paint)
    mesh.hulls.append([*bottom, *roof])
    return mesh


def _box(mesh: Mesh, half: float, front: float, rear: float, low: float, high: float, colour: tuple[float, float, float],
         cut: float = 0.06) -> list[list[Point]]:  # fmt: skip
    """A box with cut corners as a new part; returns its right, rear, left and front faces as plain quads."""
    a, b = _ring(half, front, rear, low, low, cut), _ring(half, front, rear, high, high, cut)
    _band(mesh, a, b, colour)
    mesh.quad([b[7], b[6], b[1], b[0]], colour)
    mesh.quad([b[6], b[5], b[2], b[1]], colour)
    mesh.quad([b[5], b[4], b[3], b[2]], colour)
    mesh.hulls.append([*a, *b])
    corners = [(half, front), (half, rear), (-half, rear), (-half, front)]
    out = 0.012
    faces = []
    for i in range(4):
        (xa, za), (xb, zb) = corners[i], corners[(i + 1) % 4]
        shift = ((out, 0.0), (0.0, -out), (-out, 0.0), (0.0, out))[i]
        xa, xb, za, zb = xa + shift[0], xb + shift[0], za + shift[1], zb + shift[1]
        faces.append([(xa, low, za), (xa, high, za), (xb, high, zb), (xb, low, zb)])
    return faces


def _lamps(mesh: Mesh, half: float, front: float, rear: float, y: float) -> None:
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.08), side * (half - 0.42)))
        _panel(mesh, a, b, y, y + 0.16, rear - 0.02, LENS, 2)
        mesh.tail_lamps.append((side * (half - 0.25), y + 0.08, rear - 0.03))


def _truck(dice: Dice) -> Mesh:
    """A lorry: cab and cargo box."""
    length, height = dice.uniform(6.5, 11.0), dice.uniform(3.0, 3.9)
    mesh = Mesh(length, 2.45, height, "truck")
    front, rear, half = length / 2, -length / 2, 1.22
    paint = dice.choice(PAINT)
    cargo = dice.choice([(225, 226, 228), (215, 215, 218), (190, 192, 195), paint, (130, 80, 40), (60, 70, 150)])
    _wheels(mesh, 0.48, [front - 1.2, rear + 1.1, *([rear + 2.2] if length > 8 else [])])
    split = front - 2.1
    _panel(mesh, -half * 0.9, half * 0.9, 0.45, 0.62, rear + 0.2, TRIM)
    faces = _box(mesh, half, split - 0.12, rear, 0.95, height, cargo)
    for face in (faces[0], faces[2]):
        if dice.chance(0.7):
            stripe = dice.choice(PAINT)
            mesh.quad(_inset(face, 0.0, 1.0, 0.32, 0.46), stripe)
            mesh.quad(_inset(face, 0.3, 0.7, 0.52, 0.74), stripe)
        mesh.quad(_inset(face, 0.0, 1.0, 0.0, 0.06), TRIM)
    for u in (0.03, 0.495, 0.96):
        mesh.quad(_inset(faces[1], u, u + 0.012, 0.03, 0.97), tuple(0.6 * c for c in cargo))  # type: ignore[arg-type]
    mesh.quad(_inset(faces[1], 0.0, 1.0, 0.0, 0.05), TRIM)
    mesh.quad(_inset(faces[1], 0.36, 0.62, 0.04, 0.09), PLATE)
    _lamps(mesh, half, front, rear, 0.72)
    for u in (0.0, 0.85):
        mesh.quad(_inset(faces[1], u + 0.02, u + 0.13, 0.02, 0.045), (30, 130, 230))
    mesh.current = 1
    cab_high = min(height * 0.93, 3.0)
    faces = _box(mesh, half * 0.98, front, split, 0.5, cab_high, paint, 0.14)
    mesh.quad(_inset(faces[3], 0.06, 0.94, 0.50, 0.68), GLASS, 1)
    mesh.quad(_inset(faces[3], 0.06, 0.94, 0.68, 0.86), tuple(c * 1.5 for c in GLASS), 1)  # type: ignore[arg-type]
    mesh.quad(_inset(faces[3], 0.12, 0.88, 0.20, 0.42), TRIM)
    mesh.quad(_inset(faces[3], 0.0, 1.0, 0.0, 0.10), TRIM)
    for face, (u1, u2) in ((faces[0], (0.12, 0.6)), (faces[2], (0.4, 0.88))):
        mesh.quad(_inset(face, u1, u2, 0.52, 0.86), GLASS, 1)
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.1), side * (half - 0.5)))
        _panel(mesh, a, b, 0.78, 0.98, front + 0.02, LAMP, 3)
        mesh.head_lamps.append((side * (half - 0.3), 0.88, front + 0.03))
    return mesh


def _bus(dice: Dice) -> Mesh:
    """A city bus or a coach."""
    length, height = dice.uniform(9.5, 12.5), dice.uniform(2.95, 3.3)
    mesh = Mesh(length, 2.5, height, "bus")
    front, rear, half = length / 2, -length / 2, 1.25
    paint = dice.choice([(60, 60, 195), (40, 160, 220), (220, 220, 222), (150, 90, 30), (70, 140, 60), (40, 190, 235)])
    lower = paint if dice.chance(0.5) else dice.choice(PAINT)
    _wheels(mesh, 0.48, [front - 2.4, rear + 2.9])
    faces = _box(mesh, half, front, rear, 0.32, height, paint, 0.12)
    for face in faces:
        mesh.quad(_inset(face, 0.0, 1.0, 0.0, 0.30), lower)
    for face in (faces[0], faces[2]):
        mesh.quad(_inset(face, 0.03, 0.97, 0.42, 0.82), TRIM)
        count = 7
        for index in range(count):
            u1, u2 = 0.035 + index * 0.93 / count, 0.025 + (index + 1) * 0.93 / count
            mesh.quad(_inset(face, u1, u2, 0.44, 0.62), GLASS, 1)
            mesh.quad(_inset(face, u1, u2, 0.62, 0.80), tuple(c * 1.5 for c in GLASS), 1)  # type: ignore[arg-type]
    for u1, u2 in ((0.14, 0.22), (0.52, 0.60)):  # doors
        mesh.quad(_inset(faces[0], u1, u2, 0.04, 0.82), (70, 66, 60), 1)
    mesh.quad(_inset(faces[1], 0.10, 0.90, 0.52, 0.84), GLASS, 1)
    mesh.quad(_inset(faces[1], 0.10, 0.90, 0.70, 0.84), tuple(c * 1.5 for c in GLASS), 1)  # type: ignore[arg-type]
    mesh.quad(_inset(faces[1], 0.15, 0.85, 0.20, 0.40), TRIM)
    mesh.quad(_inset(faces[1], 0.39, 0.61, 0.12, 0.16), PLATE)
    mesh.quad(_inset(faces[3], 0.04, 0.96, 0.34, 0.60), GLASS, 1)
    mesh.quad(_inset(faces[3], 0.04, 0.96, 0.60, 0.82), tuple(c * 1.5 for c in GLASS), 1)  # type: ignore[arg-type]
    mesh.quad(_inset(faces[3], 0.15, 0.85, 0.85, 0.96), (20, 22, 24))
    mesh.quad(_inset(faces[3], 0.25, 0.75, 0.88, 0.93), (40, 170, 250), 3)
    _lamps(mesh, half, front, rear, 0.75)
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.1), side * (half - 0.5)))
        _panel(mesh, a, b, 0.62, 0.80, front + 0.02, LAMP, 3)
        mesh.head_lamps.append((side * (half - 0.3), 0.7, front + 0.03))
    return mesh


@lru_cache(maxsize=512)
def make_vehicle(seed: int, kind: str) -> Frozen:
    """A vehicle of a kind: car, truck or bus; the seed chooses its shape and paint."""
    dice = Dice(seed, "vehicle", kind)
    if kind == "truck":
        return _truck(dice).freeze()
    if kind == "bus":
        return _bus(dice).freeze()
    return _car(dice, dice.choice(("hatch", "hatch", "saloon", "saloon", "estate", "suv", "suv", "van", "pickup"))).freeze()


def draw_vehicle(
    canvas: Canvas, view: View, look: Look, mesh: Frozen, place: tuple[float, float, float, float], yaw: float,
    owner: int, braking: bool = False,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Paint a vehicle standing at `place` (View.place), turned by `yaw` against the road; returns its box."""
    x, y, z, theta = place
    turn = theta + yaw
    c, s = float(np.cos(turn)), float(np.sin(turn))
    spin = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)  # row vectors: vehicle -> camera
    origin = np.array([x, y, z], np.float32)
    shadow = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32)
    size = np.array([mesh.width / 2 * 1.35, 0, mesh.length / 2 * 1.18], np.float32)
    lean = np.array([-look.sun_dir[0], 0, -look.sun_dir[2]], np.float32) * (0.35 if float(look.sun.max()) > 0.2 else 0)
    ground = (shadow * size) @ spin + origin + lean
    if ground[:, 2].min() > 1.0:
        canvas.shade(view.project(ground), look.shadow * float(look.clear(z)))
    hulls = [view.project(hull @ spin + origin) for hull in mesh.hulls]
    px = view.f * mesh.height / max(z, 1)
    quads = mesh.quads @ spin + origin
    flat = view.project(quads)
    a, b = flat[:, 2] - flat[:, 0], flat[:, 3] - flat[:, 1]
    normals = mesh.normals @ spin
    eye = np.array([0, view.height_m, 0], np.float32)
    visible = (((eye - quads[:, 0]) * normals).sum(1) > 0) & (abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) > 0.6)
    facing = np.clip(normals @ look.sun_dir.astype(np.float32), 0, 1)[:, None]
    hemisphere = (0.80 + 0.28 * normals[:, 1:2] + 0.06 * normals[:, 0:1])
    light = look.ambient * hemisphere + look.sun * (0.18 + 0.95 * facing)
    light = light + float(look.beam(x, z)) * np.clip(-normals[:, 2:3], 0.15, 1) * np.array([0.85, 0.97, 1.0])
    colours = mesh.colours * light
    glass = mesh.kind == 1
    if glass.any():
        mirror = np.clip(0.30 + 0.4 * normals[glass, 1:2], 0.12, 0.6)
        colours[glass] = colours[glass] * (1 - mirror) + look.sky_low * mirror * (0.3 + 0.25 * mesh.colours[glass, :1] / 62)
    if look.lights > 0.2 or braking:
        on = 1.0 if braking else 0.65
        colours[mesh.kind == 2] = np.array([70, 60, 255]) * on
    if look.lights > 0.2:
        colours[mesh.kind == 3] = (240, 250, 255)
    colours = look.mix(colours, 1.0, z)
    under = look.plain((14, 14, 14), x, z, 0.0)
    behind = [float((hull.mean(0) @ spin)[2]) for hull in mesh.hulls]
    order = (0, 1) if mesh.box_name == "car" else tuple(np.argsort([-value for value in behind]).tolist())
    discs = view.project(mesh.discs @ spin + origin) if px > 9 else np.zeros((0, 14, 2))
    low, high = np.array([np.inf, np.inf]), -np.array([np.inf, np.inf])
    for index, part in enumerate(order):
        hull = cv2.convexHull(hulls[part].astype(np.float32))[:, 0]
        low, high = np.minimum(low, hull.min(0)), np.maximum(high, hull.max(0))
        body = under if part == 0 and mesh.box_name == "car" else tuple(look.mix(mesh.colours[mesh.part == part][-1], look.ambient, z).tolist())
        canvas.polygon(hull, body, owner)
        if mesh.box_name != "car" and index == 0:
            floor = _floor(mesh, spin, origin, view)
            canvas.polygon(floor, under, owner)
            low, high = np.minimum(low, floor.min(0)), np.maximum(high, floor.max(0))
        chosen = visible & (mesh.part == part)
        canvas.polygons(flat[chosen], colours[chosen])
        if (mesh.box_name == "car" and part == 0) or (mesh.box_name != "car" and index == len(order) - 1):
            _draw_discs(canvas, look, discs, x, z)
    _draw_lamps(canvas, view, look, mesh, spin, origin, braking)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _floor(mesh: Frozen, spin: np.ndarray, origin: np.ndarray, view: View) -> np.ndarray:
    """Outline of what is below a lorry's body: wheels and frame."""
    w, f = mesh.width / 2 * 0.95, mesh.length / 2
    points = np.array([(sx * w, yy, zz) for sx in (-1, 1) for yy in (0.0, 1.0) for zz in (-f + 0.6, f - 0.7)], np.float32)
    return np.asarray(cv2.convexHull(view.project(points @ spin + origin).astype(np.float32))[:, 0])


def _draw_discs(canvas: Canvas, look: Look, discs: np.ndarray, x: float, z: float) -> None:
    """Wheels on the sides that face the camera: arch, tyre, rim."""
    shades = [look.plain(colour, x, z, 0.3) for colour in ((20, 20, 20), TYRE, RIM)]
    middle = discs.mean((0, 1)) if len(discs) else None
    for index in range(0, len(discs), 3):
        a, b = discs[index, 4] - discs[index, 0], discs[index, 8] - discs[index, 4]
        cross = a[0] * b[1] - a[1] * b[0]
        right = (index // 3) % 2 == 1
        if (cross > 0) == right or abs(cross) < 1.0 or middle is None:
            continue
        for layer, shade in enumerate(shades):
            canvas.polygon(discs[index + layer], shade)


def _draw_lamps(canvas: Canvas, view: View, look: Look, mesh: Frozen, spin: np.ndarray, origin: np.ndarray, braking: bool) -> None:
    """Glow of the lamps that face the camera, and their streaks on a wet road."""
    forward = spin[2]
    clear = float(look.clear(float(origin[2])))
    away = float(forward @ (origin - np.array([0, view.height_m, 0], np.float32))) > 0
    lamps, colour, strength = (
        (mesh.tail_lamps, np.array([30, 25, 235.0]), max(look.lights, 0.9 if braking else 0.0) * 0.6)
        if away
        else (mesh.head_lamps, np.array([225, 240, 250.0]), look.lights)
    )
    if strength < 0.15 or not len(lamps):
        return
    points = lamps @ spin + origin
    if points[:, 2].min() < 1.0:
        return
    reach = abs(float(forward[2]))
    for u, v in view.project(points):
        radius = (0.55 if away else 0.95) * strength * view.f / float(origin[2]) + 1.5
        canvas.glow(float(u), float(v), radius, colour * clear * reach)
