"""From dense vectors to hypervectors: the signs of a random projection.

The share of equal bits of two projected vectors estimates their angle: similarity = 1 - angle / pi in expectation, so
the nearest neighbours stay the nearest. Each block of bits is a Hadamard transform of the vector under two rounds of
random signs, which needs no stored matrix and is as fast for one vector as for many. Blocks are independent of one
another, so any prefix of whole bytes is a projection of its own: a sketch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.hypervector.algebra import DIMENSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION: Final = 1
"""Changes whenever the same vector would get other bits."""

_ROUNDS: Final = 2
_LEAST_WIDTH: Final = 256  # in narrower blocks the sums of few numbers are often exactly 0
_NUMBERS_AT_ONCE: Final = 1 << 14  # in the cache, and too few for BLAS to share them among threads, which costs more


class SignProjection:
    """Projects vectors of `dimension` finite numbers (1 to 16,384) to bits. Safe for use by many threads.

    The same seed gives the same bits for ever, but for a bit whose sum is 0 within the rounding of float32: the order
    in which a machine adds decides it.
    """

    def __init__(self, dimension: int, seed: str = "mnemocore") -> None:
        if not 1 <= dimension <= DIMENSION:
            raise InvalidFieldError.of([Violation("dimension", f"is {dimension}; allowed is 1 to {DIMENSION}")])
        self.dimension = dimension
        self.seed = seed
        self._width = max(_LEAST_WIDTH, 1 << (dimension - 1).bit_length())
        label = f"mnemocore sign projection {VERSION} {dimension} {seed}".encode()
        drawn = np.frombuffer(hashlib.shake_256(label).digest(_ROUNDS * DIMENSION // 8), np.uint8)
        signs = np.unpackbits(drawn).astype(np.float32) * 2 - 1
        # One row of signs a block and round; blocks in order, so that a prefix never depends on what follows.
        self._signs = signs.reshape(-1, _ROUNDS, self._width)
        high = 1 << ((self._width.bit_length() - 1) // 2)
        self._left, self._right = _hadamard(high), _hadamard(self._width // high)

    def project(self, vectors: NDArray[np.float32], bits: int = DIMENSION) -> NDArray[np.uint8]:
        """The first `bits` (a multiple of 8) of the projection of each row of `vectors`, shape (n, bits / 8)."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InvalidFieldError.of(
                [Violation("vectors", f"has shape {vectors.shape}; allowed is (n, {self.dimension})")]
            )
        if bits % 8 or not 8 <= bits <= DIMENSION:
            raise InvalidFieldError.of([Violation("bits", f"is {bits}; allowed is a multiple of 8 up to {DIMENSION}")])
        out = np.empty((len(vectors), bits // 8), np.uint8)
        blocks = -(-bits // self._width)
        step = max(1, _NUMBERS_AT_ONCE // (blocks * self._width))
        for at in range(0, len(vectors), step):
            out[at : at + step] = self._project(vectors[at : at + step], blocks)[:, : bits // 8]
        return out

    def _project(self, vectors: NDArray[np.float32], blocks: int) -> NDArray[np.uint8]:
        padded = np.zeros((len(vectors), 1, self._width), np.float32)
        padded[:, 0, : self.dimension] = vectors
        mixed = padded * self._signs[:blocks, 0]
        for number in range(_ROUNDS):
            if number:
                mixed = mixed * self._signs[:blocks, number]
            mixed = self._transform(mixed)
        return np.packbits(mixed.reshape(len(vectors), -1) > 0, axis=1)

    def _transform(self, mixed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The Hadamard transform of the last axis, as that of a square on both sides."""
        square = mixed.reshape(-1, len(self._right)) @ self._right
        square = square.reshape(-1, len(self._left), len(self._right))
        transformed: NDArray[np.float32] = np.matmul(self._left, square)
        return transformed.reshape(mixed.shape)


def _hadamard(size: int) -> NDArray[np.float32]:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
