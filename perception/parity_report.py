"""Do all forms of a model answer alike, how well, how fast? One page of Markdown and one file of JSON.

    python -m perception.parity_report FP32.onnx FP16.onnx INT8.onnx --data DATASETS/camvid --out DIR

The first file is what the others are compared with; with --run, torch is. Every form sees the same images. Times are
taken in turn, one call of each form after another, and compared call by call: what else the machine does hurts all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import tyro

from perception.cli import run as run_cli
from perception.engine import Engine
from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.percent import percent
from perception.execution.providers import LABELS, Provider
from perception.layout import read_layout
from perception.model import EngineLike, Model
from perception.parity import compare
from perception.precision.search import agreement, responses
from perception.tensors import tensor_from_frame

__all__ = ["ParityReportConfig", "main"]


OTHERS: tuple[Provider, ...] = ("openvino", "cuda", "tensorrt")  # what else may run the first file
WARM_UP = 3  # calls of each form that do not count


@dataclass(frozen=True, kw_only=True)
class ParityReportConfig:
    """Options of `python -m perception.parity_report`."""

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """ONNX files of perception.export, fp32 first."""
    data: tuple[Path, ...]
    """Datasets in the common layout, on which all are evaluated."""
    out: Path
    """Folder for parity.md and parity.json."""
    run: Path | None = None
    """Run directory that the files were exported from, or an fp32 one of them: torch answers too, with its weights, and
    the others are compared with that."""
    split: str = "val"
    """Which images: train, val or test."""
    limit: int | None = 100
    """Evaluate on so many images of each dataset; None is all."""
    images: int = 16
    """So many images, spread over the datasets, are answered by all forms and compared."""
    rounds: int = 50
    """Timed calls of each form."""
    threads: int = 0
    """CPU threads; 0 = one for each core."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


@dataclass
class Form:
    """One way to compute the model, and what was found about it."""

    name: str
    engine: EngineLike | None  # None: not present here
    answers: Callable[[Sequence[np.ndarray]], list[dict[str, np.ndarray]]] | None = (
        None  # with stages, where it has them
    )
    path: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def stages_of(path: Path) -> Callable[[Sequence[np.ndarray]], list[dict[str, np.ndarray]]]:
    """The answers of a file together with the stages that are still in its graph."""

    def answers(images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        model = onnx.load(path, load_external_data=False)
        for name in [name for node in model.graph.node for name in node.output if name.startswith("stage_")]:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        return responses(model, images)

    return answers


def torch_form(path: Path) -> Form:
    """The run directory, or the weights of a file, in torch."""
    import torch

    from perception.export import Stages
    from perception.training.from_onnx import open_torch

    engine = open_torch(path)
    network = engine.network
    heads = (*(["boxes"] if network.boxes is not None else []), *network.masks)
    module = Stages(network, heads).eval()

    def answers(images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        with torch.inference_mode():
            return [{k: v.numpy() for k, v in module(torch.from_numpy(image[None])).items()} for image in images]

    return Form("torch fp32", engine, answers, path)


def forms_of(config: ParityReportConfig) -> list[Form]:
    """Every form, the one to compare with first. Raises ValueError or OSError if a file is not one of ours."""
    forms = [torch_form(config.run)] if config.run else []
    for path in config.models:
        engine = Engine(path, "cpu", config.threads)
        kind = engine.metadata.config.get("precision", {}).get("kind", "fp32")
        forms.append(Form(f"ONNX {kind}, {path.name}", engine, stages_of(path), path))
    for provider in OTHERS:
        name = f"ONNX on {LABELS[provider]}"
        try:
            engine = Engine(config.models[0], provider, config.threads)
        except ValueError as error:
            forms.append(Form(name, None, figures={"absent": f"not present here: {error}"}))
        else:
            forms.append(Form(name, engine, path=config.models[0]))
    hw = {form.engine.input_hw for form in forms if form.engine}
    if len(hw) > 1:
        raise ValueError(f"all forms must take one input size, but these take {sorted(hw)}")
    return forms


def pictures(config: ParityReportConfig, hw: tuple[int, int]) -> list[np.ndarray]:
    """Model inputs (h, w, 3) uint8 RGB, evenly spread over the split of every dataset."""
    from perception.imagefile import read_image

    wanted = -(-config.images // len(config.data))
    made: list[np.ndarray] = []
    for folder in config.data:
        _, samples = read_layout(folder, config.split)
        chosen = samples[:: max(1, len(samples) // wanted)][:wanted]  # no dataset takes the place of another
        made += [tensor_from_frame(read_image(sample.image), hw)[0] for sample in chosen]
    return made[: config.images]


def compare_all(forms: Sequence[Form], images: Sequence[np.ndarray]) -> None:
    """Answers of every form beside those of the first."""
    truth: list[dict[str, np.ndarray]] | None = None
    for form in forms:
        if form.engine is None:
            continue
        answers = form.answers(images) if form.answers else [dict(form.engine.run(image[None])) for image in images]
        truth = truth or answers
        shared = [{name: value for name, value in a.items() if name in answers[0]} for a in truth]
        parity = compare(shared, answers)
        form.figures |= {"stages": dict(parity.stages), "maps": dict(parity.maps)}
        form.figures["agreement"] = agreement(shared, answers)


def time_all(forms: Sequence[Form], images: Sequence[np.ndarray], rounds: int) -> None:
    """Latency in ms of every form in turn, and how many times faster than the first one, call by call."""
    present = [form for form in forms if form.engine is not None]
    times = np.zeros((len(present), WARM_UP + rounds))
    for turn in range(WARM_UP + rounds):
        image = images[turn % len(images)][None]
        for i, form in enumerate(present):
            assert form.engine is not None
            start = perf_counter()
            form.engine.run(image)
            times[i, turn] = 1e3 * (perf_counter() - start)
    times = times[:, WARM_UP:]
    for form, own in zip(present, times, strict=True):
        form.figures["ms"] = {"p50": float(np.percentile(own, 50)), "p99": float(np.percentile(own, 99))}
        form.figures["speed"] = float(np.median(times[0] / own))


MEMORY = """
import sys
import numpy as np
path, kind = sys.argv[1:]
if kind == "torch":
    from pathlib import Path
    from perception.training.from_onnx import open_torch
    engine = open_torch(Path(path))
else:
    from perception.engine import Engine
    engine = Engine(path, "cpu")
for _ in range(5):
    engine.run(np.zeros((1, *engine.input_hw, 3), np.uint8))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def weigh(form: Form) -> None:
    """Size of the file, and on Linux the peak memory of a process that does nothing but load and run it.

    It is VmHWM: getrusage's ru_maxrss begins with what the parent process had.
    """
    assert form.path is not None
    torch_runs_it = not isinstance(form.engine, Engine)
    if not torch_runs_it:
        form.figures["MB"] = form.path.stat().st_size / 1e6
    if form.answers is not None and sys.platform == "linux":
        command = [sys.executable, "-c", MEMORY, str(form.path), "torch" if torch_runs_it else "file"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        form.figures["peak_memory_MB"] = int(done.stdout.split()[-1]) * 1024 / 1e6


def judge(form: Form, config: ParityReportConfig) -> None:
    """AP, AP50 and mIoU on every dataset."""
    assert form.engine is not None
    model = Model(form.engine)
    form.figures["datasets"] = {}
    for folder in config.data:
        result = evaluate(model, folder, Selection(split=config.split, limit=config.limit))
        boxes = result["boxes"] or {}
        masks = {f"{head} mIoU": figures["mIoU"] for head, figures in result["masks"].items()}
        form.figures["datasets"][result["dataset"]] = {k: boxes[k] for k in ("AP", "AP50") if k in boxes} | masks


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def page(forms: Sequence[Form], config: ParityReportConfig, compared: int) -> str:
    """The report in Markdown."""
    present = [form for form in forms if form.engine is not None]
    first = present[0]

    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    columns = [(name, key) for name, found in first.figures["datasets"].items() for key in found]
    accuracy = [
        [form.name, *(percent(form.figures["datasets"][name].get(key)).strip() for name, key in columns)]
        for form in present
    ]
    speed = [
        [
            form.name,
            number(form.figures["ms"]["p50"]),
            number(form.figures["ms"]["p99"]),
            number(form.figures["speed"], 2),
            number(form.figures.get("MB")),
            number(form.figures.get("peak_memory_MB"), 0),
        ]
        for form in present
    ]
    maps = list(first.figures["maps"])
    alike = [
        [form.name, f"{form.figures['agreement']:.4f}", *(f"{form.figures['maps'][name]:.4f}" for name in maps)]
        for form in present[1:]
    ]
    names = list(first.figures["stages"])
    stages = [
        [
            name,
            *(f"{form.figures['stages'][name]:.1e}" if name in form.figures["stages"] else "-" for form in present[1:]),
        ]
        for name in names
    ]
    parts = [
        "# Parity report",
        f"Compared with {first.name} on {compared} images; {config.rounds} timed calls each, in turn.",
        "## Accuracy, percent",
        f"Split {config.split}, " + (f"{config.limit} images of each dataset." if config.limit else "all images."),
        table(["form", *(f"{name} {key}" for name, key in columns)], accuracy),
        "## Speed and size",
        table(["form", "p50 ms", "p99 ms", f"times as fast as {first.name}", "file MB", "peak memory MB"], speed),
        "## Answers",
        "Agreement is the least of the shares of equal pixels of each map, and of boxes that have a partner.",
        table(["form", "agreement", *(f"{name} pixels" for name in maps)], alike),
        "## Stages: largest error over the largest value",
        table(["stage", *(form.name for form in present[1:])], stages),
        *(f"{form.name}: {form.figures['absent']}" for form in forms if form.engine is None),
    ]
    return "\n\n".join(parts) + "\n"


def body(config: ParityReportConfig) -> dict[str, Any]:
    """Compare, time, weigh, judge, write."""
    if not config.models or not config.data:
        raise ValueError("name one ONNX file or more, and one dataset or more with --data")
    if config.rounds < 1 or config.images < 1:
        raise ValueError(f"--rounds and --images must be 1 or more, but are {config.rounds} and {config.images}")
    forms = forms_of(config)
    present = [form for form in forms if form.engine is not None]
    assert present[0].engine is not None
    images = pictures(config, present[0].engine.input_hw)
    compare_all(forms, images)
    time_all(forms, images, config.rounds)
    for form in present:
        weigh(form)
        judge(form, config)
    config.out.mkdir(parents=True, exist_ok=True)
    text = page(forms, config, len(images))
    (config.out / "parity.md").write_text(text)
    found: Mapping[str, Any] = {form.name: form.figures for form in forms}
    (config.out / "parity.json").write_text(json.dumps(found, indent=1) + "\n")
    print(text)
    return {"out": str(config.out), "forms": found}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_cli(ParityReportConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
