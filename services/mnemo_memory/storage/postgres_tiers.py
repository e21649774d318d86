"""Where memories stand on PostgreSQL, and their moves between tiers.

A move is one UPDATE, guarded by the revision and the tier that were read: whoever writes at the same time wins, and
after a crash the memory is in one tier or the other. Rows that others have locked are left for the next round, so a
move neither waits for a writer nor deadlocks with one; the row of the space is not locked at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain.memory import Tier
from mnemo_memory.domain.tiers import Standing
from mnemo_memory.storage import rows
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.tiers import Move
    from mnemocore.ids import SpaceUid
    from mnemocore.postgres import Database

BATCH: Final = 100
"""Memories moved by one statement: how long a writer may have to wait."""
_COLUMNS: Final = (
    "id, revision, created_revision, tier, importance, accesses, accessed_at, created_at, updated_at, alpha, beta, "
    "state = 1 AND superseded_by IS NULL AS active, expires_at"
)
_MOVE: Final = """
WITH wanted AS (
    SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::smallint[], $5::smallint[], $6::text[], $7::bytea[])
    AS t(id, revision, origin, goal, content, packed)
), locked AS (
    SELECT m.id FROM memory.memories AS m JOIN wanted AS w ON m.id = w.id
    WHERE m.space_uid = $1 AND m.revision = w.revision AND m.tier = w.origin
    ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED
)
UPDATE memory.memories AS m SET tier = w.goal, content = coalesce(w.content, m.content),
    packed = CASE WHEN w.content IS NULL THEN m.packed ELSE w.packed END
FROM wanted AS w JOIN locked USING (id)
WHERE m.space_uid = $1 AND m.id = w.id AND m.revision = w.revision AND m.tier = w.origin
RETURNING m.id
"""


class PostgresTiers:
    """Implements `mnemo_memory.domain.tiers.TierStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upgraded_at(self) -> datetime | None:
        """When the newest migration was applied, unless it was applied together with the first."""
        found: datetime | None = await self._database.fetchval(
            "SELECT max(applied_at) FROM memory.migrations HAVING max(applied_at) > min(applied_at)"
        )
        return found

    async def spaces_after(self, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`."""
        found = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE $1::uuid IS NULL OR uid > $1 ORDER BY uid LIMIT $2",
            None if after is None else UUID(after),
            limit,
        )
        return [rows.to_space(row) for row in found]

    async def standings(self, space: Space, after: int, limit: int) -> list[Standing]:
        """Memories by rising `created_revision`, after `after`."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND created_revision > $2 "
            "ORDER BY created_revision LIMIT $3",
            UUID(space.uid),
            after,
            limit,
        )
        return [_standing(row) for row in found]

    async def hot(self, space: Space) -> list[Standing]:
        """All HOT memories."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND tier = 1", UUID(space.uid)
        )
        return [_standing(row) for row in found]

    async def move(self, space: Space, moves: Sequence[Move]) -> list[MemoryId]:
        """Make the moves, the content of COLD memories compressed where that makes it smaller."""
        ordered = sorted(moves, key=lambda move: move.id)
        moved: list[MemoryId] = []
        for start in range(0, len(ordered), BATCH):
            moved += await self._move(space, ordered[start : start + BATCH])
        return moved

    async def _move(self, space: Space, moves: Sequence[Move]) -> list[MemoryId]:
        contents = {} if space.encrypted else await self._contents(space, moves)
        changed = [contents.get(move.id, (None, None)) for move in moves]
        found = await self._database.fetch(
            _MOVE,
            UUID(space.uid),
            [UUID(move.id) for move in moves],
            [move.revision for move in moves],
            [move.origin for move in moves],
            [move.goal for move in moves],
            [content for content, _ in changed],
            [packed for _, packed in changed],
        )
        return [MemoryId(str(row["id"])) for row in found]

    async def _contents(self, space: Space, moves: Sequence[Move]) -> dict[MemoryId, tuple[str, bytes | None]]:
        """What the columns `content` and `packed` become, of the memories in which they change."""
        wanted = [move for move in moves if Tier.COLD in (move.origin, move.goal)]
        if not wanted:
            return {}
        found = await self._database.fetch(
            "SELECT id, revision, content, packed FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
            UUID(space.uid),
            [UUID(move.id) for move in wanted],
        )
        read = {(MemoryId(str(row["id"])), row["revision"]): row for row in found}
        return await asyncio.to_thread(_converted, wanted, read)


def _converted(
    moves: Sequence[Move], read: Mapping[tuple[MemoryId, int], Mapping[str, Any]]
) -> dict[MemoryId, tuple[str, bytes | None]]:
    """Contents as their new tier keeps them; one that was written meanwhile is left out, for its move will be, too."""
    converted: dict[MemoryId, tuple[str, bytes | None]] = {}
    for move in moves:
        row = read.get((move.id, move.revision))
        if row is None:
            continue
        if move.goal is not Tier.COLD and row["packed"] is not None:
            converted[move.id] = (rows.unpack(row["packed"]), None)
        elif move.goal is Tier.COLD and row["packed"] is None and (packed := rows.pack(row["content"])) is not None:
            converted[move.id] = ("", packed)
    return converted


def _standing(row: Mapping[str, Any]) -> Standing:
    return Standing(
        id=MemoryId(str(row["id"])),
        revision=row["revision"],
        created_revision=row["created_revision"],
        tier=Tier(row["tier"]),
        importance=row["importance"],
        accesses=row["accesses"],
        accessed_at=row["accessed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        alpha=row["alpha"],
        beta=row["beta"],
        active=row["active"],
        expires_at=row["expires_at"],
    )
