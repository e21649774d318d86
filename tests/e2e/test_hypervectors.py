"""Computing with meanings through the public client, on every kind of installation."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.e2e.test_cli import Shell

from mnemocore import connect, hypervector, sync
from mnemocore.client import Concept, Hypervector, Symbol
from mnemocore.errors import InvalidFieldError, PermissionDeniedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Server

    from mnemocore import Connection

CAPITALS = ["Berlin", "Rome", "Madrid", "Tokyo", "Cairo"]
PEOPLE = {
    "king": Concept({"gender": Symbol("male"), "status": Symbol("royal")}),
    "queen": Concept({"gender": Symbol("female"), "status": Symbol("royal")}),
    "man": Concept({"gender": Symbol("male"), "status": Symbol("common")}),
    "woman": Concept({"gender": Symbol("female"), "status": Symbol("common")}),
}


async def test_texts_are_compared_by_meaning(mnemo: Connection) -> None:
    vectors = mnemo.hypervectors
    alike = await vectors.similarity("The cat sleeps on the sofa.", "A kitten naps on the couch.")
    unlike = await vectors.similarity("The cat sleeps on the sofa.", "Interest rates rose again.")
    assert alike > unlike + 0.05
    assert await vectors.similarity("tea", "tea") == 1.0
    assert await vectors.compare(["tea"], ["tea", Symbol("tea")], sketch_bits=2048) == [
        [1.0, pytest.approx(0.5, abs=0.06)]
    ]


async def test_analogies_are_solved_among_texts_and_among_concepts(mnemo: Connection) -> None:
    solved = await mnemo.hypervectors.analogy("France", "Paris", "Italy", CAPITALS)
    assert solved.name == solved.matches[0].name == "Rome"
    among = await mnemo.hypervectors.analogy(PEOPLE["king"], PEOPLE["queen"], PEOPLE["man"], PEOPLE)
    assert among.name == "woman"
    assert [match.name for match in among.matches] == ["woman"]


async def test_the_parts_of_a_whole_are_found_again(mnemo: Connection) -> None:
    vectors = mnemo.hypervectors
    fillers = {name: Symbol(name) for name in ("male", "female", "royal", "common")}
    status = await vectors.bind(PEOPLE["queen"], Symbol("status"))
    assert (await vectors.clean_up(status, fillers, limit=2)).name == "royal"
    order = [await vectors.permute(Symbol(name), place) for place, name in enumerate(("male", "common"))]
    both = await vectors.bundle([*order, Symbol("tie")], weights=[2, 2, 1])
    assert (await vectors.clean_up(await vectors.permute(both, -1), fillers)).name == "common"


async def test_the_server_computes_what_the_library_does(mnemo: Connection) -> None:
    text, symbol = await mnemo.hypervectors.encode(["tea with milk", Symbol("tea")])
    assert symbol == Hypervector(hypervector.random_hypervector("tea").tobytes())
    assert text.model
    bound = await mnemo.hypervectors.bind(text, symbol)
    left, right = (np.frombuffer(each.bits, np.uint8) for each in (text, symbol))
    assert bound == Hypervector(hypervector.bind(left, right).tobytes(), text.model, text.projection_version)


async def test_memories_make_a_codebook(mnemo: Connection) -> None:
    space = mnemo.space(f"t-{uuid.uuid4().hex[:12]}")
    kept = {fact: (await space.remember(fact)).id for fact in ("Carol has a dog.", "Rent is due on Friday.")}
    among = {memory.id: memory.content async for memory in space.list()}
    found = await mnemo.hypervectors.clean_up("When must the rent be paid?", among)
    assert found.name == kept["Rent is due on Friday."]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, r"operands\[1\]: is a int; allowed are str, Symbol, Hypervector and Concept"),
        ("\ud800", r"operands\[1\].text: is not valid Unicode"),
        (Hypervector(b"short"), r"operands\[1\].vector.bits: has 5 bytes"),
        (
            Concept({"x": Concept({})}),  # type: ignore[dict-item]  # what is refused
            r"operands\[1\].filler: is a Concept; allowed are",
        ),
        (Hypervector(bytes(2048), "another", 1), r"operands\[1\].vector: comes from 'another', projection 1"),
    ],
)
async def test_a_wrong_operand_is_refused_by_its_place(mnemo: Connection, wrong: Any, message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        await mnemo.hypervectors.bind("tea", wrong)


async def test_one_text_is_no_list_and_a_method_has_a_known_name(mnemo: Connection) -> None:
    with pytest.raises(InvalidFieldError, match="operands: 'tea' is one text"):
        await mnemo.hypervectors.encode("tea")
    with pytest.raises(InvalidFieldError, match="among: 'tea' is one text"):
        await mnemo.hypervectors.clean_up("tea", "tea")
    with pytest.raises(InvalidFieldError, match="method: 'guess' is not allowed; allowed are auto"):
        await mnemo.hypervectors.analogy("a", "b", "c", ["d"], method="guess")  # type: ignore[arg-type]


async def test_a_key_needs_the_scope(served: Server) -> None:
    async with connect(served.address, api_key=served.api_key) as owner:
        made = await owner.create_api_key("watcher", ["events:read"])
    async with connect(served.address, api_key=made.secret) as watcher:
        with pytest.raises(PermissionDeniedError, match="memory:read"):
            await watcher.hypervectors.similarity("a", "b")


def test_without_async(served: Server) -> None:
    with sync.connect(served.address, api_key=served.api_key) as mnemo:
        assert mnemo.hypervectors.analogy("France", "Paris", "Italy", CAPITALS).name == "Rome"


def test_on_the_command_line(tmp_path: Path, served: Server) -> None:
    shell = Shell(tmp_path, served.directory)
    among = [word for capital in CAPITALS for word in ("--among", capital)]
    best = shell.good("analogy", "France", "Paris", "Italy", *among, "--limit", "2").splitlines()
    assert best[0].endswith("  Rome")
    assert len(best) == 2
    assert shell.json("analogy", "France", "Paris", "Italy", *among)["name"] == "Rome"
