"""The training benchmark: it runs, its figures agree with each other, and mistakes are one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.train_throughput import PARTS, main
from perception.labels import BoxLabels, DatasetLabels
from perception.layout import LayoutWriter


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    labels = DatasetLabels("toy", "ours", boxes=BoxLabels({"car": frozenset({"car"})}, frozenset({"car"})))
    with LayoutWriter(folder, labels) as writer:
        writer.add("train", "a", np.full((48, 80, 3), 90, np.uint8), boxes=[[8, 8, 40, 40]], categories=["car"])
    return folder


def test_figures_and_table(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--hw", "64", "96", "--batch-size", "2", "--rounds", "2", "--steps", "1", "--workers", "0"]
    path = tmp_path / "out.json"
    assert main(["--data", str(toy), *small, "--threads", "1", "--precision", "fp32", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    rates = {part: values["rounds"] for part, values in figures["rows"].items()}
    assert set(rates) == set(PARTS) and all(len(values) == 2 for values in rates.values())
    ratio = figures["figures"]["training_over_step"]
    pairs = [training / step for step, training in zip(rates["step"], rates["training"], strict=True)]
    assert [ratio["min"], ratio["max"]] == pytest.approx(sorted(pairs), rel=1e-4)
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert figures["settings"]["data"] == ["toy"] and figures["settings"]["processes"] == 1
    table = capsys.readouterr().out
    assert f"| training / step | {ratio['median']:.3f} |" in table and "64x96" in table


def test_numbers_of_processes_take_turns(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun is played by this process, with the options that it would hand over: its start takes many seconds."""
    asked: list[tuple[int, int]] = []
    really = subprocess.run

    def torchrun(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if "--nproc-per-node" not in command:
            return really(command, **how)
        asked.append(
            (int(command[command.index("--nproc-per-node") + 1]), int(command[command.index("--threads") + 1]))
        )
        script = next(i for i, part in enumerate(command) if part.endswith("train_throughput.py"))
        return subprocess.CompletedProcess(command, main(command[script + 1 :]), "", "")

    monkeypatch.setattr("benchmarks.train_throughput.Yardsticks", Stick)
    monkeypatch.setattr("benchmarks.train_throughput.subprocess.run", torchrun)
    small = ["--hw", "64", "96", "--batch-size", "2", "--rounds", "2", "--steps", "1", "--workers", "0"]
    path = tmp_path / "out.json"
    more = ["--processes", "1", "2", "--threads", "2", "--precision", "fp32", "--json", str(path)]
    assert main(["--data", str(toy), *small, *more]) == 0
    assert asked == [(1, 2), (2, 1), (2, 1), (1, 2)]  # nobody is always first; the threads are shared out
    found = json.loads(path.read_text())
    names = {f"{count}: {part}" for count in ("1 process", "2 processes") for part in PARTS}
    assert set(found["rows"]) == names | {"matrix product"} and found["yardstick"] == "matrix product"
    assert {len(values["rounds"]) for values in found["rows"].values()} == {2}
    one, two = (found["rows"][f"{name}: step"]["rounds"] for name in ("1 process", "2 processes"))
    ratio = np.median([b / a for a, b in zip(one, two, strict=True)])
    assert found["figures"]["of_first"]["2 processes: step"] == pytest.approx(ratio, rel=1e-3)
    assert "| 2 processes: training |" in capsys.readouterr().out


class Stick:
    """A yardstick that takes no time."""

    def __init__(self, threads: int) -> None:
        self.product_ms: list[float] = []

    def measure(self) -> None:
        self.product_ms.append(1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--data"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "x", "--rounds", "0"], "1 or"),
        (["--data", "x", "--processes", "1", "3"], "multiple of 3"),
        (["--data", "x", "--processes", "2", "2"], "different"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as leaving:  # tyro refuses an option
        code = int(leaving.code or 0)
    assert code == 2 and words in capsys.readouterr().err
