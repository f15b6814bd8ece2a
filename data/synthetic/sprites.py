"""Flat things that face the camera, painted once at a good size: trees, bushes, and traffic signs."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from data.synthetic.canvas import Sprite, make_sprite
from data.synthetic.dice import Dice

__all__ = ["SIGNS", "make_sign", "make_tree"]

LEAVES = [(45, 110, 70), (40, 95, 80), (38, 85, 52), (60, 120, 95), (40, 120, 140), (45, 95, 160), (70, 130, 110)]


@lru_cache(maxsize=64)
def make_tree(seed: int, kind: str) -> Sprite:
    """A round, tall or conical tree, or a bush: a cloud of leaf clusters lit from above."""
    dice = Dice(seed, "tree", kind)
    rng = dice.generator()
    h, w = (256, 200) if kind != "bush" else (110, 180)
    image = np.zeros((h, w, 4), np.uint8)
    leaf = np.array(dice.choice(LEAVES[:4] if dice.chance(0.8) else LEAVES), np.float32)
    if kind != "bush":
        bark, x = dice.uniform(50, 95), w / 2
        trunk = np.array([[x - 7, h], [x - 4, h * 0.45], [x + 4, h * 0.45], [x + 7, h]], np.int32)
        cv2.fillConvexPoly(image, trunk, (bark * 0.8, bark * 0.95, bark * 1.1, 255), cv2.LINE_AA)
        cv2.fillConvexPoly(
            image, trunk + np.array([[7, 0], [5, 0], [0, 0], [0, 0]]), (bark * 0.5, bark * 0.6, bark * 0.7, 255)
        )
    count = {"round": 900, "tall": 700, "cone": 800, "bush": 500}[kind]
    lumps = rng.normal(0, 1, (9, 2)) * 0.33
    for index in range(count):
        t = index / count  # from the dark inside to the lit outside
        if kind == "cone":
            y = rng.uniform(0.04, 0.86) ** 0.8
            px, py = w / 2 + rng.normal(0, 0.18) * w * y, h * y * 0.95
        elif kind == "tall":
            px, py = w / 2 + rng.normal(0, 0.1) * w, h * (0.4 + np.clip(rng.normal(0, 0.19), -0.37, 0.4))
        elif kind == "bush":
            px, py = w * (0.5 + np.clip(rng.normal(0, 0.18), -0.42, 0.42)), h * (0.66 + rng.normal(0, 0.15))
        else:
            lump = lumps[rng.integers(len(lumps))]
            px = w * (0.5 + 0.30 * np.clip(lump[0] + rng.normal(0, 0.36), -1.4, 1.4))
            py = h * (0.36 + 0.24 * np.clip(lump[1] + rng.normal(0, 0.36), -1.35, 1.5))
        lit = 0.42 + 0.5 * t + 0.35 * (0.5 - py / h) + 0.12 * (w / 2 - px) / w + rng.normal(0, 0.08)
        colour = np.clip(leaf * lit + rng.normal(0, 4, 3), 0, 255)
        size = rng.uniform(0.5, 1.0) * (13 - 9 * t) * (0.8 if kind == "cone" else 1.0)
        axes = (int(size) + 1, int(size * 0.75) + 1)
        cv2.ellipse(image, (int(px), int(py)), axes, int(rng.uniform(0, 180)), 0, 360, (*colour.tolist(), 255), -1)
    return make_sprite(image)


def _text(
    image: np.ndarray, text: str, centre: tuple[float, float], size: float, colour: tuple[int, ...], bold: int
) -> None:
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, bold)
    at = (int(centre[0] - w / 2), int(centre[1] + h / 2))
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (*colour, 255), bold, cv2.LINE_AA)


RED, BLUE, WHITE, BLACK, YELLOW, GREEN = (
    (40, 30, 195), (170, 85, 20), (238, 238, 238), (25, 25, 25), (30, 190, 240), (75, 110, 20),
)  # fmt: skip
SIGNS = ("stop", "yield", "limit", "no_entry", "warning", "diamond", "blue", "parking", "limit_us", "priority", "guide",
         "street", "zebra", "chevron", "no_parking", "gantry")  # fmt: skip


@lru_cache(maxsize=64)
def make_sign(kind: str, variant: int) -> Sprite:
    """A traffic sign's face; `guide`, `street` and `gantry` are wide, the others square."""
    dice = Dice(variant, "sign", kind)
    wide = {"guide": 1.8, "street": 4.0, "gantry": 1.9, "limit_us": 0.8, "chevron": 0.8}.get(kind, 1.0)
    n = 128
    image = np.zeros((n, int(n * wide), 4), np.uint8)
    w, c = image.shape[1], n // 2

    def ring(count: int, radius: float, turn: float = 0.0) -> np.ndarray:
        angle = np.arange(count) * 2 * np.pi / count + turn
        return np.stack([c + radius * np.sin(angle), c - radius * np.cos(angle)], 1).astype(np.int32)

    def fill(points: np.ndarray, colour: tuple[int, ...]) -> None:
        cv2.fillConvexPoly(image, points, (*colour, 255), cv2.LINE_AA)

    def disc(radius: int, colour: tuple[int, ...]) -> None:
        cv2.circle(image, (c, c), radius, (*colour, 255), -1, cv2.LINE_AA)

    if kind == "stop":
        for radius, colour in ((63, WHITE), (58, RED)):
            fill(ring(8, radius, np.pi / 8), colour)
        _text(image, "STOP", (c, c), 1.25, WHITE, 4)
    elif kind == "yield":
        for radius, colour in ((70, RED), (44, WHITE)):
            fill(ring(3, radius, np.pi) - np.array([0, 14]), colour)
    elif kind in ("limit", "no_entry", "no_parking"):
        disc(62, RED)
        if kind == "limit":
            disc(46, WHITE)
            _text(image, str(dice.choice((30, 40, 50, 60, 70, 80, 100))), (c, c), 1.6, BLACK, 5)
        elif kind == "no_entry":
            cv2.rectangle(image, (c - 42, c - 11), (c + 42, c + 11), (*WHITE, 255), -1)
        else:
            disc(48, BLUE)
            for flip in (1, -1) if dice.chance(0.5) else (1,):
                cv2.line(image, (c - 33 * flip, c - 33), (c + 33 * flip, c + 33), (*RED, 255), 11, cv2.LINE_AA)
    elif kind == "warning":
        for radius, colour in ((70, RED), (46, WHITE if dice.chance(0.7) else YELLOW)):
            fill(ring(3, radius) + np.array([0, 14]), colour)
        cv2.line(image, (c, c - 4), (c, c + 18), (*BLACK, 255), 8, cv2.LINE_AA)
        cv2.circle(image, (c, c + 30), 5, (*BLACK, 255), -1, cv2.LINE_AA)
    elif kind in ("diamond", "priority"):
        for radius, colour in (
            (63, BLACK if kind == "diamond" else WHITE),
            (58, YELLOW if kind == "diamond" else WHITE),
        ):
            fill(ring(4, radius), colour)
        if kind == "priority":
            fill(ring(4, 46), YELLOW)
        else:
            arrow = [[c - 8, c + 28], [c - 8, c], [c - 22, c], [c, c - 28], [c + 22, c], [c + 8, c], [c + 8, c + 28]]
            cv2.fillPoly(image, [np.array(arrow)], (*BLACK, 255), cv2.LINE_AA)
    elif kind == "blue":
        disc(62, WHITE)
        disc(58, BLUE)
        pointer = np.array([[-7, 36], [-7, 0], [-24, 0], [0, -36], [24, 0], [7, 0], [7, 36]], np.float32)
        turn = np.deg2rad(dice.choice((0, 45, -90, 90, 215)))
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        cv2.fillPoly(image, [(pointer @ spin + c).astype(np.int32)], (*WHITE, 255), cv2.LINE_AA)
    elif kind in ("parking", "zebra"):
        cv2.rectangle(image, (4, 4), (w - 5, n - 5), (*WHITE, 255), -1)
        cv2.rectangle(image, (8, 8), (w - 9, n - 9), (*BLUE, 255), -1)
        if kind == "parking":
            _text(image, "P", (c, c), 3.0, WHITE, 10)
        else:
            fill(ring(3, 54) + np.array([0, 12]), WHITE)
            cv2.line(image, (c, c - 8), (c, c + 18), (*BLACK, 255), 8, cv2.LINE_AA)
            cv2.circle(image, (c, c - 18), 6, (*BLACK, 255), -1, cv2.LINE_AA)
    elif kind == "limit_us":
        cv2.rectangle(image, (2, 2), (w - 3, n - 3), (*WHITE, 255), -1)
        cv2.rectangle(image, (6, 6), (w - 7, n - 7), (*BLACK, 255), 3)
        _text(image, "SPEED", (w / 2, 26), 0.75, BLACK, 2)
        _text(image, "LIMIT", (w / 2, 50), 0.75, BLACK, 2)
        _text(image, str(dice.choice((25, 35, 45, 55, 65))), (w / 2, 92), 1.6, BLACK, 4)
    elif kind == "chevron":
        cv2.rectangle(image, (0, 0), (w - 1, n - 1), (*(YELLOW if dice.chance(0.5) else RED), 255), -1)
        points = np.array([[18, 8], [60, 64], [18, 120], [46, 120], [88, 64], [46, 8]])
        cv2.fillPoly(image, [points], (*(BLACK if dice.chance(0.5) else WHITE), 255), cv2.LINE_AA)
    else:
        plate = {"street": dice.choice((GREEN, BLUE)), "guide": dice.choice((GREEN, BLUE, YELLOW))}.get(
            kind, dice.choice((GREEN, BLUE))
        )
        ink = BLACK if plate == YELLOW else WHITE
        cv2.rectangle(image, (0, 0), (w - 1, n - 1), (*ink, 255), -1)
        cv2.rectangle(image, (5, 5), (w - 6, n - 6), (*plate, 255), -1)
        words = ["".join(dice.choice("ABDEGHKLMNORSTUVW") for _ in range(dice.integer(4, 8))) for _ in range(2)]
        if kind == "street":
            _text(image, words[0], (w / 2, c), 2.4, ink, 6)
        else:
            for row, word in enumerate(words):
                _text(image, word, (w * 0.42, 40 + 46 * row), 1.0, ink, 3)
            cv2.arrowedLine(image, (int(w * 0.86), 100), (int(w * 0.86), 30), (*ink, 255), 7, cv2.LINE_AA, 0, 0.4)
    return make_sprite(image)
