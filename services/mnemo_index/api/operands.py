"""The operands of a request of HypervectorService, and hypervectors, between the wire and the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from mnemo_index.domain.hypervectors import Concept, Entry, Given, Meaning, Origin, Symbol, Text
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.hypervector import BYTES
from mnemocore.index.v1 import hypervector_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnemo_index.domain.hypervectors import Operand, Part
    from mnemocore.hypervector import Cleaned, Match

M = TypeVar("M")

MAX_PARTS: Final = 4096
"""Vectors, texts and symbols that the operands of a request may hold together."""
MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of text that they may hold together."""
GREATEST_WEIGHT: Final = 1_000_000
"""Of an operand of a bundle, either way."""


class OperandReader:
    """Reads the operands of one request. Raises InvalidFieldError that names what is wrong or too much."""

    def __init__(self) -> None:
        self._parts = 0
        self._text_bytes = 0

    def operands(self, messages: Iterable[pb.Operand], field: str) -> list[Operand]:
        """The operands of a list."""
        return [self.operand(message, f"{field}[{place}]") for place, message in enumerate(messages)]

    def operand(self, message: pb.Operand, path: str) -> Operand:
        """One operand."""
        if not message.HasField("concept"):
            return self._part(message, path)
        attributes = (
            (self._part(each.role, f"{place}.role"), self._part(each.filler, f"{place}.filler"))
            for place, each in _placed(message.concept.attributes, f"{path}.concept.attributes")
        )
        return Concept(tuple(attributes), f"{path}.concept")

    def codebook(self, messages: Iterable[pb.CodebookEntry]) -> list[Entry]:
        """The entries of a codebook."""
        return [
            Entry(each.name, self.operand(each.operand, f"{place}.operand"))
            for place, each in _placed(messages, "codebook")
        ]

    def _part(self, message: pb.Operand | pb.Part, path: str) -> Part:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _invalid(path, f"is number {self._parts}; at most {MAX_PARTS} vectors, texts and symbols are allowed")
        source = message.WhichOneof("source")
        if source == "vector":
            return _given(message.vector, f"{path}.vector")
        if source is None:
            raise _invalid(path, "is empty; a vector, a text, a symbol or a concept is required")
        value = message.text if source == "text" else message.symbol
        if not value:
            raise _invalid(f"{path}.{source}", "is empty; at least 1 character must be given")
        if source == "symbol":
            return Symbol(value, f"{path}.symbol")
        self._text_bytes += len(value.encode())
        if self._text_bytes > MAX_TEXT_BYTES:
            description = (
                f"makes it {self._text_bytes} bytes of text; at most {MAX_TEXT_BYTES} are allowed in a request"
            )
            raise _invalid(f"{path}.text", description)
        return Text(value, f"{path}.text")


def from_meaning(meaning: Meaning) -> pb.Hypervector:
    """One hypervector."""
    origin = meaning.origin
    if origin is None:
        return pb.Hypervector(bits=meaning.vector.tobytes())
    return pb.Hypervector(
        bits=meaning.vector.tobytes(), model=origin.model, projection_version=origin.projection_version
    )


def from_match(match: Match | Cleaned) -> pb.CodebookMatch:
    """One entry that was found."""
    return pb.CodebookMatch(name=match.name, similarity=match.similarity)


def to_weights(weights: Sequence[float], count: int) -> list[float] | None:
    """The weights of `count` operands, none beyond GREATEST_WEIGHT either way; None if none are given."""
    if weights and len(weights) != count:
        raise _invalid("weights", f"has {len(weights)} items; allowed is one for each of {count} operands, or none")
    for place, weight in enumerate(weights):
        if not -GREATEST_WEIGHT <= weight <= GREATEST_WEIGHT:
            raise _invalid(f"weights[{place}]", f"{weight}; {-GREATEST_WEIGHT} to {GREATEST_WEIGHT} is allowed")
    if weights and not any(weights):
        raise _invalid("weights", "are all 0; at least one other is required")
    return list(weights) or None


def to_sketch_bits(bits: int) -> int:
    """The bits of a sketch."""
    if bits % 64:
        raise _invalid("sketch_bits", f"{bits}; a multiple of 64 is required")
    return bits


def _given(message: pb.Hypervector, path: str) -> Given:
    if len(message.bits) != BYTES:
        raise _invalid(f"{path}.bits", f"has {len(message.bits)} bytes; {BYTES} are required")
    if bool(message.model) != bool(message.projection_version):
        raise _invalid(f"{path}.projection_version", "is set without a model, or not set with one; both or none")
    origin = Origin(message.model, message.projection_version) if message.model else None
    return Given(Meaning(np.frombuffer(message.bits, np.uint8), origin), path)


def _placed(messages: Iterable[M], field: str) -> Iterable[tuple[str, M]]:
    return ((f"{field}[{place}]", message) for place, message in enumerate(messages))


def _invalid(field: str, description: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, description)])
