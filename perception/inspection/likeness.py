"""Images that are the same or nearly so, within a split and, worse, in two: those inflate what is measured on val.

A file has a digest of its bytes. A picture has a 64-bit difference hash (dHash: is a pixel brighter than its right
neighbour, on a 9x8 thumbnail; https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html) and a
32x32 grey thumbnail. The hash finds candidates fast; the thumbnail decides, because frames in fog or at night have few
gradients and so look alike to the hash.

Legend: N = images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Likeness", "Print", "fingerprint", "near_pairs"]

THUMB = 32  # pixels
MAX_BITS = 10  # of 64 that may differ in a candidate
MAX_GREY = 10.0  # mean absolute difference of near duplicates, of 255
MIN_CORRELATION = 0.95  # of their thumbnails without the mean of each row and column (which say sky, road, vignette)
FLAT = 2.0  # grey values; the thumbnail of an image of one colour varies less
BLOCK = 512  # rows of the N x N comparison at a time


@dataclass(frozen=True, slots=True)
class Print:
    """What identifies one picture."""

    digest: bytes  # 16 bytes, of the file
    bits: int  # 64-bit dHash
    thumb: np.ndarray  # (32, 32) uint8 grey
    flat: bool  # of one colour


def fingerprint(content: bytes, grey: np.ndarray) -> Print:
    """The bytes of a file and its picture, (H, W) uint8 of any scale -> Print."""
    thumb = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Print(digest, int.from_bytes(bits.tobytes(), "big"), thumb, bool(thumb.std() < FLAT))


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two images that are alike."""

    first: int  # index
    second: int
    exact: bool  # the same bytes
    grey: float  # mean absolute difference of the thumbnails, of 255


def near_pairs(prints: list[Print], without: Collection[int] = ()) -> Iterator[Likeness]:
    """Every pair i < j of alike images. Images of one colour are alike only if their files are the same.

    Pairs with an image in `without` are left out; it may grow between two pairs, so that a camera that stands still,
    each of whose frames is like each, costs no N * N / 2 looks at thumbnails.

    Time grows with N * N / 2 hash comparisons, a few seconds for 20,000 images; memory with N.
    """
    if len(prints) < 2:
        return
    bits = np.array([entry.bits for entry in prints], np.uint64)
    digests = np.array([entry.digest for entry in prints], "S16")
    flat = np.array([entry.flat for entry in prints])
    for start in range(0, len(prints), BLOCK):
        rows = slice(start, min(start + BLOCK, len(prints)))
        near = np.bitwise_count(bits[rows, None] ^ bits[None, start:]) <= MAX_BITS  # (block, N - start)
        near &= ~(flat[rows, None] | flat[None, start:]) | (digests[rows, None] == digests[None, start:])
        for i, j in np.argwhere(np.triu(near, 1)) + start:
            if i in without or j in without:
                continue
            exact = prints[i].digest == prints[j].digest
            grey = float(np.abs(prints[i].thumb.astype(np.int16) - prints[j].thumb).mean())
            if exact or (grey <= MAX_GREY and _correlation(prints[i].thumb, prints[j].thumb) >= MIN_CORRELATION):
                yield Likeness(int(i), int(j), exact, grey)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two thumbnails, without what rows and columns have in common."""
    x, y = _detail(a), _detail(b)
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 0 else 1.0


def _detail(thumb: np.ndarray) -> np.ndarray:
    values = thumb.astype(np.float32)
    detail: np.ndarray = values - values.mean(0, keepdims=True) - values.mean(1, keepdims=True) + values.mean()
    return detail
