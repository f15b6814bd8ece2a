"""Runtimes side by side: each a process of its own, what can not run is named, the aim judged at equal arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import runtimes


def test_every_runtime_is_measured_or_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model is no network of ours, so torch can not have it."""
    out = tmp_path / "out.json"
    argv = [str(tiny_model), "--rounds", "2", "--frames", "2", "--threads", "1", "--json", str(out)]
    assert runtimes.main(argv) == 0
    found = json.loads(out.read_text())
    facts = found["figures"]["runtimes"]
    assert {"ONNX Runtime fp32", "OpenVINO fp32"} <= set(found["rows"]) and "torch fp32" not in found["rows"]
    assert {len(row["rounds"]) for row in found["rows"].values()} == {2}
    assert facts["torch fp32"]["failed"] and facts["OpenVINO fp32"]["is"].endswith("computing in f32")
    assert facts["ONNX Runtime fp32"]["peak_mb"] > 20
    if "OpenVINO bf16" in found["rows"]:
        assert facts["OpenVINO bf16"]["is"].endswith("computing in bf16")
    else:
        assert "not in bf16" in facts["OpenVINO bf16"]["failed"]
    assert found["figures"]["judged"]["beside"] == "OpenVINO fp32"
    shown = capsys.readouterr().out
    assert "- torch fp32: not measured: " in shown and "the aim is at most 1.1" in shown


def test_the_aim_is_judged_beside_the_best_of_equal_arithmetic() -> None:
    rows = {"ONNX Runtime fp32": [10.0, 22.0, 10.0], "torch fp32": [20.0, 40.0, 20.0], "OpenVINO bf16": [1.0] * 3}
    assert runtimes.judged(rows | {"OpenVINO fp32": [8.0, 16.0, 8.0]}) == {
        "beside": "OpenVINO fp32",
        "times_as_long": 1.25,
        "aim": 1.1,
        "met": False,
    }
    assert runtimes.judged(rows)["met"] and runtimes.judged({"ONNX Runtime fp32": [1.0]}) is None  # type: ignore[index]


@pytest.mark.parametrize("option", ["--rounds", "--frames"])
def test_nothing_can_not_be_measured(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runtimes.main([option, "0"])
    assert "must be 1 or more" in capsys.readouterr().err
