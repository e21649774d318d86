"""Working memory on PostgreSQL. Every write locks its space first, as the writes of memories do."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.memory import Draft
from mnemo_memory.domain.working_memory import Place, Pushed
from mnemo_memory.storage import rows, transactions, working_items
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemocore.errors import (
    InternalError,
    KeyUnavailableError,
    MnemoError,
    WorkingItemNotFoundError,
    WorkingMemoryFullError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Memory, Space
    from mnemo_memory.domain.ports import Author, Request, Vault
    from mnemo_memory.domain.working_memory import WorkingItem
    from mnemo_memory.storage.postgres_store import PostgresStore
    from mnemocore.postgres import Database

_CLEANED_AT_ONCE: Final = 1000
_log = logging.getLogger(__name__)


class _ItemChangedError(Exception):
    """The item was pushed again between reading and removing it."""


class PostgresWorkingMemory:
    """Implements `mnemo_memory.domain.working_memory.WorkingStore`. Memories are written by `store`."""

    def __init__(self, database: Database, vault: Vault, store: PostgresStore) -> None:
        self._database = database
        self._vault = vault
        self._store = store

    @with_fresh_keys
    async def push(self, space: Space, item: WorkingItem, capacity: int, request: Request | None) -> Pushed:
        """Put an item first; an equal one is the same, the last one without protection makes room."""
        cipher = await self._vault.cipher(space)
        now = item.created_at
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                return _answered(record, item)
            owner = working_items.owner(space, item.agent, item.session, cipher)
            await connection.execute(
                f"DELETE FROM memory.working_items WHERE {working_items.OWNED} "
                f"AND NOT {working_items.LIVE.format('$4')}",
                *owner,
                now,
            )
            there = await connection.fetchrow(
                f"DELETE FROM memory.working_items WHERE {working_items.OWNED} AND content_hash = $4 "
                f"RETURNING {working_items.COLUMNS}",
                *owner,
                rows.content_hash(item.draft, cipher),
            )
            evicted = ""
            if there is not None:
                item = working_items.to_item(there, cipher).pushed_again(item)
            else:
                evicted = await _make_room(connection, owner, item, capacity)
            await working_items.insert(connection, space, item, cipher)
            await _remember(connection, locked, request, Pushed(item, evicted), now)
            return Pushed(item, evicted)

    @with_fresh_keys
    async def list_items(self, space: Space, agent: str, session: str, now: datetime) -> list[WorkingItem]:
        """The items, the one that was pushed last first."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction(readonly=True) as connection:
            return await working_items.live(connection, space, agent, session, now, cipher)

    @with_fresh_keys
    async def clear(self, space: Space, agent: str, session: str, ids: Sequence[str], now: datetime) -> int:
        """Remove the named items, all without `ids`; returns how many were there."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            removed = await connection.fetch(
                f"DELETE FROM memory.working_items WHERE {working_items.OWNED} "
                "AND (cardinality($4::uuid[]) = 0 OR id = ANY($4)) "
                f"RETURNING {working_items.LIVE.format('$5')} AS live",
                *working_items.owner(space, agent, session, cipher),
                [UUID(each) for each in ids],
                now,
            )
            return sum(row["live"] for row in removed)

    @with_fresh_keys
    async def promote(
        self,
        space: Space,
        item_id: str,
        draft_of: Callable[[WorkingItem], Draft],
        author: Author,
        request: Request | None,
    ) -> Memory:
        """Write an item as the memory that `draft_of` makes of it and remove it, in one transaction."""
        while True:
            item = await self._find(space, item_id, author.at)
            # Without an item nothing is written: the request is a repeated one, or it is refused.
            draft = Draft("") if item is None else draft_of(item)

            async def take(connection: Connection[Record], item: WorkingItem | None = item) -> None:
                await _take(connection, space, item_id, item, author.at)

            try:
                created = await self._store.create(space, [draft], author, request, each=False, guard=take)
            except _ItemChangedError:
                continue
            (outcome,) = created.outcomes
            if isinstance(outcome, MnemoError):
                raise outcome
            return outcome.memory

    async def ripe(
        self, now: datetime, born_before: datetime, after: Place | None, limit: int
    ) -> tuple[list[tuple[Space, WorkingItem]], Place | None]:
        """Items of all spaces without protection that were born before a time, by the end of their lives."""
        behind = Place(now, "ffffffff-ffff-ffff-ffff-ffffffffffff") if after is None else after
        found = await self._database.fetch(
            f"SELECT space_uid, {working_items.COLUMNS} FROM memory.working_items WHERE expires_at > $1 "
            "AND (expires_at, id) > ($2, $3::uuid) AND NOT protected AND created_at < $4 "
            "ORDER BY expires_at, id LIMIT $5",
            now,
            behind.expires_at,
            UUID(behind.id),
            born_before,
            limit,
        )
        spaces = await self._spaces({row["space_uid"] for row in found})
        items = []
        for row in found:
            space = spaces.get(row["space_uid"])
            if space is None:
                continue
            try:
                items.append((space, await self._open(space, row)))
            except (KeyUnavailableError, InternalError) as error:
                _log.warning("working memory of space %s cannot be read, the others go on: %s", space.uid, error)
        full = len(found) == limit
        return items, Place(found[-1]["expires_at"], str(found[-1]["id"])) if full else None

    async def remove_expired(self, now: datetime) -> int:
        """Remove items whose time is over; returns their number. Those that somebody else removes are left to it."""
        removed, last = 0, _CLEANED_AT_ONCE
        while last == _CLEANED_AT_ONCE:
            status = await self._database.execute(
                "DELETE FROM memory.working_items WHERE (space_uid, id) IN (SELECT space_uid, id "
                "FROM memory.working_items WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
                now,
                _CLEANED_AT_ONCE,
            )
            last = int(status.rpartition(" ")[2])
            removed += last
        return removed

    @with_fresh_keys
    async def _find(self, space: Space, item_id: str, now: datetime) -> WorkingItem | None:
        row = await self._database.fetchrow(
            f"SELECT {working_items.COLUMNS} FROM memory.working_items WHERE space_uid = $1 AND id = $2 "
            f"AND {working_items.LIVE.format('$3')}",
            UUID(space.uid),
            UUID(item_id),
            now,
        )
        return None if row is None else working_items.to_item(row, await self._vault.cipher(space))

    async def _spaces(self, uids: set[UUID]) -> dict[UUID, Space]:
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = ANY($1::uuid[])", list(uids)
        )
        return {row["uid"]: rows.to_space(row) for row in found}

    @with_fresh_keys
    async def _open(self, space: Space, row: Record) -> WorkingItem:
        return working_items.to_item(row, await self._vault.cipher(space))


async def _make_room(
    connection: Connection[Record], owner: tuple[UUID, str, str], item: WorkingItem, capacity: int
) -> str:
    """Take the last item without protection out if there are `capacity`; returns its id, empty if there is room."""
    count = await connection.fetchval(f"SELECT count(*) FROM memory.working_items WHERE {working_items.OWNED}", *owner)
    if count < capacity:
        return ""
    evicted = await connection.fetchval(
        "DELETE FROM memory.working_items WHERE space_uid = $1 AND id = (SELECT id FROM memory.working_items "
        f"WHERE {working_items.OWNED} AND NOT protected ORDER BY position LIMIT 1) RETURNING id",
        *owner,
    )
    if evicted is None:
        raise WorkingMemoryFullError(agent=item.agent, session=item.session)
    return str(evicted)


async def _take(
    connection: Connection[Record], space: Space, item_id: str, item: WorkingItem | None, now: datetime
) -> None:
    """Remove an item of a locked space that is still as it was read. Raises WorkingItemNotFoundError."""
    accesses = await connection.fetchval(
        f"DELETE FROM memory.working_items WHERE space_uid = $1 AND id = $2 AND {working_items.LIVE.format('$3')} "
        "RETURNING accesses",
        UUID(space.uid),
        UUID(item_id),
        now,
    )
    if item is None or accesses is None:
        raise WorkingItemNotFoundError(item=item_id)
    if accesses != item.accesses:
        raise _ItemChangedError


async def _remember(
    connection: Connection[Record], space: Space, request: Request | None, pushed: Pushed, at: datetime
) -> None:
    """Keep what the answer to a push says beside what the request said."""
    item = pushed.item
    end = None if item.expires_at is None else item.expires_at.isoformat()
    answer = [item.id, item.protected, item.accesses, item.created_at.isoformat(), end, pushed.evicted_id]
    revision = space.revision
    await transactions.remember(connection, space, request, revision + 1, revision, at, duplicates={0: answer})


def _answered(record: Record, item: WorkingItem) -> Pushed:
    """The first answer to a push once more."""
    answer: list[Any] = json.loads(record["duplicates"])["0"]
    id, protected, accesses, created_at, end, evicted_id = answer
    first = replace(
        item,
        id=id,
        protected=protected,
        accesses=accesses,
        created_at=datetime.fromisoformat(created_at),
        expires_at=None if end is None else datetime.fromisoformat(end),
    )
    return Pushed(first, evicted_id)
