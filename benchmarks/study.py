"""What studies of training share: runs that are trained once and resumed after an interruption, and their figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perception.evaluation.figures import Selection, evaluate
from perception.evaluation.measure import SCORE_THRESHOLD
from perception.jsonfile import write_json
from perception.model import Model
from perception.training import checkpoint

__all__ = ["cached", "figures", "headline", "trained"]


def trained(run: Path, steps: int, options: Sequence[str]) -> Path:
    """Train `run` with perception.train and these options, unless it is there; its log is beside it.

    An interrupted run goes on where it stopped. Raises ValueError, with the last line of the log, if training fails.
    """
    start = time.perf_counter()
    if any(run.glob("step_*")):
        if int(checkpoint.read_meta(checkpoint.latest(run))["step"]) >= steps:
            return run
        options = ["--resume"]
    else:
        options = [*options, "--loop.steps", str(steps), "--loop.eval-every", "0", "--loop.eval-limit", "1"]
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name(f"{run.name}.log")
    with log.open("a") as file:
        command = [sys.executable, "-m", "perception.train", "--out", str(run), *options]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise ValueError(f"training {run} failed with exit code {code}: {log.read_text().strip().splitlines()[-1:]}")
    print(f"{run.name}: trained {steps} steps in {time.perf_counter() - start:.0f} s", flush=True)
    return run


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON in `file`, made and written there if it is not yet."""
    if not file.is_file():
        write_json(file, make())
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def figures(
    run: Path, data: Sequence[Path], split: str, limit: int | None, averaged: bool = True, own_space: bool = False
) -> dict[str, Any]:
    """{dataset folder's name: headline figures} of a run, kept in a file beside it."""

    def measure() -> dict[str, Any]:
        model = Model(checkpoint.open_run(run, averaged), SCORE_THRESHOLD)
        select = Selection(split=split, limit=limit, own_space=own_space)
        return {folder.name: headline(evaluate(model, folder, select)) for folder in data}

    return cached(run.with_name(f"{run.name}{'' if averaged else '_last'}_{split}.json"), measure)


def headline(result: dict[str, Any]) -> dict[str, float]:
    """An evaluation of one dataset -> {"boxes AP50", "scene mIoU", ...}, in percent."""
    out = {f"{head} mIoU": mask["mIoU"] for head, mask in result["masks"].items()}
    if result["boxes"]:
        out["boxes AP50"] = result["boxes"]["AP50"]
    return {name: round(100 * value, 2) for name, value in out.items() if value is not None}
