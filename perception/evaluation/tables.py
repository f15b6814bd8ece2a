"""The figures of an evaluation -> text for people to read, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perception.evaluation.extra import extra_lines
from perception.evaluation.percent import percent

__all__ = ["summary_table", "tables"]

COLUMNS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


def tables(result: dict[str, Any]) -> str:
    """The figures of one dataset, in percent, for people to read."""
    lines = [f"{result['dataset']} {result['split']}: {result['images']} images"]
    lines += [f"  not evaluated, because the model lacks it: {task}" for task in result["missing"]]
    if boxes := result["boxes"]:
        rows = [(name + "*" * (not row["exhaustive"]), row) for name, row in boxes["classes"].items()] + [
            ("all", boxes)
        ]
        width = max(len(name) for name, _ in rows)
        lines.append(f"  {'boxes':{width}} " + "".join(f"{title:>8}" for title in COLUMNS.values()) + "   instances")
        for name, row in rows:
            lines.append(
                f"  {name:{width}} " + "".join(percent(row[key]) for key in COLUMNS) + f"{row['instances']:12}"
            )
        if not all(row["exhaustive"] for row in boxes["classes"].values()):
            lines.append("  * not every instance is labelled: the figure is lower than the truth")
    for head, mask in result["masks"].items():
        rows = [*mask["labels"].items(), ("mean", {"IoU": mask["mIoU"], "pixels": mask["pixels"]})]
        width = max(len(head), *(len(name) for name, _ in rows))
        lines.append(f"  {head:{width}} {'IoU':>8}   % of pixels")
        for name, row in rows:
            share = row["pixels"] / mask["pixels"] if mask["pixels"] else None
            lines.append(f"  {name:{width}} {percent(row['IoU'])}{percent(share):>14}")
        lines.append(f"  {'pixel accuracy':{width}} {percent(mask['pixel_accuracy'])}")
    lines += extra_lines(result)
    return "\n".join(lines)


def summary_table(results: Sequence[dict[str, Any]]) -> str:
    """One line for each dataset."""
    heads = list(dict.fromkeys(head for result in results for head in result["masks"]))
    width = max(len("dataset"), *(len(result["dataset"]) for result in results))
    lines = [
        f"{'dataset':{width}} {'split':>6} {'images':>7}      AP    AP50" + "".join(f"{h + ' mIoU':>13}" for h in heads)
    ]
    for result in results:
        boxes = result["boxes"] or {"AP": None, "AP50": None}
        figures = percent(boxes["AP"]) + percent(boxes["AP50"])
        figures += "".join(f"{percent(result['masks'].get(head, {}).get('mIoU')):>13}" for head in heads)
        lines.append(f"{result['dataset']:{width}} {result['split']:>6} {result['images']:7}{figures}")
    return "\n".join(lines)
