"""What vehicles are made of: meshes of quads, and the few shapes that bodies are built from.

Vehicle space: x right, y up, z to the front, origin on the ground below the middle; metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

__all__ = [
    "CHROME", "GLASS", "GLASS_HIGH", "LAMP", "LENS", "PLATE", "RIM", "TRIM", "TYRE", "Colour", "Face", "Kind", "Mesh",
    "Point", "Vehicle", "add_band", "add_box", "add_panel", "add_wheels", "inset", "ring",
]  # fmt: skip

Point = tuple[float, float, float]
Colour = tuple[float, float, float]  # BGR
Face = list[Point]  # low a, high a, high b, low b
GLASS, GLASS_HIGH, TRIM, TYRE = (62, 52, 44), (95, 80, 68), (38, 37, 36), (24, 23, 23)
LENS, LAMP, PLATE, RIM, CHROME = (40, 28, 175), (190, 194, 196), (215, 222, 224), (150, 148, 146), (190, 188, 186)


class Kind:
    """How a quad takes the light."""

    PAINT, GLASS, TAIL, HEAD, DULL = range(5)


@dataclass
class Mesh:
    """Parts of a vehicle, each convex: quads in painting order."""

    length: float
    width: float
    height: float
    box_name: str
    quads: list[list[Point]] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)  # of each quad, see Kind
    part: list[int] = field(default_factory=list)
    wheels: list[Point] = field(default_factory=list)  # x, z, radius
    tail_lamps: list[Point] = field(default_factory=list)
    head_lamps: list[Point] = field(default_factory=list)
    hulls: list[list[Point]] = field(default_factory=list)  # one a part
    current: int = 0

    def quad(self, points: list[Point], colour: Colour, kind: int = Kind.PAINT) -> None:
        """Add a quad whose corners run clockwise seen from outside."""
        self.quads.append(points)
        self.colours.append(colour)
        self.kind.append(kind)
        self.part.append(self.current)

    def freeze(self) -> Vehicle:
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
            for k in (1.2, 1.0, 0.66, 0.2)
        ]
        area = 0.5 * np.linalg.norm(across, axis=1, keepdims=True)  # (Q, 1)
        painted = np.array(self.colours, np.float32) * area
        means = np.stack([painted[parts == part].sum(0) / area[parts == part].sum() for part in range(len(self.hulls))])
        w, f = self.width / 2 * 0.95, self.length / 2
        floor = [(sx * w, y, z) for sx in (-1, 1) for y in (0.0, 1.0) for z in (-f + 0.6, f - 0.7)]
        vehicle = Vehicle(
            self.length, self.width, self.height, self.box_name, quads, normals, np.array(self.colours, np.float32),
            np.array(self.kind), parts, np.array(discs, np.float32).reshape(-1, 14, 3),
            np.array(self.tail_lamps, np.float32), np.array(self.head_lamps, np.float32),
            [np.array(hull, np.float32) for hull in self.hulls], self.box_name == "car", np.array(floor, np.float32),
            means,
        )  # fmt: skip
        big = (area[:, 0] > 0.08) | np.isin(vehicle.kind, (Kind.TAIL, Kind.HEAD))
        kept = {name: getattr(vehicle, name)[big] for name in ("quads", "normals", "colours", "kind", "part")}
        return replace(vehicle, coarse=replace(vehicle, **kept))


@dataclass(frozen=True)
class Vehicle:
    """A mesh as arrays: Q quads, D discs (arch, tyre, rim, hub of each wheel)."""

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
    hulls: list[np.ndarray]  # (N, 3) corners of each part
    stacked: bool  # the second part stands on the first (a cabin on its body), not behind it
    floor: np.ndarray  # (8, 3) corners of the wheels and the frame
    part_colours: np.ndarray  # (parts, 3) mean colour of each part
    coarse: Vehicle | None = None  # the same without small quads, for far away


def ring(half: float, front: float, rear: float, y_front: float, y_rear: float, cut: float) -> list[Point]:
    """Eight corners of a rectangle with cut corners, clockwise from above, starting right of the nose."""
    nose, tail = half - cut, half - cut
    return [(nose, y_front, front), (half, y_front, front - cut * 1.3), (half, y_rear, rear + cut),
            (tail, y_rear, rear), (-tail, y_rear, rear), (-half, y_rear, rear + cut),
            (-half, y_front, front - cut * 1.3), (-nose, y_front, front)]  # fmt: skip


def add_band(mesh: Mesh, low: list[Point], high: list[Point], colour: Colour) -> None:
    """The faces between two rings."""
    n = len(low)
    for i in range(n):
        j = (i + 1) % n
        mesh.quad([low[i], high[i], high[j], low[j]], colour)


def inset(face: Face, u1: float, u2: float, v1: float, v2: float) -> Face:
    """A part of a face in its own coordinates, u from a to b, v from low to high."""
    c = np.array(face)

    def at(u: float, v: float) -> Point:
        p = (c[0] * (1 - v) + c[1] * v) * (1 - u) + (c[3] * (1 - v) + c[2] * v) * u
        return (float(p[0]), float(p[1]), float(p[2]))

    return [at(u1, v1), at(u1, v2), at(u2, v2), at(u2, v1)]


def add_panel(mesh: Mesh, x1: float, x2: float, y1: float, y2: float, z: float, colour: Colour,
           kind: int = Kind.PAINT) -> None:  # fmt: skip
    """A flat panel across the rear (z < 0) or the front (z > 0)."""
    a, b = (x2, x1) if z > 0 else (x1, x2)
    mesh.quad([(a, y1, z), (a, y2, z), (b, y2, z), (b, y1, z)], colour, kind)


def add_wheels(mesh: Mesh, radius: float, axles: list[float]) -> None:
    """Two wheels an axle, with the part of the tyres that shows below the ends of the body."""
    half = mesh.width / 2
    for z in axles:
        for side in (-1, 1):
            x = side * (half - 0.12)
            end = z + (radius * 0.9 if z > 0 else -radius * 0.9)
            add_panel(mesh, x - 0.11, x + 0.11, 0.0, radius * 1.2, end, TYRE, Kind.DULL)
            mesh.wheels.append((side * (half + 0.005), z, radius))


def add_box(mesh: Mesh, half: float, front: float, rear: float, low: float, high: float, colour: Colour,
         cut: float = 0.06) -> list[Face]:  # fmt: skip
    """A box with cut corners as a new part; returns its right, rear, left and front faces as plain quads."""
    a, b = ring(half, front, rear, low, low, cut), ring(half, front, rear, high, high, cut)
    add_band(mesh, a, b, colour)
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
