"""Schemas on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_events.domain.schemas import Compatibility, Definition, Format, Schema
from mnemocore.errors import QuotaExceededError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from mnemocore.postgres import Database

CHANNEL: Final = "mnemo_events_schemas"
"""The channel on which a change of schemas is notified; the payload is the tenant."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_FULL: Final = "SELECT * FROM events.schemas"
_WITHOUT_CONTENT: Final = """
tenant, type, version, uid, format, ''::bytea AS definition, message_name, compatibility, closed, description,
created_at"""
_ADD: Final = """
INSERT INTO events.schemas (tenant, type, version, format, definition, message_name, compatibility, closed, description,
    created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_TELL: Final = f"SELECT pg_notify('{CHANNEL}', $1)"
_DELETE: Final = f"""
WITH gone AS (DELETE FROM events.schemas WHERE tenant = $1 AND type = $2 RETURNING tenant)
SELECT count(*), pg_notify('{CHANNEL}', $1) FROM gone
"""
_NEWEST: Final = f"""
SELECT DISTINCT ON (type) {_WITHOUT_CONTENT} FROM events.schemas WHERE tenant = $1 AND type > $2
ORDER BY type, version DESC LIMIT $3
"""
_VERSIONS: Final = f"""
SELECT {_WITHOUT_CONTENT} FROM events.schemas WHERE tenant = $1 AND type = $2 AND ($3::int IS NULL OR version < $3)
ORDER BY version DESC LIMIT $4
"""
_CURRENT: Final = """
SELECT wanted.type, newest.version, newest.uid FROM unnest($2::text[]) AS wanted(type), LATERAL (
    SELECT version, uid FROM events.schemas WHERE tenant = $1 AND schemas.type = wanted.type
    ORDER BY version DESC LIMIT 1) AS newest
"""
_UIDS: Final = """
SELECT type, version, uid FROM events.schemas
WHERE tenant = $1 AND (type, version) IN (SELECT * FROM unnest($2::text[], $3::int[]))
"""


class PostgresSchemas:
    """Implements `mnemo_events.domain.schemas.SchemaStore`. Other replicas hear of a change with its commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, schema: Schema, max_types: int) -> bool:
        """Insert a row, one transaction a tenant at a time."""
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK, f"mnemo events schemas {schema.tenant}")
            newest = await connection.fetchval(
                "SELECT max(version) FROM events.schemas WHERE tenant = $1 AND type = $2", schema.tenant, schema.type
            )
            if (newest or 0) + 1 != schema.version:
                return False
            if newest is None:
                types = await connection.fetchval(
                    "SELECT count(DISTINCT type) FROM events.schemas WHERE tenant = $1", schema.tenant
                )
                if types >= max_types:
                    text = f"the tenant has schemas of {types} types, as many as are allowed; delete some first"
                    raise QuotaExceededError(text, quota="schemas", limit=str(max_types))
            await connection.execute(
                _ADD,
                schema.tenant,
                schema.type,
                schema.version,
                int(schema.definition.format),
                schema.definition.content,
                schema.definition.message_name,
                int(schema.compatibility),
                schema.definition.closed,
                schema.description,
                schema.created_at,
            )
            await connection.execute(_TELL, schema.tenant)
        return True

    async def find(self, tenant: Tenant, type: str, version: int | None) -> Schema | None:
        """One row."""
        row = await self._database.fetchrow(
            f"{_FULL} WHERE tenant = $1 AND type = $2 AND ($3::int IS NULL OR version = $3) "
            "ORDER BY version DESC LIMIT 1",
            tenant,
            type,
            version,
        )
        return _schema(row) if row is not None else None

    async def list_newest(self, tenant: Tenant, after_type: str, limit: int) -> list[Schema]:
        """Rows by type."""
        return [_schema(row) for row in await self._database.fetch(_NEWEST, tenant, after_type, limit)]

    async def list_versions(self, tenant: Tenant, type: str, before: int | None, limit: int) -> list[Schema]:
        """Rows by falling version."""
        return [_schema(row) for row in await self._database.fetch(_VERSIONS, tenant, type, before, limit)]

    async def delete(self, tenant: Tenant, type: str) -> int:
        """Delete the rows of a type."""
        return int(await self._database.fetchval(_DELETE, tenant, type))

    async def current(self, tenant: Tenant, types: Sequence[str]) -> dict[str, tuple[int, int]]:
        """The newest rows of types, by their primary key."""
        rows = await self._database.fetch(_CURRENT, tenant, list(types))
        return {row["type"]: (row["version"], row["uid"]) for row in rows}

    async def uids(self, tenant: Tenant, versions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The rows of versions; none asked for, nothing asked."""
        if not versions:
            return {}
        types, numbers = [type for type, _ in versions], [number for _, number in versions]
        rows = await self._database.fetch(_UIDS, tenant, types, numbers)
        return {(row["type"], row["version"]): row["uid"] for row in rows}

    async def load(self, uids: Sequence[int]) -> list[Schema]:
        """Whole rows."""
        return [
            _schema(row) for row in await self._database.fetch(f"{_FULL} WHERE uid = ANY($1::bigint[])", list(uids))
        ]


def _schema(row: Record) -> Schema:
    return Schema(
        tenant=Tenant(row["tenant"]),
        type=row["type"],
        version=row["version"],
        definition=Definition(Format(row["format"]), row["definition"], row["message_name"], row["closed"]),
        compatibility=Compatibility(row["compatibility"]),
        description=row["description"],
        created_at=row["created_at"],
        uid=row["uid"],
    )
