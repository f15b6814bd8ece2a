"""How good is a model? COCO AP of its boxes and mIoU of its class maps on datasets in the common layout.

    python -m perception.evaluate --model FILE.onnx --data DATASETS/camvid DATASETS/kitti --split val

Each dataset is judged in its own label space (see perception/evaluation/), in the pixels of its own images, through the
preprocessing that the live loop uses. A run directory is evaluated in torch, an ONNX file in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception.cli import run
from perception.engine import Provider
from perception.evaluation.corruptions import CORRUPTIONS, Corruption
from perception.evaluation.extra import Extra, judged_model
from perception.evaluation.figures import Selection, evaluate, plan
from perception.evaluation.measure import SCORE_THRESHOLD, Plan
from perception.evaluation.reliability import require_png, save_plot
from perception.evaluation.report import write_report
from perception.evaluation.robustness import robustness, robustness_table
from perception.evaluation.tables import summary_table, tables
from perception.evaluation.worst import WorstFrames
from perception.model import BUNDLED_MODEL, Model, load, model_file
from perception.structures import BranchName

__all__ = ["EvaluateConfig", "main", "open_model"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of `python -m perception.evaluate`."""

    data: tuple[Path, ...]
    """Datasets in the common layout, one or more folders (made by data/NAME/prepare.py)."""
    model: Path | None = None
    """Run directory of perception.train, ONNX file of perception.export, or name of a bundled model; else drive-n."""
    split: str = "val"
    """Which images: train, val or test."""
    own_space: bool = False
    """The model's classes are the dataset's own labels. Of one that was trained with --own-labels this is known."""
    provider: Provider | Literal["torch"] | None = None
    """What computes an ONNX file; left out: cpu, so that figures are those of fp32. torch takes the weights out of such
    a file, for --calibration of class maps and --tta. A run directory is computed by torch."""
    branch: BranchName | None = None
    """For a run directory: branch of the box head that answers, instead of the one that the run names."""
    limit: int | None = None
    """Evaluate on this many images of each dataset, spread evenly over the split, instead of on all."""
    only: str = ""
    """Evaluate only on images with this text in their name, such as one sequence."""
    slices: bool = False
    """Also give figures of parts of each dataset: images by attribute (weather ...), objects by size, distance ..."""
    corruptions: tuple[Literal["all"] | Corruption, ...] = ()
    """Also evaluate under these corruptions of the images, or all, each at five severities: as much work again for each
    of these; --limit makes it bearable."""
    lane_width: int | None = None
    """Draw true lane markings that many pixels of the frame wide, around their centreline; as annotated if left out."""
    legacy: bool = False
    """Also print the figures by the definitions of YOLOP, TwinLiteNet+ and HybridNets."""
    legacy_batch: int = 24
    """Images in a batch of --legacy: YOLOP and TwinLiteNet+ average over batches."""
    calibration: bool = False
    """Also say how far scores can be believed. For class maps this needs a run directory, or --provider torch."""
    calibration_plot: Path | None = None
    """Draw --calibration as a PNG file."""
    tta: str = ""
    """Average over views of each image, with torch: flip, or with scales, such as flip,0.75,1.25."""
    report: Path | None = None
    """Folder for index.html, a page with every figure and the worst frames of each dataset, and for its pictures."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""


def open_model(
    path: Path | None, provider: Provider | Literal["torch"] | None = None, branch: BranchName | None = None
) -> Model:
    """The Model of an ONNX file (None = the bundled one), or, through torch, of a run directory or such a file.

    Raises ValueError or OSError that says what is wrong with it.
    """
    if path is None or not path.is_dir():
        if branch:
            raise ValueError("--branch is for run directories: an ONNX file has one branch; export it with --branch")
        if provider == "torch":
            return torch_model(model_file(path))
        return load(path, provider or "cpu", SCORE_THRESHOLD)
    if provider not in (None, "torch"):
        raise ValueError(
            f"{path} is a run directory, computed by torch on the CPU; --provider {provider} is for ONNX files"
        )
    return torch_model(path, branch)


def torch_model(path: Path, branch: BranchName | None = None) -> Model:
    """A run directory, or the weights of a file of perception.export, in torch. Raises ValueError without torch."""
    try:
        from perception.training.from_onnx import open_torch
    except ImportError as error:
        raise ValueError(f"torch needs the train extra ({error}); install it, or name an ONNX file") from None
    return Model(open_torch(path, branch), SCORE_THRESHOLD)


def trained_in_own_space(model: Model) -> bool:
    """Whether the model says that it was trained with --own-labels."""
    train = model.engine.metadata.config.get("train")
    return isinstance(train, Mapping) and bool(train.get("own_labels"))


def extra_of(config: EvaluateConfig) -> Extra:
    """What the options ask for beyond AP and IoU."""
    if config.legacy_batch < 1:
        raise ValueError(f"--legacy-batch must be 1 image or more, but got {config.legacy_batch}")
    if config.calibration_plot:
        require_png(config.calibration_plot)
    return Extra(
        slices=config.slices,
        lane_width=config.lane_width,
        legacy_batch=config.legacy_batch if config.legacy else 0,
        calibration=config.calibration or config.calibration_plot is not None,
        tta=config.tta,
    )


def body(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate on every dataset; all of them are checked before the first image."""
    if not config.data:
        raise ValueError("--data names no dataset; give one or more folders in the common layout")
    model = open_model(config.model, config.provider, config.branch)
    own_space = config.own_space or trained_in_own_space(model)
    select = Selection(split=config.split, limit=config.limit, only=config.only, own_space=own_space)
    extra = extra_of(config)
    judged_model(model, SCORE_THRESHOLD, extra)
    names: Sequence[Corruption] = (
        CORRUPTIONS if "all" in config.corruptions else [name for name in CORRUPTIONS if name in config.corruptions]
    )
    plans = [plan(model, folder, select) for folder in config.data]
    if config.calibration_plot and not hasattr(model.engine, "probabilities") and not any(todo.boxes for todo in plans):
        raise ValueError(
            "--calibration-plot: no dataset has boxes that the model finds, and class maps need a run directory or "
            "--provider torch"
        )
    worst = [worst_frames(todo, model) for todo in plans] if config.report else []
    results = []
    for number, folder in enumerate(config.data):
        result = evaluate(model, folder, select, extra, more={"worst": worst[number]} if worst else {})
        lines = [tables(result)]
        if names:
            result["robustness"] = robustness(model, folder, select, result, names, config.tta)
            lines += robustness_table(result["robustness"])
        results.append(result)
        print("\n".join(lines) + "\n", flush=True)
    print(summary_table(results))
    if config.calibration_plot:
        try:
            save_plot([result["calibration"] for result in results], config.calibration_plot)
        except ValueError as error:  # no reason to lose the figures
            print(f"no {config.calibration_plot}: {error}")
    metadata = model.engine.metadata
    summary = {
        "model": str(config.model or BUNDLED_MODEL.name),
        "computed_by": getattr(model.engine, "provider", "unknown"),
        "revision": metadata.revision,
        "step": metadata.step,
        "input_hw": list(metadata.input_hw),
        "limit": config.limit,
        "only": config.only,
        "tta": config.tta,
        "datasets": results,
    }
    if config.report:
        facts = {key: value for key, value in summary.items() if key != "datasets"}
        print(f"page: {write_report(config.report, results, worst, facts)}")
    return summary


def worst_frames(todo: Plan, model: Model) -> WorstFrames:
    """The collector of one dataset's worst frames."""
    metadata = model.engine.metadata
    box_names = metadata.box_names if todo.boxes else ()
    return WorstFrames(todo.labels, box_names, {head: metadata.heads[head] for head in todo.heads})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run(EvaluateConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
