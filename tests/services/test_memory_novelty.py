"""The novelty gate on its way to the store: repeated requests, what changes meanwhile, and media."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.memory_house import ADA, NO_EDIT, House, opened

from mnemo_memory.domain.access import Access
from mnemo_memory.domain.extensions import Extensions
from mnemo_memory.domain.hot_cache import HotCache
from mnemo_memory.domain.media import MediaInput
from mnemo_memory.domain.memories import Memories, New, Remembered
from mnemo_memory.domain.memory import Draft, Filter, NoveltyGate, State
from mnemo_memory.domain.novelty import Decision, Judgement, Novelty
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.uses import Uses
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, MemoryNotFoundError, RequestIdReusedError
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Entry
    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.novelty import SimilarFinder
    from mnemocore.ids import MemoryId
    from mnemocore.testing.postgres import TestPostgres

PORTO = "Alice lives in Porto"
LISBON = "Alice lives in Lisbon"
MADRID = "Actually Alice lives in Madrid"
LONG = "Alice lives in Porto with a very old dog by the name of Rex"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


class Interrupted(Novelty):
    """Something happens between the comparison and the write, after the first `times` comparisons."""

    def __init__(self, house: House, finder: SimilarFinder) -> None:
        links = Extensions(PostgresAssociations(house.database, house.vault))
        super().__init__(finder, house.store, links, house.clock)
        self.act: Callable[[], Awaitable[object]] | None = None
        self.times = 1
        self.judged = 0

    async def judge(self, entry: Entry, draft: Draft) -> Judgement:
        judgement = await super().judge(entry, draft)
        self.judged += 1
        if self.act is not None and self.judged <= self.times:
            await self.act()
        return judgement


class Gate:
    """A house whose memories go through a novelty gate that takes all for much alike."""

    def __init__(self, house: House, finder: SimilarFinder | None = None) -> None:
        self.house = house
        self.novelty = Interrupted(house, finder or house.index)
        self.memories = Memories(
            house.store,
            Access(house.space_store, house.grant_store, house.clock),
            house.media,
            self.novelty,
            Uses(house.store, house.clock),
            HotCache(house.clock, lambda *_: None),
            house.clock,
            lambda: None,
            lambda: None,
        )

    async def remember(self, text: str, request: Request | None = None, data: bytes = b"") -> tuple[Remembered, str]:
        new = New(Draft(text, novelty_gate=NoveltyGate.ON), MediaInput(data) if data else None)
        _, remembered, token = await self.memories.create_one(ADA, "a", new, request)
        return remembered, token

    def request(self, digest: bytes = b"one") -> Request:
        return Request(new_uuid(self.house.clock.now()), digest)

    async def active(self) -> list[str]:
        """The contents of the active memories, oldest first."""
        _, found, _ = await self.memories.list_memories(ADA, "a", Filter(), [], 0, "")
        return [memory.content for memory in reversed(found)]


@pytest.fixture
async def gate(postgres: TestPostgres) -> AsyncIterator[Gate]:
    async with opened(postgres) as house:
        await house.make("a")
        yield Gate(house)


@pytest.mark.parametrize(
    ("texts", "decision"),
    [
        ([LISBON], Decision.NEW),
        ([LISBON, LISBON], Decision.REDUNDANT),
        ([PORTO, LISBON], Decision.UPDATE),
        ([PORTO, MADRID], Decision.CORRECTION),
    ],
)
async def test_a_repeated_request_has_the_first_answer(gate: Gate, texts: list[str], decision: Decision) -> None:
    for text in texts[:-1]:
        await gate.remember(text)
    request = gate.request()
    first, token = await gate.remember(texts[-1], request)
    assert first.novelty is decision
    again, repeated = await gate.remember(texts[-1], request)
    without_uses = replace(first.memory, accesses=again.memory.accesses, accessed_at=again.memory.accessed_at)
    assert (again, repeated) == (replace(first, memory=without_uses), token)
    assert len(await gate.active()) == 1
    with pytest.raises(RequestIdReusedError):
        await gate.remember(texts[-1], Request(request.id, b"another"))


async def test_a_repeated_request_has_no_answer_once_its_memory_is_erased(gate: Gate) -> None:
    request = gate.request()
    first, _ = await gate.remember(PORTO, request)
    await gate.memories.erase(ADA, "a", first.memory.id, NO_EDIT)
    with pytest.raises(MemoryNotFoundError):
        await gate.remember(PORTO, request)


async def test_one_request_sent_twice_at_the_same_time_writes_once(gate: Gate) -> None:
    await gate.remember(PORTO)
    request = gate.request()

    async def the_other() -> None:
        gate.novelty.act = None
        await gate.remember(LISBON, request)

    gate.novelty.act, gate.novelty.judged = the_other, 0
    remembered, _ = await gate.remember(LISBON, request)
    assert remembered.memory.content == LISBON
    assert await gate.active() == [LISBON]


@pytest.mark.parametrize("text", [PORTO, LISBON])
@pytest.mark.parametrize("change", ["archive", "erase", "protect", "supersede"])
async def test_what_changes_after_the_comparison_costs_no_memory(gate: Gate, text: str, change: str) -> None:
    (known,) = await gate.house.keep("a", Draft(PORTO))

    async def act() -> None:
        if change == "archive":
            await gate.memories.archive(ADA, "a", known.id, NO_EDIT)
        elif change == "erase":
            await gate.memories.erase(ADA, "a", known.id, NO_EDIT)
        elif change == "protect":
            await gate.memories.protect(ADA, "a", known.id, True, NO_EDIT)
        else:
            await gate.memories.supersede(ADA, "a", known.id, New(Draft("somebody else", actor="Bob")), NO_EDIT)

    gate.novelty.act = act
    remembered, _ = await gate.remember(text)
    assert remembered.memory.state is State.ACTIVE
    assert text in await gate.active()


async def test_what_never_stops_changing_is_not_compared_with(gate: Gate) -> None:
    async def act() -> None:
        _, found, _ = await gate.memories.list_memories(ADA, "a", Filter(), [], 0, "")
        for memory in found:
            await gate.memories.archive(ADA, "a", memory.id, NO_EDIT)
        await gate.house.keep("a", Draft(PORTO))

    await gate.house.keep("a", Draft(PORTO))
    gate.novelty.act, gate.novelty.times = act, 100
    remembered, _ = await gate.remember(PORTO)
    assert (remembered.novelty, remembered.duplicate) == (Decision.UNKNOWN, False)
    assert await gate.active() == [PORTO, PORTO]


async def test_nothing_is_compared_with_what_is_out_of_recall(gate: Gate) -> None:
    (known,) = await gate.house.keep("a", Draft(PORTO))
    await gate.memories.archive(ADA, "a", known.id, NO_EDIT)
    remembered, _ = await gate.remember(PORTO)
    assert (remembered.novelty, remembered.memory.state) == (Decision.NEW, State.ACTIVE)


async def test_what_is_protected_is_not_replaced(gate: Gate) -> None:
    await gate.house.keep("a", Draft(PORTO, protected=True))
    remembered, _ = await gate.remember(LISBON)
    assert remembered.novelty is Decision.NEW
    assert await gate.active() == [PORTO, LISBON]


async def test_a_refinement_of_what_was_just_erased_is_written(gate: Gate) -> None:
    class Alike:
        """Finds the known memory, less than equal."""

        async def similar(
            self, space: Space, text: str, limit: int, where: Filter, least: float, revision: int, now: datetime
        ) -> Sequence[tuple[MemoryId, float]]:
            return [(known.id, 0.85)]

    (known,) = await gate.house.keep("a", Draft(PORTO))
    gate = Gate(gate.house, Alike())

    async def act() -> None:
        await gate.memories.erase(ADA, "a", known.id, NO_EDIT)

    gate.novelty.act = act
    remembered, _ = await gate.remember(LONG)
    assert remembered.novelty is Decision.REFINEMENT
    assert await gate.active() == [LONG]


async def test_a_medium_is_kept_whatever_its_text_says(gate: Gate) -> None:
    first, _ = await gate.remember("A photo of the whiteboard", data=PNG)
    second, _ = await gate.remember("A photo of the whiteboard", data=PNG + b"another")
    assert second.novelty is None
    assert first.memory.media is not None
    assert second.memory.media is not None
    assert second.memory.media.sha256 != first.memory.media.sha256


async def test_an_index_that_is_silent_until_the_end_costs_no_memory(gate: Gate) -> None:
    class Silent:
        """Answers when the call it belongs to has no time left."""

        async def similar(
            self, space: Space, text: str, limit: int, where: Filter, least: float, revision: int, now: datetime
        ) -> Sequence[tuple[MemoryId, float]]:
            end = calls.deadline.get()
            assert end is not None
            assert end < last, "it has a share of the time"
            raise DeadlineExceededError

    gate = Gate(gate.house, Silent())
    last = time.monotonic() + 60
    token = calls.deadline.set(last)
    try:
        remembered, _ = await gate.remember(PORTO)
    finally:
        calls.deadline.reset(token)
    assert (remembered.novelty, await gate.active()) == (Decision.UNKNOWN, [PORTO])
