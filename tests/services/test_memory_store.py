"""The store of memory-core on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from asyncpg.exceptions import UniqueViolationError
from tests.memory_room import Room, migrated, opened

from mnemo_memory.domain import changes
from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Limits, OnDuplicate, Policy, Space, State
from mnemo_memory.domain.ports import Author, Kept, ListPosition, Request
from mnemo_memory.storage.drafts import LAST_ORDINAL
from mnemocore.calls import Identity
from mnemocore.errors import (
    AlreadySupersededError,
    DuplicateMemoryError,
    EtagMismatchError,
    MemoryExistsError,
    MemoryNotFoundError,
    MemoryProtectedError,
    QuotaExceededError,
    RequestIdReusedError,
    SpaceExistsError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, Tenant, new_uuid
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_memory.domain.memory import Memory
    from mnemo_memory.domain.ports import Created, Written
    from mnemo_memory.storage.postgres_store import PostgresStore
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

NOW = ManualClock().now()
ALICE = Author("alice", NOW)
ACME = Tenant("acme")
STRANGER = Identity(Tenant("stranger"), "sam", frozenset({"*"}))
EVERYTHING = Filter()
NEWEST = ListPosition(2**62, 2**62)
EVERY_STATE = list(State)


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as started:
        yield started


@pytest.fixture
def store(room: Room) -> PostgresStore:
    return room.store


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def space(room: Room, request: pytest.FixtureRequest) -> Space:
    return await room.make("notes", encrypted=request.param)


@pytest.fixture
async def two_rooms(postgres: TestPostgres) -> AsyncIterator[tuple[Room, Room]]:
    """Two replicas of memory-core: pools of their own on one database."""
    url = await postgres.create(migrated)
    databases = [await postgres.open(url) for _ in range(2)]
    yield Room(databases[0]), Room(databases[1])
    for database in databases:
        await database.close()
    await postgres.drop(url)


def an_id() -> MemoryId:
    return MemoryId(new_uuid(NOW))


def a_request(digest: bytes = b"one") -> Request:
    return Request(new_uuid(NOW), digest)


def later(**passed: float) -> Author:
    return Author("alice", NOW + timedelta(**passed))


def kept(created: Created) -> list[Memory]:
    """The memories of the outcomes, all of which were kept."""
    return [outcome.memory for outcome in created.outcomes if isinstance(outcome, Kept)]


async def create(store: PostgresStore, space: Space, *drafts: Draft, author: Author = ALICE) -> list[Memory]:
    return kept(await store.create(space, drafts, author, None, each=False))


async def archive(
    store: PostgresStore,
    space: Space,
    memory: Memory,
    etag: str = "",
    author: Author = ALICE,
    request: Request | None = None,
) -> Written:
    alter = changes.archive(author.at, "it")
    return await store.mutate(space, memory.id, etag, Change.ARCHIVED, alter, author, request)


async def restore(
    store: PostgresStore, space: Space, memory: Memory, etag: str = "", author: Author = ALICE
) -> Written:
    return await store.mutate(space, memory.id, etag, Change.RESTORED, changes.restore, author, None)


async def update(
    store: PostgresStore, space: Space, memory: Memory, author: Author = ALICE, **values: object
) -> Memory:
    alter = changes.Update(values)
    return (await store.mutate(space, memory.id, "", Change.UPDATED, alter, author, None)).memories[0]


async def supersede(
    store: PostgresStore, space: Space, old: MemoryId, draft: Draft, author: Author = ALICE, etag: str = ""
) -> tuple[Memory, Memory]:
    written = await store.supersede(space, old, etag, draft, changes.close(author.at), author, None)
    new, closed = written.memories
    return new, closed


async def contents(
    room: Room, space: Space, *states: State, where: Filter = EVERYTHING, at: datetime = NOW, limit: int = 1000
) -> list[str]:
    found = await room.store.list_memories(space, where, states or [State.ACTIVE], NEWEST, limit, at)
    return [memory.content for memory in found]


FULL = Draft(
    content="'; DROP TABLE memory.memories; -- 🦊 naïve \u202e",
    kind=Kind.DECISION,
    metadata={"a": {"b": [1, 2.5, None, True]}, "n": 3},
    tags=("x", "y"),
    actor="Ada",
    session="s1",
    ordinal=7,
    occurred_at=datetime(1, 1, 1, tzinfo=UTC),
    importance=0.25,
    confidence=0.75,
)


async def test_what_was_written_is_read_back_unchanged(store: PostgresStore, space: Space) -> None:
    (memory,) = await create(store, space, FULL)
    assert (await store.get(space, [memory.id], NOW))[memory.id] == memory
    assert replace(FULL, id=memory.id) == Draft(
        content=memory.content,
        id=memory.id,
        kind=memory.kind,
        metadata=memory.metadata,
        tags=memory.tags,
        actor=memory.actor,
        session=memory.session,
        ordinal=memory.ordinal,
        occurred_at=memory.occurred_at,
        importance=memory.importance,
        confidence=memory.confidence,
    )
    assert (memory.state, memory.revision, memory.created_at) == (State.ACTIVE, 1, NOW)


async def test_the_history_holds_every_change_in_order(store: PostgresStore, space: Space) -> None:
    (memory,) = await create(store, space, FULL)
    await archive(store, space, memory, author=replace(ALICE, reason="old"))
    await restore(store, space, memory)
    revisions = await store.list_revisions(space, memory.id, 0, 100)
    assert [each.change for each in revisions] == [Change.CREATED, Change.ARCHIVED, Change.RESTORED]
    assert [each.revision for each in revisions] == [1, 2, 3]
    assert revisions[0].memory == memory
    assert revisions[1].reason == "old"
    assert revisions[1].memory is not None
    assert revisions[1].memory.state is State.ARCHIVED


async def test_a_repeated_request_returns_the_first_outcome(room: Room, store: PostgresStore, space: Space) -> None:
    request = a_request()
    first = await store.create(space, [FULL, Draft("two")], ALICE, request, each=False)
    second = await store.create(space, [FULL, Draft("two")], ALICE, request, each=False)
    assert second == first
    assert (await room.spaces.get_space(ACME, "notes")).active == 2


async def test_a_repeated_request_with_more_to_write_is_refused(store: PostgresStore, space: Space) -> None:
    """Of a batch of which items are refused one by one, others may be refused the next time."""
    request = a_request()
    await store.create(space, [Draft("one")], ALICE, request, each=True)
    with pytest.raises(RequestIdReusedError):
        await store.create(space, [Draft("one"), Draft("two")], ALICE, request, each=True)


async def test_a_request_id_serves_one_request_only(room: Room, store: PostgresStore, space: Space) -> None:
    request = a_request()
    await store.create(space, [Draft("one")], ALICE, request, each=False)
    with pytest.raises(RequestIdReusedError):
        await store.create(space, [Draft("two")], ALICE, replace(request, digest=b"two"), each=False)
    other = await room.make("other")
    with pytest.raises(RequestIdReusedError):
        await store.create(other, [Draft("two")], ALICE, replace(request, digest=b"two"), each=False)


async def test_the_same_request_at_the_same_time_takes_effect_once(
    room: Room, store: PostgresStore, space: Space
) -> None:
    request = a_request()
    outcomes = await asyncio.gather(
        *[store.create(space, [Draft("one")], ALICE, request, each=False) for _ in range(8)]
    )
    assert len({kept(outcome)[0].id for outcome in outcomes}) == 1
    assert (await room.spaces.get_space(ACME, "notes")).revision == 1


async def test_a_taken_id_fails_the_whole_batch(room: Room, store: PostgresStore, space: Space) -> None:
    taken = an_id()
    await create(store, space, Draft("one", id=taken))
    with pytest.raises(MemoryExistsError, match=taken):
        await create(store, space, Draft("two"), Draft("three", id=taken))
    assert (await room.spaces.get_space(ACME, "notes")).revision == 1


async def test_creating_each_skips_taken_ids_and_replays_the_same_answer(store: PostgresStore, space: Space) -> None:
    taken = an_id()
    await create(store, space, Draft("one", id=taken))
    request = a_request()
    drafts = [Draft("two"), Draft("three", id=taken), Draft("four")]
    first = await store.create(space, drafts, ALICE, request, each=True)
    assert [memory.content for memory in kept(first)] == ["two", "four"]
    assert isinstance(first.outcomes[1], MemoryExistsError)
    again = await store.create(space, drafts, ALICE, request, each=True)
    assert (kept(again), again.revision) == (kept(first), first.revision)
    assert isinstance(again.outcomes[1], MemoryExistsError)


async def test_an_id_twice_in_one_batch_is_taken_the_second_time(store: PostgresStore, space: Space) -> None:
    twice = an_id()
    drafts = [Draft("one", id=twice), Draft("two", id=twice)]
    one, two = (await store.create(space, drafts, ALICE, None, each=True)).outcomes
    assert isinstance(one, Kept)
    assert one.memory.content == "one"
    assert isinstance(two, MemoryExistsError)


async def test_ordinals_follow_the_order_of_arrival(store: PostgresStore, space: Space) -> None:
    await create(store, space, Draft("a", session="s"), Draft("b", session="s", ordinal=10))
    memories = await create(store, space, Draft("c", session="s"), Draft("d", session="t"), Draft("e"))
    assert [memory.ordinal for memory in memories] == [11, 0, None]


async def test_no_ordinal_is_larger_than_one_that_may_be_given(store: PostgresStore, space: Space) -> None:
    memories = await create(store, space, Draft("a", session="s", ordinal=LAST_ORDINAL), Draft("b", session="s"))
    memories += await create(store, space, Draft("c", session="s"))
    assert [memory.ordinal for memory in memories] == [LAST_ORDINAL] * 3


async def test_archiving_counts_and_is_idempotent(room: Room, store: PostgresStore, space: Space) -> None:
    (memory,) = await create(store, space, FULL)
    request = a_request()
    archived = await archive(store, space, memory, request=request)
    again = await archive(store, space, memory, request=request)
    unchanged = await archive(store, space, memory, request=a_request())
    assert archived == again
    assert archived.revision == unchanged.revision == 2
    counted = await room.spaces.get_space(ACME, "notes")
    assert (counted.active, counted.archived, counted.revision) == (0, 1, 2)


async def test_an_etag_of_an_older_state_is_refused(store: PostgresStore, space: Space) -> None:
    (memory,) = await create(store, space, FULL)
    await archive(store, space, memory, memory.etag)
    with pytest.raises(EtagMismatchError):
        await restore(store, space, memory, memory.etag)
    with pytest.raises(EtagMismatchError):
        await store.erase(space, memory.id, memory.etag, ALICE, None)


async def test_erasing_leaves_no_content_in_any_table(room: Room, store: PostgresStore, space: Space) -> None:
    (memory,) = await create(store, space, Draft("the secret word is xyzzy"))
    await store.erase(space, memory.id, "", ALICE, None)
    assert await store.get(space, [memory.id], NOW) == {}
    revisions = await store.list_revisions(space, memory.id, 0, 10)
    assert [(each.change, each.memory) for each in revisions] == [(Change.CREATED, None), (Change.ERASED, None)]
    for table in ("memories", "revisions", "requests", "spaces"):
        assert "xyzzy" not in await room.dump(table)
    with pytest.raises(MemoryNotFoundError):
        await store.erase(space, memory.id, "", ALICE, None)


async def test_republishing_appends_a_revision_for_each_memory(store: PostgresStore, space: Space) -> None:
    memories = await create(store, space, Draft("one"), Draft("two"), Draft("three"))
    await archive(store, space, memories[1])
    assert await store.republish(space, ALICE) == 3
    revisions = await store.list_revisions(space, None, 4, 10)
    assert [(each.revision, each.change) for each in revisions] == [(n, Change.REPUBLISHED) for n in (5, 6, 7)]
    assert [each.memory and each.memory.content for each in revisions] == ["one", "two", "three"]
    assert [each.memory and each.memory.state for each in revisions] == [State.ACTIVE, State.ARCHIVED, State.ACTIVE]


FILTERS = {
    "kinds": Filter(kinds=(Kind.FACT,)),
    "all tags": Filter(tags=("even", "third")),
    "actors": Filter(actors=("Ada", "Bo")),
    "sessions": Filter(sessions=("s1",)),
    "from": Filter(occurred_from=NOW.replace(minute=40)),
    "to": Filter(occurred_to=NOW.replace(minute=10)),
    "metadata": Filter(metadata={"n": 4}),
    "nested metadata": Filter(metadata={"deep": {"k": [1]}}),
    "all of them": Filter(kinds=(Kind.FACT,), tags=("even",), actors=("Ada",), metadata={"deep": {"k": [0]}}),
}


def matches(draft: Draft, where: Filter) -> bool:
    """The meaning of a filter, spelled out."""
    assert draft.occurred_at is not None
    return (
        (not where.kinds or draft.kind in where.kinds)
        and set(where.tags) <= set(draft.tags)
        and (not where.actors or draft.actor in where.actors)
        and (not where.sessions or draft.session in where.sessions)
        and (where.occurred_from is None or draft.occurred_at >= where.occurred_from)
        and (where.occurred_to is None or draft.occurred_at < where.occurred_to)
        and all(key in draft.metadata and draft.metadata[key] == value for key, value in where.metadata.items())
    )


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
async def test_filters_mean_what_they_say(store: PostgresStore, space: Space, where: Filter) -> None:
    drafts = [
        Draft(
            content=f"memory {number}",
            kind=Kind.FACT if number % 2 else Kind.EPISODE,
            tags=(("even",) if number % 2 == 0 else ("odd",)) + (("third",) if number % 3 == 0 else ()),
            actor=("Ada", "Bo", "Cy")[number % 3],
            session=f"s{number % 4}",
            ordinal=number,
            occurred_at=NOW.replace(minute=number),
            metadata={"n": number % 7, "deep": {"k": [number % 2]}},
        )
        for number in range(60)
    ]
    await create(store, space, *drafts)
    expected = [draft.content for draft in reversed(drafts) if matches(draft, where)]
    listed = await store.list_memories(space, where, [State.ACTIVE], NEWEST, 100, NOW)
    assert [memory.content for memory in listed] == expected


async def test_the_store_and_the_domain_agree_on_equal_metadata(store: PostgresStore, space: Space) -> None:
    values = [1, 1.5, True, 0, False, "1", "", None, [1], [True], [1, 2], {"a": 1}, {"a": True}, {"a": 1, "b": None}]
    await create(store, space, *[Draft(str(number), metadata={"v": value}) for number, value in enumerate(values)])
    everything = await store.list_memories(space, Filter(), [State.ACTIVE], NEWEST, 100, NOW)
    for number, value in enumerate(values):
        where = Filter(metadata={"v": value})
        listed = await store.list_memories(space, where, [State.ACTIVE], NEWEST, 100, NOW)
        assert listed == [memory for memory in everything if where.matches(memory)]
        assert [memory.content for memory in listed] == [str(number)]


async def test_pages_are_not_disturbed_by_new_memories(store: PostgresStore, space: Space) -> None:
    await create(store, space, *[Draft(str(number)) for number in range(10)])
    first = await store.list_memories(space, EVERYTHING, [State.ACTIVE], ListPosition(11, 10), 4, NOW)
    await create(store, space, Draft("new"))
    position = ListPosition(first[-1].created_revision, 10)
    rest = await store.list_memories(space, EVERYTHING, [State.ACTIVE], position, 100, NOW)
    assert [memory.content for memory in [*first, *rest]] == [str(number) for number in reversed(range(10))]


async def test_spaces_belong_to_one_tenant(room: Room, space: Space) -> None:
    with pytest.raises(SpaceNotFoundError):
        await room.spaces.get_space(STRANGER.tenant, "notes")
    assert await room.spaces.list_spaces(STRANGER.tenant, None, "", 10) == []
    theirs = await room.make("notes", STRANGER)
    (memory,) = await create(room.store, space, FULL)
    assert await room.store.get(theirs, [memory.id], NOW) == {}
    with pytest.raises(SpaceExistsError):
        await room.make("notes", STRANGER)


async def test_a_watcher_of_revisions_never_skips_one(room: Room, store: PostgresStore, space: Space) -> None:
    """Writers commit at the same time in random order; whoever follows `revision > n` sees 1, 2, 3 ... without gaps."""
    rng = random.Random(5)
    writers = 6
    done = asyncio.Event()

    async def write(number: int) -> None:
        for _ in range(10):
            drafts = [Draft(f"{number}") for _ in range(rng.randrange(1, 6))]
            await create(store, space, *drafts)

    async def watch() -> list[int]:
        seen: list[int] = []
        while True:
            finished = done.is_set()
            found = await store.list_revisions(space, None, seen[-1] if seen else 0, 1000)
            seen += [each.revision for each in found]
            if finished and not found:
                return seen

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*[write(number) for number in range(writers)])
    done.set()
    seen = await watcher
    assert seen == list(range(1, (await room.spaces.get_space(ACME, "notes")).revision + 1))


async def test_the_relay_marks_only_move_forward(room: Room, space: Space) -> None:
    await create(room.store, space, Draft("one"), Draft("two"))
    assert [each.uid for each in await room.spaces.unpublished(10)] == [space.uid]
    await room.spaces.mark_published({space.uid: 2})
    await room.spaces.mark_published({space.uid: 1})
    assert (await room.spaces.get_space(ACME, "notes")).published_revision == 2
    assert await room.spaces.unpublished(10) == []


async def test_old_requests_are_forgotten(store: PostgresStore, space: Space) -> None:
    request = a_request()
    await store.create(space, [Draft("one")], ALICE, request, each=False)
    assert await store.forget_old_requests(NOW) == 0
    assert await store.forget_old_requests(NOW.replace(year=2027)) == 1
    await store.create(space, [Draft("two")], ALICE, replace(request, digest=b"two"), each=False)


# Duplicates


SAME = Draft("the sky is blue", kind=Kind.FACT, actor="Ada")
KEEP = replace(SAME, on_duplicate=OnDuplicate.KEEP)
REINFORCE = replace(SAME, on_duplicate=OnDuplicate.REINFORCE)
REJECT = replace(SAME, on_duplicate=OnDuplicate.REJECT)


async def test_a_duplicate_is_kept_or_reinforced_or_rejected(room: Room, space: Space) -> None:
    (memory,) = await create(room.store, space, KEEP)
    again = await room.store.create(space, [KEEP], ALICE, None, each=False)
    assert (again.outcomes, again.revision) == ((Kept(memory, duplicate=True),), 1)
    with pytest.raises(DuplicateMemoryError, match=memory.id):
        await create(room.store, space, REJECT)
    stronger = await room.store.create(space, [REINFORCE], later(hours=1), None, each=False)
    (outcome,) = stronger.outcomes
    assert isinstance(outcome, Kept)
    assert outcome.duplicate
    assert (outcome.memory.id, outcome.memory.accesses, stronger.revision) == (memory.id, 2, 2)
    assert (await room.store.get(space, [memory.id], NOW))[memory.id] == outcome.memory
    changed = await room.store.list_revisions(space, None, 0, 10)
    assert [each.change for each in changed] == [Change.CREATED, Change.REINFORCED]
    assert len(await room.memories(space)) == 1


@pytest.mark.parametrize(
    "other",
    [replace(SAME, content="the sea is blue"), replace(SAME, kind=Kind.EPISODE), replace(SAME, actor="Bo")],
    ids=["content", "kind", "actor"],
)
async def test_what_differs_is_no_duplicate(room: Room, space: Space, other: Draft) -> None:
    await create(room.store, space, SAME)
    await create(room.store, space, replace(other, on_duplicate=OnDuplicate.REJECT))
    assert len(await room.memories(space)) == 2


async def test_what_is_out_of_recall_is_no_duplicate(room: Room, space: Space) -> None:
    (archived,) = await create(room.store, space, KEEP)
    await archive(room.store, space, archived)
    (expiring,) = await create(room.store, space, replace(REJECT, expires_at=NOW + timedelta(hours=1)))
    (third,) = await create(room.store, space, REJECT, author=later(hours=1))
    await supersede(room.store, space, third.id, Draft("the sky is grey"), later(hours=2))
    (fourth,) = await create(room.store, space, REJECT, author=later(hours=3))
    await update(room.store, space, fourth, later(hours=4), content="the sky is black")
    (fifth,) = await create(room.store, space, REJECT, author=later(hours=5))
    await room.store.erase(space, fifth.id, "", later(hours=6), None)
    (sixth,) = await create(room.store, space, REJECT, author=later(hours=7))
    assert len({each.id for each in (archived, expiring, third, fourth, fifth, sixth)}) == 6
    await restore(room.store, space, archived, author=later(hours=8))
    await update(room.store, space, expiring, later(hours=9), expires_at=None)
    (kept_now,) = await create(room.store, space, KEEP, author=later(hours=10))
    assert kept_now.id == archived.id


async def test_duplicates_inside_a_batch(room: Room, space: Space) -> None:
    request = a_request()
    drafts = [SAME, KEEP, REINFORCE, REJECT, replace(SAME, content="new", on_duplicate=OnDuplicate.REJECT)]
    made = await room.store.create(space, drafts, ALICE, request, each=True)
    first, second, third, fourth, fifth = made.outcomes
    assert isinstance(first, Kept)
    assert second == Kept(first.memory, duplicate=True)
    assert isinstance(third, Kept)
    assert (third.memory.id, third.memory.accesses, third.duplicate) == (first.memory.id, 2, True)
    assert isinstance(fourth, DuplicateMemoryError)
    assert isinstance(fifth, Kept)
    again = await room.store.create(space, drafts, ALICE, request, each=True)
    assert again.revision == made.revision == 3
    assert [each.memory.id for each in again.outcomes if isinstance(each, Kept)] == [
        each.memory.id for each in made.outcomes if isinstance(each, Kept)
    ]
    assert (await room.store.get(space, [first.memory.id], NOW))[first.memory.id] == third.memory
    with pytest.raises(DuplicateMemoryError):
        await create(room.store, space, Draft("other"), REJECT)
    assert len(await room.memories(space)) == 2


@pytest.mark.parametrize("policy", [OnDuplicate.KEEP, OnDuplicate.REINFORCE, OnDuplicate.REJECT])
async def test_a_hundred_identical_writes_at_once_leave_one_memory(
    two_rooms: tuple[Room, Room], policy: OnDuplicate
) -> None:
    space = await two_rooms[0].make("notes")
    draft = replace(SAME, on_duplicate=policy)
    outcomes = await asyncio.gather(
        *[two_rooms[number % 2].store.create(space, [draft], ALICE, None, each=True) for number in range(100)]
    )
    found = [outcome.outcomes[0] for outcome in outcomes]
    fresh = [each for each in found if isinstance(each, Kept) and not each.duplicate]
    (memory,) = await two_rooms[0].memories(space)
    assert [each.memory.id for each in fresh] == [memory.id]
    counted = await two_rooms[0].spaces.get_space(ACME, "notes")
    assert counted.active == 1
    if policy is OnDuplicate.REJECT:
        assert sum(isinstance(each, DuplicateMemoryError) for each in found) == 99
    else:
        assert {each.memory.id for each in found if isinstance(each, Kept)} == {memory.id}
    assert memory.accesses == counted.revision == (100 if policy is OnDuplicate.REINFORCE else 1)


async def test_the_database_itself_refuses_a_second_sole_memory(room: Room, space: Space) -> None:
    await create(room.store, space, KEEP, SAME)
    with pytest.raises(UniqueViolationError, match="memories_sole"):
        await room.database.execute("UPDATE memory.memories SET sole = true")


# Superseding


async def test_of_many_who_supersede_one_memory_one_wins(two_rooms: tuple[Room, Room]) -> None:
    space = await two_rooms[0].make("notes")
    (old,) = await create(two_rooms[0].store, space, Draft("old"))
    outcomes = await asyncio.gather(
        *[supersede(two_rooms[number % 2].store, space, old.id, Draft(f"new {number}")) for number in range(20)],
        return_exceptions=True,
    )
    ((new, closed),) = [each for each in outcomes if isinstance(each, tuple)]
    lost = [each for each in outcomes if isinstance(each, AlreadySupersededError)]
    assert len(lost) == 19
    assert all(each.metadata["superseded_by"].endswith(new.id) for each in lost)
    assert closed.superseded_by == new.id
    assert new.supersedes == old.id
    assert len(await two_rooms[1].memories(space)) == 2
    counted = await two_rooms[0].spaces.get_space(ACME, "notes")
    assert (counted.active, counted.archived, counted.revision) == (1, 1, 3)


async def test_a_chain_of_supersessions_says_what_was_valid_when(room: Room, space: Space) -> None:
    (first,) = await create(room.store, space, Draft("v0"))
    newest = first
    for number in range(1, 5):
        newest, closed = await supersede(room.store, space, newest.id, Draft(f"v{number}"), later(days=number))
        assert closed.state is State.SUPERSEDED
        assert closed.valid_to == newest.valid_from == NOW + timedelta(days=number)
    assert await contents(room, space, at=NOW + timedelta(days=9)) == ["v4"]
    for number in range(5):
        at = NOW + timedelta(days=number, hours=1)
        both = await contents(room, space, State.ACTIVE, State.SUPERSEDED, where=Filter(valid_at=at), at=at)
        assert both[-1] == f"v{number}"
    with pytest.raises(AlreadySupersededError):
        await supersede(room.store, space, first.id, Draft("again"))
    protected = (await create(room.store, space, Draft("p", protected=True)))[0]
    with pytest.raises(MemoryProtectedError):
        await supersede(room.store, space, protected.id, Draft("q"))
    with pytest.raises(EtagMismatchError):
        await supersede(room.store, space, newest.id, Draft("q"), etag="0")


# Time to live


async def test_what_has_expired_is_out_of_recall_at_once(room: Room, space: Space) -> None:
    end = NOW + timedelta(hours=1)
    stays, goes = await create(room.store, space, Draft("words that stay"), Draft("words that expire", expires_at=end))
    before, after = end - timedelta(microseconds=1), end
    for at, active, expired in ((before, [goes, stays], []), (after, [stays], [goes])):
        assert await contents(room, space, at=at) == [each.content for each in active]
        assert await contents(room, space, State.EXPIRED, at=at) == [each.content for each in expired]
        found = await room.store.get(space, [goes.id], at)
        assert found[goes.id].state is (State.EXPIRED if expired else State.ACTIVE)
        then = await room.store.get_as_of(space, [goes.id], at)
        assert then[goes.id].state is (State.EXPIRED if expired else State.ACTIVE)
        if not space.encrypted:
            words = await room.store.search_words(space, "words", EVERYTHING, [State.ACTIVE], 10, at)
            assert {memory.id for memory, _ in words} == {each.id for each in active}


async def test_the_sweeper_takes_expired_memories_out_once(room: Room, space: Space) -> None:
    drafts = [Draft(str(number), expires_at=NOW + timedelta(hours=number)) for number in range(1, 6)]
    await create(room.store, space, *drafts, Draft("for ever"))
    at = NOW + timedelta(hours=3)
    assert await room.spaces.unswept([space], at) == {space.uid: 3}
    assert await room.store.sweep(at, 2) == 2
    assert await room.store.sweep(at, 100) == 1
    assert await room.store.sweep(at, 100) == 0
    counted = await room.spaces.get_space(ACME, "notes")
    assert (counted.active, counted.archived, counted.revision) == (3, 3, 9)
    swept = await room.store.list_revisions(space, None, 6, 10)
    assert [each.change for each in swept] == [Change.EXPIRED] * 3
    assert [each.memory and each.memory.content for each in swept[2:]] == ["3"]
    assert {each.memory and each.memory.content for each in swept} == {"1", "2", "3"}
    assert swept[0].memory is not None
    back = await update(room.store, space, swept[0].memory, Author("alice", at), expires_at=None)
    assert back.state is State.ACTIVE
    assert (await room.spaces.get_space(ACME, "notes")).active == 4


async def test_the_sweeper_erases_what_the_policy_of_the_space_lets_go(room: Room) -> None:
    policy = Policy(erase_expired_after=timedelta(days=1), erase_archived_after=timedelta(days=2))
    space = await room.make("short", policy=policy)
    expiring, archived, guarded, stays = await create(
        room.store,
        space,
        Draft("expiring", expires_at=NOW + timedelta(hours=1)),
        Draft("archived"),
        Draft("guarded", expires_at=NOW + timedelta(hours=1), protected=True),
        Draft("stays"),
    )
    await archive(room.store, space, archived)
    for days, left in ((0.5, 4), (1.1, 3), (1.9, 3), (2, 2), (300, 2)):
        await room.clock.advance(days * 86400 - room.clock.monotonic())
        await room.store.sweep(room.clock.now(), 100)
        assert len(await room.memories(space)) == left
    assert {each.id for each in await room.memories(space)} == {guarded.id, stays.id}
    assert "expiring" not in await room.dump("memories", "revisions")
    assert expiring.id in await room.dump("revisions")


# Quotas


async def test_quotas_hold_however_many_write_at_once(two_rooms: tuple[Room, Room]) -> None:
    space = await two_rooms[0].make("small", policy=Policy(limits=Limits(max_memories=30, max_bytes=300)))
    outcomes = await asyncio.gather(
        *[
            two_rooms[number % 2].store.create(space, [Draft("12345"), Draft("1234567")], ALICE, None, each=True)
            for number in range(40)
        ]
    )
    found = [each for outcome in outcomes for each in outcome.outcomes]
    written = [each.memory for each in found if isinstance(each, Kept)]
    counted = await two_rooms[0].spaces.get_space(ACME, "small")
    assert len(written) == counted.active == 30
    assert counted.bytes == sum(len(memory.content) for memory in written) <= 300
    assert sum(isinstance(each, QuotaExceededError) for each in found) == 50
    with pytest.raises(QuotaExceededError, match="max_memories"):
        await create(two_rooms[0].store, space, Draft("x"))
    await two_rooms[0].store.erase(space, written[0].id, "", ALICE, None)
    await create(two_rooms[0].store, space, Draft("x"))


async def test_quotas_of_bytes_hold_for_updates_too(room: Room, space: Space) -> None:
    limits = Policy(limits=Limits(max_bytes=20, max_content_bytes=12))
    space = await room.spaces.update_space(space, lambda _: ("", limits), "")
    one, two = await create(room.store, space, Draft("1234567890"), Draft("12345"))
    with pytest.raises(QuotaExceededError, match="max_content_bytes"):
        await update(room.store, space, one, content="1234567890123")
    with pytest.raises(QuotaExceededError, match="max_bytes"):
        await update(room.store, space, two, content="12345678901")
    await update(room.store, space, one, content="1")
    await update(room.store, space, two, content="12345678901")
    assert (await room.spaces.get_space(ACME, "notes")).bytes == 12


# Reading


async def test_filters_are_applied_before_the_limit(room: Room, space: Space) -> None:
    wanted = Draft("a rare thing", tags=("rare",), metadata={"n": 1})
    await create(room.store, space, wanted, *[Draft(f"a common thing {number}") for number in range(500)])
    for where in (Filter(tags=("rare",)), Filter(metadata={"n": 1})):
        assert await contents(room, space, where=where, limit=1) == ["a rare thing"]
        if not space.encrypted:
            found = await room.store.search_words(space, "thing", where, [State.ACTIVE], 1, NOW)
            assert [memory.content for memory, _ in found] == ["a rare thing"]


async def test_a_memory_is_read_as_it_was(room: Room, space: Space) -> None:
    (memory,) = await create(room.store, space, Draft("v1"), author=later(hours=1))
    second = await update(room.store, space, memory, later(hours=2), content="v2")
    await archive(room.store, space, memory, author=later(hours=3))
    for hours, content, state in (
        (1, "v1", State.ACTIVE),
        (1.5, "v1", State.ACTIVE),
        (2, "v2", State.ACTIVE),
        (3, "v2", State.ARCHIVED),
        (99, "v2", State.ARCHIVED),
    ):
        then = (await room.store.get_as_of(space, [memory.id], NOW + timedelta(hours=hours)))[memory.id]
        assert (then.content, then.state) == (content, state)
    assert (await room.store.get_as_of(space, [memory.id], second.updated_at))[memory.id] == second
    assert await room.store.get_as_of(space, [memory.id], NOW) == {}
    until = await room.store.list_revisions(space, memory.id, 0, 10, NOW + timedelta(hours=2))
    assert [each.change for each in until] == [Change.CREATED, Change.UPDATED]
    await room.store.erase(space, memory.id, "", later(hours=4), None)
    assert await room.store.get_as_of(space, [memory.id], NOW + timedelta(hours=2)) == {}


async def write_as_release_0_1(database: Database, space: Space, memory_id: MemoryId, state: int) -> None:
    """A memory and its revision such as release 0.1 wrote them."""
    await database.execute(
        "INSERT INTO memory.memories (space_uid, id, kind, content, metadata, tags, actor, session, ordinal, "
        "occurred_at, importance, confidence, state, revision, created_revision, created_at, updated_at) "
        "VALUES ($1, $2, 2, 'an old fact', '{\"n\": 1}', '[\"x\"]', 'Ada', 's', 3, $3, 0.25, 1, $4, 1, 1, $3, $3)",
        UUID(space.uid),
        UUID(memory_id),
        NOW,
        state,
    )
    fields = [memory_id, 2, "an old fact", {"n": 1}, ["x"], "Ada", "s", 3, NOW.isoformat(), 0.25, 1.0, state, 1, 1]
    await database.execute(
        "INSERT INTO memory.revisions (space_uid, revision, memory_id, change, snapshot, committed_at, principal, "
        "reason) VALUES ($1, 1, $2, 1, $3, $4, 'alice', '')",
        UUID(space.uid),
        UUID(memory_id),
        json.dumps([*fields, NOW.isoformat(), NOW.isoformat()]),
        NOW,
    )
    await database.execute(
        "UPDATE memory.spaces SET revision = 1, active = $2, archived = $3 WHERE uid = $1",
        UUID(space.uid),
        int(state == 1),
        int(state == 2),
    )


@pytest.mark.parametrize(("state", "meant"), [(1, State.ACTIVE), (2, State.ARCHIVED)])
async def test_what_release_0_1_wrote_is_read_and_changed(room: Room, state: int, meant: State) -> None:
    space, memory_id = await room.make("old"), an_id()
    await write_as_release_0_1(room.database, space, memory_id, state)
    memory = (await room.store.get(space, [memory_id], NOW))[memory_id]
    assert (memory.content, memory.kind, memory.state, memory.archived_at) == (
        "an old fact",
        Kind.FACT,
        meant,
        NOW if meant is State.ARCHIVED else None,
    )
    (revision,) = await room.store.list_revisions(space, None, 0, 10)
    assert revision.memory == memory
    assert (await room.store.get_as_of(space, [memory_id], NOW))[memory_id] == memory
    assert await contents(room, space, meant) == ["an old fact"]
    assert await contents(room, space, *(set(State) - {meant})) == []
    changed = await update(room.store, space, memory, later(days=1), content="a newer fact")
    assert (changed.state, changed.archived_at) == (memory.state, memory.archived_at)
    assert (await room.store.get_as_of(space, [memory_id], NOW))[memory_id] == memory
