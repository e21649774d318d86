"""Memories as database rows and as JSON snapshots, in the open or sealed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import zstandard

from mnemo_memory.domain.memory import (
    UNNAMED_PROVENANCE,
    Change,
    Filter,
    Kind,
    Limits,
    Media,
    Memory,
    Modality,
    NoveltyGate,
    Origin,
    Policy,
    Provenance,
    Revision,
    Space,
    SpaceAccess,
    State,
    Tier,
)
from mnemocore.ids import MemoryId, SpaceUid, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemo_memory.domain.memory import Draft
    from mnemocore.sealing import SpaceCipher

SPACE_COLUMNS: Final = (
    "uid, tenant, slug, description, revision, published_revision, active, archived, created_at, owner, policy::text, "
    "policy_revision, encrypted, bytes, media_bytes"
)
MEMORY_COLUMNS: Final = (
    "id, kind, content, metadata::text, tags::text, actor, session, ordinal, occurred_at, importance, confidence, "
    "state, revision, created_revision, created_at, updated_at, sealed, packed, modality, media::text, valid_from, "
    "valid_to, expires_at, archived_at, provenance::text, supersedes, superseded_by, protected, alpha, beta, accesses, "
    "accessed_at, tier"
)
REVISION_COLUMNS: Final = "revision, memory_id, change, action, snapshot::text, sealed, committed_at, principal, reason"

IN_RECALL: Final = 1
OUT_OF_RECALL: Final = 2
_LAST_KNOWN_CHANGE: Final = Change.REPUBLISHED
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


# Spaces


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
        owner=row["owner"],
        policy=to_policy(row["policy"]),
        policy_revision=row["policy_revision"],
        encrypted=row["encrypted"],
        bytes=row["bytes"],
        media_bytes=row["media_bytes"],
    )


def from_policy(policy: Policy) -> str:
    """A policy as JSON; `to_policy` is the inverse."""
    return to_json(
        {
            "access": policy.access,
            "novelty_gate": policy.novelty_gate,
            "erase_expired_after": _microseconds(policy.erase_expired_after),
            "erase_archived_after": _microseconds(policy.erase_archived_after),
            "limits": [policy.limits.max_memories, policy.limits.max_bytes, policy.limits.max_content_bytes],
        }
    )


def to_policy(text: str) -> Policy:
    """The policy of a JSON text; what it does not name has its default."""
    if text == "{}":
        return Policy()
    fields = json.loads(text)
    return Policy(
        access=SpaceAccess(fields["access"]),
        novelty_gate=NoveltyGate(fields["novelty_gate"]),
        erase_expired_after=_duration(fields["erase_expired_after"]),
        erase_archived_after=_duration(fields["erase_archived_after"]),
        limits=Limits(*fields["limits"]),
    )


# Memories


def to_memory(row: Mapping[str, Any], now: datetime, cipher: SpaceCipher | None) -> Memory:
    """A memory from a row of MEMORY_COLUMNS, in its state at `now`."""
    memory = Memory(
        id=MemoryId(str(row["id"])),
        kind=Kind(row["kind"]),
        content=row["content"] if row["packed"] is None else unpack(row["packed"]),
        metadata=json.loads(row["metadata"]),
        tags=tuple(json.loads(row["tags"])),
        actor=row["actor"],
        session=row["session"],
        ordinal=row["ordinal"],
        occurred_at=row["occurred_at"],
        importance=row["importance"],
        confidence=row["confidence"],
        state=State.ACTIVE,
        revision=row["revision"],
        created_revision=row["created_revision"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        modality=Modality(row["modality"]),
        media=_to_media(row["media"]),
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        expires_at=row["expires_at"],
        archived_at=_archived_at(row),
        provenance=_to_provenance(row["provenance"]),
        supersedes=_to_id(row["supersedes"]),
        superseded_by=_to_id(row["superseded_by"]),
        protected=row["protected"],
        alpha=row["alpha"],
        beta=row["beta"],
        accesses=row["accesses"],
        accessed_at=row["accessed_at"],
        tier=Tier(row["tier"]),
    )
    if cipher is not None and row["sealed"] is not None:
        memory = _opened(memory, row["sealed"], cipher)
    return _in_state_at(memory, now)


def stored_state(memory: Memory, at: datetime) -> int:
    """The number of the column `state` of a memory written at `at`."""
    return IN_RECALL if memory.state_at(at) is State.ACTIVE else OUT_OF_RECALL


def sealed_part(memory: Memory, cipher: SpaceCipher) -> bytes:
    """What an encrypted space keeps of a memory that nobody may read, sealed."""
    secret = [
        memory.content,
        memory.metadata,
        memory.tags,
        memory.actor,
        memory.session,
        _from_media(memory.media),
        _from_provenance(memory.provenance),
    ]
    return cipher.seal(memory.id, to_json(secret).encode("utf-8", "surrogatepass"))


def open_part(memory: Memory, cipher: SpaceCipher) -> Memory:
    """A memory as the columns of an encrypted space show it: names that can be compared, and nothing to read."""
    return replace(
        memory,
        content="",
        metadata={cipher.blind(key): cipher.blind(canonical(value)) for key, value in memory.metadata.items()},
        tags=tuple(cipher.blind(tag) for tag in memory.tags),
        actor=cipher.blind(memory.actor),
        session=cipher.blind(memory.session),
        media=None,
        provenance=UNNAMED_PROVENANCE,
    )


def blinded(where: Filter, cipher: SpaceCipher | None) -> Filter:
    """The filter that selects the rows of an encrypted space; as it is without a cipher."""
    if cipher is None:
        return where
    return replace(
        where,
        tags=tuple(cipher.blind(tag) for tag in where.tags),
        actors=tuple(cipher.blind(actor) for actor in where.actors),
        sessions=tuple(cipher.blind(session) for session in where.sessions),
        metadata={cipher.blind(key): cipher.blind(canonical(value)) for key, value in where.metadata.items()},
    )


def size_of(memory: Memory | Draft) -> int:
    """Bytes of content and metadata, as quotas count them."""
    return bytes_of(memory.content) + (bytes_of(to_json(memory.metadata)) if memory.metadata else 0)


def bytes_of(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def content_hash(memory: Memory | Draft, cipher: SpaceCipher | None) -> bytes:
    """Equal for memories of one kind, actor, content and medium."""
    medium = memory.media.sha256 if memory.media else ""
    parts = to_json([memory.kind, memory.actor, memory.content, medium]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(parts).digest() if cipher is None else cipher.digest(parts)


def pack(content: str) -> bytes | None:
    """The compressed content, or None if that is not smaller."""
    plain = content.encode("utf-8", "surrogatepass")
    packed = zstandard.compress(plain)
    return packed if len(packed) < len(plain) else None


def unpack(packed: bytes) -> str:
    """The content of `pack`."""
    return zstandard.decompress(packed).decode("utf-8", "surrogatepass")


# Revisions


def to_revision(row: Mapping[str, Any], cipher: SpaceCipher | None) -> Revision:
    """A revision from a row of REVISION_COLUMNS."""
    snapshot = row["snapshot"]
    if snapshot is None and row["sealed"] is not None and cipher is not None:
        snapshot = cipher.open(_subject(str(row["memory_id"]), row["revision"]), row["sealed"]).decode(
            "utf-8", "surrogatepass"
        )
    return Revision(
        revision=row["revision"],
        memory_id=MemoryId(str(row["memory_id"])),
        change=Change(row["change"] if row["action"] is None else row["action"]),
        memory=None if snapshot is None else from_snapshot(snapshot, row["committed_at"]),
        committed_at=row["committed_at"],
        principal=row["principal"],
        reason=row["reason"],
    )


def change_columns(change: Change) -> tuple[int, int | None]:
    """The numbers of the columns `change` and `action`."""
    return (change, None) if change <= _LAST_KNOWN_CHANGE else (_LAST_KNOWN_CHANGE, change)


def snapshot_columns(memory: Memory, cipher: SpaceCipher | None) -> tuple[str | None, bytes | None]:
    """The columns `snapshot` and `sealed` of a revision."""
    snapshot = to_snapshot(memory)
    if cipher is None:
        return snapshot, None
    return None, cipher.seal(_subject(memory.id, memory.revision), snapshot.encode("utf-8", "surrogatepass"))


def to_snapshot(memory: Memory) -> str:
    """A memory as JSON, uses aside; `from_snapshot` is the inverse."""
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
            stored_state(memory, memory.updated_at),
            memory.revision,
            memory.created_revision,
            memory.created_at.isoformat(),
            memory.updated_at.isoformat(),
            memory.modality,
            _from_media(memory.media),
            _from_time(memory.valid_from),
            _from_time(memory.valid_to),
            _from_time(memory.expires_at),
            _from_time(memory.archived_at),
            _from_provenance(memory.provenance),
            memory.supersedes,
            memory.superseded_by,
            memory.protected,
            memory.alpha,
            memory.beta,
        ]
    )


def from_snapshot(snapshot: str, at: datetime) -> Memory:
    """The memory of a snapshot, in its state at `at`. Release 0.1 wrote the first 16 fields only."""
    fields = json.loads(snapshot)
    if len(fields) == 16:
        archived = fields[11] == OUT_OF_RECALL
        fields += [Modality.TEXT, None, None, None, None, fields[15] if archived else None, None, None, None, False]
        fields += [1.0, 1.0]
    memory = Memory(
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
        State.ACTIVE,
        fields[12],
        fields[13],
        datetime.fromisoformat(fields[14]),
        datetime.fromisoformat(fields[15]),
        modality=Modality(fields[16]),
        media=_media(fields[17]),
        valid_from=_to_time(fields[18]),
        valid_to=_to_time(fields[19]),
        expires_at=_to_time(fields[20]),
        archived_at=_to_time(fields[21]),
        provenance=_provenance(fields[22]),
        supersedes=fields[23],
        superseded_by=fields[24],
        protected=fields[25],
        alpha=fields[26],
        beta=fields[27],
    )
    return _in_state_at(memory, at)


# JSON


def to_json(value: Any) -> str:
    """Compact JSON that keeps every character as it is."""
    return _encode(value)


def canonical(value: Any) -> str:
    """JSON that is equal for equal values: keys in order, whole numbers without a point."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def media_json(media: Media | None) -> str | None:
    """The column `media`."""
    return None if media is None else to_json(_from_media(media))


def provenance_json(provenance: Provenance) -> str | None:
    """The column `provenance`."""
    found = _from_provenance(provenance)
    return None if found is None else to_json(found)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _subject(memory_id: str, revision: int) -> str:
    return f"{memory_id}@{revision}"


def _in_state_at(memory: Memory, at: datetime) -> Memory:
    """A memory that was made as ACTIVE, in its state at `at`. A copy costs more than all of its columns."""
    state = memory.state_at(at)
    return memory if state is State.ACTIVE else replace(memory, state=state)


def _opened(memory: Memory, sealed: bytes, cipher: SpaceCipher) -> Memory:
    secret = json.loads(cipher.open(memory.id, sealed).decode("utf-8", "surrogatepass"))
    return replace(
        memory,
        content=secret[0],
        metadata=secret[1],
        tags=tuple(secret[2]),
        actor=secret[3],
        session=secret[4],
        media=_media(secret[5]),
        provenance=_provenance(secret[6]),
    )


def _archived_at(row: Mapping[str, Any]) -> datetime | None:
    """When it was archived. Release 0.1 says only that it is out of recall; if nothing else says why, that is why."""
    archived_at: datetime | None = row["archived_at"]
    if row["state"] == IN_RECALL or archived_at is not None:
        return None if row["state"] == IN_RECALL else archived_at
    expired = row["expires_at"] is not None and row["expires_at"] <= row["updated_at"]
    return None if expired or row["superseded_by"] is not None else row["updated_at"]


def _to_id(value: Any) -> MemoryId | None:
    return None if value is None else MemoryId(str(value))


def _to_media(text: str | None) -> Media | None:
    return None if text is None else _media(json.loads(text))


def _media(fields: Any) -> Media | None:
    return None if fields is None else Media(*fields)


def _from_media(media: Media | None) -> list[Any] | None:
    return None if media is None else [media.id, media.mime_type, media.size, media.sha256]


def _to_provenance(text: str | None) -> Provenance:
    return _provenance(None if text is None else json.loads(text))


def _provenance(fields: Any) -> Provenance:
    return UNNAMED_PROVENANCE if fields is None else Provenance(Origin(fields[0]), tuple(fields[1]), fields[2])


def _from_provenance(provenance: Provenance) -> list[Any] | None:
    if provenance is UNNAMED_PROVENANCE or provenance == UNNAMED_PROVENANCE:
        return None
    return [provenance.origin, provenance.sources, provenance.agent]


def _from_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _microseconds(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // timedelta(microseconds=1)


def _duration(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=microseconds)
