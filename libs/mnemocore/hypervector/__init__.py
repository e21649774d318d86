"""Hypervectors: 16,384 bits, packed big-endian into 2,048 bytes (`uint8`), with an algebra of meaning on them.

`bind` ties two together (XOR, its own inverse), `bundle` makes one that is like all of its parts (majority), `permute`
says place or order (cyclic shift). `similarity` is 1 - Hamming distance / 16,384: unrelated vectors are at .5 +- .004.
`SignProjection` turns the dense vector of an encoder into a hypervector with the same neighbours; the first bits of any
vector are a `sketch` of it. Pure numpy, no I/O.
"""

from mnemocore.hypervector.algebra import (
    BYTES,
    DIMENSION,
    SKETCH_BITS,
    Hypervector,
    Hypervectors,
    bind,
    bundle,
    nearest,
    nearest_by_sketch,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
    sketch,
)
from mnemocore.hypervector.codebook import Cleaned, Codebook, Match
from mnemocore.hypervector.concepts import Concepts, carried_over, concept, moved_along
from mnemocore.hypervector.projection import VERSION as PROJECTION_VERSION
from mnemocore.hypervector.projection import SignProjection

__all__ = [
    "BYTES",
    "DIMENSION",
    "PROJECTION_VERSION",
    "SKETCH_BITS",
    "Cleaned",
    "Codebook",
    "Concepts",
    "Hypervector",
    "Hypervectors",
    "Match",
    "SignProjection",
    "bind",
    "bundle",
    "carried_over",
    "concept",
    "moved_along",
    "nearest",
    "nearest_by_sketch",
    "permute",
    "random_hypervector",
    "random_hypervectors",
    "similarity",
    "sketch",
]
