"""IoU of class maps over the confusion matrix of a whole dataset, in the dataset's own label space.

The rows are the dataset's labels; labels that mean the same set of our classes are one row. A pixel is right if the
predicted class is in the set of its true label. Otherwise it counts as the first label whose set has the predicted
class, or, if no label has it, as "none": missed, but not taken for something else. Pixels of id 255, of an id that the
dataset does not declare and of a label with an empty set do not count.

Legend: H, W = height, width; C = classes of the model's head; G = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.labels import MaskLabels

__all__ = ["MaskEvaluation", "iou_from_confusion"]


class MaskEvaluation:
    """Counts the pixels of one class map after the other, then says the IoU."""

    def __init__(self, labels: MaskLabels, class_names: Sequence[str]) -> None:
        """`class_names` are the classes of the model's head by id.

        Raises ValueError if the labels know none of them: then the head speaks of something else.
        """
        if not set(class_names) & set(labels.classes):
            raise ValueError(
                f"the model's head has the classes {', '.join(class_names)}, but the dataset's labels are sets of: "
                f"{', '.join(labels.classes)}; evaluate on a dataset that the head was made for"
            )
        self.class_names = tuple(class_names)
        self.images = 0
        self._label_ids: dict[frozenset[str], list[int]] = {}  # set -> label ids: the rows
        for label in sorted(labels.sets):
            if labels.sets[label]:
                self._label_ids.setdefault(labels.sets[label], []).append(label)
        self.names: list[str] = []
        for members, ids in self._label_ids.items():
            merged = "|".join(name for name in labels.classes if name in members)
            name = labels.names[ids[0]] if len(ids) == 1 else merged
            self.names.append(f"{name} ({ids[0]})" if name in self.names else name)
        own = dict(zip(labels.classes, labels.label_from_class().tolist(), strict=True))
        self._label_of_class = [own.get(name, -1) for name in self.class_names]
        self._joint = np.zeros((256, len(self.class_names)), np.int64)  # pixels of each (label id, predicted class)

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """One image: (H, W) uint8 predicted class ids, and (H, W) uint8 label ids of the dataset.

        Raises ValueError if their sizes differ.
        """
        if predicted.shape != true.shape:
            raise ValueError(
                f"the class map is {predicted.shape}, but the mask is {true.shape}; they must be of one size"
            )
        C = len(self.class_names)
        assert int(predicted.max(initial=0)) < C
        pairs = true.astype(np.int64).ravel() * C + predicted.ravel()
        self._joint += np.bincount(pairs, minlength=256 * C).reshape(256, C)
        self.images += 1

    def confusion(self) -> np.ndarray:
        """(G, G + 1) int64 pixels: true row, predicted row; the last column is "none"."""
        G = len(self._label_ids)
        row_of_label = {label: row for row, ids in enumerate(self._label_ids.values()) for label in ids}
        matrix = np.zeros((G, G + 1), np.int64)
        for row, (members, ids) in enumerate(self._label_ids.items()):
            counts = self._joint[ids].sum(0)  # (C,)
            for name, label, count in zip(self.class_names, self._label_of_class, counts, strict=True):
                matrix[row, row if name in members else row_of_label.get(label, G)] += count
        return matrix

    def result(self) -> dict[str, Any]:
        """mIoU, pixel_accuracy, and for each row its IoU and its number of pixels.

        The IoU of a label that is neither there nor predicted is None, and mIoU leaves it out.
        """
        matrix = self.confusion()
        iou, pixels = iou_from_confusion(matrix), matrix.sum(1)
        total = int(pixels.sum())
        return {
            "mIoU": None if np.isnan(iou).all() else float(np.nanmean(iou)),
            "pixel_accuracy": float(matrix.trace() / total) if total else None,
            "images": self.images,
            "pixels": total,
            "labels": {
                name: {"IoU": None if np.isnan(value) else float(value), "pixels": int(count)}
                for name, value, count in zip(self.names, iou, pixels, strict=True)
            },
            "confusion": matrix.tolist(),
        }


def iou_from_confusion(matrix: np.ndarray) -> np.ndarray:
    """(G, G + 1) pixel counts -> (G,) float IoU, nan where a label is neither there nor predicted."""
    G = len(matrix)
    right = matrix.diagonal().astype(np.float64)
    union = matrix.sum(1) + matrix[:, :G].sum(0) - right
    iou: np.ndarray = np.divide(right, union, out=np.full(G, np.nan), where=union > 0)
    return iou
