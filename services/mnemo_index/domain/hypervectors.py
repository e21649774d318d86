"""What a request says in hypervectors, and what comes of it: the algebra over texts, symbols, concepts and vectors.

Nothing is kept and no space is read. Work of milliseconds: call it beside the event loop. Safe for use by many threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.hypervector import (
    PROJECTION_VERSION,
    Codebook,
    SignProjection,
    bind,
    bundle,
    carried_over,
    concept,
    moved_along,
    permute,
    random_hypervector,
    similarity,
    sketch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Encoder
    from mnemocore.hypervector import Cleaned, Hypervector, Match

DEFAULT_COUNT: Final = 5
"""Neighbours of a step, and matches, where a request does not say how many."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The embeddings a vector comes from. Vectors of different origins are never computed with together."""

    model: str
    projection_version: int


@dataclass(frozen=True, slots=True)
class Meaning:
    """A hypervector and its origin, None if no text is in it."""

    vector: Hypervector
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """An operand that is a vector already; `path` is its place in the request."""

    meaning: Meaning
    path: str


@dataclass(frozen=True, slots=True)
class Text:
    """An operand that stands for the meaning of a text."""

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """An operand that stands for the random vector of a name."""

    name: str
    path: str


Part: TypeAlias = "Given | Text | Symbol"


@dataclass(frozen=True, slots=True)
class Concept:
    """An operand that stands for the bundle of role (x) filler of its attributes, at least one."""

    attributes: tuple[tuple[Part, Part], ...]
    path: str

    @property
    def parts(self) -> Iterator[Part]:
        """The roles and fillers."""
        return (part for attribute in self.attributes for part in attribute)


Operand: TypeAlias = "Part | Concept"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a codebook."""

    name: str
    operand: Operand


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of a clean-up, and the entries nearest to the question, most similar first."""

    answer: Cleaned
    matches: Sequence[Match]


class HypervectorAlgebra:
    """The operations on what operands stand for. Every method raises InvalidFieldError that names the operand."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def encode(self, operands: Sequence[Operand]) -> list[Meaning]:
        """What each operand stands for; texts are encoded together, each once."""
        leaves = [leaf for operand in operands for leaf in _leaves(operand)]
        texts = self._encoded([leaf for leaf in leaves if isinstance(leaf, Text)])
        symbols = {leaf.name: random_hypervector(leaf.name) for leaf in leaves if isinstance(leaf, Symbol)}
        self._check_origins(leaves)

        def meaning(part: Part) -> Meaning:
            if isinstance(part, Given):
                return part.meaning
            return texts[part.text] if isinstance(part, Text) else Meaning(symbols[part.name])

        return [_concept(each, meaning) if isinstance(each, Concept) else meaning(each) for each in operands]

    def bind(self, operands: Sequence[Operand]) -> Meaning:
        """All operands, bound."""
        meanings = self.encode(operands)
        return Meaning(reduce(bind, (each.vector for each in meanings)), _origin(meanings))

    def bundle(self, operands: Sequence[Operand], weights: Sequence[float] | None, tie_seed: str) -> Meaning:
        """All operands, bundled; ties are drawn from `tie_seed`."""
        meanings = self.encode(operands)
        table = np.stack([each.vector for each in meanings])
        return Meaning(bundle(table, weights, tie_seed=tie_seed), _origin(meanings))

    def permute(self, operands: Sequence[Operand], shift: int) -> list[Meaning]:
        """Each operand, permuted."""
        return [Meaning(permute(each.vector, shift), each.origin) for each in self.encode(operands)]

    def compare(
        self, queries: Sequence[Operand], candidates: Sequence[Operand], sketch_bits: int
    ) -> list[NDArray[np.float64]]:
        """For each query its similarity with each candidate, by `sketch_bits` bits, by all of them if that is 0."""
        meanings = self.encode([*queries, *candidates])
        table = np.stack([each.vector for each in meanings])
        if sketch_bits:
            table = sketch(table, sketch_bits)
        asked, others = table[: len(queries)], table[len(queries) :]
        return [similarity(query, others) for query in asked]

    def clean_up(self, operand: Operand, entries: Sequence[Entry], neighbours: int, limit: int) -> Found:
        """The entry that an operand is a noisy form of."""
        (question,), codebook = self._asked([operand], entries)
        return _found(codebook, question, neighbours, limit, ())

    def analogy(
        self, operands: tuple[Operand, Operand, Operand], entries: Sequence[Entry], limit: int, *, by_difference: bool
    ) -> Found:
        """The entry that is to the third operand as the second is to the first; never one that equals one of them."""
        three, codebook = self._asked(operands, entries)
        first, second, third = three
        question = (moved_along if by_difference else carried_over)(first, second, third)
        known = {each.tobytes() for each in three}
        same = [name for name, row in zip(codebook, codebook.table, strict=True) if row.tobytes() in known]
        if len(same) == len(codebook):
            raise _invalid("codebook", "has no entry but the three of the question; allowed is at least one other")
        return _found(codebook, question, 0, limit, same)

    def _asked(self, operands: Sequence[Operand], entries: Sequence[Entry]) -> tuple[list[Hypervector], Codebook]:
        """The vectors of operands, and the codebook of entries."""
        meanings = self.encode([*operands, *(entry.operand for entry in entries)])
        codebook = Codebook()
        for place, (entry, meaning) in enumerate(zip(entries, meanings[len(operands) :], strict=True)):
            if entry.name in codebook:
                raise _invalid(f"codebook[{place}].name", f"{entry.name!r} is there before; names must differ")
            codebook.add(entry.name, meaning.vector)
        return [each.vector for each in meanings[: len(operands)]], codebook

    def _encoded(self, texts: Sequence[Text]) -> Mapping[str, Meaning]:
        """The meaning of each text."""
        if not texts:
            return {}
        paths = {each.text: each.path for each in reversed(texts)}
        dense = self._encoder.encode(list(paths))
        for (text, path), row in zip(paths.items(), dense, strict=True):
            if not row.any():
                raise _invalid(path, f"{text[:60]!r} has nothing in it that the encoder knows; a text is required")
        projected = _projection(self._encoder.dimension).project(dense)
        origin = Origin(self._encoder.model, PROJECTION_VERSION)
        return {text: Meaning(vector, origin) for text, vector in zip(paths, projected, strict=True)}

    def _check_origins(self, leaves: Sequence[Part]) -> None:
        """Raise InvalidFieldError if the leaves are of more than one origin."""
        own = Origin(self._encoder.model, PROJECTION_VERSION)
        first: tuple[Origin, str] | None = None
        for leaf in leaves:
            origin = leaf.meaning.origin if isinstance(leaf, Given) else own if isinstance(leaf, Text) else None
            if origin is None:
                continue
            first = first or (origin, leaf.path)
            if origin != first[0]:
                description = f"{_shown(origin)}; allowed is {_shown(first[0])}, as {first[1]}, or none"
                raise _invalid(leaf.path, f"comes from {description}")


@cache
def _projection(dimension: int) -> SignProjection:
    return SignProjection(dimension)


def _leaves(operand: Operand) -> Iterator[Part]:
    if isinstance(operand, Concept):
        yield from operand.parts
    else:
        yield operand


def _concept(operand: Concept, meaning: Callable[[Part], Meaning]) -> Meaning:
    roles = [meaning(role) for role, _ in operand.attributes]
    fillers = [meaning(filler) for _, filler in operand.attributes]
    for place, (role, filler) in enumerate(zip(roles, fillers, strict=True)):
        if np.array_equal(role.vector, filler.vector):
            path = f"{operand.path}.attributes[{place}].filler"
            raise _invalid(path, "equals its role; allowed is any other vector")
    vector = concept(np.stack([each.vector for each in roles]), np.stack([each.vector for each in fillers]))
    return Meaning(vector, _origin([*roles, *fillers]))


def _origin(meanings: Sequence[Meaning]) -> Origin | None:
    return next((each.origin for each in meanings if each.origin is not None), None)


def _found(codebook: Codebook, question: Hypervector, neighbours: int, limit: int, same: Sequence[str]) -> Found:
    cleaned = codebook.clean_up(question, neighbours or DEFAULT_COUNT, exclude=same)
    return Found(cleaned, codebook.nearest(question, limit or DEFAULT_COUNT, exclude=same))


def _shown(origin: Origin) -> str:
    return f"{origin.model!r}, projection {origin.projection_version}"


def _invalid(field: str, description: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, description)])
