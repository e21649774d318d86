"""Near-duplicates: pairs of rows that say the same.

Only rows of one statement are compared: the same kind, the same actor, the same numbers, days, months and negations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ROWS_AT_ONCE: Final = 1024
_HELD: Final = 4


def near_duplicates(
    vectors: NDArray[np.float16], statements: NDArray[np.int64], rows: NDArray[np.intp], least: float, limit: int
) -> tuple[list[tuple[int, int, float]], bool]:
    """The `limit` most similar pairs (row, later row, cosine) among `rows` with a cosine of at least `least`.

    Exact. Most similar first, then by row. Also tells whether there are more.
    """
    first, second = np.empty(0, np.intp), np.empty(0, np.intp)
    cosines, least_kept, more = np.empty(0, np.float32), np.float32(least - 1e-6), False
    for left, right, found in _pairs(vectors, statements, rows, least_kept):
        held = found >= least_kept
        first, second = np.concatenate((first, left[held])), np.concatenate((second, right[held]))
        cosines = np.concatenate((cosines, found[held]))
        more = more or not bool(held.all())
        if len(cosines) > _HELD * limit + _ROWS_AT_ONCE:
            best = np.lexsort((second, first, -cosines))[:limit]
            first, second, cosines, more = first[best], second[best], cosines[best], True
            least_kept = cosines[-1]
    order = np.lexsort((second, first, -cosines))[:limit]
    more = more or len(cosines) > limit
    values = np.minimum(cosines[order], 1.0).astype(np.float64)
    return list(zip(first[order].tolist(), second[order].tolist(), values.tolist(), strict=True)), more


def _pairs(
    vectors: NDArray[np.float16], statements: NDArray[np.int64], rows: NDArray[np.intp], least: np.float32
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
    """All pairs of one statement with a cosine of at least `least`, block by block, the smaller row first."""
    ordered = rows[np.lexsort((rows, statements[rows]))]
    cuts = np.flatnonzero(np.diff(statements[ordered])) + 1
    for group in np.split(ordered, cuts):
        for start in range(0, len(group) if len(group) > 1 else 0, _ROWS_AT_ONCE):
            block = group[start : start + _ROWS_AT_ONCE]
            one = vectors[block].astype(np.float32)
            for at in range(start, len(group), _ROWS_AT_ONCE):
                other = group[at : at + _ROWS_AT_ONCE]
                cosines = one @ vectors[other].astype(np.float32).T
                if at == start:
                    cosines[np.tril_indices(len(block))] = -2.0
                left, right = np.nonzero(cosines >= least)
                if len(left):
                    yield block[left], other[right], cosines[left, right]
