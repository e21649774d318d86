"""What the event log holds, in numbers that can be compared: for backups and for those who test them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def take(connection: Connection[Record]) -> dict[str, Any]:
    """The newest position of the log, and how many events there are."""
    row = await connection.fetchrow(
        "SELECT position AS head, (SELECT count(*) FROM events.log) AS events FROM events.head"
    )
    assert row is not None, "the head is one row"
    return dict(row)
