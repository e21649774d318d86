"""The event log as the index reads it, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_index import wire
from mnemo_index.domain.ports import FeedBatch, LogTooShortError
from mnemocore.errors import InvalidFieldError, PeerUnavailableError
from mnemocore.events.v1 import event_service_pb2 as pb
from mnemocore.events.v1 import event_service_pb2_grpc
from mnemocore.ids import SpaceUid
from mnemocore.wire import to_datetime

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc

CREDIT: Final = 2048
"""How many events may be on their way. Given back batch by batch, once they are applied."""

_TYPES: Final = ("memory.*", wire.SPACE_ERASED)


class FeedClient:
    """Implements `mnemo_index.domain.ports.Feed` on a channel to the event-bus."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = event_service_pb2_grpc.EventServiceStub(channel)

    async def changes(self, after: int, space_uid: SpaceUid | None = None) -> AsyncGenerator[FeedBatch]:
        """Changes after a position, of all spaces or of one, for ever.

        Raises PeerUnavailableError when it breaks, LogTooShortError if the position lies beyond the head.
        """
        start = pb.SubscribeEventsRequest.Start(after_position=after, credit=CREDIT, head_at_once=True)
        start.filter.types.extend(_TYPES)
        start.filter.space_uid = space_uid or ""
        call = self._stub.SubscribeEvents()
        try:
            await call.write(pb.SubscribeEventsRequest(start=start))
            async for response in call:
                yield _batch(response)
                if response.events:
                    credit = pb.SubscribeEventsRequest.Credit(events=len(response.events))
                    await call.write(pb.SubscribeEventsRequest(credit=credit))
        except InvalidFieldError as error:
            if error.metadata.get("field") != "start.after_position":
                raise
            raise LogTooShortError(str(error)) from error
        finally:
            call.cancel()
        raise PeerUnavailableError("the event-bus ended the stream", target="events")


def _batch(response: pb.SubscribeEventsResponse) -> FeedBatch:
    events = [stored.event for stored in response.events if stored.event.space_uid]
    changes = tuple(
        (SpaceUid(event.space_uid), wire.to_change(event)) for event in events if event.type != wire.SPACE_ERASED
    )
    erased = frozenset(SpaceUid(event.space_uid) for event in events if event.type == wire.SPACE_ERASED)
    oldest = to_datetime(response.events[0].stored_at) if response.events else None
    return FeedBatch(changes, response.resume_position, response.head_position, oldest, erased)
