"""The store of API keys on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_gateway.domain.api_key import ApiKey
from mnemocore.ids import ApiKeyId, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mnemocore.postgres import Database

_COLUMNS: Final = "id, tenant, principal, scopes, secret_hash, created_at, expires_at"


class PostgresKeys:
    """Implements `mnemo_gateway.domain.ports.KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        await self._database.execute(
            f"INSERT INTO gateway.api_keys ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            UUID(key.id),
            key.tenant,
            key.principal,
            sorted(key.scopes),
            key.secret_hash,
            key.created_at,
            key.expires_at,
        )

    async def find(self, key_id: ApiKeyId) -> ApiKey | None:
        """A key of any tenant that was not revoked, None if there is none."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM gateway.api_keys WHERE id = $1 AND revoked_at IS NULL", UUID(key_id)
        )
        return None if row is None else _to_key(row)

    async def list(self, tenant: Tenant | None, after: ApiKeyId | None, limit: int) -> list[ApiKey]:
        """Keys by creation, after `after`; of one tenant, or of all if `tenant` is None."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM gateway.api_keys WHERE ($1::text IS NULL OR tenant = $1) "
            "AND ($2::uuid IS NULL OR id > $2) AND revoked_at IS NULL ORDER BY id LIMIT $3",
            tenant,
            UUID(after) if after else None,
            limit,
        )
        return [_to_key(row) for row in found]

    async def revoke(self, tenant: Tenant | None, key_id: ApiKeyId, now: datetime) -> bool:
        """End a key; False if there is none. Revoking a revoked key succeeds."""
        status = await self._database.execute(
            "UPDATE gateway.api_keys SET revoked_at = coalesce(revoked_at, $3) "
            "WHERE id = $2 AND ($1::text IS NULL OR tenant = $1)",
            tenant,
            UUID(key_id),
            now,
        )
        return not status.endswith(" 0")


def _to_key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        id=ApiKeyId(str(row["id"])),
        tenant=Tenant(row["tenant"]),
        principal=row["principal"],
        scopes=frozenset(row["scopes"]),
        secret_hash=bytes(row["secret_hash"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
