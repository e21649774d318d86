"""The store of memory-core on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Space, State
from mnemo_memory.domain.ports import Author, ListPosition, Request
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemocore.errors import (
    EtagMismatchError,
    MemoryExistsError,
    MemoryNotFoundError,
    RequestIdReusedError,
    SpaceExistsError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, SpaceUid, Tenant, new_uuid
from mnemocore.postgres import migrate

if TYPE_CHECKING:
    from mnemocore.postgres import Database

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
ALICE = Author("alice", NOW)
ACME = Tenant("acme")
EVERYTHING = Filter()
NEWEST = ListPosition(2**62, 2**62)


@pytest.fixture
async def store(database: Database) -> PostgresStore:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    opened = PostgresStore(database)
    await opened.open()
    return opened


@pytest.fixture
async def space(store: PostgresStore) -> Space:
    return await make_space(store, "notes")


async def make_space(store: PostgresStore, slug: str, tenant: Tenant = ACME) -> Space:
    return await store.create_space(Space(SpaceUid(new_uuid(NOW)), tenant, slug, "", 0, 0, 0, 0, NOW), None)


def an_id() -> MemoryId:
    return MemoryId(new_uuid(NOW))


def a_request(digest: bytes = b"one") -> Request:
    return Request(new_uuid(NOW), digest)


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
    written = await store.create(space, [FULL], ALICE, None)
    memory = written.memories[0]
    assert (await store.get(space, [memory.id]))[memory.id] == memory
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
    memory = (await store.create(space, [FULL], ALICE, None)).memories[0]
    await store.change_state(space, memory.id, State.ARCHIVED, "", replace(ALICE, reason="old"), None)
    await store.change_state(space, memory.id, State.ACTIVE, "", ALICE, None)
    revisions = await store.list_revisions(space, memory.id, 0, 100)
    assert [each.change for each in revisions] == [Change.CREATED, Change.ARCHIVED, Change.RESTORED]
    assert [each.revision for each in revisions] == [1, 2, 3]
    assert revisions[0].memory == memory
    assert revisions[1].reason == "old"
    assert revisions[1].memory is not None
    assert revisions[1].memory.state is State.ARCHIVED


async def test_a_repeated_request_returns_the_first_outcome(store: PostgresStore, space: Space) -> None:
    request = a_request()
    first = await store.create(space, [FULL, Draft("two")], ALICE, request)
    second = await store.create(space, [FULL, Draft("two")], ALICE, request)
    assert second == first
    assert (await store.get_space(ACME, "notes")).active == 2


async def test_a_request_id_serves_one_request_only(store: PostgresStore, space: Space) -> None:
    request = a_request()
    await store.create(space, [Draft("one")], ALICE, request)
    with pytest.raises(RequestIdReusedError):
        await store.create(space, [Draft("two")], ALICE, replace(request, digest=b"two"))
    other = await make_space(store, "other")
    with pytest.raises(RequestIdReusedError):
        await store.create(other, [Draft("two")], ALICE, replace(request, digest=b"two"))


async def test_the_same_request_at_the_same_time_takes_effect_once(store: PostgresStore, space: Space) -> None:
    request = a_request()
    outcomes = await asyncio.gather(*[store.create(space, [Draft("one")], ALICE, request) for _ in range(8)])
    assert len({outcome.memories[0].id for outcome in outcomes}) == 1
    assert (await store.get_space(ACME, "notes")).revision == 1


async def test_a_taken_id_fails_the_whole_batch(store: PostgresStore, space: Space) -> None:
    taken = an_id()
    await store.create(space, [Draft("one", id=taken)], ALICE, None)
    with pytest.raises(MemoryExistsError, match=taken):
        await store.create(space, [Draft("two"), Draft("three", id=taken)], ALICE, None)
    assert (await store.get_space(ACME, "notes")).revision == 1


async def test_create_each_skips_taken_ids_and_replays_the_same_answer(store: PostgresStore, space: Space) -> None:
    taken = an_id()
    await store.create(space, [Draft("one", id=taken)], ALICE, None)
    request = a_request()
    drafts = [Draft("two"), Draft("three", id=taken), Draft("four")]
    first = await store.create_each(space, drafts, ALICE, request)
    assert [memory and memory.content for memory in first[0]] == ["two", None, "four"]
    assert await store.create_each(space, drafts, ALICE, request) == first


async def test_an_id_twice_in_one_batch_is_taken_the_second_time(store: PostgresStore, space: Space) -> None:
    twice = an_id()
    memories, _ = await store.create_each(space, [Draft("one", id=twice), Draft("two", id=twice)], ALICE, None)
    assert [memory and memory.content for memory in memories] == ["one", None]


async def test_ordinals_follow_the_order_of_arrival(store: PostgresStore, space: Space) -> None:
    await store.create(space, [Draft("a", session="s"), Draft("b", session="s", ordinal=10)], ALICE, None)
    written = await store.create(space, [Draft("c", session="s"), Draft("d", session="t"), Draft("e")], ALICE, None)
    assert [memory.ordinal for memory in written.memories] == [11, 0, None]


async def test_archiving_counts_and_is_idempotent(store: PostgresStore, space: Space) -> None:
    memory = (await store.create(space, [FULL], ALICE, None)).memories[0]
    request = a_request()
    archived = await store.change_state(space, memory.id, State.ARCHIVED, "", ALICE, request)
    again = await store.change_state(space, memory.id, State.ARCHIVED, "", ALICE, request)
    unchanged = await store.change_state(space, memory.id, State.ARCHIVED, "", ALICE, a_request())
    assert archived.revision == again.revision == unchanged.revision == 2
    counted = await store.get_space(ACME, "notes")
    assert (counted.active, counted.archived, counted.revision) == (0, 1, 2)


async def test_an_etag_of_an_older_state_is_refused(store: PostgresStore, space: Space) -> None:
    memory = (await store.create(space, [FULL], ALICE, None)).memories[0]
    await store.change_state(space, memory.id, State.ARCHIVED, memory.etag, ALICE, None)
    with pytest.raises(EtagMismatchError):
        await store.change_state(space, memory.id, State.ACTIVE, memory.etag, ALICE, None)
    with pytest.raises(EtagMismatchError):
        await store.erase(space, memory.id, memory.etag, ALICE, None)


async def test_erasing_leaves_no_content_in_any_table(store: PostgresStore, space: Space, database: Database) -> None:
    memory = (await store.create(space, [Draft("the secret word is xyzzy")], ALICE, None)).memories[0]
    await store.erase(space, memory.id, "", ALICE, None)
    assert await store.get(space, [memory.id]) == {}
    revisions = await store.list_revisions(space, memory.id, 0, 10)
    assert [(each.change, each.memory) for each in revisions] == [(Change.CREATED, None), (Change.ERASED, None)]
    for table in ("memories", "revisions", "requests", "spaces"):
        rows = await database.fetch(f"SELECT t::text AS row FROM memory.{table} t")
        assert not [row for row in rows if "xyzzy" in row["row"]]
    with pytest.raises(MemoryNotFoundError):
        await store.erase(space, memory.id, "", ALICE, None)


async def test_republishing_appends_a_revision_for_each_active_memory(store: PostgresStore, space: Space) -> None:
    written = await store.create(space, [Draft("one"), Draft("two"), Draft("three")], ALICE, None)
    await store.change_state(space, written.memories[1].id, State.ARCHIVED, "", ALICE, None)
    assert await store.republish(space, ALICE) == 2
    revisions = await store.list_revisions(space, None, 4, 10)
    assert [(each.revision, each.change) for each in revisions] == [(5, Change.REPUBLISHED), (6, Change.REPUBLISHED)]
    assert [each.memory and each.memory.content for each in revisions] == ["one", "three"]


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
    await store.create(space, drafts, ALICE, None)
    expected = [draft.content for draft in reversed(drafts) if matches(draft, where)]
    listed = await store.list_memories(space, where, [State.ACTIVE], NEWEST, 100)
    assert [memory.content for memory in listed] == expected


async def test_pages_are_not_disturbed_by_new_memories(store: PostgresStore, space: Space) -> None:
    await store.create(space, [Draft(str(number)) for number in range(10)], ALICE, None)
    first = await store.list_memories(space, EVERYTHING, [State.ACTIVE], ListPosition(11, 10), 4)
    await store.create(space, [Draft("new")], ALICE, None)
    rest = await store.list_memories(
        space, EVERYTHING, [State.ACTIVE], ListPosition(first[-1].created_revision, 10), 100
    )
    assert [memory.content for memory in [*first, *rest]] == [str(number) for number in reversed(range(10))]


async def test_spaces_belong_to_one_tenant(store: PostgresStore, space: Space) -> None:
    stranger = Tenant("stranger")
    with pytest.raises(SpaceNotFoundError):
        await store.get_space(stranger, "notes")
    assert await store.list_spaces(stranger, "", 10) == []
    theirs = await make_space(store, "notes", stranger)
    memory = (await store.create(space, [FULL], ALICE, None)).memories[0]
    assert await store.get(theirs, [memory.id]) == {}
    with pytest.raises(SpaceExistsError):
        await make_space(store, "notes", stranger)


async def test_a_watcher_of_revisions_never_skips_one(store: PostgresStore, space: Space) -> None:
    """Writers commit at the same time in random order; whoever follows `revision > n` sees 1, 2, 3 ... without gaps."""
    rng = random.Random(5)
    writers = 6
    done = asyncio.Event()

    async def write(number: int) -> None:
        for _ in range(10):
            drafts = [Draft(f"{number}") for _ in range(rng.randrange(1, 6))]
            await store.create(space, drafts, ALICE, None)

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
    assert seen == list(range(1, (await store.get_space(ACME, "notes")).revision + 1))


async def test_the_relay_marks_only_move_forward(store: PostgresStore, space: Space) -> None:
    await store.create(space, [Draft("one"), Draft("two")], ALICE, None)
    assert [each.uid for each in await store.unpublished(10)] == [space.uid]
    await store.mark_published(space.uid, 2)
    await store.mark_published(space.uid, 1)
    assert (await store.get_space(ACME, "notes")).published_revision == 2
    assert await store.unpublished(10) == []


async def test_old_requests_are_forgotten(store: PostgresStore, space: Space) -> None:
    request = a_request()
    await store.create(space, [Draft("one")], ALICE, request)
    assert await store.forget_old_requests(NOW) == 0
    assert await store.forget_old_requests(NOW.replace(year=2027)) == 1
    await store.create(space, [Draft("two")], ALICE, replace(request, digest=b"two"))
