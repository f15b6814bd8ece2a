"""Average the weights of several runs into one (model soup, Wortsman et al., arXiv:2203.05482).

    python -m perception.soup RUN RUN [RUN/step_001000 ...] --out RUN

The runs must have one network and one start, such as the same --init with other seeds, or be checkpoints of one run
(--loop.keep). What comes out is a run: perception.evaluate, perception.export and --init take it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from perception.cli import run as run_cli
from perception.jsonfile import read_object
from perception.network.tokens import read_weights
from perception.training import checkpoint
from perception.training.checkpoint import latest, network_config, read_meta

__all__ = ["SoupConfig", "average", "main"]


@dataclass(frozen=True, kw_only=True)
class SoupConfig:
    """Average the weights of several runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories (their newest checkpoint counts), or single checkpoints RUN/step_N."""
    out: Path
    """Run directory to write."""
    json: str | None = None
    """Write the summary as one line of JSON to this file, or - for the last line of standard output."""


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """State dicts of one network -> their mean; counters are those of the first."""
    return {
        name: sum((s[name].double() for s in states[1:]), value.double()).div(len(states)).to(value)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def body(config: SoupConfig) -> dict[str, Any]:
    """Check that the runs belong together, average, and write a run."""
    if len(config.runs) < 2:
        raise ValueError(f"a soup needs at least two runs or checkpoints, but got {len(config.runs)}")
    if config.out.exists():
        raise ValueError(f"{config.out} exists; name a new folder")
    checkpoints = [run if (run / "meta.json").is_file() else latest(run) for run in config.runs]
    metas = [read_meta(path) for path in checkpoints]
    for path, meta in zip(checkpoints, metas, strict=True):
        if network_config(meta) != network_config(metas[0]):
            raise ValueError(f"{path} is of another network than {checkpoints[0]}; only equal ones can be averaged")
    soup = average([read_weights(path / "ema.safetensors") for path in checkpoints])
    data = list(dict.fromkeys(name for meta in metas for name in meta.get("data", ())))
    meta = {**metas[0], "data": data, "revision": checkpoint.revision(), "soup": [str(path) for path in checkpoints]}
    checkpoint.save_weights(config.out, max(int(m["step"]) for m in metas), soup, meta)
    options = config.runs[0] if (config.runs[0] / "config.json").is_file() else config.runs[0].parent
    if (options / "config.json").is_file():  # export looks there for images to check on
        (config.out / "config.json").write_text(json.dumps(read_object(options / "config.json"), indent=1))
    print(f"{config.out}: the mean of {len(checkpoints)} checkpoints, {len(soup)} tensors")
    return {"out": str(config.out), "checkpoints": [str(path) for path in checkpoints]}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, average, and return the exit code."""
    return run_cli(SoupConfig, body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
