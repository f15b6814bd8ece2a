"""JSON -> Python values, or one line that says what is wrong with it; and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["from_json", "read_json", "read_object", "shown", "write_json"]

Kind = TypeVar("Kind")
LARGEST = 2**63  # no number that is read is greater: more would overflow where it is used


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


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON beside its place, in its folder, which is made, and rename it: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def from_json(kind: type[Kind], data: Any, where: str) -> Kind:
    """A dataclass out of an object: what `json.dumps(asdict(it), default=str)` wrote, with every value's type checked.

    Values that already are of a dataclass are taken as they are. `where` names the file and the place in it.
    Raises ValueError for a key that the dataclass lacks or needs, and for a value of another type or that it refuses.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a JSON object, but got {shown(data)}")
    hints = get_type_hints(kind)
    if unknown := [name for name in data if name not in hints]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; did another version write it?")
    values = {name: _converted(value, hints[name], f"{where}: {name}") for name, value in data.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:  # a TypeError: a key without a default is missing
        raise ValueError(f"{where}: {error}") from None


def _converted(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` says it: lists become tuples, texts paths, whole numbers floats."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if isinstance(value, str | int | None) and value in inner:
            return value
    elif origin in (Union, UnionType):
        for choice in inner:
            with suppress(ValueError):
                return _converted(value, choice, where)
    elif origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) == len(value):
            return tuple(_converted(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _converted(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    elif is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_json(hint, value, where)
    elif hint is float and type(value) in (int, float):
        if abs(value) <= LARGEST:  # so NaN and infinity are none
            return float(value)
    elif hint is int and type(value) is int:
        if abs(value) <= LARGEST:
            return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint in (bool, str, type(None)) and type(value) is hint:
        return value
    name = hint.__name__ if isinstance(hint, type) and not inner else str(hint).replace("typing.", "")
    raise ValueError(f"{where} must be {name}, but is {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message, at most 80 characters."""
    if type(value) is int and abs(value) > LARGEST:
        return "a huge number"
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
