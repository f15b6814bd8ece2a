"""One HTML page for people: headings, tables and pictures in a single file, without script and without network.

Pictures are embedded, and also written beside the page for whoever wants one alone.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.imagefile import encode_image

__all__ = ["Page", "percent"]

PHOTO_QUALITY = 85  # JPEG
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2026; background: #fbfbfc; max-width: 1200px; margin: 2em auto;
       padding: 0 1.5em; }
h1 { font-size: 1.7em; margin-bottom: .2em } h2 { margin-top: 2em; border-bottom: 2px solid #d8dde3 }
h3 { margin: 1.6em 0 .4em }
table { border-collapse: collapse; margin: .6em 0; font-size: .92em } td td { font-size: 1em }
th, td { padding: .2em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e7eb }
th { background: #eef1f4 } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; border: 1px solid #d8dde3; display: block } figure { margin: 1em 0 }
figcaption, .lead { color: #55606b } nav a { margin-right: 1em } .wide { overflow-x: auto }
"""


class Page:
    """Collects the parts of a page in the order in which they are read; `save` writes FOLDER/index.html."""

    def __init__(self, folder: Path, title: str, lead: str = "") -> None:
        """Makes `folder`. Raises OSError if it can't be made."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.title = folder, title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>' if lead else ""]
        self._links: list[tuple[str, str]] = []
        self._names: set[str] = set()

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; those of level 2 are in the list of contents."""
        anchor = f"part{len(self._parts)}"
        if level == 2:
            self._links.append((anchor, text))
        self._parts.append(f'<h{level} id="{anchor}">{html.escape(text)}</h{level}>')

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def lines(self, lines: Sequence[str]) -> None:
        """A list of lines."""
        self._parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; a column of which every cell is a number, None or "-" is set flush right."""
        self._parts.append(f'<div class="wide">{_table(header, rows)}</div>')

    def figures(self, value: Any) -> None:
        """Any JSON value, as tables inside tables."""
        self._parts.append(f'<div class="wide">{_nested(value)}</div>')

    def picture(self, name: str, image: np.ndarray, caption: str = "", scale: float = 0.5, photo: bool = True) -> None:
        """(H, W, 3) uint8 BGR, as NAME.jpg or, if it is not a `photo`, NAME.png; shown at `scale` of its pixels."""
        suffix, kind = (".jpg", "jpeg") if photo else (".png", "png")
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
        while name in self._names:
            name += "_"
        self._names.add(name)
        content = encode_image(image, suffix, PHOTO_QUALITY)
        (self.folder / f"{name}{suffix}").write_bytes(content)
        data = base64.b64encode(content).decode()
        text = html.escape(caption)
        shown = f'src="data:image/{kind};base64,{data}" width="{round(image.shape[1] * scale)}" alt="{text}"'
        self._parts.append(f"<figure><img {shown}><figcaption>{text}</figcaption></figure>")

    def save(self) -> Path:
        """Write the page and return its path."""
        links = "".join(f'<a href="#{anchor}">{html.escape(text)}</a>' for anchor, text in self._links)
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        head += '<meta name="viewport" content="width=device-width">'
        body = "\n".join([*self._parts[:2], f"<nav>{links}</nav>", *self._parts[2:]])
        path = self.folder / "index.html"
        text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path


def percent(value: float | None) -> str:
    """0.123 -> "12.3"; "-" for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    texts = [[_text(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(_is_number(row[column]) for row in texts) for column in range(len(header))]
    tags = [' class="number"' if flush else "" for flush in right]
    head = "".join(f"<th{tag}>{html.escape(cell)}</th>" for tag, cell in zip(tags, header, strict=True))
    lines = [
        "".join(f"<td{tag}>{html.escape(cell)}</td>" for tag, cell in zip(tags, row, strict=True)) for row in texts
    ]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _nested(value: Any) -> str:
    """JSON -> HTML: objects are tables of two columns, like objects rows of one, lists of plain values one line."""
    if isinstance(value, Mapping) and value:
        if (columns := _shared_columns(value)) is not None:
            return _table(["", *columns], [[name, *(_text(row[c]) for c in columns)] for name, row in value.items()])
        rows = "".join(f"<tr><th>{html.escape(str(key))}</th><td>{_nested(v)}</td></tr>" for key, v in value.items())
        return f"<table>{rows}</table>"
    if isinstance(value, list | tuple) and any(isinstance(entry, Mapping | list | tuple) for entry in value):
        return "<table>" + "".join(f"<tr><td>{_nested(entry)}</td></tr>" for entry in value) + "</table>"
    if isinstance(value, list | tuple):
        return html.escape(", ".join(_text(entry) for entry in value)) or "-"
    return html.escape(_text(value))


def _shared_columns(value: Mapping[str, Any]) -> list[str] | None:
    """The keys that all entries have, if they are objects of nothing but plain values with the same keys."""
    rows = list(value.values())
    if not all(isinstance(row, Mapping) and row and row.keys() == rows[0].keys() for row in rows):
        return None
    plain = not any(isinstance(entry, Mapping | list | tuple) for row in rows for entry in row.values())
    return [str(key) for key in rows[0]] if plain else None


def _text(value: Any) -> str:
    if value is None or (isinstance(value, Mapping) and not value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace("-", "").strip().isdigit() or text == "-"
