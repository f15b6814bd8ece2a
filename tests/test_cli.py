"""What every front door does alike: options, JSON, one line for a mistake, a traceback for a bug."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perception.cli import run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a made-up front door."""

    number: int = 3
    """A number."""
    json: str | None = None
    """Where the summary goes."""


def twice(options: Options) -> dict[str, Any]:
    return {"twice": 2 * options.number}


def test_summary_is_the_last_line_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, twice, ["--number", "4", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"twice": 8}
    assert run(Options, twice, ["--json", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text() == '{"twice":6}\n'
    assert run(Options, twice, []) == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ValueError("expected a,\n  got b"), FileNotFoundError("expected a,\n  got b")])
def test_a_mistake_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Options) -> dict[str, Any]:
        raise error

    assert run(Options, fail, []) == 2
    assert capsys.readouterr().err == "error: expected a, got b\n"


def test_a_bug_keeps_its_traceback() -> None:
    def fail(_: Options) -> dict[str, Any]:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        run(Options, fail, [])


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Options) -> dict[str, Any]:
        raise KeyboardInterrupt

    assert run(Options, fail, []) == 130 and "interrupted" in capsys.readouterr().err


def test_a_summary_that_can_not_be_written_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, twice, ["--json", str(tmp_path / "no" / "folder.json")]) == 2
    assert "folder.json" in capsys.readouterr().err


def test_unknown_options_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(Options, twice, ["--nonsense"])
    assert exit_.value.code == 2 and "nonsense" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_our_bug_to_find(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, lambda _: {"x": float("nan")}, ["--json", "-"]) == 2
