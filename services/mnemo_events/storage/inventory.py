"""What the event log holds, in numbers that can be compared: for backups and for those who test them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from asyncpg import Connection, Record

COUNTED: Final = (
    "groups",
    "held",
    "dead_letters",
    "policies",
    "refusals",
    "schemas",
    "webhooks",
    "webhook_deliveries",
    "agents",
    "agents_gone",
    "tasks",
    "outbox",
)
"""The tables whose rows are counted under their own name; a schema of an older version lacks some of them."""

_LOG: Final = "SELECT position AS head, (SELECT count(*) FROM events.log) AS events FROM events.head"
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'events'"


async def take(connection: Connection[Record]) -> dict[str, Any]:
    """The newest position of the log (`head`), how many `events` there are, and the rows of each table of COUNTED.

    It works on a schema of any version: what is not there yet counts 0.
    """
    row = await connection.fetchrow(_LOG)
    assert row is not None, "the head is one row"
    there = {record["tablename"] for record in await connection.fetch(_TABLES)}
    counts = {name: await _count(connection, name) if name in there else 0 for name in COUNTED}
    return {**row, **counts}


async def _count(connection: Connection[Record], table: str) -> int:
    found = await connection.fetchval(f"SELECT count(*) FROM events.{table}")
    assert isinstance(found, int), "a count is a number"
    return found
