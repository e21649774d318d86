"""Following the log: from a position on, no faster than the reader gives credit, with a sign of life when idle."""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.event import Page
from mnemo_events.domain.tail import Tail
from mnemocore.errors import EventsTrimmedError, InvalidFieldError, ShuttingDownError, Violation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from mnemo_events.domain.arrivals import Arrivals
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.ports import EventLog
    from mnemocore.clock import Clock
    from mnemocore.errors import MnemoError

MAX_BATCH: Final = 512
"""Events in one page at most."""
HEARTBEAT_SECONDS: Final = 15.0
MAX_CREDIT: Final = 1_000_000
"""Credit beyond this is not counted."""
FEW_READERS: Final = 100
"""Readers that are woken for every append."""
PAUSE_PER_READER: Final = 0.0003
"""Seconds between two rounds of waking, for each reader beyond those; to send it a page takes .05 ms or less."""


class Subscription:
    """One reader of the log. It holds one page at a time, whatever the reader's credit.

    `allowed` is asked before every page; what it raises ends the pages. Events that are trimmed before the reader had
    them end the pages of one who is to have them all (`gapless`).
    """

    def __init__(
        self,
        log: EventLog,
        tail: Tail,
        clock: Clock,
        after: int,
        where: Filter,
        credit: int,
        *,
        head_at_once: bool = False,
        allowed: Callable[[], Awaitable[None]] | None = None,
        gapless: bool = False,
    ) -> None:
        self._changed = asyncio.Event()
        self._log = log
        self._tail = tail
        self._clock = clock
        self._after = after
        self._where = where
        self._wanted = where.matcher()
        self._credit = credit
        self._credit_ended = False
        self._head_at_once = head_at_once
        self._allowed = allowed
        self._gapless = gapless
        self._trimmed = 0
        self._error: MnemoError | None = None
        self._timer: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There may be something to send."""
        self._changed.set()

    def give_credit(self, events: int) -> None:
        """The reader takes so many more events."""
        self._credit = min(MAX_CREDIT, self._credit + events)
        self.wake()

    def end_credit(self) -> None:
        """The reader will give no more credit: the subscription ends when it is used up."""
        self._credit_ended = True
        self.wake()

    def fail(self, error: MnemoError) -> None:
        """End the pages with `error`."""
        self._error = error
        self.wake()

    async def pages(self) -> AsyncGenerator[Page]:
        """Pages of at least one event, and an empty one whenever there was none to send for 15 s, or at once if asked.

        Raises InvalidFieldError if the position lies beyond the head, EventsTrimmedError, what `allowed` raises, and
        the error given to `fail`.
        """
        await self._check_position()
        self._trimmed = await self._log.trimmed() if self._gapless else 0
        sent_at = self._clock.monotonic() - (HEARTBEAT_SECONDS if self._head_at_once else 0.0)
        try:
            while not self._is_over:
                self._changed.clear()
                page = await self._next_page()
                if self._error is not None:
                    raise self._error
                if self._allowed is not None:
                    await self._allowed()
                idle_for = self._clock.monotonic() - sent_at
                if page.events or idle_for >= HEARTBEAT_SECONDS:
                    self._credit -= len(page.events)
                    yield page
                    sent_at, idle_for = self._clock.monotonic(), 0.0
                is_at_end = page.resume >= page.head or self._credit == 0
                if is_at_end and not self._is_over:
                    await self._change_within(HEARTBEAT_SECONDS - idle_for)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    @property
    def _is_over(self) -> bool:
        return self._credit_ended and self._credit == 0

    async def _change_within(self, seconds: float) -> None:
        """Return when something has changed, after `seconds` at the latest, or earlier.

        The timer of an earlier wait goes on in the next one: a reader that is woken often starts one in a long while.
        """
        if self._timer is None or self._timer.done():
            self._timer = asyncio.create_task(self._wake_after(seconds))
        await self._changed.wait()

    async def _wake_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.wake()

    async def _check_position(self) -> None:
        head = await self._log.head()
        if self._after > head:
            text = f"{self._after} lies beyond the head of the log; allowed is up to {head}"
            raise InvalidFieldError.of([Violation("start.after_position", text)])

    async def _next_page(self) -> Page:
        if self._credit == 0:
            return Page((), self._after, await self._log.head(), self._trimmed)
        limit = min(self._credit, MAX_BATCH)
        page = await self._tail.read(self._after, self._wanted, limit) or await self._read(limit)
        self._after = page.resume
        return page

    async def _read(self, limit: int) -> Page:
        """What the tail of the log has not."""
        page = await self._log.read(self._after, self._where, limit)
        if self._gapless and page.resume > self._after:
            self._check_trimmed(page.trimmed)
        self._tail.begin(page)
        return page

    def _check_trimmed(self, trimmed: int) -> None:
        """Whether something was missed by the page just read. What was gone at the start already is not missed."""
        if trimmed > max(self._after, self._trimmed):
            raise EventsTrimmedError(position=str(self._after), earliest=str(trimmed))


class Subscriptions:
    """Opens subscriptions, and ends them all when the service drains."""

    def __init__(self, log: EventLog, arrivals: Arrivals, clock: Clock) -> None:
        self._log = log
        self._tail = Tail(log, clock)
        self._clock = clock
        self._open: set[Subscription] = set()
        self._woken_at = -math.inf
        self._round: asyncio.Task[None] | None = None
        self._draining = False
        arrivals.add(self)

    def set(self) -> None:
        """The log may have grown: the readers are woken. Many of them are not woken for every append.

        A page costs whoever sends or reads it as much as dozens of events in it. With a pause that grows with the
        readers sending takes a bounded part of the time, and publishing stays fast.
        """
        self._tail.grew()
        if self._draining or (self._round is not None and not self._round.done()):
            return
        rest = self._woken_at + self._pause() - self._clock.monotonic()
        if rest > 0:
            self._round = asyncio.create_task(self._wake_all_after(rest))
        else:
            self._wake_all()

    def _pause(self) -> float:
        """Seconds between two rounds."""
        return max(0, len(self._open) - FEW_READERS) * PAUSE_PER_READER

    async def _wake_all_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._wake_all()

    def _wake_all(self) -> None:
        self._woken_at = self._clock.monotonic()
        for subscription in self._open:
            subscription.wake()

    @contextmanager
    def open(
        self,
        after: int,
        where: Filter,
        credit: int,
        *,
        head_at_once: bool = False,
        allowed: Callable[[], Awaitable[None]] | None = None,
        gapless: bool = False,
    ) -> Iterator[Subscription]:
        """A subscription that learns of arrivals inside the block. Raises ShuttingDownError while draining.

        With `head_at_once` the first page does not wait for an event.
        """
        if self._draining:
            raise ShuttingDownError
        subscription = Subscription(
            self._log,
            self._tail,
            self._clock,
            after,
            where,
            credit,
            head_at_once=head_at_once,
            allowed=allowed,
            gapless=gapless,
        )
        self._open.add(subscription)
        try:
            self._tail.grew()
            yield subscription
        finally:
            self._open.discard(subscription)

    def erased(self) -> None:
        """Events were erased in the log: none that was read before is given to anybody."""
        self._tail.forget()

    def drain(self) -> None:
        """End all subscriptions with ShuttingDownError, so that readers go to another replica, and take no more."""
        self._draining = True
        if self._round is not None:
            self._round.cancel()
        for subscription in self._open:
            subscription.fail(ShuttingDownError())
