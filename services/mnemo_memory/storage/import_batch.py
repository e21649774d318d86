"""Writing one batch of an import into a locked space: media, memories and histories first, then links and sessions."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from mnemo_memory.domain.associations import LINKS_A_MEMORY, Association
from mnemo_memory.domain.media import PART_BYTES
from mnemo_memory.domain.media_types import HEAD_BYTES, check
from mnemo_memory.domain.memory import Change, Draft, Memory, Revision, State, Tier
from mnemo_memory.domain.sessions import Session
from mnemo_memory.domain.transfer import MediaPart, OnConflict, Outcome, Settled, latest, merged, same
from mnemo_memory.storage import drafts, rows, transactions
from mnemo_memory.storage.postgres_media import hash_subject, part_subject
from mnemo_memory.storage.postgres_sessions import SESSION_COLUMNS, described_columns, session_name, session_of
from mnemocore.errors import (
    InvalidFieldError,
    MediaNotFoundError,
    MemoryExistsError,
    MemoryNotFoundError,
    MnemoError,
    SessionExistsError,
    UnsupportedMediaError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Connection
    from asyncpg import Record as Row

    from mnemo_memory.domain.memory import Media, Space
    from mnemo_memory.domain.ports import Author
    from mnemo_memory.domain.transfer import Record
    from mnemocore.ids import MemoryId
    from mnemocore.sealing import SpaceCipher

Result: TypeAlias = "Outcome | MnemoError"

_INSERT_REVISIONS: Final = """
INSERT INTO memory.revisions (
    space_uid, revision, memory_id, change, action, snapshot, sealed, committed_at, principal, reason)
SELECT $1, revision, memory_id, change, action, snapshot::json, sealed, committed_at, principal, reason
FROM unnest($2::bigint[], $3::uuid[], $4::smallint[], $5::smallint[], $6::text[], $7::bytea[], $8::timestamptz[],
    $9::text[], $10::text[])
    AS t(revision, memory_id, change, action, snapshot, sealed, committed_at, principal, reason)
"""
_PUT_LINK: Final = """
INSERT INTO memory.associations (
    space_uid, source, target, type, weight, activations, created_at, updated_at, principal)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (space_uid, source, target, type) DO UPDATE SET weight = $5, activations = $6, created_at = $7,
    updated_at = $8, principal = $9
"""
_LEAVE_STRONGEST: Final = """
DELETE FROM memory.associations AS a USING (
    SELECT source, target, type, row_number() OVER (
        PARTITION BY source ORDER BY weight DESC, updated_at DESC, target, type) AS place
    FROM memory.associations WHERE space_uid = $1 AND source = ANY($2::uuid[])
) AS ranked
WHERE a.space_uid = $1 AND a.source = ranked.source AND a.target = ranked.target AND a.type = ranked.type
    AND ranked.place > $3
"""
_PUT_SESSION: Final = """
INSERT INTO memory.sessions (space_uid, session, agent, metadata, sealed, started_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (space_uid, session) DO UPDATE SET agent = $3, metadata = $4, sealed = $5, started_at = $6, ended_at = $7
"""
_PACK: Final = """
UPDATE memory.memories AS m SET content = '', packed = t.packed
FROM unnest($2::uuid[], $3::bytea[]) AS t(id, packed) WHERE m.space_uid = $1 AND m.id = t.id
"""


class ImportBatch:
    """One batch; call `write` once, in a transaction. `space` is locked and has the name the caller knows."""

    def __init__(
        self,
        connection: Connection[Row],
        space: Space,
        cipher: SpaceCipher | None,
        author: Author,
        on_conflict: OnConflict,
    ) -> None:
        self._connection = connection
        self._space = space
        self._uid = UUID(space.uid)
        self._cipher = cipher
        self._author = author
        self._mode = on_conflict
        self._room = drafts.Room(space)
        self._revision = space.revision
        self._media_growth = 0
        self._before: dict[MemoryId, Memory] = {}
        self._in_recall: set[MemoryId] = set()
        self._now: dict[MemoryId, Memory] = {}
        self._newest: dict[MemoryId, datetime] = {}
        self._known: dict[tuple[MemoryId, Change, datetime], list[Memory]] = defaultdict(list)
        self._changes: list[Revision] = []
        self._claims: dict[str, MemoryId] = {}

    async def write(self, records: Sequence[Record]) -> Settled:
        """Write the records. Raises QuotaExceededError."""
        await self._load(records)
        results: dict[int, Result] = {}
        for number, record in enumerate(records):
            try:
                if isinstance(record, MediaPart):
                    results[number] = await self._part(record)
                elif isinstance(record, Memory):
                    results[number] = await self._memory(record)
                elif isinstance(record, Revision):
                    results[number] = await self._history(record)
            except (InvalidFieldError, MediaNotFoundError, MemoryExistsError, UnsupportedMediaError) as error:
                results[number] = error
        await self._flush()
        links = {number: record for number, record in enumerate(records) if isinstance(record, Association)}
        results.update(await self._links(links))
        for number, record in enumerate(records):
            if isinstance(record, Session):
                results[number] = await self._session(record)
        changed = {change.memory_id for change in self._changes} & self._before.keys()
        return Settled(tuple(results[number] for number in range(len(records))), bool(self._changes), tuple(changed))

    # Memories

    async def _load(self, records: Sequence[Record]) -> None:
        """Read what is there of the memories that the records are of."""
        histories = [record for record in records if isinstance(record, Revision)]
        ids = {record.id for record in records if isinstance(record, Memory)}
        ids.update(record.memory_id for record in histories)
        if not ids:
            return
        found = await self._connection.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
            self._uid,
            [UUID(each) for each in ids],
        )
        for row in found:
            memory = rows.to_memory(row, self._author.at, self._cipher)
            self._before[memory.id] = self._now[memory.id] = memory
            if row["state"] == rows.IN_RECALL:
                self._in_recall.add(memory.id)
        if histories and self._before:
            await self._load_histories([each for each in histories if each.memory_id in self._before])

    async def _load_histories(self, histories: Sequence[Revision]) -> None:
        ids = list({UUID(each.memory_id) for each in histories})
        newest = await self._connection.fetch(
            "SELECT DISTINCT ON (memory_id) memory_id, committed_at FROM memory.revisions WHERE space_uid = $1 "
            "AND memory_id = ANY($2::uuid[]) ORDER BY memory_id, revision DESC",
            self._uid,
            ids,
        )
        self._newest.update((str(row["memory_id"]), row["committed_at"]) for row in newest)  # type: ignore[misc]
        known = await self._connection.fetch(
            f"SELECT {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 "
            "AND memory_id = ANY($2::uuid[]) AND committed_at = ANY($3::timestamptz[])",
            self._uid,
            ids,
            list({each.committed_at for each in histories}),
        )
        for row in known:
            revision = rows.to_revision(row, self._cipher)
            if revision.memory is not None:
                self._known[_key(revision)].append(_essence(revision.memory))

    async def _memory(self, new: Memory) -> Result:
        there = self._now.get(new.id)
        if there is None:
            await self._add(new, Change.CREATED, self._author)
            return Outcome.WRITTEN
        if self._mode is OnConflict.SKIP:
            return Outcome.SKIPPED
        if self._mode is OnConflict.ERROR:
            raise MemoryExistsError(memory=f"{self._space.name}/memories/{new.id}")
        after, outcome = new, Outcome.OVERWRITTEN
        if self._mode is OnConflict.MERGE:
            after, outcome = merged(there, new), Outcome.MERGED
        if not same(there, after):
            await self._change(there, after, Change.UPDATED, self._author)
        return outcome

    async def _history(self, record: Revision) -> Result:
        new, there = record.memory, self._now.get(record.memory_id)
        if new is None:
            raise InvalidFieldError.of([Violation("revision.memory", "is required")])
        known = self._known.get(_key(record), [])
        if _essence(new) in known:
            known.remove(_essence(new))
            return Outcome.SKIPPED
        author = replace(self._author, principal=record.principal, at=record.committed_at, reason=record.reason)
        if there is None:
            await self._add(new, record.change, author)
            return Outcome.WRITTEN
        outcome = Outcome.WRITTEN
        if there.created_at != new.created_at or self._newest[new.id] > record.committed_at:
            if self._mode is OnConflict.ERROR:
                raise MemoryExistsError(memory=f"{self._space.name}/memories/{new.id}")
            if self._mode is not OnConflict.OVERWRITE:
                return Outcome.SKIPPED
            outcome = Outcome.OVERWRITTEN
        if there.state is State.ARCHIVED and new.state is State.ARCHIVED:
            new = replace(new, archived_at=there.archived_at)
        uses = max(there.accesses, new.accesses)
        new = replace(new, accesses=uses, accessed_at=latest(there.accessed_at, new.accessed_at))
        await self._change(there, new, record.change, author)
        return outcome

    async def _add(self, new: Memory, change: Change, author: Author) -> None:
        """Take a memory that is not there. Raises QuotaExceededError, MediaNotFoundError."""
        await self._claim(new, None)
        refusal = self._room.take(Draft(new.content, metadata=new.metadata))
        if refusal is not None:
            raise refusal
        self._put(replace(new, created_revision=self._revision + 1), change, author)

    async def _change(self, there: Memory, after: Memory, change: Change, author: Author) -> None:
        """Put a memory in the place of the one that is there. Raises QuotaExceededError, MediaNotFoundError."""
        await self._claim(after, there)
        self._room.grow(there, after)
        self._put(replace(after, created_revision=there.created_revision), change, author)

    def _put(self, memory: Memory, change: Change, author: Author) -> None:
        self._revision += 1
        numbered = replace(memory, revision=self._revision)
        self._now[memory.id] = numbered
        self._newest[memory.id] = author.at
        self._changes.append(
            Revision(self._revision, memory.id, change, numbered, author.at, author.principal, author.reason)
        )

    async def _claim(self, memory: Memory, there: Memory | None) -> None:
        """Raise MediaNotFoundError unless the medium of a memory is its own already, or whole and nobody's."""
        media = memory.media
        if media is None or (there is not None and there.media == media):
            return
        row = await self._connection.fetchrow(
            "SELECT mime_type, size, sha256, memory_id FROM memory.media WHERE space_uid = $1 AND id = $2 AND complete",
            self._uid,
            UUID(media.id),
        )
        owner = self._claims.get(media.id, memory.id)
        if row is None or owner != memory.id or str(row["memory_id"] or owner) != owner or not self._is(media, row):
            name = f"{self._space.name}/media/{media.id}"
            raise MediaNotFoundError(f"the bytes of {name!r} are not here; export them too (media)", media=name)
        self._claims[media.id] = memory.id

    def _is(self, media: Media, row: Row) -> bool:
        stored: bytes = row["sha256"]
        plain = stored if self._cipher is None else self._cipher.open(hash_subject(media.id), stored)
        return (row["mime_type"], row["size"], plain.hex()) == (media.mime_type, media.size, media.sha256)

    async def _flush(self) -> None:
        """Write the memories as they are after all records, their revisions, and the counts of the space."""
        changed = list(dict.fromkeys(change.memory_id for change in self._changes))
        fresh = [self._now[each] for each in changed if each not in self._before]
        if fresh:
            alone = [False] * len(fresh)
            await transactions.insert(self._connection, self._space, fresh, alone, self._cipher)
            await self._pack(fresh)
        for before, after in [(self._before[each], self._now[each]) for each in changed if each in self._before]:
            await transactions.update(self._connection, self._space, before, after, self._cipher)
            await self._connection.execute(
                "UPDATE memory.memories SET created_at = $3 WHERE space_uid = $1 AND id = $2",
                self._uid,
                UUID(after.id),
                after.created_at,
            )
        if changed:
            await self._append()
        await self._give_media()
        await self._count(changed)

    async def _pack(self, fresh: Sequence[Memory]) -> None:
        """Compress the contents of COLD memories."""
        cold = [each for each in fresh if each.tier is Tier.COLD] if self._cipher is None else []
        packed = {each.id: data for each in cold if (data := rows.pack(each.content)) is not None}
        if packed:
            ids = [UUID(each) for each in packed]
            await self._connection.execute(_PACK, self._uid, ids, list(packed.values()))

    async def _append(self) -> None:
        snapshots = [
            rows.snapshot_columns(change.memory, self._cipher) for change in self._changes if change.memory is not None
        ]
        numbers = [rows.change_columns(change.change) for change in self._changes]
        await self._connection.execute(
            _INSERT_REVISIONS,
            self._uid,
            [change.revision for change in self._changes],
            [UUID(change.memory_id) for change in self._changes],
            [number for number, _ in numbers],
            [action for _, action in numbers],
            [snapshot for snapshot, _ in snapshots],
            [sealed for _, sealed in snapshots],
            [change.committed_at for change in self._changes],
            [change.principal for change in self._changes],
            [change.reason for change in self._changes],
        )

    async def _give_media(self) -> None:
        """Give claimed media to their memories, and remove those that another one has replaced."""
        for media_id, memory_id in self._claims.items():
            await self._connection.execute(
                "UPDATE memory.media SET memory_id = $3 WHERE space_uid = $1 AND id = $2",
                self._uid,
                UUID(media_id),
                UUID(memory_id),
            )
        for memory_id, before in self._before.items():
            now = self._now[memory_id].media
            if before.media is not None and (now is None or now.id != before.media.id):
                size = await self._connection.fetchval(
                    "DELETE FROM memory.media WHERE space_uid = $1 AND id = $2 RETURNING size",
                    self._uid,
                    UUID(before.media.id),
                )
                self._media_growth -= size or 0

    async def _count(self, changed: Sequence[MemoryId]) -> None:
        active = size = 0
        for memory_id in changed:
            after, before = self._now[memory_id], self._before.get(memory_id)
            active += rows.stored_state(after, after.updated_at) == rows.IN_RECALL
            active -= memory_id in self._in_recall
            size += rows.size_of(after) - (rows.size_of(before) if before is not None else 0)
        fresh = sum(memory_id not in self._before for memory_id in changed)
        await transactions.count(
            self._connection,
            self._space,
            self._revision,
            active=active,
            archived=fresh - active,
            size=size,
            media=self._media_growth,
        )

    # Media

    async def _part(self, part: MediaPart) -> Result:
        """Keep a part; the last one proves the medium. Raises QuotaExceededError, UnsupportedMediaError."""
        media, key = part.media, (self._uid, UUID(part.media.id))
        complete = await self._connection.fetchval(
            "SELECT complete FROM memory.media WHERE space_uid = $1 AND id = $2", *key
        )
        if complete:
            return Outcome.SKIPPED
        if part.offset == 0:
            check(media.mime_type, part.data[:HEAD_BYTES])
        if complete is None:
            await self._connection.execute(
                "INSERT INTO memory.media (space_uid, id, mime_type, size, sha256, created_at) "
                "VALUES ($1, $2, $3, 0, '', $4)",
                *key,
                media.mime_type,
                self._author.at,
            )
        number, data = part.offset // PART_BYTES, part.data
        if self._cipher is not None:
            data = await asyncio.to_thread(self._cipher.seal, part_subject(media.id, number), data)
        await self._connection.execute(
            "INSERT INTO memory.media_parts (space_uid, media_id, number, data) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (space_uid, media_id, number) DO UPDATE SET data = $4",
            *key,
            number,
            data,
        )
        parts = await self._connection.fetchval(
            "SELECT count(*) FROM memory.media_parts WHERE space_uid = $1 AND media_id = $2", *key
        )
        if parts == -(-media.size // PART_BYTES):
            await self._complete(media, parts)
        return Outcome.WRITTEN

    async def _complete(self, media: Media, parts: int) -> None:
        """Make a medium whole and count it. One that is not what it is said to be is removed, and refused."""
        key = (self._uid, UUID(media.id))
        if await self._sha256(media, parts) != media.sha256:
            await self._connection.execute("DELETE FROM memory.media WHERE space_uid = $1 AND id = $2", *key)
            described = f"is not that of the bytes of {media.id}"
            raise InvalidFieldError.of([Violation("media_part.media.sha256", described)])
        self._room.grow_by_media(media.size)
        self._media_growth += media.size
        plain = bytes.fromhex(media.sha256)
        await self._connection.execute(
            "UPDATE memory.media SET complete = true, size = $3, sha256 = $4, mime_type = $5 "
            "WHERE space_uid = $1 AND id = $2",
            *key,
            media.size,
            plain if self._cipher is None else self._cipher.seal(hash_subject(media.id), plain),
            media.mime_type,
        )

    async def _sha256(self, media: Media, parts: int) -> str:
        digest = hashlib.sha256()
        for number in range(parts):
            data = await self._connection.fetchval(
                "SELECT data FROM memory.media_parts WHERE space_uid = $1 AND media_id = $2 AND number = $3",
                self._uid,
                UUID(media.id),
                number,
            )
            if self._cipher is not None:
                data = await asyncio.to_thread(self._cipher.open, part_subject(media.id, number), data)
            await asyncio.to_thread(digest.update, data or b"")
        return digest.hexdigest()

    # Links and sessions

    async def _links(self, links: dict[int, Association]) -> dict[int, Result]:
        if not links:
            return {}
        ends = {UUID(end) for each in links.values() for end in (each.link.source, each.link.target)}
        found = await self._connection.fetch(
            "SELECT id FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])", self._uid, list(ends)
        )
        known = {str(row["id"]) for row in found}
        results: dict[int, Result] = {}
        for number, each in links.items():
            lost = next((end for end in (each.link.source, each.link.target) if end not in known), None)
            if lost is not None:
                results[number] = MemoryNotFoundError(memory=f"{self._space.name}/memories/{lost}")
            else:
                results[number] = await self._link(each)
        sources = [UUID(each.link.source) for each in links.values()]
        await self._connection.execute(_LEAVE_STRONGEST, self._uid, sources, LINKS_A_MEMORY)
        return results

    async def _link(self, new: Association) -> Result:
        key = (self._uid, UUID(new.link.source), UUID(new.link.target), int(new.link.type))
        there = await self._connection.fetchrow(
            "SELECT weight, activations, created_at, updated_at FROM memory.associations "
            "WHERE space_uid = $1 AND source = $2 AND target = $3 AND type = $4",
            *key,
        )
        outcome = Outcome.WRITTEN if there is None else _OUTCOMES.get(self._mode)
        if outcome is None:
            described = f"{new.link.type.name} from {new.link.source} to {new.link.target} exists already"
            return InvalidFieldError.of([Violation("association", described)])
        if outcome is Outcome.SKIPPED:
            return outcome
        if there is not None and outcome is Outcome.MERGED:
            new = replace(
                new,
                weight=max(new.weight, there["weight"]),
                activations=max(new.activations, there["activations"]),
                created_at=min(new.created_at, there["created_at"]),
                updated_at=max(new.updated_at, there["updated_at"]),
            )
        await self._connection.execute(
            _PUT_LINK, *key, new.weight, new.activations, new.created_at, new.updated_at, new.principal
        )
        return outcome

    async def _session(self, new: Session) -> Result:
        name = session_name(new.id, self._cipher)
        row = await self._connection.fetchrow(
            f"SELECT {SESSION_COLUMNS} FROM memory.sessions s WHERE space_uid = $1 AND session = $2", self._uid, name
        )
        outcome = Outcome.WRITTEN if row is None else _OUTCOMES.get(self._mode)
        if outcome is None:
            return SessionExistsError(session=new.id)
        if outcome is Outcome.SKIPPED:
            return outcome
        if row is not None and outcome is Outcome.MERGED:
            there = session_of(row, self._cipher)
            new = replace(
                new,
                metadata={**there.metadata, **new.metadata},
                started_at=min(there.started_at, new.started_at),
                ended_at=latest(there.ended_at, new.ended_at),
            )
        metadata, sealed = described_columns(new, name, self._cipher)
        agent = session_name(new.agent, self._cipher)
        await self._connection.execute(
            _PUT_SESSION, self._uid, name, agent, metadata, sealed, new.started_at, new.ended_at
        )
        return outcome


_OUTCOMES: Final = {
    OnConflict.SKIP: Outcome.SKIPPED,
    OnConflict.OVERWRITE: Outcome.OVERWRITTEN,
    OnConflict.MERGE: Outcome.MERGED,
}
"""What becomes of a link or session that is there; of none with ERROR."""


def _key(revision: Revision) -> tuple[MemoryId, Change, datetime]:
    return revision.memory_id, revision.change, revision.committed_at


def _essence(memory: Memory) -> Memory:
    """What two revisions have in common that are the same in two spaces."""
    return replace(
        memory,
        revision=0,
        created_revision=0,
        state=State.ACTIVE,
        archived_at=None,
        accesses=1,
        accessed_at=None,
        tier=Tier.WARM,
    )
