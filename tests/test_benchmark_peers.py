"""Side by side: a system is a process that is asked for parts; one that fails is named and the others go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import peer_environment, peer_worker, peers
from benchmarks.peer_list import ENVIRONMENTS, SYSTEMS
from perception.video import VideoWriter


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red thing that moves over grey; 6 frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 25, (96, 144)) as video:
        for i in range(6):
            image = np.full((96, 144, 3), 90, np.uint8)
            image[30:60, 20 + 4 * i : 60 + 4 * i] = (0, 0, 255)
            video.write(image, i / 25)
    return path


def test_ours_runs_and_what_fails_is_named(
    tiny_model: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_registry(work: Path, name: str) -> Path:
        raise ValueError(f"{name}: its packages can't be installed: no network")

    monkeypatch.setattr(peers, "environment", no_registry)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    systems = ["--systems", "ours", "YOLO26n", "YOLOX-nano", "NanoDet-m 416"]
    argv = [*systems, "--source", str(clip), "--model", str(tiny_model), "--yolox", str(tmp_path / "broken.onnx")]
    out = tmp_path / "out.json"
    assert peers.main([*argv, "--work", str(tmp_path), "--frames", "3", "--rounds", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    about = found["figures"]["systems"]
    assert "no network" in about["YOLO26n"]["failed"] and "--nanodet" in about["NanoDet-m 416"]["failed"]
    assert "fps" not in about["YOLOX-nano"] and about["YOLOX-nano"]["failed"]
    assert about["ours"]["boxes_a_frame"] == 1
    assert about["ours"]["cpu_ms_a_frame"] >= 0 and about["ours"]["peak_mb"] > 30
    ms = found["rows"]["ours: loop"]["rounds"]
    assert len(ms) == 2 and about["ours"]["fps"] == pytest.approx(1e3 / np.median(ms), abs=0.006)
    shown = capsys.readouterr().out
    assert "- YOLO26n: not measured: ultralytics: its packages" in shown and "| ours | boxes, scene" in shown


class Counted(peer_worker.System):
    """Two boxes a frame; remembers what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def model(self) -> None:
        self.seen.append("model")

    def frame(self, image: np.ndarray) -> int:
        self.seen.append(f"frame {image[0, 0, 0]}")
        return 2


def test_parts_of_a_worker(clip: Path) -> None:
    system, frames = Counted(), np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    answers = [
        peer_worker.work(system, frames, {"video": str(clip)}, {"do": part, "count": 3})
        for part in ("model", "frames", "loop")
    ]
    assert [answer["found"] for answer in answers] == [0, 2, 2] and min(a["seconds"] for a in answers) > 0
    assert system.seen[:6] == ["model"] * 3 + ["frame 0", "frame 1", "frame 0"] and len(system.seen) == 9
    with pytest.raises(ValueError, match="fewer"):
        system.loop(str(clip), 7)


def test_ratios_are_paired_by_round_and_aims_are_told() -> None:
    def answers(*seconds: float) -> list[dict[str, float]]:
        return [{"seconds": s, "cpu_seconds": 2 * s, "found": 1} for s in seconds]

    found = {
        "ours": {p: answers(1.0, 4.0) for p in peers.PARTS},
        "YOLO26n": {p: answers(2.0, 2.0) for p in peers.PARTS},
    }
    about: dict[str, dict[str, Any]] = {
        name: {"does": "boxes", "weights": "random", "input": "", "licence": ""} for name in found
    }
    here: Any = {name: SimpleNamespace(pid=os.getpid()) for name in found}
    rows = peers.figures(found, about, here, 10)
    assert rows["YOLO26n: loop"] == [200, 200] and about["YOLO26n"]["cpu_ms_a_frame"] == 400
    assert peers.faster(rows, "ours", "YOLO26n") == (1.25, 0.5, 2.0) and not peers.faster(rows, "ours", "another")
    assert peers.targets(rows) == [{"ours": "ours", "than": "YOLO26n", "aim": 1.0, "is": 1.25}]
    assert "1.25 times (reached)" in peers.table(about, rows)


def test_an_environment_is_made_once_and_sees_the_shared_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def fake(folder: Path, command: list[Any]) -> None:
        calls.append([str(part) for part in command])
        (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(peer_environment, "_run", fake)
    python = peer_environment.environment(tmp_path, "rfdetr")
    assert python == tmp_path / "rfdetr" / "bin" / "python" and len(calls) == 4
    link = tmp_path / "rfdetr" / "lib" / "python3.11" / "site-packages" / "shared.pth"
    assert link.read_text().strip() == str(tmp_path / "shared" / "lib" / "python3.11" / "site-packages")
    peer_environment.environment(tmp_path, "rfdetr")
    assert len(calls) == 4  # nothing again
    assert peer_environment.environment(tmp_path, "torch") == tmp_path / "shared" / "bin" / "python"


def test_every_system_says_what_it_is() -> None:
    for name, peer in SYSTEMS.items():
        assert peer.kind in peer_worker.KINDS and peer.does and peer.licence, name
        assert not peer.environment or peer.environment in ENVIRONMENTS
        assert not peer.option or hasattr(peers.PeersConfig(), peer.option)
    assert set(peers.TARGETS) <= set(SYSTEMS)


@pytest.mark.parametrize("argv", [["--systems", "YOLO27"], ["--frames", "0"], ["--source", "missing.mp4"]])
def test_mistakes_are_one_line(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = peers.main([*argv, "--work", str(tmp_path)])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    assert code == 2 and capsys.readouterr().err
