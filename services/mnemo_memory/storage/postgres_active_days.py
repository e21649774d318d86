"""The days on which spaces were used, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date

    from mnemo_memory.domain.memory import Space
    from mnemocore.ids import SpaceUid
    from mnemocore.postgres import Database

# In order, so that two at a time do not deadlock; the lock lets a space that is being erased be gone when it is.
_RECORD: Final = """
INSERT INTO memory.active_days (space_uid, day)
SELECT s.uid, t.day FROM unnest($1::uuid[], $2::date[]) AS t(space_uid, day)
JOIN memory.spaces AS s ON s.uid = t.space_uid ORDER BY s.uid, t.day FOR KEY SHARE OF s
ON CONFLICT DO NOTHING
"""
_COUNT_BETWEEN: Final = """
SELECT (SELECT count(*) FROM memory.active_days WHERE space_uid = $1 AND day > t.day AND day < $3)
FROM unnest($2::date[]) WITH ORDINALITY AS t(day, place) ORDER BY place
"""


class PostgresActiveDays:
    """Implements `mnemo_memory.domain.active_days.ActiveDayStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, days: Collection[tuple[SpaceUid, date]]) -> None:
        """Keep active days; those that are kept already, and of spaces that are gone, are passed over."""
        ordered = sorted(days)
        await self._database.execute(_RECORD, [UUID(uid) for uid, _ in ordered], [day for _, day in ordered])

    async def count_between(self, space: Space, after: Sequence[date], before: date) -> list[int]:
        """For each day of `after` how many active days lie after it and before `before`, neither included."""
        found = await self._database.fetch(_COUNT_BETWEEN, UUID(space.uid), list(after), before)
        return [row[0] for row in found]
