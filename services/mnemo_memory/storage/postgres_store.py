"""The store of memory-core on PostgreSQL.

Every write locks the row of its space first, so the writes of one space happen one after the other: revisions are
handed out in the order of commit and no reader of `revision > n` can miss one that commits late. Writes of different
spaces do not meet.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from asyncpg.exceptions import UniqueViolationError

from mnemo_memory.domain.memory import Change, Draft, Filter, Memory, Revision, Space, State
from mnemo_memory.domain.ports import Author, ListPosition, Request, Written
from mnemo_memory.storage import rows
from mnemocore.errors import (
    EtagMismatchError,
    MemoryExistsError,
    MemoryNotFoundError,
    RequestIdReusedError,
    SpaceExistsError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, SpaceUid, new_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemocore.ids import Tenant
    from mnemocore.postgres import Database

REQUEST_LIFE_HOURS: Final = 24

_INSERT_MEMORIES: Final = """
INSERT INTO memory.memories (
    space_uid, id, kind, content, metadata, tags, actor, session, ordinal, occurred_at, importance, confidence,
    state, revision, created_revision, created_at, updated_at)
SELECT $1, id, kind, content, metadata::jsonb, tags::jsonb, actor, session, ordinal, occurred_at, importance,
    confidence, $2, revision, revision, $3, $3
FROM unnest($4::uuid[], $5::smallint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[],
    $12::timestamptz[], $13::float8[], $14::float8[], $15::bigint[])
    AS t(id, kind, content, metadata, tags, actor, session, ordinal, occurred_at, importance, confidence, revision)
"""
_INSERT_REVISIONS: Final = """
INSERT INTO memory.revisions (space_uid, revision, memory_id, change, snapshot, committed_at, principal, reason)
SELECT $1, revision, memory_id, $2, snapshot::json, $3, $4, $5
FROM unnest($6::bigint[], $7::uuid[], $8::text[]) AS t(revision, memory_id, snapshot)
"""


class PostgresStore:
    """Implements `mnemo_memory.domain.ports.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store_id = ""

    async def open(self) -> None:
        """Read the store's id; the database is migrated."""
        self._store_id = str(await self._database.fetchval("SELECT store_id FROM memory.store"))

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever; known after `open`."""
        return self._store_id

    # Spaces

    async def create_space(self, space: Space, request: Request | None) -> Space:
        """Make a space. Raises SpaceExistsError, RequestIdReusedError."""
        async with self._database.transaction() as connection:
            if request and (earlier := await _earlier(connection, space.tenant, request)):
                row = await connection.fetchrow(
                    f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = $1", earlier["space_uid"]
                )
                return rows.to_space(row)
            row = await connection.fetchrow(
                "INSERT INTO memory.spaces (uid, tenant, slug, description, created_at) VALUES ($1, $2, $3, $4, $5) "
                f"ON CONFLICT (tenant, slug) DO NOTHING RETURNING {rows.SPACE_COLUMNS}",
                UUID(space.uid),
                space.tenant,
                space.slug,
                space.description,
                space.created_at,
            )
            if row is None:
                raise SpaceExistsError(space=space.name)
            if request:
                await _remember(connection, space, request, 1, 0, space.created_at)
            return rows.to_space(row)

    async def get_space(self, tenant: Tenant, slug: str) -> Space:
        """Read a space. Raises SpaceNotFoundError."""
        row = await self._database.fetchrow(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE tenant = $1 AND slug = $2", tenant, slug
        )
        if row is None:
            raise SpaceNotFoundError(space=f"spaces/{slug}")
        return rows.to_space(row)

    async def list_spaces(self, tenant: Tenant, after: str, limit: int) -> list[Space]:
        """The tenant's spaces by slug, after `after`."""
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE tenant = $1 AND slug > $2 ORDER BY slug LIMIT $3",
            tenant,
            after,
            limit,
        )
        return [rows.to_space(row) for row in found]

    # Writing

    async def create(self, space: Space, drafts: Sequence[Draft], author: Author, request: Request | None) -> Written:
        """Write all drafts or none. Raises MemoryExistsError, RequestIdReusedError."""
        memories, revision = await self._create(space, drafts, author, request, skip_taken=False)
        return Written(tuple(memory for memory in memories if memory is not None), revision)

    async def create_each(
        self, space: Space, drafts: Sequence[Draft], author: Author, request: Request | None
    ) -> tuple[list[Memory | None], int]:
        """Write the drafts whose ids are free; None stands for one whose id is taken. Raises RequestIdReusedError."""
        return await self._create(space, drafts, author, request, skip_taken=True)

    async def _create(
        self, space: Space, drafts: Sequence[Draft], author: Author, request: Request | None, *, skip_taken: bool
    ) -> tuple[list[Memory | None], int]:
        async with self._database.transaction() as connection:
            locked = await _lock(connection, space)
            if request and (earlier := await _earlier(connection, space.tenant, request)):
                return await _replay(connection, earlier, len(drafts))
            taken = await _taken(connection, space, drafts)
            if taken and not skip_taken:
                raise MemoryExistsError(memory=f"{space.name}/memories/{drafts[taken[0]].id}")
            free = [draft for number, draft in enumerate(drafts) if number not in set(taken)]
            memories = await _numbered(connection, space, free, locked.revision, author)
            last = locked.revision + len(memories)
            await _insert(connection, space, memories, author)
            await connection.execute(
                "UPDATE memory.spaces SET revision = $2, active = active + $3 WHERE uid = $1",
                UUID(space.uid),
                last,
                len(memories),
            )
            if request:
                await _remember(connection, space, request, locked.revision + 1, last, author.at, taken)
            written = iter(memories)
            return [None if number in taken else next(written) for number in range(len(drafts))], last

    async def change_state(
        self, space: Space, memory_id: MemoryId, state: State, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Archive or restore. No change if the state is reached. Raises MemoryNotFoundError, EtagMismatchError."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, space)
            if request and (earlier := await _earlier(connection, space.tenant, request)):
                return await _replay_change(connection, space, memory_id, earlier)
            memory = await _read(connection, space, memory_id, etag)
            if memory.state is state:
                if request:
                    await _remember(connection, space, request, locked.revision + 1, locked.revision, author.at)
                return Written((memory,), locked.revision)
            changed = replace(memory, state=state, revision=locked.revision + 1, updated_at=author.at)
            await connection.execute(
                "UPDATE memory.memories SET state = $3, revision = $4, updated_at = $5 "
                "WHERE space_uid = $1 AND id = $2",
                UUID(space.uid),
                UUID(memory_id),
                state,
                changed.revision,
                changed.updated_at,
            )
            change = Change.RESTORED if state is State.ACTIVE else Change.ARCHIVED
            step = 1 if state is State.ACTIVE else -1
            await _append(connection, space, [changed], change, author)
            await _count(connection, space, changed.revision, step, -step)
            if request:
                await _remember(connection, space, request, changed.revision, changed.revision, author.at)
            return Written((changed,), changed.revision)

    async def erase(
        self, space: Space, memory_id: MemoryId, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Remove a memory and its content in every revision. Raises MemoryNotFoundError, EtagMismatchError."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, space)
            if request and (earlier := await _earlier(connection, space.tenant, request)):
                return Written((), earlier["last_revision"])
            memory = await _read(connection, space, memory_id, etag)
            keys = (UUID(space.uid), UUID(memory_id))
            revision = locked.revision + 1
            await connection.execute("DELETE FROM memory.memories WHERE space_uid = $1 AND id = $2", *keys)
            await connection.execute(
                "UPDATE memory.revisions SET snapshot = NULL WHERE space_uid = $1 AND memory_id = $2", *keys
            )
            await connection.execute(
                "INSERT INTO memory.revisions VALUES ($1, $2, $3, $4, NULL, $5, $6, $7)",
                keys[0],
                revision,
                keys[1],
                Change.ERASED,
                author.at,
                author.principal,
                author.reason,
            )
            active = memory.state is State.ACTIVE
            await _count(connection, space, revision, -int(active), -int(not active))
            if request:
                await _remember(connection, space, request, revision, revision, author.at)
            return Written((), revision)

    async def republish(self, space: Space, author: Author) -> int:
        """Append a REPUBLISHED revision for every active memory; returns their number."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, space)
            found = await connection.fetch(
                f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND state = $2 "
                "ORDER BY created_revision",
                UUID(space.uid),
                State.ACTIVE,
            )
            first = locked.revision + 1
            memories = [replace(rows.to_memory(row), revision=first + number) for number, row in enumerate(found)]
            await connection.execute(
                "UPDATE memory.memories AS m SET revision = t.revision "
                "FROM unnest($2::uuid[], $3::bigint[]) AS t(id, revision) WHERE m.space_uid = $1 AND m.id = t.id",
                UUID(space.uid),
                [UUID(memory.id) for memory in memories],
                [memory.revision for memory in memories],
            )
            await _append(connection, space, memories, Change.REPUBLISHED, author)
            await _count(connection, space, locked.revision + len(memories), 0, 0)
            return len(memories)

    async def forget_old_requests(self, before: datetime) -> int:
        """Drop the records of requests older than `before`; returns their number."""
        status = await self._database.execute("DELETE FROM memory.requests WHERE created_at < $1", before)
        return int(status.rpartition(" ")[2])

    # Reading

    async def get(self, space: Space, ids: Sequence[MemoryId]) -> dict[MemoryId, Memory]:
        """The memories among `ids` that exist."""
        found = await self._database.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
            UUID(space.uid),
            [UUID(each) for each in ids],
        )
        memories = [rows.to_memory(row) for row in found]
        return {memory.id: memory for memory in memories}

    async def list_memories(
        self, space: Space, where: Filter, states: Sequence[State], position: ListPosition, limit: int
    ) -> list[Memory]:
        """Memories by falling creation revision."""
        conditions, values = _conditions(where)
        found = await self._database.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND created_revision < $2 "
            f"AND created_revision <= $3 AND state = ANY($4::smallint[]) {conditions} "
            "ORDER BY created_revision DESC LIMIT $5",
            UUID(space.uid),
            position.before,
            position.as_of,
            list(states),
            limit,
            *values,
        )
        return [rows.to_memory(row) for row in found]

    async def list_revisions(self, space: Space, memory_id: MemoryId | None, after: int, limit: int) -> list[Revision]:
        """Revisions of the space or of one memory after revision `after`, oldest first."""
        condition, values = ("", []) if memory_id is None else ("AND memory_id = $4", [UUID(memory_id)])
        found = await self._database.fetch(
            f"SELECT {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 AND revision > $2 {condition} "
            "ORDER BY revision LIMIT $3",
            UUID(space.uid),
            after,
            limit,
            *values,
        )
        return [rows.to_revision(row) for row in found]

    # The relay's marks

    async def unpublished(self, limit: int) -> list[Space]:
        """Spaces with revisions that are not marked as published."""
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE published_revision < revision "
            "ORDER BY random() LIMIT $1",
            limit,
        )
        return [rows.to_space(row) for row in found]

    async def mark_published(self, space_uid: SpaceUid, revision: int) -> None:
        """Remember that every revision up to `revision` is in the event log."""
        await self._database.execute(
            "UPDATE memory.spaces SET published_revision = $2 WHERE uid = $1 AND published_revision < $2",
            UUID(space_uid),
            revision,
        )


async def _lock(connection: Connection[Record], space: Space) -> Space:
    row = await connection.fetchrow(
        f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = $1 FOR NO KEY UPDATE", UUID(space.uid)
    )
    if row is None:
        raise SpaceNotFoundError(space=space.name)
    return rows.to_space(row)


async def _earlier(connection: Connection[Record], tenant: Tenant, request: Request) -> Record | None:
    row = await connection.fetchrow(
        "SELECT digest, space_uid, first_revision, last_revision, taken::text FROM memory.requests "
        "WHERE tenant = $1 AND request_id = $2",
        tenant,
        UUID(request.id),
    )
    if row is not None and row["digest"] != request.digest:
        raise RequestIdReusedError
    return row


async def _remember(
    connection: Connection[Record],
    space: Space,
    request: Request,
    first: int,
    last: int,
    at: datetime,
    taken: Sequence[int] = (),
) -> None:
    try:
        await connection.execute(
            "INSERT INTO memory.requests (tenant, request_id, digest, space_uid, first_revision, last_revision, taken, "
            "created_at) VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8)",
            space.tenant,
            UUID(request.id),
            request.digest,
            UUID(space.uid),
            first,
            last,
            rows.to_json(list(taken)),
            at,
        )
    except UniqueViolationError:  # the same id at the same moment in another space
        raise RequestIdReusedError from None


async def _replay(connection: Connection[Record], earlier: Record, drafts: int) -> tuple[list[Memory | None], int]:
    found = await connection.fetch(
        f"SELECT {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 AND revision BETWEEN $2 AND $3 "
        "ORDER BY revision",
        earlier["space_uid"],
        earlier["first_revision"],
        earlier["last_revision"],
    )
    taken = set(json.loads(earlier["taken"]))
    revisions = iter([rows.to_revision(row) for row in found])
    memories: list[Memory | None] = []
    for number in range(drafts):
        if number in taken:
            memories.append(None)
            continue
        revision = next(revisions)
        if revision.memory is None:
            raise MemoryNotFoundError(memory=revision.memory_id)
        memories.append(revision.memory)
    return memories, earlier["last_revision"]


async def _replay_change(connection: Connection[Record], space: Space, memory_id: MemoryId, earlier: Record) -> Written:
    if earlier["first_revision"] <= earlier["last_revision"]:
        memories, revision = await _replay(connection, earlier, 1)
        return Written(tuple(memory for memory in memories if memory is not None), revision)
    return Written((await _read(connection, space, memory_id, ""),), earlier["last_revision"])


async def _taken(connection: Connection[Record], space: Space, drafts: Sequence[Draft]) -> list[int]:
    """Numbers of the drafts whose chosen ids exist in the space or stand in an earlier draft."""
    chosen = [UUID(draft.id) for draft in drafts if draft.id is not None]
    if not chosen:
        return []
    found = await connection.fetch(
        "SELECT id FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])", UUID(space.uid), chosen
    )
    seen = {str(row["id"]) for row in found}
    taken = []
    for number, draft in enumerate(drafts):
        if draft.id in seen:
            taken.append(number)
        elif draft.id is not None:
            seen.add(draft.id)
    return taken


async def _numbered(
    connection: Connection[Record], space: Space, drafts: Sequence[Draft], revision: int, author: Author
) -> list[Memory]:
    """The drafts as memories: with ids, ordinals in the order of arrival, and the revisions after `revision`."""
    ordinals = await _next_ordinals(connection, space, drafts)
    memories = []
    for number, draft in enumerate(drafts, revision + 1):
        ordinal = draft.ordinal if draft.session else None
        if draft.session:
            ordinal = ordinals[draft.session] if ordinal is None else ordinal
            ordinals[draft.session] = max(ordinals.get(draft.session, 0), ordinal + 1)
        memories.append(
            Memory(
                id=draft.id or MemoryId(new_uuid(author.at)),
                kind=draft.kind,
                content=draft.content,
                metadata=draft.metadata,
                tags=draft.tags,
                actor=draft.actor,
                session=draft.session,
                ordinal=ordinal,
                occurred_at=draft.occurred_at or author.at,
                importance=draft.importance,
                confidence=draft.confidence,
                state=State.ACTIVE,
                revision=number,
                created_revision=number,
                created_at=author.at,
                updated_at=author.at,
            )
        )
    return memories


async def _next_ordinals(connection: Connection[Record], space: Space, drafts: Sequence[Draft]) -> dict[str, int]:
    open_sessions = sorted({draft.session for draft in drafts if draft.session and draft.ordinal is None})
    if not open_sessions:
        return {}
    found = await connection.fetch(
        "SELECT s.session, (SELECT max(m.ordinal) FROM memory.memories m WHERE m.space_uid = $1 "
        "AND m.session = s.session AND m.session <> '') AS newest FROM unnest($2::text[]) AS s(session)",
        UUID(space.uid),
        open_sessions,
    )
    return {row["session"]: 0 if row["newest"] is None else row["newest"] + 1 for row in found}


async def _insert(connection: Connection[Record], space: Space, memories: Sequence[Memory], author: Author) -> None:
    if not memories:
        return
    await connection.execute(
        _INSERT_MEMORIES,
        UUID(space.uid),
        State.ACTIVE,
        author.at,
        [UUID(memory.id) for memory in memories],
        [memory.kind for memory in memories],
        [memory.content for memory in memories],
        [rows.to_json(memory.metadata) for memory in memories],
        [rows.to_json(memory.tags) for memory in memories],
        [memory.actor for memory in memories],
        [memory.session for memory in memories],
        [memory.ordinal for memory in memories],
        [memory.occurred_at for memory in memories],
        [memory.importance for memory in memories],
        [memory.confidence for memory in memories],
        [memory.revision for memory in memories],
    )
    await _append(connection, space, memories, Change.CREATED, author)


async def _append(
    connection: Connection[Record], space: Space, memories: Sequence[Memory], change: Change, author: Author
) -> None:
    await connection.execute(
        _INSERT_REVISIONS,
        UUID(space.uid),
        change,
        author.at,
        author.principal,
        author.reason,
        [memory.revision for memory in memories],
        [UUID(memory.id) for memory in memories],
        [rows.to_snapshot(memory) for memory in memories],
    )


async def _count(connection: Connection[Record], space: Space, revision: int, active: int, archived: int) -> None:
    await connection.execute(
        "UPDATE memory.spaces SET revision = $2, active = active + $3, archived = archived + $4 WHERE uid = $1",
        UUID(space.uid),
        revision,
        active,
        archived,
    )


async def _read(connection: Connection[Record], space: Space, memory_id: MemoryId, etag: str) -> Memory:
    row = await connection.fetchrow(
        f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id = $2",
        UUID(space.uid),
        UUID(memory_id),
    )
    name = f"{space.name}/memories/{memory_id}"
    if row is None:
        raise MemoryNotFoundError(memory=name)
    memory = rows.to_memory(row)
    if etag and etag != memory.etag:
        raise EtagMismatchError(memory=name)
    return memory


def _conditions(where: Filter) -> tuple[str, list[Any]]:
    """SQL conditions from parameter $6 on, and their values."""
    conditions: list[str] = []
    values: list[Any] = []

    def add(condition: str, value: Any) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values) + 5}"))

    if where.kinds:
        add("kind = ANY({}::smallint[])", [int(kind) for kind in where.kinds])
    if where.tags:
        add("tags @> {}::text::jsonb", rows.to_json(where.tags))
    if where.actors:
        add("actor = ANY({}::text[])", list(where.actors))
    if where.sessions:
        add("session = ANY({}::text[])", list(where.sessions))
    if where.occurred_from:
        add("occurred_at >= {}", where.occurred_from)
    if where.occurred_to:
        add("occurred_at < {}", where.occurred_to)
    for key, value in where.metadata.items():
        values.append(key)
        add(f"metadata -> ${len(values) + 5}::text = {{}}::text::jsonb", rows.to_json(value))
    return "".join(f" AND {condition}" for condition in conditions), values
