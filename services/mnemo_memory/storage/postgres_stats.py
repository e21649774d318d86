"""Counting what is in a space, on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain.memory import Filter, Kind, State, Tier
from mnemo_memory.domain.stats import Day, Stats
from mnemo_memory.storage import rows
from mnemo_memory.storage.conditions import STATES, Conditions
from mnemo_memory.storage.fresh_keys import with_fresh_keys

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Vault
    from mnemocore.postgres import Database

_STATE: Final = " ".join(
    f"WHEN {condition} THEN {int(state)}" for state, condition in STATES.items() if state is not State.ERASED
)
_COUNT: Final = """
WITH seen AS (
    SELECT kind, CASE {states} END AS state, tier, bytes,
        CASE WHEN created_at >= $2 THEN date_trunc('day', created_at, 'UTC') END AS day
    FROM memory.memories WHERE space_uid = $1 AND {conditions})
SELECT kind, state, tier, day, count(*) AS memories, coalesce(sum(bytes), 0)::bigint AS bytes FROM seen
GROUP BY GROUPING SETS ((kind), (state), (tier), (day), ()) HAVING GROUPING(day) = 1 OR day IS NOT NULL ORDER BY day
"""
_MEDIA: Final = """
SELECT coalesce(sum(size), 0)::bigint FROM memory.media m WHERE m.space_uid = $1
AND m.memory_id IN (SELECT id FROM memory.memories WHERE space_uid = $1 AND {conditions})
"""
_ALL_ASSOCIATIONS: Final = "SELECT count(*) FROM memory.associations WHERE space_uid = $1"
_ASSOCIATIONS: Final = """
WITH seen AS (SELECT id FROM memory.memories WHERE space_uid = $1 AND {conditions})
SELECT count(*) FROM memory.associations WHERE space_uid = $1
AND source IN (SELECT id FROM seen) AND target IN (SELECT id FROM seen)
"""


class PostgresStats:
    """Implements `mnemo_memory.domain.stats.StatsStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    @with_fresh_keys
    async def count(self, space: Space, where: Filter, now: datetime, days: int) -> Stats:
        """Count in one snapshot; it takes as long as reading the rows of the space's memories does."""
        where = rows.blinded(where, await self._vault.cipher(space))
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            found = await _counted(connection, space, where, now, days)
            media = await _one(connection, _MEDIA, space, where)
            associations = await _one(
                connection, _ASSOCIATIONS if where != Filter() else _ALL_ASSOCIATIONS, space, where
            )
        total = next(row for row in found if all(row[key] is None for key in ("kind", "state", "tier", "day")))
        return Stats(
            kinds={Kind(row["kind"]): row["memories"] for row in found if row["kind"] is not None},
            states={State(row["state"]): row["memories"] for row in found if row["state"] is not None},
            tiers={Tier(row["tier"]): row["memories"] for row in found if row["tier"] is not None},
            content_bytes=total["bytes"],
            media_bytes=media,
            associations=associations,
            growth=tuple(Day(row["day"], row["memories"], row["bytes"]) for row in found if row["day"] is not None),
        )


async def _counted(
    connection: Connection[Record], space: Space, where: Filter, now: datetime, days: int
) -> list[Record]:
    first_day = datetime.combine(now.astimezone(UTC), time(), UTC) - timedelta(days=days - 1)
    conditions = Conditions(UUID(space.uid), first_day)
    states = _STATE.replace("{now}", f"{conditions.parameter(now)}::timestamptz")
    conditions.filter(where)
    found: list[Record] = await connection.fetch(
        _COUNT.format(states=states, conditions=conditions.sql), *conditions.values
    )
    return found


async def _one(connection: Connection[Record], query: str, space: Space, where: Filter) -> int:
    conditions = Conditions(UUID(space.uid))
    if "{conditions}" in query:
        conditions.filter(where)
    found: int = await connection.fetchval(query.format(conditions=conditions.sql), *conditions.values)
    return found
