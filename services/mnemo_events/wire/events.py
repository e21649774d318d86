"""Messages of the contract as values of the domain, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter, check_subjects, check_types
from mnemocore.events.v1 import resources_pb2
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    from mnemo_events.domain.event import StoredEvent


def to_event(message: resources_pb2.Event) -> Event:
    """An event of a request, already checked by the field rules."""
    return Event(
        id=message.id,
        source=message.source,
        type=message.type,
        subject=message.subject,
        time=to_datetime(message.time),
        datacontenttype=message.datacontenttype,
        dataschema=message.dataschema,
        data=message.data,
        tenant=Tenant(message.tenant),
        space_uid=SpaceUid(message.space_uid),
        revision=message.revision,
        traceparent=message.traceparent,
        correlation_id=message.correlation_id,
        causation_id=message.causation_id,
    )


def to_filter(message: resources_pb2.EventFilter, tenant: Tenant | None = None, field: str = "filter") -> Filter:
    """The filter in the field `field` of a request, for one tenant or all. Raises InvalidFieldError if malformed."""
    return Filter(
        check_types(message.types, f"{field}.types"),
        SpaceUid(message.space_uid) if message.space_uid else None,
        tenant,
        check_subjects(message.subjects, f"{field}.subjects"),
    )


def from_filter(where: Filter) -> resources_pb2.EventFilter:
    """A filter for an answer."""
    return resources_pb2.EventFilter(types=where.types, space_uid=where.space_uid or "", subjects=where.subjects)


def from_stored(stored: StoredEvent) -> resources_pb2.StoredEvent:
    """An event of the log for an answer."""
    event = stored.event
    return resources_pb2.StoredEvent(
        position=stored.position,
        event=resources_pb2.Event(
            id=event.id,
            source=event.source,
            type=event.type,
            subject=event.subject,
            time=to_timestamp(event.time),
            datacontenttype=event.datacontenttype,
            dataschema=event.dataschema,
            data=event.data,
            tenant=event.tenant,
            space_uid=event.space_uid,
            revision=event.revision,
            traceparent=event.traceparent,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
        ),
        stored_at=to_timestamp(stored.stored_at),
    )
