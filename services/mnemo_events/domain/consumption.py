"""Consuming as a member of a group: events that are this member's for a while, and what became of them.

async with consumption.member(group, "indexer") as member:
    while True:
        for delivery in await member.next(limit=100, wait=15):
            ...
        await member.settle([Done(delivery.tag), ...])
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.feed import Feed
from mnemo_events.domain.member import Member
from mnemocore.errors import GroupNotFoundError, MnemoError, ShuttingDownError
from mnemocore.ids import new_uuid
from mnemocore.outages import level_of
from mnemocore.telemetry import gauge, up_down_counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from mnemo_events.domain.arrivals import Arrivals
    from mnemo_events.domain.dead_letters import Burials
    from mnemo_events.domain.group import Group
    from mnemo_events.domain.ports import Engine
    from mnemo_events.domain.retry_schedule import RetrySchedule
    from mnemocore.clock import Clock

MAX_HELD: Final = 10_000
"""Events a member has at most; it gets no more until it says of some what became of them."""

FIRST_PAUSE: Final = 0.1
"""Seconds until what a member had is given back once more, when that failed; doubled every time."""
LONGEST_PAUSE: Final = 2.0

_log = logging.getLogger(__name__)


class Consumption:
    """The members of all groups in this process."""

    def __init__(
        self,
        engine: Engine,
        burials: Burials,
        arrivals: Arrivals,
        clock: Clock,
        schedule: RetrySchedule,
        max_held: int = MAX_HELD,
    ) -> None:
        self._engine = engine
        self._burials = burials
        self._arrivals = arrivals
        self._clock = clock
        self._schedule = schedule
        self._max_held = max_held
        self._feeds: dict[str, Feed] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._draining = False

    @asynccontextmanager
    async def member(
        self, group: Group, name: str = "", allowed: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[Member]:
        """A member of a group inside the block; `name` is what people call it.

        `allowed` is asked before events are taken; what it raises ends the member. At the end of the block everything
        it had goes to others at once: as an attempt that failed, unless the member took its leave, the block was ended
        by a MnemoError such as ShuttingDownError, or the service drains. Raises ShuttingDownError while draining.
        """
        if self._draining:
            raise ShuttingDownError
        with self._feed(group) as feed:
            member = Member(
                feed,
                f"{name or 'member'}/{new_uuid(self._clock.now())}",
                self._burials,
                self._clock,
                self._schedule,
                allowed,
                self._max_held,
            )
            counted = True
            up_down_counter("mnemo.events.members").add(1)
            feed.members.add(member)
            try:
                yield member
            except MnemoError:
                counted = False
                raise
            finally:
                feed.members.discard(member)
                feed.expect_no_more(member.name)
                up_down_counter("mnemo.events.members").add(-1)
                counted = counted and not (member.took_leave or self._draining)
                await self._leave(feed, member, counted=counted)

    def changed(self, group: Group) -> None:
        """Something may be due in a group."""
        if feed := self._feeds.get(group.uid):
            feed.change()

    @asynccontextmanager
    async def moving(self, group: Group) -> AsyncIterator[None]:
        """Move a group inside the block: nothing is given or settled here meanwhile.

        Then what its members had is not theirs any more. What they are given after it is.
        """
        feed = self._feeds.get(group.uid)
        if feed is None:
            yield
            return
        async with feed.lock:
            yield
            feed.forget()
            for member in feed.members:
                member.forget()
        feed.change()

    def deleted(self, group: Group) -> None:
        """A group is gone: its members are told."""
        if feed := self._feeds.get(group.uid):
            for member in feed.members:
                member.fail(GroupNotFoundError(group=group.name))

    def erased(self) -> None:
        """Events were erased in the log: none that was read before is given to anybody."""
        for feed in self._feeds.values():
            feed.forget()

    def changed_elsewhere(self, uid: str | None) -> None:
        """Something may be due in the group with this uid; None: in any."""
        if uid is None:
            self.look_again()
        elif feed := self._feeds.get(uid):
            feed.change()

    def look_again(self) -> None:
        """News may have been missed, of any group."""
        for feed in self._feeds.values():
            feed.change()
        gauge("mnemo.events.lag").set(max((feed.known_lag for feed in self._feeds.values()), default=0))

    def drain(self) -> None:
        """End all members with ShuttingDownError, and take no more."""
        self._draining = True
        for feed in self._feeds.values():
            for member in feed.members:
                member.fail(ShuttingDownError())

    async def stop(self) -> None:
        """Drain, and return when everything that members had was given back, or cannot be given back now."""
        self.drain()
        while self._leaving:
            await asyncio.wait(self._leaving)
        for task in self._late:
            task.cancel()
        if self._late:
            await asyncio.wait(self._late)

    @contextmanager
    def _feed(self, group: Group) -> Iterator[Feed]:
        feed = self._feeds.get(group.uid)
        if feed is None:
            feed = self._feeds[group.uid] = Feed(group, self._engine, self._clock)
        feed.users += 1
        try:
            with self._arrivals.watch(feed):
                yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                del self._feeds[group.uid]

    async def _leave(self, feed: Feed, member: Member, *, counted: bool) -> None:
        """Give back what a member had, whatever becomes of the call that ends."""
        work = self._release(feed, member, counted=counted)
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.shield(task)

    async def _release(self, feed: Feed, member: Member, *, counted: bool) -> None:
        """Try once while whoever leaves waits; what fails for now is tried again behind its back."""
        if not await self._try_release(feed.group, member.name, counted=counted):
            work = self._release_later(feed.group, member.name, counted=counted)
            task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def _release_later(self, group: Group, name: str, *, counted: bool) -> None:
        """Give back what a member had as soon as the store answers, until its lease is over, when others take it."""
        ends_at = self._clock.monotonic() + group.lease.total_seconds()
        pause = FIRST_PAUSE
        while self._clock.monotonic() < ends_at:
            await self._clock.sleep(pause)
            if await self._try_release(group, name, counted=counted):
                return
            pause = min(LONGEST_PAUSE, 2 * pause)
        _log.info("what %s of %s had was its own until the lease was over", name, group.name)

    async def _try_release(self, group: Group, name: str, *, counted: bool) -> bool:
        """Whether nothing is a member's any more, or can be made so."""
        try:
            await self._engine.groups.release(group, name, counted=counted)
        except GroupNotFoundError:
            return True
        except MnemoError as error:
            _log.log(level_of(error), "what %s of %s had is still its own: %s", name, group.name, error)
            return False
        self.changed(group)
        return True
