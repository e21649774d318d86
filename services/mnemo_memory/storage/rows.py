"""Memories as database rows and as JSON snapshots."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory.domain.memory import Change, Kind, Memory, Revision, Space, State
from mnemocore.ids import MemoryId, SpaceUid, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

SPACE_COLUMNS: Final = "uid, tenant, slug, description, revision, published_revision, active, archived, created_at"
MEMORY_COLUMNS: Final = (
    "id, kind, content, metadata::text, tags::text, actor, session, ordinal, occurred_at, importance, confidence, "
    "state, revision, created_revision, created_at, updated_at"
)
REVISION_COLUMNS: Final = "revision, memory_id, change, snapshot::text, committed_at, principal, reason"


def to_space(row: Mapping[str, Any]) -> Space:
    """A space from a row of SPACE_COLUMNS."""
    return Space(
        uid=SpaceUid(str(row["uid"])),
        tenant=Tenant(row["tenant"]),
        slug=row["slug"],
        description=row["description"],
        revision=row["revision"],
        published_revision=row["published_revision"],
        active=row["active"],
        archived=row["archived"],
        created_at=row["created_at"],
    )


def to_memory(row: Mapping[str, Any]) -> Memory:
    """A memory from a row of MEMORY_COLUMNS."""
    return Memory(
        id=MemoryId(str(row["id"])),
        kind=Kind(row["kind"]),
        content=row["content"],
        metadata=json.loads(row["metadata"]),
        tags=tuple(json.loads(row["tags"])),
        actor=row["actor"],
        session=row["session"],
        ordinal=row["ordinal"],
        occurred_at=row["occurred_at"].replace(tzinfo=UTC),  # the driver gives the first and last moment without a zone
        importance=row["importance"],
        confidence=row["confidence"],
        state=State(row["state"]),
        revision=row["revision"],
        created_revision=row["created_revision"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def to_revision(row: Mapping[str, Any]) -> Revision:
    """A revision from a row of REVISION_COLUMNS."""
    return Revision(
        revision=row["revision"],
        memory_id=MemoryId(str(row["memory_id"])),
        change=Change(row["change"]),
        memory=None if row["snapshot"] is None else from_snapshot(row["snapshot"]),
        committed_at=row["committed_at"],
        principal=row["principal"],
        reason=row["reason"],
    )


def to_json(value: Any) -> str:
    """Compact JSON that keeps every character as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_snapshot(memory: Memory) -> str:
    """A memory as JSON; `from_snapshot` is the inverse."""
    return to_json(
        [
            memory.id,
            memory.kind,
            memory.content,
            memory.metadata,
            memory.tags,
            memory.actor,
            memory.session,
            memory.ordinal,
            memory.occurred_at.isoformat(),
            memory.importance,
            memory.confidence,
            memory.state,
            memory.revision,
            memory.created_revision,
            memory.created_at.isoformat(),
            memory.updated_at.isoformat(),
        ]
    )


def from_snapshot(snapshot: str) -> Memory:
    """The memory of a snapshot."""
    fields = json.loads(snapshot)
    return Memory(
        MemoryId(fields[0]),
        Kind(fields[1]),
        fields[2],
        fields[3],
        tuple(fields[4]),
        fields[5],
        fields[6],
        fields[7],
        datetime.fromisoformat(fields[8]),
        fields[9],
        fields[10],
        State(fields[11]),
        fields[12],
        fields[13],
        datetime.fromisoformat(fields[14]),
        datetime.fromisoformat(fields[15]),
    )
