"""The newest events of the log in memory: those who wait at its end read it once for all of them.

Every reader that is woken by an append would otherwise ask the store for the same events.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.event import Page
from mnemo_events.domain.filter import Filter
from mnemocore.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemo_events.domain.event import Event, StoredEvent
    from mnemo_events.domain.ports import EventLog
    from mnemocore.clock import Clock

MAX_EVENTS: Final = 4096
MAX_BYTES: Final = 8 * 1024 * 1024
"""Events, and bytes of their payload, after which the oldest are let go."""
LONGEST_STAY: Final = 5.0
"""Seconds for which events are kept; what another replica erases in the log is shown to nobody after that."""
_PAGE: Final = 512
_SHARED: Final = 64
"""Pages that are kept for other readers."""
_PAGE_BYTES: Final = 4 * 1024 * 1024
_RESUME: Final = attrgetter("resume")


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one read brought."""

    events: tuple[StoredEvent, ...]
    resume: int
    size: int
    read_at: float


class Tail:
    """A stretch of the log that ends where it was read last. Of it nothing is missing."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._pieces: deque[_Piece] = deque()
        self._start = 0
        self._resume = 0
        self._head = 0
        self._trimmed = 0
        self._events = 0
        self._size = 0
        self._shared: dict[tuple[int, Callable[[Event], bool]], Page] = {}
        self._may_have_grown = True
        self._forgotten = 0
        self._reading = asyncio.Lock()
        self._failure: StoreUnavailableError | None = None
        """Of the last read."""

    def grew(self) -> None:
        """The log may have grown."""
        self._may_have_grown = True

    def begin(self, page: Page) -> None:
        """A reader that read on its own is at the end of the log: the tail goes on from there, if that is news."""
        if page.resume == page.head > self._resume:
            self._begin_at(page.resume)
            self._head, self._trimmed = page.head, page.trimmed

    def forget(self) -> None:
        """Something was erased in the log: nothing that was read before is shown to anybody."""
        self._forgotten += 1
        self._begin_at(self._resume)

    async def read(self, after: int, wanted: Callable[[Event], bool], limit: int) -> Page | None:
        """Up to `limit` events (512 at most) after a position that are `wanted`; None if they are not here.

        The log is read on first, if it may have grown. Readers at the same place with the same `wanted` are given the
        same page. Raises StoreUnavailableError.
        """
        if self._has(after) and (self._may_have_grown or self._reading.locked()):
            before = self._failure
            async with self._reading:
                if self._failure is not None and self._failure is not before:
                    raise self._failure  # of the read that was waited for
                if self._has(after) and self._may_have_grown:
                    await self._read_on()
        self._let_go()
        return self._shared_page(after, wanted, limit) if self._has(after) else None

    def _has(self, after: int) -> bool:
        return self._start <= after <= self._resume

    async def _read_on(self) -> None:
        """Add what has come. If something was erased or trimmed meanwhile, begin anew behind it."""
        after, forgotten = self._resume, self._forgotten
        self._may_have_grown = False
        try:
            page = await self._log.read(after, Filter(), _PAGE)
        except BaseException as error:  # whatever ended it, the next one is to read on
            self._may_have_grown = True
            self._failure = error if isinstance(error, StoreUnavailableError) else None
            raise
        self._may_have_grown |= page.resume < page.head
        self._shared.clear()
        self._head, self._trimmed = max(self._head, page.head), max(self._trimmed, page.trimmed)
        if self._resume != after or page.resume == after:
            return
        if forgotten != self._forgotten or page.trimmed > after:
            self._begin_at(page.resume)
            return
        size = sum(len(stored.event.data) for stored in page.events)
        self._pieces.append(_Piece(page.events, page.resume, size, self._clock.monotonic()))
        self._resume = page.resume
        self._events += len(page.events)
        self._size += size

    def _begin_at(self, position: int) -> None:
        self._pieces.clear()
        self._shared.clear()
        self._start = self._resume = position
        self._events = self._size = 0

    def _let_go(self) -> None:
        """Let the oldest go that are too many, too large or here for too long."""
        oldest = self._clock.monotonic() - LONGEST_STAY
        while self._pieces and (
            self._events > MAX_EVENTS or self._size > MAX_BYTES or self._pieces[0].read_at < oldest
        ):
            gone = self._pieces.popleft()
            self._shared.clear()
            self._start = gone.resume
            self._events -= len(gone.events)
            self._size -= gone.size

    def _shared_page(self, after: int, wanted: Callable[[Event], bool], limit: int) -> Page:
        page = self._shared.get((after, wanted))
        if page is None:
            page = self._page(after, wanted, _PAGE)
            if len(self._shared) < _SHARED:
                self._shared[after, wanted] = page
        return page if len(page.events) <= limit else self._page(after, wanted, limit)

    def _page(self, after: int, wanted: Callable[[Event], bool], limit: int) -> Page:
        found: list[StoredEvent] = []
        size = 0
        for place in range(bisect_right(self._pieces, after, key=_RESUME), len(self._pieces)):
            for stored in self._pieces[place].events:
                if stored.position > after and wanted(stored.event):
                    found.append(stored)
                    size += len(stored.event.data)
                    if len(found) == limit or size >= _PAGE_BYTES:
                        return Page(tuple(found), stored.position, self._head, self._trimmed)
        return Page(tuple(found), self._resume, self._head, self._trimmed)
