"""Associations on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from tests.memory_room import ADA, EVE, opened

from mnemo_memory.domain.access import Entry
from mnemo_memory.domain.associations import (
    LEARNING_WINDOW,
    LINKS_A_MEMORY,
    NEW_LEARNT_LINKS,
    Association,
    Associations,
    AssociationType,
    Direction,
    Link,
    LinkFilter,
    Strength,
)
from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Memory, Role, Space
from mnemo_memory.domain.ports import Author, Kept, Request
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemocore.errors import (
    InvalidFieldError,
    MemoryNotFoundError,
    MnemoError,
    PageTokenMismatchError,
    QuotaExceededError,
    RequestIdReusedError,
    RoleRequiredError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.memory_room import Room

    from mnemocore.calls import Identity
    from mnemocore.testing.postgres import TestPostgres

RELATED, SUPPORTS, LEARNT = AssociationType.RELATED, AssociationType.SUPPORTS, AssociationType.CO_RECALLED
EVERY_LINK = LinkFilter()


class Web:
    """The associations of a space."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space
        store = PostgresAssociations(room.database, room.vault)
        self.associations = Associations(store, room.store, room.access, room.clock, lambda: None)

    async def keep(self, *drafts: str | Draft) -> list[Memory]:
        items = [Draft(each) if isinstance(each, str) else each for each in drafts]
        author = Author("ada", self.room.clock.now())
        created = await self.room.store.create(self.space, items, author, None, each=False)
        return [kept.memory for kept in created.outcomes if isinstance(kept, Kept)]

    async def change(self, memory: Memory, **fields: object) -> None:
        author = Author("ada", self.room.clock.now())

        def alter(before: Memory) -> Memory:
            return replace(before, **fields)  # type: ignore[arg-type]

        await self.room.store.mutate(self.space, memory.id, "", Change.UPDATED, alter, author, None)

    async def archive(self, memory: Memory) -> None:
        await self.change(memory, archived_at=self.room.clock.now())

    async def link(
        self,
        source: Memory,
        target: Memory,
        weight: float | None = None,
        type: AssociationType = RELATED,
        *,
        reinforce: bool = False,
        positive: bool = False,
        request: Request | None = None,
        caller: Identity = ADA,
    ) -> Association:
        link, strength = Link(source.id, target.id, type), Strength(weight, reinforce, positive)
        return (await self.associations.associate(caller, self.space.slug, link, strength, request))[1]

    async def chain(self, *memories: Memory, weight: float = 0.5) -> None:
        for source, target in pairwise(memories):
            await self.link(source, target, weight)

    async def links(self, where: LinkFilter = EVERY_LINK, *, caller: Identity = ADA) -> list[Association]:
        return (await self.associations.list_associations(caller, self.space.slug, where, 1000, ""))[1]

    async def pairs(self, where: LinkFilter = EVERY_LINK) -> list[tuple[MemoryId, MemoryId]]:
        return [(each.link.source, each.link.target) for each in await self.links(where)]

    async def paths(
        self, source: Memory, target: Memory, limit: int = 10, hops: int = 0, direction: Direction = Direction.OUTGOING
    ) -> list[tuple[list[MemoryId], float]]:
        _, found = await self.associations.find_paths(
            ADA, self.space.slug, source.id, target.id, max_hops=hops, limit=limit, direction=direction
        )
        return [([each.link.target for each in path.associations], round(path.weight, 9)) for path in found]

    async def around(self, *memories: Memory, **options: object) -> dict[MemoryId, tuple[float, int]]:
        _, neighbours, _ = await self.associations.neighbourhood(
            ADA,
            self.space.slug,
            [each.id for each in memories],
            **options,  # type: ignore[arg-type]
        )
        return {each.memory.id: (round(each.activation.energy, 9), each.activation.hops) for each in neighbours}

    def entry(self) -> Entry:
        return Entry(self.space, ADA, Role.OWNER, Filter())


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def web(room: Room, request: pytest.FixtureRequest) -> Web:
    return Web(room, await room.make("notes", encrypted=request.param))


def a_request(digest: bytes = b"one") -> Request:
    return Request(new_uuid_now(), digest)


def new_uuid_now() -> str:
    return new_uuid(datetime(2026, 1, 1, tzinfo=UTC))


# Setting and reinforcing


async def test_a_link_is_set_and_set_again(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    made_at = web.room.clock.now()
    first = await web.link(tea, cup)
    assert first == Association(Link(tea.id, cup.id, RELATED), 0.3, 1, made_at, made_at, "ada")
    await web.room.clock.advance(60)
    again = await web.link(tea, cup, 0.8)
    assert again == replace(first, weight=0.8, updated_at=web.room.clock.now())
    assert (await web.link(tea, cup)).weight == 0.8
    await web.link(tea, cup, 0.1, SUPPORTS)
    assert [(each.link.type, each.weight) for each in await web.links()] == [(RELATED, 0.8), (SUPPORTS, 0.1)]


async def test_reinforcing_follows_the_golden_numbers(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    steps = [await web.link(tea, cup, reinforce=True) for _ in range(3)]
    assert [each.weight for each in steps] == pytest.approx([0.3, 0.335, 0.36825])
    assert [each.activations for each in steps] == [1, 2, 3]
    liked = await web.link(tea, cup, reinforce=True, positive=True)
    assert liked.weight == pytest.approx(0.36825 + 0.1 * (1 - 0.36825))


async def test_reinforcements_at_the_same_time_all_count(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    await asyncio.gather(*(web.link(tea, cup, reinforce=True) for _ in range(20)))
    (link,) = await web.links()
    assert link.activations == 20
    assert link.weight == pytest.approx(1 - 0.7 * 0.95**19)


async def test_a_request_takes_effect_once(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    request = a_request()
    answers = await asyncio.gather(*(web.link(tea, cup, reinforce=True, request=request) for _ in range(5)))
    await web.link(tea, cup, 0.9)
    assert {*answers, await web.link(tea, cup, reinforce=True, request=request)} == {answers[0]}
    assert [each.weight for each in await web.links()] == [0.9]
    with pytest.raises(RequestIdReusedError):
        await web.link(tea, cup, request=replace(request, digest=b"two"))


async def test_what_cannot_be_linked_is_refused(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    unknown = replace(cup, id=MemoryId(new_uuid_now()))
    for source, target in ((tea, unknown), (unknown, tea)):
        with pytest.raises(MemoryNotFoundError, match=unknown.id):
            await web.link(source, target)
    with pytest.raises(InvalidFieldError, match="target_id"):
        await web.link(tea, tea)
    with pytest.raises(InvalidFieldError, match="weight"):
        await web.link(tea, cup, 0.5, reinforce=True)
    with pytest.raises(InvalidFieldError, match="positive"):
        await web.link(tea, cup, positive=True)
    assert await web.links() == []


async def test_a_memory_keeps_its_strongest_links_and_the_one_that_was_just_made(web: Web) -> None:
    centre, *others = await web.keep(*(str(number) for number in range(LINKS_A_MEMORY + 3)))
    for number, other in enumerate(others[:LINKS_A_MEMORY]):
        await web.link(centre, other, (number + 5) / 200)
    await web.link(centre, others[LINKS_A_MEMORY], 0.001)
    assert len(await web.links()) == LINKS_A_MEMORY
    remaining = {target for _, target in await web.pairs()}
    assert others[0].id not in remaining
    assert others[LINKS_A_MEMORY].id in remaining
    await web.link(centre, others[LINKS_A_MEMORY + 1], 0.9)
    assert others[LINKS_A_MEMORY].id not in {target for _, target in await web.pairs()}
    await web.link(others[0], centre, 0.001)
    assert len(await web.links()) == LINKS_A_MEMORY + 1


async def test_links_are_removed_by_type_or_all_and_with_their_memories(web: Web) -> None:
    tea, cup, pot = await web.keep("tea", "cup", "pot")
    for type in (RELATED, SUPPORTS):
        await web.link(tea, cup, 0.5, type)
    await web.link(cup, tea)
    await web.link(pot, tea)

    async def remove(type: AssociationType | None) -> int:
        return await web.associations.dissociate(ADA, "notes", tea.id, cup.id, type)

    assert await remove(SUPPORTS) == 1
    assert await remove(SUPPORTS) == 0
    assert await remove(None) == 1
    assert await web.pairs() == sorted([(cup.id, tea.id), (pot.id, tea.id)])
    await web.room.store.erase(web.space, pot.id, "", Author("ada", web.room.clock.now()), None)
    assert await web.pairs() == [(cup.id, tea.id)]


# The limit of what is learnt in an hour


async def learn(web: Web, count: int, made_at: datetime) -> list[Memory]:
    """Memories, and so many links of the type CO_RECALLED between them, made at a time, which no other two have."""
    memories = await web.keep(*(f"{made_at} {number}" for number in range(count + 2)))
    await web.room.database.execute(
        "INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, principal) "
        "SELECT $1, source, target, 9, 0.3, $4, $4, 'ada' FROM unnest($2::uuid[], $3::uuid[]) AS t(source, target)",
        UUID(web.space.uid),
        [UUID(each.id) for each in memories[:count]],
        [UUID(each.id) for each in memories[1 : count + 1]],
        made_at,
    )
    return memories


async def test_new_links_that_are_learnt_are_limited_by_the_hour(web: Web) -> None:
    first_at = web.room.clock.now()
    await learn(web, 100, first_at)
    await web.room.clock.advance(600)
    *_, before, last, end = await learn(web, NEW_LEARNT_LINKS - 101, web.room.clock.now())
    await web.link(last, end, type=LEARNT)
    with pytest.raises(QuotaExceededError) as caught:
        await web.link(end, last, type=LEARNT)
    error = caught.value
    assert error.metadata == {
        "space": "spaces/notes",
        "quota": "new_co_recalled_links_per_hour",
        "limit": str(NEW_LEARNT_LINKS),
    }
    assert error.retry_after == LEARNING_WINDOW.total_seconds() - 600
    assert (first_at + LEARNING_WINDOW).isoformat() in error.message
    assert (await web.link(last, end, type=LEARNT, reinforce=True)).weight == pytest.approx(0.335)
    assert (await web.link(end, last)).weight == 0.3
    other = Web(web.room, await web.room.make("other"))
    one, two = await other.keep("one", "two")
    await other.link(one, two, type=LEARNT)
    await web.room.clock.advance(error.retry_after - 1)
    with pytest.raises(QuotaExceededError) as caught:
        await web.link(end, last, type=LEARNT)
    assert caught.value.retry_after == 1
    await web.room.clock.advance(1)
    request = a_request()
    assert (await web.link(end, before, type=LEARNT, request=request)).activations == 1


async def test_a_request_that_was_refused_takes_effect_when_there_is_room(web: Web) -> None:
    *_, one, two = await learn(web, NEW_LEARNT_LINKS, web.room.clock.now())
    request = a_request()
    with pytest.raises(QuotaExceededError):
        await web.link(one, two, type=LEARNT, request=request)
    await web.room.clock.advance(LEARNING_WINDOW.total_seconds())
    made = await web.link(one, two, type=LEARNT, request=request)
    await learn(web, NEW_LEARNT_LINKS, web.room.clock.now())
    assert await web.link(one, two, type=LEARNT, request=request) == made


async def test_learners_at_the_same_time_share_the_limit(web: Web) -> None:
    memories = await learn(web, NEW_LEARNT_LINKS - 10, web.room.clock.now())
    centre, *others = memories[:31]
    calls = [web.link(other, centre, type=LEARNT) for other in others[1:]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, Association) for each in results) == 10
    assert sum(isinstance(each, QuotaExceededError) for each in results) == len(others) - 1 - 10
    learnt = await web.links(LinkFilter(types=(LEARNT,)))
    assert len(learnt) == NEW_LEARNT_LINKS


# Listing


async def test_links_are_listed_by_direction_type_and_weight_in_whatever_state(web: Web) -> None:
    tea, cup, pot = await web.keep("tea", "cup", "pot")
    await web.link(tea, cup, 0.2)
    await web.link(pot, tea, 0.9, SUPPORTS)
    await web.link(pot, cup, 0.5)
    await web.archive(cup)
    assert await web.pairs() == [(pot.id, tea.id), (pot.id, cup.id), (tea.id, cup.id)]
    assert await web.pairs(LinkFilter(tea.id)) == [(pot.id, tea.id), (tea.id, cup.id)]
    assert await web.pairs(LinkFilter(tea.id, Direction.OUTGOING)) == [(tea.id, cup.id)]
    assert await web.pairs(LinkFilter(tea.id, Direction.INCOMING)) == [(pot.id, tea.id)]
    assert await web.pairs(LinkFilter(types=(SUPPORTS,))) == [(pot.id, tea.id)]
    assert await web.pairs(LinkFilter(min_weight=0.5)) == [(pot.id, tea.id), (pot.id, cup.id)]
    assert await web.pairs(LinkFilter(MemoryId(new_uuid_now()))) == []


async def test_pages_hold_every_link_once_in_one_order(web: Web) -> None:
    memories = await web.keep(*"abcdef")
    for source in memories:
        for target in memories:
            if source is not target:
                await web.link(source, target, 0.5 if source.id < target.id else 0.25)
    listed, token, pages = [], "", 0
    while pages == 0 or token:
        _, page, token = await web.associations.list_associations(ADA, "notes", EVERY_LINK, 7, token)
        listed += page
        pages += 1
    assert pages == 5
    keys = [(-each.weight, each.link.source, each.link.target) for each in listed]
    assert keys == sorted(set(keys))
    assert len(keys) == 30
    _, _, token = await web.associations.list_associations(ADA, "notes", EVERY_LINK, 7, "")
    with pytest.raises(PageTokenMismatchError):
        await web.associations.list_associations(ADA, "notes", LinkFilter(types=(RELATED,)), 7, token)


# Paths


async def test_the_best_paths_of_at_most_five_links(web: Web) -> None:
    a, b, c, d, e, f, g = await web.keep(*"abcdefg")
    await web.chain(a, b, c, d, e, f, g, weight=0.9)
    await web.link(a, f, 0.1)
    assert await web.paths(a, f) == [([b.id, c.id, d.id, e.id, f.id], round(0.9**5, 9)), ([f.id], 0.1)]
    assert await web.paths(a, f, limit=0) == [([b.id, c.id, d.id, e.id, f.id], round(0.9**5, 9))]
    assert await web.paths(a, f, hops=4) == [([f.id], 0.1)]
    assert await web.paths(b, g, hops=4) == []
    assert await web.paths(a, g) == [([f.id, g.id], 0.09)]
    assert await web.paths(c, a) == []


async def test_paths_follow_links_in_the_direction_that_was_asked_for(web: Web) -> None:
    a, b, c = await web.keep(*"abc")
    await web.link(a, b, 0.5)
    await web.link(c, b, 0.5)
    assert await web.paths(a, c) == []
    assert await web.paths(a, c, direction=Direction.BOTH) == [([b.id, b.id], 0.25)]
    assert await web.paths(b, a, direction=Direction.INCOMING) == [([b.id], 0.5)]
    with pytest.raises(InvalidFieldError, match="target_id"):
        await web.paths(a, a)
    with pytest.raises(MemoryNotFoundError):
        await web.paths(a, replace(c, id=MemoryId(new_uuid_now())))


async def test_nothing_is_found_through_a_memory_that_is_out_of_recall(web: Web) -> None:
    a, b, c, d = await web.keep("a", "b", "c", Draft("d", expires_at=web.room.clock.now() + timedelta(hours=1)))
    await web.chain(a, b, c)
    await web.chain(a, d, c, weight=0.4)
    await web.archive(b)
    assert await web.paths(a, c) == [([d.id, c.id], 0.16)]
    assert await web.around(a) == {d.id: (0.7, 1), c.id: (0.49, 2)}
    await web.room.clock.advance(3600)
    assert await web.paths(a, c) == []
    assert await web.around(a) == {}
    assert await web.paths(b, d) == []
    assert await web.paths(a, d) == [([d.id], 0.4)]
    assert await web.around(b) == {a.id: (0.35, 1), c.id: (0.35, 1)}


async def test_a_superseded_memory_conducts_nothing(web: Web) -> None:
    a, old, c = await web.keep("a", "old", "c")
    await web.chain(a, old, c)
    author = Author("ada", web.room.clock.now())

    def close(before: Memory, draft: Draft) -> tuple[Memory, Draft]:
        return before, draft

    await web.room.store.supersede(web.space, old.id, "", Draft("new"), close, author, None)
    assert await web.paths(a, c) == []
    assert await web.around(a) == {}


# Spreading activation


async def test_activation_spreads_over_links_in_both_directions(web: Web) -> None:
    a, b, c, d, e = await web.keep(*"abcde")
    await web.chain(a, b, c, d, e)
    assert await web.around(a) == {b.id: (0.7, 1), c.id: (0.49, 2), d.id: (0.343, 3)}
    assert await web.around(c) == {
        b.id: (0.35, 1),
        d.id: (0.35, 1),
        a.id: (0.245, 2),
        e.id: (0.245, 2),
    }
    assert await web.around(a, max_hops=1) == {b.id: (0.7, 1)}
    assert await web.around(a, limit=1) == {b.id: (0.7, 1)}
    assert await web.around(a, types=(SUPPORTS,)) == {}
    _, _, links = await web.associations.neighbourhood(ADA, "notes", [a.id, b.id], max_hops=1)
    assert {(each.link.source, each.link.target) for each in links} == {(a.id, b.id), (b.id, c.id)}
    with pytest.raises(MemoryNotFoundError):
        await web.around(a, replace(b, id=MemoryId(new_uuid_now())))


async def test_neighbours_in_a_session_are_linked_without_being_told(web: Web) -> None:
    turns = await web.keep(*(Draft(str(number), session="s") for number in range(6)), Draft("0", session="t"))
    energies = {1: 0.7 / 6, 2: 0.7 / 3, 4: 0.7 / 3, 5: 0.7 / 6}
    found = await web.around(turns[3], max_hops=1)
    assert found == {turns[place].id: (round(energy, 9), 1) for place, energy in energies.items()}
    assert await web.around(turns[3], sessions=False) == {}
    await web.archive(turns[4])
    assert set(await web.around(turns[5], max_hops=1)) == {turns[3].id, turns[2].id}
    assert await web.around(turns[6]) == {}


async def test_turns_with_one_ordinal_and_with_gaps_stand_in_one_order(web: Web) -> None:
    drafts = [Draft(str(number), session="s", ordinal=ordinal) for number, ordinal in enumerate((10, 10, 500, -3))]
    first, second, last, before = await web.keep(*drafts)
    assert set(await web.around(before, max_hops=1)) == {first.id, second.id}
    assert set(await web.around(last, max_hops=1)) == {first.id, second.id}
    assert set(await web.around(first, max_hops=1)) == {before.id, second.id, last.id}


async def test_activation_for_a_recall(web: Web) -> None:
    seed, *others = await web.keep("seed", *(str(number) for number in range(60)))
    for other in others:
        await web.link(seed, other)
    now = web.room.clock.now()
    found = await web.associations.spread(web.entry(), {seed.id: 1.0}, now)
    assert found == pytest.approx({other.id: 0.7 / 60 for other in others})
    assert await web.associations.spread(web.entry(), {seed.id: 0.5}, now) == {}
    assert await web.associations.spread(web.entry(), {}, now) == {}
    await web.archive(others[0])
    assert others[0].id not in await web.associations.spread(web.entry(), {seed.id: 1.0}, now)


async def test_activation_for_a_recall_is_bounded(web: Web) -> None:
    memories = await web.keep(*(str(number) for number in range(280)))
    seeds, others = memories[:10], memories[10:]
    for number, other in enumerate(others):
        await web.link(seeds[number % 10], other)
    found = await web.associations.spread(web.entry(), {seed.id: 1.0 for seed in seeds}, web.room.clock.now())
    assert len(found) == 200
    assert not found.keys() & {seed.id for seed in seeds}


# Who sees what


async def test_no_other_tenant_sees_or_touches_links(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    await web.link(tea, cup)
    with pytest.raises(SpaceNotFoundError):
        await web.links(caller=EVE)
    elsewhere = Web(web.room, await web.room.make("notes", EVE))
    assert await elsewhere.links(caller=EVE) == []
    with pytest.raises(MemoryNotFoundError):
        await elsewhere.link(tea, cup, caller=EVE)
    assert await elsewhere.associations.dissociate(EVE, "notes", tea.id, cup.id, None) == 0
    assert len(await web.links()) == 1


async def test_no_memory_of_another_space_is_reached(web: Web) -> None:
    other = Web(web.room, await web.room.make("other", encrypted=web.space.encrypted))
    shared_ids = [MemoryId(new_uuid_now()) for _ in range(3)]
    drafts = [Draft(str(number), id=each, session="s") for number, each in enumerate(shared_ids)]
    ours, theirs = await web.keep(*drafts), await other.keep(*drafts)
    (hidden,) = await other.keep(Draft("hidden", session="s"))
    await other.chain(*theirs, hidden)
    with pytest.raises(MemoryNotFoundError):
        await web.link(ours[0], hidden)
    assert await web.links() == []
    assert await web.paths(ours[0], ours[2]) == []
    assert hidden.id not in await web.around(*ours)
    assert await web.associations.spread(web.entry(), {hidden.id: 1.0}, web.room.clock.now()) == {}


async def test_who_sees_a_part_learns_nothing_of_the_rest(web: Web) -> None:
    fact, secret, end, aside = await web.keep(
        Draft("fact", kind=Kind.FACT, session="s"),
        Draft("secret", kind=Kind.DECISION, session="s"),
        Draft("end", kind=Kind.FACT, session="s"),
        Draft("aside", kind=Kind.FACT),
    )
    await web.chain(fact, secret, end)
    await web.link(fact, aside, 0.1)
    web.room.shares.share(web.space, "shared", Role.ANNOTATE, (Kind.FACT,))
    seen = replace(web.space, slug="shared")
    partly = Web(web.room, seen)

    async def refused(source: Memory, target: Memory) -> MnemoError:
        with pytest.raises(MemoryNotFoundError) as caught:
            await partly.link(source, target, caller=EVE)
        return caught.value

    for where in (EVERY_LINK, LinkFilter(fact.id), LinkFilter(secret.id)):
        shown = await partly.links(where, caller=EVE)
        assert {each.link.target for each in shown} <= {aside.id}
    with pytest.raises(MemoryNotFoundError):
        await partly.associations.find_paths(EVE, "shared", fact.id, secret.id)
    assert (await partly.associations.find_paths(EVE, "shared", fact.id, end.id))[1] == []
    _, neighbours, links = await partly.associations.neighbourhood(EVE, "shared", [fact.id])
    assert {each.memory.id: round(each.activation.energy, 6) for each in neighbours} == {
        end.id: round(0.7 * 0.5 / 0.6, 6),
        aside.id: round(0.7 * 0.1 / 0.6, 6),
    }
    assert [each.link.target for each in links] == [aside.id]
    with pytest.raises(MemoryNotFoundError):
        await partly.associations.neighbourhood(EVE, "shared", [secret.id])
    unknown = replace(secret, id=MemoryId(new_uuid_now()))
    texts = {str(await refused(fact, each)).replace(each.id, "") for each in (secret, unknown)}
    assert len(texts) == 1
    assert await partly.associations.dissociate(EVE, "shared", fact.id, secret.id, None) == 0
    assert len(await web.links()) == 3
    assert (await partly.link(fact, end, caller=EVE)).principal == "globex/eve"


async def test_readers_may_look_and_not_link(web: Web) -> None:
    tea, cup = await web.keep("tea", "cup")
    await web.link(tea, cup)
    web.room.shares.share(web.space, "shared", Role.READ)
    reading = Web(web.room, replace(web.space, slug="shared"))
    assert len(await reading.links(caller=EVE)) == 1
    with pytest.raises(RoleRequiredError):
        await reading.link(tea, cup, caller=EVE)
    with pytest.raises(RoleRequiredError):
        await reading.associations.dissociate(EVE, "shared", tea.id, cup.id, None)
