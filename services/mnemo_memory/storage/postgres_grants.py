"""Grants on PostgreSQL. In an encrypted space the tags of a grant are sealed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from asyncpg.exceptions import UniqueViolationError

from mnemo_memory.domain.access import Share
from mnemo_memory.domain.grants import Grant, Part, widest
from mnemo_memory.domain.memory import Kind, Role
from mnemo_memory.storage import rows, transactions
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemocore.errors import GrantNotFoundError, SpaceExistsError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from asyncpg import Record

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Request, Vault
    from mnemocore.postgres import Database

_SELECT: Final = f"""
SELECT {", ".join(f"s.{column.strip()}" for column in rows.SPACE_COLUMNS.split(","))}, g.id AS grant_id, g.number,
    g.tenant AS grant_tenant, g.principal, g.role, g.kinds, g.tags, g.sealed, g.expires_at, g.created_at AS granted_at,
    g.grantor, g.accepted_as
FROM memory.grants g JOIN memory.spaces s ON s.uid = g.space_uid
"""
_VALID: Final = "(g.expires_at IS NULL OR g.expires_at > {})"


def tags_subject(grant_id: str) -> str:
    """What the tags of a grant are sealed for."""
    return f"grant/{grant_id}/tags"


class PostgresGrants:
    """Implements `mnemo_memory.domain.grants.GrantStore` and `mnemo_memory.domain.access.Shares`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def find(self, tenant: Tenant, principal: str, slug: str, now: datetime) -> Share | None:
        """What is shared with a principal under a name of its tenant; the widest if there are several.

        A space of the tenant itself is found by its own name, and before one of another tenant that was accepted under
        the same name. One of another tenant is found by the name under which it was accepted.
        """
        found = await self._database.fetch(
            f"{_SELECT} WHERE g.tenant = $1 AND g.principal = $2 AND {_VALID.format('$4')} "
            "AND CASE WHEN s.tenant = g.tenant THEN s.slug = $3 ELSE g.accepted_as = $3 END ORDER BY g.number",
            tenant,
            principal,
            slug,
            now,
        )
        own = [row for row in found if row["tenant"] == tenant]
        shares = []
        for row in own or found:
            with suppress(GrantNotFoundError):  # it was ended while it was read
                part = await self._part(row)
                shares.append(Share(rows.to_space(row), Role(row["role"]), part.kinds, part.tags))
        return widest(shares)

    @with_fresh_keys
    async def create(self, space: Space, grant: Grant, request: Request | None) -> Grant:
        """Write a grant."""
        tags, sealed = list(grant.part.tags), None
        cipher = await self._vault.cipher(space)
        if cipher is not None and tags:
            tags, sealed = [], cipher.seal(tags_subject(grant.id), rows.to_json(tags).encode("utf-8", "surrogatepass"))
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            record = await transactions.earlier(connection, space.tenant, request)
            if record is None:
                number = await connection.fetchval(
                    "INSERT INTO memory.grants (id, space_uid, tenant, principal, role, kinds, tags, sealed, "
                    "expires_at, created_at, grantor) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) "
                    "RETURNING number",
                    UUID(grant.id),
                    UUID(space.uid),
                    grant.tenant,
                    grant.principal,
                    grant.role,
                    [int(kind) for kind in grant.part.kinds],
                    tags,
                    sealed,
                    grant.expires_at,
                    grant.created_at,
                    grant.grantor,
                )
                await transactions.remember(
                    connection, space, request, 1, 0, grant.created_at, duplicates={0: grant.id}
                )
                return replace(grant, number=number)
        return await self.get(json.loads(record["duplicates"])["0"], grant.created_at)

    async def of_space(self, space: Space, after: int, limit: int, now: datetime) -> list[Grant]:
        """Grants of a space by number."""
        found = await self._database.fetch(
            f"{_SELECT} WHERE g.space_uid = $1 AND g.number > $2 AND {_VALID.format('$4')} ORDER BY g.number LIMIT $3",
            UUID(space.uid),
            after,
            limit,
            now,
        )
        return await self._grants(found)

    async def of_principal(self, tenant: Tenant, principal: str, after: int, limit: int, now: datetime) -> list[Grant]:
        """Grants to a principal by number."""
        found = await self._database.fetch(
            f"{_SELECT} WHERE g.tenant = $1 AND g.principal = $2 AND g.number > $3 AND {_VALID.format('$5')} "
            "ORDER BY g.number LIMIT $4",
            tenant,
            principal,
            after,
            limit,
            now,
        )
        return await self._grants(found)

    async def get(self, grant_id: str, now: datetime) -> Grant:
        """A grant, whoever asks."""
        row = await self._database.fetchrow(f"{_SELECT} WHERE g.id = $1 AND {_VALID.format('$2')}", UUID(grant_id), now)
        if row is None:
            raise GrantNotFoundError(grant=grant_id)
        return await self._grant(row)

    async def accept(self, grant: Grant, name: str, now: datetime) -> Grant:
        """Give a grant a name. One that has expired does not keep its name."""
        try:
            async with self._database.transaction() as connection:
                if await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM memory.spaces WHERE tenant = $1 AND slug = $2)", grant.tenant, name
                ):
                    raise SpaceExistsError(space=f"spaces/{name}")
                await connection.execute(
                    "DELETE FROM memory.grants WHERE tenant = $1 AND principal = $2 AND accepted_as = $3 "
                    "AND expires_at <= $4",
                    grant.tenant,
                    grant.principal,
                    name,
                    now,
                )
                await connection.execute(
                    "UPDATE memory.grants SET accepted_as = $2 WHERE id = $1", UUID(grant.id), name
                )
        except UniqueViolationError:
            raise SpaceExistsError(space=f"spaces/{name}") from None
        return await self.get(grant.id, now)

    async def delete(self, grant_id: str) -> None:
        """Remove a grant."""
        await self._database.execute("DELETE FROM memory.grants WHERE id = $1", UUID(grant_id))

    async def forget_expired(self, now: datetime) -> int:
        """Remove grants that have expired."""
        tag = await self._database.execute("DELETE FROM memory.grants WHERE expires_at <= $1", now)
        return int(tag.rpartition(" ")[2])

    async def _grants(self, found: Sequence[Record]) -> list[Grant]:
        grants = []
        for row in found:
            with suppress(GrantNotFoundError):  # it was ended while it was read
                grants.append(await self._grant(row))
        return grants

    async def _grant(self, row: Mapping[str, Any]) -> Grant:
        return Grant(
            id=str(row["grant_id"]),
            number=row["number"],
            slug=row["slug"],
            tenant=Tenant(row["grant_tenant"]),
            principal=row["principal"],
            role=Role(row["role"]),
            part=await self._part(row),
            expires_at=row["expires_at"],
            created_at=row["granted_at"],
            grantor=row["grantor"],
            grantor_tenant=Tenant(row["tenant"]),
            accepted_as=row["accepted_as"] or "",
        )

    async def _part(self, row: Mapping[str, Any]) -> Part:
        kinds = tuple(Kind(kind) for kind in row["kinds"])
        if row["sealed"] is None:
            return Part(kinds, tuple(row["tags"]))
        return Part(kinds, await self._opened_tags(rows.to_space(row), row["grant_id"]))

    @with_fresh_keys
    async def _opened_tags(self, space: Space, grant_id: UUID) -> tuple[str, ...]:
        """The tags of a grant as they are sealed at this moment. Raises GrantNotFoundError."""
        sealed = await self._database.fetchval("SELECT sealed FROM memory.grants WHERE id = $1", grant_id)
        cipher = await self._vault.cipher(space)
        if sealed is None or cipher is None:
            raise GrantNotFoundError(grant=str(grant_id))
        return tuple(json.loads(cipher.open(tags_subject(str(grant_id)), sealed).decode("utf-8", "surrogatepass")))
