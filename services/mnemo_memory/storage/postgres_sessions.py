"""Sessions and checkpoints on PostgreSQL. Every write locks its space first, as the writes of memories do."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.sessions import Checkpoint, Session
from mnemo_memory.storage import rows, transactions, working_items
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemocore.errors import (
    CheckpointNotFoundError,
    SessionEndedError,
    SessionExistsError,
    SessionNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Draft, Space
    from mnemo_memory.domain.ports import Author, Created, Request, Vault
    from mnemo_memory.domain.working_memory import WorkingItem
    from mnemo_memory.storage.postgres_store import PostgresStore
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

_ONE: Final = "space_uid = $1 AND session = $2"
_SESSION: Final = "number, session, agent, metadata::text, sealed, started_at, ended_at"
_COUNT: Final = (
    "(SELECT count(*) FROM memory.memories m WHERE m.space_uid = s.space_uid AND m.session = s.session "
    "AND m.session <> '') AS memories"
)
SESSION_COLUMNS: Final = f"{_SESSION}, {_COUNT}"
_CHECKPOINT: Final = "number, id, label, sealed_label, working_items, revision, created_at"


class PostgresSessions:
    """Implements `mnemo_memory.domain.sessions.SessionStore`. Memories are written by `store`."""

    def __init__(self, database: Database, vault: Vault, store: PostgresStore) -> None:
        self._database = database
        self._vault = vault
        self._store = store

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever; known after the store was opened."""
        return self._store.store_id

    # Sessions

    @with_fresh_keys
    async def start(self, space: Space, session: Session, request: Request | None) -> Session:
        """Start a session."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                name, memories = json.loads(record["duplicates"])["0"]
                row = await _read(connection, space, name, session.id)
                return replace(session_of(row, cipher), ended_at=None, memories=memories)
            name = session_name(session.id, cipher)
            metadata, sealed = described_columns(session, name, cipher)
            row = await connection.fetchrow(
                "INSERT INTO memory.sessions AS s (space_uid, session, agent, metadata, sealed, started_at) "
                "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (space_uid, session) DO NOTHING "
                f"RETURNING {SESSION_COLUMNS}",
                UUID(space.uid),
                name,
                session_name(session.agent, cipher),
                metadata,
                sealed,
                session.started_at,
            )
            if row is None:
                raise SessionExistsError(session=session.id)
            started = session_of(row, cipher)
            await _remember(connection, locked, request, [name, started.memories], session.started_at)
            return started

    @with_fresh_keys
    async def get(self, space: Space, session_id: str) -> Session:
        """Read a session."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction(readonly=True) as connection:
            return session_of(await _read(connection, space, session_name(session_id, cipher), session_id), cipher)

    @with_fresh_keys
    async def list_sessions(
        self, space: Space, agent: str, before: int | None, limit: int, *, open_only: bool
    ) -> list[tuple[int, Session]]:
        """Sessions with their numbers, those of one agent or all without one, before a number."""
        cipher = await self._vault.cipher(space)
        found = await self._database.fetch(
            f"SELECT {SESSION_COLUMNS} FROM memory.sessions s WHERE space_uid = $1 AND ($2 = '' OR agent = $2) "
            "AND ($3::bigint IS NULL OR number < $3) AND NOT ($4 AND ended_at IS NOT NULL) "
            "ORDER BY number DESC LIMIT $5",
            UUID(space.uid),
            session_name(agent, cipher),
            before,
            open_only,
            limit,
        )
        return [(row["number"], session_of(row, cipher)) for row in found]

    @with_fresh_keys
    async def append(
        self, space: Space, session_id: str, drafts: Sequence[Draft], author: Author, request: Request | None
    ) -> Created:
        """Write memories of a session that has not ended, all or none."""
        name = session_name(session_id, await self._vault.cipher(space))

        async def open_still(connection: Connection[Record]) -> None:
            row = await connection.fetchrow(f"SELECT ended_at FROM memory.sessions WHERE {_ONE}", UUID(space.uid), name)
            if row is None:
                raise SessionNotFoundError(session=session_id)
            if row["ended_at"] is not None:
                raise SessionEndedError(session=session_id)

        return await self._store.create(space, drafts, author, request, each=False, guard=open_still)

    @with_fresh_keys
    async def end(self, space: Space, session_id: str, at: datetime) -> Session:
        """End a session unless it has ended."""
        cipher = await self._vault.cipher(space)
        name = session_name(session_id, cipher)
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            await connection.execute(
                f"UPDATE memory.sessions SET ended_at = $3 WHERE {_ONE} AND ended_at IS NULL", UUID(space.uid), name, at
            )
            return session_of(await _read(connection, space, name, session_id), cipher)

    # Checkpoints

    @with_fresh_keys
    async def create_checkpoint(
        self, space: Space, checkpoint: Checkpoint, keep: int, request: Request | None
    ) -> Checkpoint:
        """Keep a checkpoint with the working memory of the session's agent, and the `keep` newest of the session."""
        cipher = await self._vault.cipher(space)
        name, at = session_name(checkpoint.session, cipher), checkpoint.created_at
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                return _answered(record, checkpoint)
            session = session_of(await _read(connection, space, name, checkpoint.session), cipher)
            items = await working_items.live(connection, space, session.agent, session.id, at, cipher)
            made = replace(checkpoint, working_items=len(items), revision=locked.revision)
            await _insert(connection, space, name, made, items, cipher)
            await connection.execute(
                f"DELETE FROM memory.checkpoints WHERE {_ONE} AND number <= (SELECT number FROM memory.checkpoints "
                f"WHERE {_ONE} ORDER BY number DESC OFFSET $3 LIMIT 1)",
                UUID(space.uid),
                name,
                keep,
            )
            answer = [made.id, made.created_at.isoformat(), made.working_items, made.revision]
            await _remember(connection, locked, request, answer, at)
            return made

    @with_fresh_keys
    async def list_checkpoints(
        self, space: Space, session_id: str, before: int | None, limit: int
    ) -> list[tuple[int, Checkpoint]]:
        """Checkpoints with their numbers and without their states, before a number."""
        cipher = await self._vault.cipher(space)
        name = session_name(session_id, cipher)
        async with self._database.transaction(readonly=True) as connection:
            await _read(connection, space, name, session_id)
            found = await connection.fetch(
                f"SELECT {_CHECKPOINT} FROM memory.checkpoints WHERE {_ONE} "
                "AND ($3::bigint IS NULL OR number < $3) ORDER BY number DESC LIMIT $4",
                UUID(space.uid),
                name,
                before,
                limit,
            )
        return [(row["number"], _to_checkpoint(row, session_id, cipher)) for row in found]

    @with_fresh_keys
    async def restore(self, space: Space, session_id: str, checkpoint_id: str, now: datetime) -> Checkpoint:
        """Put the working memory of a checkpoint (the newest without an id) in the place of the one that is there."""
        cipher = await self._vault.cipher(space)
        name = session_name(session_id, cipher)
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            session = session_of(await _read(connection, space, name, session_id), cipher)
            row = await connection.fetchrow(
                f"SELECT {_CHECKPOINT}, body::text, sealed_body FROM memory.checkpoints WHERE {_ONE} "
                "AND ($3::uuid IS NULL OR id = $3) ORDER BY number DESC LIMIT 1",
                UUID(space.uid),
                name,
                UUID(checkpoint_id) if checkpoint_id else None,
            )
            if row is None:
                raise CheckpointNotFoundError(checkpoint=checkpoint_id or "newest")
            state, items = await asyncio.to_thread(lambda: json.loads(_opened(row, "body", cipher)))
            checkpoint = replace(_to_checkpoint(row, session_id, cipher), state=state)
            owner = working_items.owner(space, session.agent, session.id, cipher)
            await connection.execute(f"DELETE FROM memory.working_items WHERE {working_items.OWNED}", *owner)
            for fields in reversed(items):
                item = working_items.item_of(fields, session.agent, session.id)
                await working_items.insert(connection, space, _living_on(item, checkpoint, now), cipher)
            return checkpoint


def session_name(text: str, cipher: SpaceCipher | None) -> str:
    """A session or an agent as the columns hold it."""
    return text if cipher is None else cipher.blind(text)


async def _read(connection: Connection[Record], space: Space, name: str, session_id: str) -> Record:
    """The row of a session by its name in the table. Raises SessionNotFoundError."""
    row = await connection.fetchrow(
        f"SELECT {SESSION_COLUMNS} FROM memory.sessions s WHERE {_ONE}", UUID(space.uid), name
    )
    if row is None:
        raise SessionNotFoundError(session=session_id)
    return row


def described_columns(session: Session, name: str, cipher: SpaceCipher | None) -> tuple[str | None, bytes | None]:
    """The columns `metadata` and `sealed` of a session."""
    if cipher is None:
        return rows.to_json(session.metadata), None
    secret = rows.to_json([session.id, session.agent, session.metadata])
    return None, cipher.seal(f"session/{name}", secret.encode("utf-8", "surrogatepass"))


def session_of(row: Mapping[str, Any], cipher: SpaceCipher | None) -> Session:
    """A session from a row of SESSION_COLUMNS."""
    if cipher is None:
        id, agent, metadata = row["session"], row["agent"], json.loads(row["metadata"])
    else:
        id, agent, metadata = json.loads(cipher.open(f"session/{row['session']}", row["sealed"]))
    return Session(id, agent, metadata, row["started_at"], row["ended_at"], row["memories"])


async def _insert(
    connection: Connection[Record],
    space: Space,
    name: str,
    checkpoint: Checkpoint,
    items: Sequence[WorkingItem],
    cipher: SpaceCipher | None,
) -> None:
    body, sealed_body = await asyncio.to_thread(_body, checkpoint, items, cipher)
    await connection.execute(
        "INSERT INTO memory.checkpoints (space_uid, session, id, label, sealed_label, body, sealed_body, "
        "working_items, revision, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        UUID(space.uid),
        name,
        UUID(checkpoint.id),
        checkpoint.label if cipher is None else "",
        _sealed(checkpoint.id, "label", checkpoint.label, cipher),
        body,
        sealed_body,
        checkpoint.working_items,
        checkpoint.revision,
        checkpoint.created_at,
    )


def _body(
    checkpoint: Checkpoint, items: Sequence[WorkingItem], cipher: SpaceCipher | None
) -> tuple[str | None, bytes | None]:
    """The columns `body` and `sealed_body` of a checkpoint."""
    body = rows.to_json([checkpoint.state, [working_items.from_item(item) for item in items]])
    return body if cipher is None else None, _sealed(checkpoint.id, "body", body, cipher)


def _sealed(checkpoint_id: str, column: str, text: str, cipher: SpaceCipher | None) -> bytes | None:
    if cipher is None:
        return None
    return cipher.seal(f"checkpoint/{checkpoint_id}/{column}", text.encode("utf-8", "surrogatepass"))


def _opened(row: Mapping[str, Any], column: str, cipher: SpaceCipher | None) -> str:
    """A column of a checkpoint as it was before it was sealed."""
    if cipher is None:
        return str(row[column])
    plain = cipher.open(f"checkpoint/{row['id']}/{column}", row[f"sealed_{column}"])
    return plain.decode("utf-8", "surrogatepass")


def _to_checkpoint(row: Mapping[str, Any], session_id: str, cipher: SpaceCipher | None) -> Checkpoint:
    return Checkpoint(
        id=str(row["id"]),
        session=session_id,
        label=_opened(row, "label", cipher),
        state=None,
        created_at=row["created_at"],
        working_items=row["working_items"],
        revision=row["revision"],
    )


def _living_on(item: WorkingItem, checkpoint: Checkpoint, now: datetime) -> WorkingItem:
    """An item of a checkpoint with as much life from `now` as it had then."""
    if item.expires_at is None:
        return item
    return replace(item, expires_at=now + (item.expires_at - checkpoint.created_at))


async def _remember(
    connection: Connection[Record], space: Space, request: Request | None, answer: list[Any], at: datetime
) -> None:
    """Keep what an answer says beside what the request said."""
    revision = space.revision
    await transactions.remember(connection, space, request, revision + 1, revision, at, duplicates={0: answer})


def _answered(record: Record, checkpoint: Checkpoint) -> Checkpoint:
    """The first answer to a request for a checkpoint once more."""
    id, created_at, count, revision = json.loads(record["duplicates"])["0"]
    at = datetime.fromisoformat(created_at)
    return replace(checkpoint, id=id, created_at=at, working_items=count, revision=revision)
