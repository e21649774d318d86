"""Messages of the contract as values of the domain, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter, check_types
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
    )


def to_filter(message: resources_pb2.EventFilter, tenant: Tenant | None = None) -> Filter:
    """The filter of a request, for one tenant or all. Raises InvalidFieldError for a malformed pattern."""
    return Filter(check_types(message.types), SpaceUid(message.space_uid) if message.space_uid else None, tenant)


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
        ),
        stored_at=to_timestamp(stored.stored_at),
    )
