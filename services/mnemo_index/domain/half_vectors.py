"""Products with vectors that are kept as float16: half the RAM, and no copy of them as float32 beside.

A float16 is widened by moving its bits to where a float32 has them, which numpy does for many numbers in one
instruction. What that gives is smaller by a factor of 2^112, exactly: the difference between what the exponents of the
two formats count from. The other side of the product is made greater by as much. Rows are widened some thousands at a
time, and each is multiplied by itself: its product does not depend on where it stands, and BLAS has no cause to share
the work among threads, which hinder one another when several questions are answered at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS_AT_ONCE: Final = 1 << 20  # after each step of each part other threads have their turn: few are better
_SHIFT: Final = 13  # a float32 has so many bits more behind the point
_MASK: Final = np.int32(-0x70002000)  # the sign, and what a float16 has of exponent and fraction
_SCALE: Final = np.float32(2.0**112)


def products(vectors: NDArray[np.float16], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The dot product of each row of `vectors`, shape (n, d), all finite, with `vector`, shape (d,)."""
    return _products(vectors.view(np.int16), None, vector)


def products_of(
    vectors: NDArray[np.float16], rows: NDArray[np.intp], vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    """As `products`, but of some rows only, in their order."""
    return _products(vectors.view(np.int16), rows, vector)


def _products(
    bits: NDArray[np.int16], rows: NDArray[np.intp] | None, vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    count, dimension = len(bits) if rows is None else len(rows), bits.shape[1]
    found = np.empty(count, dtype=np.float32)
    scaled = vector.astype(np.float32) * _SCALE
    step = max(1, _NUMBERS_AT_ONCE // dimension)
    room = np.empty((min(step, count), dimension), dtype=np.int32)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        widened = room[: part.stop - start]
        np.left_shift(bits[part] if rows is None else bits[rows[part]], _SHIFT, out=widened, dtype=np.int32)
        np.bitwise_and(widened, _MASK, out=widened)
        np.vecdot(widened.view(np.float32), scaled, out=found[part])
    return found
