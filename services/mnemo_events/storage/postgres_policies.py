"""Policies and refusals on PostgreSQL."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.access import Action, Policy
from mnemo_events.domain.refusals import Refusal, RefusalKey
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Record

    from mnemocore.postgres import Database

CHANNEL: Final = "mnemo_events_policies"
"""The channel on which a change of policies is notified; the payload is the tenant."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_CREATE: Final = f"""
WITH made AS (
    INSERT INTO events.policies (tenant, id, principal, actions, types, subjects, created_at)
    SELECT $1, $2, $3, $4, $5, $6, $7 WHERE (SELECT count(*) FROM events.policies WHERE tenant = $1) < $8
    ON CONFLICT DO NOTHING RETURNING tenant)
SELECT pg_notify('{CHANNEL}', tenant) FROM made
"""
_DELETE: Final = f"""
WITH gone AS (DELETE FROM events.policies WHERE tenant = $1 AND id = $2 RETURNING tenant)
SELECT pg_notify('{CHANNEL}', tenant) FROM gone
"""
_LIST: Final = """
SELECT * FROM events.policies WHERE tenant = $1 AND ($2 = '' OR principal = $2) AND id > $3 ORDER BY id LIMIT $4
"""
_ADD: Final = """
INSERT INTO events.refusals AS kept (tenant, principal, action, target, target_digest, method, hour, count, first_at,
    last_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[],
    $8::bigint[], $9::timestamptz[], $10::timestamptz[]) AS new
ON CONFLICT (tenant, hour, principal, action, method, target_digest) DO UPDATE SET count = kept.count + excluded.count,
    first_at = least(kept.first_at, excluded.first_at), last_at = greatest(kept.last_at, excluded.last_at)
"""
_KEEP: Final = """
DELETE FROM events.refusals USING (
    SELECT tenant, hour, number FROM events.refusals WHERE tenant = $1
    ORDER BY hour DESC, number DESC OFFSET $2 LIMIT 1) AS end_of_list
WHERE refusals.tenant = end_of_list.tenant
    AND (refusals.hour, refusals.number) <= (end_of_list.hour, end_of_list.number)
"""
_REFUSALS: Final = """
SELECT * FROM events.refusals WHERE tenant = $1 AND ($2 = '' OR principal = $2) AND hour >= $3
    AND ($4::timestamptz IS NULL OR (hour, number) < ($4, $5)) ORDER BY hour DESC, number DESC LIMIT $6
"""


class PostgresPolicies:
    """Implements `mnemo_events.domain.access.PolicyStore`. Other replicas hear of a change with its commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, policy: Policy, limit: int) -> Policy | None:
        """Insert a row, unless there is one of that name, or too many others; one transaction a tenant at a time."""
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK, f"mnemo events policies {policy.tenant}")
            await connection.execute(
                _CREATE,
                policy.tenant,
                policy.id,
                policy.principal,
                [int(action) for action in policy.actions],
                list(policy.types),
                list(policy.subjects),
                policy.created_at,
                limit,
            )
            row = await connection.fetchrow(
                "SELECT * FROM events.policies WHERE tenant = $1 AND id = $2", policy.tenant, policy.id
            )
        return _policy(row) if row is not None else None

    async def delete(self, tenant: Tenant, policy_id: str) -> bool:
        """Delete a row."""
        return await self._database.fetchrow(_DELETE, tenant, policy_id) is not None

    async def list_policies(self, tenant: Tenant, principal: str, after_id: str, limit: int) -> list[Policy]:
        """Rows in the order of their ids."""
        return [_policy(row) for row in await self._database.fetch(_LIST, tenant, principal, after_id, limit)]


class PostgresRefusals:
    """Implements `mnemo_events.domain.refusals.RefusalStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, refusals: Sequence[Refusal], keep: int) -> None:
        """Upsert in one transaction, in one order for everybody, so that replicas do not lock each other out."""
        ordered = sorted(refusals, key=_order)
        keys = [refusal.key for refusal in ordered]
        async with self._database.transaction() as connection:
            await connection.execute(
                _ADD,
                [key.tenant for key in keys],
                [key.principal for key in keys],
                [int(key.action) for key in keys],
                [key.target for key in keys],
                [_digest(key) for key in keys],
                [key.method for key in keys],
                [key.hour for key in keys],
                [refusal.count for refusal in ordered],
                [refusal.first_at for refusal in ordered],
                [refusal.last_at for refusal in ordered],
            )
        for tenant in sorted({key.tenant for key in keys}):
            await self._database.execute(_KEEP, tenant, keep)

    async def list_refusals(
        self, tenant: Tenant, principal: str, since: datetime, before: tuple[datetime, int] | None, limit: int
    ) -> list[Refusal]:
        """Rows in falling order."""
        hour, number = before or (None, None)
        rows = await self._database.fetch(_REFUSALS, tenant, principal, since, hour, number, limit)
        return [_refusal(row) for row in rows]

    async def prune(self, before: datetime) -> None:
        """Delete old rows."""
        await self._database.execute("DELETE FROM events.refusals WHERE hour < $1", before)


def _order(refusal: Refusal) -> tuple[object, ...]:
    key = refusal.key
    return key.tenant, key.hour, key.principal, key.action, key.method, _digest(key)


def _digest(key: RefusalKey) -> bytes:
    return hashlib.sha256(key.target.encode()).digest()


def _policy(row: Record) -> Policy:
    return Policy(
        tenant=Tenant(row["tenant"]),
        id=row["id"],
        principal=row["principal"],
        actions=tuple(Action(number) for number in row["actions"]),
        types=tuple(row["types"]),
        subjects=tuple(row["subjects"]),
        created_at=row["created_at"],
    )


def _refusal(row: Record) -> Refusal:
    key = RefusalKey(
        tenant=Tenant(row["tenant"]),
        principal=row["principal"],
        action=Action(row["action"]),
        target=row["target"],
        method=row["method"],
        hour=row["hour"],
    )
    return Refusal(key, row["count"], row["first_at"], row["last_at"], row["number"])
