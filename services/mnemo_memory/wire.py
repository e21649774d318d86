"""Contract messages to domain values and back. Raises InvalidFieldError for what the field rules cannot express."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory.domain.changes import UPDATABLE, Update, refuse_empty_validity
from mnemo_memory.domain.memory import (
    UNNAMED_PROVENANCE,
    Change,
    Draft,
    Filter,
    Kind,
    Media,
    Memory,
    Modality,
    NoveltyGate,
    OnDuplicate,
    Origin,
    Profile,
    Provenance,
    Revision,
    Space,
    State,
)
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.recall import Answer, Freshness, Recalled
from mnemo_memory.domain.retention import reliability, strength_of
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import MemoryId
from mnemocore.memory.v1 import memory_service_pb2 as service_pb2
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import dict_to_struct, struct_to_dict, to_datetime, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from google.protobuf.message import Message

    from mnemo_memory.domain.associations import Association

_NUL: Final = "\x00"
_NUL_REFUSED: Final = "contains the character U+0000, which no text may contain"

MAX_METADATA_BYTES: Final = 102_400
"""As much as the content may have: what an event carries has a bound, and a revision must fit into an event."""


def space_of(parent: str) -> str:
    """The space in `spaces/{space}`, already checked by the field rules."""
    return parent.removeprefix("spaces/")


def memory_of(name: str) -> tuple[str, MemoryId]:
    """Space and memory in `spaces/{space}/memories/{memory}`, already checked by the field rules."""
    _, space, _, memory = name.split("/")
    return space, MemoryId(memory)


def parent_of(name: str) -> tuple[str, MemoryId | None]:
    """Space and, if there is one, memory in `spaces/{space}[/memories/{memory}]`, already checked."""
    return memory_of(name) if "/memories/" in name else (space_of(name), None)


def ids_of(ids: Iterable[str]) -> list[MemoryId]:
    """Ids of memories, already checked by the field rules."""
    return [MemoryId(each) for each in ids]


def text(field: str, value: str) -> str:
    """A text that can be stored. Raises InvalidFieldError for one with the character U+0000."""
    if _NUL in value:
        raise InvalidFieldError.of([Violation(field, _NUL_REFUSED)])
    return value


def request_of(message: Message) -> Request | None:
    """The repeatable request in `message`, None if it names no request id."""
    request_id: str = getattr(message, "request_id", "")
    if not request_id:
        return None
    digest = hashlib.blake2b(message.DESCRIPTOR.full_name.encode(), digest_size=16)
    digest.update(message.SerializeToString(deterministic=True))
    return Request(request_id, digest.digest())


def to_draft(item: resources_pb2.MemoryInput, path: str) -> Draft:
    """A draft from an item at `path` of its request."""
    metadata = {}
    if item.HasField("metadata"):
        _refuse_large(item, path)
        metadata = struct_to_dict(item.metadata)
    _refuse_nul(item, metadata, path)
    refuse_empty_validity(_time(item, "valid_from"), _time(item, "valid_to"), path)
    return Draft(
        content=item.content,
        id=MemoryId(item.id) if item.id else None,
        kind=Kind(item.kind or Kind.OBSERVATION),
        metadata=metadata,
        tags=tuple(item.tags),
        actor=item.actor,
        session=item.session,
        ordinal=item.ordinal if item.HasField("ordinal") else None,
        occurred_at=to_datetime(item.occurred_at) if item.HasField("occurred_at") else None,
        importance=item.importance if item.HasField("importance") else 0.5,
        confidence=item.confidence if item.HasField("confidence") else 1.0,
        valid_from=_time(item, "valid_from"),
        valid_to=_time(item, "valid_to"),
        expires_at=_time(item, "expires_at"),
        provenance=to_provenance(item.provenance) if item.HasField("provenance") else UNNAMED_PROVENANCE,
        protected=item.protected,
        on_duplicate=OnDuplicate(item.on_duplicate),
        novelty_gate=NoveltyGate(item.novelty_gate),
    )


def to_update(item: resources_pb2.MemoryInput, paths: Iterable[str], path: str) -> Update:
    """The new values of the fields that a mask names. Raises InvalidFieldError for one that cannot be updated."""
    named = list(dict.fromkeys(paths))
    unknown = [name for name in named if name not in UPDATABLE]
    if unknown or not named:
        described = f"names {', '.join(unknown) or 'nothing'}; allowed are {', '.join(UPDATABLE)}"
        raise InvalidFieldError.of([Violation("update_mask", described)])
    if "content" in named and not item.content:
        raise InvalidFieldError.of([Violation(f"{path}.content", "is empty; allowed are 1 character to 100 KiB")])
    if "occurred_at" in named and not item.HasField("occurred_at"):
        raise InvalidFieldError.of([Violation(f"{path}.occurred_at", "is not set; a memory always has a time")])
    draft = to_draft(item, path)
    return Update({name: getattr(draft, name) for name in named})


def to_provenance(message: resources_pb2.Provenance) -> Provenance:
    """Where a memory comes from."""
    return Provenance(Origin(message.origin), tuple(message.sources), message.agent)


def _time(message: Message, field: str) -> datetime | None:
    return to_datetime(getattr(message, field)) if message.HasField(field) else None


def _refuse_large(item: resources_pb2.MemoryInput, path: str) -> None:
    size = item.metadata.ByteSize()
    if size > MAX_METADATA_BYTES:
        described = f"has {size} bytes; allowed are at most {MAX_METADATA_BYTES}"
        raise InvalidFieldError.of([Violation(f"{path}.metadata", described)])


def _refuse_nul(item: resources_pb2.MemoryInput, metadata: dict[str, Any], path: str) -> None:
    texts = {"content": item.content, "actor": item.actor, "session": item.session, "tags": "".join(item.tags)}
    if item.HasField("provenance"):
        texts["provenance"] = "".join([item.provenance.agent, *item.provenance.sources])
    if has_nul(metadata):
        texts["metadata"] = _NUL
    broken = [Violation(f"{path}.{field}", _NUL_REFUSED) for field, text in texts.items() if _NUL in text]
    if broken:
        raise InvalidFieldError.of(broken)


def has_nul(value: Any) -> bool:
    """Whether a text in JSON-like data contains the character U+0000."""
    if isinstance(value, str):
        return _NUL in value
    if isinstance(value, dict):
        return any(_NUL in key or has_nul(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(has_nul(item) for item in value)


def to_filter(message: resources_pb2.MemoryFilter) -> Filter:
    """The filter of a request. Raises InvalidFieldError for a text with the character U+0000."""
    metadata = struct_to_dict(message.metadata)
    for field, values in (("tags", message.tags), ("actors", message.actors), ("sessions", message.sessions)):
        text(f"filter.{field}", "".join(values))
    if has_nul(metadata):
        raise InvalidFieldError.of([Violation("filter.metadata", _NUL_REFUSED)])
    return Filter(
        kinds=tuple(Kind(kind) for kind in message.kinds if kind),
        tags=tuple(message.tags),
        actors=tuple(message.actors),
        sessions=tuple(message.sessions),
        occurred_from=_time(message, "occurred_from"),
        occurred_to=_time(message, "occurred_to"),
        metadata=metadata,
        valid_at=_time(message, "valid_at"),
        created_from=_time(message, "created_from"),
        created_to=_time(message, "created_to"),
        min_importance=message.min_importance if message.HasField("min_importance") else None,
        modalities=tuple(Modality(modality) for modality in message.modalities if modality),
    )


def from_filter(where: Filter) -> resources_pb2.MemoryFilter:
    """A filter for the index."""
    message = resources_pb2.MemoryFilter(
        kinds=[resources_pb2.MemoryKind.ValueType(kind) for kind in where.kinds],
        tags=where.tags,
        actors=where.actors,
        sessions=where.sessions,
        min_importance=where.min_importance,
        modalities=[resources_pb2.Modality.ValueType(modality) for modality in where.modalities],
    )
    for field in ("occurred_from", "occurred_to", "valid_at", "created_from", "created_to"):
        _set_time(message, field, getattr(where, field))
    if where.metadata:
        message.metadata.CopyFrom(dict_to_struct(where.metadata))
    return message


def to_freshness(message: common_pb2.Consistency) -> Freshness:
    """The freshness a request asks for."""
    return Freshness(
        token=message.at_least_as_fresh.value,
        everything=message.fully_consistent,
        at_once=message.minimize_latency,
    )


def to_profile(number: int) -> Profile:
    """The profile of a request; BALANCED if none is named."""
    return Profile(number or Profile.BALANCED)


def token(value: str) -> common_pb2.ConsistencyToken:
    """A consistency token as a message."""
    return common_pb2.ConsistencyToken(value=value)


def from_memory(space: Space, memory: Memory, now: datetime | None = None) -> resources_pb2.Memory:
    """A memory as a message; what is counted and computed of it only with `now`."""
    message = resources_pb2.Memory(
        name=memory_name(space, memory.id),
        kind=resources_pb2.MemoryKind.ValueType(memory.kind),
        content=memory.content,
        tags=memory.tags,
        actor=memory.actor,
        session=memory.session,
        ordinal=memory.ordinal,
        occurred_at=to_timestamp(memory.occurred_at),
        importance=memory.importance,
        confidence=memory.confidence,
        state=resources_pb2.MemoryState.ValueType(memory.state),
        revision=memory.revision,
        create_time=to_timestamp(memory.created_at),
        update_time=to_timestamp(memory.updated_at),
        etag=memory.etag,
        modality=resources_pb2.Modality.ValueType(memory.modality),
        protected=memory.protected,
        reliability=reliability(memory.alpha, memory.beta),
        tier=resources_pb2.Tier.ValueType(memory.tier),
    )
    if memory.metadata:
        message.metadata.CopyFrom(dict_to_struct(memory.metadata))
    if memory.media is not None:
        message.media.CopyFrom(from_media(space, memory.media))
    for field in ("valid_from", "valid_to", "expires_at"):
        _set_time(message, field, getattr(memory, field))
    if memory.provenance is not UNNAMED_PROVENANCE and memory.provenance != UNNAMED_PROVENANCE:
        message.provenance.origin = resources_pb2.Origin.ValueType(memory.provenance.origin)
        message.provenance.sources.extend(memory.provenance.sources)
        message.provenance.agent = memory.provenance.agent
    if memory.supersedes is not None:
        message.supersedes = memory_name(space, memory.supersedes)
    if memory.superseded_by is not None:
        message.superseded_by = memory_name(space, memory.superseded_by)
    if now is not None:
        message.strength = strength_of(memory, now)
        message.access_count = memory.accesses
        message.last_accessed_at.CopyFrom(to_timestamp(memory.accessed_at or memory.created_at))
    return message


def from_media(space: Space, media: Media) -> resources_pb2.Media:
    """A medium as a message."""
    return resources_pb2.Media(
        name=f"{space.name}/media/{media.id}", mime_type=media.mime_type, size_bytes=media.size, sha256=media.sha256
    )


def _set_time(message: Message, field: str, moment: datetime | None) -> None:
    if moment is not None:
        getattr(message, field).CopyFrom(to_timestamp(moment))


def memory_name(space: Space, memory_id: MemoryId) -> str:
    """The public name of a memory."""
    return f"{space.name}/memories/{memory_id}"


def from_revision(space: Space, revision: Revision) -> resources_pb2.Revision:
    """A revision as a message; of an erased memory only the name is left."""
    if revision.memory is None:
        memory = resources_pb2.Memory(name=memory_name(space, revision.memory_id))
    else:
        memory = from_memory(space, revision.memory)
    return resources_pb2.Revision(
        revision=revision.revision,
        change=resources_pb2.ChangeType.ValueType(revision.change),
        memory=memory,
        commit_time=to_timestamp(revision.committed_at),
        principal=revision.principal,
        reason=revision.reason,
    )


def from_association(space: Space, association: Association) -> resources_pb2.Association:
    """A link as a message."""
    return resources_pb2.Association(
        source=memory_name(space, association.link.source),
        target=memory_name(space, association.link.target),
        type=resources_pb2.AssociationType.ValueType(association.link.type),
        weight=association.weight,
        activations=association.activations,
        create_time=to_timestamp(association.created_at),
        update_time=to_timestamp(association.updated_at),
        principal=association.principal,
    )


def from_degraded(answer: Answer) -> list[common_pb2.DegradedPart.ValueType]:
    """The parts that did not take part in an answer."""
    parts = []
    if answer.without_index:
        parts.append(common_pb2.DEGRADED_PART_INDEX)
    if answer.without_encoder:
        parts.append(common_pb2.DEGRADED_PART_ENCODER)
    return parts


def from_recalled(space: Space, recalled: Recalled, now: datetime) -> service_pb2.RecallResult:
    """A recalled memory as a message."""
    return service_pb2.RecallResult(
        memory=from_memory(space, recalled.memory, now),
        score=recalled.score,
        explanation=[
            resources_pb2.ScoreComponent(
                name=part.name, value=part.value, weight=part.weight, contribution=part.contribution
            )
            for part in recalled.parts
        ],
    )


def to_states(numbers: Iterable[int]) -> list[State]:
    """The states of a request."""
    return [State(number) for number in numbers if number]


CHANGE_EVENTS: Final[dict[Change, str]] = {
    Change.CREATED: "memory.created",
    Change.ARCHIVED: "memory.archived",
    Change.RESTORED: "memory.restored",
    Change.ERASED: "memory.erased",
    Change.REPUBLISHED: "memory.republished",
    Change.UPDATED: "memory.updated",
    Change.SUPERSEDED: "memory.superseded",
    Change.EXPIRED: "memory.expired",
    Change.PROTECTED: "memory.protected",
    Change.FEEDBACK: "memory.feedback",
    Change.REINFORCED: "memory.reinforced",
}
"""The type of the event that carries a change."""
