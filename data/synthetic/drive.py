"""A procedural drive: pictures of a road from a moving car, each with its exact truth.

The same arguments give the same bytes, and frame i needs no frame before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from data.synthetic.camera import View
from data.synthetic.canvas import FIRST_OBJECT, SCENE, Canvas
from data.synthetic.dice import Dice
from data.synthetic.ground import Ground
from data.synthetic.lens import Lens
from data.synthetic.light import Condition, make_look
from data.synthetic.painter import paint
from data.synthetic.road import make_road
from data.synthetic.sky import Sky
from data.synthetic.world import World
from perception.labels import IGNORE

__all__ = ["Drive", "SyntheticFrame", "truth"]

MIN_VISIBLE = 0.2  # less of an object in view is an ignore region, not a box
MIN_SIDE_PX = 3.0  # so is a box with a shorter side
MIN_AREA_PX = 10  # and one with fewer pixels


@dataclass(frozen=True, eq=False)
class SyntheticFrame:
    """One frame and its truth: N boxes, M ignore regions, frame pixels."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    boxes: np.ndarray  # (N, 4) float32 xyxy, the whole outline clipped to the frame
    classes: np.ndarray  # (N,) int64, perception.labels.BOX_CLASSES
    track_ids: np.ndarray  # (N,) int64, the same for an object in every frame
    scene: np.ndarray  # (H, W) uint8, perception.labels.SCENE_CLASSES; 255 = the ego's bonnet
    drive: np.ndarray  # (H, W) uint8, perception.labels.DRIVE_CLASSES
    timestamp_s: float
    visible: np.ndarray  # (N,) float32, part of the outline within the frame that nothing hides
    ignore: np.ndarray  # (M, 4) float32 xyxy: objects of which too little is to be seen
    depth_m: (
        np.ndarray
    )  # (N,) float32 forward to where it stands, the nearest wheel or foot; NaN for what hangs on a pole


class Drive:
    """A drive of `frames` frames: `len(drive)`, `drive[i]`, iteration."""

    def __init__(
        self, seed: int = 0, hw: tuple[int, int] = (360, 640), fps: float = 25.0, frames: int = 250,
        condition: Condition = "day", density: float | None = None, yaw: float = 0.0, pitch: float = 0.0,
        flat: bool = False,
    ) -> None:  # fmt: skip
        """`density` scales how much is on and beside the road (0: an empty world); None lets the seed choose.

        `yaw` and `pitch` are amplitudes, in degrees, of a camera that swings: looks left and right in 2.6 s, nods in
        0.7 s. `flat` takes away the hills.


        Raises ValueError for a frame under 8x8 pixels, fps <= 0, frames < 1, or an unknown condition.
        """
        if min(hw) < 8:
            raise ValueError(f"hw must be at least 8x8 pixels, but got {hw[0]}x{hw[1]}")
        if fps <= 0 or frames < 1:
            raise ValueError(f"fps must be above 0 and frames at least 1, but got fps={fps}, frames={frames}")
        self.seed, self.hw, self.fps, self.frames = seed, hw, fps, frames
        dice = Dice(seed, "camera")
        self.focal, self.horizon = dice.uniform(0.72, 1.15), dice.uniform(0.40, 0.52)
        self.height_m, self.bounce = dice.uniform(1.25, 1.75), dice.uniform(0.0, 0.004)
        self.bonnet = dice.uniform(0.04, 0.11) if dice.chance(0.35) else 0.0
        self.bonnet_paint = dice.uniform(20, 120)
        self.yaw, self.pitch = math.radians(yaw), math.radians(pitch)
        self.road, self.look = make_road(seed), make_look(seed, condition)
        if flat:
            self.road = replace(self.road, hills=((0.0, 60.0, 0.0),))
        self.world = World(self.road, seed, density)
        self.ground = Ground(self.road, self.look, seed, max(hw))
        self.focal_px = self.focal * max(hw[1], hw[0] * 1.2)
        self.sky = Sky(hw, self.focal_px, hw[0] * self.horizon, self.look, self.road.setting, seed)
        self.lens = Lens(hw, self.look, seed)

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[SyntheticFrame]:
        return (self[index] for index in range(self.frames))

    def __getitem__(self, index: int) -> SyntheticFrame:
        if not -self.frames <= index < self.frames:
            raise IndexError(f"frame {index} of a drive of {self.frames}")
        index %= self.frames
        t = index / self.fps
        s, d = self.world.ego(t)
        horizon = self.horizon + self.bounce * float(np.sin(9.0 * t) + 0.5 * np.sin(15.7 * t))
        if self.pitch:
            horizon += self.focal_px / self.hw[0] * self.pitch * math.sin(9.0 * t)
        yaw = self.yaw * math.sin(2.4 * t)
        view = View(self.road, self.hw, s, d, focal=self.focal, horizon=horizon, height_m=self.height_m, yaw=yaw)
        canvas = Canvas(self.hw)
        self.sky.draw(canvas, view)
        self.ground.draw(canvas, view)
        paint(canvas, view, self.look, self.world, t)
        if self.bonnet:
            self._bonnet(canvas)
        self.lens.expose(canvas, view.cy, index, self.seed)
        return truth(canvas, t)

    def _bonnet(self, canvas: Canvas) -> None:
        """The own car's bonnet at the bottom of the picture."""
        h, w = self.hw
        x = np.linspace(-0.08, 1.08, 24)
        for layer in range(6):
            rise = self.bonnet * (1 - layer / 7)
            y = h * (1 - rise * (1 - (2 * np.abs(x - 0.5)) ** 2.6 * 0.55))
            outline = np.concatenate([np.stack([x * w, y], 1), [[1.08 * w, h + 2], [-0.08 * w, h + 2]]])
            shine = (0.75 - 0.10 * layer) if layer else 0.5
            colour = np.clip(
                self.bonnet_paint * self.look.ambient * (1.3 - 0.1 * layer) + self.look.sky_low * 0.22 * shine, 0, 255
            )
            canvas.polygon(outline, tuple(colour.tolist()), IGNORE if not layer else None)


def truth(canvas: Canvas, timestamp_s: float) -> SyntheticFrame:
    """The canvas as a frame: class maps and boxes come from the owners of the pixels."""
    h, w = canvas.hw
    count = FIRST_OBJECT + len(canvas.seen)
    scene_of = np.arange(count, dtype=np.uint16)
    scene_of[FIRST_OBJECT:] = [seen.scene_class for seen in canvas.seen]
    scene = scene_of[canvas.owner].astype(np.uint8)
    drive_of = np.zeros(256, np.uint8)
    drive_of[SCENE["road"]], drive_of[SCENE["lane marking"]], drive_of[IGNORE] = 1, 2, IGNORE
    shown = cv2.calcHist([canvas.owner], [0], None, [count], [0, count]).ravel()[FIRST_OBJECT:]
    rows, regions = [], []
    for seen, pixels in zip(canvas.seen, shown.tolist(), strict=True):
        box, side = seen.box, min(seen.box[2] - seen.box[0], seen.box[3] - seen.box[1])
        visible = min(pixels / max(seen.painted_px, 1), 1.0)
        if not pixels or side <= 0:
            continue
        if visible < MIN_VISIBLE or pixels < MIN_AREA_PX or side < MIN_SIDE_PX:
            regions.append((min(box[0], w - 1), min(box[1], h - 1), max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
        else:
            rows.append((box, seen.box_class, seen.track_id, visible, seen.depth_m))
    return SyntheticFrame(
        image=canvas.image,
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        classes=np.array([row[1] for row in rows], np.int64),
        track_ids=np.array([row[2] for row in rows], np.int64),
        scene=scene,
        drive=cv2.LUT(scene, drive_of),
        timestamp_s=timestamp_s,
        visible=np.array([row[3] for row in rows], np.float32),
        depth_m=np.array([row[4] for row in rows], np.float32),
        ignore=np.array(regions, np.float32).reshape(-1, 4),
    )
