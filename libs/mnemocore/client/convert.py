"""Between the messages of the wire and the values of the client, both ways.

What a server checks is not checked here, but what no message can carry is refused with InvalidFieldError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mnemocore.client import values
from mnemocore.cognitive.v1 import resources_pb2 as cognitive_pb2
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.memory.v1 import resources_pb2 as memory_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.struct_pb2 import Struct, Value
    from google.protobuf.timestamp_pb2 import Timestamp

    from mnemocore.events.v1 import resources_pb2 as events_pb2
    from mnemocore.gateway.v1 import gateway_service_pb2
    from mnemocore.memory.v1 import memory_service_pb2

E = TypeVar("E", bound=StrEnum)

LARGEST_EXACT_INTEGER: Final = 2**53
"""Doubles hold every integer up to here."""

WIRE_ENUMS: Final[dict[type[StrEnum], Any]] = {
    values.MemoryKind: memory_pb2.MemoryKind,
    values.MemoryState: memory_pb2.MemoryState,
    values.ChangeType: memory_pb2.ChangeType,
    values.RecallProfile: memory_pb2.RecallProfile,
    values.DegradedPart: common_pb2.DegradedPart,
    values.JobState: cognitive_pb2.JobState,
}
"""Each enumeration and its counterpart on the wire."""


def _wire_names(cls: type[StrEnum]) -> dict[str, int]:
    """Member values and their numbers: `fact` is MEMORY_KIND_FACT."""
    names = dict(WIRE_ENUMS[cls].items())
    prefix = next(name for name, number in names.items() if number == 0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): number for name, number in names.items() if number != 0}


_NUMBERS: Final = {cls: _wire_names(cls) for cls in WIRE_ENUMS}
_MEMBERS: Final = {cls: {number: cls(name) for name, number in _NUMBERS[cls].items()} for cls in WIRE_ENUMS}


def enum_to_wire(cls: type[StrEnum], value: str, field: str) -> Any:
    """The number of `value`, a member of `cls` or its text. Raises InvalidFieldError that names `field`."""
    number = _NUMBERS[cls].get(value)
    if number is None:
        raise _invalid(field, f"{value!r} is not allowed; allowed are {', '.join(_NUMBERS[cls])}")
    return number


def enum_from_wire(cls: type[E], number: int) -> E:
    """The member for a number; UNKNOWN if this release does not know it."""
    member = _MEMBERS[cls].get(number, cls("unknown"))
    assert isinstance(member, cls)
    return member


def time_to_wire(time: datetime, into: Timestamp, field: str) -> None:
    """Write `time`, which needs a time zone, into a message. Raises InvalidFieldError that names `field`."""
    if not isinstance(time, datetime):
        raise _invalid(field, f"{time!r} is not a datetime")
    if time.utcoffset() is None:
        raise _invalid(field, f"{time.isoformat()} has no time zone")
    into.FromDatetime(time)


def time_from_wire(message: Message, field: str) -> datetime | None:
    """The time in a message's field, UTC; None if it is not set."""
    if not message.HasField(field):
        return None
    time: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return time


def struct_to_wire(mapping: Mapping[str, values.Json], into: Struct, field: str) -> None:
    """Write JSON-like data into a message. Raises InvalidFieldError that names the path of what cannot be carried."""
    if not isinstance(mapping, Mapping):
        raise _invalid(field, f"{type(mapping).__name__} is not a mapping")
    for key, item in mapping.items():
        if not isinstance(key, str):
            raise _invalid(field, f"the key {key!r} is not a text")
        _value_to_wire(item, into.fields[key], f"{field}.{key}")


def _value_to_wire(item: object, into: Value, path: str) -> None:
    if item is None:
        into.null_value = 0  # type: ignore[assignment]  # the one value of NullValue
    elif isinstance(item, bool):
        into.bool_value = item
    elif isinstance(item, (int, float)):
        into.number_value = _double(item, path)
    elif isinstance(item, str):
        assign(into, "string_value", str(item), path)
    elif isinstance(item, Mapping):
        into.struct_value.SetInParent()
        struct_to_wire(item, into.struct_value, path)
    elif isinstance(item, Sequence) and not isinstance(item, (bytes, bytearray, memoryview)):
        into.list_value.SetInParent()
        for index, element in enumerate(item):
            _value_to_wire(element, into.list_value.values.add(), f"{path}[{index}]")
    else:
        raise _invalid(path, f"{type(item).__name__} is not JSON")


def _double(number: float, path: str) -> float:
    if isinstance(number, int) and abs(number) > LARGEST_EXACT_INTEGER:
        raise _invalid(path, f"{number} is beyond 2**53 and would lose digits; keep it as text")
    if not math.isfinite(number):
        raise _invalid(path, f"{number} is not a finite number")
    return float(number)


def struct_from_wire(struct: Struct) -> dict[str, values.Json]:
    """JSON-like data: numbers with an integral value as int, others as float."""
    return {key: _value_from_wire(value) for key, value in struct.fields.items()}


def _value_from_wire(value: Value) -> values.Json:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= LARGEST_EXACT_INTEGER else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return struct_from_wire(value.struct_value)
    if kind == "list_value":
        return [_value_from_wire(item) for item in value.list_value.values]
    return None


def memory_input_to_wire(item: values.MemoryInput) -> memory_pb2.MemoryInput:
    """The message that creates `item`."""
    message = memory_pb2.MemoryInput(kind=enum_to_wire(values.MemoryKind, item.kind, "kind"))
    for field in ("id", "content", "actor", "session"):
        assign(message, field, getattr(item, field))
    for field in ("ordinal", "importance", "confidence"):
        if (number := getattr(item, field)) is not None:
            assign(message, field, number)
    _extend(message, "tags", item.tags)
    if item.metadata:
        struct_to_wire(item.metadata, message.metadata, "metadata")
    if item.occurred_at is not None:
        time_to_wire(item.occurred_at, message.occurred_at, "occurred_at")
    return message


def memory_from_wire(message: memory_pb2.Memory) -> values.Memory:
    """The stored memory."""
    _, space, _, memory_id = message.name.split("/")
    return values.Memory(
        id=memory_id,
        space=space,
        kind=enum_from_wire(values.MemoryKind, message.kind),
        content=message.content,
        metadata=struct_from_wire(message.metadata),
        tags=tuple(message.tags),
        actor=message.actor,
        session=message.session,
        ordinal=message.ordinal if message.HasField("ordinal") else None,
        occurred_at=time_from_wire(message, "occurred_at"),
        importance=message.importance,
        confidence=message.confidence,
        state=enum_from_wire(values.MemoryState, message.state),
        revision=message.revision,
        create_time=time_from_wire(message, "create_time"),
        update_time=time_from_wire(message, "update_time"),
        etag=message.etag,
    )


def filter_to_wire(chosen: values.MemoryFilter) -> memory_pb2.MemoryFilter:
    """The message for a filter."""
    message = memory_pb2.MemoryFilter(
        kinds=[enum_to_wire(values.MemoryKind, kind, "filter.kinds") for kind in chosen.kinds]
    )
    for field in ("tags", "actors", "sessions"):
        _extend(message, field, getattr(chosen, field), f"filter.{field}")
    for field in ("occurred_from", "occurred_to"):
        if (time := getattr(chosen, field)) is not None:
            time_to_wire(time, getattr(message, field), f"filter.{field}")
    if chosen.metadata:
        struct_to_wire(chosen.metadata, message.metadata, "filter.metadata")
    return message


def recall_from_wire(message: memory_service_pb2.RecallMemoriesResponse) -> values.RecallHits:
    """The hits of a recall."""
    hits = [
        values.RecallHit(
            score=result.score,
            memory=memory_from_wire(result.memory),
            explanation=tuple(
                values.ScorePart(part.name, part.value, part.weight, part.contribution) for part in result.explanation
            ),
        )
        for result in message.results
    ]
    return values.RecallHits(hits, [enum_from_wire(values.DegradedPart, part) for part in message.degraded])


def space_from_wire(message: memory_pb2.Space) -> values.SpaceInfo:
    """A space and its counts."""
    return values.SpaceInfo(
        id=last_part(message.name),
        uid=message.uid,
        description=message.description,
        revision=message.revision,
        active_memories=message.active_memories,
        archived_memories=message.archived_memories,
        published_revision=message.published_revision,
        create_time=time_from_wire(message, "create_time"),
    )


def revision_from_wire(message: memory_pb2.Revision) -> values.Revision:
    """One change."""
    return values.Revision(
        revision=message.revision,
        change=enum_from_wire(values.ChangeType, message.change),
        memory=memory_from_wire(message.memory),
        commit_time=time_from_wire(message, "commit_time"),
        principal=message.principal,
        reason=message.reason,
    )


def job_from_wire(message: cognitive_pb2.Job) -> values.Job:
    """A job and its report."""
    return values.Job(
        id=last_part(message.name),
        space=last_part(message.space),
        state=enum_from_wire(values.JobState, message.state),
        report=_report_from_wire(message.report),
        error=message.error,
        create_time=time_from_wire(message, "create_time"),
        start_time=time_from_wire(message, "start_time"),
        end_time=time_from_wire(message, "end_time"),
    )


def _report_from_wire(message: cognitive_pb2.ConsolidationReport) -> values.ConsolidationReport:
    groups = (
        values.DuplicateGroup(
            kept=last_part(group.kept),
            duplicates=tuple(
                values.Duplicate(last_part(item.name), item.similarity, item.archived) for item in group.duplicates
            ),
        )
        for group in message.groups
    )
    return values.ConsolidationReport(
        min_similarity=message.min_similarity,
        dry_run=message.dry_run,
        pairs=message.pairs,
        groups=tuple(groups),
        archived=message.archived,
        markdown=message.markdown,
    )


def api_key_from_wire(message: gateway_service_pb2.ApiKey) -> values.ApiKey:
    """An API key, without its secret."""
    return values.ApiKey(
        id=last_part(message.name),
        tenant=message.tenant,
        principal=message.principal,
        scopes=tuple(message.scopes),
        create_time=time_from_wire(message, "create_time"),
        expire_time=time_from_wire(message, "expire_time"),
    )


def capabilities_from_wire(message: gateway_service_pb2.GetCapabilitiesResponse) -> values.Capabilities:
    """What the server can do, and for whom."""
    return values.Capabilities(
        version=message.version,
        tenant=message.tenant,
        principal=message.principal,
        scopes=tuple(message.scopes),
        services={item.service: item.ready for item in message.services},
        methods=tuple(message.methods),
    )


def event_from_wire(message: events_pb2.StoredEvent) -> values.Event:
    """An event and its place in the log."""
    event = message.event
    return values.Event(
        position=message.position,
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=time_from_wire(event, "time"),
        datacontenttype=event.datacontenttype,
        dataschema=event.dataschema,
        data=event.data,
        space_uid=event.space_uid,
        revision=event.revision,
        stored_at=time_from_wire(message, "stored_at"),
    )


def last_part(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2]


def assign(message: Any, field: str, value: object, path: str | None = None) -> None:
    """Set a field. Raises InvalidFieldError that names it if the message cannot carry the value."""
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise _cannot_carry(path or field, value, error) from None


def _extend(message: Any, field: str, items: object, path: str | None = None) -> None:
    if isinstance(items, str):
        raise _invalid(path or field, f"{items!r} is one text; give a list of texts")
    try:
        getattr(message, field).extend(items)
    except (TypeError, ValueError) as error:
        raise _cannot_carry(path or field, items, error) from None


def _cannot_carry(path: str, value: object, error: Exception) -> InvalidFieldError:
    if isinstance(error, UnicodeError):
        return _invalid(path, "is not valid Unicode (a lone surrogate)")
    shown = repr(value)
    return _invalid(path, f"{shown if len(shown) <= 80 else shown[:77] + '...'} cannot be sent ({error})")


def _invalid(field: str, description: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, description)])
