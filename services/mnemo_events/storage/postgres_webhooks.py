"""Webhooks and what was sent to them lately, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg

from mnemo_events.domain.filter import Filter
from mnemo_events.domain.webhook import Delivery, SealedSecret, State, Webhook
from mnemo_events.storage.postgres_outbox import tell
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from asyncpg import Record

    from mnemo_events.domain.outbox import Notice
    from mnemocore.postgres import Database

CHANNEL: Final = "mnemo_events_webhooks"
"""The channel on which every change of a webhook is notified."""
KEPT: Final = 1000
"""Deliveries of a webhook that are kept."""

_COLUMNS: Final = """
uid::text AS uid, tenant, id, url, types, subjects, space_uid::text AS space_uid, description, master_key_id, secret,
former_master_key_id, former_secret, former_until, owner, owner_is_admin, state, pause_reason, failures, version,
state_changes, created_at, updated_at
"""
_INSERT: Final = f"""
INSERT INTO events.webhooks (
    uid, tenant, id, url, types, subjects, space_uid, description, master_key_id, secret, owner, owner_is_admin, state,
    pause_reason, failures, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '', 0, 1, $14, $14)
RETURNING {_COLUMNS}
"""
_REPLACE: Final = f"""
UPDATE events.webhooks SET url = $3, types = $4, subjects = $5, space_uid = $6, description = $7, master_key_id = $8,
    secret = $9, former_master_key_id = $10, former_secret = $11, former_until = $12, owner = $13, owner_is_admin = $14,
    updated_at = $15, version = version + 1
WHERE uid = $1 AND version = $2
RETURNING {_COLUMNS}
"""
_CHANGE_STATE: Final = """
UPDATE events.webhooks SET state = $2, pause_reason = $3, failures = 0, updated_at = $4,
    state_changes = state_changes + 1
WHERE uid = $1 AND"""
_SET_STATE: Final = f"{_CHANGE_STATE} state = ANY($5::smallint[]) RETURNING {_COLUMNS}"
_STOP_SENDING: Final = f"""
{_CHANGE_STATE} state = {State.ACTIVE:d} AND version = $5 AND state_changes = $6 RETURNING {_COLUMNS}
"""
_RESEAL: Final = """
UPDATE events.webhooks SET master_key_id = $3, secret = $4, former_master_key_id = $5, former_secret = $6
WHERE uid = $1 AND version = $2
"""
_NOTE: Final = """
INSERT INTO events.webhook_deliveries (
    webhook_uid, position, event_id, type, attempt, at, seconds, status, delivered, error)
SELECT uid, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM events.webhooks WHERE uid = $1
"""
_COUNT: Final = """
UPDATE events.webhooks SET failures = CASE WHEN $2 THEN 0 ELSE failures + 1 END
WHERE uid = $1 AND NOT ($2 AND failures = 0) RETURNING failures
"""
_DELIVERIES: Final = f"""
SELECT * FROM (
    SELECT * FROM events.webhook_deliveries WHERE webhook_uid = $1 ORDER BY number DESC LIMIT {KEPT}
) AS newest
WHERE ($2 = 0 OR number < $2) AND at >= $3 AND NOT ($4 AND delivered) ORDER BY number DESC LIMIT $5
"""
_PRUNES_ALONE: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('mnemo webhook deliveries', 0))"
_PRUNE_OLD: Final = "DELETE FROM events.webhook_deliveries WHERE at < $1"
_PRUNE_MANY: Final = f"""
DELETE FROM events.webhook_deliveries USING events.webhooks CROSS JOIN LATERAL (
    SELECT number FROM events.webhook_deliveries WHERE webhook_uid = uid ORDER BY number DESC OFFSET {KEPT} LIMIT 1
) AS last
WHERE webhook_deliveries.webhook_uid = uid AND webhook_deliveries.number <= last.number
"""
_TELL: Final = f"SELECT pg_notify('{CHANNEL}', '')"


class PostgresWebhooks:
    """Implements `mnemo_events.domain.webhook.WebhookStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, webhook: Webhook, limit: int) -> Webhook | None:
        """Insert a row, one creation of a tenant at a time, so that none goes beyond the limit."""
        async with self._database.transaction() as connection:
            lock = f"mnemo webhooks {webhook.tenant}"
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", lock)
            known = await connection.fetchrow(_select("tenant = $1 AND id = $2"), webhook.tenant, webhook.id)
            if known is not None:
                return _webhook(known)
            count = await connection.fetchval("SELECT count(*) FROM events.webhooks WHERE tenant = $1", webhook.tenant)
            if count >= limit:
                return None
            row = await connection.fetchrow(
                _INSERT,
                UUID(webhook.uid),
                webhook.tenant,
                webhook.id,
                *_said(webhook),
                webhook.secret.master_key_id,
                webhook.secret.sealed,
                webhook.owner,
                webhook.owner_is_admin,
                webhook.state,
                webhook.created_at,
            )
            await connection.execute(_TELL)
            return _webhook(row)

    async def find(self, tenant: Tenant, webhook_id: str) -> Webhook | None:
        """One row."""
        return await self._one(_select("tenant = $1 AND id = $2"), tenant, webhook_id)

    async def list_webhooks(self, tenant: Tenant, after_id: str, limit: int) -> list[Webhook]:
        """Rows by id."""
        query = _select(f"tenant = $1 AND id > $2 AND state <> {State.DELETED:d}") + " ORDER BY id LIMIT $3"
        return [_webhook(row) for row in await self._database.fetch(query, tenant, after_id, limit)]

    async def in_state(self, state: State) -> list[Webhook]:
        """All rows in a state."""
        return [_webhook(row) for row in await self._database.fetch(_select("state = $1"), state)]

    async def current(self, uid: str) -> Webhook | None:
        """One row by its uid."""
        return await self._one(_select("uid = $1"), UUID(uid))

    async def replace(self, webhook: Webhook, version: int) -> Webhook | None:
        """Update a row if nobody else did since."""
        former = webhook.former
        return await self._change(
            _REPLACE,
            UUID(webhook.uid),
            version,
            *_said(webhook),
            webhook.secret.master_key_id,
            webhook.secret.sealed,
            former and former.master_key_id,
            former and former.sealed,
            webhook.former_until,
            webhook.owner,
            webhook.owner_is_admin,
            webhook.updated_at,
        )

    async def set_state(
        self,
        uid: str,
        state: State,
        reason: str,
        at: datetime,
        only_from: Sequence[State],
    ) -> Webhook | None:
        """Update a row in some states."""
        return await self._change(_SET_STATE, UUID(uid), state, reason, at, list(only_from))

    async def stop_sending(
        self, seen: Webhook, state: State, reason: str, at: datetime, notice: Notice | None = None
    ) -> bool:
        """Update a row that nobody else did since it was seen."""
        values = (UUID(seen.uid), state, reason, at, seen.version, seen.state_changes)
        return await self._change(_STOP_SENDING, *values, notices=[notice] if notice else []) is not None

    async def sealed_otherwise(self, master_key_id: str, limit: int) -> list[Webhook]:
        """Rows by master key."""
        query = _select("master_key_id <> $1 OR former_master_key_id <> $1") + " ORDER BY uid LIMIT $2"
        return [_webhook(row) for row in await self._database.fetch(query, master_key_id, limit)]

    async def reseal(self, webhook: Webhook, secret: SealedSecret, former: SealedSecret | None) -> None:
        """Update the sealed bytes of a row."""
        await self._database.execute(
            _RESEAL,
            UUID(webhook.uid),
            webhook.version,
            secret.master_key_id,
            secret.sealed,
            former and former.master_key_id,
            former and former.sealed,
        )

    async def delete(self, uid: str) -> bool:
        """Delete a row; its deliveries go with it."""
        async with self._database.transaction() as connection:
            tag: str = await connection.execute("DELETE FROM events.webhooks WHERE uid = $1", UUID(uid))
            await connection.execute(_TELL)
        return tag != "DELETE 0"

    async def record(self, uid: str, delivery: Delivery, *, counts: bool) -> int:
        """Insert a row, and count."""
        values = (
            delivery.position,
            delivery.event_id,
            delivery.type,
            delivery.attempt,
            delivery.at,
            delivery.seconds,
            delivery.status,
            delivery.delivered,
            delivery.error,
        )
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_NOTE, UUID(uid), *values)
                failures = await connection.fetchval(_COUNT, UUID(uid), delivery.delivered) if counts else 0
        except asyncpg.ForeignKeyViolationError:  # the webhook was deleted at this moment
            return 0
        return failures or 0

    async def deliveries(
        self, uid: str, before: int, since: datetime, limit: int, *, failed_only: bool
    ) -> list[Delivery]:
        """Rows, newest first."""
        rows = await self._database.fetch(_DELIVERIES, UUID(uid), before, since, failed_only, limit)
        return [_delivery(row) for row in rows]

    async def prune(self, before: datetime) -> int:
        """Delete rows that nobody is shown any more, unless somebody else does at this moment."""
        async with self._database.transaction() as connection:
            if not await connection.fetchval(_PRUNES_ALONE):
                return 0
            tags = [await connection.execute(_PRUNE_OLD, before), await connection.execute(_PRUNE_MANY)]
        return sum(int(tag.rpartition(" ")[2]) for tag in tags)

    async def listen(self, changed: Callable[[], None]) -> None:
        """Listen on the channel."""
        await Listener(self._database, CHANNEL, lambda _: changed()).run()

    async def _one(self, query: str, *values: Any) -> Webhook | None:
        row = await self._database.fetchrow(query, *values)
        return None if row is None else _webhook(row)

    async def _change(self, query: str, *values: Any, notices: Sequence[Notice] = ()) -> Webhook | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(query, *values)
            if row is None:
                return None
            await tell(connection, notices)
            await connection.execute(_TELL)
            return _webhook(row)


def _select(condition: str) -> str:
    return f"SELECT {_COLUMNS} FROM events.webhooks WHERE {condition}"


def _said(webhook: Webhook) -> tuple[Any, ...]:
    """What callers say of it, but its secret."""
    where = webhook.where
    space = UUID(where.space_uid) if where.space_uid else None
    return webhook.url, list(where.types), list(where.subjects), space, webhook.description


def _webhook(row: Record) -> Webhook:
    former = row["former_secret"] and SealedSecret(row["former_master_key_id"], row["former_secret"])
    space = SpaceUid(row["space_uid"]) if row["space_uid"] else None
    tenant = Tenant(row["tenant"])
    return Webhook(
        uid=row["uid"],
        tenant=tenant,
        id=row["id"],
        url=row["url"],
        where=Filter(tuple(row["types"]), space, tenant, tuple(row["subjects"])),
        description=row["description"],
        secret=SealedSecret(row["master_key_id"], row["secret"]),
        former=former,
        former_until=row["former_until"],
        owner=row["owner"],
        owner_is_admin=row["owner_is_admin"],
        state=State(row["state"]),
        pause_reason=row["pause_reason"],
        failures=row["failures"],
        version=row["version"],
        state_changes=row["state_changes"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _delivery(row: Record) -> Delivery:
    return Delivery(
        position=row["position"],
        event_id=row["event_id"],
        type=row["type"],
        attempt=row["attempt"],
        at=row["at"],
        seconds=row["seconds"],
        status=row["status"],
        delivered=row["delivered"],
        error=row["error"],
        number=row["number"],
    )
