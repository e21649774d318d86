"""Reading and writing whole spaces on PostgreSQL. How a batch is written stands in `import_batch`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_memory.domain.memory import Tier
from mnemo_memory.storage import rows, transactions
from mnemo_memory.storage.conditions import Conditions
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemo_memory.storage.import_batch import ImportBatch
from mnemo_memory.storage.postgres_associations import association_of
from mnemo_memory.storage.postgres_sessions import SESSION_COLUMNS, session_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mnemo_memory.domain.associations import Association, Link
    from mnemo_memory.domain.memory import Memory, Revision, Space
    from mnemo_memory.domain.ports import Author, Vault
    from mnemo_memory.domain.sessions import Session
    from mnemo_memory.domain.transfer import OnConflict, Record, Settled, View
    from mnemocore.ids import MemoryId
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 1024 * 1024
"""A page ends before the row that makes it larger, as the rows are counted; it has one row at least."""

_USES: Final = "id, accesses, accessed_at, tier"


class PostgresTransfer:
    """Implements `mnemo_memory.domain.transfer.TransferStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    @with_fresh_keys
    async def count(self, space: Space, view: View, *, history: bool) -> int:
        """How many memories, or revisions with content, the export has."""
        if history:
            found = await self._database.fetchval(
                "SELECT count(*) FROM memory.revisions WHERE space_uid = $1 AND revision <= $2 "
                "AND (snapshot IS NOT NULL OR sealed IS NOT NULL)",
                UUID(space.uid),
                view.revision,
            )
            return int(found)
        conditions = Conditions(UUID(space.uid), view.revision)
        shown = self._shown(view, await self._vault.cipher(space), conditions)
        counted = await self._database.fetchval(
            f"SELECT count(*) FROM memory.memories WHERE space_uid = $1 AND created_revision <= $2 AND {shown}",
            *conditions.values,
        )
        return int(counted)

    @with_fresh_keys
    async def memories(self, space: Space, view: View, after: int) -> tuple[list[Memory], int | None]:
        """Memories made after revision `after`, by creation, as the view shows them."""
        cipher = await self._vault.cipher(space)
        conditions = Conditions(UUID(space.uid), view.revision, after, PAGE_ROWS, PAGE_BYTES)
        shown = self._shown(view, cipher, conditions)
        found = await self._database.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM (SELECT *, sum(bytes) OVER (ORDER BY created_revision) AS read FROM ("
            f"SELECT * FROM memory.memories WHERE space_uid = $1 AND created_revision <= $2 AND created_revision > $3 "
            f"AND {shown} ORDER BY created_revision LIMIT $4) AS page) AS sized "
            "WHERE read <= $5 OR read = bytes ORDER BY created_revision",
            *conditions.values,
        )
        memories = [rows.to_memory(row, view.at, cipher) for row in found]
        changed = [memory.id for memory in memories if memory.revision > view.revision]
        before = await self._as_of(space, changed, view, cipher)
        as_of = [before.get(memory.id) if memory.revision > view.revision else memory for memory in memories]
        kept = [
            replace(then, accesses=now.accesses, accessed_at=now.accessed_at, tier=now.tier)
            for then, now in zip(as_of, memories, strict=True)
            if then is not None
        ]
        matching = [memory for memory in kept if memory.id not in before or _matches(memory, view)]
        return matching, memories[-1].created_revision if memories else None

    async def _as_of(
        self, space: Space, ids: Sequence[MemoryId], view: View, cipher: SpaceCipher | None
    ) -> dict[MemoryId, Memory]:
        """The memories as they were after the revision of the view."""
        if not ids:
            return {}
        found = await self._database.fetch(
            f"SELECT DISTINCT ON (memory_id) {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 "
            "AND memory_id = ANY($2::uuid[]) AND revision <= $3 ORDER BY memory_id, revision DESC",
            UUID(space.uid),
            [UUID(each) for each in ids],
            view.revision,
        )
        memories = [memory for row in found if (memory := rows.to_revision(row, cipher).memory) is not None]
        return {memory.id: replace(memory, state=memory.state_at(view.at)) for memory in memories}

    @with_fresh_keys
    async def revisions(self, space: Space, view: View, after: int) -> tuple[list[Revision], int | None]:
        """Revisions with content after `after`, in order; their memories with the uses they have now."""
        cipher = await self._vault.cipher(space)
        found = await self._database.fetch(
            f"SELECT {rows.REVISION_COLUMNS} FROM (SELECT *, sum(size) OVER (ORDER BY revision) AS read FROM ("
            "SELECT *, octet_length(coalesce(snapshot::text, '')) + coalesce(octet_length(sealed), 0) AS size "
            "FROM memory.revisions WHERE space_uid = $1 AND revision <= $2 AND revision > $3 "
            "AND (snapshot IS NOT NULL OR sealed IS NOT NULL) ORDER BY revision LIMIT $4) AS page) AS sized "
            "WHERE read <= $5 OR read = size ORDER BY revision",
            UUID(space.uid),
            view.revision,
            after,
            PAGE_ROWS,
            PAGE_BYTES,
        )
        revisions = [rows.to_revision(row, cipher) for row in found]
        uses = await self._uses(space, {revision.memory_id for revision in revisions})
        with_uses = [
            replace(each, memory=replace(each.memory, **uses[each.memory_id]))
            for each in revisions
            if each.memory is not None and each.memory_id in uses
        ]
        return with_uses, revisions[-1].revision if revisions else None

    async def _uses(self, space: Space, ids: set[MemoryId]) -> dict[str, dict[str, Any]]:
        found = await self._database.fetch(
            f"SELECT {_USES} FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
            UUID(space.uid),
            [UUID(each) for each in ids],
        )
        return {
            str(row["id"]): {
                "accesses": row["accesses"],
                "accessed_at": row["accessed_at"],
                "tier": Tier(row["tier"]),
            }
            for row in found
        }

    @with_fresh_keys
    async def associations(self, space: Space, view: View, after: Link | None) -> list[Association]:
        """Links between memories of the view, by source, target and type."""
        conditions = Conditions(UUID(space.uid), view.revision, PAGE_ROWS, view.at)
        shown = self._shown(view, await self._vault.cipher(space), conditions)
        ends = " AND ".join(
            f"EXISTS (SELECT FROM memory.memories WHERE space_uid = $1 AND id = a.{end} AND created_revision <= $2 "
            f"AND {shown})"
            for end in ("source", "target")
        )
        beyond = "true"
        if after is not None:
            values = [conditions.parameter(value) for value in (UUID(after.source), UUID(after.target), after.type)]
            beyond = f"(source, target, type) > ({values[0]}::uuid, {values[1]}::uuid, {values[2]}::smallint)"
        found = await self._database.fetch(
            f"SELECT * FROM memory.associations a WHERE space_uid = $1 AND created_at <= $4 AND {beyond} AND {ends} "
            "ORDER BY source, target, type LIMIT $3",
            *conditions.values,
        )
        return [association_of(row) for row in found]

    @with_fresh_keys
    async def sessions(self, space: Space, after: int) -> list[tuple[int, Session]]:
        """Sessions with their numbers, by number."""
        cipher = await self._vault.cipher(space)
        found = await self._database.fetch(
            f"SELECT {SESSION_COLUMNS} FROM (SELECT * FROM memory.sessions WHERE space_uid = $1 AND number > $2 "
            "ORDER BY number LIMIT 10) AS s ORDER BY number",
            UUID(space.uid),
            after,
        )
        return [(row["number"], session_of(row, cipher)) for row in found]

    @with_fresh_keys
    async def write(self, space: Space, records: Sequence[Record], on_conflict: OnConflict, author: Author) -> Settled:
        """Write records in one transaction."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = replace(await transactions.lock(connection, space), slug=space.slug)
            batch = ImportBatch(connection, locked, cipher, author, on_conflict)
            return await batch.write(records)

    def _shown(self, view: View, cipher: SpaceCipher | None, conditions: Conditions) -> str:
        """The condition that the view may show a row; one changed since is compared as it was, when it is read."""
        part = Conditions(*conditions.values)
        part.filter(rows.blinded(view.part, cipher))
        where = Conditions(*part.values)
        where.filter(rows.blinded(view.where, cipher))
        if view.states:
            where.states(view.states, view.at)
        conditions.values = where.values
        return f"({part.sql}) AND (revision > $2 OR ({where.sql}))"


def _matches(memory: Memory, view: View) -> bool:
    in_state = not view.states or memory.state in view.states
    return in_state and view.where.matches(memory) and view.part.matches(memory)
