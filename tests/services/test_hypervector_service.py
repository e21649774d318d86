"""HypervectorService behind its host, with the encoder of the product."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.index_space import encoder

from mnemo_index.api.hypervector_service import HypervectorServicer
from mnemo_index.domain.hypervectors import HypervectorAlgebra
from mnemocore import calls
from mnemocore.client import ResilientChannel
from mnemocore.errors import InvalidFieldError
from mnemocore.hypervector import (
    BYTES,
    PROJECTION_VERSION,
    SignProjection,
    bind,
    bundle,
    concept,
    permute,
    random_hypervector,
    random_hypervectors,
    similarity,
    sketch,
)
from mnemocore.index.v1 import hypervector_service_pb2 as pb
from mnemocore.index.v1 import hypervector_service_pb2_grpc
from mnemocore.server import Host, InternalAuthenticator, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "a token"
SECONDS = 60.0
CAPITALS = ("Berlin", "Rome", "Madrid", "Tokyo", "Cairo", "Athens", "Lisbon", "Moscow")


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    words = await asyncio.to_thread(encoder)
    with ThreadPoolExecutor(1) as executor:
        service = Service(
            HypervectorServicer(HypervectorAlgebra(words), executor),
            hypervector_service_pb2_grpc.add_HypervectorServiceServicer_to_server,
            "mnemocore.index.v1.HypervectorService",
        )
        host = Host("index", [service], authenticator=InternalAuthenticator(TOKEN))
        await host.start([])
        yield hypervector_service_pb2_grpc.HypervectorServiceStub(channel(host, "memory:read"))
        await host.drain(1.0)


def channel(host: Host, scopes: str) -> Any:
    """A channel of a caller with these scopes."""
    headers = [(calls.INTERNAL_TOKEN_HEADER, TOKEN), (calls.TENANT_HEADER, "acme"), (calls.SCOPES_HEADER, scopes)]
    return ResilientChannel(host.channel(headers), "index")


def text(value: str) -> pb.Operand:
    """An operand that is a text."""
    return pb.Operand(text=value)


def symbol(name: str) -> pb.Operand:
    """An operand that is a symbol."""
    return pb.Operand(symbol=name)


def royal(gender: str, status: str) -> pb.Operand:
    """A concept with two attributes, all of it symbols."""
    pairs = {"gender": gender, "status": status}
    attributes = [pb.Attribute(role=pb.Part(symbol=role), filler=pb.Part(symbol=name)) for role, name in pairs.items()]
    return pb.Operand(concept=pb.Concept(attributes=attributes))


def entries(**operands: pb.Operand) -> list[pb.CodebookEntry]:
    """A codebook."""
    return [pb.CodebookEntry(name=name, operand=operand) for name, operand in operands.items()]


def bits(vector: pb.Hypervector) -> Any:
    """The bits of a vector as numpy has them."""
    return np.frombuffer(vector.bits, np.uint8)


def as_operand(vector: pb.Hypervector) -> pb.Operand:
    """An operand that is a vector."""
    return pb.Operand(vector=vector)


async def test_a_text_becomes_the_projection_of_its_embedding(stub: Any) -> None:
    request = pb.EncodeHypervectorsRequest(operands=[text("a small cat"), symbol("a small cat"), royal("f", "r")])
    answer = await stub.EncodeHypervectors(request)
    of_text, of_symbol, of_concept = answer.vectors
    expected = SignProjection(encoder().dimension).project(encoder().encode(["a small cat"]))
    assert np.array_equal(bits(of_text), expected[0])
    assert (of_text.model, of_text.projection_version) == (encoder().model, PROJECTION_VERSION)
    assert of_symbol == pb.Hypervector(bits=random_hypervector("a small cat").tobytes())
    built = concept(random_hypervectors(["gender", "status"]), random_hypervectors(["f", "r"]))
    assert of_concept == pb.Hypervector(bits=built.tobytes())


async def test_what_means_the_same_is_similar_by_all_bits_and_by_few(stub: Any) -> None:
    queries = [text("The cat sleeps on the sofa."), symbol("nothing")]
    candidates = [text("A kitten naps on the couch."), text("Interest rates rose by two percent.")]
    for sketch_bits in (0, 2048):
        request = pb.CompareHypervectorsRequest(queries=queries, candidates=candidates, sketch_bits=sketch_bits)
        about_cats, about_nothing = (await stub.CompareHypervectors(request)).rows
        assert about_cats.values[0] > 0.6
        assert about_cats.values[0] > about_cats.values[1] + 0.05
        assert about_nothing.values == pytest.approx([0.5, 0.5], abs=0.06)


async def test_the_algebra_is_that_of_the_library(stub: Any) -> None:
    a, b, c = table = random_hypervectors(["a", "b", "c"])
    operands = [symbol("a"), symbol("b"), symbol("c")]
    bound = (await stub.BindHypervectors(pb.BindHypervectorsRequest(operands=operands))).vector
    assert np.array_equal(bits(bound), bind(bind(a, b), c))
    undone = pb.BindHypervectorsRequest(operands=[as_operand(bound), symbol("c"), symbol("a")])
    assert np.array_equal(bits((await stub.BindHypervectors(undone)).vector), b)
    for weights in ([], [1.0, -1.0, 0.5]):
        request = pb.BundleHypervectorsRequest(operands=operands, weights=weights, tie_seed="t")
        bundled = (await stub.BundleHypervectors(request)).vector
        assert np.array_equal(bits(bundled), bundle(table, weights or None, tie_seed="t"))
    moved = await stub.PermuteHypervectors(pb.PermuteHypervectorsRequest(operands=operands, shift=-13))
    assert [bits(each).tolist() for each in moved.vectors] == permute(table, -13).tolist()
    compared = pb.CompareHypervectorsRequest(queries=operands[:2], candidates=operands, sketch_bits=640)
    rows = (await stub.CompareHypervectors(compared)).rows
    short = sketch(table, 640)
    assert [list(row.values) for row in rows] == [similarity(query, short).tolist() for query in short[:2]]


async def test_what_a_text_is_in_remembers_its_model(stub: Any) -> None:
    attribute = pb.Attribute(role=pb.Part(symbol="colour"), filler=pb.Part(text="deep blue"))
    operands = [symbol("x"), pb.Operand(concept=pb.Concept(attributes=[attribute]))]
    bound = (await stub.BindHypervectors(pb.BindHypervectorsRequest(operands=operands))).vector
    assert bound.model == encoder().model
    (moved,) = (await stub.PermuteHypervectors(pb.PermuteHypervectorsRequest(operands=[as_operand(bound)]))).vectors
    assert (moved.model, moved.projection_version) == (bound.model, bound.projection_version)


async def test_paris_is_to_france_as_rome_is_to_italy(stub: Any) -> None:
    request = pb.SolveAnalogyRequest(
        first=text("France"),
        second=text("Paris"),
        third=text("Italy"),
        codebook=entries(**{word: text(word) for word in (*CAPITALS, "France", "Paris", "Italy")}),
        limit=3,
    )
    similarities = {}
    for method in (pb.ANALOGY_METHOD_UNSPECIFIED, pb.ANALOGY_METHOD_BINDING, pb.ANALOGY_METHOD_DIFFERENCE):
        request.method = method
        solved = await stub.SolveAnalogy(request)
        assert solved.answer.name == solved.matches[0].name == "Rome"
        assert len(solved.matches) == 3
        assert not {match.name for match in solved.matches} & {"France", "Paris", "Italy"}
        similarities[method] = solved.answer.similarity
    assert similarities[pb.ANALOGY_METHOD_UNSPECIFIED] == similarities[pb.ANALOGY_METHOD_DIFFERENCE]
    assert similarities[pb.ANALOGY_METHOD_DIFFERENCE] > similarities[pb.ANALOGY_METHOD_BINDING]


async def test_king_is_to_queen_as_man_is_to_woman(stub: Any) -> None:
    concepts = {"king": ("m", "r"), "queen": ("f", "r"), "man": ("m", "c"), "woman": ("f", "c"), "heir": ("m", "h")}
    operands = {name: royal(*fillers) for name, fillers in concepts.items()}
    solved = await stub.SolveAnalogy(
        pb.SolveAnalogyRequest(
            first=operands["king"], second=operands["queen"], third=operands["man"], codebook=entries(**operands)
        )
    )
    assert solved.answer.name == "woman"
    assert solved.answer.similarity > 0.6
    assert len(solved.matches) == 2


async def test_a_filler_is_read_back_by_clean_up(stub: Any) -> None:
    concept_bound = pb.BindHypervectorsRequest(operands=[royal("female", "royal"), symbol("status")])
    noisy = (await stub.BindHypervectors(concept_bound)).vector
    codebook = entries(female=symbol("female"), royal=symbol("royal"), common=symbol("common"))
    request = pb.CleanUpHypervectorRequest(operand=as_operand(noisy), codebook=codebook, limit=2)
    cleaned = await stub.CleanUpHypervector(request)
    assert cleaned.answer.name == cleaned.matches[0].name == "royal"
    assert cleaned.answer.similarity == pytest.approx(0.75, abs=0.02)
    assert cleaned.steps >= 1
    assert len(cleaned.matches) == 2


def raw(**fields: Any) -> pb.Operand:
    """An operand that is a vector with these fields."""
    return pb.Operand(vector=pb.Hypervector(**({"bits": bytes(BYTES)} | fields)))


@pytest.mark.parametrize(
    ("operand", "message"),
    [
        (pb.Operand(), r"operands\[1\]: is empty; a vector, a text, a symbol or a concept is required"),
        (text(""), r"operands\[1\].text: is empty"),
        (symbol(""), r"operands\[1\].symbol: is empty"),
        (symbol("x" * 257), r"operands\[1\].symbol: is 257 characters long; at most 256"),
        (text("x" * 102_401), r"operands\[1\].text: is 102401 bytes long; at most 102400"),
        (raw(bits=b"short"), r"operands\[1\].vector.bits: has 5 bytes; 2048 are required"),
        (raw(bits=bytes(2049)), r"operands\[1\].vector.bits: is 2049 bytes long; at most 2048"),
        (raw(model="m"), r"operands\[1\].vector.projection_version: is set without a model, or not set with one"),
        (
            raw(model="m", projection_version=1),
            r"operands\[1\].vector: comes from 'm', projection 1; allowed",
        ),
        (pb.Operand(concept=pb.Concept()), r"operands\[1\].concept.attributes: has 0 items; at least 1"),
        (
            pb.Operand(concept=pb.Concept(attributes=[pb.Attribute(role=pb.Part(symbol="a"))])),
            r"operands\[1\].concept.attributes\[0\].filler: is required",
        ),
        (royal("status", "status"), r"operands\[1\].concept.attributes\[1\].filler: equals its role"),
    ],
)
async def test_a_wrong_operand_is_refused_by_its_place(stub: Any, operand: pb.Operand, message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        await stub.BindHypervectors(pb.BindHypervectorsRequest(operands=[text("tea"), operand]))


async def test_too_much_is_refused(stub: Any) -> None:
    long = "tea " * 25_000
    with pytest.raises(InvalidFieldError, match=r"operands\[41\].text: makes it 4200000 bytes of text; at most 4"):
        await stub.BindHypervectors(pb.BindHypervectorsRequest(operands=[text(long)] * 50))
    attributes = [pb.Attribute(role=pb.Part(symbol="r"), filler=pb.Part(symbol="f"))] * 64
    many = [pb.Operand(concept=pb.Concept(attributes=attributes))] * 33
    with pytest.raises(InvalidFieldError, match=r"operands\[32\].*: is number 4097; at most 4096"):
        await stub.EncodeHypervectors(pb.EncodeHypervectorsRequest(operands=many))
    with pytest.raises(InvalidFieldError, match="operands: has 1001 items; at most 1000"):
        await stub.EncodeHypervectors(pb.EncodeHypervectorsRequest(operands=[symbol("a")] * 1001))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "weights: has 1 items; allowed is one for each of 2 operands, or none"),
        ([0.0, 0.0], "weights: are all 0"),
        ([1.0, float("nan")], r"weights\[1\]: nan; -1000000 to 1000000 is allowed"),
        ([1.0, 1e7], r"weights\[1\]: 10000000.0; -1000000 to 1000000"),
    ],
)
async def test_wrong_weights_are_refused(stub: Any, weights: list[float], message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        await stub.BundleHypervectors(
            pb.BundleHypervectorsRequest(operands=[symbol("a"), symbol("b")], weights=weights)
        )


async def test_a_wrong_codebook_or_sketch_is_refused(stub: Any) -> None:
    twice = [*entries(a=symbol("a")), *entries(a=symbol("b"))]
    with pytest.raises(InvalidFieldError, match=r"codebook\[1\].name: 'a' is there before"):
        await stub.CleanUpHypervector(pb.CleanUpHypervectorRequest(operand=symbol("a"), codebook=twice))
    same = pb.SolveAnalogyRequest(
        first=symbol("a"), second=symbol("b"), third=symbol("c"), codebook=entries(a=symbol("a"), c=symbol("c"))
    )
    with pytest.raises(InvalidFieldError, match="codebook: has no entry but the three of the question"):
        await stub.SolveAnalogy(same)
    with pytest.raises(InvalidFieldError, match="sketch_bits: 100; a multiple of 64 is required"):
        await stub.CompareHypervectors(
            pb.CompareHypervectorsRequest(queries=[symbol("a")], candidates=[symbol("a")], sketch_bits=100)
        )


async def test_a_thousand_entries_are_looked_through(stub: Any) -> None:
    codebook = entries(**{f"e{number}": text(f"box {number} holds {number * 7} bolts") for number in range(1000)})
    request = pb.CleanUpHypervectorRequest(operand=text("box 321 holds 2247 bolts"), codebook=codebook)
    assert (await stub.CleanUpHypervector(request)).answer == pb.CodebookMatch(name="e321", similarity=1.0)
