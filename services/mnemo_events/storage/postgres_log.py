"""The event log on PostgreSQL.

Every append locks the one row of `events.head` until its commit. So appends happen one after the other, positions
follow the order of commit without gaps, times never go back, and a snapshot that shows a head shows every event up to
it. The events of a space that was erased, and those that were trimmed, leave empty positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_events.domain.event import SPACE_ERASED, Event, Page, StoredEvent
from mnemocore.ids import SpaceUid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Record

    from mnemo_events.domain.filter import Filter
    from mnemocore.ids import Tenant
    from mnemocore.postgres import Database

Key = tuple[str, str, str]

CHANNEL: Final = "mnemo_events"
"""The channel on which every append is notified; the payload is the new head."""
STRETCH: Final = 50_000
"""Positions one read looks at."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which a page ends."""

_APPEND: Final = f"SELECT events.append($1, '{CHANNEL}', {', '.join(f'${number}' for number in range(2, 17))})"
_REDACT: Final = """
UPDATE events.log SET data = '' WHERE data <> ''
AND (tenant, source, id) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
"""
_REMOVE: Final = """
DELETE FROM events.log WHERE position IN (
    SELECT position FROM events.log WHERE space_uid = $1 AND tenant = $2 AND id <> $3 ORDER BY position LIMIT $4)
"""
_TRIM: Final = """
WITH oldest AS MATERIALIZED (
    SELECT position, row_number() OVER in_order AS number,
        sum(octet_length(data)) OVER in_order - octet_length(data) AS bytes_before
    FROM events.log WHERE space_uid IS NULL AND position > (SELECT trimmed FROM events.head)
    WINDOW in_order AS (ORDER BY position) ORDER BY position LIMIT $4
), gone AS (
    DELETE FROM events.log USING oldest
    WHERE log.position = oldest.position AND (stored_at < $1
        OR number <= (SELECT of_no_space - $2 FROM events.head)
        OR bytes_before < (SELECT bytes_of_no_space - $3 FROM events.head))
    RETURNING log.position)
SELECT count(*) AS events, max(position) AS newest FROM gone
"""
_MOVE_TRIMMED: Final = """
UPDATE events.head SET of_no_space = of_no_space - $1, trimmed = greatest(trimmed, $2)
"""
# Bisects: up to `low` everything was stored before the time, and after `high` nothing was.
_POSITION_BEFORE: Final = """
WITH RECURSIVE bisection AS (
    SELECT 0::bigint AS low, position AS high FROM events.head
    UNION ALL
    SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle - 1 END
    FROM bisection
    CROSS JOIN LATERAL (SELECT low + (high - low + 1) / 2 AS middle) AS split
    CROSS JOIN LATERAL (SELECT coalesce((
        SELECT stored_at < $1 FROM events.log WHERE position <= middle ORDER BY position DESC LIMIT 1
    ), true) AS is_before) AS newest
    WHERE low < high
)
SELECT low FROM bisection WHERE low = high
"""
_EVENT: Final = """
position, tenant, source, id, type, subject, occurred_at, datacontenttype, dataschema, data,
coalesce(space_uid::text, '') AS space_uid, revision, traceparent, correlation_id, causation_id, stored_at
"""
_GET: Final = f"SELECT {_EVENT} FROM events.log WHERE position = ANY($1::bigint[]) ORDER BY position"
_READ: Final = f"""
SELECT head.position AS head, head.trimmed, page.* FROM events.head LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT {_EVENT}, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS bytes_before
        FROM events.log WHERE position > $1 AND position <= $1 + {STRETCH} {{conditions}}
        ORDER BY position LIMIT $2
    ) AS matches WHERE bytes_before < {MAX_BYTES}
) AS page ON true ORDER BY page.position
"""


class PostgresLog:
    """Implements `mnemo_events.domain.ports.EventLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, events: Sequence[Event], stored_at: datetime) -> list[int]:
        """Append a batch by a function of the database."""
        unique: dict[Key, Event] = {}
        for event in events:
            unique.setdefault(event.key, event)
        batch = list(unique.values())
        ends = _ends_before(batch)
        columns = [*_columns(batch), [end is not None for end in ends]]
        places = dict(zip(unique, await self._database.fetchval(_APPEND, stored_at, *columns), strict=True))
        for event, end in zip(batch, ends, strict=True):
            if places[event.key] is None and end is not None:
                places[event.key] = places[end]
        return [places[event.key] for event in events]

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Empty the payloads of events."""
        tag = await self._database.execute(_REDACT, *map(list, zip(*keys, strict=True)))
        return int(tag.rpartition(" ")[2])

    async def remove(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str, limit: int) -> int:
        """Delete rows in one statement."""
        tag = await self._database.execute(_REMOVE, UUID(space_uid), tenant, keep_id, limit)
        return int(tag.rpartition(" ")[2])

    async def trim(
        self, stored_before: datetime | None, keep: int | None, limit: int, *, keep_bytes: int | None = None
    ) -> int:
        """Delete rows, one trimmer at a time; appends wait only for the end of it."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('mnemo events trim', 0))")
            gone = await connection.fetchrow(_TRIM, stored_before, keep, keep_bytes, limit)
            if gone["events"]:
                await connection.execute(_MOVE_TRIMMED, gone["events"], gone["newest"])
        return int(gone["events"])

    async def trimmed(self) -> int:
        """The newest position that was trimmed."""
        return int(await self._database.fetchval("SELECT trimmed FROM events.head"))

    async def get(self, positions: Sequence[int]) -> list[StoredEvent]:
        """Rows by their positions."""
        return [stored_event(row) for row in await self._database.fetch(_GET, list(positions))]

    async def position_before(self, time: datetime) -> int:
        """Bisect the log."""
        return int(await self._database.fetchval(_POSITION_BEFORE, time))

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        """A page from one snapshot."""
        conditions, values = _conditions(where)
        rows = await self._database.fetch(_READ.format(conditions=conditions), after, limit, *values)
        head: int = rows[0]["head"]
        events = tuple(stored_event(row) for row in rows if row["position"] is not None)
        is_cut = len(events) == limit or sum(len(stored.event.data) for stored in events) >= MAX_BYTES
        resume = events[-1].position if is_cut else max(after, min(head, after + STRETCH))
        return Page(events, resume, head, rows[0]["trimmed"])

    async def head(self) -> int:
        """The newest position."""
        return int(await self._database.fetchval("SELECT position FROM events.head"))


def _ends_before(batch: Sequence[Event]) -> list[Key | None]:
    """For each event the key of the one before it in the batch that has ended its space, if there is one."""
    ends: dict[SpaceUid, Key] = {}
    found: list[Key | None] = []
    for event in batch:
        found.append(ends.get(event.space_uid))
        if event.type == SPACE_ERASED and event.space_uid:
            ends.setdefault(event.space_uid, event.key)
    return found


def _columns(events: list[Event]) -> list[list[Any]]:
    return [
        [event.tenant for event in events],
        [event.source for event in events],
        [event.id for event in events],
        [event.type for event in events],
        [event.subject for event in events],
        [event.time for event in events],
        [event.datacontenttype for event in events],
        [event.dataschema for event in events],
        [event.data for event in events],
        [UUID(event.space_uid) if event.space_uid else None for event in events],
        [event.revision for event in events],
        [event.traceparent for event in events],
        [event.correlation_id for event in events],
        [event.causation_id for event in events],
    ]


def _conditions(where: Filter) -> tuple[str, list[Any]]:
    """SQL conditions for values from $3 on, and the values."""
    wanted = (
        ("type ~ ${}", where.type_expression),
        ("space_uid = ${}", UUID(where.space_uid) if where.space_uid else None),
        ("tenant = ${}", where.tenant),
        ("subject ~ ${}", where.subject_expression),
    )
    conditions, values = "", []
    for condition, value in wanted:
        if value is not None:
            values.append(value)
            conditions += " AND " + condition.format(len(values) + 2)
    return conditions, values


def stored_event(row: Record) -> StoredEvent:
    """The event of a row of the log, or of another table with its columns."""
    event = Event(
        id=row["id"],
        source=row["source"],
        type=row["type"],
        subject=row["subject"],
        time=row["occurred_at"],
        datacontenttype=row["datacontenttype"],
        dataschema=row["dataschema"],
        data=row["data"],
        tenant=row["tenant"],
        space_uid=SpaceUid(str(row["space_uid"] or "")),
        revision=row["revision"],
        traceparent=row["traceparent"],
        correlation_id=row["correlation_id"],
        causation_id=row["causation_id"],
    )
    return StoredEvent(row["position"], event, row["stored_at"])
