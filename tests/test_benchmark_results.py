"""The common form of results: what is counted, compared, drawn and written is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks import compare, latency, report
from benchmarks.machine import Watch, cpu_seconds, peak_mb, reset_peak, result, row
from benchmarks.plots import front_of
from benchmarks.roofline import Work, Yardsticks
from benchmarks.scaling import BATCHED, SINGLE, exponent, fitted, gains, in_turns, of_objects
from benchmarks.scaling import main as scaling


def save_graph(path: Path, dtype: Any = np.float32) -> Path:
    """A 3x3 convolution of 2 groups, 4 -> 6 channels on 10x8, stride 1 without padding; then 48 -> 5 by a product."""
    weights = {"w": np.zeros((6, 2, 3, 3), dtype), "m": np.zeros((48, 5), dtype)}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], group=2),  # (1, 6, 8, 6)
        helper.make_node("Reshape", ["y", "shape"], ["z"]),  # (6, 48)
        helper.make_node("MatMul", ["z", "m"], ["out"]),
        helper.make_node("Relu", ["out"], ["final"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([6, 48]), "shape"))
    ends = [
        helper.make_tensor_value_info("x", kind, [1, 4, 10, 8]),
        helper.make_tensor_value_info("final", kind, [6, 5]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_work_is_counted_from_the_graph(tmp_path: Path) -> None:
    work = Work.of(save_graph(tmp_path / "a.onnx"))
    conv, product = 2 * (6 * 8 * 6) * (2 * 3 * 3), 2 * (6 * 5) * 48
    assert work.by_operator == {"Conv": conv, "MatMul": product} and work.flops == conv + product
    assert work.parameters == 6 * 2 * 9 + 48 * 5 and work.uncounted == 0
    numbers = (4 * 10 * 8 + 6 * 2 * 9 + 6 * 8 * 6) + (6 * 48 + 48 * 5 + 6 * 5)
    assert work.bytes == 4 * numbers
    assert Work.of(save_graph(tmp_path / "b.onnx", np.float16)).bytes == 2 * numbers
    (tmp_path / "c.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"c\.onnx"):
        Work.of(tmp_path / "c.onnx")


def test_the_roofline_is_the_lower_of_two_roofs() -> None:
    sticks = Yardsticks(1)
    sticks.product_ms, sticks.copy_ms = [20.0, 10.0], [40.0, 80.0]
    assert sticks.flops_a_second == pytest.approx(2 * 1024**3 / 0.01)
    assert sticks.bytes_a_second == pytest.approx(2 * 2**26 / 0.04)
    dense, thin = Work(1e9, 1e6, 0, {}, 0), Work(1e9, 1e9, 0, {}, 0)
    assert (
        sticks.fraction(dense, 10.0)["of_roof"]
        == sticks.fraction(dense, 10.0)["of_product"]
        == pytest.approx(0.4657, abs=1e-4)
    )
    assert sticks.fraction(thin, 1000.0)["of_roof"] == pytest.approx(1e9 / sticks.bytes_a_second, abs=1e-4)
    sticks.measure()
    assert sticks.product_ms[-1] > 0 and sticks.copy_ms[-1] > 0


def test_the_watch_sees_other_work_and_a_moving_yardstick(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from benchmarks import machine

    ticks = iter([(1000, 0, 500), (3000, 100, 2400)])
    monkeypatch.setattr(machine, "_stat", lambda: next(ticks))
    monkeypatch.setattr(machine, "cpu_seconds", lambda: 0.0)
    monkeypatch.setattr(machine, "_mhz", lambda: 2000.0)
    seen = Watch().result([10.0, 10.0, 12.0])
    assert seen["steal"] == 0.05 and seen["others"] == 0.95
    assert len(seen["warnings"]) == 3 and "20% slower" in seen["warnings"][2]
    assert capsys.readouterr().err.count("noisy machine") == 3


def test_own_work_is_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import machine

    ticks, own = iter([(1000, 0, 500), (3000, 0, 1500)]), iter([5.0, 9.0])
    monkeypatch.setattr(machine, "_stat", lambda: next(ticks))
    monkeypatch.setattr(machine, "cpu_seconds", lambda: next(own))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    watch = Watch()
    watch.child_s = 6.0
    seen = watch.result([10.0, 10.1])
    assert seen["others"] == 0.0 and seen["warnings"] == []


def test_memory_and_cpu_time_are_of_this_process() -> None:
    reset_peak()
    before = peak_mb()
    block = np.ones(50_000_000, np.uint8)
    assert peak_mb() - before > 40 and block[-1] == 1
    import os

    assert cpu_seconds(os.getpid()) <= cpu_seconds() + 0.1


def saved(path: Path, rounds: list[float], stick: list[float] | None = None, **changes: Any) -> Path:
    rows = {"loop": row("ms", rounds), "speed": row("fps", [1e3 / value for value in rounds], "higher")}
    rows |= {"stick": row("ms", stick)} if stick else {}
    found = result("toy", {"frames": 1}, rows, {"warnings": []}, "stick" if stick else None)
    path.write_text(json.dumps({**found, **changes}))
    return path


def test_compare_fails_beyond_the_band_only(tmp_path: Path, capsys: Any) -> None:
    a = saved(tmp_path / "a.json", [100.0, 101, 99])
    for factor, code in ((1.04, 0), (1.06, 1), (0.5, 0)):
        b = saved(tmp_path / "b.json", [factor * value for value in (100.0, 101, 99)])
        assert compare.main([str(a), str(b), "--band", "5%", "--json", str(tmp_path / "out.json")]) == code
        rows = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert rows["loop"]["ratio"] == rows["speed"]["ratio"] == pytest.approx(factor, abs=1e-3)
        assert rows["loop"]["low"] <= rows["loop"]["ratio"] <= rows["loop"]["high"]
    assert "| WORSE |" in capsys.readouterr().out


def test_the_yardstick_takes_the_machine_out(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.json", [100.0, 100, 100], [10.0, 10, 10])
    b = saved(tmp_path / "b.json", [200.0, 300, 100], [20.0, 30, 10], machine={"cpu": "another"})
    assert compare.main([str(a), str(b)]) == 0
    assert compare.main([str(a), str(b), "--absolute"]) == 2  # two machines: times alone say nothing
    slower = saved(tmp_path / "c.json", [110.0, 110, 110], [10.0, 10, 10])
    assert compare.main([str(a), str(slower)]) == 1


@pytest.mark.parametrize("band", ["5", "x%", "-1%", "100%"])
def test_compare_explains_mistakes(band: str, tmp_path: Path, capsys: Any) -> None:
    a = saved(tmp_path / "a.json", [1.0])
    assert compare.main([str(a), str(a), f"--band={band}"]) == 2
    old = tmp_path / "old.json"
    old.write_text('{"study": 1}')
    assert compare.main([str(a), str(old)]) == 2 and compare.main([str(a), str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_latency_to_page(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    argv = [str(tiny_model), "--runs", "4", "--rounds", "2", "--warmup", "1", "--queries", "10", "--frames", "2"]
    assert latency.main([*argv, "--threads", "1", "2", "--json", str(folder / "latency.json")]) == 0
    found = json.loads((folder / "latency.json").read_text())
    assert set(found["figures"]["candidates"]) == {"tiny, cpu, 1 threads", "tiny, cpu, 2 threads"}
    facts = found["figures"]["candidates"]["tiny, cpu, 1 threads"]
    assert facts["ms"]["inference"]["n"] == 4 and set(facts["scenarios"]) == {"single", "multi", "offline", "server"}
    assert facts["peak_mb"] > facts["before_mb"] > 10
    assert {len(values["rounds"]) for values in found["rows"].values()} == {2}
    (folder / "old.json").write_text("{}")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.main(["--results", str(folder), "--readme", str(readme)]) == 0
    page = (folder / "REPORT.md").read_text()
    assert f"| inference | {facts['ms']['inference']['p50']:.2f} |" in page and found["revision"] in page
    assert (folder / "latency.png").stat().st_size > 1000 and "passed over old.json" in capsys.readouterr().out
    assert readme.read_text().startswith("before\n") and "Not measured yet" in readme.read_text()
    readme.write_text("no markers")
    assert report.main(["--results", str(folder), "--readme", str(readme)]) == 2


def test_the_front_is_what_none_beats() -> None:
    points = {"a": (1.0, 10.0), "b": (2.0, 9.0), "c": (3.0, 20.0), "d": (3.0, 30.0)}
    assert front_of(points) == ["a", "d"]


def test_exponents_are_found() -> None:
    sizes = [10, 20, 40]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    curve = fitted({size: [2.0 * size, 5.0 * size**2, 1.0] for size in sizes})
    assert curve["exponent"] == 1.0 and curve["range"] == [0.0, 2.0] and curve["costs"] == [20.0, 40.0, 80.0]


def test_scaling_runs_on_objects(tmp_path: Path, tiny_model: Path) -> None:
    argv = [
        "--parts",
        "objects",
        "length",
        "--objects",
        "2",
        "12",
        "--lengths",
        "3",
        "6",
        "--frames",
        "2",
        "--rounds",
        "2",
    ]
    out = tmp_path / "scaling.json"
    assert scaling([*argv, "--model", str(tiny_model), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found["figures"]["curves"]) == {"tracker", "overlay", "peak memory of perception.live"}
    assert found["rows"]["overlay, 12 objects"]["rounds"][0] > 0


def test_one_call_a_camera_and_one_for_all_take_turns_and_are_paired() -> None:
    order: list[tuple[str, int]] = []

    def cost(name: str, size: int) -> Callable[[], float]:
        def measure() -> float:
            order.append((name, size))
            return {SINGLE: 10.0, BATCHED: 8.0}[name] * size * len(order)

        return measure

    work = {name: {size: cost(name, size) for size in (1, 3)} for name in (SINGLE, BATCHED)}
    found = in_turns(work, 2, Watch())
    assert order == [(SINGLE, 1), (BATCHED, 1), (SINGLE, 3), (BATCHED, 3), (BATCHED, 1), (SINGLE, 1), (BATCHED, 3),
                     (SINGLE, 3)]  # fmt: skip
    assert gains(found) == {"1": [0.625, 1.5], "3": [0.9375, 1.4286]}


def test_scenes_have_as_many_tracks_as_they_say() -> None:
    from benchmarks.scaling import ScalingConfig

    costs = of_objects(ScalingConfig(objects=(1, 64), frames=2))
    assert costs["tracker"].costs[64]() > 0  # it raises where objects are not all followed


def test_the_page_joins_speed_and_accuracy(tmp_path: Path) -> None:
    facts = {"does": "boxes", "weights": "trained", "input": "x", "licence": "MIT", "note": "", "cpu_ms_a_frame": 9.0}
    facts |= {"peak_mb": 100.0, "boxes_a_frame": 2.0}
    systems = {
        "ours": {**facts, "fps": 20.0},
        "YOLOX-nano": {**facts, "fps": 8.0},
        "RF-DETR Nano": {**facts, "failed": "no network"},
    }
    rows = {f"{name}: {part}": row("ms", [50.0, 60]) for name in systems for part in ("model", "frames", "loop")}
    rows["YOLOX-nano: loop"] = row("ms", [100.0, 180])
    share = {"vehicle": {"AP50": 0.5}}
    datasets = [{"dataset": "toy", "split": "val", "images": 3, "systems": {"drive-t": share, "yolox_nano": share}}]
    curves = {"tracker": {"of": "objects", "unit": "ms", "exponent": 0.5, "range": [0.4, 0.6]}}
    curves["tracker"] |= {"sizes": [4, 64], "costs": [0.1, 0.4]}
    quiet = {"warnings": []}
    for found in (
        result("peers", {"threads": 2}, rows, {"warnings": ["steal"]}, systems=systems, targets={}),
        result(
            "accuracy",
            {},
            {f"{name}: frame": row("ms", [9.0]) for name in ("drive-t", "yolox_nano")},
            quiet,
            datasets=datasets,
        ),
        result("scaling", {}, {"tracker, 4 objects": row("ms", [0.1])}, quiet, curves=curves, gains={"3": [1.25]}),
    ):
        (tmp_path / f"{found['benchmark']}.json").write_text(json.dumps(found))
    older = result("peers", {"threads": 2}, rows, quiet, systems={}, targets={})
    (tmp_path / "z_older.json").write_text(json.dumps({**older, "date": "2001-01-01T00:00:00Z"}))
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    assert report.main(["--results", str(tmp_path), "--readme", str(readme)]) == 0
    table = readme.read_text()
    assert table.index("| ours |") < table.index("| YOLOX-nano |") and "RF-DETR" not in table
    assert "| YOLOX-nano | boxes | 8.0 | 2.50 | 9 | 100 | MIT |" in table and "noisy" in table
    page = (tmp_path / "REPORT.md").read_text()
    assert "| 3 | 1.250 (1.250 to 1.250) |" in page, "one call for three cameras"
    assert "RF-DETR Nano: not measured: no network" in page and "**Noisy machine:** steal." in page
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"peers.png", "pareto.png", "scaling.png"} and all(f"({name})" in page for name in pictures)
