"""Taking a space back to the state it had after one of its revisions.

Nothing is taken out of the history: the way back is made of new revisions, as any other change is. So what the event
log, the index and every reader of consistency tokens know stays true, and they follow by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain.memory import Change, Tier
from mnemo_memory.domain.ports import Author
from mnemo_memory.storage import rows, transactions
from mnemocore.errors import InvalidFieldError, SpaceNotFoundError, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Memory, Space
    from mnemo_memory.domain.ports import Vault
    from mnemocore.ids import MemoryId, Tenant
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

BATCH: Final = 500
LIMIT_SECONDS: Final = 24 * 3600.0
PRINCIPAL: Final = "mnemo backup"


@dataclass(frozen=True, slots=True)
class Rewound:
    """What it took. `revision` is the newest one of the space now.

    `changed` memories are as they were, `erased` ones were written later and are gone, `lost` ones were erased since:
    their content is in no revision, so they stay erased.
    """

    revision: int
    changed: int
    erased: int
    lost: int


async def find_space(database: Database, tenant: Tenant, slug: str) -> Space:
    """The space. Raises SpaceNotFoundError."""
    row = await database.fetchrow(
        f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE tenant = $1 AND slug = $2", tenant, slug
    )
    if row is None:
        raise SpaceNotFoundError(space=f"spaces/{slug}")
    return rows.to_space(row)


async def rewind(database: Database, vault: Vault, space: Space, revision: int, now: datetime) -> Rewound:
    """Take the memories of `space` back to what they were after `revision`, in one transaction.

    Memories, protected ones too, get their content, state and properties of then; how often they were used since stays
    counted. Associations of memories that stay, sessions, working memory, grants and the settings of the space have no
    revisions and stay as they are. Raises InvalidFieldError if the space has no such revision, SpaceNotFoundError,
    KeyUnavailableError.
    """
    cipher = await vault.cipher(space)
    author = Author(PRINCIPAL, now, f"taken back to revision {revision}")
    async with database.transaction(seconds=LIMIT_SECONDS) as connection:
        locked = await transactions.lock(connection, space)
        if not 0 <= revision <= locked.revision:
            text = f"{revision}; {space.name} has the revisions 0 to {locked.revision}"
            raise InvalidFieldError.of([Violation("revision", text)])
        lost = await _count_lost(connection, locked, revision)
        way = _WayBack(connection, locked, revision, author, cipher)
        await way.go()
        await _count_anew(connection, locked, way.newest)
        return Rewound(way.newest, way.changed, way.erased, lost)


class _WayBack:
    """The new revisions of a locked space, batch by batch in the order of ids."""

    def __init__(
        self,
        connection: Connection[Record],
        space: Space,
        revision: int,
        author: Author,
        cipher: SpaceCipher | None,
    ) -> None:
        self.newest = space.revision
        self.changed = self.erased = 0
        self._connection = connection
        self._space = space
        self._revision = revision
        self._author = author
        self._cipher = cipher

    async def go(self) -> None:
        """Bring back or erase every memory that was written after the revision."""
        after = UUID(int=0)
        while found := await self._written_since(after):
            now = [rows.to_memory(row, self._author.at, self._cipher) for row in found]
            then = await self._as_they_were(now)
            await self._bring_back([(memory, then[memory.id]) for memory in now if memory.id in then])
            await self._erase([memory for memory in now if memory.id not in then])
            after = UUID(now[-1].id)

    async def _written_since(self, after: UUID) -> list[Record]:
        """The next memories; those that were taken back already have newer revisions than the space had."""
        found: list[Record] = await self._connection.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id > $2 "
            "AND revision > $3 AND revision <= $4 ORDER BY id LIMIT $5",
            UUID(self._space.uid),
            after,
            self._revision,
            self._space.revision,
            BATCH,
        )
        return found

    async def _as_they_were(self, memories: Sequence[Memory]) -> dict[MemoryId, Memory]:
        """Those of the memories that existed at the revision, as they were then."""
        found = await self._connection.fetch(
            f"SELECT DISTINCT ON (memory_id) {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 "
            "AND memory_id = ANY($2::uuid[]) AND revision <= $3 ORDER BY memory_id, revision DESC",
            UUID(self._space.uid),
            [UUID(memory.id) for memory in memories],
            self._revision,
        )
        then = (rows.to_revision(row, self._cipher).memory for row in found)
        return {memory.id: memory for memory in then if memory is not None}

    async def _bring_back(self, pairs: Sequence[tuple[Memory, Memory]]) -> None:
        brought = []
        for now, then in pairs:
            self.newest += 1
            memory = replace(
                then,
                revision=self.newest,
                accesses=now.accesses,
                accessed_at=now.accessed_at,
                tier=Tier.WARM if now.tier is Tier.COLD else now.tier,
            )
            await transactions.update(self._connection, self._space, now, memory, self._cipher)
            brought.append(memory)
        if brought:
            await transactions.append(
                self._connection, self._space, brought, Change.UPDATED, self._author, self._cipher
            )
        self.changed += len(brought)

    async def _erase(self, memories: Sequence[Memory]) -> None:
        """Remove memories, and their content from every revision."""
        if not memories:
            return
        ids = [UUID(memory.id) for memory in memories]
        numbers = range(self.newest + 1, self.newest + 1 + len(ids))
        space_uid = UUID(self._space.uid)
        media: int = await self._connection.fetchval(
            "SELECT coalesce(sum(size), 0)::bigint FROM memory.media "
            "WHERE space_uid = $1 AND memory_id = ANY($2::uuid[])",
            space_uid,
            ids,
        )
        await self._connection.execute(
            "DELETE FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])", space_uid, ids
        )
        await self._connection.execute(
            "UPDATE memory.revisions SET snapshot = NULL, sealed = NULL "
            "WHERE space_uid = $1 AND memory_id = ANY($2::uuid[])",
            space_uid,
            ids,
        )
        await self._connection.execute(
            "INSERT INTO memory.revisions (space_uid, revision, memory_id, change, committed_at, principal, reason) "
            "SELECT $1, revision, id, $2, $3, $4, $5 FROM unnest($6::bigint[], $7::uuid[]) AS t(revision, id)",
            space_uid,
            Change.ERASED,
            self._author.at,
            self._author.principal,
            self._author.reason,
            list(numbers),
            ids,
        )
        await transactions.count(self._connection, self._space, numbers[-1], media=-media)
        self.newest = numbers[-1]
        self.erased += len(ids)


async def _count_lost(connection: Connection[Record], space: Space, revision: int) -> int:
    """Memories that existed at the revision and were erased since."""
    lost: int = await connection.fetchval(
        "SELECT count(*) FROM (SELECT DISTINCT ON (memory_id) memory_id, change FROM memory.revisions "
        "WHERE space_uid = $1 AND revision <= $2 ORDER BY memory_id, revision DESC) AS past "
        "WHERE change <> $3 AND EXISTS (SELECT FROM memory.revisions r WHERE r.space_uid = $1 "
        "AND r.memory_id = past.memory_id AND r.revision > $2 AND r.change = $3)",
        UUID(space.uid),
        revision,
        Change.ERASED,
    )
    return lost


async def _count_anew(connection: Connection[Record], space: Space, revision: int) -> None:
    """Set the newest revision and the counts of memories and their bytes."""
    await connection.execute(
        "UPDATE memory.spaces SET revision = $2, active = found.active, archived = found.archived, bytes = found.bytes "
        "FROM (SELECT count(*) FILTER (WHERE state = $3) AS active, count(*) FILTER (WHERE state <> $3) AS archived, "
        "coalesce(sum(bytes), 0)::bigint AS bytes FROM memory.memories WHERE space_uid = $1) AS found WHERE uid = $1",
        UUID(space.uid),
        revision,
        rows.IN_RECALL,
    )
