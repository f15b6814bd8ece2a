"""Does self-supervised pretraining pay? One ViT, one collection of frames, equal steps; then probes and fine-tuning.

    python benchmarks/ssl_study.py --images DIR ... --data CAMVID:test IDD_LITE:val \\
        --teacher tf_efficientnet_lite0=CNN.pth --detail-weights CNN.pth --out RUNS
    python benchmarks/ssl_study.py --report                   the table and the plot again, from the stored results
    python benchmarks/ssl_study.py --out RUNS ... --arms mae   one arm again
    ... --encoders "distil, 3.3 x longer=perception/assets/vit-t-drive.safetensors"   an arm that was pretrained before
    ... --arms given --encoders given=FILE --vit vit_small_patch14_dinov2 --hw 224 224 --result OTHER.json   any ViT

Every arm starts from random weights and takes the same number of optimiser steps in pretraining; every fine-tuning run
takes the same number too. Whatever is in RUNS is not computed again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.machine import markdown
from benchmarks.study import cached, figures, trained
from perception.cli import run
from perception.jsonfile import write_json
from perception.training.checkpoint import revision

RESULT = Path(__file__).parent / "results" / "ssl_study.json"
LAYER_DECAY = 0.7  # of fine-tuning, for pretrained weights; random ones have nothing to keep in the early layers
# arm -> its pretraining, in order: (method, share of the steps)
ARMS: dict[str, tuple[tuple[str, float], ...]] = {
    "random": (),
    "mae": (("mae", 1.0),),
    "colour": (("colour", 1.0),),
    "distil": (("distil", 1.0),),
    "mae, then distil": (("mae", 0.5), ("distil", 0.5)),
    "distil, 3.3 x longer": (("distil", 1.0), ("distil", 7 / 3)),
    "given": (),  # somebody else's weights, by --encoders
}
NOTHING = {"steps": 0, "hours": 0.0, "images_per_second": 0.0}  # what random weights, and those of others, cost here


@dataclass(frozen=True, kw_only=True)
class SslStudyConfig:
    """Options of benchmarks/ssl_study.py."""

    report: bool = False
    """Only print the table of the stored results, and draw the plot."""
    images: tuple[str, ...] = ()
    """Folders of unlabelled frames and videos."""
    data: tuple[str, ...] = ()
    """Datasets in the common layout with the split that is reported on, DIR:SPLIT; the first one gets all shares."""
    teacher: str = ""
    """NAME=WEIGHTS of the distillation."""
    detail_weights: str = ""
    """Weights of the detail path; left out: no runs with it."""
    out: Path = Path("runs/ssl_study")
    """Folder of the runs."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Starts that are compared."""
    encoders: tuple[str, ...] = ()
    """ARM=FILE: the encoder of an arm that was pretrained before; what it cost stays as stored."""
    probe: bool = True
    """Probe the frozen features too."""
    plan: tuple[str, ...] = ("0:0.1:1:none", "0:1:1:none")
    """Fine-tuning runs, DATASET:SHARE:SEEDS:DETAIL each: number in --data, share of labels, seeds, none or detail."""
    hw: tuple[int, int] = (192, 256)
    """Input height and width."""
    vit: str = "vit_tiny_patch16_224"
    """timm's name of the Vision Transformer."""
    pretrain_steps: int = 600
    """Optimiser steps of pretraining, 32 views each."""
    steps: int = 300
    """Optimiser steps of fine-tuning, 8 images each."""
    lr: float = 1e-3
    """Peak learning rate of fine-tuning."""
    result: Path = RESULT
    """Where the results are kept; the plot is beside them."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def pretrained(config: SslStudyConfig, arm: str) -> tuple[Path | None, dict[str, Any] | None]:
    """The encoder of an arm (None: random weights) and what it cost (None: made before); made if missing."""
    if given := dict(entry.rsplit("=", 1) for entry in config.encoders).get(arm):
        return Path(given), None
    encoder: Path | None = None
    cost: dict[str, Any] = dict(NOTHING)
    for method, share in ARMS[arm]:
        steps = round(share * config.pretrain_steps)
        folder = config.out / (method if share == 1 else f"{slug(arm)}_{method}_{steps}")
        options = ["--method", method, "--images", *config.images, "--vit", config.vit, "--hw", *map(str, config.hw)]
        options += ["--loop.steps", str(steps), "--loop.save-every", "100", "--loop.picture-every", "300"]
        options += ["--distil.teachers", config.teacher, "--distil.cache", str(config.out / "teachers")]
        options += ["--init", str(encoder)] if encoder else []
        if not (folder / "encoder.safetensors").is_file():
            begun = any(folder.glob("step_*"))
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "log.txt").open("a") as log:
                command = [sys.executable, "-m", "perception.pretrain", "--out", str(folder)]
                command += ["--resume"] if begun else options
                if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                    raise ValueError(f"pretraining failed, see {folder / 'log.txt'}")
        encoder = folder / "encoder.safetensors"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rates = [line["images_per_second"] for line in lines]
        views = steps * json.loads((folder / "config.json").read_text())["loop"]["batch_size"]
        cost["steps"] += steps
        cost["hours"] = round(cost["hours"] + sum(views / len(rates) / rate for rate in rates) / 3600, 3)
        cost["images_per_second"] = round(sorted(rates)[len(rates) // 2], 1)
    return encoder, cost


def probed(config: SslStudyConfig, arm: str, encoder: Path | None, entry: str) -> dict[str, Any]:
    """{probe: mIoU in percent} of an arm on a dataset."""
    from perception import probe

    folder, _, split = entry.partition(":")
    options = probe.ProbeConfig(
        encoder=str(encoder) if encoder else "random", data=Path(folder), split=split, vit=config.vit, hw=config.hw
    )

    def measure() -> dict[str, Any]:
        return {name: round(100 * figures["mIoU"], 2) for name, figures in probe.body(options)["probes"].items()}

    return cached(config.out / f"probe_{slug(arm)}_{Path(folder).name}.json", measure)


def finetuned(
    config: SslStudyConfig, arm: str, encoder: Path | None, entry: str, share: float, seed: int, detail: bool
) -> dict[str, Any]:
    """One fine-tuning run in the dataset's own label space: {"mIoU", "cpu_hours"}. Its weights are not kept."""
    folder, _, split = entry.partition(":")
    name = f"{Path(folder).name}_{config.steps}_{slug(arm)}_{1000 * share:.0f}permille_{seed}"
    name += "_detail" if detail else "_none"
    path = config.out / "finetune" / name

    def measure() -> dict[str, Any]:
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        options = ["--data", folder, "--own-labels", "--heads", "scene", "--hw", *map(str, config.hw)]
        options += ["--vit", config.vit, "--share", str(share), "--loop.seed", str(seed), "--loop.lr", str(config.lr)]
        options += ["--loop.warmup", "20", "--loop.ema", "0.98", "--init", str(encoder or "random")]
        options += ["--loop.layer-decay", str(LAYER_DECAY if encoder else 1.0)]
        options += ["--detail-weights", config.detail_weights] if detail else ["--detail", "none"]
        trained(path, config.steps, options)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = figures(path, [Path(folder)], split, None, own_space=True)[Path(folder).name]
        path.with_name(f"{path.name}_{split}.json").unlink()
        shutil.rmtree(path)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        miou = next(value for figure, value in found.items() if figure.endswith("mIoU"))
        print(f"{name}: mIoU {miou:.1f} ({time.perf_counter() - begin:.0f} s)", flush=True)
        return {"mIoU": miou, "cpu_hours": round(seconds / 3600, 3)}

    about = {"arm": arm, "data": Path(folder).name, "split": split, "share": share, "seed": seed, "detail": detail}
    about["steps"] = config.steps
    return about | cached(path.with_name(f"{name}.json"), measure)


def slug(arm: str) -> str:
    """An arm's name in file names."""
    return re.sub(r"\W+", "_", arm)


def body(config: SslStudyConfig) -> dict[str, Any]:
    """Pretrain, probe, fine-tune, store and print."""
    if config.report:
        return report(json.loads(config.result.read_text()), config.result.with_suffix(".png"))
    if not config.images or not config.data or not config.teacher:
        raise ValueError("name --images, --data and --teacher, or --report for the stored results")
    if unknown := sorted(set(config.arms) - set(ARMS)):
        raise ValueError(f"--arms: unknown arm {unknown[0]!r}; expected any of {', '.join(ARMS)}")
    stored = json.loads(config.result.read_text()) if config.result.is_file() else {}
    about = {
        "study": "ssl",
        "vit": config.vit,
        "hw": list(config.hw),
        "lr": config.lr,
        "revision": revision(),
    }
    stored = {**stored, **about}
    encoders = {}
    for arm in config.arms:
        encoders[arm], cost = pretrained(config, arm)
        costs = stored.setdefault("pretraining", {})
        costs[arm] = cost or costs.get(arm, NOTHING)
        for entry in config.data if config.probe else ():
            found = probed(config, arm, encoders[arm], entry)
            stored.setdefault("probes", {}).setdefault(entry.replace(":", " ").split("/")[-1], {})[arm] = found
        write_json(config.result, stored)
    for wanted in config.plan:
        number, share, seeds, detail = wanted.split(":")
        for seed in range(int(seeds)):
            for arm in config.arms:
                entry = config.data[int(number)]
                row = finetuned(config, arm, encoders[arm], entry, float(share), seed, detail == "detail")
                rows = [r for r in stored.setdefault("runs", []) if key(r) != key(row)]
                stored["runs"] = [*rows, row]
                write_json(config.result, stored)
    return report(stored, config.result.with_suffix(".png"))


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a fine-tuning run the same one."""
    return tuple(row[name] for name in ("arm", "data", "split", "share", "seed", "detail", "steps"))


def report(stored: dict[str, Any], plot: Path) -> dict[str, Any]:
    """Print the tables, draw the plot, and return all of it."""
    from benchmarks.ssl_plot import draw, equal_labels

    print(f"{pretraining_table(stored)}\n\n{finetuning_table(stored)}")
    for line in equal_labels(stored):
        print(line)
    draw(stored, plot)
    return stored


def pretraining_table(stored: dict[str, Any]) -> str:
    """Markdown: a row an arm, its cost and its probes; an arm that was not probed on a dataset has no figure there."""
    probes = [(data, probe) for data, arms in stored.get("probes", {}).items() for probe in next(iter(arms.values()))]
    lines = []
    for arm, cost in stored["pretraining"].items():
        found = [stored["probes"][data].get(arm, {}).get(probe) for data, probe in probes]
        cells = [str(cost["steps"]), f"{cost['hours']:.2f}", f"{cost['images_per_second']:.0f}"]
        lines.append([arm, *cells, *("" if value is None else f"{value:.1f}" for value in found)])
    return markdown(("init", "steps", "hours", "images/s", *(f"{data}: {probe}" for data, probe in probes)), lines)


def finetuning_table(stored: dict[str, Any]) -> str:
    """Markdown: a row an arm; mIoU by dataset, detail path, steps and labels, mean and deviation over seeds."""
    groups: dict[tuple[str, bool, int, float], dict[str, list[float]]] = {}
    for row in stored.get("runs", []):
        group = groups.setdefault((f"{row['data']} {row['split']}", row["detail"], row["steps"], row["share"]), {})
        group.setdefault(row["arm"], []).append(row["mIoU"])
    order = sorted(groups)
    heads = [
        f"{data}, {steps} steps, {100 * share:g} %{', detail path' if detail else ''}"
        for data, detail, steps, share in order
    ]
    lines = []
    for arm in stored["pretraining"]:
        cells = []
        for group in order:
            values = groups[group].get(arm, [])
            spread = f" +- {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}" if values else "")
        lines.append([arm, *cells])
    return markdown(("init", *heads), lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(SslStudyConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
