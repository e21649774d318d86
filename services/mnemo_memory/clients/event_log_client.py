"""The event-bus, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_memory import wire
from mnemo_memory.clients.sealed_events import revision_message
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.memory.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    import grpc

    from mnemo_memory.domain.memory import Revision, Space
    from mnemo_memory.domain.ports import Run, Vault
    from mnemocore.ids import SpaceUid, Tenant
    from mnemocore.sealing import SpaceCipher

SOURCE: Final = "mnemocore/memory"
REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Bytes of events one request carries, far below the largest message a server takes."""
REQUEST_EVENTS: Final = 1000
SPACE_ERASED: Final = "space.erased"
"""The type of the event that ends a space: the log takes nothing more of it."""
_SCHEMA: Final = resources_pb2.Revision.DESCRIPTOR.full_name


class EventLogClient:
    """Implements `mnemo_memory.domain.ports.EventLog` on a channel to the event-bus.

    What encrypted spaces hold is sealed in their events.
    """

    def __init__(self, channel: grpc.aio.Channel, vault: Vault) -> None:
        self._stub = event_service_pb2_grpc.EventServiceStub(channel)
        self._vault = vault

    async def publish(self, runs: Sequence[Run]) -> None:
        """Append the revisions in their order; an event's id is the space and the revision, so once is enough."""
        ciphers = [await self._vault.renewed(run.space) for run in runs]  # an event outlives older keys
        for events in _requests(
            _event(run.space, revision, cipher)
            for run, cipher in zip(runs, ciphers, strict=True)
            for revision in run.revisions
        ):
            await self._stub.PublishEvents(event_service_pb2.PublishEventsRequest(events=events))

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        """Take the content out of published revisions, by their numbers."""
        keys = [
            events_pb2.EventKey(tenant=space.tenant, source=SOURCE, id=_event_id(space, number)) for number in revisions
        ]
        await self._stub.RedactEvents(event_service_pb2.RedactEventsRequest(keys=keys))

    async def erase(self, tenant: Tenant, space_uid: SpaceUid, revision: int, at: datetime) -> None:
        """Publish the event that ends the space; then remove all others. It names the space by its internal id only."""
        event = events_pb2.Event(
            id=f"{space_uid}:erased",
            source=SOURCE,
            type=SPACE_ERASED,
            subject=f"spaces/{space_uid}",
            time=to_timestamp(at),
            tenant=tenant,
            space_uid=space_uid,
            revision=revision,
        )
        await self._stub.PublishEvents(event_service_pb2.PublishEventsRequest(events=[event]))
        await self._stub.EraseSpaceEvents(
            event_service_pb2.EraseSpaceEventsRequest(tenant=tenant, space_uid=space_uid, keep_id=event.id)
        )


def _requests(events: Iterable[events_pb2.Event]) -> Iterator[list[events_pb2.Event]]:
    """The events in their order, as many a request as it may have below REQUEST_BYTES; a larger one stands alone."""
    waiting: list[events_pb2.Event] = []
    room = REQUEST_BYTES
    for event in events:
        size = event.ByteSize()
        if waiting and (size > room or len(waiting) == REQUEST_EVENTS):
            yield waiting
            waiting, room = [], REQUEST_BYTES
        waiting.append(event)
        room -= size
    if waiting:
        yield waiting


def _event_id(space: Space, revision: int) -> str:
    return f"{space.uid}:{revision}"


def _event(space: Space, revision: Revision, cipher: SpaceCipher | None) -> events_pb2.Event:
    message = revision_message(space, revision, cipher)
    return events_pb2.Event(
        id=_event_id(space, revision.revision),
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
