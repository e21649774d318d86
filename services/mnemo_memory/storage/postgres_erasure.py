"""Removing spaces from PostgreSQL, and the receipts of that.

A space is removed under the lock of its row, the strongest there is: every write of memories waits for it, and so does
whoever adds a row that refers to the space. When it is over they find that there is no space. Some of them have rows
locked already when they come to wait, of the keys of the space or of memories. So an erasure never waits long for
another lock than the first: it lets go of everything and begins again, before PostgreSQL sees two that wait for each
other and ends one of them, which would be the writer as often as not.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from asyncpg.exceptions import LockNotAvailableError

from mnemo_memory.domain.erasure import Receipt
from mnemo_memory.storage import rows
from mnemocore.errors import (
    SpaceEtagMismatchError,
    SpaceNotEmptyError,
    SpaceNotFoundError,
    StoreUnavailableError,
)
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Author
    from mnemocore.postgres import Database

TABLES: Final = (
    *("requests", "grants", "working_items", "checkpoints", "sessions", "associations", "active_days"),
    *("media_parts", "media", "revisions", "memories", "space_keys"),
)
"""Every table with rows of spaces, the receipts aside: what refers to another one comes before it."""

_ATTEMPTS: Final = 100
_LOCK_MILLISECONDS: Final = 100
"""How long an erasure waits for a lock; far less than the second after which PostgreSQL looks for a deadlock."""
_LONGEST_PAUSE: Final = 0.1
_CLOSE_SECONDS: Final = 1.0
T = TypeVar("T")
_COLUMNS: Final = (
    "id, number, tenant, space_uid, principal, reason, erased_at, log_erased_at, revision, memories, revisions, media, "
    "associations"
)
_HOLDS_SOMETHING: Final = """
SELECT EXISTS (SELECT FROM memory.memories WHERE space_uid = $1)
    OR EXISTS (SELECT FROM memory.media WHERE space_uid = $1)
    OR EXISTS (SELECT FROM memory.sessions WHERE space_uid = $1)
    OR EXISTS (SELECT FROM memory.working_items WHERE space_uid = $1 AND (expires_at IS NULL OR expires_at > $2))
"""


class PostgresErasures:
    """Implements `mnemo_memory.domain.erasure.ErasureStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase_space(self, space: Space, receipt_id: str, author: Author, etag: str) -> Receipt:
        """Remove everything of a space in one transaction."""

        async def remove(connection: Connection[Record], locked: Space) -> Receipt:
            if etag and etag != locked.etag:
                raise SpaceEtagMismatchError(space=space.name)
            return await _remove(connection, locked, receipt_id, author)

        return await self._alone(space, remove)

    async def delete_space(self, space: Space, receipt_id: str, author: Author) -> Receipt | None:
        """Remove a space in which there is nothing; a receipt if the log may have heard of it."""

        async def remove(connection: Connection[Record], locked: Space) -> Receipt | None:
            if await connection.fetchval(_HOLDS_SOMETHING, UUID(space.uid), author.at):
                raise SpaceNotEmptyError(space=space.name)
            if locked.revision == 0:
                await _delete_rows(connection, locked)
                return None
            return await _remove(connection, locked, receipt_id, author)

        return await self._alone(space, remove)

    async def _alone(self, space: Space, remove: Callable[[Connection[Record], Space], Awaitable[T]]) -> T:
        """The result of `remove` in a transaction with the space locked, tried again when others are in the way."""
        for _ in range(_ATTEMPTS):
            try:
                async with self._database.transaction() as connection:
                    return await remove(connection, await _lock(connection, space))
            except LockNotAvailableError:
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))
        raise StoreUnavailableError(f"space {space.name!r} is in use all the time", retry_after=1.0)

    async def list_receipts(self, tenant: Tenant, before: int | None, limit: int) -> list[Receipt]:
        """Receipts of a tenant by falling number."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.erasures WHERE tenant = $1 AND ($2::bigint IS NULL OR number < $2) "
            "ORDER BY number DESC LIMIT $3",
            tenant,
            before,
            limit,
        )
        return [_receipt(row) for row in found]

    async def unconfirmed(self, limit: int) -> list[Receipt]:
        """Receipts the log has not confirmed."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.erasures WHERE log_erased_at IS NULL ORDER BY random() LIMIT $1", limit
        )
        return [_receipt(row) for row in found]

    async def confirm(self, receipt: Receipt, at: datetime) -> None:
        """Remember that the log has erased the events; the first time counts."""
        await self._database.execute(
            "UPDATE memory.erasures SET log_erased_at = $2 WHERE id = $1 AND log_erased_at IS NULL",
            UUID(receipt.id),
            at,
        )

    async def reclaim(self) -> None:
        """VACUUM the tables on a connection of its own, as gently as PostgreSQL does it by itself."""
        with translated():
            connection = await self._database.connect()
            try:
                await connection.execute("SET vacuum_cost_delay = '2ms'")
                await connection.execute(f"VACUUM memory.spaces, {', '.join(f'memory.{table}' for table in TABLES)}")
                await connection.close(timeout=_CLOSE_SECONDS)
            finally:
                connection.terminate()


async def _lock(connection: Connection[Record], space: Space) -> Space:
    """The space as it is; nobody changes it or adds to it until the end of the transaction.

    Raises SpaceNotFoundError. From here on the transaction raises LockNotAvailableError rather than wait for others.
    """
    row = await connection.fetchrow(
        f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = $1 FOR UPDATE", UUID(space.uid)
    )
    if row is None:
        raise SpaceNotFoundError(space=space.name)
    await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_MILLISECONDS}ms'")
    await connection.execute("SELECT FROM memory.space_keys WHERE space_uid = $1 FOR UPDATE", UUID(space.uid))
    return rows.to_space(row)


async def _remove(connection: Connection[Record], space: Space, receipt_id: str, author: Author) -> Receipt:
    deleted = await _delete_rows(connection, space)
    row = await connection.fetchrow(
        "INSERT INTO memory.erasures (id, tenant, space_uid, principal, reason, erased_at, revision, memories, "
        f"revisions, media, associations) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {_COLUMNS}",
        UUID(receipt_id),
        space.tenant,
        UUID(space.uid),
        author.principal,
        author.reason,
        author.at,
        space.revision,
        *(deleted[table] for table in ("memories", "revisions", "media", "associations")),
    )
    assert row is not None, "it was inserted"
    return _receipt(row)


async def _delete_rows(connection: Connection[Record], space: Space) -> dict[str, int]:
    """Delete everything of a locked space and the space; how many rows of each table that were."""
    deleted = {}
    for table in TABLES:
        tag = await connection.execute(f"DELETE FROM memory.{table} WHERE space_uid = $1", UUID(space.uid))
        deleted[table] = int(tag.rpartition(" ")[2])
    await connection.execute("DELETE FROM memory.spaces WHERE uid = $1", UUID(space.uid))
    return deleted


def _receipt(row: Mapping[str, Any]) -> Receipt:
    return Receipt(
        id=str(row["id"]),
        number=row["number"],
        tenant=Tenant(row["tenant"]),
        space_uid=SpaceUid(str(row["space_uid"])),
        principal=row["principal"],
        reason=row["reason"],
        erased_at=row["erased_at"],
        log_erased_at=row["log_erased_at"],
        revision=row["revision"],
        memories=row["memories"],
        revisions=row["revisions"],
        media=row["media"],
        associations=row["associations"],
    )
