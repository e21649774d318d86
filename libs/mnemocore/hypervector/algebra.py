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
SKETCH_BITS: Final = 2048
"""Bits of a sketch, unless others are asked for."""

Hypervector: TypeAlias = NDArray[np.uint8]
"""One vector, shape (2048,), the first bit in the highest bit of the first byte."""
Hypervectors: TypeAlias = NDArray[np.uint8]
"""A table of vectors, shape (n, 2048)."""

_ROWS_AT_ONCE: Final = 1024
_COUNTED_AT_ONCE: Final = 255  # so many ones fit in a byte
_WEIGHED_AT_ONCE: Final = 64  # 8 MiB of doubles
_ROUNDING: Final = 1e-9  # votes that differ by less than this share of all votes are tied
_WORD: Final = 8  # bytes that are counted at once


def random_hypervector(seed: str) -> Hypervector:
    """The random vector of `seed`: the same on every machine and in every version."""
    return np.frombuffer(hashlib.shake_256(b"mnemocore hypervector\0" + seed.encode()).digest(BYTES), np.uint8)


def random_hypervectors(seeds: Sequence[str]) -> Hypervectors:
    """The random vectors of `seeds`, one a row."""
    return np.stack([random_hypervector(seed) for seed in seeds]) if seeds else np.empty((0, BYTES), np.uint8)


def bind(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """XOR: unlike both parts, keeps distances, and `bind(bind(a, b), b)` is `a`. A vector is bound to every row."""
    _check_rows(left, right)
    return np.bitwise_xor(checked(left, "left"), checked(right, "right"))


def bundle(vectors: Hypervectors, weights: Sequence[float] | None = None, *, tie_seed: str = "tie") -> Hypervector:
    """The majority of each bit over at least one row, weighted if `weights` (finite, one a row, not all 0) are given.

    A row of negative weight votes for the opposite. A tied bit is drawn from `tie_seed` and the rows: the result does
    not depend on their order, and bundles of different rows have no ties in common.
    """
    checked(vectors, "vectors")
    if vectors.ndim != 2 or len(vectors) == 0:
        raise invalid("vectors", f"has shape {vectors.shape}; allowed is (n, {BYTES}) with n >= 1")
    votes: NDArray[np.float64] | NDArray[np.int64]
    if weights is None:
        votes = _counted(vectors)
        tied = votes == 0
    else:
        shares = _checked_weights(weights, len(vectors))
        votes = _weighed(vectors, shares)
        tied = np.abs(votes) <= _ROUNDING * np.abs(shares).sum()
        vectors = vectors[shares != 0]
    majority = np.packbits(votes > 0)
    if not tied.any():
        return majority
    among = np.packbits(tied)
    return (majority & ~among) | (_lots(vectors, tie_seed) & among)


def permute(vectors: NDArray[np.uint8], shift: int = 1) -> NDArray[np.uint8]:
    """The bits of each vector moved `shift` places to the end, those that fall off put in front; -shift undoes it."""
    whole, part = divmod(shift % DIMENSION, 8)
    moved = np.roll(checked(vectors, "vectors"), whole, axis=-1)
    if part == 0:
        return moved
    return (moved >> np.uint8(part)) | (np.roll(moved, 1, axis=-1) << np.uint8(8 - part))


def sketch(vectors: NDArray[np.uint8], bits: int = SKETCH_BITS) -> NDArray[np.uint8]:
    """The first `bits` (a multiple of 64) of each vector, a view: what is similar as a whole is similar here too.

    The similarity of sketches of b bits is that of the vectors with a standard deviation of at most .5 / sqrt(b).
    """
    if bits % (8 * _WORD) or not 8 * _WORD <= bits <= DIMENSION:
        raise invalid("bits", f"is {bits}; allowed is a multiple of {8 * _WORD} up to {DIMENSION}")
    return checked(vectors, "vectors")[..., : bits // 8]


def similarity(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """1 - Hamming distance / bits, between 0 and 1, for each pair of rows. A vector is compared with every row.

    Both are hypervectors, or both are sketches of the same number of bits.
    """
    _check_rows(left, right)
    bits = _width(left, right) * 8
    return np.asarray(1.0 - _distances(left, right) / bits, dtype=np.float64)


def nearest(query: Hypervector, table: Hypervectors, count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Row numbers and similarities of the `count` rows of `table` most like `query`, best first, at most all rows.

    Rows of equal similarity come in their order in the table. Both may be sketches of the same number of bits.
    """
    _check_query(query, table, count)
    bits = _width(query, table) * 8
    distances = _distances(query, table)
    rows = np.arange(len(table))
    if count < len(table):
        rows = np.flatnonzero(distances <= np.partition(distances, count - 1)[count - 1])
    rows = rows[np.argsort(distances[rows], kind="stable")][:count]
    return rows, 1.0 - distances[rows] / bits


def nearest_by_sketch(
    query: Hypervector, table: Hypervectors, count: int, *, bits: int = SKETCH_BITS, candidates: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """As `nearest`, but only the `candidates` rows (default: 10 x `count`) nearest by their sketches are compared.

    Reads `bits` of each row instead of all: faster by about as much, and exact but for rows whose sketch misleads.
    """
    _check_query(query, table, count)
    most = 10 * count if candidates is None else candidates
    if most < count:
        raise invalid("candidates", f"is {most}; allowed is at least {count}, as many as are to be found")
    chosen = np.sort(nearest(sketch(query, bits), sketch(table, bits), most)[0])
    rows, similarities = nearest(query, table[chosen], count)
    return chosen[rows], similarities


def checked(vectors: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """`vectors` as they are; raises InvalidFieldError unless they are packed hypervectors."""
    if vectors.dtype != np.uint8 or vectors.ndim not in (1, 2) or vectors.shape[-1] != BYTES:
        raise invalid(name, f"has type {vectors.dtype} and shape {vectors.shape}; allowed is uint8 (..., {BYTES})")
    return vectors


def invalid(field: str, description: str) -> InvalidFieldError:
    """The error that says what is wrong with one argument."""
    return InvalidFieldError.of([Violation(field, description)])


def _distances(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Bits that differ, for each pair of rows; the widths are whole words."""
    rows = max(_rows(left), _rows(right))
    if rows <= _ROWS_AT_ONCE:
        words = np.bitwise_xor(left, right, order="C").view(np.uint64)
        # `dtype` keeps the sums in 16 bits, which hold 16,384 and are three times as fast as 64.
        return np.asarray(np.bitwise_count(words).sum(axis=-1, dtype=np.uint16), dtype=np.uint16)
    starts = range(0, rows, _ROWS_AT_ONCE)  # what is between stays in the cache
    return np.concatenate([_distances(_block(left, start), _block(right, start)) for start in starts])


def _rows(vectors: NDArray[np.uint8]) -> int:
    return len(vectors) if vectors.ndim == 2 else 1


def _block(vectors: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
    """The rows from `start`; a single row stands for all."""
    return vectors if _rows(vectors) == 1 else vectors[start : start + _ROWS_AT_ONCE]


def _counted(vectors: Hypervectors) -> NDArray[np.int64]:
    """Ones minus zeros of each bit."""
    ones = np.zeros(DIMENSION, np.int64)
    for start in range(0, len(vectors), _COUNTED_AT_ONCE):
        bits = np.unpackbits(vectors[start : start + _COUNTED_AT_ONCE], axis=1)
        ones += np.add.reduce(bits, axis=0, dtype=np.uint8)
    return 2 * ones - len(vectors)


def _weighed(vectors: Hypervectors, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of ones minus those of zeros, for each bit."""
    votes = np.full(DIMENSION, -shares.sum())
    for start in range(0, len(vectors), _WEIGHED_AT_ONCE):
        bits = np.unpackbits(vectors[start : start + _WEIGHED_AT_ONCE], axis=1)
        votes += 2.0 * (shares[start : start + _WEIGHED_AT_ONCE] @ bits.astype(np.float64))
    return votes


def _lots(vectors: Hypervectors, tie_seed: str) -> Hypervector:
    """Random bits that belong to these rows in whatever order."""
    parity: Hypervector = np.bitwise_xor.reduce(vectors, axis=0)
    return bind(random_hypervector(tie_seed), permute(parity))


def _checked_weights(weights: Sequence[float], count: int) -> NDArray[np.float64]:
    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,):
        raise invalid("weights", f"has {len(weights)} items; allowed is one for each of {count} vectors")
    if not np.isfinite(shares).all() or not shares.any():
        raise invalid("weights", "has items that are not finite, or nothing but 0; allowed are finite numbers")
    return shares


def _check_rows(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> None:
    """Raise InvalidFieldError unless both are of one length, or one of them is a single row."""
    if left.ndim == right.ndim == 2 and len(left) != len(right) and 1 not in (len(left), len(right)):
        raise invalid("right", f"has {len(right)} rows; allowed are {len(left)}, as left has, or 1")


def _check_query(query: Hypervector, table: Hypervectors, count: int) -> None:
    if query.ndim != 1:
        raise invalid("query", f"has shape {query.shape}; allowed is one vector")
    if table.ndim != 2:
        raise invalid("table", f"has shape {table.shape}; allowed is one vector a row")
    if count < 1:
        raise invalid("count", f"is {count}; allowed is at least 1")


def _width(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> int:
    """The bytes of a row; raises InvalidFieldError unless both have the same, whole words and no more than a vector."""
    first = 0
    for vectors, name in ((left, "left"), (right, "right")):
        width = int(vectors.shape[-1]) if vectors.ndim in (1, 2) else 0
        first = first or width
        if vectors.dtype != np.uint8 or width % _WORD or not 0 < width <= BYTES or width != first:
            allowed = f"uint8 (..., {BYTES}), or sketches of one width in whole words of {_WORD} bytes"
            raise invalid(name, f"has type {vectors.dtype} and shape {vectors.shape}; allowed is {allowed}")
    return first
