"""Figures against two other implementations of the same definitions: torchmetrics and faster-coco-eval."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from perception.evaluation import boxes as evaluation_boxes
from perception.evaluation.boxes import BoxEvaluation
from perception.evaluation.lanes import DriveEvaluation
from perception.evaluation.masks import MaskEvaluation
from perception.labels import DRIVE_CLASSES, BoxLabels, MaskLabels
from perception.structures import Detections

NAMES = ("car", "truck", "pedestrian")
LABELS = BoxLabels({name: frozenset({name}) for name in NAMES}, frozenset(NAMES))


def random_maps(classes: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five images of odd sizes, half of whose pixels are right, with some that are not labelled."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in ((37, 53), (64, 64), (1, 200), (90, 31), (12, 12)):
        true = rng.integers(0, classes, size).astype(np.uint8)
        predicted = np.where(rng.random(size) < 0.5, true, rng.integers(0, classes, size)).astype(np.uint8)
        true[rng.random(size) < 0.1] = 255
        pairs.append((predicted, true))
    return pairs


def labels_of(classes: tuple[str, ...]) -> MaskLabels:
    return MaskLabels("m", dict(enumerate(classes)), {k: frozenset({name}) for k, name in enumerate(classes)}, classes)


def test_miou_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    classes = tuple(f"class {k}" for k in range(7))
    ours = MaskEvaluation(labels_of(classes), classes)
    theirs = {a: classification.MulticlassJaccardIndex(7, average=a, ignore_index=255) for a in ("macro", "none")}
    for predicted, true in random_maps(7, 0):
        ours.add(predicted, true)
        for metric in theirs.values():
            metric.update(torch.from_numpy(predicted).long(), torch.from_numpy(true).long())
    result = ours.result()
    assert result["mIoU"] == pytest.approx(float(theirs["macro"].compute()), abs=1e-6)
    each = [row["IoU"] for row in result["labels"].values()]
    assert each == pytest.approx(theirs["none"].compute().tolist(), abs=1e-6)
    assert 0.2 < result["mIoU"] < 0.6


def test_lane_figures_agree_with_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    metrics = {
        "IoU": classification.BinaryJaccardIndex(ignore_index=255),
        "recall": classification.BinaryRecall(ignore_index=255),
        "precision": classification.BinaryPrecision(ignore_index=255),
        "specificity": classification.BinarySpecificity(ignore_index=255),
    }
    ours = DriveEvaluation(labels_of(DRIVE_CLASSES), DRIVE_CLASSES)
    for predicted, true in random_maps(3, 1):
        ours.add(predicted, true)
        lane = np.where(true == 255, 255, true == 2)
        for metric in metrics.values():
            metric.update(torch.from_numpy(predicted == 2).long(), torch.from_numpy(lane).long())
    lane = ours.result()["lane"]
    for name, metric in metrics.items():
        assert lane[name] == pytest.approx(float(metric.compute()), abs=1e-6), name


def random_boxes(seed: int) -> BoxEvaluation:
    """Thirty images with jittered, doubled, misnamed and invented boxes, of all sizes, and regions to be ignored."""
    rng = np.random.default_rng(seed)
    evaluation = BoxEvaluation(LABELS, NAMES)
    for _ in range(30):
        count = int(rng.integers(0, 9))
        corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(8, 160, (count, 2))
        objects = np.hstack([corner, corner + side])
        kinds = rng.integers(0, 3, count)
        again = rng.integers(0, max(count, 1), 2 * count)
        jitter = objects[again] + rng.normal(0, 0.12, (len(again), 4)) * np.tile(side[again], 2)
        corner = rng.uniform(0, 400, (4, 2))
        seen = np.vstack([jitter, np.hstack([corner, corner + rng.uniform(8, 160, (4, 2))])])
        names = np.concatenate([np.where(rng.random(len(again)) < 0.8, kinds[again], 0), rng.integers(0, 3, 4)])
        good = (seen[:, 2] > seen[:, 0]) & (seen[:, 3] > seen[:, 1])
        found = Detections(seen[good].astype(np.float32), rng.random(good.sum()).astype(np.float32), names[good])
        ignore = np.array([[300, 300, 460, 460]], np.float32) if rng.random() < 0.3 else np.zeros((0, 4), np.float32)
        evaluation.add(found, objects.astype(np.float32), [NAMES[k] for k in kinds], ignore)
    return evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_ap_agrees_with_faster_coco_eval(seed, monkeypatch):
    faster = pytest.importorskip("faster_coco_eval")
    ours = random_boxes(seed).result()
    monkeypatch.setattr(evaluation_boxes, "COCO", faster.COCO)
    monkeypatch.setattr(evaluation_boxes, "COCOeval", faster.COCOeval_faster)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = random_boxes(seed).result()
    assert 0.1 < ours["AP"] < 0.9 and ours["ignore_regions"] > 0
    for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"):
        assert theirs[key] == pytest.approx(ours[key], abs=1e-6), key
        for name, row in ours["classes"].items():
            assert theirs["classes"][name][key] == pytest.approx(row[key], abs=1e-6), (name, key)
