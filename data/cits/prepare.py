"""CITS (Spanish roads) -> the common layout: boxes of traffic signs, or lane masks of motorway frames."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception.cli import run
from perception.labels import DatasetLabels
from perception.layout import Attribute, Report
from perception.prepare import PrepareConfig, box_labels, images_in, mask_labels, number, progress, read_mask, summary

SIGN_CLASSES = (
    "Ceda_el_paso", "Fin_de_restriccion", "Limite_de_velocidad", "Obligatoriedad", "Peligro", "Prohibicion",
)  # fmt: skip
SIGNS = DatasetLabels(
    name="cits_signs",
    licence="research; ask the authors",
    source="https://doi.org/10.3390/s21041254 (Ceit-TSR and Ceit-Foggy, from the authors)",
    boxes=box_labels({name: {"traffic sign"} for name in SIGN_CLASSES}, exhaustive=()),  # direction signs are left out
)
SCENE = {  # background holds hard shoulders and the opposite carriageway, which are road: it says nothing of the scene
    0: ("background", ()),
    1: ("drivable", {"road"}),
    2: ("lane marking", {"lane marking"}),
}
DRIVE = {
    0: ("background", {"background"}),
    1: ("drivable", {"drivable"}),
    2: ("lane marking", {"lane marking"}),
}
LANES = DatasetLabels(
    name="cits_lanes",
    licence="research; ask the authors. Masks are pseudo-labels by TwinLiteNet (MIT)",
    source="https://doi.org/10.3390/s21041254 (Ceit-TSR and Ceit-Foggy, from the authors)",
    masks={"drive": mask_labels("drive", "lanes", DRIVE), "scene": mask_labels("scene", "lanes", SCENE)},
)


@dataclass(frozen=True, kw_only=True)
class CitsConfig(PrepareConfig):
    """Options of this converter."""

    part: Literal["signs", "lanes"]
    """signs: SOURCE_DIR holds images and 00_gt.csv. lanes: SOURCE_DIR holds folders Video1, Video2 ... of frames."""
    masks: Path | None = None
    """Folder of the lane masks, VideoN/<frame>.png; by default SOURCE_DIR with _lanes at its end."""


def read_signs(path: Path, report: Report) -> dict[str, list[tuple[list[float], str]]]:
    """00_gt.csv (file;"x;y;w;h";class, one row a box) -> file name -> (xyxy, class) of each of its boxes."""
    if not path.is_file():
        raise ValueError(f"SOURCE_DIR has no {path.name}: {path}; data/cits/README.md draws the expected layout")
    rows: dict[str, list[tuple[list[float], str]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.reader(file, delimiter=";"), 1):
            box = [number(value) for value in row[1].split(";")] if len(row) == 3 else []
            if len(box) != 4:
                report.problem('line that is not file;"x;y;w;h";class, dropped', f"{path.name} line {line}: {row}")
                continue
            x, y, w, h = box
            rows.setdefault(row[0], []).append(([x, y, x + w, y + h], row[2].strip()))
    return rows


def prepare_signs(config: CitsConfig) -> dict[str, Any]:
    """Convert the signs; every fifth image by name is val."""
    with config.writer(SIGNS) as writer:
        files = read_signs(config.source / "00_gt.csv", writer.report)
        for number_by_name, (name, rows) in enumerate(progress(sorted(files.items()))):
            split = "val" if number_by_name % 5 == 4 else "train"
            boxes, categories = [box for box, _ in rows], [category for _, category in rows]
            image = config.source / Path(name).name
            writer.add(split, image.stem, image, boxes=boxes, categories=categories)
    return writer.report.to_json()


def attributes(words: str) -> dict[str, Attribute]:
    """What a line of 00_gt.txt says, such as "Light fog" or "cloudy (dawn/dusk + rain)", as attributes of an image.

    weather: fog, rain, partly cloudy, cloudy or sunny, the worst that it names; fog: light, moderate or heavy;
    timeofday: dawn/dusk, if it says so. Empty for words of another kind.
    """
    words = words.lower().replace("sunny+cloudy", "partly cloudy")
    weather = next((name for name in ("fog", "rain", "partly cloudy", "cloudy", "sunny") if name in words), None)
    density = next((name for name in ("light", "moderate", "heavy") if f"{name} fog" in words), None)
    known = {"weather": weather, "fog": density, "timeofday": "dawn/dusk" if "dusk" in words else None}
    return {name: value for name, value in known.items() if value}


def read_weather(path: Path) -> dict[int, dict[str, Attribute]]:
    """00_gt.txt (Video 1;Cloudy;13;201, one line a video) -> video number -> attributes; empty without the file."""
    weather = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []:
        video, _, rest = line.partition(";")
        if (digits := video.removeprefix("Video").strip()).isdigit():
            weather[int(digits)] = attributes(rest.partition(";")[0])
    return weather


def prepare_lanes(config: CitsConfig) -> dict[str, Any]:
    """Convert the lanes; whole videos are held out as val: those whose number is a multiple of five."""
    masks = config.masks or config.source.with_name(f"{config.source.name}_lanes")
    notes: Counter[str] = Counter()
    with config.writer(LANES) as writer:
        if not masks.is_dir():
            raise ValueError(f"no lane masks: {masks} is not a folder; name it with --masks")
        weather = read_weather(config.source / "00_gt.txt")
        videos = sorted(path for path in config.source.iterdir() if path.is_dir())
        for image in progress([image for video in videos for image in images_in(video)]):
            video = image.parent.name
            digits = "".join(filter(str.isdigit, video))
            if not digits:
                writer.report.problem("folder without a video number, image skipped", f"{video}/{image.name}")
                continue
            mask = read_mask(masks / video / f"{image.stem}.png", writer.report)
            if mask is not None:
                split = "val" if int(digits) % 5 == 0 else "train"
                known = weather.get(int(digits), {})
                notes["image of a video whose weather 00_gt.txt does not say"] += not known
                writer.add(split, f"{video}_{image.stem}", image, masks={"lanes": mask}, attributes=known)
    return summary(writer.report, +notes)


def prepare(config: CitsConfig) -> dict[str, Any]:
    """Convert `config.source`; the summary as JSON values."""
    return prepare_signs(config) if config.part == "signs" else prepare_lanes(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Front door; the exit code."""
    return run(CitsConfig, prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
