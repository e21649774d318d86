"""The log of events: publishing into it, reading it, and following it."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.event_access import Policies
from mnemocore.client.event_convert import event_from_wire, event_to_wire, filter_to_wire, start_to_wire
from mnemocore.client.event_groups import Grouping
from mnemocore.client.event_schemas import Schemas
from mnemocore.client.reconnecting import BREAKS, PATIENCE, Reconnecting, stream_ended
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import event_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
    from datetime import datetime
    from typing import Self

    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall
    from mnemocore.events.v1 import resources_pb2

MAX_BATCH: Final = 1000
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""A request is closed when it holds so many events, or so many bytes."""

WINDOW: Final = 256
"""Events of a tail that may be on their way."""


class Events(Grouping):
    """The events of a tenant. Comes from `Connection.events`."""

    @property
    def schemas(self) -> Schemas:
        """What events of a type must look like."""
        return Schemas(self._services)

    @property
    def policies(self) -> Policies:
        """Who may publish and read which events."""
        return Policies(self._services)

    async def publish(
        self,
        type: str,
        data: values.Payload = None,
        *,
        subject: str = "",
        id: str = "",
        time: datetime | None = None,
        source: str = "",
        datacontenttype: str = "",
        dataschema: str = "",
        correlation_id: str = "",
        causation_id: str = "",
    ) -> values.Published:
        """Append one event; durable when it returns. The parameters are those of `EventInput`.

        An event whose id was published before keeps its first position, so that publishing may be repeated. Raises
        InvalidFieldError, also for what the schema of the type refuses; AccessDeniedError.
        """
        item = values.EventInput(
            type=type,
            data=data,
            subject=subject,
            id=id,
            time=time,
            source=source,
            datacontenttype=datacontenttype,
            dataschema=dataschema,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        try:
            return (await self._send([self._to_wire(item)]))[0]
        except InvalidFieldError as error:
            raise _moved(error, lambda field: field.removeprefix("events[0].")) from None

    async def publish_many(
        self, items: Iterable[values.EventInput] | AsyncIterable[values.EventInput]
    ) -> list[values.Published]:
        """Append events in their order, up to 1,000 (2 MiB) at a time, each such part as a whole or not at all.

        When it raises, the parts before are in the log. What is wrong with an event names it by its place, such as
        `events[3].type`. To repeat it all without doubles, give the events ids.
        """
        published: list[values.Published] = []
        batch: list[resources_pb2.Event] = []
        size = 0
        async for index, item in _numbered(items):
            message = self._to_wire(item, f"events[{index}].")
            if batch and (len(batch) == MAX_BATCH or size + message.ByteSize() > MAX_BATCH_BYTES):
                published += await self._send(batch, len(published))
                batch, size = [], 0
            batch.append(message)
            size += message.ByteSize()
        if batch:
            published += await self._send(batch, len(published))
        return published

    async def read(
        self,
        *,
        after: int = 0,
        types: Sequence[str] = (),
        subjects: Sequence[str] = (),
        space_uid: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[values.Event]:
        """The events after a position, oldest first, up to the newest there is. Reads page by page.

        In `types` (segments joined by dots) and `subjects` (by slashes), `*` stands for one segment and `**` at the end
        for the rest. To go on later, pass the position of the last event as `after`. Raises AccessDeniedError.
        """
        async for page in self.pages(
            after=after, types=types, subjects=subjects, space_uid=space_uid, page_size=page_size
        ):
            for event in page.events:
                yield event

    def __call__(
        self, *, after: int = 0, types: Sequence[str] = (), space_uid: str = "", page_size: int = 0
    ) -> AsyncIterator[values.Event]:
        """As `read`: `connection.events(...)` reads the log."""
        return self.read(after=after, types=types, space_uid=space_uid, page_size=page_size)

    async def pages(
        self,
        *,
        after: int = 0,
        types: Sequence[str] = (),
        subjects: Sequence[str] = (),
        space_uid: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[values.EventPage]:
        """What `read` gives, page by page, with the position to go on from. The last page ends at the head."""
        request = wire.ReadEventsRequest(filter=filter_to_wire(types, subjects, space_uid))
        convert.assign(request, "page_size", page_size)
        convert.assign(request, "after_position", after, "after")
        while True:
            page = await self._services.call(self._services.events.ReadEvents, request)
            yield values.EventPage(tuple(map(event_from_wire, page.events)), page.resume_position, page.head_position)
            if page.resume_position <= request.after_position or page.resume_position >= page.head_position:
                return
            request.after_position = page.resume_position

    def tail(
        self,
        *,
        types: Sequence[str] = (),
        subjects: Sequence[str] = (),
        space_uid: str = "",
        start: values.Start = "latest",
        patience: float | None = PATIENCE,
    ) -> Tail:
        """Events as they come, for ever: iterate over it. Filters are those of `read`.

        A stream that breaks is opened again where it was, so that nothing is left out and nothing comes twice; its
        error is raised if nobody has answered for `patience` seconds (None: never). Raises AccessDeniedError, also when
        the policy is withdrawn; EventsTrimmedError if the log does not go back so far; InvalidFieldError.
        """
        where = filter_to_wire(types, subjects, space_uid)
        return Tail(self._services, where, start_to_wire(start, "start"), patience)

    def _to_wire(self, item: values.EventInput, path: str = "") -> resources_pb2.Event:
        try:
            return event_to_wire(item, self._services.request_id(), self._services.clock.now())
        except InvalidFieldError as error:
            if not path:
                raise
            raise _moved(error, lambda field: f"{path}{field}") from None

    async def _send(self, batch: list[resources_pb2.Event], before: int = 0) -> list[values.Published]:
        """Append a batch; `before` events of the same call came before it."""
        request = wire.PublishEventsRequest(events=batch)
        try:
            response = await self._services.call(self._services.events.PublishEvents, request)
        except InvalidFieldError as error:
            if not before:
                raise
            raise _moved(error, lambda field: _later(field, before)) from None
        return [values.Published(event.id, position) for event, position in zip(batch, response.positions, strict=True)]


class Tail:
    """Events as they come. Comes from `Events.tail`; one task iterates over it, once.

    `position` is where it is: everything up to there was given or is not wanted; None before the first answer. Give it
    as `start` to go on in another tail. `head` is the newest position of the log that the server spoke of.
    """

    def __init__(
        self,
        services: Services,
        where: resources_pb2.EventFilter,
        start_at: resources_pb2.StartAt,
        patience: float | None,
    ) -> None:
        self.position: int | None = None
        self.head: int | None = None
        self._services = services
        self._where = where
        self._start_at = start_at
        self._reconnecting = Reconnecting(services, patience)
        self._events = self._follow()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> values.Event:
        """The next event, once there is one."""
        return await anext(self._events)

    async def aclose(self) -> None:
        """End it. Ending it twice does nothing."""
        await self._events.aclose()

    async def _follow(self) -> AsyncGenerator[values.Event]:
        while True:
            try:
                async with aclosing(self._stream()) as stream:
                    async for event in stream:
                        yield event
            except BREAKS as error:
                await self._reconnecting.pause(error)

    async def _stream(self) -> AsyncGenerator[values.Event]:
        """One stream, from where we are to its break."""
        call: StreamCall[wire.SubscribeEventsRequest, wire.SubscribeEventsResponse]
        call = self._services.events.SubscribeEvents()  # type: ignore[assignment]  # on a resilient channel
        try:
            await call.write(wire.SubscribeEventsRequest(start=self._start()))
            async for response in call:
                self._reconnecting.answered()
                self.head = response.head_position
                for stored in response.events:
                    self.position = stored.position
                    yield event_from_wire(stored)
                self.position = response.resume_position
                if response.events:
                    credit = wire.SubscribeEventsRequest.Credit(events=len(response.events))
                    await call.write(wire.SubscribeEventsRequest(credit=credit))
        finally:
            call.cancel()
        raise stream_ended("the server")

    def _start(self) -> wire.SubscribeEventsRequest.Start:
        start = wire.SubscribeEventsRequest.Start(filter=self._where, credit=WINDOW, head_at_once=True)
        if self.position is None:
            start.start_at.CopyFrom(self._start_at)
        else:
            start.start_at.after_position = self.position
        return start


async def _numbered(
    items: Iterable[values.EventInput] | AsyncIterable[values.EventInput],
) -> AsyncIterator[tuple[int, values.EventInput]]:
    index = 0
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield index, item
            index += 1
    else:
        for item in items:
            yield index, item
            index += 1


def _moved(error: InvalidFieldError, moved: Callable[[str], str]) -> InvalidFieldError:
    """`error` with other names of its fields, if it names any."""
    if not error.violations:
        return error
    return InvalidFieldError.of([Violation(moved(found.field), found.description) for found in error.violations])


def _later(field: str, before: int) -> str:
    """`events[2].type` of a batch as what it is in the whole call."""
    head, _, rest = field.partition("]")
    number = head.removeprefix("events[")
    return f"events[{before + int(number)}]{rest}" if rest and number.isdecimal() else field
