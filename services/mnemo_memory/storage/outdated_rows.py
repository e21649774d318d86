"""Brings rows of release 0.1 up to date: the hash that finds duplicates, the words, and the bytes that quotas count.

A replica of release 0.1 goes on writing such rows while the others are new already, so this never ends; without such
rows it is one look at an empty index every ten seconds. Release 0.1 knows no encrypted spaces: they have no such rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.storage import rows, transactions
from mnemocore.errors import SpaceNotFoundError

if TYPE_CHECKING:
    from mnemo_memory.domain.memory import Space
    from mnemocore.clock import Clock
    from mnemocore.postgres import Database

BATCH: Final = 500
"""Rows of one transaction: how long a writer of the space may have to wait."""
PAUSE_SECONDS: Final = 0.05
"""Rest after every batch."""
ROUND_SECONDS: Final = 10.0
"""Rest when everything is up to date."""

_SPACE: Final = f"""
SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE NOT encrypted
AND uid = (SELECT m.space_uid FROM memory.memories m JOIN memory.spaces s ON s.uid = m.space_uid
           WHERE m.content_hash IS NULL AND NOT s.encrypted LIMIT 1)
"""
_READ: Final = f"""
SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND content_hash IS NULL
ORDER BY id LIMIT $2 FOR NO KEY UPDATE
"""
_WRITE: Final = """
UPDATE memory.memories AS m SET content_hash = t.content_hash, bytes = t.bytes,
    words = to_tsvector('english', t.content)
FROM unnest($2::uuid[], $3::bytea[], $4::integer[], $5::text[]) AS t(id, content_hash, bytes, content)
WHERE m.space_uid = $1 AND m.id = t.id
"""
_COUNT: Final = """
UPDATE memory.spaces SET bytes = (SELECT coalesce(sum(bytes), 0) FROM memory.memories WHERE space_uid = $1)
WHERE uid = $1
"""


class OutdatedRows:
    """Looks for outdated rows and brings them up to date, a batch at a time. `run` is a task."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Go on until cancelled. Ends with the error of the database; nothing is lost by starting again."""
        while True:
            await self._clock.sleep(PAUSE_SECONDS if await self.update() else ROUND_SECONDS)

    async def update(self) -> int:
        """Bring up to BATCH rows of one space up to date; returns their number, 0 if there are none."""
        row = await self._database.fetchrow(_SPACE)
        if row is None:
            return 0
        try:
            return await self._update(rows.to_space(row))
        except SpaceNotFoundError:  # erased meanwhile, and its rows with it
            return 0

    async def _update(self, space: Space) -> int:
        uid = UUID(space.uid)
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            now = self._clock.now()
            memories = [rows.to_memory(row, now, None) for row in await connection.fetch(_READ, uid, BATCH)]
            await connection.execute(
                _WRITE,
                uid,
                [UUID(memory.id) for memory in memories],
                [rows.content_hash(memory, None) for memory in memories],
                [rows.size_of(memory) for memory in memories],
                [memory.content for memory in memories],
            )
            if len(memories) < BATCH:
                await connection.execute(_COUNT, uid)
            return len(memories)
