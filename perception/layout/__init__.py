"""The common dataset layout, read and written in this one place (numpy and OpenCV only).

    OUT/dataset.json                        DatasetLabels.to_json()
    OUT/images/<split>/<name>.jpg           or .png; splits are "train", "val", "test"
    OUT/boxes/<split>.json                  COCO: the dataset's own categories; iscrowd = 1 marks an ignore region
    OUT/masks/<folder>/<split>/<name>.png   the dataset's own label ids, one channel uint8, 255 = not labelled
    OUT/attributes/<split>.json             optional: {"<name>.jpg": {"weather": "fog"}}, what is known of an image

An image that is not in the COCO file is not annotated for boxes; one without a mask file, not for that head.
What is known of a box, such as {"occlusion": 1, "truncation": 0.2, "distance_m": 23.4}, is "attributes" of its COCO
annotation, where CVAT writes it too. Attributes are the dataset's own words; only the evaluation's slices read them.
"""

from perception.layout.reading import IMAGE_SUFFIXES, SPLITS, Attribute, Sample, read_layout, split_weight
from perception.layout.report import Report
from perception.layout.writing import LayoutWriter

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "Attribute", "LayoutWriter", "Report", "Sample", "read_layout", "split_weight"]
