"""perception.colours: stable, apart from each other, and what the plain loop gives."""

from __future__ import annotations

import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from perception.colours import BOX_COLOURS, MAP_COLOURS, colour_map, colour_of, legend
from perception.labels import BOX_CLASSES, DRIVE_CLASSES, SCENE_CLASSES


def test_unknown_classes_have_stable_colours() -> None:
    script = "from perception.colours import colour_of; print(colour_of('tuk-tuk'))"
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert again.strip() == str(colour_of("tuk-tuk"))
    assert len({colour_of(f"class {i}") for i in range(20)}) > 10
    assert zlib.crc32(b"tuk-tuk") % 180 == pytest.approx(_hue(colour_of("tuk-tuk")), abs=2)


def _hue(colour: tuple[int, int, int]) -> int:
    return int(cv2.cvtColor(np.array([[colour]], np.uint8), cv2.COLOR_BGR2HSV)[0, 0, 0])


def test_every_class_of_ours_has_a_colour_apart_from_the_others() -> None:
    for names, palette in ((BOX_CLASSES, BOX_COLOURS), (SCENE_CLASSES, MAP_COLOURS), (DRIVE_CLASSES, MAP_COLOURS)):
        assert set(names) <= set(palette)
        assert len({palette[name] for name in names}) == len(names)
    assert MAP_COLOURS["car"] == (142, 0, 0)  # Cityscapes: RGB (0, 0, 142)


def test_colour_map_against_the_plain_loop() -> None:
    class_map = np.random.default_rng(2).integers(0, 256, (31, 17), np.uint8)
    names = (*SCENE_CLASSES, "tuk-tuk")
    coloured = colour_map(class_map, names)
    for y, x in np.ndindex(class_map.shape):
        i = class_map[y, x]
        assert tuple(coloured[y, x]) == (colour_of(names[i]) if i < len(names) else (0, 0, 0))


def test_class_maps_of_another_type_are_refused() -> None:
    for wrong in (np.zeros((4, 4), np.int64), np.zeros((4, 4, 1), np.uint8)):
        with pytest.raises(ValueError, match="expected a class map"):
            colour_map(wrong, DRIVE_CLASSES)


def test_legend_has_a_row_for_each_class() -> None:
    image = legend(SCENE_CLASSES, row_px=20)
    assert image.shape[0] == 20 * len(SCENE_CLASSES)
    for i, name in enumerate(SCENE_CLASSES):
        assert tuple(image[20 * i + 10, 10]) == MAP_COLOURS[name]
    assert legend(()).size > 0
