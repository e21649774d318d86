"""Dead letters on PostgreSQL, whatever engine the log is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_events.domain.dead_letters import MAX_BYTES, DeadLetter
from mnemo_events.domain.group import Reason
from mnemo_events.storage.postgres_log import stored_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Record

    from mnemo_events.domain.dead_letters import Death
    from mnemo_events.domain.event import Event
    from mnemo_events.domain.group import Group
    from mnemocore.ids import SpaceUid, Tenant
    from mnemocore.postgres import Database

_AGAIN: Final = f"(d.replaying OR excluded.reason <> {int(Reason.LEASE_EXPIRED)})"
_BURY: Final = f"""
INSERT INTO events.dead_letters AS d (
    group_uid, group_id, tenant, position, source, id, type, subject, occurred_at, datacontenttype, dataschema, data,
    space_uid, revision, traceparent, correlation_id, causation_id, stored_at, reason, message, attempts, first_died_at,
    died_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $22)
ON CONFLICT (group_uid, position) DO UPDATE SET
    reason = CASE WHEN {_AGAIN} THEN excluded.reason ELSE d.reason END,
    message = CASE WHEN {_AGAIN} THEN excluded.message ELSE d.message END,
    died_at = CASE WHEN {_AGAIN} THEN excluded.died_at ELSE d.died_at END,
    attempts = greatest(d.attempts, d.attempts_before + excluded.attempts),
    replaying = false
"""
_BURY_AGAIN: Final = f"""
UPDATE events.dead_letters d SET
    reason = CASE WHEN {_AGAIN} THEN excluded.reason ELSE d.reason END,
    message = CASE WHEN {_AGAIN} THEN excluded.message ELSE d.message END,
    died_at = CASE WHEN {_AGAIN} THEN excluded.died_at ELSE d.died_at END,
    attempts = greatest(d.attempts, d.attempts_before + excluded.attempts),
    replaying = false
FROM (SELECT $3::smallint AS reason, $4::text AS message, $5::int AS attempts, $6::timestamptz AS died_at) AS excluded
WHERE d.group_uid = $1 AND d.position = $2
"""
_LIST: Final = f"""
SELECT * FROM (
    SELECT *, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS bytes_before
    FROM events.dead_letters WHERE group_uid = $1 AND position > $2 AND ($3::smallint IS NULL OR reason = $3)
    ORDER BY position LIMIT $4
) AS letters WHERE bytes_before < {MAX_BYTES} ORDER BY position
"""
_ASKED: Final = "(cardinality($2::bigint[]) = 0 OR position = ANY($2))"
_MARK: Final = f"""
WITH chosen AS (
    SELECT position, replaying FROM events.dead_letters WHERE group_uid = $1 AND {_ASKED}
    ORDER BY replaying, position LIMIT $3 FOR UPDATE
), marked AS (
    UPDATE events.dead_letters d SET replaying = true, replays = d.replays + 1, attempts_before = d.attempts
    FROM chosen WHERE d.group_uid = $1 AND d.position = chosen.position AND NOT chosen.replaying
)
SELECT position, replaying FROM chosen ORDER BY position
"""
_UNMARK: Final = f"""
UPDATE events.dead_letters SET replaying = false, replays = replays - 1
WHERE group_uid = $1 AND {_ASKED} AND replaying
"""
_PURGE: Final = f"""
DELETE FROM events.dead_letters WHERE group_uid = $1 AND NOT replaying AND position IN (
    SELECT position FROM events.dead_letters WHERE group_uid = $1 AND {_ASKED} AND NOT replaying
        AND ($3::timestamptz IS NULL OR died_at < $3)
    ORDER BY position LIMIT $4 FOR UPDATE)
"""
_REMOVE_GROUP: Final = """
DELETE FROM events.dead_letters WHERE group_uid = $1 AND position IN (
    SELECT position FROM events.dead_letters WHERE group_uid = $1 ORDER BY position LIMIT $2)
"""
_UIDS: Final = "SELECT DISTINCT group_uid FROM events.dead_letters WHERE tenant = $1 AND group_id = $2"
_REDACT: Final = """
UPDATE events.dead_letters SET data = '', message = '' WHERE (data <> '' OR message <> '')
AND (tenant, source, id) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
"""
_REMOVE_SPACE: Final = """
DELETE FROM events.dead_letters WHERE (group_uid, position) IN (
    SELECT group_uid, position FROM events.dead_letters WHERE space_uid = $1 AND tenant = $2 AND id <> $3
    ORDER BY group_uid, position LIMIT $4)
"""


class PostgresDeadLetters:
    """Implements `mnemo_events.domain.dead_letters.DeadLetterStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bury(self, group: Group, deaths: Sequence[Death]) -> None:
        """All deaths in one transaction, in the order of their positions."""
        async with self._database.transaction() as connection:
            for death in sorted(deaths, key=lambda death: death.position):
                words = (death.reason, death.message, death.attempt, death.at)
                if death.event is None:
                    await connection.execute(_BURY_AGAIN, group.uid, death.position, *words)
                else:
                    columns = _columns(death.event.event)
                    place = (group.uid, group.id, group.tenant, death.position)
                    await connection.execute(_BURY, *place, *columns, death.event.stored_at, *words)

    async def find(self, group: Group, positions: Sequence[int]) -> list[DeadLetter]:
        """Rows by their keys."""
        rows = await self._database.fetch(
            "SELECT * FROM events.dead_letters WHERE group_uid = $1 AND position = ANY($2::bigint[]) ORDER BY position",
            group.uid,
            list(positions),
        )
        return [_dead_letter(row) for row in rows]

    async def list_after(self, group: Group, after: int, reason: Reason | None, limit: int) -> list[DeadLetter]:
        """Rows in the order of their positions."""
        return [_dead_letter(row) for row in await self._database.fetch(_LIST, group.uid, after, reason, limit)]

    async def mark(self, group: Group, positions: Sequence[int], limit: int) -> tuple[list[int], list[int]]:
        """Mark rows in one statement."""
        rows = await self._database.fetch(_MARK, group.uid, list(positions), limit)
        before: list[int] = [row["position"] for row in rows if row["replaying"]]
        return [row["position"] for row in rows if not row["replaying"]], before

    async def unmark(self, group: Group, positions: Sequence[int]) -> None:
        """Take marks back in one statement."""
        await self._database.execute(_UNMARK, group.uid, list(positions))

    async def unmarked(self, group: Group, positions: Sequence[int]) -> bool:
        """Look for one row without a mark."""
        query = f"SELECT EXISTS (SELECT 1 FROM events.dead_letters WHERE group_uid = $1 AND NOT replaying AND {_ASKED})"
        return bool(await self._database.fetchval(query, group.uid, list(positions)))

    async def remove(self, group: Group, positions: Sequence[int]) -> None:
        """Delete rows by their keys."""
        await self._database.execute(
            "DELETE FROM events.dead_letters WHERE group_uid = $1 AND position = ANY($2::bigint[])",
            group.uid,
            list(positions),
        )

    async def purge(self, group: Group, before: datetime | None, positions: Sequence[int], limit: int) -> int:
        """Delete rows in one statement."""
        return _number(await self._database.execute(_PURGE, group.uid, list(positions), before, limit))

    async def counts(self, groups: Sequence[Group]) -> dict[str, int]:
        """Count rows by group."""
        rows = await self._database.fetch(
            "SELECT group_uid, count(*) AS number FROM events.dead_letters WHERE group_uid = ANY($1::text[]) "
            "GROUP BY group_uid",
            [group.uid for group in groups],
        )
        return {row["group_uid"]: row["number"] for row in rows}

    async def remove_group(self, uid: str, limit: int) -> int:
        """Delete rows in one statement."""
        return _number(await self._database.execute(_REMOVE_GROUP, uid, limit))

    async def uids(self, tenant: Tenant, group_id: str) -> list[str]:
        """The groups of a name that rows belong to."""
        return [row["group_uid"] for row in await self._database.fetch(_UIDS, tenant, group_id)]

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> None:
        """Empty payloads in one statement."""
        await self._database.execute(_REDACT, *map(list, zip(*keys, strict=True)))

    async def remove_space(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str, limit: int) -> int:
        """Delete rows in one statement."""
        return _number(await self._database.execute(_REMOVE_SPACE, UUID(space_uid), tenant, keep_id, limit))


def _number(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


def _columns(event: Event) -> tuple[Any, ...]:
    return (
        event.source,
        event.id,
        event.type,
        event.subject,
        event.time,
        event.datacontenttype,
        event.dataschema,
        event.data,
        UUID(event.space_uid) if event.space_uid else None,
        event.revision,
        event.traceparent,
        event.correlation_id,
        event.causation_id,
    )


def _dead_letter(row: Record) -> DeadLetter:
    return DeadLetter(
        event=stored_event(row),
        reason=Reason(row["reason"]),
        message=row["message"],
        attempts=row["attempts"],
        replays=row["replays"],
        first_died_at=row["first_died_at"],
        died_at=row["died_at"],
        replaying=row["replaying"],
    )
