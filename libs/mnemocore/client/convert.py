"""Between the messages of the wire and the values of the client, both ways.

What a server checks is not checked here, but what no message can carry is refused with InvalidFieldError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask

from mnemocore.client import event_values, values
from mnemocore.client.media import Media, media_from_wire
from mnemocore.cognitive.v1 import resources_pb2 as cognitive_pb2
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.memory.v1 import association_service_pb2, memory_service_pb2
from mnemocore.memory.v1 import resources_pb2 as memory_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.struct_pb2 import Struct, Value
    from google.protobuf.timestamp_pb2 import Timestamp

    from mnemocore.gateway.v1 import gateway_service_pb2

E = TypeVar("E", bound=StrEnum)

LARGEST_EXACT_INTEGER: Final = 2**53
"""Doubles hold every integer up to here."""

WIRE_ENUMS: Final[dict[type[StrEnum], Any]] = {
    values.MemoryKind: memory_pb2.MemoryKind,
    values.MemoryState: memory_pb2.MemoryState,
    values.ChangeType: memory_pb2.ChangeType,
    values.RecallProfile: memory_pb2.RecallProfile,
    values.Modality: memory_pb2.Modality,
    values.Tier: memory_pb2.Tier,
    values.RetentionState: memory_service_pb2.RetentionState,
    values.OnDuplicate: memory_pb2.OnDuplicate,
    values.NoveltyGate: memory_pb2.NoveltyGate,
    values.NoveltyDecision: memory_pb2.NoveltyDecision,
    values.Origin: memory_pb2.Origin,
    values.SpaceAccess: memory_pb2.SpaceAccess,
    values.GrantRole: memory_pb2.GrantRole,
    values.AssociationType: memory_pb2.AssociationType,
    values.Direction: association_service_pb2.Direction,
    values.DegradedPart: common_pb2.DegradedPart,
    values.JobState: cognitive_pb2.JobState,
    event_values.FailureReason: events_pb2.FailureReason,
    event_values.SchemaFormat: events_pb2.SchemaFormat,
    event_values.SchemaCompatibility: events_pb2.SchemaCompatibility,
    event_values.AccessAction: events_pb2.AccessAction,
    event_values.WebhookState: events_pb2.WebhookState,
    event_values.AgentState: events_pb2.AgentState,
    event_values.TaskState: events_pb2.TaskState,
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
        raise invalid(field, f"{value!r} is not allowed; allowed are {', '.join(_NUMBERS[cls])}")
    return number


def enum_from_wire(cls: type[E], number: int) -> E:
    """The member for a number; UNKNOWN if this release does not know it."""
    member = _MEMBERS[cls].get(number, cls("unknown"))
    assert isinstance(member, cls)
    return member


def enums_to_wire(cls: type[StrEnum], members: Sequence[str], field: str) -> list[Any]:
    """The numbers of several members or texts. Raises InvalidFieldError that names `field`."""
    if isinstance(members, str):
        raise invalid(field, f"{str(members)!r} is one text; give a list of texts")
    return [enum_to_wire(cls, member, field) for member in members]


def time_to_wire(time: datetime, into: Timestamp, field: str) -> None:
    """Write `time`, which needs a time zone, into a message. Raises InvalidFieldError that names `field`."""
    if not isinstance(time, datetime):
        raise invalid(field, f"{time!r} is not a datetime")
    if time.utcoffset() is None:
        raise invalid(field, f"{time.isoformat()} has no time zone")
    into.FromDatetime(time)


def duration_to_wire(duration: timedelta, into: Duration, field: str) -> None:
    """Write `duration` into a message. Raises InvalidFieldError that names `field`."""
    if not isinstance(duration, timedelta):
        raise invalid(field, f"{duration!r} is not a timedelta")
    into.FromTimedelta(duration)


def time_from_wire(message: Message, field: str) -> datetime | None:
    """The time in a message's field, UTC; None if it is not set."""
    if not message.HasField(field):
        return None
    time: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return time


def struct_to_wire(mapping: Mapping[str, values.Json], into: Struct, field: str) -> None:
    """Write JSON-like data into a message. Raises InvalidFieldError that names the path of what cannot be carried."""
    if not isinstance(mapping, Mapping):
        raise invalid(field, f"{type(mapping).__name__} is not a mapping")
    for key, item in mapping.items():
        if not isinstance(key, str):
            raise invalid(field, f"the key {key!r} is not a text")
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
        raise invalid(path, f"{type(item).__name__} is not JSON")


def _double(number: float, path: str) -> float:
    if isinstance(number, int) and abs(number) > LARGEST_EXACT_INTEGER:
        raise invalid(path, f"{number} is beyond 2**53 and would lose digits; keep it as text")
    if not math.isfinite(number):
        raise invalid(path, f"{number} is not a finite number")
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


def memory_input_to_wire(item: values.MemoryInput, now: datetime) -> memory_pb2.MemoryInput:
    """The message that creates `item`, made at `now`. Raises InvalidFieldError."""
    message = memory_pb2.MemoryInput()
    for field, write in _INPUT_FIELDS.items():
        if (value := getattr(item, field)) is not None:
            write(message, field, value)
    if item.ttl is not None:
        if item.expires_at is not None:
            raise invalid("ttl", "cannot be given together with expires_at")
        time_to_wire(_expiry(item.ttl, now), message.expires_at, "ttl")
    if item.media is not None:
        _media_to_wire(item.media, item.media_type, message.media)
    elif item.media_type:
        raise invalid("media_type", f"{item.media_type!r} is given without media")
    return message


def update_to_wire(fields: Mapping[str, Any], now: datetime) -> tuple[memory_pb2.MemoryInput, FieldMask]:
    """The new values of `fields` without those that are UNCHANGED, and the mask that names them; made at `now`.

    None empties a field. Raises InvalidFieldError, also if nothing would change.
    """
    given = {field: value for field, value in fields.items() if value is not values.UNCHANGED}
    if "ttl" in given:
        if "expires_at" in given:
            raise invalid("ttl", "cannot be given together with expires_at")
        given["expires_at"] = _expiry(given.pop("ttl"), now)
    if not given:
        raise invalid("update_mask", "names no field; give at least one field to change")
    message = memory_pb2.MemoryInput()
    for field, value in given.items():
        if value is not None:
            _INPUT_FIELDS[field](message, field, value)
    return message, FieldMask(paths=list(given))


def _expiry(ttl: timedelta, now: datetime) -> datetime:
    if not isinstance(ttl, timedelta):
        raise invalid("ttl", f"{ttl!r} is not a timedelta")
    try:
        return now + ttl
    except OverflowError:
        raise invalid("ttl", f"{ttl} is too long; leave it out for a memory that never expires") from None


def _media_to_wire(media: bytes | Media, mime_type: str, into: memory_pb2.MediaInput) -> None:
    if isinstance(media, Media):
        into.upload = media.name
    else:
        assign(into, "data", media, "media")
    assign(into, "mime_type", mime_type, "media_type")


def _write_kind(message: memory_pb2.MemoryInput, field: str, kind: str) -> None:
    message.kind = enum_to_wire(values.MemoryKind, kind, field)


def _write_on_duplicate(message: memory_pb2.MemoryInput, field: str, choice: str) -> None:
    message.on_duplicate = enum_to_wire(values.OnDuplicate, choice, field)


def _write_novelty_gate(message: memory_pb2.MemoryInput, field: str, gate: str) -> None:
    message.novelty_gate = enum_to_wire(values.NoveltyGate, gate, field)


def _write_metadata(message: memory_pb2.MemoryInput, field: str, metadata: Mapping[str, values.Json]) -> None:
    struct_to_wire(metadata, message.metadata, field)


def _write_time(message: memory_pb2.MemoryInput, field: str, time: datetime) -> None:
    time_to_wire(time, getattr(message, field), field)


def _write_provenance(message: memory_pb2.MemoryInput, field: str, provenance: values.Provenance) -> None:
    if not isinstance(provenance, values.Provenance):
        raise invalid(field, f"{provenance!r} is not a Provenance")
    target = message.provenance
    if provenance.origin != values.Origin.UNKNOWN:
        target.origin = enum_to_wire(values.Origin, provenance.origin, f"{field}.origin")
    extend(target, "sources", provenance.sources, f"{field}.sources")
    assign(target, "agent", provenance.agent, f"{field}.agent")


def memory_input_from_wire(message: memory_pb2.MemoryInput) -> values.MemoryInput:
    """What was said of a memory that is not written yet; working memory has no media."""
    return values.MemoryInput(
        content=message.content,
        kind=enum_from_wire(values.MemoryKind, message.kind),
        metadata=struct_from_wire(message.metadata),
        tags=tuple(message.tags),
        actor=message.actor,
        session=message.session,
        ordinal=_optional(message, "ordinal"),
        occurred_at=time_from_wire(message, "occurred_at"),
        importance=_optional(message, "importance"),
        confidence=_optional(message, "confidence"),
        id=message.id,
        valid_from=time_from_wire(message, "valid_from"),
        valid_to=time_from_wire(message, "valid_to"),
        expires_at=time_from_wire(message, "expires_at"),
        provenance=_provenance_from_wire(message),
        protected=message.protected,
        on_duplicate=enum_from_wire(values.OnDuplicate, message.on_duplicate) if message.on_duplicate else None,
        novelty_gate=enum_from_wire(values.NoveltyGate, message.novelty_gate) if message.novelty_gate else None,
    )


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
        ordinal=_optional(message, "ordinal"),
        occurred_at=time_from_wire(message, "occurred_at"),
        importance=message.importance,
        confidence=message.confidence,
        state=enum_from_wire(values.MemoryState, message.state),
        revision=message.revision,
        create_time=time_from_wire(message, "create_time"),
        update_time=time_from_wire(message, "update_time"),
        etag=message.etag,
        modality=enum_from_wire(values.Modality, message.modality),
        media=media_from_wire(message.media) if message.HasField("media") else None,
        valid_from=time_from_wire(message, "valid_from"),
        valid_to=time_from_wire(message, "valid_to"),
        expires_at=time_from_wire(message, "expires_at"),
        provenance=_provenance_from_wire(message),
        supersedes=last_part(message.supersedes),
        superseded_by=last_part(message.superseded_by),
        protected=message.protected,
        strength=message.strength,
        access_count=message.access_count,
        last_accessed_at=time_from_wire(message, "last_accessed_at"),
        reliability=message.reliability,
        tier=enum_from_wire(values.Tier, message.tier),
    )


def read_memory_from_wire(message: memory_service_pb2.GetMemoryResponse) -> values.Memory:
    """The stored memory and how much of it is retained, if that was told."""
    memory = memory_from_wire(message.memory)
    if not message.HasField("retention"):
        return memory
    state = enum_from_wire(values.RetentionState, message.retention_state)
    return replace(memory, retention=message.retention, retention_state=state)


def _optional(message: Message, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _provenance_from_wire(message: memory_pb2.Memory | memory_pb2.MemoryInput) -> values.Provenance | None:
    if not message.HasField("provenance"):
        return None
    found = message.provenance
    return values.Provenance(enum_from_wire(values.Origin, found.origin), tuple(found.sources), found.agent)


def remembered_from_wire(message: memory_service_pb2.CreateMemoryResponse) -> values.Remembered:
    """What became of a memory."""
    return values.Remembered(
        memory=memory_from_wire(message.memory),
        duplicate=message.duplicate,
        novelty=enum_from_wire(values.NoveltyDecision, message.novelty) if message.novelty else None,
    )


def filter_to_wire(chosen: values.MemoryFilter) -> memory_pb2.MemoryFilter:
    """The message for a filter."""
    message = memory_pb2.MemoryFilter(
        kinds=enums_to_wire(values.MemoryKind, chosen.kinds, "filter.kinds"),
        modalities=enums_to_wire(values.Modality, chosen.modalities, "filter.modalities"),
    )
    for field in ("tags", "actors", "sessions"):
        extend(message, field, getattr(chosen, field), f"filter.{field}")
    for field in ("occurred_from", "occurred_to", "valid_at", "created_from", "created_to"):
        if (time := getattr(chosen, field)) is not None:
            time_to_wire(time, getattr(message, field), f"filter.{field}")
    if chosen.min_importance is not None:
        assign(message, "min_importance", chosen.min_importance, "filter.min_importance")
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


def last_part(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2]


def assign(message: Any, field: str, value: object, path: str | None = None) -> None:
    """Set a field. Raises InvalidFieldError that names it if the message cannot carry the value."""
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise _cannot_carry(path or field, value, error) from None


def extend(message: Any, field: str, items: object, path: str | None = None) -> None:
    """Add the items of a list. Raises InvalidFieldError that names the field if the message cannot carry them."""
    if isinstance(items, str):
        raise invalid(path or field, f"{items!r} is one text; give a list of texts")
    try:
        getattr(message, field).extend(items)
    except (TypeError, ValueError) as error:
        raise _cannot_carry(path or field, items, error) from None


def _cannot_carry(path: str, value: object, error: Exception) -> InvalidFieldError:
    if isinstance(error, UnicodeError):
        return invalid(path, "is not valid Unicode (a lone surrogate)")
    shown = repr(value)
    return invalid(path, f"{shown if len(shown) <= 80 else shown[:77] + '...'} cannot be sent ({error})")


def invalid(field: str, description: str) -> InvalidFieldError:
    """The error that says what is wrong with one field."""
    return InvalidFieldError.of([Violation(field, description)])


_INPUT_FIELDS: Final[dict[str, Callable[[memory_pb2.MemoryInput, str, Any], None]]] = {
    "id": assign,
    "kind": _write_kind,
    "content": assign,
    "metadata": _write_metadata,
    "tags": extend,
    "actor": assign,
    "session": assign,
    "ordinal": assign,
    "occurred_at": _write_time,
    "importance": assign,
    "confidence": assign,
    "valid_from": _write_time,
    "valid_to": _write_time,
    "expires_at": _write_time,
    "provenance": _write_provenance,
    "protected": assign,
    "on_duplicate": _write_on_duplicate,
    "novelty_gate": _write_novelty_gate,
}
"""The fields of MemoryInput that are fields of the message too, and what writes each."""
