"""Contact sheets: labelled samples of a split side by side, and pairs of images that are alike.

All pictures are (H, W, 3) uint8 BGR. Legend: N = boxes of an image, H, W = its height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from perception.colours import BOX_COLOURS, Colour, colour_of, rgb
from perception.imagefile import decode_ids, decode_image
from perception.labels import BoxLabels, DatasetLabels, MaskLabels
from perception.layout import Sample
from perception.overlay import OverlayStyle, draw_boxes

__all__ = ["blend", "box_colours", "caption", "grid", "label_colours", "legend_strip", "pair", "sheet", "spread"]

TILE_WIDTH = 760  # pixels
COLUMNS = 3
GAP, STRIP = 8, 30
PAPER, INK, GREY = rgb(0xFFFFFF), rgb(0x1B2026), rgb(0x8A939C)
FONT = cv2.FONT_HERSHEY_SIMPLEX
OPACITY = 0.55  # of class maps


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples, evenly over the split and always the same."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]


def box_colours(labels: BoxLabels) -> dict[str, Colour]:
    """The dataset's category -> the colour of the first of our classes that it may be."""
    return {
        name: colour_of(next((ours for ours in labels.classes if ours in labels.sets.get(name, ())), name), BOX_COLOURS)
        for name in labels.categories
    }


def label_colours(spec: MaskLabels) -> dict[int, Colour]:
    """Label id -> the colour of the first of our classes that it may be; a colour of its own where that is taken."""
    colours: dict[int, Colour] = {}
    for label, members in spec.sets.items():
        if members:
            colour = colour_of(next(ours for ours in spec.classes if ours in members))
            colours[label] = colour_of(spec.names[label], {}) if colour in colours.values() else colour
    return colours


def sheet(labels: DatasetLabels, layer: str, samples: Sequence[Sample]) -> np.ndarray:
    """The samples with their boxes (`layer` "boxes") or the class map of a head, and a legend below."""
    tiles = [tile for sample in samples if (tile := _tile(labels, layer, sample)) is not None]
    if layer == "boxes":
        assert labels.boxes
        colours = box_colours(labels.boxes)
        used = {category for sample in samples for category in sample.categories}
        entries = {name: colour for name, colour in colours.items() if name in used}
        if any(len(sample.ignore) for sample in samples):
            entries["ignore region"] = GREY
    else:
        spec = labels.masks[layer]
        entries = {spec.names[label]: colour for label, colour in label_colours(spec).items()}
    picture = grid(tiles)
    return np.concatenate([picture, legend_strip(entries, picture.shape[1])])


def _tile(labels: DatasetLabels, layer: str, sample: Sample) -> np.ndarray | None:
    image = decode_image(sample.image.read_bytes())
    if image is None:
        return None
    scale = TILE_WIDTH / image.shape[1]
    picture = _resized(image, TILE_WIDTH)
    if layer == "boxes" and sample.boxes is not None and labels.boxes:
        colours = box_colours(labels.boxes)
        texts = [*sample.categories, *["" for _ in sample.ignore]]
        tints = [*(colours[name] for name in sample.categories), *[GREY for _ in sample.ignore]]
        boxes = np.concatenate([sample.boxes, sample.ignore]) * scale
        draw_boxes(picture, boxes, texts, tints, OverlayStyle())
    elif layer in sample.masks:
        ids = decode_ids(sample.masks[layer].read_bytes())
        if ids is None or ids.ndim != 2 or ids.dtype != np.uint8 or ids.shape != image.shape[:2]:
            return None
        picture = blend(picture, ids, label_colours(labels.masks[layer]))
    return caption(picture, sample.image.name)


def blend(image: np.ndarray, ids: np.ndarray, colours: dict[int, Colour], opacity: float = OPACITY) -> np.ndarray:
    """An image with a class map of any size, (h, w) uint8, over it; ids without a colour leave it as it is."""
    H, W = image.shape[:2]
    ids = cv2.resize(ids, (W, H), interpolation=cv2.INTER_NEAREST_EXACT)
    table, alpha = np.zeros((256, 1, 3), np.uint8), np.zeros(256, np.float32)
    for label, colour in colours.items():
        table[label, 0], alpha[label] = colour, opacity
    ink = np.asarray(cv2.applyColorMap(ids, table), np.float32)
    weight = alpha[ids][..., None]  # (H, W, 1)
    return np.asarray(image * (1 - weight) + ink * weight, np.uint8)


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of text under it, cut at the width."""
    strip = np.full((STRIP, image.shape[1], 3), PAPER, np.uint8)
    text = text.encode("ascii", "replace").decode()
    while len(text) > 4 and cv2.getTextSize(text, FONT, 0.55, 1)[0][0] > image.shape[1] - 8:
        text = text[:-4] + "..."
    cv2.putText(strip, text, (4, 20), FONT, 0.55, INK, 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def grid(tiles: Sequence[np.ndarray], columns: int = COLUMNS) -> np.ndarray:
    """Tiles of one width and any height in rows, aligned at their tops."""
    if not tiles:
        return np.full((STRIP, TILE_WIDTH, 3), PAPER, np.uint8)
    columns = min(columns, len(tiles))
    width = tiles[0].shape[1]
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        strip = np.full((max(tile.shape[0] for tile in row) + GAP, columns * (width + GAP) - GAP, 3), PAPER, np.uint8)
        for index, tile in enumerate(row):
            x = index * (width + GAP)
            strip[: tile.shape[0], x : x + width] = tile
        rows.append(strip)
    return np.concatenate(rows)


def legend_strip(entries: dict[str, Colour], width: int) -> np.ndarray:
    """Patches with their names in as many lines as they need, (h, width, 3)."""
    lines: list[list[tuple[str, Colour, int]]] = [[]]
    x = GAP
    for name, colour in entries.items():
        text = name.encode("ascii", "replace").decode()
        wide = 46 + cv2.getTextSize(text, FONT, 0.6, 1)[0][0] + 24
        if x + wide > width and lines[-1]:
            lines.append([])
            x = GAP
        lines[-1].append((text, colour, x))
        x += wide
    strip = np.full((36 * len(lines), width, 3), PAPER, np.uint8)
    for row, line in enumerate(lines):
        for text, colour, x in line:
            y = 36 * row
            cv2.rectangle(strip, (x, y + 8), (x + 34, y + 27), colour, -1)
            cv2.rectangle(strip, (x, y + 8), (x + 34, y + 27), GREY, 1)
            cv2.putText(strip, text, (x + 44, y + 24), FONT, 0.6, INK, 1, cv2.LINE_AA)
    return strip


def pair(first: Path, second: Path, titles: tuple[str, str]) -> np.ndarray:
    """Two images side by side with their names."""
    tiles = []
    for path, title in zip((first, second), titles, strict=True):
        image = decode_image(path.read_bytes())
        assert image is not None
        tiles.append(caption(_resized(image, TILE_WIDTH), title))
    return grid(tiles, 2)


def _resized(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))
