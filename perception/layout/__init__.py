"""The common dataset layout, read and written in this one place (numpy and OpenCV only).

    OUT/dataset.json                        DatasetLabels.to_json()
    OUT/images/<split>/<name>.jpg           or .png; splits are "train", "val", "test"
    OUT/boxes/<split>.json                  COCO: the dataset's own categories; iscrowd = 1 marks an ignore region
    OUT/masks/<folder>/<split>/<name>.png   the dataset's own label ids, one channel uint8, 255 = not labelled

An image that is not in the COCO file is not annotated for boxes; one without a mask file, not for that head.
Legend: N = boxes of an image, M = ignore regions of an image, H, W = its height and width.
"""

from perception.layout.reading import IMAGE_SUFFIXES, SPLITS, Sample, read_layout, split_weight
from perception.layout.report import Report
from perception.layout.writing import LayoutWriter

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "LayoutWriter", "Report", "Sample", "read_layout", "split_weight"]
