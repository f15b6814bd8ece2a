"""A soup is the mean of its runs, and a run itself; runs that do not belong together are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception import soup
from perception.network.network import Network, NetworkConfig
from perception.training import checkpoint
from perception.training.optim import Ema

HEADS = {"drive": ("background", "drivable", "lane marking")}


def write_run(folder: Path, seed: int, width: int = 16, step: int = 5, keep: int = 1) -> Path:
    torch.manual_seed(seed)
    network = Network(NetworkConfig(hw=(64, 96), width=width, box_classes=(), heads=HEADS))
    named = dict(network.named_parameters())
    optimizer = torch.optim.AdamW([{"params": list(named.values()), "names": list(named)}])
    checkpoint.save(folder, step, network, Ema(network, 0.9), optimizer, {"data": [f"set{seed}"]}, keep)
    return folder


def test_the_mean_of_two_runs_is_a_run(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{seed}", seed) for seed in (0, 1)]
    assert soup.main([*map(str, runs), "--out", str(tmp_path / "soup")]) == 0
    states = [checkpoint.load_network(run)[0].state_dict() for run in (*runs, tmp_path / "soup")]
    for name, value in states[2].items():
        expected = (states[0][name] + states[1][name]) / 2 if value.is_floating_point() else states[0][name]
        torch.testing.assert_close(value, expected)
    assert checkpoint.open_run(tmp_path / "soup").metadata.data == ("set0", "set1")


def test_checkpoints_of_one_run(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write_run(tmp_path / "run", step, step=step, keep=2)
    kept = sorted(tmp_path.glob("run/step_*"))
    assert [path.name for path in kept] == ["step_000010", "step_000015"]
    assert soup.main([*map(str, kept), "--out", str(tmp_path / "soup")]) == 0
    assert checkpoint.latest(tmp_path / "soup").name == "step_000015"


@pytest.mark.parametrize(
    ("runs", "words"), [(["a"], "at least two"), (["a", "b"], "another network"), (["a", "nowhere"], "nowhere")]
)
def test_mistakes(runs: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, width=24)
    assert soup.main([*(str(tmp_path / run) for run in runs), "--out", str(tmp_path / "soup")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "soup").exists()
    assert soup.main([str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 2
    assert "name a new folder" in capsys.readouterr().err
