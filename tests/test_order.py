"""The order of training samples: a permutation of any length, shuffled, another for every key; shares that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from perception.training.order import CHUNK, Draw, shuffled


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 16, 17, 63, 64, 65, 100, 1000, 1024, 1025, 4097])
def test_a_shuffle_is_a_permutation(length: int) -> None:
    for key in ((0, 0), (0, 1), (7, 3)):
        assert sorted(shuffled(i, length, *key) for i in range(length)) == list(range(length))


def test_a_large_shuffle_needs_no_table() -> None:
    length = 10**12
    assert len({shuffled(i, length, 5) for i in range(1000)}) == 1000
    assert {shuffled(i, length, 5) * 10 // length for i in range(1000)} == set(range(10))


def test_a_shuffle_looks_shuffled() -> None:
    length = 2000
    order = np.array([shuffled(i, length, 1, 2, 3) for i in range(length)])
    assert abs(np.corrcoef(np.arange(length), order)[0, 1]) < 0.1
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1
    steps = np.diff(order) % length
    assert np.bincount(steps).max() < 12  # an affine order would have one step only
    assert (order == np.arange(length)).sum() < 10  # one fixed point is expected
    sets = [np.sort(order[start : start + 100]) for start in range(0, length, 100)]
    assert all(np.diff(s).max() < 200 for s in sets)  # a hundred in a row come from everywhere


def test_every_key_is_another_shuffle() -> None:
    orders = {tuple(shuffled(i, 50, *key) for i in range(50)) for key in np.ndindex(3, 4, 5)}
    assert len(orders) == 60
    small = {tuple(shuffled(i, 4, key) for i in range(4)) for key in range(500)}
    assert len(small) >= 12  # even of four things there are many


def test_datasets_are_drawn_by_their_weights_and_each_sample_is_numbered() -> None:
    draw = Draw([3.2, 1.0, 1e-5], seed=4)
    drawn = [draw[n] for n in range(2 * CHUNK)]
    for dataset, share in enumerate(np.array([3.2, 1.0, 1e-5]) / 4.20001):
        numbers = [nth for d, nth in drawn if d == dataset]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) / len(drawn) == pytest.approx(share, abs=1.01 / CHUNK)
    first = [d for d, _ in drawn[:200]]
    assert 0.6 < first.count(0) / 200 < 0.9  # mixed from the start


def test_a_draw_depends_on_the_seed_and_not_on_what_was_asked_before() -> None:
    one, two, other = Draw([1, 1], 0), Draw([1, 1], 0), Draw([1, 1], 1)
    places = [5, 3 * CHUNK + 1, 0, 3 * CHUNK, 10**12]
    forwards = {n: one[n] for n in places}
    assert forwards == {n: two[n] for n in reversed(places)}
    assert [one[n][0] for n in range(64)] != [other[n][0] for n in range(64)]
    assert [one[n][0] for n in range(64)] != [one[CHUNK + n][0] for n in range(64)]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [-1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Draw(weights, 0)
