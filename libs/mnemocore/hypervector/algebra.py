"""The operations on packed binary hypervectors. A vector has shape (2048,), a table of n vectors (n, 2048)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMENSION: Final = 16_384
"""Bits of a hypervector."""
BYTES: Final = DIMENSION // 8
"""Bytes of a packed hypervector."""

Hypervector: TypeAlias = NDArray[np.uint8]
"""One vector, shape (2048,), the first bit in the highest bit of the first byte."""
Hypervectors: TypeAlias = NDArray[np.uint8]
"""A table of vectors, shape (n, 2048)."""

_ROWS_AT_ONCE: Final = 1024


def random_hypervector(seed: str) -> Hypervector:
    """The random vector of `seed`: the same on every machine and in every version."""
    return np.frombuffer(hashlib.shake_256(b"mnemocore hypervector\0" + seed.encode()).digest(BYTES), np.uint8)


def random_hypervectors(seeds: Sequence[str]) -> Hypervectors:
    """The random vectors of `seeds`, one a row."""
    return np.stack([random_hypervector(seed) for seed in seeds]) if seeds else np.empty((0, BYTES), np.uint8)


def bind(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """XOR: unlike both parts, keeps distances, and `bind(bind(a, b), b)` is `a`. Rows are broadcast."""
    return np.bitwise_xor(checked(left, "left"), checked(right, "right"))


def bundle(vectors: Hypervectors, weights: Sequence[float] | None = None, *, tie_seed: str = "tie") -> Hypervector:
    """The majority of each bit over at least one row, weighted if `weights` (one a row) are given.

    A tied bit is that of the random vector of `tie_seed`, so the result does not depend on the order of the rows.
    """
    checked(vectors, "vectors")
    if vectors.ndim != 2 or len(vectors) == 0:
        raise _invalid("vectors", f"has shape {vectors.shape}; allowed is (n, {BYTES}) with n >= 1")
    if weights is not None and len(weights) != len(vectors):
        raise _invalid("weights", f"has {len(weights)} items; allowed is one for each of {len(vectors)} vectors")
    shares = np.ones(len(vectors)) if weights is None else np.asarray(weights, dtype=np.float64)
    votes = np.zeros(DIMENSION)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        bits = np.unpackbits(vectors[start : start + _ROWS_AT_ONCE], axis=1)
        votes += shares[start : start + _ROWS_AT_ONCE] @ (bits * 2.0 - 1.0)
    tie = np.unpackbits(random_hypervector(tie_seed)).astype(bool)
    return np.packbits(np.where(votes == 0, tie, votes > 0))


def permute(vectors: NDArray[np.uint8], shift: int = 1) -> NDArray[np.uint8]:
    """The bits of each vector moved `shift` places to the end, those that fall off put in front; -shift undoes it."""
    whole, part = divmod(shift % DIMENSION, 8)
    moved = np.roll(checked(vectors, "vectors"), whole, axis=-1)
    if part == 0:
        return moved
    return (moved >> np.uint8(part)) | (np.roll(moved, 1, axis=-1) << np.uint8(8 - part))


def similarity(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """1 - Hamming distance / 16,384, between 0 and 1, for each pair of rows. Rows are broadcast."""
    distances = np.bitwise_count(bind(left, right).view(np.uint64)).sum(axis=-1, dtype=np.int64)
    return np.asarray(1.0 - distances / DIMENSION, dtype=np.float64)


def nearest(query: Hypervector, table: Hypervectors, count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Row numbers and similarities of the `count` rows of `table` most like `query`, best first, at most all rows.

    Rows of equal similarity come in their order in the table.
    """
    if count < 1:
        raise _invalid("count", f"is {count}; allowed is at least 1")
    parts = [similarity(query, table[at : at + _ROWS_AT_ONCE]) for at in range(0, len(table), _ROWS_AT_ONCE)]
    similarities = np.concatenate(parts) if parts else np.empty(0)
    rows = np.argsort(-similarities, kind="stable")[:count]
    return rows, similarities[rows]


def checked(vectors: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """`vectors` in contiguous memory; raises InvalidFieldError unless they are packed hypervectors."""
    if vectors.dtype != np.uint8 or vectors.ndim not in (1, 2) or vectors.shape[-1] != BYTES:
        raise _invalid(name, f"has type {vectors.dtype} and shape {vectors.shape}; allowed is uint8 (..., {BYTES})")
    return np.ascontiguousarray(vectors)


def _invalid(field: str, description: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, description)])
