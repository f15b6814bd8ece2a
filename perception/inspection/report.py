"""A dataset's surveys -> JSON values, lines for the terminal, and a page with pictures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from perception.charts import bars, histogram
from perception.inspection.duplicates import Duplicates
from perception.inspection.sheets import grid, pair, sheet, spread
from perception.inspection.survey import Survey, label_name
from perception.labels import IGNORE, DatasetLabels, MaskLabels
from perception.layout import Sample
from perception.page import Page, percent

__all__ = ["figures", "lines", "write_page"]

HEIGHTS = (0, 4, 8, 16, 32, 64, 128, 256, 512)  # px, edges of the bins; the last is open
ASPECTS = (0, 0.25, 0.5, 0.8, 1.25, 2, 4, 8)  # width / height
QUANTILES = (0, 10, 50, 90, 100)  # percent
PAIRS_SHOWN = 4


def figures(labels: DatasetLabels, surveys: list[Survey], alike: list[Duplicates]) -> dict[str, Any]:
    """Everything that was counted, as plain JSON values."""
    return {
        "dataset": labels.name,
        "licence": labels.licence,
        "labels": labels.to_json(),
        "splits": {
            found.split: {
                "images": len(found.names),
                "sizes": dict(found.sizes.most_common()),
                "files": dict(found.files.most_common()),
                "annotated": dict(found.annotated),
                "boxes": dict(found.boxes.most_common()),
                "images_with_box": dict(found.box_images.most_common()),
                "ignore_regions": found.ignore_regions,
                "box_height_px": _quantiles(found.heights_px),
                "box_height_model_px": _quantiles(found.model_px),
                "box_aspect": _quantiles(found.aspects),
                "pixels": {head: dict(counts.most_common()) for head, counts in found.pixels.items()},
                "images_with_label": {head: dict(counts.most_common()) for head, counts in found.mask_images.items()},
                "findings": found.findings.to_json(),
            }
            for found in surveys
        },
        "duplicates": [row.to_json() for row in alike],
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    """ "p50" -> value."""
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in QUANTILES}


def lines(labels: DatasetLabels, surveys: list[Survey], alike: list[Duplicates]) -> list[str]:
    """The same for the terminal, in short."""
    text = [f"{labels.name} ({labels.licence})"]
    for found in surveys:
        tasks = ", ".join(f"{task} on {count}" for task, count in found.annotated.items()) or "nothing"
        sizes = ", ".join(f"{count} x {size}" for size, count in found.sizes.most_common(3))
        more = f" and {len(found.sizes) - 3} other sizes" if len(found.sizes) > 3 else ""
        text.append(f"{found.split}: {len(found.names)} images ({sizes}{more}); annotated: {tasks}")
        if found.boxes:
            text.append("  boxes: " + ", ".join(f"{count} {name}" for name, count in found.boxes.most_common()))
        for kind, count in found.findings.counts.most_common():
            text.append(f"  {count} x {kind} (first: {found.findings.examples[kind][0]})")
    return text + [f"duplicates {row.line()}" for row in alike if row.images]


def write_page(
    out: Path,
    folder: Path,
    labels: DatasetLabels,
    samples: dict[str, list[Sample]],
    surveys: list[Survey],
    alike: list[Duplicates],
    model_hw: tuple[int, int],
    count: int,
) -> Path:
    """Write OUT/index.html with its pictures, and OUT/inspection.json; the path of the page."""
    page = Page(out, f"Dataset {labels.name}", f"Licence: {labels.licence}. Source: {labels.source or 'not stated'}.")
    _write_overview(page, surveys)
    _write_findings(page, surveys)
    _write_duplicates(page, folder, alike)
    _write_meaning(page, labels)
    _write_counts(page, labels, surveys)
    if any(found.heights_px for found in surveys):
        _write_box_sizes(page, surveys, model_hw)
    for split, of_split in samples.items():
        page.heading(f"Samples: {split}")
        layers = [("boxes", [sample for sample in of_split if sample.boxes is not None])] if labels.boxes else []
        layers += [(head, [sample for sample in of_split if head in sample.masks]) for head in labels.masks]
        for layer, annotated in layers:
            if annotated:
                shown = min(count, len(annotated))
                text = f"{split}: {layer} of {shown} of {len(annotated)} images, evenly over the split"
                picture = sheet(labels, layer, spread(annotated, count))
                page.picture(f"samples_{split}_{layer}", picture, text)
        if not any(annotated for _, annotated in layers):
            page.text("Nothing is annotated here.")
    (out / "inspection.json").write_text(json.dumps(figures(labels, surveys, alike), indent=1) + "\n")
    return page.save()


def _write_overview(page: Page, surveys: list[Survey]) -> None:
    page.heading("Splits")
    rows = []
    for found in surveys:
        rows.append(
            (
                found.split,
                len(found.names),
                _most(found.sizes),
                _most(found.files),
                ", ".join(f"{task}: {n}" for task, n in found.annotated.items()) or "nothing",
                sum(found.boxes.values()),
                found.ignore_regions,
            )
        )
    page.table(("split", "images", "sizes", "files", "annotated images", "boxes", "ignore regions"), rows)


def _most(counts: Counter[str], shown: int = 4) -> str:
    parts = [f"{count} x {name}" for name, count in counts.most_common(shown)]
    return "; ".join(parts + ([f"{len(counts) - shown} others"] if len(counts) > shown else []))


def _write_findings(page: Page, surveys: list[Survey]) -> None:
    page.heading("What looks wrong")
    rows = [
        (found.split, count, kind, "; ".join(found.findings.examples[kind][:3]))
        for found in surveys
        for kind, count in found.findings.counts.most_common()
    ]
    if rows:
        page.table(("split", "how often", "what", "first examples"), rows)
        page.text("More examples are in inspection.json. Not each of them is a mistake: it is worth a look.")
    else:
        page.text("Nothing that this inspection looks for.")


def _write_duplicates(page: Page, folder: Path, alike: list[Duplicates]) -> None:
    page.heading("Duplicates")
    page.text(
        "Exact: the same file. Near: a 64-bit difference hash within 10 bits, and 32x32 thumbnails that agree. "
        "What is in two splits makes figures on the second look better than they are."
    )
    page.table(
        ("split", "against", "images with a duplicate", "%", "exact pairs", "near pairs"),
        [
            (row.second, row.first, row.images, percent(row.images / max(row.of, 1)), row.exact, row.near)
            for row in alike
        ],
    )
    for row in alike:
        tiles = []
        for first, second, exact, grey in row.pairs[:PAIRS_SHOWN]:
            paths = folder / "images" / row.first / first, folder / "images" / row.second / second
            kind = "the same file" if exact else f"near, mean difference {grey:.1f} of 255"
            tiles.append(pair(*paths, (f"{row.first}: {first}", f"{row.second}: {second} ({kind})")))
        if tiles:
            name, text = f"duplicates_{row.first}_{row.second}", f"{row.line()}; the most alike are shown"
            page.picture(name, grid(tiles, 1), text)


def _write_meaning(page: Page, labels: DatasetLabels) -> None:
    page.heading("What its labels mean")
    if labels.boxes:
        page.heading("Boxes", 3)
        rows = [
            (name, ", ".join(sorted(members)) or "ignore region", "yes" if members <= labels.boxes.exhaustive else "no")
            for name, members in labels.boxes.sets.items()
        ]
        rows = [(name, text, every if text != "ignore region" else "-") for name, text, every in rows]
        rows += [(name, "none: a class for train --own-labels", "-") for name in labels.boxes.own]
        page.table(("category", "our classes that it may be", "every instance is labelled"), rows)
    for head, spec in labels.masks.items():
        page.heading(f"Head {head}, from masks/{spec.folder}", 3)
        rows_by_id = [
            (label, spec.names[label], ", ".join(sorted(spec.sets[label])) or "ignored") for label in sorted(spec.sets)
        ]
        page.table(("id", "label", "our classes that it may be"), rows_by_id)


def _write_counts(page: Page, labels: DatasetLabels, surveys: list[Survey]) -> None:
    page.heading("How much of each class")
    if labels.boxes and any(found.boxes for found in surveys):
        names = sorted(labels.boxes.categories, key=lambda name: -sum(found.boxes[name] for found in surveys))
        rows = {
            name: {found.split: float(found.boxes[name]) for found in surveys if found.annotated["boxes"]}
            for name in names
            if labels.boxes.sets.get(name) or name in labels.boxes.own
        }
        page.picture("box_counts", bars("Boxes of each category (bars: logarithm)", rows, log=True), photo=False)
    for head, spec in labels.masks.items():
        totals = {found.split: sum(found.pixels.get(head, {}).values()) for found in surveys}
        if any(totals.values()):
            rows = {
                name: {s.split: 100 * s.pixels[head][name] / totals[s.split] for s in surveys if totals[s.split]}
                for name in _names(spec)
            }
            title = f"{head}: % of pixels"
            page.picture(f"pixels_{head}", bars(title, rows, "{:.2f} %"), photo=False)


def _names(spec: MaskLabels) -> list[str]:
    return list(dict.fromkeys(label_name(spec, label) for label in [*sorted(spec.sets), IGNORE]))


def _write_box_sizes(page: Page, surveys: list[Survey], model_hw: tuple[int, int]) -> None:
    page.heading("Box sizes")
    h, w = model_hw
    surveys = [found for found in surveys if found.heights_px]
    header = ("split", "of boxes", *(f"{q} %" for q in QUANTILES))
    rows = []
    for found in surveys:
        for name, values in (
            ("height, frame px", found.heights_px),
            (f"height, px of the model's {w}x{h}", found.model_px),
            ("width / height", found.aspects),
        ):
            rows.append((found.split, name, *_quantiles(values).values()))
    page.text("Smallest, 10 %, median, 90 % and greatest.")
    page.table(header, rows)
    for name, title, edges, unit in (
        ("heights_px", "Box height in the frame", HEIGHTS, "px"),
        ("model_px", f"Box height in the model's input, {w}x{h}", HEIGHTS, "px"),
        ("aspects", "Box aspect ratio", ASPECTS, "width / height"),
    ):
        bins = (*edges, np.inf)
        counts = {found.split: np.histogram(getattr(found, name), bins)[0].tolist() for found in surveys}
        ticks = [*(f"{edge:g}" for edge in edges), "more"]
        page.picture(f"box_{name}", histogram(title, ticks, counts, unit), "% of the boxes of a split", photo=False)
