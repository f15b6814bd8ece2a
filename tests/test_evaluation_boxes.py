"""AP on cases with a known answer, and against a plain second implementation of COCO's definition."""

from __future__ import annotations

import numpy as np
import pytest

from perception.evaluation.boxes import BoxEvaluation, box_classes, iou_matrix
from perception.labels import BoxLabels
from perception.structures import Detections

NAMES = ("pedestrian", "rider", "car", "truck", "traffic light")  # the model's classes
PEDESTRIAN, RIDER, CAR, TRUCK, LIGHT = range(5)
NONE = np.zeros((0, 4), np.float32)


def labels(exhaustive: tuple[str, ...] = ("car",), **categories: tuple[str, ...]) -> BoxLabels:
    return BoxLabels({name: frozenset(members) for name, members in categories.items()}, frozenset(exhaustive))


CARS = labels(Car=("car",))


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, class id."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def evaluate_one(spec: BoxLabels, detections: Detections, truths: np.ndarray, ignore: np.ndarray = NONE) -> dict:
    """One image in which every truth is a Car."""
    evaluation = BoxEvaluation(spec, NAMES)
    evaluation.add(detections, truths, ["Car"] * len(truths), ignore)
    return evaluation.result()


def test_a_perfect_prediction_has_ap_1_in_the_band_of_its_size():
    result = evaluate_one(CARS, found((10, 10, 50, 50, 0.9, CAR)), boxes((10, 10, 50, 50)))
    assert result["AP"] == result["AP50"] == result["AP75"] == result["AP_medium"] == 1
    assert result["AP_small"] is None and result["AP_large"] is None
    assert (result["images"], result["instances"], result["ignore_regions"]) == (1, 1, 0)
    assert result["classes"]["car"]["AP"] == 1


def test_the_iou_decides_at_which_thresholds_a_box_counts():
    result = evaluate_one(CARS, found((0, 0, 100, 62, 0.9, CAR)), boxes((0, 0, 100, 100)))  # IoU 0.62
    assert result["AP50"] == 1 and result["AP75"] == 0
    assert result["AP"] == pytest.approx(3 / 10)  # 0.50, 0.55 and 0.60


def test_a_missed_object_halves_the_recall():
    result = evaluate_one(CARS, found((0, 0, 40, 40, 0.9, CAR)), boxes((0, 0, 40, 40), (60, 60, 90, 90)))
    assert result["AP50"] == pytest.approx(51 / 101)  # precision 1 at the recalls 0.00 to 0.50 of 101


def test_a_false_box_costs_only_what_ranks_below_it():
    true, false = (0, 0, 40, 40), (60, 60, 90, 90)
    before = evaluate_one(CARS, found((*false, 0.9, CAR), (*true, 0.5, CAR)), boxes(true))
    after = evaluate_one(CARS, found((*false, 0.1, CAR), (*true, 0.5, CAR)), boxes(true))
    assert before["AP50"] == pytest.approx(0.5) and after["AP50"] == pytest.approx(1)


def test_a_second_box_on_the_same_object_is_false():
    twice = found((0, 0, 40, 40, 0.9, CAR), (1, 0, 41, 40, 0.8, CAR), (60, 60, 90, 90, 0.7, CAR))
    result = evaluate_one(CARS, twice, boxes((0, 0, 40, 40), (60, 60, 90, 90)))
    assert result["AP50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_ignore_regions_forgive_any_number_of_boxes_of_any_class():
    spec = labels(Car=("car",), Person=("pedestrian",))
    region = boxes((50, 50, 150, 150))
    inside = [(60, 60, 90, 90, 0.99, CAR), (61, 60, 91, 90, 0.98, CAR), (60, 60, 80, 90, 0.97, PEDESTRIAN)]
    truth = (0, 0, 40, 40)
    with_region = evaluate_one(spec, found(*inside, (*truth, 0.5, CAR)), boxes(truth), region)
    without = evaluate_one(spec, found(*inside, (*truth, 0.5, CAR)), boxes(truth))
    assert with_region["classes"]["car"]["AP"] == 1 and with_region["ignore_regions"] == 1
    assert without["classes"]["car"]["AP"] == pytest.approx(1 / 3)
    assert with_region["instances"] == 1  # a region is no instance


def test_an_ignore_region_hides_no_object_and_finds_none():
    result = evaluate_one(CARS, found(), boxes((0, 0, 40, 40)), boxes((0, 0, 100, 100)))
    assert result["AP50"] == 0


def test_the_size_bands_split_at_32_and_96_pixels():
    sizes = ((0, 0, 31, 31), (100, 0, 150, 50), (200, 0, 300, 100))
    hits = found(*((*box, 0.9, CAR) for box in sizes[:2]))
    result = evaluate_one(CARS, hits, boxes(*sizes))
    assert (result["AP_small"], result["AP_medium"], result["AP_large"]) == (1, 1, 0)


def test_categories_of_one_set_are_one_class_with_a_readable_name():
    spec = labels(("car", "pedestrian"), Car=("car",), Sitting=("rider", "pedestrian"), Van=("car",), Misc=())
    groups = box_classes(spec)
    assert [group.name for group in groups] == ["car", "pedestrian|rider"]
    assert [group.categories for group in groups] == [("Car", "Van"), ("Sitting",)]
    assert [group.exhaustive for group in groups] == [True, False]


def test_merged_categories_are_matched_by_any_of_their_classes():
    spec = labels(Vehicle=("car", "truck"), Person=("pedestrian",))
    evaluation = BoxEvaluation(spec, NAMES)
    where = boxes((0, 0, 40, 40), (60, 60, 90, 90), (100, 0, 120, 60))
    rows = ((*where[0], 0.9, TRUCK), (*where[1], 0.8, CAR), (*where[2], 0.7, PEDESTRIAN))
    evaluation.add(found(*rows), where, ("Vehicle", "Vehicle", "Person"), NONE)
    result = evaluation.result()
    assert result["AP"] == 1 and list(result["classes"]) == ["car|truck", "pedestrian"]


def test_a_prediction_counts_as_the_first_class_whose_set_holds_it():
    spec = labels(Car=("car",), Vehicle=("car", "truck"))
    evaluation = BoxEvaluation(spec, NAMES)
    where = boxes((0, 0, 40, 40), (60, 60, 90, 90))
    evaluation.add(found((*where[0], 0.9, CAR), (*where[1], 0.9, CAR)), where, ("Car", "Vehicle"), NONE)
    classes = evaluation.result()["classes"]
    assert classes["car"]["AP"] == 1 and classes["car|truck"]["AP"] == 0


def test_predictions_of_classes_that_the_dataset_does_not_label_are_dropped():
    result = evaluate_one(CARS, found((60, 60, 90, 90, 0.99, LIGHT), (0, 0, 40, 40, 0.1, CAR)), boxes((0, 0, 40, 40)))
    assert result["AP"] == 1


def test_one_object_under_two_names_of_one_class_is_one_prediction():
    spec = labels(Vehicle=("car", "truck"))
    rows = [(0, 0, 40, 40, 0.9, CAR), (1, 0, 41, 40, 0.8, TRUCK), (60, 60, 90, 90, 0.7, CAR)]
    truth = boxes((0, 0, 40, 40), (60, 60, 90, 90))

    def ap(detections: Detections) -> float:
        evaluation = BoxEvaluation(spec, NAMES)
        evaluation.add(detections, truth, ("Vehicle", "Vehicle"), NONE)
        return evaluation.result()["AP50"]

    assert ap(found(*rows)) == 1
    far = (20, 0, 60, 40, 0.8, TRUCK)  # overlaps less: another object, and a false one
    assert ap(found(rows[0], far, rows[2])) < 1
    assert ap(found(rows[0], (*rows[1][:5], CAR), rows[2])) < 1  # the same name twice is the model's own mistake


def test_images_do_not_mix():
    evaluation = BoxEvaluation(CARS, NAMES)
    evaluation.add(found((0, 0, 40, 40, 0.9, CAR)), NONE, (), NONE)
    evaluation.add(found(), boxes((0, 0, 40, 40)), ("Car",), NONE)
    assert evaluation.result()["AP50"] == 0


def test_nothing_at_all_has_no_figure():
    result = evaluate_one(CARS, found(), NONE)
    assert result["AP"] is None and result["classes"]["car"]["AP50"] is None
    assert BoxEvaluation(CARS, NAMES).result()["AP"] is None  # not even an image


def test_false_boxes_where_nothing_is_have_no_figure_but_cost_elsewhere():
    evaluation = BoxEvaluation(CARS, NAMES)
    evaluation.add(found((0, 0, 40, 40, 0.9, CAR)), NONE, (), NONE)
    assert evaluation.result()["AP"] is None
    evaluation.add(found((0, 0, 40, 40, 0.5, CAR)), boxes((0, 0, 40, 40)), ("Car",), NONE)
    assert evaluation.result()["AP"] == pytest.approx(0.5)


def test_a_class_without_instances_is_left_out_of_the_mean():
    result = evaluate_one(
        labels(Car=("car",), Person=("pedestrian",)), found((0, 0, 9, 9, 0.9, CAR)), boxes((0, 0, 9, 9))
    )
    assert result["AP"] == 1 and result["classes"]["pedestrian"]["AP"] is None


def test_an_unknown_category_is_an_error():
    with pytest.raises(KeyError, match="Tram"):
        BoxEvaluation(CARS, NAMES).add(found(), boxes((0, 0, 9, 9)), ("Tram",), NONE)


def test_iou_matrix():
    a = boxes((0, 0, 10, 10), (5, 5, 5, 9))
    b = boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30), (5, 5, 5, 9))
    np.testing.assert_allclose(iou_matrix(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])
    assert iou_matrix(NONE, b).shape == (0, 4)


def slow_ap(images: list[tuple[Detections, np.ndarray, np.ndarray]], threshold: float) -> float:
    """COCO's AP of one class by its definition: images of (detections, truths, ignore regions)."""
    scored: list[tuple[float, bool]] = []
    total = 0
    for detections, truths, ignore in images:
        total += len(truths)
        free = set(range(len(truths)))
        ious = iou_matrix(detections.boxes, truths)
        for index in np.argsort(-detections.scores, kind="stable"):
            candidates = [(ious[index, t], t) for t in free if ious[index, t] >= threshold]
            if candidates:
                free.remove(max(candidates)[1])
                scored.append((detections.scores[index], True))
                continue
            x1, y1, x2, y2 = detections.boxes[index].astype(float)
            covered = [
                max(0, min(x2, r) - max(x1, left)) * max(0, min(y2, b) - max(y1, t)) / ((x2 - x1) * (y2 - y1))
                for left, t, r, b in ignore
            ]
            if not any(share >= threshold for share in covered):
                scored.append((detections.scores[index], False))
    scored.sort(key=lambda pair: -pair[0])
    right = np.cumsum([hit for _, hit in scored])
    precision, recall = right / np.arange(1, len(scored) + 1), right / total
    return float(np.mean([precision[recall >= r - 1e-9].max(initial=0) for r in np.linspace(0, 1, 101)]))


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_definition_on_random_images(seed: int):
    rng = np.random.default_rng(seed)

    def random_boxes(n: int) -> np.ndarray:
        corner = rng.uniform(0, 200, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(15, 90, (n, 2))], 1).astype(np.float32)

    evaluation, images = BoxEvaluation(CARS, NAMES), []
    for _ in range(12):
        truths, ignore = random_boxes(rng.integers(0, 6)), random_boxes(rng.integers(0, 3))
        near = truths + rng.normal(0, 6, truths.shape).astype(np.float32)
        candidates = np.concatenate([near, random_boxes(rng.integers(0, 5))])
        scores = rng.permutation(1000)[: len(candidates)].astype(np.float32) / 1000 + np.float32(len(images) * 1e-5)
        detections = Detections(candidates, scores, np.full(len(candidates), CAR))
        evaluation.add(detections, truths, ["Car"] * len(truths), ignore)
        images.append((detections, truths, ignore))
    result = evaluation.result()
    expected = [slow_ap(images, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    assert 0.1 < result["AP"] < 0.9
    assert result["AP"] == pytest.approx(np.mean(expected))
    assert (result["AP50"], result["AP75"]) == pytest.approx((expected[0], expected[5]))
