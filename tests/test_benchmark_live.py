"""benchmarks/live_fps.py measures what it says, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.live_fps import main


def test_every_part_is_paired_with_the_model(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((60, 80, 3), 40 * i, np.uint8))
    argv = [
        str(tmp_path),
        "--model",
        str(tiny_model),
        "--provider",
        "cpu",
        "--rounds",
        "2",
        "--frames",
        "4",
        "--cameras",
        "2",
    ]
    assert main([*argv, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures, ms = found["figures"], {name: values["rounds"] for name, values in found["rows"].items()}
    assert set(ms) == {"model", "records", "video", "one thread", "2 cameras"}
    for name, ratios in figures["ratio_to_model"].items():
        pairs = zip(ms[name], ms["model"], strict=True)
        assert ratios == pytest.approx([a / b for a, b in pairs], rel=0.05) and len(ratios) == 2
    assert figures["stages_ms"]["video"]["p50"] > 0 and figures["frame_age_ms"]["max"] > 0
