"""Recall on the real store, with an index that finds what it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.memory_house import ADA, EVE, NO_EDIT, House, opened

from mnemo_memory.domain.access import Access
from mnemo_memory.domain.consistency import decode_token
from mnemo_memory.domain.memories import New
from mnemo_memory.domain.memory import Draft, Filter, Memory, Profile, Space, State
from mnemo_memory.domain.ports import Found, Hit, Question, ScorePart
from mnemo_memory.domain.recall import Answer, Freshness, Inquiry, Recall, Recalled
from mnemo_memory.domain.retention import strength_of
from mnemo_memory.domain.uses import Uses
from mnemocore.errors import ForeignTokenError, IndexLaggingError, PeerUnavailableError, SpaceNotFoundError
from mnemocore.ids import MemoryId, SpaceUid, new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.calls import Identity
    from mnemocore.errors import MnemoError
    from mnemocore.testing.postgres import TestPostgres

EVERYTHING = Filter()
ANY = Freshness()


class ToldIndex:
    """Implements the port to the index: answers with what it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.found: list[tuple[MemoryId, float]] = []
        self.applied = 0
        self.failure: MnemoError | None = None
        self.asked: list[tuple[SpaceUid, Question]] = []

    @property
    def last(self) -> Question:
        """What it was asked last."""
        return self.asked[-1][1]

    async def search(self, space: Space, question: Question) -> Found:
        self.asked.append((space.uid, question))
        if self.failure:
            raise self.failure
        hits = [
            Hit(each, relevance, (ScorePart("semantic", relevance, 1.0, relevance),)) for each, relevance in self.found
        ]
        return Found(tuple(hits[: question.limit]), self.applied)


class Service:
    """memory-core without its wire, with one space of `acme`, and recall over an index that is told what to find."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.store = house.store
        self.index = ToldIndex()
        access = Access(house.space_store, house.grant_store, house.clock)
        uses = Uses(house.store, house.clock)
        self._recall = Recall(house.store, self.index, access, house.associations, uses, house.clock)

    async def keep(self, *drafts: Draft, slug: str = "notes") -> tuple[list[Memory], str]:
        _, kept, token = await self.house.memories.create(ADA, slug, [New(draft) for draft in drafts], None)
        return [each.memory for each in kept], token

    async def archive(self, memory: Memory) -> None:
        await self.house.memories.archive(ADA, "notes", memory.id, NO_EDIT)

    async def erase(self, memory: Memory) -> None:
        await self.house.memories.erase(ADA, "notes", memory.id, NO_EDIT)

    async def ask(self, inquiry: Inquiry, *, slug: str = "notes", caller: Identity = ADA) -> Answer:
        return await self._recall.recall(caller, slug, inquiry)

    async def recall(
        self,
        limit: int = 10,
        *,
        slug: str = "notes",
        caller: Identity = ADA,
        profile: Profile = Profile.SEMANTIC,
        freshness: Freshness = ANY,
    ) -> tuple[list[Recalled], str]:
        inquiry = Inquiry("query", limit, profile=profile, freshness=freshness)
        answer = await self.ask(inquiry, slug=slug, caller=caller)
        return answer.recalled, answer.token


@pytest.fixture
async def service(postgres: TestPostgres) -> AsyncIterator[Service]:
    async with opened(postgres) as house:
        await house.make("notes")
        yield Service(house)


async def test_what_the_index_finds_is_loaded_and_explained(service: Service) -> None:
    (first, second), _ = await service.keep(Draft("tea"), Draft("coffee"))
    service.index.found, service.index.applied = [(second.id, 0.9), (first.id, 0.4)], 2
    recalled, token = await service.recall()
    assert [(each.memory, each.score) for each in recalled] == [(second, 0.9), (first, 0.4)]
    assert [part.name for part in recalled[0].parts] == ["semantic"]
    space = await service.house.space_store.get_space(ADA.tenant, "notes")
    now = service.house.clock.now()
    assert service.index.asked == [
        (space.uid, Question("query", 30, EVERYTHING, (State.ACTIVE,), now, wanted_revision=2))
    ]
    assert decode_token(token, service.store.store_id, space.uid) == 2


async def test_archived_and_missing_memories_are_dropped(service: Service) -> None:
    (kept, archived, erased), _ = await service.keep(Draft("kept"), Draft("archived"), Draft("erased"))
    await service.archive(archived)
    await service.erase(erased)
    never = MemoryId(new_uuid(service.house.clock.now()))
    service.index.found = [(each, 0.9) for each in (archived.id, erased.id, never, kept.id)]
    recalled, _ = await service.recall(1)
    assert [each.memory.id for each in recalled] == [kept.id]


@pytest.mark.parametrize("with_index", [True, False])
async def test_what_is_known_at_the_first_and_the_last_moment(service: Service, with_index: bool) -> None:
    (kept,), _ = await service.keep(Draft("a query"))
    service.index.found, service.index.applied = [(kept.id, 0.9)], 1
    service.index.failure = None if with_index else PeerUnavailableError(target="index")
    last = await service.ask(Inquiry("query", known_at=datetime.max.replace(tzinfo=UTC)))
    assert [each.memory.id for each in last.recalled] == [kept.id]
    first = await service.ask(Inquiry("query", known_at=datetime.min.replace(tzinfo=UTC)))
    assert first.recalled == []


async def test_no_memory_of_another_space_or_tenant_is_loaded(service: Service) -> None:
    await service.house.make("other")
    await service.house.make("notes", EVE)
    (elsewhere,), _ = await service.keep(Draft("secret"), slug="other")
    service.index.found = [(elsewhere.id, 1.0)]
    assert await service.recall() == await service.recall()
    assert (await service.recall())[0] == []
    assert (await service.recall(caller=EVE))[0] == []
    assert len({asked[0] for asked in service.index.asked}) == 2


async def test_the_limit(service: Service) -> None:
    memories, _ = await service.keep(*(Draft(str(number)) for number in range(30)))
    service.index.found = [(memory.id, 1 - number / 100) for number, memory in enumerate(memories)]
    for limit, returned, asked in ((0, 10, 30), (1, 1, 12), (25, 25, 60), (1000, 30, 2010), (5000, 30, 2010)):
        recalled, _ = await service.recall(limit)
        assert [each.memory for each in recalled] == memories[:returned]
        assert service.index.last.limit == asked


async def test_the_profile_decides_what_counts(service: Service) -> None:
    now = service.house.clock.now()
    (old, new), _ = await service.keep(
        Draft("old", occurred_at=now - timedelta(days=300)), Draft("new", occurred_at=now)
    )
    service.index.found = [(old.id, 0.9), (new.id, 0.6)]
    assert [each.memory for each in (await service.recall(profile=Profile.SEMANTIC))[0]] == [old, new]
    assert [each.memory for each in (await service.recall(profile=Profile.RECENT))[0]] == [new, old]
    balanced, _ = await service.recall(profile=Profile.BALANCED)
    assert balanced[0].score == pytest.approx(
        0.98 * 0.9 + 0.008 * 2**-10 + 0.006 * 0.5 + 0.003 * strength_of(old, now) + 0.003 * 0.5
    )


async def test_of_equal_scores_the_newer_memory_comes_first(service: Service) -> None:
    memories, _ = await service.keep(*(Draft("same") for _ in range(4)))
    service.index.found = [(memory.id, 0.5) for memory in memories]
    assert [each.memory for each in (await service.recall())[0]] == memories[::-1]


async def test_the_index_is_asked_to_be_as_fresh_as_wanted(service: Service) -> None:
    _, early = await service.keep(Draft("1"), Draft("2"))
    await service.keep(Draft("3"))
    for freshness, needed, desired in (
        (ANY, 0, 3),
        (Freshness(at_once=True), 0, 0),
        (Freshness(token=early), 2, 0),
        (Freshness(everything=True), 3, 3),
    ):
        await service.recall(freshness=freshness)
        assert (service.index.last.min_revision, service.index.last.wanted_revision) == (needed, desired)


async def test_a_token_of_another_space_is_refused_before_the_index_is_asked(service: Service) -> None:
    await service.house.make("other")
    _, foreign = await service.keep(Draft("x"), slug="other")
    for token in (foreign, "nonsense"):
        with pytest.raises(ForeignTokenError):
            await service.recall(freshness=Freshness(token=token))
    assert service.index.asked == []


async def test_the_token_of_an_answer_asks_for_what_was_answered(service: Service) -> None:
    service.index.applied = 2**40
    _, token = await service.recall()
    await service.recall(freshness=Freshness(token=token))
    assert service.index.last.min_revision == 2**40


async def test_what_goes_wrong_reaches_the_caller(service: Service) -> None:
    with pytest.raises(SpaceNotFoundError):
        await service.recall(slug="none")
    with pytest.raises(SpaceNotFoundError):
        await service.recall(caller=EVE)
    service.index.failure = IndexLaggingError(space="s", wanted="2", applied="1")
    with pytest.raises(IndexLaggingError):
        await service.recall()
