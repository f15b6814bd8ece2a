"""Did anything become slower? Two result files of the same benchmark, row by row, by paired ratios.

    python benchmarks/compare.py BEFORE.json AFTER.json --band 5%

Each row is divided by the file's yardstick round by round, where both files have one (a fixed piece of work that was
timed in the same rounds): what is left is free of how fast the machine was at that time, even of which machine it was.
The ratio of a row is its median after over its median before, the other way round for rows of which more is better:
over 1 is worse. Its spread is the interval that holds 95 % of the ratios of rounds drawn anew (bootstrap). The exit
code is 1 if a row is worse by more than the band; rows whose spread is wider than the band are marked as noise, and
fail all the same: measure them again, with more rounds. For people: no CI should time anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.machine import SCHEMA, markdown
from perception import cli

DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of benchmarks/compare.py."""

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE.json")]
    """Result file that was there."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER.json")]
    """Result file that is new."""
    band: str = "5%"
    """How much worse a row may be."""
    absolute: bool = False
    """Compare times as they are, without the yardstick."""
    rows: tuple[str, ...] = ()
    """Only rows whose names contain one of these."""
    json: str | None = None
    """Write every figure as one line of JSON to this file; - is the last line of standard output."""

    @property
    def share(self) -> float:
        """The band as a share. Raises ValueError if it is not a percentage."""
        try:
            value = float(self.band.removesuffix("%")) / 100
        except ValueError:
            value = -1.0
        if not 0 <= value < 1 or not self.band.endswith("%"):
            raise ValueError(f"--band: expected a percentage from 0% to 99%, such as 5%, but got {self.band!r}")
        return value


def read_result(path: Path) -> dict[str, Any]:
    """A result file of our benchmarks. Raises ValueError if it is not one."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a result file in JSON, but {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("rows"), dict):
        raise ValueError(f"{path}: expected a result of schema {SCHEMA} with rows; measure it again with --json")
    return found


def values(found: Mapping[str, Any], name: str, yardstick: str | None) -> np.ndarray:
    """(R,) a row round by round, in units of the yardstick if there is one."""
    rounds = np.asarray(found["rows"][name]["rounds"], float)
    if yardstick is None:
        return rounds
    stick = np.asarray(found["rows"][yardstick]["rounds"], float)
    if len(stick) != len(rounds):
        raise ValueError(f"row {name!r} has {len(rounds)} rounds, but the yardstick {yardstick!r} has {len(stick)}")
    return rounds / stick if found["rows"][name]["better"] == "lower" else rounds * stick


def ratio(before: np.ndarray, after: np.ndarray, higher_is_better: bool) -> dict[str, float]:
    """How much worse `after` is: {"ratio", "low", "high"}, the last two hold 95 % of the bootstrap."""
    dice = np.random.default_rng(0)

    def medians(values: np.ndarray) -> np.ndarray:
        return np.median(values[dice.integers(0, len(values), (DRAWS, len(values)))], axis=1)

    drawn, middle = medians(after) / medians(before), float(np.median(after) / np.median(before))
    if higher_is_better:
        drawn, middle = 1 / drawn, 1 / middle
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"ratio": round(middle, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def compare(before: Mapping[str, Any], after: Mapping[str, Any], config: CompareConfig) -> dict[str, dict[str, float]]:
    """Row -> ratio, for the rows of both. Raises ValueError where they can't be compared."""
    if before["benchmark"] != after["benchmark"]:
        raise ValueError(f"expected two results of one benchmark, but got {before['benchmark']}, {after['benchmark']}")
    stick = before["yardstick"] if before["yardstick"] == after["yardstick"] and not config.absolute else None
    if stick is None and before["machine"] != after["machine"]:
        raise ValueError("these results come from two machines, and times alone say nothing across machines")
    chosen = [
        name
        for name in before["rows"]
        if name in after["rows"] and name != stick and (not config.rows or any(part in name for part in config.rows))
    ]
    if not chosen:
        raise ValueError("the two results have no such row in common")
    return {
        name: ratio(values(before, name, stick), values(after, name, stick), after["rows"][name]["better"] == "higher")
        for name in chosen
    }


def body(config: CompareConfig) -> dict[str, Any]:
    """Compare, print the table."""
    band = config.share
    before, after = read_result(config.before), read_result(config.after)
    found = compare(before, after, config)
    for key in ("settings", "machine", "versions"):
        if changed := [k for k in before[key] | after[key] if before[key].get(k) != after[key].get(k)]:
            print(f"note: {key} differ: {', '.join(changed)}")
    for name, result in (("before", before), ("after", after)):
        for warning in result["noise"].get("warnings", ()):
            print(f"note: {name} was measured on a noisy machine: {warning}")
    lines, worse = [], []
    for name, row in found.items():
        wide = row["high"] - row["low"] > 2 * band
        verdict = "WORSE" if row["ratio"] > 1 + band else "better" if row["ratio"] < 1 - band else "same"
        worse += [name] * (verdict == "WORSE")
        lines.append(
            [name, f"{row['ratio']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", verdict + " (noise)" * wide]
        )
    print(markdown(("row", "after / before, over 1 is worse", "95 %", f"within {config.band}"), lines))
    return {"band": band, "worse": worse, "rows": found}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 if something is worse."""
    worse: list[str] = []

    def judged(config: CompareConfig) -> dict[str, Any]:
        summary = body(config)
        worse.extend(summary["worse"])
        return summary

    judged.__module__ = __name__
    return cli.run(CompareConfig, judged, argv) or int(bool(worse))


if __name__ == "__main__":
    raise SystemExit(main())
