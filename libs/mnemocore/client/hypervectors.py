"""Computing with meanings: hypervectors of texts, names and concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mnemocore.client import convert
from mnemocore.index.v1 import hypervector_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnemocore.client.services import Services


@dataclass(frozen=True, slots=True)
class Hypervector:
    """16,384 bits, the first in the highest bit of the first byte; `mnemocore.hypervector` computes with them locally.

    `model` and `projection_version` say which embeddings it comes from; empty and 0 if no text is in it. What comes
    from different ones does not go together.
    """

    bits: bytes = field(repr=False)
    model: str = ""
    projection_version: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    """Stands for the random hypervector of a name, the same everywhere and always."""

    name: str


Part: TypeAlias = "str | Symbol | Hypervector"
"""What stands for a hypervector; a str for the meaning of this text."""


@dataclass(frozen=True, slots=True)
class Concept:
    """Stands for the bundle of role (x) filler of its attributes, 1 to 64.

    A role that is a str is the symbol of this name; a filler that is a str is a text, as everywhere else.
    """

    attributes: Mapping[Part, Part]


Operand: TypeAlias = "Part | Concept"

Codebook: TypeAlias = "Iterable[str] | Mapping[str, Operand]"
"""What an answer may be, up to 1,000 entries: texts, each under its own name, or anything under given names."""

AnalogyMethod: TypeAlias = Literal["auto", "binding", "difference"]

_METHODS: Final[dict[str, wire.AnalogyMethod.ValueType]] = {
    "auto": wire.ANALOGY_METHOD_UNSPECIFIED,
    "binding": wire.ANALOGY_METHOD_BINDING,
    "difference": wire.ANALOGY_METHOD_DIFFERENCE,
}


@dataclass(frozen=True, slots=True)
class CodebookMatch:
    """An entry and its similarity with the question, 0 to 1; 0.5 is unrelated."""

    name: str
    similarity: float


@dataclass(frozen=True, slots=True)
class CodebookAnswer:
    """The entry that answers, after `steps` of clean-up; a similarity near 0.5 means that none does.

    `matches` are the entries nearest to the question as it was, most similar first.
    """

    name: str
    similarity: float
    steps: int
    matches: tuple[CodebookMatch, ...]


class Hypervectors:
    """The algebra of the server, on texts, symbols, concepts and vectors. Comes from `Connection.hypervectors`.

    Nothing is kept and no space is read. Every method raises InvalidFieldError for what is malformed, too much, or of
    another model. In a request all operands together may be 4,096 vectors, texts and symbols, and 4 MiB of text.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def encode(self, operands: Sequence[Operand]) -> list[Hypervector]:
        """The hypervectors of 1 to 1,000 operands, in their order."""
        request = wire.EncodeHypervectorsRequest(operands=_all_to_wire(operands, "operands"))
        response = await self._services.call(self._services.hypervectors.EncodeHypervectors, request)
        return [_from_wire(vector) for vector in response.vectors]

    async def bind(self, *operands: Operand) -> Hypervector:
        """2 to 64 operands, bound (XOR): unlike each of them, and bound again to all but one that one again."""
        request = wire.BindHypervectorsRequest(operands=_all_to_wire(operands, "operands"))
        return _from_wire((await self._services.call(self._services.hypervectors.BindHypervectors, request)).vector)

    async def bundle(
        self, operands: Sequence[Operand], *, weights: Sequence[float] = (), tie_seed: str = ""
    ) -> Hypervector:
        """1 to 1,000 operands, bundled (majority of each bit): like each of them.

        `weights` are one an operand, or none; a negative one counts for the opposite. Ties are drawn from `tie_seed`
        and the operands.
        """
        request = wire.BundleHypervectorsRequest(operands=_all_to_wire(operands, "operands"))
        convert.extend(request, "weights", weights)
        convert.assign(request, "tie_seed", tie_seed)
        return _from_wire((await self._services.call(self._services.hypervectors.BundleHypervectors, request)).vector)

    async def permute(self, operand: Operand, shift: int = 1) -> Hypervector:
        """An operand with its bits moved `shift` places to the end, those that fall off in front; -shift undoes it."""
        request = wire.PermuteHypervectorsRequest(operands=_all_to_wire([operand], "operands"))
        convert.assign(request, "shift", shift)
        response = await self._services.call(self._services.hypervectors.PermuteHypervectors, request)
        (vector,) = response.vectors
        return _from_wire(vector)

    async def similarity(self, left: Operand, right: Operand) -> float:
        """1 - Hamming distance / 16,384: 1 for equals, 0.5 +- 0.004 for what is unrelated."""
        ((similarity,),) = await self.compare([left], [right])
        return similarity

    async def compare(
        self, queries: Sequence[Operand], candidates: Sequence[Operand], *, sketch_bits: int = 0
    ) -> list[list[float]]:
        """For each of up to 256 queries its similarity with each of up to 1,000 candidates.

        With `sketch_bits`, a multiple of 64, only so many bits are compared.
        """
        request = wire.CompareHypervectorsRequest(
            queries=_all_to_wire(queries, "queries"), candidates=_all_to_wire(candidates, "candidates")
        )
        convert.assign(request, "sketch_bits", sketch_bits)
        response = await self._services.call(self._services.hypervectors.CompareHypervectors, request)
        return [[*row.values] for row in response.rows]

    async def clean_up(
        self, operand: Operand, among: Codebook, *, neighbours: int = 5, limit: int = 5
    ) -> CodebookAnswer:
        """The entry that an operand is a noisy form of, and the `limit` nearest ones.

        Each step replaces it by the majority of its nearest `neighbours`, until one moves less than 5 % of the bits.
        """
        request = wire.CleanUpHypervectorRequest(
            operand=_to_wire(operand, "operand"), codebook=_codebook_to_wire(among)
        )
        convert.assign(request, "neighbours", neighbours)
        convert.assign(request, "limit", limit)
        return _answer_from_wire(await self._services.call(self._services.hypervectors.CleanUpHypervector, request))

    async def analogy(
        self,
        first: Operand,
        second: Operand,
        third: Operand,
        among: Codebook,
        *,
        method: AnalogyMethod = "auto",
        limit: int = 5,
    ) -> CodebookAnswer:
        """The entry that is to `third` as `second` is to `first`, and the `limit` nearest ones; none of the three.

        By `binding`, what binds the first two is bound to the third: right for concepts. By `difference`, it is second
        - first + third: right for texts. `auto` takes that if all three are texts.
        """
        if method not in _METHODS:
            raise convert.invalid("method", f"{method!r} is not allowed; allowed are {', '.join(_METHODS)}")
        request = wire.SolveAnalogyRequest(
            first=_to_wire(first, "first"),
            second=_to_wire(second, "second"),
            third=_to_wire(third, "third"),
            codebook=_codebook_to_wire(among),
            method=_METHODS[method],
        )
        convert.assign(request, "limit", limit)
        return _answer_from_wire(await self._services.call(self._services.hypervectors.SolveAnalogy, request))

    def __repr__(self) -> str:
        return "Hypervectors()"


def _all_to_wire(operands: Sequence[Operand], path: str) -> list[wire.Operand]:
    if isinstance(operands, str):
        raise convert.invalid(path, f"{operands!r} is one text; give a list of texts")
    return [_to_wire(operand, f"{path}[{place}]") for place, operand in enumerate(operands)]


def _to_wire(operand: Operand, path: str) -> wire.Operand:
    message = wire.Operand()
    if not isinstance(operand, Concept):
        _write_part(operand, message, path)
        return message
    message.concept.SetInParent()
    for role, filler in operand.attributes.items():
        attribute = message.concept.attributes.add()
        _write_part(Symbol(role) if isinstance(role, str) else role, attribute.role, f"{path}.role")
        _write_part(filler, attribute.filler, f"{path}.filler")
    return message


def _write_part(part: Part, message: wire.Operand | wire.Part, path: str) -> None:
    if isinstance(part, str):
        convert.assign(message, "text", part, f"{path}.text")
    elif isinstance(part, Symbol):
        convert.assign(message, "symbol", part.name, f"{path}.symbol")
    elif isinstance(part, Hypervector):
        convert.assign(message.vector, "bits", part.bits, f"{path}.bits")
        convert.assign(message.vector, "model", part.model, f"{path}.model")
        convert.assign(message.vector, "projection_version", part.projection_version, f"{path}.projection_version")
    else:
        raise convert.invalid(path, f"is a {type(part).__name__}; allowed are str, Symbol, Hypervector and Concept")


def _codebook_to_wire(among: Codebook) -> list[wire.CodebookEntry]:
    if isinstance(among, str):
        raise convert.invalid("among", f"{among!r} is one text; give a list of texts")
    named = among.items() if isinstance(among, Mapping) else ((text, text) for text in dict.fromkeys(among))
    entries = []
    for place, (name, operand) in enumerate(named):
        entry = wire.CodebookEntry(operand=_to_wire(operand, f"codebook[{place}]"))
        convert.assign(entry, "name", name, f"codebook[{place}].name")
        entries.append(entry)
    return entries


def _from_wire(message: wire.Hypervector) -> Hypervector:
    return Hypervector(message.bits, message.model, message.projection_version)


def _answer_from_wire(message: wire.CleanUpHypervectorResponse | wire.SolveAnalogyResponse) -> CodebookAnswer:
    matches = tuple(CodebookMatch(match.name, match.similarity) for match in message.matches)
    return CodebookAnswer(message.answer.name, message.answer.similarity, message.steps, matches)
