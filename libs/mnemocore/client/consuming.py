"""Consuming as a member of a group: streams, handlers, outcomes, leases.

What the server gives is in one of three places: it waits in the lane of its key, a handler runs on it, or its outcome
is on the way to the server. When the stream breaks, nothing is ours any more: what waits is let go, handlers run on,
and what becomes of them counts if the same event is given to us again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mnemocore.client.event_convert import consumed_from_wire
from mnemocore.client.failures import Failed, failure_of, log_failure
from mnemocore.client.handlers import call_handler
from mnemocore.client.lanes import Lanes
from mnemocore.client.reconnecting import BREAKS, Reconnecting, stream_ended
from mnemocore.events.v1 import group_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import NoReturn

    from mnemocore.client.event_values import ConsumedEvent
    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall

    Call: TypeAlias = StreamCall[wire.ConsumeEventsRequest, wire.ConsumeEventsResponse]

MAX_OUTCOMES: Final = 1000
"""Outcomes in one message."""

LEAVE_SECONDS: Final = 2.0
"""How long the last outcomes have to be stored when a consumer leaves."""

DEFAULT_LEASE: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Work:
    """An event we were given. `ours`: the server takes our word for it, as the delivery `tag` of the running stream."""

    event: ConsumedEvent
    tag: int
    leased_at: float
    ours: bool = True
    task: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        return self.event.position

    @property
    def identity(self) -> tuple[str, str]:
        return self.event.source, self.event.id

    @property
    def lane(self) -> Hashable:
        """Events of a space, else of a subject, are done in their order, unless they were dead letters."""
        if self.event.replayed:
            return self.position
        return self.event.space_uid or self.event.subject or self.position


@dataclass(frozen=True, slots=True)
class _Word:
    """What is said of a work as it was delivered with `tag`: done (`failure` None), failed, or that it takes longer."""

    work: _Work
    tag: int
    failure: Failed | None = None
    extended: bool = False


class Consumer:
    """One run of `consume`: call `run` once."""

    def __init__(
        self,
        services: Services,
        group: str,
        handler: Callable[[ConsumedEvent], Any],
        *,
        concurrency: int,
        prefetch: int,
        dedup: int,
        member: str,
        timeout: float | None,
        patience: float | None,
    ) -> None:
        self._services = services
        self._name = f"groups/{group}"
        self._handler = handler
        self._concurrency = concurrency
        self._window = concurrency + (prefetch or concurrency)
        self._dedup = dedup
        self._member = member
        self._timeout = timeout
        self._reconnecting = Reconnecting(services, patience)
        self._lanes: Lanes[_Work] = Lanes()
        self._held: dict[int, _Work] = {}  # by tag: what is ours and not finished
        self._running: dict[int, _Work] = {}  # by position
        self._outbox: deque[_Word] = deque()
        self._sent: dict[int, deque[_Word]] = {}  # by tag: what the server has not answered
        self._credit = 0
        self._news = asyncio.Event()  # there is something to send
        self._quiet = asyncio.Event()  # every outcome is stored
        self._finished: OrderedDict[tuple[str, str], bool] = OrderedDict()  # done here; whether that is stored
        self._leaving = False
        self._parting = False

    async def run(self) -> NoReturn:
        """Consume until cancelled, or until the group, the policy or all patience is gone."""
        try:
            while True:
                try:
                    await self._stream(await self._lease_seconds())
                except BREAKS as error:
                    await self._reconnecting.pause(error)
        finally:
            await self._end_handlers()

    async def _lease_seconds(self) -> float:
        request = wire.GetGroupRequest(name=self._name)
        group = (await self._services.call(self._services.groups.GetGroup, request)).group
        return group.lease.ToTimedelta().total_seconds() if group.HasField("lease") else DEFAULT_LEASE

    async def _stream(self, lease: float) -> NoReturn:
        """One stream to its end, which is always an error."""
        call: Call = self._services.groups.ConsumeEvents()  # type: ignore[assignment]  # on a resilient channel
        start = wire.ConsumeEventsRequest.Start(name=self._name, member=self._member, credit=self._window)
        try:
            await call.write(wire.ConsumeEventsRequest(start=start))
            await self._converse(call, lease)
        finally:
            call.cancel()
            self._let_go()
        raise stream_ended("the server")

    async def _converse(self, call: Call, lease: float) -> None:
        parts = (self._read(call), self._send(call), self._keep_leases(lease))
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # What the server said comes before what could not be sent to it.
            next(task for task in tasks if task.done()).result()
        except asyncio.CancelledError:
            await self._leave(tasks)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: Call) -> None:
        async for response in call:
            self._reconnecting.answered()
            for tag in response.settled:
                self._stored(tag)
            for tag in response.lost:
                self._lost(tag)
            for delivery in response.deliveries:
                self._take(consumed_from_wire(delivery), delivery.tag)
            self._start_handlers()

    async def _send(self, call: Call) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._outbox:
                settle = wire.ConsumeEventsRequest.Settle(outcomes=self._next_outcomes())
                await call.write(wire.ConsumeEventsRequest(settle=settle))
            if self._parting:
                await call.done_writing()
                return
            if self._credit:
                given, self._credit = self._credit, 0
                credit = wire.ConsumeEventsRequest.Credit(events=given)
                await call.write(wire.ConsumeEventsRequest(credit=credit))

    def _next_outcomes(self) -> list[wire.ConsumeEventsRequest.Outcome]:
        """What to say next, at most one thing of each event; noted as sent."""
        said: dict[int, _Word] = {}
        while self._outbox and len(said) < MAX_OUTCOMES and self._outbox[0].tag not in said:
            word = self._outbox.popleft()
            said[word.tag] = word
            self._sent.setdefault(word.tag, deque()).append(word)
        return [_outcome(word) for word in said.values()]

    async def _keep_leases(self, lease: float) -> None:
        """Extend the lease of everything that is ours when half of it is over."""
        while True:
            await self._services.clock.sleep(lease / 4)
            now = self._services.clock.monotonic()
            for work in self._held.values():
                if now - work.leased_at >= lease / 2:
                    work.leased_at = now
                    self._say(_Word(work, work.tag, extended=True))

    def _take(self, event: ConsumedEvent, tag: int) -> None:
        """An event was given to us. What we had of it before was lost, but a handler may still run on it."""
        now = self._services.clock.monotonic()
        given = _Work(event, tag, now)
        if (running := self._running.get(event.position)) is not None:
            running.tag, running.leased_at, running.ours = tag, now, True
            self._held[tag] = running
        elif self._is_repeated(given):
            self._credit_one()
            self._say(_Word(given, tag))
        else:
            self._finished.pop(given.identity, None)
            self._held[tag] = given
            self._lanes.put(given)

    def _is_repeated(self, given: _Work) -> bool:
        """Whether it was done here, and comes again because that was not stored, or was given to others meanwhile.

        What was done and stored, and comes as a first attempt, is to be done again: the group was sent back.
        """
        stored = self._finished.get(given.identity)
        return stored is not None and (not stored or given.event.attempt > 1)

    def _start_handlers(self) -> None:
        while not self._leaving and len(self._running) < self._concurrency:
            work = self._lanes.take()
            if work is None:
                return
            self._running[work.position] = work
            work.task = asyncio.create_task(self._handle(work))

    async def _handle(self, work: _Work) -> None:
        failure: Failed | None = None
        try:
            async with asyncio.timeout(self._timeout):
                await call_handler(self._handler, work.event)
        except asyncio.CancelledError as error:
            if self._leaving:
                del self._running[work.position]
                raise
            failure = failure_of(error)
        except Exception as error:  # noqa: BLE001 - of the caller's handler: the group goes on and decides what follows
            failure = failure_of(error)
            log_failure(_log, error, f"event {work.event.id} ({work.event.type})")
        self._finish(work, failure)

    def _finish(self, work: _Work, failure: Failed | None) -> None:
        del self._running[work.position]
        if failure is None:
            self._remember(work.identity)
        if work.ours:
            del self._held[work.tag]
            self._credit_one()
            self._say(_Word(work, work.tag, failure))
        if failure is None or not work.ours:
            self._lanes.open(work.lane)  # after a failure only when the server has said what is lost with it
        self._start_handlers()

    def _remember(self, identity: tuple[str, str]) -> None:
        if self._dedup:
            self._finished[identity] = False
            self._finished.move_to_end(identity)
            while len(self._finished) > self._dedup:
                self._finished.popitem(last=False)

    def _say(self, word: _Word) -> None:
        self._outbox.append(word)
        self._quiet.clear()
        self._news.set()

    def _credit_one(self) -> None:
        self._credit += 1
        self._news.set()

    def _stored(self, tag: int) -> None:
        """The server has taken our word."""
        said = self._sent.get(tag)
        if not said:
            return
        word = said.popleft()
        if not said:
            del self._sent[tag]
        self._answered(word)
        if not word.extended and word.work.identity in self._finished:
            self._finished[word.work.identity] = True
        self._note_quiet()

    def _answered(self, word: _Word) -> None:
        """What comes after a failure waited for the server to say what is lost with it."""
        if word.failure is not None:
            self._lanes.open(word.work.lane)

    def _lost(self, tag: int) -> None:
        """It is not ours any more: what waits is dropped, of what runs nothing will be said."""
        unsaid = [word for word in self._outbox if word.tag == tag]
        for word in [*unsaid, *self._sent.pop(tag, ())]:
            self._answered(word)
        if unsaid:
            self._outbox = deque(word for word in self._outbox if word.tag != tag)
        work = self._held.pop(tag, None)
        if work is not None:
            work.ours = False
            self._credit_one()
            if work.task is None:
                self._lanes.remove(work)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not self._sent and not self._outbox:
            self._quiet.set()

    def _let_go(self) -> None:
        """The stream is over."""
        for work in self._held.values():
            work.ours = False
        for word in [*self._outbox, *(word for said in self._sent.values() for word in said)]:
            self._answered(word)
        self._lanes.clear()
        self._held.clear()
        self._outbox.clear()
        self._sent.clear()
        self._credit = 0
        self._news.clear()

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """Stop the handlers, let what is finished be stored, and part from the server, if the stream lasts so long."""
        await self._end_handlers()
        self._note_quiet()
        quiet = asyncio.create_task(self._quiet.wait())
        try:
            await asyncio.wait([*tasks, quiet], timeout=LEAVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if quiet.done():
                self._parting = True
                self._news.set()
                await asyncio.wait(tasks[:1], timeout=LEAVE_SECONDS)  # until the server ends the stream
        finally:
            quiet.cancel()

    async def _end_handlers(self) -> None:
        self._leaving = True
        running = [work.task for work in self._running.values() if work.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _outcome(word: _Word) -> wire.ConsumeEventsRequest.Outcome:
    outcome = wire.ConsumeEventsRequest.Outcome(tag=word.tag)
    if word.extended:
        outcome.extended.SetInParent()
    elif word.failure is None:
        outcome.done.SetInParent()
    else:
        outcome.failed.reason = word.failure.reason
        outcome.failed.message = word.failure.message
        if word.failure.after is not None:
            outcome.failed.retry_after.FromTimedelta(word.failure.after)
    return outcome
