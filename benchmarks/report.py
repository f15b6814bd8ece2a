"""All results as one page with plots, and the README's table: nothing is typed by hand.

    python benchmarks/report.py [--results benchmarks/results] [--readme README.md]

Reads the newest result of each benchmark in the folder (benchmarks/machine.py says what is in one; files of another
form are passed over), and writes REPORT.md and PNG files beside them. The table goes between the two markers in the
README. Run it again after each measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import latency, peers, plots, scaling, tracking
from benchmarks.compare import read_result
from benchmarks.machine import markdown
from perception.cli import run
from perception.model import BUNDLED_MODEL

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Options of benchmarks/report.py."""

    results: Path = Path(__file__).parent / "results"
    """Folder of result files; the page is written there."""
    readme: Path | None = Path(__file__).parents[1] / "README.md"
    """Document with the two markers; None: the table is not put anywhere."""
    json: str | None = None
    """Write what was found as one line of JSON to this file; - is the last line of standard output."""


def newest(folder: Path) -> dict[str, tuple[Path, Result]]:
    """Benchmark -> its newest result and the file. Raises ValueError if there is none."""
    found: dict[str, tuple[Path, Result]] = {}
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of results not found: {folder}")
    for path in sorted(folder.glob("*.json")):
        try:
            result = read_result(path)
        except ValueError:
            print(f"passed over {path.name}: not in the common form")
            continue
        name = result["benchmark"]
        if name not in found or result["date"] > found[name][1]["date"]:
            found[name] = path, result
    if not found:
        raise ValueError(f"{folder}: expected at least one result; run a benchmark with --json {folder}/NAME.json")
    return found


def origin(path: Path, result: Result) -> str:
    """Where and when a result was measured, and what to mind."""
    machine, versions = result["machine"], result["versions"]
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    memory = f", {machine['memory_gb']} GB" if machine["memory_gb"] else ""
    virtual = ", a virtual machine" if machine["virtual"] else ""
    used = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "timm")
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores{memory}{gpus}{virtual}; {used}; revision {result['revision']}, "
        f"{result['date']}; [{path.name}]({path.name})."
    ]
    lines += [f"**Noisy machine:** {warning}." for warning in result["noise"].get("warnings", ())]
    return "  \n".join(lines)


def latency_page(result: Result, folder: Path) -> list[str]:
    """Stages of each candidate."""
    about = result["figures"]["candidates"]
    stages = {name: {stage: facts["ms"][stage]["p50"] for stage in latency.STAGES} for name, facts in about.items()}
    plots.stacked(folder / "latency.png", "One frame, stage by stage (median)", stages, "ms")
    peaks = result["figures"]["peaks"]
    return [
        "## One frame",
        "",
        "![Stages of a frame](latency.png)",
        latency.tables(about),
        "",
        f"At best this machine multiplies matrices at {peaks['gflops_a_second']} GFLOP/s and copies "
        f"{peaks['gb_a_second']} GB/s (read and written).",
    ]


def peers_page(result: Result, folder: Path) -> list[str]:
    """Bars of the loops, and the table."""
    about = result["figures"]["systems"]
    fps = {name: facts["fps"] for name, facts in about.items() if "fps" in facts}
    plots.bar_chart(folder / "peers.png", "From video file to answers", fps, "frames a second", list(peers.OURS))
    rows = {name: values["rounds"] for name, values in result["rows"].items()}
    notes = [f"- {name}: {facts['note']}" for name, facts in about.items() if facts.get("note") and "fps" in facts]
    return ["## Beside other systems", "", "![Frames a second](peers.png)", "", peers.table(about, rows), "", *notes]


def scaling_page(result: Result, folder: Path) -> list[str]:
    """Exponents."""
    curves = result["figures"]["curves"]
    plots.growth(folder / "scaling.png", "How cost grows", curves)
    lines = ["## How cost grows", "", "![Growth](scaling.png)", "", scaling.table(curves)]
    gains = result["figures"].get("gains")
    return [*lines, "", scaling.gains_table(gains)] if gains else lines


def tracking_page(result: Result, folder: Path) -> list[str]:
    """Every scenario and tracker, over all drives."""
    return ["## Who is followed", "", tracking.table(result["figures"]["scenarios"])]


def rows_page(title: str) -> Callable[[Result, Path], list[str]]:
    """A page for results that are all in their rows."""

    def page(result: Result, folder: Path) -> list[str]:
        lines = [
            [name, values["unit"], *(f"{of(values['rounds']):.4g}" for of in (median, min, max))]
            for name, values in result["rows"].items()
        ]
        return [f"## {title}", "", markdown(("row", "unit", "median round", "least", "most"), lines)]

    return page


PAGES: Mapping[str, Callable[[Result, Path], list[str]]] = {
    "peers": peers_page,
    "latency": latency_page,
    "live_fps": rows_page("The whole loop beside the model alone"),
    "scaling": scaling_page,
    "tracking": tracking_page,
    "tracking_cost": rows_page("What camera-motion compensation costs"),
    "geometry": rows_page("Distance and time to collision"),
    "compression": rows_page("Smaller networks: accuracy against latency"),
    "accuracy": rows_page("Accuracy beside other systems"),
    "runtimes": rows_page("Runtimes at equal arithmetic"),
    "soak": rows_page("An hour, minute by minute"),
    "train_throughput": rows_page("Training throughput"),
    "pretrain_throughput": rows_page("Pretraining throughput"),
}


def speed_and_accuracy(found: Mapping[str, tuple[Path, Result]], folder: Path) -> list[str]:
    """The Pareto plot of accuracy.py: AP50 of vehicles against the time of a frame, both of one run."""
    if "accuracy" not in found:
        return []
    rows = found["accuracy"][1]["rows"]
    dataset = found["accuracy"][1]["figures"]["datasets"][0]
    points = {
        name: (median(rows[f"{name}: frame"]["rounds"]), 100 * figures["vehicle"]["AP50"])
        for name, figures in dataset["systems"].items()
        if f"{name}: frame" in rows and "vehicle" in figures
    }
    if len(points) < 2:
        return []
    where = f"{dataset['dataset']} {dataset['split']}, {dataset['images']} images"
    plots.pareto(
        folder / "pareto.png", f"Vehicles of {where}", points, ("ms a frame", "AP50 in percent"), BUNDLED_MODEL.stem
    )
    return [
        "## Accuracy against speed",
        "",
        "![Pareto](pareto.png)",
        "",
        "The line joins those that none beats in both.",
    ]


def readme_table(found: Mapping[str, tuple[Path, Result]]) -> str:
    """The few figures that the README shows: each system's loop, and how many times faster ours is."""
    if "peers" not in found:
        return "Not measured yet: `python benchmarks/peers.py` does it."
    _, result = found["peers"]
    about, rows = result["figures"]["systems"], {name: values["rounds"] for name, values in result["rows"].items()}
    bases = [name for name in peers.OURS if f"{name}: loop" in rows]
    lines = [
        [
            name,
            facts["does"],
            f"{facts['fps']:.1f}",
            *(f"{times[0]:.2f}" if (times := peers.faster(rows, base, name)) else "-" for base in bases),
            f"{facts['cpu_ms_a_frame']:.0f}",
            f"{facts['peak_mb']:.0f}",
            facts["licence"],
        ]
        for name, facts in sorted(about.items(), key=lambda entry: -entry[1].get("fps", 0.0))
        if "fps" in facts
    ]
    ratios = (f"{name} is faster, times" for name in bases)
    header = ("system", "does", "frames a second", *ratios, "CPU ms a frame", "peak MB", "licence")
    machine = result["machine"]
    noisy = " The machine was noisy: compare the ratios." if result["noise"].get("warnings") else ""
    return (
        f"{markdown(header, lines)}\n\nFrom video file to answers, {machine['cpu']}, {result['settings']['threads']} "
        f"threads, {result['date'][:10]}.{noisy} Random weights where none can be had: "
        "[what that means, and all else](benchmarks/results/REPORT.md)."
    )


def fill(document: Path, text: str) -> None:
    """Put `text` between the markers. Raises ValueError if they are not there once each, in order."""
    whole = document.read_text()
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
        raise ValueError(f"{document}: expected the lines {BEGIN} and {END} once each, in this order")
    head, rest = whole.split(BEGIN)
    document.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def body(config: ReportConfig) -> dict[str, Any]:
    """Draw, write the page, fill the README."""
    found = newest(config.results)
    page = [
        "# Benchmarks: results",
        "",
        "Written by `python benchmarks/report.py` from the JSON files beside it. Each script says in its head what it "
        "times and what not; compare ratios rather than times, and two files with `benchmarks/compare.py`.",
    ]
    for name, make in PAGES.items():
        if name in found:
            path, result = found[name]
            page += ["", *make(result, config.results), "", origin(path, result)]
    page += ["", *speed_and_accuracy(found, config.results)]
    target = config.results / "REPORT.md"
    target.write_text("\n".join(page).rstrip() + "\n")
    if config.readme is not None:
        fill(config.readme, readme_table(found))
    print(f"{target}: {', '.join(name for name in PAGES if name in found)}")
    return {"page": str(target), "benchmarks": {name: path.name for name, (path, _) in found.items()}}


def main(argv: Sequence[str] | None = None) -> int:
    return run(ReportConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
