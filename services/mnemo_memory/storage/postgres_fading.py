"""The fading of links on PostgreSQL.

A slice is one transaction under the lock of the space, like every other write of links: so no reinforcement falls
between reading a weight and writing it, and of two replicas the second goes on where the first has come to. How far an
active day has come stands in its own row; days that have come equally far go on together.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain import hebbian
from mnemo_memory.domain.associations import AssociationType
from mnemo_memory.domain.fading import Faded
from mnemo_memory.storage import rows, transactions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from typing import Any

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemocore.ids import SpaceUid
    from mnemocore.postgres import Database

_ORDER: Final = ("created_at", "source", "target")
"""The columns by which links are gone through."""
_FADES: Final = f"type = {AssociationType.CO_RECALLED.value}"
"""The condition as the index has it."""
_SPACES: Final = f"""
SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid IN (
    SELECT DISTINCT space_uid FROM memory.active_days
    WHERE NOT faded AND day < $1 AND space_uid > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY space_uid LIMIT $3
) ORDER BY uid
"""
_DAYS: Final = """
SELECT day, reached_at, reached_source, reached_target FROM memory.active_days
WHERE space_uid = $1 AND NOT faded AND day < $2 ORDER BY day
"""
_LINKS: Final = f"""
SELECT source, target, weight, created_at, updated_at FROM memory.associations
WHERE space_uid = $1 AND {_FADES} AND (created_at, source, target) > (coalesce($2::timestamptz, '-infinity'),
    coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'),
    coalesce($4::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY created_at, source, target LIMIT $5
"""
# One link each: joined with a list of them, PostgreSQL reads all links of a space whose size it does not know yet.
_LINK: Final = f"space_uid = $1 AND source = $2 AND target = $3 AND {_FADES}"
_WEAKEN: Final = f"UPDATE memory.associations SET weight = $4 WHERE {_LINK}"
_PRUNE: Final = f"DELETE FROM memory.associations WHERE {_LINK}"
_ADVANCE: Final = """
UPDATE memory.active_days SET faded = $3, reached_at = $4, reached_source = $5, reached_target = $6
WHERE space_uid = $1 AND day = ANY($2::date[])
"""


class PostgresFading:
    """Implements `mnemo_memory.domain.fading.FadingStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spaces_to_fade(self, before: date, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`, with active days before `before` that have not faded yet."""
        found = await self._database.fetch(_SPACES, before, None if after is None else UUID(after), limit)
        return [rows.to_space(row) for row in found]

    async def fade(self, space: Space, before: date, limit: int) -> Faded:
        """Let active days before `before` weaken the next `limit` links, and remember that they did."""
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            pending = await connection.fetch(_DAYS, UUID(space.uid), before)
            if not pending:
                return Faded(0, 0, more=False)
            place = _place(pending[0])
            days = [row["day"] for row in pending if _place(row) == place]
            links = await connection.fetch(_LINKS, UUID(space.uid), *place, limit)
            weakened, pruned = await _weaken(connection, space, links, days)
            whole = len(links) < limit
            reached = (None, None, None) if whole else tuple(links[-1][key] for key in _ORDER)
            await connection.execute(_ADVANCE, UUID(space.uid), days, whole, *reached)
            return Faded(weakened, pruned, more=not whole or len(days) < len(pending))


def _place(day: Mapping[str, Any]) -> tuple[Any, ...]:
    """The link an active day has come to: when it was made, its source and its target; or three times None."""
    return tuple(day[key] for key in ("reached_at", "reached_source", "reached_target"))


async def _weaken(
    connection: Connection[Record], space: Space, links: Sequence[Record], days: Sequence[date]
) -> tuple[int, int]:
    """Weaken links by the days since they were last reinforced or set; how many weakened, how many were dropped."""
    uid = UUID(space.uid)
    weakened, pruned = [], []
    for link in links:
        weight = hebbian.faded(link["weight"], link["updated_at"].astimezone(UTC).date(), days)
        if weight == link["weight"]:
            continue
        if hebbian.is_pruned(weight):
            pruned.append((uid, link["source"], link["target"]))
        else:
            weakened.append((uid, link["source"], link["target"], weight))
    if weakened:
        await connection.executemany(_WEAKEN, weakened)
    if pruned:
        await connection.executemany(_PRUNE, pruned)
    return len(weakened), len(pruned)
