"""The servicer of `mnemocore.events.v1.EventService`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mnemo_events.domain.access import Action
from mnemo_events.domain.reader import read_page
from mnemo_events.domain.start import AfterPosition, position_of
from mnemo_events.wire.events import from_stored, to_event, to_filter
from mnemo_events.wire.groups import to_start
from mnemocore import calls
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.paging import page_size
from mnemocore.server import Encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from grpc.aio import ServicerContext

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.eraser import Eraser
    from mnemo_events.domain.event import Page, StoredEvent
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.ports import EventLog
    from mnemo_events.domain.publication import Publication
    from mnemo_events.domain.subscription import Subscription, Subscriptions
    from mnemocore.calls import Identity
    from mnemocore.events.v1 import resources_pb2

    Context = ServicerContext[Any, Any]


ENCODED_EVENTS: Final = 4096
ENCODED_BYTES: Final = 8 * 1024 * 1024
"""Events that are kept encoded for other readers, and their bytes, at most."""


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(
        self, log: EventLog, publication: Publication, subscriptions: Subscriptions, eraser: Eraser, access: Access
    ) -> None:
        self._log = log
        self._publication = publication
        self._subscriptions = subscriptions
        self._eraser = eraser
        self._access = access
        self._encoded = _EncodedEvents()

    async def PublishEvents(
        self, request: event_service_pb2.PublishEventsRequest, context: Context
    ) -> event_service_pb2.PublishEventsResponse:
        """Append a batch."""
        events = [to_event(event) for event in request.events]
        positions = await self._publication.publish(calls.identity.get(), events)
        return event_service_pb2.PublishEventsResponse(positions=positions)

    async def RedactEvents(
        self, request: event_service_pb2.RedactEventsRequest, context: Context
    ) -> event_service_pb2.RedactEventsResponse:
        """Take payloads out."""
        redacted = await self._eraser.redact([(key.tenant, key.source, key.id) for key in request.keys])
        self._encoded.forget()
        return event_service_pb2.RedactEventsResponse(redacted=redacted)

    async def EraseSpaceEvents(
        self, request: event_service_pb2.EraseSpaceEventsRequest, context: Context
    ) -> event_service_pb2.EraseSpaceEventsResponse:
        """Remove the events of a space."""
        removed = await self._eraser.erase_space(Tenant(request.tenant), SpaceUid(request.space_uid), request.keep_id)
        self._encoded.forget()
        return event_service_pb2.EraseSpaceEventsResponse(removed=removed)

    async def SubscribeEvents(  # type: ignore[override]  # its responses are encoded already
        self,
        request_iterator: AsyncIterator[event_service_pb2.SubscribeEventsRequest],
        context: Context,
    ) -> AsyncIterator[Encoded]:
        """Stream the log: to services all of it, to clients what they may read of their tenant's."""
        start = await _start_of(request_iterator)
        identity = calls.identity.get()
        where = _filter(start.filter, "start.filter", identity)
        allowed = self._check(identity, where, "SubscribeEvents")
        if allowed is not None:
            await allowed()
        gapless = identity is not None and not where.space_uid
        with self._subscriptions.open(
            await self._position(start, whole=gapless),
            where,
            start.credit,
            head_at_once=start.head_at_once,
            allowed=allowed,
            gapless=gapless,
        ) as subscription:
            credit = asyncio.create_task(_take_credit(request_iterator, subscription))
            try:
                async with aclosing(subscription.pages()) as pages:
                    async for page in pages:
                        yield self._encoded.page(page)
            finally:
                credit.cancel()

    async def ReadEvents(
        self, request: event_service_pb2.ReadEventsRequest, context: Context
    ) -> event_service_pb2.ReadEventsResponse:
        """Read a page of the caller's tenant."""
        where = _filter(request.filter, "filter", calls.caller())
        await self._access.check(calls.caller(), Action.SUBSCRIBE, where.types, where.subjects, "ReadEvents")
        page = await read_page(self._log, request.after_position, where, page_size(request.page_size))
        return event_service_pb2.ReadEventsResponse(
            events=map(from_stored, page.events), resume_position=page.resume, head_position=page.head
        )

    def _check(self, identity: Identity | None, where: Filter, method: str) -> Callable[[], Awaitable[None]] | None:
        """What asks whether a client may still read these events; services may."""
        if identity is None:
            return None
        return partial(self._access.check, identity, Action.SUBSCRIBE, where.types, where.subjects, method)

    async def _position(self, start: event_service_pb2.SubscribeEventsRequest.Start, *, whole: bool) -> int:
        if start.HasField("start_at"):
            field, begin = "start.start_at", to_start(start.start_at, "start.start_at")
        else:
            field, begin = "start", AfterPosition(start.after_position)
        return await position_of(self._log, begin, f"{field}.after_position", whole=whole)


class _EncodedEvents:
    """The events that were sent last, as they are sent: encoded once, however many readers get them, in whatever pages.

    A page is the concatenation of messages with one event each, which is how protobuf merges messages.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[StoredEvent, bytes]] = {}
        self._bytes = 0

    def page(self, page: Page) -> Encoded:
        """The page, encoded."""
        place = event_service_pb2.SubscribeEventsResponse(resume_position=page.resume, head_position=page.head)
        return Encoded(b"".join([*map(self._event, page.events), place.SerializeToString()]))

    def forget(self) -> None:
        """Let go what may have been erased in the log. It would not be sent: what is read anew is another object."""
        self._kept.clear()
        self._bytes = 0

    def _event(self, stored: StoredEvent) -> bytes:
        kept = self._kept.get(stored.position)
        if kept is not None and kept[0] is stored:
            return kept[1]
        encoded = event_service_pb2.SubscribeEventsResponse(events=[from_stored(stored)]).SerializeToString()
        if kept is not None:
            self._drop(stored.position)
        self._kept[stored.position] = stored, encoded
        self._bytes += len(encoded)
        while len(self._kept) > ENCODED_EVENTS or self._bytes > ENCODED_BYTES:
            self._drop(next(iter(self._kept)))
        return encoded

    def _drop(self, position: int) -> None:
        self._bytes -= len(self._kept.pop(position)[1])


def _filter(message: resources_pb2.EventFilter, field: str, identity: Identity | None) -> Filter:
    """The filter of a request, for the caller's tenant; for every tenant in a call of none."""
    return to_filter(message, identity.tenant if identity else None, field)


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
