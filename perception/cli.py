"""What every front door does alike: options from a dataclass, one clear line for a user's mistake, one line of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

__all__ = ["Config", "run"]

Config = TypeVar("Config")


def run(config: type[Config], body: Callable[[Config], dict[str, Any]], argv: Sequence[str] | None = None) -> int:
    """Parse `argv` into the dataclass `config`, call `body` on it, and return the exit code.

    `body` returns its summary, and its module's docstring is the description in the help. Where the config has a field
    `json` that is set, the summary is written there ("-" is the last line of standard output) as one line of compact
    JSON. ValueError and OSError are the user's to mend: one line on standard error and exit code 2. All else is our
    bug and keeps its traceback.
    """
    options = tyro.cli(config, args=argv, description=(sys.modules[body.__module__].__doc__ or "").strip())
    try:
        summary = body(options)
        if target := getattr(options, "json", None):
            line = json.dumps(summary, separators=(",", ":"), allow_nan=False)
            if target == "-":
                print(line)
            else:
                Path(target).write_text(line + "\n")
    except BrokenPipeError:  # the reader of our output left (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
