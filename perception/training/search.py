"""Which augmentation policy trains best: the space of policies, Optuna's walk through it, and what the score is.

How a policy is tried is the caller's affair (perception/search.py). Trials are scored on a part of the train split that
is held out, never on val: what val says at the end is about a choice that val had no part in.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from perception.jsonfile import read_object, write_json
from perception.layout import read_layout
from perception.training.policy import OPS, Policy

__all__ = ["SCORE", "figures", "hold_out", "policy_from", "score", "search", "space"]

SCORE = "mean of the AP50 of the boxes and the mIoU of each head, over all datasets that have them"
MOST = {"night": 0.4, "weather": 0.6, "lens": 0.4, "colour": 1.0, "degrade": 0.6}  # largest share of a group's ops
AT_RANDOM = 6  # trials before Optuna's TPE, arXiv:2304.11127, has enough to go by

Evaluation = Mapping[str, Mapping[str, Any]]  # dataset -> figures of perception.evaluate
Try = Callable[[Policy, Path], Evaluation]  # train with a policy in a folder, or go on there, and evaluate


def space(base: Policy) -> dict[str, BaseDistribution]:
    """What is searched: the magnitude, crop, mosaic, and the share of samples for each group that `base` has."""
    groups = {group: max(MOST[group], share) for group, share in base.shares().items() if share > 0}
    return {
        name: FloatDistribution(0, most) for name, most in {"magnitude": 1, "crop": 1, "mosaic": 1, **groups}.items()
    }


def coordinates(base: Policy) -> dict[str, float]:
    """Where `base` itself stands in its space."""
    groups = {group: share for group, share in base.shares().items() if share > 0}
    return {"magnitude": base.magnitude, "crop": base.crop, "mosaic": base.mosaic, **groups}


def policy_from(base: Policy, point: Mapping[str, float], name: str) -> Policy:
    """The policy at a point of the space: within a group, ops keep the proportions that they have in `base`."""
    shares = base.shares()
    weights = {
        op: round(weight / shares[OPS[op].group] * point[OPS[op].group], 4) if weight else 0.0
        for op, weight in base.weights.items()
    }
    rest = {key: round(point[key], 3) for key in ("magnitude", "crop", "mosaic")}
    return Policy(name=name, weights=weights, **rest)


def search(base: Policy, trials: int, seed: int, out: Path, run: Try) -> list[dict[str, Any]]:
    """`trials` trials, the first of them `base` as it is; those that OUT/trials.journal has already are not repeated.

    A trial that was interrupted goes on in its folder, OUT/trial_NNN. The point of a trial depends on the seed, its
    number and the trials before it, and not on interruptions.

    Returns: the trials, each with trial, point, policy, score, figures, seconds (of its last sitting).
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / "trials.journal")))
    study = optuna.create_study(storage=storage, study_name="policy", direction="maximize", load_if_exists=True)
    dimensions = space(base)
    while len(done := [t for t in study.trials if t.state == TrialState.COMPLETE]) < trials:
        number, point = next_point(study, dimensions, coordinates(base), seed)
        folder = out / f"trial_{number:03d}"
        policy = policy_from(base, point, folder.name)
        if not (folder / "score.json").is_file():
            start = time.monotonic()
            found = figures(run(policy, folder))
            seconds = round(time.monotonic() - start, 1)
            record = {"trial": number, "point": point, "policy": policy.to_json(), "score": score(found)}
            write_json(folder / "score.json", record | {"figures": found, "seconds": seconds})
        value = float(json.loads((folder / "score.json").read_text())["score"])
        study.tell(number, value)
        print(f"trial {number}: {100 * value:.2f}  " + ", ".join(f"{k} {v:.2f}" for k, v in point.items()), flush=True)
    return [json.loads((out / f"trial_{trial.number:03d}" / "score.json").read_text()) for trial in done]


def next_point(
    study: optuna.Study, dimensions: dict[str, BaseDistribution], first: dict[str, float], seed: int
) -> tuple[int, dict[str, float]]:
    """Number and point of the trial that was interrupted, or else of a new one."""
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            if set(trial.params) == set(dimensions):
                return trial.number, trial.params
            study.tell(trial.number, state=TrialState.FAIL)  # interrupted while it was drawn
    number = len(study.trials)
    if all(trial.state == TrialState.FAIL for trial in study.trials):
        study.enqueue_trial(first)
    study.sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=AT_RANDOM)
    new = study.ask(dimensions)
    return new.number, new.params


def figures(evaluation: Evaluation) -> dict[str, float]:
    """{"camvid/scene mIoU": 0.61, "kitti/AP50": 0.4, ...}: the figures that the score is made of."""
    out = {}
    for dataset, result in evaluation.items():
        if result["boxes"] and result["boxes"]["AP50"] is not None:
            out[f"{dataset}/AP50"] = float(result["boxes"]["AP50"])
        for head, mask in result["masks"].items():
            if mask["mIoU"] is not None:
                out[f"{dataset}/{head} mIoU"] = float(mask["mIoU"])
    return out


def score(found: Mapping[str, float]) -> float:
    """SCORE. Raises ValueError if there is no figure at all."""
    if not found:
        raise ValueError("there is nothing to score: no dataset has images with labels in the evaluated split")
    return sum(found.values()) / len(found)


def hold_out(folder: Path, target: Path, every: int) -> Path:
    """Write the dataset in `folder` to `target` by links: every `every`-th image of train as val, the rest as train.

    Neighbouring frames of a video are much alike: with them the held-out part is easier than val is.
    Raises ValueError if `folder` is not a dataset, or train has too few images.
    """
    if every < 2:
        raise ValueError(f"--hold-out must be 2 or more (every how many images one is held out), but got {every}")
    if target.is_dir():
        return target
    labels, samples = read_layout(folder, "train")
    if len(samples) < every:
        raise ValueError(
            f"{folder} has {len(samples)} images in train, too few to hold out every {every}th; --hold-out"
        )
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copy(folder / "dataset.json", draft)
    images = folder / "images" / "train"
    splits: dict[str, str] = {}  # file name -> split
    for index, sample in enumerate(samples):
        name = sample.image.relative_to(images)
        splits[name.as_posix()] = split = "val" if index % every == every // 2 else "train"
        link(sample.image, draft / "images" / split / name)
        for head, mask in sample.masks.items():
            place = draft / "masks" / labels.masks[head].folder / split / name.with_suffix(".png")
            if not place.exists():  # two heads may share a folder
                link(mask, place)
    if (coco := folder / "boxes" / "train.json").is_file():
        whole = read_object(coco)
        (draft / "boxes").mkdir()
        for split in ("train", "val"):
            chosen = [image for image in whole["images"] if splits[image["file_name"]] == split]
            ids = {image["id"] for image in chosen}
            annotations = [entry for entry in whole["annotations"] if entry["image_id"] in ids]
            write_json(draft / "boxes" / f"{split}.json", whole | {"images": chosen, "annotations": annotations})
    os.replace(draft, target)
    return target


def link(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where the system allows none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copy(source, target)
