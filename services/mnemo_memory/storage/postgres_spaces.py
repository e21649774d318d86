"""The spaces of memory-core on PostgreSQL, and the marks of what is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.storage import rows, transactions
from mnemocore.errors import SpaceEtagMismatchError, SpaceExistsError, SpaceNotFoundError
from mnemocore.ids import SpaceUid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Policy, Space
    from mnemo_memory.domain.ports import Request
    from mnemo_memory.storage.postgres_vault import PostgresVault
    from mnemocore.ids import Tenant
    from mnemocore.postgres import Database

_MARK_ONE: Final = "UPDATE memory.spaces SET published_revision = $2 WHERE uid = $1 AND published_revision < $2"
_MARK_FREE: Final = """
WITH free AS (SELECT uid FROM memory.spaces WHERE uid = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED)
UPDATE memory.spaces SET published_revision = greatest(published_revision, mark.revision)
FROM free JOIN unnest($1::uuid[], $2::bigint[]) AS mark(uid, revision) USING (uid)
WHERE spaces.uid = free.uid RETURNING spaces.uid
"""


class PostgresSpaces:
    """Implements `mnemo_memory.domain.ports.SpaceStore` and the marks of `Publications`."""

    def __init__(self, database: Database, vault: PostgresVault) -> None:
        self._database = database
        self._vault = vault

    async def create_space(self, space: Space, request: Request | None) -> Space:
        """Make a space. Raises SpaceExistsError, RequestIdReusedError, KeyUnavailableError."""
        async with self._database.transaction() as connection:
            if first := await self._replayed(connection, space, request):
                return first
            row = await connection.fetchrow(
                "INSERT INTO memory.spaces (uid, tenant, slug, description, created_at, owner, policy, encrypted) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8) "
                f"ON CONFLICT (tenant, slug) DO NOTHING RETURNING {rows.SPACE_COLUMNS}",
                UUID(space.uid),
                space.tenant,
                space.slug,
                space.description,
                space.created_at,
                space.owner,
                rows.from_policy(space.policy),
                space.encrypted,
            )
            if row is None:  # by another request, or by this one sent twice at the same time
                if first := await self._replayed(connection, space, request):
                    return first
                raise SpaceExistsError(space=space.name)
            if space.encrypted:
                await self._vault.make_key(connection, space)
            await transactions.remember(connection, space, request, 1, 0, space.created_at)
            return rows.to_space(row)

    async def _replayed(self, connection: Connection[Record], space: Space, request: Request | None) -> Space | None:
        """The space an earlier request made. Raises SpaceNotFoundError if it is gone, RequestIdReusedError."""
        record = await transactions.earlier(connection, space.tenant, request)
        if record is None:
            return None
        row = await connection.fetchrow(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = $1", record["space_uid"]
        )
        if row is None:
            raise SpaceNotFoundError(space=space.name)
        return rows.to_space(row)

    async def get_space(self, tenant: Tenant, slug: str) -> Space:
        """Read a space. Raises SpaceNotFoundError."""
        row = await self._database.fetchrow(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE tenant = $1 AND slug = $2", tenant, slug
        )
        if row is None:
            raise SpaceNotFoundError(space=f"spaces/{slug}")
        return rows.to_space(row)

    async def list_spaces(self, tenant: Tenant, principal: str | None, after: str, limit: int) -> list[Space]:
        """The tenant's spaces by slug, after `after`: those that `principal` may use as its own, with None all."""
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE tenant = $1 AND slug > $2 "
            "AND ($3::text IS NULL OR owner = $3 OR coalesce((policy ->> 'access')::int, 1) = 1) "
            "ORDER BY slug LIMIT $4",
            tenant,
            after,
            principal,
            limit,
        )
        return [rows.to_space(row) for row in found]

    async def unswept(self, spaces: Sequence[Space], now: datetime) -> dict[SpaceUid, int]:
        """Memories of each space that count as active and whose time is over; spaces without any are left out."""
        found = await self._database.fetch(
            "SELECT space_uid, count(*) AS memories FROM memory.memories "
            "WHERE expires_at <= $2 AND state = 1 AND space_uid = ANY($1::uuid[]) GROUP BY space_uid",
            [UUID(space.uid) for space in spaces],
            now,
        )
        return {SpaceUid(str(row["space_uid"])): row["memories"] for row in found}

    async def update_space(self, space: Space, alter: Callable[[Space], tuple[str, Policy]], etag: str) -> Space:
        """Give a space the description and the policy that `alter` makes of what is stored; equal ones change nothing.

        Raises SpaceNotFoundError, SpaceEtagMismatchError, and what `alter` raises.
        """
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if etag and etag != locked.etag:
                raise SpaceEtagMismatchError(space=space.name)
            description, policy = alter(locked)
            if (description, policy) == (locked.description, locked.policy):
                return locked
            row = await connection.fetchrow(
                "UPDATE memory.spaces SET description = $2, policy = $3::text::jsonb, "
                f"policy_revision = policy_revision + 1 WHERE uid = $1 RETURNING {rows.SPACE_COLUMNS}",
                UUID(space.uid),
                description,
                rows.from_policy(policy),
            )
            assert row is not None, "the row is locked"
            return rows.to_space(row)

    # The relay's marks

    async def unpublished(self, limit: int) -> list[Space]:
        """Spaces with revisions that are not marked as published."""
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE published_revision < revision "
            "ORDER BY random() LIMIT $1",
            limit,
        )
        return [rows.to_space(row) for row in found]

    async def mark_published(self, marks: Mapping[SpaceUid, int]) -> None:
        """Remember that of these spaces every revision up to the one named is in the event log.

        Spaces that are being written are marked alone, so that no writer waits for another's space.
        """
        free = await self._database.fetch(_MARK_FREE, list(map(UUID, marks)), list(marks.values()))
        for space_uid in marks.keys() - {str(row["uid"]) for row in free}:
            await self._database.execute(_MARK_ONE, UUID(space_uid), marks[space_uid])
