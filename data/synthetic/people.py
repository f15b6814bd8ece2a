"""People on foot, on bicycles and on motorcycles: jointed figures whose limbs are hulls of balls.

Figure space: x right, y up, z to the front, origin on the ground; metres.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data.synthetic.dice import Dice
from data.synthetic.figure import Ball, Figure, Part, Point, make_figure

__all__ = ["STEPS", "bicycle", "cyclist", "motorcycle", "motorcyclist", "pedestrian"]

CLOTHES = [(40, 38, 36), (70, 60, 55), (120, 60, 35), (45, 40, 150), (60, 120, 60), (200, 200, 205), (60, 160, 210),
           (150, 140, 130), (110, 80, 120), (90, 50, 30), (30, 110, 200), (170, 120, 60), (60, 200, 210)]  # fmt: skip
TROUSERS = [(60, 45, 35), (90, 65, 45), (35, 33, 32), (100, 105, 110), (70, 90, 110), (45, 45, 48)]
SKIN = [(140, 165, 215), (110, 140, 195), (80, 105, 155), (50, 70, 110)]
HAIR = [(25, 25, 28), (30, 45, 65), (60, 95, 130), (120, 120, 122), (35, 60, 120)]
STEPS = 32  # distinguished phases of a step or of the pedals


def _leg(x: float, hip: float, swing: float, h: float, trousers: Point, shoe: Point) -> list[Part]:
    knee = (x, hip - 0.24 * h * np.cos(swing * 0.8), 0.24 * h * np.sin(swing) + 0.03 * h * (swing > 0))
    bend = swing - (0.75 if swing < 0 else 0.1)
    foot_y = max(knee[1] - 0.25 * h * np.cos(bend), 0.03 * h)
    foot = (x, foot_y, knee[2] + 0.25 * h * np.sin(bend))
    shade = 0.82 if swing < 0 else 1.0
    return [
        Part(((x, hip, 0.0, 0.052 * h), (*knee, 0.040 * h)), trousers, shade),
        Part(((*knee, 0.040 * h), (*foot, 0.028 * h)), trousers, shade * 0.95),
        Part(
            (
                (foot[0], foot[1] - 0.01 * h, foot[2] - 0.02, 0.025 * h),
                (foot[0], foot[1] - 0.012 * h, foot[2] + 0.07 * h, 0.02 * h),
            ),
            shoe,
            1.0,
            fine=True,
        ),
    ]


def _head(centre: Point, h: float, dice: Dice, helmet: Point | None = None) -> list[Part]:
    x, y, z = centre
    r = 0.062 * h
    skin = dice.choice(SKIN)
    face = Part(((x, y, z, r), (x, y - 0.03 * h, z + 0.01 * h, r * 0.8)), skin)
    if helmet:
        return [face, Part(((x, y + 0.018 * h, z - 0.012, r * 1.12), (x, y + 0.02 * h, z + 0.02, r)), helmet)]
    hair = dice.choice(HAIR)
    long = dice.chance(0.3)
    return [
        face,
        Part(
            ((x, y + 0.014 * h, z - 0.016 * h, r), (x, y - (0.06 if long else 0.0) * h, z - 0.03 * h, r * 0.75)), hair
        ),
    ]


@lru_cache(maxsize=4096)
def pedestrian(seed: int, step: int, standing: bool = False) -> Figure:
    """Someone walking (`step` of STEPS) or standing, far parts first."""
    phase = step * 2 * np.pi / STEPS
    dice = Dice(seed, "person")
    h = dice.uniform(1.55, 1.9) * (0.7 if dice.chance(0.08) else 1.0)
    top, trousers, shoe = (
        dice.choice(CLOTHES),
        dice.choice(TROUSERS),
        dice.choice(((30, 30, 30), (200, 200, 200), (40, 60, 90))),
    )
    swing = 0.0 if standing else 0.5 * float(np.sin(phase))
    hip, chest, x = 0.50 * h, 0.80 * h, 0.055 * h
    legs = [(-x, swing), (x, -swing)]
    parts: list[Part] = []
    skirt = dice.chance(0.15)
    coat = dice.chance(0.25)

    bare = dice.chance(0.3)

    def arm(side: int, turn: float) -> list[Part]:
        elbow = (side * 0.135 * h, chest - 0.17 * h, 0.15 * h * float(np.sin(turn)))
        hand = (side * 0.13 * h, elbow[1] - 0.14 * h, elbow[2] + 0.14 * h * float(np.sin(turn + 0.35)))
        return [
            Part(((side * 0.115 * h, chest, 0.0, 0.036 * h), (*elbow, 0.030 * h)), top, 0.85),
            Part(((*elbow, 0.028 * h), (*hand, 0.022 * h)), SKIN[1] if bare else top, 0.9, fine=True),
        ]

    for side, turn in sorted(legs, key=lambda leg: leg[1]):
        parts += _leg(side, hip, turn, h, trousers, shoe)
    parts += arm(1 if swing > 0 else -1, -abs(swing))
    low = 0.36 if coat else 0.47
    parts.append(
        Part(
            (
                (-0.10 * h, chest - 0.01 * h, 0, 0.035 * h),
                (0.10 * h, chest - 0.01 * h, 0, 0.035 * h),
                (-0.075 * h, low * h, 0, 0.045 * h),
                (0.075 * h, low * h, 0, 0.045 * h),
            ),
            top,
        )
    )
    if skirt:
        parts.append(
            Part(
                (
                    (-0.06 * h, 0.5 * h, 0, 0.04 * h),
                    (0.06 * h, 0.5 * h, 0, 0.04 * h),
                    (-0.09 * h, 0.33 * h, 0, 0.03 * h),
                    (0.09 * h, 0.33 * h, 0, 0.03 * h),
                ),
                trousers,
            )
        )
    if dice.chance(0.3):
        parts.append(
            Part(((0, 0.76 * h, -0.09 * h, 0.06 * h), (0, 0.60 * h, -0.09 * h, 0.065 * h)), dice.choice(CLOTHES), 0.9)
        )
    parts += arm(-1 if swing > 0 else 1, abs(swing))
    parts.append(Part(((0, 0.84 * h, 0, 0.03 * h), (0, 0.89 * h, 0.01, 0.03 * h)), SKIN[1], 0.9, fine=True))
    return make_figure(parts + _head((0, 0.925 * h, 0.012 * h), h, dice))


def _wheel(z: float, radius: float, width: float) -> tuple[Ball, ...]:
    return tuple(
        (0.0, radius + radius * float(np.sin(a)), z + radius * float(np.cos(a)), width)
        for a in np.linspace(0, 2 * np.pi, 15)[:-1]
    )


@lru_cache(maxsize=1024)
def bicycle(seed: int) -> Figure:
    """A bicycle without its rider."""
    dice = Dice(seed, "bicycle")
    paint = dice.choice([(40, 40, 180), (160, 90, 30), (40, 40, 40), (60, 150, 60), (200, 200, 200), (30, 160, 220)])

    def tube(a: Point, b: Point, r: float = 0.022, c: Point = paint) -> Part:
        return Part(((*a, r), (*b, r)), c)

    crank, seat, head = (0.0, 0.30, -0.05), (0.0, 0.86, -0.24), (0.0, 0.86, 0.36)
    return make_figure([
        Part(_wheel(-0.52, 0.335, 0.018), (28, 28, 28), ring=True),
        Part(_wheel(0.55, 0.335, 0.018), (28, 28, 28), ring=True),
        tube((0, 0.335, -0.52), crank), tube((0, 0.335, -0.52), seat), tube(crank, seat), tube(crank, head),
        tube(seat, head), tube(head, (0, 0.335, 0.55)), tube((0, 0.86, 0.36), (0, 1.02, 0.32), 0.018),
        tube((-0.26, 1.02, 0.30), (0.26, 1.02, 0.30), 0.016, (50, 50, 50)),
        Part(((0, 0.92, -0.34, 0.045), (0, 0.93, -0.16, 0.03)), (30, 30, 30)),
        Part(((0, 0.66, -0.5, 0.03),), (35, 30, 220)),
    ])  # fmt: skip


def _seated(
    dice: Dice,
    seat_y: float,
    lean: float,
    hands: Point,
    feet: list[Point],
    helmet: Point | None,
    jacket: Point,
) -> list[Part]:
    """Someone who sits on a saddle with hands on the bar."""
    h = dice.uniform(1.65, 1.85)
    trousers = dice.choice(TROUSERS)
    hip, chest = (
        np.array([0, seat_y + 0.04, -0.2]),
        np.array([0, seat_y + 0.30 * h * np.cos(lean), -0.2 + 0.30 * h * np.sin(lean)]),
    )
    parts = []
    for side, foot in zip((-1, 1), feet, strict=True):
        middle = (np.array(foot) + hip) / 2
        knee = (side * 0.10, float(middle[1]) + 0.10, float(middle[2]) + 0.20)
        parts += [Part(((side * 0.09, float(hip[1]), float(hip[2]), 0.085), (*knee, 0.065)), trousers, 0.9),
                  Part(((*knee, 0.06), (side * 0.10, foot[1], foot[2], 0.045)), trousers, 0.85),
                  Part(((side * 0.10, foot[1] - 0.02, foot[2] - 0.02, 0.04),
                        (side * 0.10, foot[1] - 0.02, foot[2] + 0.13, 0.035)), (35, 35, 38), fine=True)]  # fmt: skip
    cx, cy, cz = 0.0, float(chest[1]), float(chest[2])
    parts.append(
        Part(
            (
                (-0.16, cy, cz, 0.065),
                (0.16, cy, cz, 0.065),
                (-0.11, float(hip[1]), float(hip[2]), 0.085),
                (0.11, float(hip[1]), float(hip[2]), 0.085),
            ),
            jacket,
        )
    )
    if dice.chance(0.25):
        parts.append(Part(((0, cy - 0.03, cz - 0.16, 0.11), (0, cy - 0.28, cz - 0.2, 0.11)), dice.choice(CLOTHES), 0.9))
    for side in (-1, 1):
        elbow = (side * 0.26, (cy + hands[1]) / 2 - 0.06, (cz + hands[2]) / 2)
        parts += [
            Part(((side * 0.19, cy, cz, 0.055), (*elbow, 0.045)), jacket, 0.88),
            Part(((*elbow, 0.042), (side * hands[0], hands[1], hands[2], 0.035)), jacket, 0.92),
        ]
    return parts + _head((cx, cy + 0.25, cz + 0.05), h, dice, helmet)


@lru_cache(maxsize=4096)
def cyclist(seed: int, step: int) -> Figure:
    """The rider of a bicycle; `step` of STEPS turns the pedals."""
    phase = step * 2 * np.pi / STEPS
    dice = Dice(seed, "cyclist")
    feet = [
        (0.1 * side, 0.30 + 0.16 * float(np.cos(phase + turn)), -0.03 + 0.16 * float(np.sin(phase + turn)))
        for side, turn in ((-1, 0.0), (1, np.pi))
    ]
    helmet = dice.choice([(40, 40, 40), (220, 220, 220), (50, 50, 200), (60, 200, 220)]) if dice.chance(0.6) else None
    return make_figure(
        _seated(dice, 0.92, dice.uniform(0.25, 0.7), (0.24, 1.04, 0.30), feet, helmet, dice.choice(CLOTHES))
    )


@lru_cache(maxsize=1024)
def motorcycle(seed: int) -> Figure:
    """A motorcycle without its rider."""
    dice = Dice(seed, "motorcycle")
    paint = dice.choice([(40, 40, 190), (30, 30, 32), (170, 80, 30), (200, 200, 202), (40, 160, 60), (30, 140, 230)])
    scooter = dice.chance(0.4)
    r = 0.24 if scooter else 0.31
    machine = [
        Part(_wheel(-0.62, r, 0.06), (26, 26, 26)), Part(_wheel(0.68, r, 0.055), (26, 26, 26)),
        Part(((0, r, -0.62, 0.07),), (120, 120, 122), fine=True),
        Part(((0, r, 0.68, 0.07),), (120, 120, 122), fine=True),
        Part(((0, 0.42, -0.3, 0.15), (0, 0.42, 0.15, 0.15), (0, 0.62, -0.2, 0.13)), (60, 60, 64)),
        Part(((0, 0.95, 0.42, 0.05), (0, r, 0.68, 0.045)), (110, 110, 112)),
        Part(((0, 0.80, -0.75, 0.08), (0, 0.78, -0.1, 0.13)), (32, 32, 34)),
        Part(((0, 0.82, 0.0, 0.14), (0, 0.84, 0.32, 0.12)), paint),
        Part(((0, 0.95, 0.50, 0.13), (0, 0.72, 0.52, 0.10)), paint),
        Part(((-0.34, 1.02, 0.34, 0.03), (0.34, 1.02, 0.34, 0.03)), (40, 40, 42)),
        Part(((0, 0.72, -0.78, 0.05),), (40, 30, 215)), Part(((0, 0.90, 0.62, 0.075),), (225, 235, 238)),
    ]  # fmt: skip
    if scooter:
        machine.append(
            Part(
                (
                    (-0.16, 0.35, 0.42, 0.05),
                    (0.16, 0.35, 0.42, 0.05),
                    (-0.14, 0.85, 0.45, 0.05),
                    (0.14, 0.85, 0.45, 0.05),
                ),
                paint,
            )
        )
    return make_figure(machine)


@lru_cache(maxsize=1024)
def motorcyclist(seed: int) -> Figure:
    """The rider of a motorcycle."""
    dice = Dice(seed, "motorcyclist")
    jacket = dice.choice([(35, 35, 36), (60, 60, 62), (40, 40, 150), (110, 70, 30), (60, 190, 210)])
    helmet = dice.choice([(35, 35, 36), (215, 215, 218), (40, 40, 190)])
    feet = [(-0.14, 0.32, 0.05), (0.14, 0.32, 0.05)]
    return make_figure(_seated(dice, 0.88, dice.uniform(0.15, 0.45), (0.30, 1.02, 0.32), feet, helmet, jacket))
