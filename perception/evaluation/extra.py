"""What an evaluation may be asked for beyond AP and IoU: slices, lane figures of a stated width, published definitions,
calibration, test-time augmentation. figures.py asks here for the measures, tables.py for the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from perception.evaluation.lanes import DriveEvaluation, drive_lines
from perception.evaluation.measure import Measure, Plan, Truth
from perception.evaluation.slices import slice_tables
from perception.labels import DatasetLabels
from perception.model import Model
from perception.structures import Result

if TYPE_CHECKING:
    from perception.evaluation.views import ProbableEngine, ProbableResult

__all__ = ["Extra", "extra_lines", "extra_measures", "judged_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """Beyond AP and IoU."""

    slices: bool = False  # figures of parts of the dataset: images by attribute, objects by what they are like
    lane_width: int | None = None  # pixels of the frame that true lane markings are drawn wide; None = as annotated
    legacy_batch: int = 0  # images in a batch of the published definitions; 0 = without them
    calibration: bool = False
    tta: str = ""  # views to average over, see views.parse_views; "" = none

    def __post_init__(self) -> None:
        if self.lane_width is not None and self.lane_width < 1:
            raise ValueError(f"--lane-width must be 1 pixel or more, but got {self.lane_width}")
        if self.legacy_batch < 0:
            raise ValueError(f"--legacy-batch must be 1 image or more, but got {self.legacy_batch}")


class DriveMeasure:
    """Yes-or-no figures of the drive head."""

    def __init__(self, labels: DatasetLabels, class_names: tuple[str, ...], lane_width: int | None) -> None:
        self.evaluation = DriveEvaluation(labels.masks["drive"], class_names, lane_width)

    def add(self, found: Result, truth: Truth) -> None:
        if "drive" in truth.masks:
            self.evaluation.add(found.class_maps["drive"], truth.masks["drive"])

    def result(self) -> dict[str, Any]:
        return self.evaluation.result()


class LegacyMeasure:
    """The definitions of published tables."""

    def __init__(self, todo: Plan, model: Model, extra: Extra) -> None:
        from perception.evaluation.legacy import LegacyEvaluation  # needs pycocotools

        metadata = model.engine.metadata
        self.evaluation = LegacyEvaluation(
            todo.labels.boxes if todo.boxes else None,
            metadata.box_names,
            todo.labels.masks["drive"] if "drive" in todo.heads else None,
            metadata.heads.get("drive", ()),
            extra.lane_width,
            extra.legacy_batch,
        )

    def add(self, found: Result, truth: Truth) -> None:
        sample = truth.sample
        if "drive" in truth.masks:
            self.evaluation.add_map(found.class_maps["drive"], truth.masks["drive"])
        if sample.boxes is not None:
            self.evaluation.add_boxes(found.detections, sample.boxes, sample.categories, sample.ignore)

    def result(self) -> dict[str, Any]:
        return self.evaluation.result()


class CalibrationMeasure:
    """How far scores and probabilities can be believed."""

    def __init__(self, todo: Plan, model: Model) -> None:
        from perception.evaluation.calibration import BoxCalibration, MaskCalibration  # needs pycocotools

        metadata = model.engine.metadata
        self.boxes = BoxCalibration(todo.labels.boxes, metadata.box_names) if todo.labels.boxes and todo.boxes else None
        self.masks: dict[str, MaskCalibration] | None = None
        if hasattr(model.engine, "probabilities") or not todo.heads:
            self.masks = {h: MaskCalibration(todo.labels.masks[h], metadata.heads[h]) for h in todo.heads}

    def add(self, found: Result, truth: Truth) -> None:
        sample = truth.sample
        if self.boxes and sample.boxes is not None:
            self.boxes.add(found.detections, sample.boxes, sample.categories, sample.ignore)
        for head, mask in (truth.masks if self.masks else {}).items():
            sure = cast("ProbableResult", found)  # of judged_model
            assert self.masks and sure.probabilities is not None and sure.letterbox is not None
            self.masks[head].add(sure.probabilities[head], sure.letterbox, mask)

    def result(self) -> dict[str, Any]:
        """boxes: None without boxes; masks: by head, None where the model has no probabilities."""
        masks = None if self.masks is None else {head: measure.result() for head, measure in self.masks.items()}
        return {"boxes": self.boxes.result() if self.boxes else None, "masks": masks}


def extra_measures(todo: Plan, model: Model, extra: Extra) -> dict[str, Measure]:
    """The measures asked for, by the name of their figures. "drive" is one wherever the drive head is judged."""
    measures: dict[str, Measure] = {}
    if "drive" in todo.heads:
        measures["drive"] = DriveMeasure(todo.labels, model.engine.metadata.heads["drive"], extra.lane_width)
    if extra.legacy_batch:
        measures["legacy"] = LegacyMeasure(todo, model, extra)
    if extra.calibration:
        measures["calibration"] = CalibrationMeasure(todo, model)
    return measures


def judged_model(model: Model, score_threshold: float, extra: Extra) -> Model:
    """The Model that answers: plain, or with probabilities where they are asked for and can be had.

    Raises ValueError if test-time augmentation is asked of an ONNX file.
    """
    if not hasattr(model.engine, "probabilities"):
        if extra.tta:
            raise ValueError(
                f"--tta {extra.tta} averages probabilities, which an ONNX file does not give; name the run directory, "
                "or add --provider torch"
            )
        return Model(model.engine, score_threshold)
    if not extra.tta and not extra.calibration:
        return Model(model.engine, score_threshold)
    from perception.evaluation.views import ProbableModel, parse_views  # needs pycocotools

    return ProbableModel(cast("ProbableEngine", model.engine), score_threshold, parse_views(extra.tta))


def extra_lines(result: dict[str, Any]) -> list[str]:
    """What of the figures of one dataset is not AP or IoU, as lines of tables, in percent."""
    lines = drive_lines(result["drive"]) if "drive" in result else []
    if "legacy" in result:
        from perception.evaluation.legacy import legacy_lines

        lines += legacy_lines(result)
    if "slices" in result:
        lines += slice_tables(result["slices"])
    if "calibration" in result:
        from perception.evaluation.calibration import calibration_lines

        lines += calibration_lines(result["calibration"])
    return lines
