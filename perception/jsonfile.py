"""JSON that someone else may have written -> a dict, or one line that says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json", "read_object"]


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a BOM, or UTF-16.

    Raises ValueError that names the file if it is not JSON, OSError if it can't be read.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: it is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """`read_json`, refused with ValueError unless it is an object."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, but got a {type(data).__name__}")
    return data
