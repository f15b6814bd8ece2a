"""Search for the augmentation policy that trains best on these datasets, and say by how much it is better.

python -m perception.search --data DIR [DIR ...] --init RUN|FILE --out OUT
python -m perception.search --out OUT --resume

Every trial is a short training from the same start, with the same seed and number of steps (--loop.*), under another
policy: another magnitude, crop, mosaic, and share of each group of ops; mirroring is not searched. It is scored on
images of the train split that are held out of training: the mean of the AP50 of the boxes and the mIoU of each head,
over all datasets that have them. The winner and the default (--augment.*) are then trained on all of train, once for
each of --seeds, and compared on val, which no trial has seen. Every option of perception.train means the same here.

OUT holds policy.json, for perception.train --augment.policy, and result.json with all trials and the comparison.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

from perception import train
from perception.cli import run as run_cli
from perception.jsonfile import from_json, read_object, write_json
from perception.layout import read_layout, split_weight
from perception.train import TrainConfig
from perception.training import checkpoint
from perception.training.augment import AugmentConfig
from perception.training.evaluation import require_sound_val
from perception.training.loop import LoopConfig
from perception.training.policy import Policy, load_policy, save_policy
from perception.training.search import SCORE, Evaluation, figures, hold_out, score, search

__all__ = ["SearchConfig", "main"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TrainConfig):
    """Search for an augmentation policy."""

    out: Path
    """Folder of the search: a run for each trial, policy.json, result.json."""
    base: str = "driving-2"
    """The policy whose ops are searched, by name or JSON file; it is the first trial. Ops of a group keep their
    proportions."""
    trials: int = 20
    """How many policies are tried."""
    hold_out: int = 5
    """Every so many images of train, one is held out to score the trials on."""
    seeds: tuple[int, ...] = (0, 1)
    """The winner and the default are trained and compared once for each of these."""
    search_seed: int = 0
    """Decides which policies are tried; --loop.seed is that of every trial's training."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=500, warmup=50, ema=0.99, eval_every=0, eval_limit=0, save_every=100)
    )


def train_once(config: SearchConfig, data: Sequence[str], augment: AugmentConfig, seed: int, out: Path) -> Evaluation:
    """Train in `out`, or go on there, and evaluate on the val split of `data`."""
    if any(out.glob("step_*")):
        options = TrainConfig(out=out, resume=True)
    else:
        same = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
        loop = replace(config.loop, seed=seed)
        changed = {"data": tuple(data), "out": out, "augment": augment, "loop": loop, "resume": False, "json": None}
        options = TrainConfig(**same | changed)
    return dict(train.body(options)["evaluation"])


def searched(config: SearchConfig, policy: Policy, out: Path) -> AugmentConfig:
    """The options with `policy`, saved in `out`, in the place of theirs, and all that a policy decides left to it."""
    out.mkdir(parents=True, exist_ok=True)
    save_policy(policy, out / "tried.json")
    return replace(config.augment, policy=str(out / "tried.json"), magnitude=None, crop=None, mosaic=None)


def compare(config: SearchConfig, found: Policy) -> dict[str, list[dict[str, Any]]]:
    """{"default": [...], "found": [...]}: seed, score on val, figures, seconds; OUT/final holds the runs."""
    out: dict[str, list[dict[str, Any]]] = {"default": [], "found": []}
    for seed in config.seeds:
        for name, rows in out.items():
            folder = config.out / "final" / f"{name}_seed{seed}"
            if not (folder / "score.json").is_file():
                start = time.monotonic()
                augment = config.augment if name == "default" else searched(config, found, folder)
                reached = figures(train_once(config, config.data, augment, seed, folder))
                seconds = round(time.monotonic() - start, 1)
                row = {"seed": seed, "score": score(reached), "figures": reached, "seconds": seconds}
                write_json(folder / "score.json", row)
            rows.append(json.loads((folder / "score.json").read_text()))
            print(f"{name}, seed {seed}: {100 * rows[-1]['score']:.2f} on val", flush=True)
    return out


def table(result: dict[str, Any]) -> str:
    """All trials, the best first, and the comparison; scores in percent."""
    best = sorted(result["trials"], key=lambda trial: -trial["score"])
    names = list(best[0]["point"])
    lines = ["trial   score" + "".join(f"{name:>10}" for name in names)]
    for trial in best:
        lines.append(
            f"{trial['trial']:5} {100 * trial['score']:7.2f}"
            + "".join(f"{trial['point'][name]:10.2f}" for name in names)
        )
    lines += ["", "on val" + "".join(f"{f'seed {seed}':>10}" for seed in result["seeds"]) + "      mean"]
    for name, rows in result["val"].items():
        scores = [row["score"] for row in rows]
        lines.append(f"{name:>7}" + "".join(f"{100 * value:9.2f} " for value in (*scores, mean(scores))))
    return "\n".join([*lines, f"gain: {100 * result['gain']:+.2f} points of the score ({SCORE})"])


def saved_options(config: SearchConfig) -> SearchConfig:
    """The options in OUT/config.json, to go on with."""
    path = config.out / "config.json"
    if not path.is_file() or "search_seed" not in (saved := read_object(path)):
        raise ValueError(f"{config.out} holds no search to --resume; start one with --data and --out")
    saved["augment"] = AugmentConfig.from_json(saved.get("augment"), f"{path}: augment")
    return replace(from_json(SearchConfig, saved, str(path)), out=config.out, resume=True, json=config.json)


def check(config: SearchConfig) -> None:
    """Raises ValueError for options that would only fail after hours."""
    if not config.data:
        raise ValueError("--data: name at least one dataset in the common layout (data/<name>/prepare.py makes one)")
    if config.trials < 1 or not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"--trials must be 1 or more, --seeds different: got {config.trials} and {config.seeds}")
    folders = [split_weight(entry)[0] for entry in config.data]
    for folder in folders:
        read_layout(folder, "train")
        require_sound_val(folder)
    if not any((folder / "images" / "val").is_dir() for folder in folders):
        raise ValueError("no dataset of --data has a val split to compare on; prepare.py makes one")
    load_policy(config.augment.policy)


def body(config: SearchConfig) -> dict[str, Any]:
    """Hold out, search, compare, and write down."""
    if config.resume:
        config = saved_options(config)
    elif (config.out / "config.json").exists():
        raise ValueError(f"{config.out} already holds a search; add --resume to go on with it, or choose another --out")
    check(config)
    base = load_policy(config.base)
    parts = []
    for number, entry in enumerate(config.data):
        folder, weight = split_weight(entry)
        name = f"{number}_{folder.resolve().name}_every_{config.hold_out}"
        part = hold_out(folder, config.out / "held_out" / name, config.hold_out)
        parts.append(f"{part}:{weight}")
    if not config.resume:
        (config.out / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str))
        save_policy(base, config.out / "base.json")

    def run(policy: Policy, folder: Path) -> Evaluation:
        return train_once(config, parts, searched(config, policy, folder), config.loop.seed, folder)

    trials = search(load_policy(str(config.out / "base.json")), config.trials, config.search_seed, config.out, run)
    best = max(trials, key=lambda trial: trial["score"])
    found = replace(Policy(**best["policy"]), name="found")
    save_policy(found, config.out / "policy.json")
    val = compare(config, found)
    result = {
        "score": SCORE,
        "trials": trials,
        "best_trial": best["trial"],
        "default": asdict(config.augment),
        "found": found.to_json(),
        "val": val,
        "gain": mean(row["score"] for row in val["found"]) - mean(row["score"] for row in val["default"]),
        "seeds": list(config.seeds),
        "steps": config.loop.steps,
        "seconds": round(sum(row["seconds"] for row in (*trials, *val["default"], *val["found"])), 1),
        "revision": checkpoint.revision(),
    }
    write_json(config.out / "result.json", result)
    print(table(result))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, search, and return the exit code."""
    return run_cli(SearchConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
