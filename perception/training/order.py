"""Which sample of which dataset comes n-th, for any n, in constant time and memory: folders of any size stream.

Legend: D = datasets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Draw", "shuffled"]

ROUNDS = 6
WORD = (1 << 64) - 1
CHUNK = 4096  # samples within which the datasets' shares are exact


def shuffled(position: int, length: int, *key: int) -> int:
    """Where `position` of 0 .. length - 1 lands in a shuffle of them; another `key` is another shuffle.

    A Feistel network on the next power of four, walked along its cycle until it is back below `length` (Black and
    Rogaway, Ciphers with arbitrary finite domains, 2002): at most four turns on average, and no table.
    """
    assert 0 <= position < length
    half = max(1, ((length - 1).bit_length() + 1) // 2)  # bits of each half
    low = (1 << half) - 1
    secret = 0
    for part in key:
        secret = _mixed(secret ^ (part & WORD))
    x = position
    while True:
        left, right = x >> half, x & low
        for turn in range(ROUNDS):
            left, right = right, left ^ (_mixed(secret ^ (right << 8 | turn)) & low)
        x = left << half | right
        if x < length:
            return x


def _mixed(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit in changes half of the bits out."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


class Draw:
    """n -> (dataset, how many samples of that dataset came before): datasets drawn in proportion to their weights.

    Every chunk of CHUNK samples holds each dataset by its share, to a sample, in an order that is the chunk's own; only
    the last chunk that was asked for is kept. Raises ValueError for weights that are no shares.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"the weights of datasets must be above 0, but got {', '.join(map(str, weights))}")
        assert 0 < len(weights) <= CHUNK
        self.seed = seed
        self.quota = _quotas(np.asarray(weights, float))
        self._chunk, self._which, self._before = -1, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __getitem__(self, n: int) -> tuple[int, int]:
        chunk, place = divmod(n, CHUNK)
        if chunk != self._chunk:
            self._lay_out(chunk)
        dataset = int(self._which[place])
        return dataset, chunk * int(self.quota[dataset]) + int(self._before[place])

    def _lay_out(self, chunk: int) -> None:
        """The datasets in the order of a chunk, and for each place the number of its dataset's places before it."""
        which = np.repeat(np.arange(len(self.quota)), self.quota)
        np.random.default_rng([self.seed, 0, chunk]).shuffle(which)
        before = np.empty(CHUNK, np.int64)
        for dataset, quota in enumerate(self.quota):
            before[which == dataset] = np.arange(quota)
        self._chunk, self._which, self._before = chunk, which, before


def _quotas(weights: np.ndarray) -> np.ndarray:
    """(D,) weights -> (D,) samples of a chunk, adding up to CHUNK: the largest remainders are rounded up, none is 0."""
    exact = weights / weights.sum() * CHUNK
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: CHUNK - int(quota.sum())]] += 1
    while (quota == 0).any():  # the largest can spare one
        quota[quota.argmin()] += 1
        quota[quota.argmax()] -= 1
    return quota
