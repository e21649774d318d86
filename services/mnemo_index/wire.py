"""Contract messages to domain values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_index.domain.documents import Change, ChangeType, Document, Filter
from mnemocore.ids import MemoryId
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import struct_to_dict, to_datetime

if TYPE_CHECKING:
    from mnemo_index.domain.search import ScorePart
    from mnemocore.events.v1 import resources_pb2 as events_pb2

_CHANGES: Final = {
    resources_pb2.CHANGE_TYPE_CREATED: ChangeType.CREATED,
    resources_pb2.CHANGE_TYPE_ARCHIVED: ChangeType.ARCHIVED,
    resources_pb2.CHANGE_TYPE_RESTORED: ChangeType.RESTORED,
    resources_pb2.CHANGE_TYPE_ERASED: ChangeType.ERASED,
    resources_pb2.CHANGE_TYPE_REPUBLISHED: ChangeType.REPUBLISHED,
}


def to_change(event: events_pb2.Event) -> Change:
    """The change an event carries. One whose content was erased since removes the memory."""
    revision = resources_pb2.Revision.FromString(event.data)
    memory_id = MemoryId(event.subject.rpartition("/")[2])
    if not revision.memory.content:
        return Change(event.revision, ChangeType.ERASED, memory_id)
    change = _CHANGES[revision.change]
    return Change(event.revision, change, memory_id, None if change.removes else _document(memory_id, revision.memory))


def _document(memory_id: MemoryId, memory: resources_pb2.Memory) -> Document:
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
    )


def _kind(number: int) -> str:
    return str(number)


def to_filter(message: resources_pb2.MemoryFilter) -> Filter:
    """The filter of a request."""
    return Filter(
        kinds=frozenset(_kind(kind) for kind in message.kinds if kind),
        tags=frozenset(message.tags),
        actors=frozenset(message.actors),
        sessions=frozenset(message.sessions),
        occurred_from=to_datetime(message.occurred_from) if message.HasField("occurred_from") else None,
        occurred_to=to_datetime(message.occurred_to) if message.HasField("occurred_to") else None,
        metadata=struct_to_dict(message.metadata),
    )


def from_part(part: ScorePart) -> resources_pb2.ScoreComponent:
    """A part of a relevance as a message."""
    return resources_pb2.ScoreComponent(
        name=part.name, value=part.value, weight=part.weight, contribution=part.contribution
    )
