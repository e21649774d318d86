"""The steps every write is made of: lock the space, look up the request, append revisions, remember the request.

Every write locks the row of its space first, so the writes of one space happen one after the other: revisions are
handed out in the order of commit and no reader of `revision > n` can miss one that commits late. Writes of different
spaces do not meet.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from asyncpg.exceptions import UniqueViolationError

from mnemo_memory.storage import rows
from mnemocore.errors import EtagMismatchError, MemoryNotFoundError, RequestIdReusedError, SpaceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Change, Memory, Revision, Space
    from mnemo_memory.domain.ports import Author, Request
    from mnemocore.ids import MemoryId, Tenant
    from mnemocore.sealing import SpaceCipher

_INSERT_MEMORIES: Final = """
INSERT INTO memory.memories (
    space_uid, id, kind, content, metadata, tags, actor, session, ordinal, occurred_at, importance, confidence,
    state, revision, created_revision, created_at, updated_at, sealed, content_hash, sole, bytes, words, modality,
    media, valid_from, valid_to, expires_at, archived_at, provenance, supersedes, superseded_by, protected, alpha, beta,
    accesses, accessed_at, tier)
SELECT $1, id, kind, content, metadata::jsonb, tags::jsonb, actor, session, ordinal, occurred_at, importance,
    confidence, state, revision, created_revision, created_at, updated_at, sealed, content_hash, sole, bytes,
    CASE WHEN sealed IS NULL THEN to_tsvector('english', content) END, modality, media::jsonb, valid_from, valid_to,
    expires_at, archived_at, provenance::jsonb, supersedes, superseded_by, protected, alpha, beta, accesses,
    accessed_at, tier
FROM unnest($2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
    $10::timestamptz[], $11::float8[], $12::float8[], $13::smallint[], $14::bigint[], $15::bigint[], $16::timestamptz[],
    $17::timestamptz[], $18::bytea[], $19::bytea[], $20::boolean[], $21::integer[], $22::smallint[], $23::text[],
    $24::timestamptz[], $25::timestamptz[], $26::timestamptz[], $27::timestamptz[], $28::text[], $29::uuid[],
    $30::uuid[], $31::boolean[], $32::float8[], $33::float8[], $34::bigint[], $35::timestamptz[], $36::smallint[])
    AS t(id, kind, content, metadata, tags, actor, session, ordinal, occurred_at, importance, confidence, state,
    revision, created_revision, created_at, updated_at, sealed, content_hash, sole, bytes, modality, media, valid_from,
    valid_to, expires_at, archived_at, provenance, supersedes, superseded_by, protected, alpha, beta, accesses,
    accessed_at, tier)
"""
_UPDATE_MEMORY: Final = """
UPDATE memory.memories SET kind = $3, content = $4, metadata = $5::text::jsonb, tags = $6::text::jsonb, actor = $7,
    session = $8, ordinal = $9, occurred_at = $10, importance = $11, confidence = $12, state = $13, revision = $14,
    updated_at = $15, sealed = $16, packed = NULL, content_hash = $17, sole = sole AND $18, bytes = $19,
    words = CASE WHEN $16::bytea IS NULL THEN to_tsvector('english', $4) END, modality = $20, media = $21::text::jsonb,
    valid_from = $22, valid_to = $23, expires_at = $24, archived_at = $25, provenance = $26::text::jsonb,
    supersedes = $27, superseded_by = $28, protected = $29, alpha = $30, beta = $31, accesses = accesses + $32,
    accessed_at = coalesce($33, accessed_at), tier = $34
WHERE space_uid = $1 AND id = $2
"""
_NOTE: Final = "note"
"""What stands in a record of a request beside the numbers of its items."""
_INSERT_REVISIONS: Final = """
INSERT INTO memory.revisions (
    space_uid, revision, memory_id, change, action, snapshot, sealed, committed_at, principal, reason)
SELECT $1, revision, memory_id, $2, $3, snapshot::json, sealed, $4, $5, $6
FROM unnest($7::bigint[], $8::uuid[], $9::text[], $10::bytea[]) AS t(revision, memory_id, snapshot, sealed)
"""


async def lock(connection: Connection[Record], space: Space) -> Space:
    """The space as it is, under the name the caller knows, locked until the end of the transaction.

    Raises SpaceNotFoundError.
    """
    row = await connection.fetchrow(
        f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE uid = $1 FOR NO KEY UPDATE", UUID(space.uid)
    )
    if row is None:
        raise SpaceNotFoundError(space=space.name)
    return replace(rows.to_space(row), slug=space.slug)


async def read(
    connection: Connection[Record],
    space: Space,
    memory_id: MemoryId,
    etag: str,
    now: datetime,
    cipher: SpaceCipher | None,
) -> Memory:
    """A memory of a locked space. Raises MemoryNotFoundError, EtagMismatchError."""
    row = await connection.fetchrow(
        f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id = $2",
        UUID(space.uid),
        UUID(memory_id),
    )
    name = f"{space.name}/memories/{memory_id}"
    if row is None:
        raise MemoryNotFoundError(memory=name)
    memory = rows.to_memory(row, now, cipher)
    if etag and etag != memory.etag:
        raise EtagMismatchError(memory=name)
    return memory


async def insert(
    connection: Connection[Record],
    space: Space,
    memories: Sequence[Memory],
    sole: Sequence[bool],
    cipher: SpaceCipher | None,
) -> None:
    """Insert memories as they are; `sole` says of each whether it is to be the only active one of its content."""
    shown = [memory if cipher is None else rows.open_part(memory, cipher) for memory in memories]
    await connection.execute(
        _INSERT_MEMORIES,
        UUID(space.uid),
        [memory.id for memory in memories],
        [memory.kind for memory in memories],
        [each.content for each in shown],
        [rows.to_json(each.metadata) for each in shown],
        [rows.to_json(each.tags) for each in shown],
        [each.actor for each in shown],
        [each.session for each in shown],
        [memory.ordinal for memory in memories],
        [memory.occurred_at for memory in memories],
        [memory.importance for memory in memories],
        [memory.confidence for memory in memories],
        [rows.stored_state(memory, memory.updated_at) for memory in memories],
        [memory.revision for memory in memories],
        [memory.created_revision for memory in memories],
        [memory.created_at for memory in memories],
        [memory.updated_at for memory in memories],
        [None if cipher is None else rows.sealed_part(memory, cipher) for memory in memories],
        [rows.content_hash(memory, cipher) for memory in memories],
        list(sole),
        [rows.size_of(memory) for memory in memories],
        [memory.modality for memory in memories],
        [rows.media_json(each.media) for each in shown],
        [memory.valid_from for memory in memories],
        [memory.valid_to for memory in memories],
        [memory.expires_at for memory in memories],
        [memory.archived_at for memory in memories],
        [rows.provenance_json(each.provenance) for each in shown],
        [memory.supersedes for memory in memories],
        [memory.superseded_by for memory in memories],
        [memory.protected for memory in memories],
        [memory.alpha for memory in memories],
        [memory.beta for memory in memories],
        [memory.accesses for memory in memories],
        [memory.accessed_at for memory in memories],
        [memory.tier for memory in memories],
    )


async def update(
    connection: Connection[Record], space: Space, before: Memory, after: Memory, cipher: SpaceCipher | None
) -> None:
    """Put `after` in the place of `before`. Uses counted meanwhile stay counted."""
    shown = after if cipher is None else rows.open_part(after, cipher)
    state = rows.stored_state(after, after.updated_at)
    content_hash = rows.content_hash(after, cipher)
    await connection.execute(
        _UPDATE_MEMORY,
        UUID(space.uid),
        UUID(after.id),
        after.kind,
        shown.content,
        rows.to_json(shown.metadata),
        rows.to_json(shown.tags),
        shown.actor,
        shown.session,
        after.ordinal,
        after.occurred_at,
        after.importance,
        after.confidence,
        state,
        after.revision,
        after.updated_at,
        None if cipher is None else rows.sealed_part(after, cipher),
        content_hash,
        state == rows.IN_RECALL and content_hash == rows.content_hash(before, cipher),
        rows.size_of(after),
        after.modality,
        rows.media_json(shown.media),
        after.valid_from,
        after.valid_to,
        after.expires_at,
        after.archived_at,
        rows.provenance_json(shown.provenance),
        after.supersedes,
        after.superseded_by,
        after.protected,
        after.alpha,
        after.beta,
        after.accesses - before.accesses,
        after.accessed_at,
        after.tier,
    )


async def append(
    connection: Connection[Record],
    space: Space,
    memories: Sequence[Memory],
    change: Change,
    author: Author,
    cipher: SpaceCipher | None,
) -> None:
    """Append a revision for each of the memories, which carry its number."""
    snapshots = [rows.snapshot_columns(memory, cipher) for memory in memories]
    await connection.execute(
        _INSERT_REVISIONS,
        UUID(space.uid),
        *rows.change_columns(change),
        author.at,
        author.principal,
        author.reason,
        [memory.revision for memory in memories],
        [memory.id for memory in memories],
        [snapshot for snapshot, _ in snapshots],
        [sealed for _, sealed in snapshots],
    )


async def count(
    connection: Connection[Record],
    space: Space,
    revision: int,
    *,
    active: int = 0,
    archived: int = 0,
    size: int = 0,
    media: int = 0,
) -> None:
    """Set the newest revision of a locked space and add to its counts."""
    await connection.execute(
        "UPDATE memory.spaces SET revision = $2, active = active + $3, archived = archived + $4, bytes = bytes + $5, "
        "media_bytes = media_bytes + $6 WHERE uid = $1",
        UUID(space.uid),
        revision,
        active,
        archived,
        size,
        media,
    )


async def earlier(connection: Connection[Record], tenant: Tenant, request: Request | None) -> Record | None:
    """The record of a request that was answered before. Raises RequestIdReusedError if it was another one."""
    if request is None:
        return None
    row = await connection.fetchrow(
        "SELECT digest, space_uid, first_revision, last_revision, taken::text, duplicates::text FROM memory.requests "
        "WHERE tenant = $1 AND request_id = $2",
        tenant,
        UUID(request.id),
    )
    if row is not None and row["digest"] != request.digest:
        raise RequestIdReusedError
    return row


async def remember(
    connection: Connection[Record],
    space: Space,
    request: Request | None,
    first: int,
    last: int,
    at: datetime,
    *,
    taken: Sequence[int] = (),
    duplicates: Mapping[int, Any] | None = None,
) -> None:
    """Keep what a request did, so that it does it once. Raises RequestIdReusedError."""
    if request is None:
        return
    others: dict[Any, Any] = dict(duplicates or {})
    if request.note:
        others[_NOTE] = request.note
    try:
        await connection.execute(
            "INSERT INTO memory.requests (tenant, request_id, digest, space_uid, first_revision, last_revision, taken, "
            "duplicates, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9)",
            space.tenant,
            UUID(request.id),
            request.digest,
            UUID(space.uid),
            first,
            last,
            rows.to_json(list(taken)),
            json.dumps(others),
            at,
        )
    except UniqueViolationError:  # the same id at the same moment in another space
        raise RequestIdReusedError from None


def note_of(record: Record) -> str:
    """The note of an earlier request."""
    return str(json.loads(record["duplicates"]).get(_NOTE, ""))


async def revisions_of(connection: Connection[Record], record: Record, cipher: SpaceCipher | None) -> list[Revision]:
    """The revisions an earlier request made, in their order."""
    found = await connection.fetch(
        f"SELECT {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 AND revision BETWEEN $2 AND $3 "
        "ORDER BY revision",
        record["space_uid"],
        record["first_revision"],
        record["last_revision"],
    )
    return [rows.to_revision(row, cipher) for row in found]
