"""What the database does for each hot statement of memory-core in a store of a million memories: it looks in an index.

The statements are those that the stores send, caught on their way. The tables hold a part of a million rows, and the
statistics say that they hold them all.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.memory_room import Room, migrated

from mnemo_memory.domain import changes
from mnemo_memory.domain.associations import AssociationType, Conduct, Direction, Link, LinkFilter, Strength
from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Modality, OnDuplicate, State
from mnemo_memory.domain.ports import Author, ListPosition, Request
from mnemo_memory.domain.working_memory import WorkingItem
from mnemo_memory.storage import rows
from mnemo_memory.storage.postgres_active_days import PostgresActiveDays
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_fading import PostgresFading
from mnemo_memory.storage.working_items import from_draft
from mnemocore.ids import MemoryId, Tenant, new_uuid
from mnemocore.postgres import Database
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from asyncpg import Connection, Record
    from asyncpg.connection import LoggedQuery

    from mnemo_memory.domain.memory import Memory, Space
    from mnemocore.testing.postgres import TestPostgres

NOW = ManualClock().now()
ALICE = Author("alice", NOW)
NEWEST = ListPosition(2**62, 2**62)
MANY = 1_000_000
LARGE = ("memories", "revisions", "associations", "working_items", "requests", "spaces", "active_days")
"""The tables that grow; no hot statement may read one from end to end."""

ITEM = rows.to_json(["agent", "session", from_draft(Draft("an item"))])
FILL = f"""
INSERT INTO memory.spaces (uid, tenant, slug, description, created_at, revision, published_revision)
SELECT md5('space' || n)::uuid, 'acme', 'space-' || n, '', $1, 1000, CASE WHEN n % 100 = 0 THEN 999 ELSE 1000 END
FROM generate_series(1, 2000) AS n;
INSERT INTO memory.memories (space_uid, id, kind, content, metadata, tags, actor, session, ordinal, occurred_at,
    importance, confidence, state, revision, created_revision, created_at, updated_at, content_hash, words, expires_at,
    bytes)
SELECT md5('space' || 1 + n % 20)::uuid, md5('memory' || n)::uuid, 1 + n % 7, 'memory ' || n,
    jsonb_build_object('n', n % 50), jsonb_build_array('tag' || n % 40), 'actor' || n % 9, 'session' || n / 400,
    n / 20 % 20, $1 - n * interval '1 minute', 0.5, 1, CASE WHEN n % 11 = 0 THEN 2 ELSE 1 END, n / 20, n / 20,
    $1 - n * interval '1 minute', $1, sha256(convert_to('memory ' || n, 'UTF8')),
    to_tsvector('english', 'word' || n % 2000 || ' other' || n % 3000),
    CASE WHEN n % 51 = 0 THEN $1 + n * interval '1 minute' END, 10
FROM generate_series(0, 19999) AS n;
INSERT INTO memory.revisions (space_uid, revision, memory_id, change, snapshot, committed_at, principal, reason)
SELECT space_uid, created_revision, id, 1, NULL, created_at, 'alice', '' FROM memory.memories;
INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, principal)
SELECT md5('space' || 1 + n % 20)::uuid, md5('memory' || n)::uuid, md5('memory' || (n + 20 * step) % 20000)::uuid,
    1 + n % 3, 0.01 + (n % 97) / 100.0, $1, $1, 'alice'
FROM generate_series(0, 19999) AS n, generate_series(1, 2) AS step;
INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, principal)
SELECT md5('space' || 1 + n % 20)::uuid, md5('memory' || n)::uuid, md5('memory' || (n + 100) % 20000)::uuid, 9, 0.5,
    $1 - n * interval '1 minute', $1 - interval '9 days', 'alice' FROM generate_series(0, 9999) AS n;
INSERT INTO memory.active_days (space_uid, day, faded)
SELECT md5('space' || 1 + n % 2000)::uuid, ($1 AT TIME ZONE 'UTC')::date - n / 2000, n >= 4000
FROM generate_series(0, 19999) AS n;
INSERT INTO memory.working_items (space_uid, id, agent, session, item, content_hash, protected, accesses, position,
    created_at, expires_at)
SELECT md5('space' || 1 + n % 20)::uuid, md5('item' || n)::uuid, 'agent' || n / 100, 'session', '{ITEM}',
    sha256(convert_to('item ' || n, 'UTF8')), false, 1, n, $1, $1 + n * interval '1 minute'
FROM generate_series(0, 9999) AS n;
INSERT INTO memory.requests (tenant, request_id, digest, space_uid, first_revision, last_revision, taken, created_at)
SELECT 'acme', md5('request' || n)::uuid, '', md5('space' || 1 + n % 20)::uuid, 1, 1, '[]',
    $1 - n * interval '1 minute'
FROM generate_series(0, 9999) AS n
"""


class Statements(Database):
    """A database that keeps what it is asked, with the values."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: dict[str, tuple[Any, ...]] = {}

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[Connection[Record]]:
        async with super()._connection(seconds) as connection:
            with connection.query_logger(self._keep):
                yield connection

    async def caught(self) -> Mapping[str, tuple[Any, ...]]:
        """The statements since the last time."""
        await asyncio.sleep(0)  # the driver tells of the last one in the next round of the loop
        caught, self.asked = self.asked, {}
        return caught

    def _keep(self, query: LoggedQuery) -> None:
        if query.exception is None and query.query.lstrip().startswith(
            ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
        ):
            many = bool(query.args) and isinstance(query.args[0], tuple)  # of a statement with many sets of values
            self.asked[query.query] = query.args[0] if many else query.args


async def filled(database: Database) -> None:
    """A part of a store of a million memories, with the statistics of the whole."""
    await migrated(database)
    for statement in FILL.split(";\n"):
        values = [NOW] if "$1" in statement else []
        await database.execute(statement.replace("$1 ", "$1::timestamptz ").replace("$1,", "$1::timestamptz,"), *values)
    for table in LARGE:
        await database.execute(f"ALTER TABLE memory.{table} SET (autovacuum_enabled = false)")
        await database.execute(f"ANALYZE memory.{table}")
    await database.execute(
        "UPDATE pg_class SET reltuples = greatest(1, reltuples) * $2 / (SELECT max(c.reltuples) FROM pg_class c "
        "WHERE c.oid = 'memory.memories'::regclass) WHERE oid IN (SELECT c.oid FROM pg_class c "
        "LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE coalesce(i.indrelid, c.oid) = ANY($1::regclass[]::oid[]))",
        [f"memory.{table}" for table in LARGE],
        float(MANY),
    )


class Store:
    """The stores of memory-core on the database, and a space, a memory and some others of it."""

    def __init__(self, database: Statements, room: Room, space: Space, ids: list[MemoryId]) -> None:
        self.database = database
        self.room = room
        self.space = space
        self.ids = ids
        self.associations = PostgresAssociations(database, room.vault)
        self.active_days = PostgresActiveDays(database)
        self.fading = PostgresFading(database)

    @property
    def memory_id(self) -> MemoryId:
        return self.ids[0]

    @property
    def absent(self) -> MemoryId:
        return MemoryId(new_uuid(NOW))

    def item(self) -> WorkingItem:
        item_id, end = new_uuid(NOW), NOW + timedelta(hours=1)
        return WorkingItem(item_id, "agent7", "session", Draft("new"), False, 1, NOW, end)

    async def list_memories(self, where: Filter, *states: State) -> object:
        return await self.room.store.list_memories(self.space, where, states or [State.ACTIVE], NEWEST, 50, NOW)

    async def create(self, *drafts: Draft, request: Request | None = None) -> object:
        return await self.room.store.create(self.space, drafts, ALICE, request, each=False)

    async def mutate(self, change: Change, alter: Callable[[Memory], Memory | None]) -> object:
        return await self.room.store.mutate(self.space, self.memory_id, "", change, alter, ALICE, None)

    async def supersede(self) -> object:
        close = changes.close(NOW)
        return await self.room.store.supersede(self.space, self.memory_id, "", Draft("new"), close, ALICE, None)

    async def search(self, where: Filter) -> object:
        return await self.room.store.search_words(self.space, "word7 other11", where, [State.ACTIVE], 10, NOW)

    async def links(self, direction: Direction) -> object:
        where = LinkFilter(memory_id=self.memory_id, direction=direction)
        return await self.associations.list_links(self.space, where, Filter(), None, 50)

    async def links_of(self, direction: Direction) -> object:
        return await self.associations.links_of(self.space, self.ids[:5], direction, Conduct(Filter(), NOW), 20)

    async def edges(self) -> object:
        return await self.associations.edges_of(self.space, self.ids[:5], [], Conduct(Filter(), NOW), 20, [0.5, 0.25])

    async def put_link(self, type: AssociationType = AssociationType.RELATED) -> object:
        link = Link(self.ids[0], self.ids[7], type)
        return await self.associations.put(self.space, link, Strength(0.5), ALICE, None)


@pytest.fixture
async def store(postgres: TestPostgres) -> AsyncIterator[Store]:
    url = await postgres.create(filled)
    database = await Statements.open(url, max_size=2, application_name="test", require_fsync=False)
    assert isinstance(database, Statements)
    room = Room(database)
    space = await room.spaces.get_space(Tenant("acme"), "space-1")
    found = await room.store.list_memories(space, Filter(), [State.ACTIVE], NEWEST, 20, NOW)
    await database.caught()
    yield Store(database, room, space, [memory.id for memory in found])
    await database.close()
    await postgres.drop(url)


HOT: dict[str, Callable[[Store], Awaitable[object]]] = {
    "get one": lambda s: s.room.store.get(s.space, s.ids[:1], NOW),
    "get many": lambda s: s.room.store.get(s.space, s.ids, NOW),
    "as of": lambda s: s.room.store.get_as_of(s.space, s.ids, NOW),
    "list newest": lambda s: s.list_memories(Filter()),
    "list every state": lambda s: s.list_memories(Filter(), *State),
    "list expired": lambda s: s.list_memories(Filter(), State.EXPIRED),
    "list by kind": lambda s: s.list_memories(Filter(kinds=(Kind.FACT,))),
    "list by tag": lambda s: s.list_memories(Filter(tags=("tag7",))),
    "list by actor": lambda s: s.list_memories(Filter(actors=("actor7",))),
    "list by session": lambda s: s.list_memories(Filter(sessions=("session7",))),
    "list by metadata": lambda s: s.list_memories(Filter(metadata={"n": 7})),
    "list by times": lambda s: s.list_memories(
        Filter(occurred_from=NOW - timedelta(days=2), created_to=NOW, valid_at=NOW)
    ),
    "list by the rest": lambda s: s.list_memories(Filter(min_importance=0.9, modalities=(Modality.IMAGE,))),
    "history of a space": lambda s: s.room.store.list_revisions(s.space, None, 500, 100),
    "history of a memory": lambda s: s.room.store.list_revisions(s.space, s.memory_id, 0, 100),
    "history until": lambda s: s.room.store.list_revisions(s.space, None, 0, 100, NOW - timedelta(days=1)),
    "words": lambda s: s.search(Filter()),
    "words with a filter": lambda s: s.search(Filter(kinds=(Kind.FACT,), tags=("tag7",))),
    "create": lambda s: s.create(Draft("new"), request=Request(new_uuid(NOW), b"one")),
    "create with a chosen id": lambda s: s.create(Draft("new", id=s.absent)),
    "create in a session": lambda s: s.create(Draft("new", session="session7")),
    "create what is there": lambda s: s.create(Draft("memory 7", on_duplicate=OnDuplicate.REINFORCE)),
    "create what is not there": lambda s: s.create(Draft("new", on_duplicate=OnDuplicate.KEEP)),
    "update": lambda s: s.mutate(Change.UPDATED, changes.Update({"content": "other"})),
    "archive": lambda s: s.mutate(Change.ARCHIVED, changes.archive(NOW, "it")),
    "supersede": lambda s: s.supersede(),
    "erase": lambda s: s.room.store.erase(s.space, s.memory_id, "", ALICE, None),
    "republish": lambda s: s.room.store.republish(s.space, ALICE),
    "uses": lambda s: s.room.store.count_uses(s.space.uid, {s.memory_id: (1, NOW)}),
    "expire": lambda s: s.room.store.sweep(NOW + timedelta(hours=2), 100),
    "unswept": lambda s: s.room.spaces.unswept([s.space], NOW),
    "forget requests": lambda s: s.room.store.forget_old_requests(NOW - timedelta(days=6)),
    "space": lambda s: s.room.spaces.get_space(s.space.tenant, s.space.slug),
    "spaces": lambda s: s.room.spaces.list_spaces(s.space.tenant, None, "space-7", 50),
    "unpublished": lambda s: s.room.spaces.unpublished(16),
    "mark published": lambda s: s.room.spaces.mark_published({s.space.uid: 1000}),
    "links both ways": lambda s: s.links(Direction.BOTH),
    "links outgoing": lambda s: s.links(Direction.OUTGOING),
    "links incoming": lambda s: s.links(Direction.INCOMING),
    "strongest links": lambda s: s.associations.list_links(s.space, LinkFilter(), Filter(), None, 50),
    "links of many both ways": lambda s: s.links_of(Direction.BOTH),
    "links of many outgoing": lambda s: s.links_of(Direction.OUTGOING),
    "links of many incoming": lambda s: s.links_of(Direction.INCOMING),
    "links among": lambda s: s.associations.links_among(s.space, s.ids, (), 100),
    "where activation flows, and neighbours in sessions": lambda s: s.edges(),
    "associate": lambda s: s.put_link(),
    "learn": lambda s: s.put_link(AssociationType.CO_RECALLED),
    "record active days": lambda s: s.active_days.record([(s.space.uid, NOW.date() + timedelta(days=1))]),
    "active days since": lambda s: s.active_days.count_between(s.space, [NOW.date() - timedelta(days=9)], NOW.date()),
    "spaces to fade": lambda s: s.fading.spaces_to_fade(NOW.date(), None, 100),
    "more spaces to fade": lambda s: s.fading.spaces_to_fade(NOW.date(), s.space.uid, 100),
    "fade": lambda s: s.fading.fade(s.space, NOW.date(), 100),
    "dissociate": lambda s: s.associations.remove(s.space, s.ids[0], s.ids[7], None),
    "working items": lambda s: s.room.working_store.list_items(s.space, "agent7", "session", NOW),
    "push": lambda s: s.room.working_store.push(s.space, s.item(), 7, None),
    "clear": lambda s: s.room.working_store.clear(s.space, "agent7", "session", (), NOW),
    "expired items": lambda s: s.room.working_store.remove_expired(NOW + timedelta(hours=1)),
}


@pytest.mark.parametrize("ask", HOT.values(), ids=HOT)
async def test_a_hot_statement_reads_no_large_table_from_end_to_end(
    store: Store, ask: Callable[[Store], Awaitable[object]]
) -> None:
    await ask(store)
    caught = await store.database.caught()
    assert caught
    read = []
    for statement, values in caught.items():
        plan = json.loads(await store.database.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values))
        read += [
            (statement, step["Node Type"], step["Relation Name"])
            for step in steps_of(plan[0]["Plan"])
            if step["Node Type"] == "Seq Scan" and step["Relation Name"] in LARGE
        ]
    assert read == []


async def test_the_statistics_are_those_of_a_million_memories(store: Store) -> None:
    plan = json.loads(await store.database.fetchval("EXPLAIN (FORMAT JSON) SELECT content FROM memory.memories"))
    assert plan[0]["Plan"]["Plan Rows"] == pytest.approx(MANY, rel=0.1)
    assert plan[0]["Plan"]["Node Type"] == "Seq Scan"


def steps_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and all that is below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from steps_of(below)
