"""The outbox on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_events.domain.outbox import notice_as_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Connection

    from mnemo_events.domain.event import Event
    from mnemo_events.domain.outbox import Notice
    from mnemocore.postgres import Database

_ADD: Final = """
INSERT INTO events.outbox (tenant, id, type, subject, occurred_at, data)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[])
"""
_PENDING: Final = """
SELECT number, tenant, id, type, subject, occurred_at, data FROM events.outbox WHERE number > $1
ORDER BY number LIMIT $2
"""


async def tell(connection: Connection, notices: Sequence[Notice]) -> None:
    """Write notices in the transaction of what they tell of.

    Notices of one subject keep the order of their transactions if each of those locks what the subject names before.
    """
    if not notices:
        return
    await connection.execute(
        _ADD,
        [notice.tenant for notice in notices],
        [notice.id for notice in notices],
        [notice.type for notice in notices],
        [notice.subject for notice in notices],
        [notice.time for notice in notices],
        [notice.data for notice in notices],
    )


class PostgresOutbox:
    """Implements `mnemo_events.domain.outbox.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Read events by number."""
        rows = await self._database.fetch(_PENDING, after, limit)
        return [(number, notice_as_event(*columns)) for number, *columns in rows]

    async def remove(self, numbers: Sequence[int]) -> None:
        """Delete rows."""
        if numbers:
            await self._database.execute("DELETE FROM events.outbox WHERE number = ANY($1)", list(numbers))
