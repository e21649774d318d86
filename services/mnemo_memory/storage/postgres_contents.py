"""What spaces hold, in numbers, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain.index_check import Contents
from mnemo_memory.storage import rows

if TYPE_CHECKING:
    from mnemo_memory.domain.memory import Space
    from mnemocore.ids import SpaceUid
    from mnemocore.postgres import Database

_SPACES: Final = (
    f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE $1::uuid IS NULL OR uid > $1 ORDER BY uid LIMIT $2"
)
# One statement sees one state of the database: the revision is that of the memories.
_CONTENTS: Final = """
SELECT s.revision, held.memories, held.checksum FROM memory.spaces AS s, LATERAL (
    SELECT count(*) AS memories,
        coalesce(bit_xor(('x' || left(md5(m.id::text || '@' || m.revision), 16))::bit(64)::bigint), 0) AS checksum
    FROM memory.memories AS m WHERE m.space_uid = s.uid) AS held
WHERE s.uid = $1 AND s.published_revision = s.revision
"""


class PostgresContents:
    """Implements `mnemo_memory.domain.index_check.ContentsStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spaces_after(self, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`."""
        found = await self._database.fetch(_SPACES, None if after is None else UUID(after), limit)
        return [rows.to_space(row) for row in found]

    async def contents(self, space: Space) -> Contents | None:
        """What a space holds now; None while not everything is published, or if there is no such space.

        Reads every row of the space once: about a microsecond a memory.
        """
        row = await self._database.fetchrow(_CONTENTS, UUID(space.uid))
        return None if row is None else Contents(row["revision"], row["memories"], row["checksum"])
