"""IoU in a dataset's own label space, on small cases and against a pixel-by-pixel count."""

from __future__ import annotations

import numpy as np
import pytest

from perception.evaluation.masks import MaskEvaluation, iou_from_confusion
from perception.labels import IGNORE, SCENE_CLASSES, MaskLabels

CLASSES = ("road", "sky", "car", "truck", "pole")
ROAD, SKY, CAR, TRUCK, POLE = range(5)


def labels(sets: dict[int, tuple[str, ...]], classes: tuple[str, ...] = CLASSES) -> MaskLabels:
    names = {label: f"label {label}" for label in sets}
    return MaskLabels("x", names, {label: frozenset(members) for label, members in sets.items()}, classes)


THREE = labels({0: ("road",), 1: ("sky",), 7: ("car", "truck")})


def counted(spec: MaskLabels, true: list, predicted: list, names: tuple[str, ...] = CLASSES) -> MaskEvaluation:
    evaluation = MaskEvaluation(spec, names)
    evaluation.add(np.array(predicted, np.uint8), np.array(true, np.uint8))
    return evaluation


def test_known_iou():
    result = counted(THREE, [[0, 0, 0, 1], [1, 7, 7, 7]], [[ROAD, ROAD, SKY, SKY], [SKY, CAR, CAR, ROAD]]).result()
    iou = {name: row["IoU"] for name, row in result["labels"].items()}
    assert iou == pytest.approx({"label 0": 2 / 4, "label 1": 2 / 3, "label 7": 2 / 3})
    assert result["mIoU"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    assert result["pixel_accuracy"] == pytest.approx(6 / 8)
    assert (result["images"], result["pixels"], result["labels"]["label 0"]["pixels"]) == (1, 8, 3)


def test_any_class_of_the_true_set_is_right():
    result = counted(THREE, [[7, 7, 7]], [[CAR, TRUCK, CAR]]).result()
    assert result["labels"]["label 7"]["IoU"] == 1 and result["pixel_accuracy"] == 1


def test_a_class_in_two_sets_is_right_for_both_and_else_counts_as_the_first():
    spec = labels({0: ("road", "pole"), 1: ("pole", "sky"), 2: ("car",)})
    confusion = counted(spec, [[0, 1, 2]], [[POLE, POLE, POLE]]).confusion()
    np.testing.assert_array_equal(confusion, [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])


def test_a_class_that_no_label_has_is_missed_but_false_for_nobody():
    evaluation = counted(THREE, [[0, 0, 1, 1]], [[ROAD, POLE, SKY, SKY]])
    np.testing.assert_array_equal(evaluation.confusion(), [[1, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 0]])
    assert evaluation.result()["labels"]["label 0"]["IoU"] == 0.5
    assert evaluation.result()["labels"]["label 1"]["IoU"] == 1
    assert evaluation.result()["pixel_accuracy"] == 0.75


def test_unlabelled_empty_and_undeclared_labels_do_not_count():
    spec = labels({0: ("road",), 1: ("sky",), 2: ()})
    result = counted(spec, [[0, IGNORE, 2, 99, 1]], [[ROAD, ROAD, ROAD, ROAD, SKY]]).result()
    assert result["mIoU"] == 1 and result["pixels"] == 2 and list(result["labels"]) == ["label 0", "label 1"]


def test_an_absent_label_has_no_iou_and_does_not_pull_the_mean_down():
    result = counted(THREE, [[0, 0]], [[ROAD, ROAD]]).result()
    assert result["labels"]["label 1"] == {"IoU": None, "pixels": 0}
    assert result["mIoU"] == 1
    predicted = counted(THREE, [[0, 0]], [[ROAD, SKY]]).result()  # not there, but predicted: wrong, so 0
    assert predicted["labels"]["label 1"]["IoU"] == 0 and predicted["mIoU"] == 0.25
    np.testing.assert_array_equal(iou_from_confusion(np.zeros((2, 3), np.int64)), [np.nan, np.nan])


def test_nothing_labelled_has_no_figure():
    result = counted(THREE, [[IGNORE]], [[ROAD]]).result()
    assert result["mIoU"] is None and result["pixel_accuracy"] is None and result["pixels"] == 0
    assert MaskEvaluation(THREE, CLASSES).result()["mIoU"] is None  # not even an image


def test_labels_of_one_set_are_one_row():
    spec = labels({0: ("road",), 3: ("sky",), 5: ("road",)})
    result = counted(spec, [[0, 5, 3, 3]], [[ROAD, ROAD, ROAD, SKY]]).result()
    assert {name: row["IoU"] for name, row in result["labels"].items()} == pytest.approx(
        {"road": 2 / 3, "label 3": 0.5}
    )


def test_labels_of_one_name_stay_apart():
    spec = MaskLabels("x", {0: "thing", 1: "thing"}, {0: frozenset({"road"}), 1: frozenset({"sky"})}, CLASSES)
    assert list(counted(spec, [[0, 1]], [[ROAD, ROAD]]).result()["labels"]) == ["thing", "thing (1)"]


def test_the_models_classes_are_matched_by_name_not_by_position():
    result = counted(THREE, [[0, 1, 7, 7]], [[2, 1, 0, 3]], names=("truck", "sky", "road", "something else")).result()
    assert result["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]


def test_a_head_that_speaks_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"cat, dog.*road, sky"):
        MaskEvaluation(THREE, ("cat", "dog"))


def test_the_confusion_is_of_the_whole_dataset_not_averaged_over_images():
    evaluation = MaskEvaluation(THREE, CLASSES)
    evaluation.add(np.full((1, 1), SKY, np.uint8), np.zeros((1, 1), np.uint8))  # all wrong: one pixel
    evaluation.add(np.full((3, 3), ROAD, np.uint8), np.zeros((3, 3), np.uint8))  # all right: nine
    assert evaluation.result()["labels"]["label 0"]["IoU"] == pytest.approx(9 / 10)
    assert evaluation.result()["images"] == 2


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        MaskEvaluation(THREE, CLASSES).add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_pixel_by_pixel_count(seed: int):
    rng = np.random.default_rng(seed)
    sets = {
        int(label): tuple(rng.choice(SCENE_CLASSES, rng.integers(0, 5), replace=False))
        for label in rng.choice(IGNORE, 8, replace=False)
    }
    spec = labels(sets, SCENE_CLASSES)
    evaluation = MaskEvaluation(spec, SCENE_CLASSES)
    rows = list(dict.fromkeys(spec.sets[label] for label in sorted(sets) if sets[label]))
    expected = np.zeros((len(rows), len(rows) + 1), int)
    for hw in ((17, 23), (31, 5)):
        true = rng.choice([*sets, IGNORE], hw).astype(np.uint8)
        predicted = rng.integers(0, len(SCENE_CLASSES), hw).astype(np.uint8)
        evaluation.add(predicted, true)
        for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            members, name = spec.sets.get(t, frozenset()), SCENE_CLASSES[p]
            if not members:
                continue
            first = next((rows.index(spec.sets[label]) for label in sorted(sets) if name in sets[label]), len(rows))
            expected[rows.index(members), rows.index(members) if name in members else first] += 1
    np.testing.assert_array_equal(evaluation.confusion(), expected)
