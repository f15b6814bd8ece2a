"""Cars, vans, trucks and buses: their shapes and paint."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from data.synthetic.dice import Dice
from data.synthetic.mesh import (
    GLASS,
    GLASS_HIGH,
    LAMP,
    LENS,
    PLATE,
    TRIM,
    Colour,
    Kind,
    Mesh,
    Vehicle,
    add_band,
    add_box,
    add_panel,
    add_wheels,
    inset,
    ring,
)  # fmt: skip

__all__ = ["make_vehicle"]

PAINT = [(232, 232, 230), (225, 226, 228), (28, 27, 26), (45, 43, 42), (120, 118, 116), (168, 166, 164),
         (42, 34, 150), (35, 30, 185), (130, 72, 32), (95, 50, 25), (150, 110, 60), (60, 85, 50), (80, 150, 190),
         (40, 120, 205), (60, 70, 90), (110, 130, 150), (25, 195, 235)]  # fmt: skip


def _darker(colour: Colour, part: float) -> Colour:
    return colour[0] * part, colour[1] * part, colour[2] * part


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
    add_wheels(mesh, wheel, [front - 0.85, rear + 0.82])
    hood = belt - 0.14
    rings = [
        ring(half * 0.96, front - 0.08, rear + 0.10, low, low, 0.16),
        ring(half, front, rear, low + 0.22, low + 0.24, 0.16),
        ring(half, front - 0.03, rear + 0.02, hood - 0.12, belt - 0.22, 0.16),
        ring(half * 0.94, front - 0.22, rear + 0.10, hood, belt, 0.20),
    ]
    dark = _darker(paint, 0.55)
    sill = TRIM if kind in ("suv", "van", "pickup") or dice.chance(0.3) else dark
    for (low_ring, high_ring), colour in zip(pairwise(rings), (sill, paint, paint), strict=True):
        add_band(mesh, low_ring, high_ring, colour)
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
    add_panel(mesh, -half * 0.9, half * 0.9, low + 0.02, low + 0.14, z, TRIM)
    add_panel(mesh, -half * 0.88, half * 0.88, low + 0.30, low + 0.325, z, dark)
    for side in (-1, 1):
        x1, x2 = sorted((side * (half - 0.06), side * (half - 0.06 - lamp)))
        add_panel(mesh, x1, x2, y1, y2, z, LENS, Kind.TAIL)
        x1, x2 = sorted((side * (half - 0.08), side * (half - 0.02 - lamp)))
        add_panel(mesh, x1, x2, hood - 0.26, hood - 0.12, front + 0.012, LAMP, Kind.HEAD)
        mesh.tail_lamps.append((side * (half - 0.06 - lamp / 2), (y1 + y2) / 2, z))
        mesh.head_lamps.append((side * (half - 0.25), hood - 0.19, front + 0.02))
    add_panel(mesh, -0.27, 0.27, y1 + 0.01, y1 + 0.13, z - 0.01, PLATE)
    add_panel(mesh, -half * 0.52, half * 0.52, hood - 0.28, hood - 0.13, front + 0.012, TRIM)
    add_panel(mesh, -half * 0.75, half * 0.75, low + 0.04, low + 0.20, front + 0.012, TRIM)
    add_panel(mesh, -0.27, 0.27, low + 0.18, low + 0.29, front + 0.02, PLATE)
    for side in (-1, 1):  # door lines and handles on the sides
        x = side * (half + 0.006)
        for zz in (front - nose - 0.15, front - nose - 1.2, front - nose - 2.1):
            if rear + 0.6 < zz:
                ends = (zz - 0.012, zz + 0.012) if side > 0 else (zz + 0.012, zz - 0.012)
                mesh.quad(
                    [
                        (x, low + 0.2, ends[0]),
                        (x, belt - 0.2, ends[0]),
                        (x, belt - 0.2, ends[1]),
                        (x, low + 0.2, ends[1]),
                    ],
                    dark,
                )
        handle = (front - nose - 1.1, front - nose - 0.92)[::side]
        mesh.quad(
            [
                (x, belt - 0.3, handle[0]),
                (x, belt - 0.26, handle[0]),
                (x, belt - 0.26, handle[1]),
                (x, belt - 0.3, handle[1]),
            ],
            dark,
        )
    mesh.hulls.append(
        [p for ring in rings for p in ring]
        + [
            (sx * (half - 0.06), 0.0, zz)
            for sx in (-1, 1)
            for zz in (
                front - 0.85 - wheel * 0.6,
                front - 0.85 + wheel * 0.6,
                rear + 0.82 - wheel * 0.6,
                rear + 0.82 + wheel * 0.6,
            )
        ]
    )
    # cabin
    mesh.current = 1
    zf, zr = front - nose, rear + 0.10 + tail
    if kind == "pickup":
        zr = rear + tail
    rake = 0.75 if kind != "van" else 0.55
    bottom = [
        (half * 0.92, belt - 0.05, zf),
        (half * 0.92, belt, zr),
        (-half * 0.92, belt, zr),
        (-half * 0.92, belt - 0.05, zf),
    ]
    roof_half = half * (0.74 if kind != "van" else 0.84)
    roof = [
        (roof_half, height - 0.04, zf - rake),
        (roof_half, height - 0.02, zr + slope),
        (-roof_half, height - 0.02, zr + slope),
        (-roof_half, height - 0.04, zf - rake),
    ]
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
            mesh.quad(inset(face, a, b, 0.10, 0.50), GLASS, Kind.GLASS)
            mesh.quad(inset(face, a, b, 0.50, 0.86), GLASS_HIGH, Kind.GLASS)
    for face in (faces[1], faces[3]):
        if not (blind and face is faces[1]):
            mesh.quad(inset(face, 0.09, 0.91, 0.10, 0.50), GLASS, Kind.GLASS)
            mesh.quad(inset(face, 0.09, 0.91, 0.50, 0.90), GLASS_HIGH, Kind.GLASS)
    mesh.quad(inset(faces[1], 0.42, 0.58, 0.90, 0.97), LENS, Kind.TAIL)
    for side in (-1, 1):  # mirrors
        x1, x2 = sorted((side * (half + 0.02), side * (half + 0.2)))
        for sign in (-1, 1):
            add_panel(
                mesh,
                x1,
                x2,
                belt + 0.02,
                belt + 0.16,
                sign * (zf - 0.35) if sign > 0 else zf - 0.45,
                TRIM if dice.chance(0.5) else paint,
            )
    mesh.hulls.append([*bottom, *roof])
    return mesh


def _lamps(mesh: Mesh, half: float, front: float, rear: float, y: float) -> None:
    for side in (-1, 1):
        x1, x2 = sorted((side * (half - 0.08), side * (half - 0.42)))
        add_panel(mesh, x1, x2, y, y + 0.16, rear - 0.02, LENS, Kind.TAIL)
        mesh.tail_lamps.append((side * (half - 0.25), y + 0.08, rear - 0.03))


def _truck(dice: Dice) -> Mesh:
    """A lorry: cab and cargo box."""
    length, height = dice.uniform(6.5, 11.0), dice.uniform(3.0, 3.9)
    mesh = Mesh(length, 2.45, height, "truck")
    front, rear, half = length / 2, -length / 2, 1.22
    paint = dice.choice(PAINT)
    cargo = dice.choice([(225, 226, 228), (215, 215, 218), (190, 192, 195), paint, (130, 80, 40), (60, 70, 150)])
    add_wheels(mesh, 0.48, [front - 1.2, rear + 1.1, *([rear + 2.2] if length > 8 else [])])
    split = front - 2.1
    add_panel(mesh, -half * 0.9, half * 0.9, 0.45, 0.62, rear + 0.2, TRIM)
    faces = add_box(mesh, half, split - 0.12, rear, 0.95, height, cargo)
    for face in (faces[0], faces[2]):
        if dice.chance(0.7):
            stripe = dice.choice(PAINT)
            mesh.quad(inset(face, 0.0, 1.0, 0.32, 0.46), stripe)
            mesh.quad(inset(face, 0.3, 0.7, 0.52, 0.74), stripe)
        mesh.quad(inset(face, 0.0, 1.0, 0.0, 0.06), TRIM)
    for u in (0.03, 0.495, 0.96):
        mesh.quad(inset(faces[1], u, u + 0.012, 0.03, 0.97), _darker(cargo, 0.6))
    mesh.quad(inset(faces[1], 0.0, 1.0, 0.0, 0.05), TRIM)
    mesh.quad(inset(faces[1], 0.36, 0.62, 0.04, 0.09), PLATE)
    _lamps(mesh, half, front, rear, 0.72)
    for u in (0.0, 0.85):
        mesh.quad(inset(faces[1], u + 0.02, u + 0.13, 0.02, 0.045), (30, 130, 230))
    mesh.current = 1
    cab_high = min(height * 0.93, 3.0)
    faces = add_box(mesh, half * 0.98, front, split, 0.5, cab_high, paint, 0.14)
    mesh.quad(inset(faces[3], 0.06, 0.94, 0.50, 0.68), GLASS, Kind.GLASS)
    mesh.quad(inset(faces[3], 0.06, 0.94, 0.68, 0.86), GLASS_HIGH, Kind.GLASS)
    mesh.quad(inset(faces[3], 0.12, 0.88, 0.20, 0.42), TRIM)
    mesh.quad(inset(faces[3], 0.0, 1.0, 0.0, 0.10), TRIM)
    for face, (u1, u2) in ((faces[0], (0.12, 0.6)), (faces[2], (0.4, 0.88))):
        mesh.quad(inset(face, u1, u2, 0.52, 0.86), GLASS, Kind.GLASS)
    for side in (-1, 1):
        x1, x2 = sorted((side * (half - 0.1), side * (half - 0.5)))
        add_panel(mesh, x1, x2, 0.78, 0.98, front + 0.02, LAMP, Kind.HEAD)
        mesh.head_lamps.append((side * (half - 0.3), 0.88, front + 0.03))
    return mesh


def _bus(dice: Dice) -> Mesh:
    """A city bus or a coach."""
    length, height = dice.uniform(9.5, 12.5), dice.uniform(2.95, 3.3)
    mesh = Mesh(length, 2.5, height, "bus")
    front, rear, half = length / 2, -length / 2, 1.25
    paint = dice.choice([(60, 60, 195), (40, 160, 220), (220, 220, 222), (150, 90, 30), (70, 140, 60), (40, 190, 235)])
    lower = paint if dice.chance(0.5) else dice.choice(PAINT)
    add_wheels(mesh, 0.48, [front - 2.4, rear + 2.9])
    faces = add_box(mesh, half, front, rear, 0.32, height, paint, 0.12)
    for face in faces:
        mesh.quad(inset(face, 0.0, 1.0, 0.0, 0.30), lower)
    for face in (faces[0], faces[2]):
        mesh.quad(inset(face, 0.03, 0.97, 0.42, 0.82), TRIM)
        count = 7
        for index in range(count):
            u1, u2 = 0.035 + index * 0.93 / count, 0.025 + (index + 1) * 0.93 / count
            mesh.quad(inset(face, u1, u2, 0.44, 0.62), GLASS, Kind.GLASS)
            mesh.quad(inset(face, u1, u2, 0.62, 0.80), GLASS_HIGH, Kind.GLASS)
    for u1, u2 in ((0.14, 0.22), (0.52, 0.60)):  # doors
        mesh.quad(inset(faces[0], u1, u2, 0.04, 0.82), (70, 66, 60), Kind.GLASS)
    mesh.quad(inset(faces[1], 0.10, 0.90, 0.52, 0.84), GLASS, Kind.GLASS)
    mesh.quad(inset(faces[1], 0.10, 0.90, 0.70, 0.84), GLASS_HIGH, Kind.GLASS)
    mesh.quad(inset(faces[1], 0.15, 0.85, 0.20, 0.40), TRIM)
    mesh.quad(inset(faces[1], 0.39, 0.61, 0.12, 0.16), PLATE)
    mesh.quad(inset(faces[3], 0.04, 0.96, 0.34, 0.60), GLASS, Kind.GLASS)
    mesh.quad(inset(faces[3], 0.04, 0.96, 0.60, 0.82), GLASS_HIGH, Kind.GLASS)
    mesh.quad(inset(faces[3], 0.15, 0.85, 0.85, 0.96), (20, 22, 24))
    mesh.quad(inset(faces[3], 0.25, 0.75, 0.88, 0.93), (40, 170, 250), Kind.HEAD)
    _lamps(mesh, half, front, rear, 0.75)
    for side in (-1, 1):
        x1, x2 = sorted((side * (half - 0.1), side * (half - 0.5)))
        add_panel(mesh, x1, x2, 0.62, 0.80, front + 0.02, LAMP, Kind.HEAD)
        mesh.head_lamps.append((side * (half - 0.3), 0.7, front + 0.03))
    return mesh


@lru_cache(maxsize=512)
def make_vehicle(seed: int, kind: str) -> Vehicle:
    """A vehicle of a kind: car, truck or bus; the seed chooses its shape and paint."""
    dice = Dice(seed, "vehicle", kind)
    if kind == "truck":
        return _truck(dice).freeze()
    if kind == "bus":
        return _bus(dice).freeze()
    return _car(
        dice, dice.choice(("hatch", "hatch", "saloon", "saloon", "estate", "suv", "suv", "van", "pickup"))
    ).freeze()
