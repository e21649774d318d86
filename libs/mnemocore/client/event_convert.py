"""Between the messages of the event-bus and the values of the client, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.events.v1 import resources_pb2

if TYPE_CHECKING:
    from datetime import timedelta

    from google.protobuf.message import Message

    from mnemocore.events.v1 import group_service_pb2

BINARY: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


def payload_to_wire(data: values.Payload, content_type: str, field: str) -> tuple[bytes, str]:
    """The bytes of a payload and what they are; `content_type` if it is given. Raises InvalidFieldError for `field`."""
    if data is None:
        return b"", content_type
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), content_type or BINARY
    if isinstance(data, str):
        return _encoded(data, field), content_type or TEXT
    try:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise convert.invalid(field, f"is not JSON: {error}") from None
    return _encoded(text, field), content_type or JSON


def _encoded(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise convert.invalid(field, "is not valid Unicode (a lone surrogate)") from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def event_to_wire(item: values.EventInput, id: str, now: datetime) -> resources_pb2.Event:
    """The message that publishes `item`; `id` and `now` stand in for what it leaves out. Raises InvalidFieldError."""
    message = resources_pb2.Event(id=id)
    if item.id:
        convert.assign(message, "id", item.id)
    for field in ("type", "subject", "source", "dataschema", "correlation_id", "causation_id"):
        convert.assign(message, field, getattr(item, field))
    data, content_type = payload_to_wire(item.data, item.datacontenttype, "data")
    convert.assign(message, "data", data)
    convert.assign(message, "datacontenttype", content_type)
    convert.time_to_wire(item.time or now, message.time, "time")
    return message


def event_from_wire(message: resources_pb2.StoredEvent) -> values.Event:
    """An event and its place in the log."""
    return values.Event(**_event_fields(message))


def consumed_from_wire(message: group_service_pb2.ConsumeEventsResponse.Delivery) -> values.ConsumedEvent:
    """An event that a member is given."""
    return values.ConsumedEvent(**_event_fields(message.event), attempt=message.attempt, replayed=message.replayed)


def _event_fields(message: resources_pb2.StoredEvent) -> dict[str, Any]:
    event = message.event
    return {
        "position": message.position,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": convert.time_from_wire(event, "time"),
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "data": event.data,
        "space_uid": event.space_uid,
        "revision": event.revision,
        "stored_at": convert.time_from_wire(message, "stored_at"),
        "traceparent": event.traceparent,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
    }


def filter_to_wire(types: Sequence[str], subjects: Sequence[str], space_uid: str) -> resources_pb2.EventFilter:
    """The message for a filter. Raises InvalidFieldError."""
    message = resources_pb2.EventFilter()
    convert.extend(message, "types", types)
    convert.extend(message, "subjects", subjects)
    convert.assign(message, "space_uid", space_uid)
    return message


def start_to_wire(start: values.Start, field: str) -> resources_pb2.StartAt:
    """The message for a place in the log. Raises InvalidFieldError that names `field`."""
    message = resources_pb2.StartAt()
    if isinstance(start, datetime):
        convert.time_to_wire(start, message.time, field)
    elif isinstance(start, int) and not isinstance(start, bool):
        convert.assign(message, "after_position", start, field)
    elif start == "earliest":
        message.earliest.SetInParent()
    elif start == "latest":
        message.latest.SetInParent()
    else:
        raise convert.invalid(field, f"{start!r} is no place; allowed are a position, a time, 'earliest' and 'latest'")
    return message


def group_from_wire(message: resources_pb2.Group) -> values.ConsumerGroup:
    """A group and how it stands."""
    return values.ConsumerGroup(
        id=convert.last_part(message.name),
        types=tuple(message.filter.types),
        subjects=tuple(message.filter.subjects),
        space_uid=message.filter.space_uid,
        max_attempts=message.max_attempts,
        lease=duration_from_wire(message, "lease"),
        owner=message.owner,
        create_time=convert.time_from_wire(message, "create_time"),
        position=message.position,
        in_flight=message.in_flight,
        waiting=message.waiting,
        dead=message.dead,
        lag=message.lag,
    )


def dead_letter_from_wire(message: resources_pb2.DeadLetter) -> values.DeadLetter:
    """A dead letter."""
    return values.DeadLetter(
        group=message.name.split("/")[1],
        event=event_from_wire(message.event),
        reason=convert.enum_from_wire(values.FailureReason, message.reason),
        message=message.message,
        attempts=message.attempts,
        replays=message.replays,
        first_death_time=convert.time_from_wire(message, "first_death_time"),
        death_time=convert.time_from_wire(message, "death_time"),
        replaying=message.replaying,
    )


def schema_from_wire(message: resources_pb2.EventSchema) -> values.EventSchema:
    """A version of a schema."""
    return values.EventSchema(
        type=message.type,
        version=message.version,
        format=convert.enum_from_wire(values.SchemaFormat, message.format),
        definition=message.definition,
        message_name=message.message_name,
        compatibility=convert.enum_from_wire(values.SchemaCompatibility, message.compatibility),
        closed=message.closed,
        create_time=convert.time_from_wire(message, "create_time"),
        platform=message.platform,
        description=message.description,
    )


def policy_from_wire(message: resources_pb2.AccessPolicy) -> values.AccessPolicy:
    """An access policy."""
    return values.AccessPolicy(
        id=convert.last_part(message.name),
        principal=message.principal,
        actions=tuple(convert.enum_from_wire(values.AccessAction, action) for action in message.actions),
        types=tuple(message.types),
        subjects=tuple(message.subjects),
        create_time=convert.time_from_wire(message, "create_time"),
    )


def refusal_from_wire(message: resources_pb2.Refusal) -> values.Refusal:
    """What was refused in an hour."""
    return values.Refusal(
        principal=message.principal,
        action=convert.enum_from_wire(values.AccessAction, message.action),
        target=message.target,
        method=message.method,
        count=message.count,
        first_time=convert.time_from_wire(message, "first_time"),
        last_time=convert.time_from_wire(message, "last_time"),
    )


def webhook_from_wire(message: resources_pb2.Webhook) -> values.Webhook:
    """A webhook, without its secret."""
    return values.Webhook(
        id=convert.last_part(message.name),
        url=message.url,
        types=tuple(message.filter.types),
        subjects=tuple(message.filter.subjects),
        space_uid=message.filter.space_uid,
        description=message.description,
        state=convert.enum_from_wire(values.WebhookState, message.state),
        pause_reason=message.pause_reason,
        failures=message.failures,
        owner=message.owner,
        create_time=convert.time_from_wire(message, "create_time"),
        update_time=convert.time_from_wire(message, "update_time"),
        etag=message.etag,
    )


def delivery_from_wire(message: resources_pb2.WebhookDelivery) -> values.WebhookDelivery:
    """An attempt to send an event."""
    return values.WebhookDelivery(
        position=message.position,
        event_id=message.event_id,
        type=message.type,
        attempt=message.attempt,
        time=convert.time_from_wire(message, "time"),
        duration=duration_from_wire(message, "duration"),
        status=message.status,
        delivered=message.delivered,
        error=message.error,
    )


def agent_from_wire(message: resources_pb2.Agent) -> values.Agent:
    """An agent."""
    return values.Agent(
        id=convert.last_part(message.name),
        capabilities=tuple(message.capabilities),
        description=message.description,
        metadata=convert.struct_from_wire(message.metadata),
        state=convert.enum_from_wire(values.AgentState, message.state),
        load=message.load,
        last_heartbeat_time=convert.time_from_wire(message, "last_heartbeat_time"),
        create_time=convert.time_from_wire(message, "create_time"),
        principal=message.principal,
    )


def task_from_wire(message: resources_pb2.Task) -> values.Task:
    """A task and how it stands."""
    return values.Task(
        id=convert.last_part(message.name),
        type=message.type,
        payload=message.payload,
        content_type=message.content_type,
        capabilities=tuple(message.capabilities),
        priority=message.priority,
        max_attempts=message.max_attempts,
        not_before=convert.time_from_wire(message, "not_before"),
        state=convert.enum_from_wire(values.TaskState, message.state),
        attempts=message.attempts,
        agent=convert.last_part(message.agent),
        lease_until=convert.time_from_wire(message, "lease_until"),
        result=message.result,
        reason=convert.enum_from_wire(values.FailureReason, message.reason),
        error=message.error,
        principal=message.principal,
        create_time=convert.time_from_wire(message, "create_time"),
        end_time=convert.time_from_wire(message, "end_time"),
        retries=message.retries,
    )


def duration_from_wire(message: Message, field: str) -> timedelta | None:
    """The span in a message's field; None if it is not set."""
    if not message.HasField(field):
        return None
    span: timedelta = getattr(message, field).ToTimedelta()
    return span
