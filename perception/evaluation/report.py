"""The figures of an evaluation and its worst frames -> one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.charts import bars, confusion
from perception.evaluation.tables import COLUMNS
from perception.evaluation.worst import WorstFrames
from perception.page import Page, percent

__all__ = ["write_report"]

KNOWN = {"dataset", "folder", "split", "images", "missing", "boxes", "masks", "worst"}  # the others are nested tables
RANKING = {
    "false boxes": "Boxes of at least 0.3 that match nothing (red on the right), by the highest score. Classes that "
    "the dataset does not label in full are never called false.",
    "missed boxes": "Objects that no box of at least 0.3 matches (red on the left), by their share of the frame.",
}
BY_IOU = (
    "By the IoU of each label of the one image, weighted by the label's true pixels; lowest first. On the right are "
)
BY_IOU += "the model's own classes, so a right answer may have another colour than the label on the left."


def write_report(
    folder: Path, results: Sequence[Mapping[str, Any]], worst: Sequence[WorstFrames], facts: Mapping[str, Any]
) -> Path:
    """Write FOLDER/index.html with its pictures; its path. `facts` are what is said of the model and the run."""
    page = Page(folder, "Evaluation", "Each dataset is judged in its own label space. Figures are in percent.")
    page.heading("Summary")
    page.figures(facts)
    heads = list(dict.fromkeys(head for result in results for head in result["masks"]))
    rows = []
    for result in results:
        boxes = result["boxes"] or {"AP": None, "AP50": None}
        mious = [percent(result["masks"].get(head, {}).get("mIoU")) for head in heads]
        rows.append(
            (result["dataset"], result["split"], result["images"], percent(boxes["AP"]), percent(boxes["AP50"]), *mious)
        )
    page.table(("dataset", "split", "images", "AP", "AP50", *(f"{head} mIoU" for head in heads)), rows)
    for result, frames in zip(results, worst, strict=True):
        _write_dataset(page, result, frames)
    return page.save()


def _write_dataset(page: Page, result: Mapping[str, Any], worst: WorstFrames) -> None:
    name = result["dataset"]
    page.heading(f"{name} {result['split']}")
    if result["missing"]:
        page.text(f"Not evaluated, because the model lacks it: {', '.join(result['missing'])}.")
    if result["boxes"]:
        _write_boxes(page, name, result["boxes"])
    for head, figures in result["masks"].items():
        _write_head(page, name, head, figures)
    for key, value in result.items():
        if key not in KNOWN and value:
            page.heading(key, 3)
            page.figures(value)
    for task in worst.tasks:
        page.heading(f"Worst: {task}", 3)
        page.text(RANKING.get(task, BY_IOU))
        for rank, frame in enumerate(worst.frames(task), 1):
            picture = cv2.imdecode(np.frombuffer(frame.picture, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            text = f"{rank}. {frame.name}: {frame.text}; truth left, prediction right"
            page.picture(f"{name}_{task}_{rank}", np.asarray(picture), text, scale=0.75)


def _write_boxes(page: Page, name: str, boxes: Mapping[str, Any]) -> None:
    page.heading("boxes", 3)
    rows = [
        (title + "*" * (not row["exhaustive"]), *(percent(row[key]) for key in COLUMNS), row["instances"])
        for title, row in boxes["classes"].items()
    ]
    rows.append(("all", *(percent(boxes[key]) for key in COLUMNS), boxes["instances"]))
    page.table(("class", *COLUMNS.values(), "instances"), rows)
    if not all(row["exhaustive"] for row in boxes["classes"].values()):
        page.text("* not every instance is labelled: the figure is lower than the truth")
    parts = {
        title: {key: 100 * row[key] for key in ("AP50", "AP") if row[key] is not None}
        for title, row in boxes["classes"].items()
        if row["instances"]
    }
    if parts:
        page.picture(f"{name}_boxes", bars(f"{name}: AP of each class, %", parts, "{:.1f}"), photo=False)


def _write_head(page: Page, name: str, head: str, figures: Mapping[str, Any]) -> None:
    page.heading(head, 3)
    total = figures["pixels"] or 1
    rows = [(label, percent(row["IoU"]), percent(row["pixels"] / total)) for label, row in figures["labels"].items()]
    rows += [("mean", percent(figures["mIoU"]), ""), ("pixel accuracy", percent(figures["pixel_accuracy"]), "")]
    page.table(("label", "IoU", "% of pixels"), rows)
    parts = {label: {"IoU": 100 * row["IoU"]} for label, row in figures["labels"].items() if row["IoU"] is not None}
    if parts:
        page.picture(f"{name}_{head}_iou", bars(f"{name} {head}: IoU, %", parts, "{:.1f}"), photo=False)
    labels = list(figures["labels"])
    matrix = confusion(
        f"{name} {head}: % of a label's pixels", np.array(figures["confusion"]), labels, [*labels, "none"]
    )
    text = "Rows: truth; columns: prediction; none = a class that no label of this dataset means."
    page.picture(f"{name}_{head}_confusion", matrix, text, photo=False)
