"""Contract messages to domain values and back. Raises InvalidFieldError for what the field rules cannot express."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Memory, Profile, Revision, Space, State
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.recall import Freshness, Recalled
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import MemoryId
from mnemocore.memory.v1 import memory_service_pb2 as service_pb2
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import dict_to_struct, struct_to_dict, to_datetime, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

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
    metadata = struct_to_dict(item.metadata) if item.HasField("metadata") else {}
    _refuse_large(item, path)
    _refuse_nul(item, metadata, path)
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
    )


def _refuse_large(item: resources_pb2.MemoryInput, path: str) -> None:
    size = item.metadata.ByteSize()
    if size > MAX_METADATA_BYTES:
        described = f"has {size} bytes; allowed are at most {MAX_METADATA_BYTES}"
        raise InvalidFieldError.of([Violation(f"{path}.metadata", described)])


def _refuse_nul(item: resources_pb2.MemoryInput, metadata: dict[str, Any], path: str) -> None:
    texts = {"content": item.content, "actor": item.actor, "session": item.session, "tags": "".join(item.tags)}
    if metadata and "\\u0000" in json.dumps(metadata):
        texts["metadata"] = _NUL
    broken = [Violation(f"{path}.{field}", _NUL_REFUSED) for field, text in texts.items() if _NUL in text]
    if broken:
        raise InvalidFieldError.of(broken)


def to_filter(message: resources_pb2.MemoryFilter) -> Filter:
    """The filter of a request. Raises InvalidFieldError for a text with the character U+0000."""
    metadata = struct_to_dict(message.metadata)
    for field, values in (("tags", message.tags), ("actors", message.actors), ("sessions", message.sessions)):
        text(f"filter.{field}", "".join(values))
    if metadata and "\\u0000" in json.dumps(metadata):
        raise InvalidFieldError.of([Violation("filter.metadata", _NUL_REFUSED)])
    return Filter(
        kinds=tuple(Kind(kind) for kind in message.kinds if kind),
        tags=tuple(message.tags),
        actors=tuple(message.actors),
        sessions=tuple(message.sessions),
        occurred_from=to_datetime(message.occurred_from) if message.HasField("occurred_from") else None,
        occurred_to=to_datetime(message.occurred_to) if message.HasField("occurred_to") else None,
        metadata=metadata,
    )


def from_filter(where: Filter) -> resources_pb2.MemoryFilter:
    """A filter for the index."""
    message = resources_pb2.MemoryFilter(
        kinds=[resources_pb2.MemoryKind.ValueType(kind) for kind in where.kinds],
        tags=where.tags,
        actors=where.actors,
        sessions=where.sessions,
    )
    if where.occurred_from:
        message.occurred_from.CopyFrom(to_timestamp(where.occurred_from))
    if where.occurred_to:
        message.occurred_to.CopyFrom(to_timestamp(where.occurred_to))
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


def from_space(space: Space) -> resources_pb2.Space:
    """A space as a message."""
    return resources_pb2.Space(
        name=space.name,
        uid=space.uid,
        description=space.description,
        revision=space.revision,
        published_revision=space.published_revision,
        active_memories=space.active,
        archived_memories=space.archived,
        create_time=to_timestamp(space.created_at),
    )


def from_memory(space: Space, memory: Memory) -> resources_pb2.Memory:
    """A memory as a message."""
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
    )
    if memory.metadata:
        message.metadata.CopyFrom(dict_to_struct(memory.metadata))
    return message


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


def from_recalled(space: Space, recalled: Recalled) -> service_pb2.RecallResult:
    """A recalled memory as a message."""
    return service_pb2.RecallResult(
        memory=from_memory(space, recalled.memory),
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
}
"""The type of the event that carries a change."""
