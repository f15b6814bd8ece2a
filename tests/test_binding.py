"""perception.execution.binding: buffers answer like plain arrays, bit for bit, and an answer is never written over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from perception.execution.binding import Bound, OneThread, plain

OUTPUTS = ["boxes", "scene", "drive"]


@pytest.fixture
def session(tiny_model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(tiny_model, providers=["CPUExecutionProvider"])


def images(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 255, (n, 1, 64, 96, 3), np.uint8))


def test_bound_buffers_answer_like_a_plain_run_bit_for_bit(session: onnxruntime.InferenceSession) -> None:
    bound, ordinary = Bound(session, OUTPUTS, "cpu"), plain(session, OUTPUTS)
    for image in images(5):
        ours, theirs = bound(image), ordinary(image)
        assert list(ours) == OUTPUTS
        assert all(np.array_equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_an_answer_survives_the_next_run_and_addresses_stay(session: onnxruntime.InferenceSession) -> None:
    bound = Bound(session, OUTPUTS, "cpu")
    first, second = images(2)
    addresses = bound.addresses
    answer = bound(first)
    kept = {name: array.copy() for name, array in answer.items()}
    assert not np.array_equal(bound(second)["scene"], kept["scene"])
    assert all(np.array_equal(answer[name], kept[name]) for name in kept)
    assert bound.addresses == addresses and len(set(addresses)) == 4


def test_an_input_that_is_not_contiguous_is_read_right(session: onnxruntime.InferenceSession) -> None:
    (image,) = images(1)
    bound = Bound(session, OUTPUTS, "cpu")
    flipped = image[:, ::-1]
    assert np.array_equal(bound(flipped)["drive"], bound(np.ascontiguousarray(flipped))["drive"])


def test_many_threads_each_get_their_own_answer(session: onnxruntime.InferenceSession) -> None:
    bound, ordinary = Bound(session, OUTPUTS, "cpu"), plain(session, OUTPUTS)
    inputs = images(8)
    answers: dict[int, np.ndarray] = {}

    def ask(index: int) -> None:
        for _ in range(5):
            answers[index] = bound(inputs[index])["scene"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(answers[i], ordinary(image)["scene"]) for i, image in enumerate(inputs))


def test_open_shapes_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(tiny_model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "open.onnx")
    opened = onnxruntime.InferenceSession(tmp_path / "open.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="need fixed shapes, but image is open"):
        Bound(opened, OUTPUTS, "cpu")


def test_one_thread_runs_everything_and_passes_errors_on() -> None:
    seen: set[int] = set()

    def run(tensor: np.ndarray) -> dict[str, np.ndarray]:
        seen.add(threading.get_ident())
        if tensor.size == 0:
            raise ValueError("empty")
        return {"a": tensor}

    alone: Callable[[np.ndarray], dict[str, np.ndarray]] = OneThread(run)
    others = [threading.Thread(target=alone, args=(np.ones(1),)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    with pytest.raises(ValueError, match="empty"):
        alone(np.ones(0))
    assert len(seen) == 1 and threading.get_ident() not in seen
