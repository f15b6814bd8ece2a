"""Parity: what must be accepted and what must be refused, by hand-made outputs."""

from __future__ import annotations

import numpy as np
import pytest

from perception.parity import compare, match

BOX = [10.0, 10.0, 50.0, 40.0, 0.8, 2.0]


def outputs(boxes: list[list[float]] | None = None, scene: int = 0, stage: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array([[*(boxes or [BOX]), [0, 0, 5, 5, 0.01, 1]]], np.float32),
        "scene": np.full((1, 40, 50), scene, np.uint8),
        "stage_p4": np.full((1, 2, 3), stage, np.float32),
    }


def test_equal_outputs_agree_and_the_report_says_so() -> None:
    parity = compare([outputs()] * 2, [outputs()] * 2)
    parity.require()
    assert parity.maps["scene"] == 1.0 and parity.boxes == 2 and parity.boxes_iou == pytest.approx(1.0)
    assert "scene: 100.0000%" in str(parity)


def test_rounding_is_accepted() -> None:
    near = [[10.01, 10, 50, 40, 0.801, 2]]
    compare([outputs()], [outputs(near, stage=1.001)]).require()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (outputs(stage=1.01), "stage_p4 differs"),
        (outputs(stage=float("nan")), "stage_p4 differs"),
        (outputs(scene=1), "class map scene"),
        (outputs([[14, 10, 54, 40, 0.8, 2]]), "IoU 0.8"),
        (outputs([[10, 10, 50, 40, 0.8, 3]]), "IoU 0.0"),
        (outputs([[10, 10, 50, 40, 0.6, 2]]), "IoU 0.0"),
        (outputs([[0, 0, 1, 1, 0.0, 0]]), "IoU 0.0"),
        (outputs([BOX, [60, 10, 80, 30, 0.7, 2]]), "IoU 0.0"),  # one that is not in the truth
    ],
)
def test_differences_are_refused_by_name(other: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare([outputs()], [other]).require()


def test_one_wrong_pixel_in_a_hundred_is_refused() -> None:
    other = outputs()
    other["scene"][0, 0, :20] = 7
    with pytest.raises(ValueError, match=r"99\.0"):
        compare([outputs()], [other]).require()


def test_order_of_boxes_does_not_matter_and_faint_ones_may_differ() -> None:
    a = np.array([BOX, [60, 10, 80, 30, 0.79, 2], [0, 0, 9, 9, 0.04, 1]], np.float32)  # 0.04 is the last of the K best
    assert match(a, a[[1, 0, 2]]) == (pytest.approx(1.0), 2)
    assert match(a[:0], a[:0]) == (1.0, 0)
