"""The event-bus, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_memory import wire
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from mnemo_memory.domain.memory import Revision, Space

SOURCE: Final = "mnemocore/memory"
_SCHEMA: Final = resources_pb2.Revision.DESCRIPTOR.full_name


class EventLogClient:
    """Implements `mnemo_memory.domain.ports.EventLog` on a channel to the event-bus."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = event_service_pb2_grpc.EventServiceStub(channel)

    async def publish(self, space: Space, revisions: Sequence[Revision]) -> None:
        """Append the revisions in their order; an event's id is the space and the revision, so once is enough."""
        await self._stub.PublishEvents(
            event_service_pb2.PublishEventsRequest(events=[_event(space, revision) for revision in revisions])
        )


def _event(space: Space, revision: Revision) -> events_pb2.Event:
    message = wire.from_revision(space, revision)
    return events_pb2.Event(
        id=f"{space.uid}:{revision.revision}",
        source=SOURCE,
        type=wire.CHANGE_EVENTS[revision.change],
        subject=message.memory.name,
        time=to_timestamp(revision.committed_at),
        datacontenttype="application/protobuf",
        dataschema=_SCHEMA,
        data=message.SerializeToString(),
        tenant=space.tenant,
        space_uid=space.uid,
        revision=revision.revision,
    )
