"""Contract messages to domain values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from mnemo_index.domain.documents import ACTIVE, Change, Document, Filter, State
from mnemocore.errors import InternalError, InvalidFieldError, Violation
from mnemocore.ids import MemoryId
from mnemocore.memory.v1 import resources_pb2
from mnemocore.sealing import KEY_BYTES, DataKey
from mnemocore.wire import struct_to_dict, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from mnemo_index.domain.search import ScorePart
    from mnemocore.events.v1 import resources_pb2 as events_pb2
    from mnemocore.index.v1 import index_service_pb2

SPACE_ERASED: Final = "space.erased"
"""The type of the event that says that nothing is left of a space."""

_STATES: Final = {int(state) for state in State}


def to_change(event: events_pb2.Event) -> Change:
    """The change an event carries, whatever its type. One whose content was erased since removes the memory."""
    revision = resources_pb2.Revision.FromString(event.data)
    memory_id = MemoryId(event.subject.rpartition("/")[2])
    if revision.change == resources_pb2.CHANGE_TYPE_ERASED or not (revision.memory.content or revision.sealed):
        return Change(event.revision, memory_id)
    if revision.sealed:
        return Change(event.revision, memory_id, sealed=revision.sealed)
    archived = revision.change == resources_pb2.CHANGE_TYPE_ARCHIVED
    return Change(event.revision, memory_id, _document(memory_id, revision.memory, archived=archived))


def read_document(memory_id: MemoryId, opened: bytes) -> Document:
    """The document of a memory that was sealed. Raises InternalError for bytes that are not one."""
    try:
        memory = resources_pb2.Memory.FromString(opened)
    except DecodeError:
        raise InternalError(f"what was sealed of memory {memory_id} is not a memory") from None
    return _document(memory_id, memory)


def _document(memory_id: MemoryId, memory: resources_pb2.Memory, *, archived: bool = False) -> Document:
    return Document(
        memory_id=memory_id,
        content=memory.content,
        kind=_kind(memory.kind),
        occurred_at=to_datetime(memory.occurred_at),
        actor=memory.actor,
        session=memory.session,
        ordinal=memory.ordinal if memory.HasField("ordinal") else None,
        tags=tuple(memory.tags),
        metadata=struct_to_dict(memory.metadata) if memory.HasField("metadata") else {},
        state=State.ARCHIVED if archived else _state_of(memory),
        created_at=to_datetime(memory.create_time),
        valid_from=_moment(memory, "valid_from"),
        valid_to=_moment(memory, "valid_to"),
        expires_at=_moment(memory, "expires_at"),
        importance=memory.importance,
        modality=memory.modality or resources_pb2.MODALITY_TEXT,
    )


def _state_of(memory: resources_pb2.Memory) -> State:
    state = _state(memory.state or State.ACTIVE)
    return State.SUPERSEDED if state is State.ACTIVE and memory.superseded_by else state


def _state(number: int) -> State:
    return State(number) if number in _STATES else State.UNKNOWN


def _kind(number: int) -> str:
    return str(number)


def _moment(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    return to_datetime(timestamp)


def to_filter(message: resources_pb2.MemoryFilter, now: datetime, states: Iterable[int] = ()) -> Filter:
    """The filter of a request about the memories that are in any of `states` at `now`; in ACTIVE if none is named."""
    return Filter(
        kinds=frozenset(_kind(kind) for kind in message.kinds if kind),
        tags=frozenset(message.tags),
        actors=frozenset(message.actors),
        sessions=frozenset(message.sessions),
        occurred_from=_moment(message, "occurred_from"),
        occurred_to=_moment(message, "occurred_to"),
        metadata=struct_to_dict(message.metadata),
        valid_at=_moment(message, "valid_at"),
        created_from=_moment(message, "created_from"),
        created_to=_moment(message, "created_to"),
        min_importance=message.min_importance if message.HasField("min_importance") else None,
        modalities=frozenset(modality for modality in message.modalities if modality),
        states=frozenset(_state(number) for number in states if number) or ACTIVE,
        now=now,
    )


def to_moment(
    request: index_service_pb2.SearchRequest | index_service_pb2.FindSimilarRequest, now: datetime
) -> datetime:
    """The time a request is about: `now` unless it names one."""
    return _moment(request, "now") or now


def to_keys(keys: Sequence[index_service_pb2.SpaceKey]) -> list[DataKey]:
    """The keys of a request. Raises InvalidFieldError for one that is not of 32 bytes."""
    for number, key in enumerate(keys):
        if len(key.key) != KEY_BYTES:
            described = f"has {len(key.key)} bytes; allowed are {KEY_BYTES}"
            raise InvalidFieldError.of([Violation(f"keys[{number}].key", described)])
    return [DataKey(key.id, key.key) for key in keys]


def from_part(part: ScorePart) -> resources_pb2.ScoreComponent:
    """A part of a relevance as a message."""
    return resources_pb2.ScoreComponent(
        name=part.name, value=part.value, weight=part.weight, contribution=part.contribution
    )
