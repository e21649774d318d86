"""Hypervectors: 16,384 bits, packed big-endian into 2,048 bytes (`uint8`), with an algebra of meaning on them.

`bind` ties two together (XOR, its own inverse), `bundle` makes one that is like all of its parts (majority), `permute`
says place or order (cyclic shift). `similarity` is 1 - Hamming distance / 16,384: unrelated vectors are at .5 +- .004.
`SignProjection` turns the dense vector of an encoder into a hypervector with the same neighbours. Pure numpy, no I/O.
"""

from mnemocore.hypervector.algebra import (
    BYTES,
    DIMENSION,
    Hypervector,
    Hypervectors,
    bind,
    bundle,
    nearest,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
)
from mnemocore.hypervector.codebook import Cleaned, Codebook
from mnemocore.hypervector.concepts import Concepts
from mnemocore.hypervector.projection import SignProjection

__all__ = [
    "BYTES",
    "DIMENSION",
    "Cleaned",
    "Codebook",
    "Concepts",
    "Hypervector",
    "Hypervectors",
    "SignProjection",
    "bind",
    "bundle",
    "nearest",
    "permute",
    "random_hypervector",
    "random_hypervectors",
    "similarity",
]
