"""The servicer of `mnemocore.events.v1.EventService`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mnemo_events.api import wire
from mnemo_events.domain.eraser import erase_space
from mnemo_events.domain.reader import read_page
from mnemocore import calls
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.paging import page_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from mnemo_events.domain.ports import EventLog
    from mnemo_events.domain.publisher import Publisher
    from mnemo_events.domain.subscription import Subscription, Subscriptions

    Context = ServicerContext[Any, Any]


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, log: EventLog, publisher: Publisher, subscriptions: Subscriptions) -> None:
        self._log = log
        self._publisher = publisher
        self._subscriptions = subscriptions

    async def PublishEvents(
        self, request: event_service_pb2.PublishEventsRequest, context: Context
    ) -> event_service_pb2.PublishEventsResponse:
        """Append a batch."""
        positions = await self._publisher.publish([wire.to_event(event) for event in request.events])
        return event_service_pb2.PublishEventsResponse(positions=positions)

    async def RedactEvents(
        self, request: event_service_pb2.RedactEventsRequest, context: Context
    ) -> event_service_pb2.RedactEventsResponse:
        """Take payloads out."""
        redacted = await self._log.redact([(key.tenant, key.source, key.id) for key in request.keys])
        return event_service_pb2.RedactEventsResponse(redacted=redacted)

    async def EraseSpaceEvents(
        self, request: event_service_pb2.EraseSpaceEventsRequest, context: Context
    ) -> event_service_pb2.EraseSpaceEventsResponse:
        """Remove the events of a space."""
        removed = await erase_space(self._log, Tenant(request.tenant), SpaceUid(request.space_uid), request.keep_id)
        return event_service_pb2.EraseSpaceEventsResponse(removed=removed)

    async def SubscribeEvents(
        self,
        request_iterator: AsyncIterator[event_service_pb2.SubscribeEventsRequest],
        context: Context,
    ) -> AsyncIterator[event_service_pb2.SubscribeEventsResponse]:
        """Stream the log."""
        start = await _start_of(request_iterator)
        where = wire.to_filter(start.filter)
        with self._subscriptions.open(
            start.after_position, where, start.credit, head_at_once=start.head_at_once
        ) as subscription:
            credit = asyncio.create_task(_take_credit(request_iterator, subscription))
            try:
                async with aclosing(subscription.pages()) as pages:
                    async for page in pages:
                        yield event_service_pb2.SubscribeEventsResponse(
                            events=[wire.from_stored(stored) for stored in page.events],
                            resume_position=page.resume,
                            head_position=page.head,
                        )
            finally:
                credit.cancel()

    async def ReadEvents(
        self, request: event_service_pb2.ReadEventsRequest, context: Context
    ) -> event_service_pb2.ReadEventsResponse:
        """Read a page of the caller's tenant."""
        where = wire.to_filter(request.filter, calls.caller().tenant)
        page = await read_page(self._log, request.after_position, where, page_size(request.page_size))
        return event_service_pb2.ReadEventsResponse(
            events=[wire.from_stored(stored) for stored in page.events],
            resume_position=page.resume,
            head_position=page.head,
        )


async def _start_of(
    requests: AsyncIterator[event_service_pb2.SubscribeEventsRequest],
) -> event_service_pb2.SubscribeEventsRequest.Start:
    async for request in requests:
        if request.WhichOneof("message") == "start":
            return request.start
        break
    raise InvalidFieldError.of([Violation("start", "is missing; the first message must be start")])


async def _take_credit(
    requests: AsyncIterator[event_service_pb2.SubscribeEventsRequest], subscription: Subscription
) -> None:
    """Pass the reader's credit on until it gives no more."""
    try:
        async for request in requests:
            if request.WhichOneof("message") != "credit":
                raise InvalidFieldError.of([Violation("credit", "is missing; only the first message may be another")])
            subscription.give_credit(request.credit.events)
    except MnemoError as error:
        subscription.fail(error)
    finally:
        subscription.end_credit()
