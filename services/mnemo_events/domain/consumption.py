"""Consuming as a member of a group: events that are this member's for a while, and what became of them.

async with consumption.member(group, "indexer") as member:
    while True:
        for delivery in await member.next(limit=100, wait=15):
            ...
        await member.settle([Done(delivery.position, delivery.attempt), ...])
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.dead_letters import MAX_MESSAGE, Death
from mnemo_events.domain.group import Fresh, Outcome, Reason, Settled
from mnemo_events.domain.news import wait as wait_for
from mnemocore.errors import GroupNotFoundError, MnemoError, ShuttingDownError
from mnemocore.ids import new_uuid
from mnemocore.telemetry import counter, gauge, up_down_counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Sequence
    from datetime import datetime, timedelta

    from mnemo_events.domain.arrivals import Arrivals
    from mnemo_events.domain.dead_letters import Burials
    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.group import Claimed, Group
    from mnemo_events.domain.ports import Engine
    from mnemo_events.domain.retry_schedule import RetrySchedule
    from mnemocore.clock import Clock

MAX_BATCH: Final = 512
"""Events given at once at most."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which no further event is given at once."""
MAX_HELD: Final = 10_000
"""Events a member has at most; it gets no more until it says of some what became of them."""
LEAST_READ: Final = 64
"""Events read ahead at least, however few are asked for."""
LONGEST_STAY: Final = 5.0
"""Seconds that events are kept after they were read; what is erased in the log is given to nobody after that."""
FETCHED_AT_ONCE: Final = 8
"""Events fetched at once that were not read ahead; each may have a payload of 1 MiB."""
MOST_FETCHED_AT_ONCE: Final = 64
SMALL_FETCH: Final = 256 * 1024
"""After a fetch of at most so much payload twice as many events are fetched, up to MOST_FETCHED_AT_ONCE."""
_LEASE_OVER: Final = "the member left, or the lease was over, before it said what became of the last attempt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is a member's until `lease_until`, as its attempt `attempt`, counted from 1.

    `replayed`: it was a dead letter before.
    """

    event: StoredEvent
    attempt: int
    lease_until: datetime
    replayed: bool

    @property
    def position(self) -> int:
        """Its position in the log."""
        return self.event.position


@dataclass(frozen=True, slots=True)
class Done:
    """The event is done."""

    position: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed. It is tried again after `retry_after`, or by the schedule; or not, for some reasons."""

    position: int
    attempt: int
    reason: Reason
    message: str = ""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Extended:
    """It takes longer: the lease begins anew."""

    position: int
    attempt: int


Report = Done | Failed | Extended


class Member:
    """One member of a group, in this process. Made by `Consumption.member`.

    One task may wait in `next` while another calls `settle`. Every method raises GroupNotFoundError when the group was
    deleted, ShuttingDownError when the service drains, and StoreUnavailableError.
    """

    def __init__(
        self,
        feed: _Feed,
        name: str,
        store: Burials,
        clock: Clock,
        schedule: RetrySchedule,
        allowed: Callable[[], Awaitable[None]] | None,
        max_held: int,
    ) -> None:
        self.name = name
        """What the engine knows it by; no other member has the same."""
        self.took_leave = False
        """Whether it goes of its own accord: what it had was not begun, or is to be begun anew without a count."""
        self._feed = feed
        self._group = feed.group
        self._groups = feed.groups
        self._burials = store
        self._clock = clock
        self._schedule = schedule
        self._allowed = allowed
        self._max_held = max_held
        self._changed = asyncio.Event()
        self._error: MnemoError | None = None
        self._interrupted = False
        self._given: deque[_Given] = deque()
        self._at_once = FETCHED_AT_ONCE
        self._held: dict[int, Claimed] = {}

    async def next(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` events that are this member's from now on, the oldest first.

        Waits up to `wait` seconds of the clock for the first; none if none came, or after `interrupt`. At most
        MAX_BATCH and about MAX_BYTES of payload. A limit of 0 waits and takes nothing. Raises what `allowed` raises,
        too, which is asked before events are taken.
        """
        end = self._clock.monotonic() + wait
        while True:
            await self._check()
            self._changed.clear()
            looked = await self._take(min(limit, MAX_BATCH))
            while self._given and limit:
                if deliveries := await self._load(limit):
                    return deliveries
                await self._take(min(limit, MAX_BATCH))
            left = end - self._clock.monotonic()
            if self._interrupted or left <= 0:
                self._interrupted = False
                return []
            await wait_for(
                self._changed, min(left, self._feed.seconds_to_due(self.name) if looked else left), self._clock
            )

    def interrupt(self) -> None:
        """A `next` that waits, or the next one that would, returns."""
        self._interrupted = True
        self.wake()

    async def settle(self, reports: Sequence[Report]) -> Settled:
        """Say what became of events. A report counts if the member has the event as that attempt.

        What failed for the last time, or for a reason no other attempt can help, is a dead letter when this returns.
        """
        async with self._feed.lock:
            return await self._settle(reports)

    async def lag(self) -> int:
        """How many positions of the log the group has not looked at yet."""
        return await self._feed.measure_lag()

    @property
    def known_lag(self) -> int:
        """The lag as the last look at the log found it."""
        return self._feed.known_lag

    def wake(self) -> None:
        """There may be something for this member."""
        self._changed.set()

    def fail(self, error: MnemoError) -> None:
        """Every `next` raises `error` from now on."""
        self._error = error
        self.wake()

    def forget(self) -> None:
        """Nothing is this member's any more."""
        self._given.clear()
        self._held.clear()

    async def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._allowed is not None:
            await self._allowed()

    async def _take(self, limit: int) -> bool:
        """Claim events, unless some are left that were claimed before; whether it could.

        Those out of attempts become dead letters.
        """
        limit = min(limit, self._room()) if limit else 0
        if self._given or limit <= 0:
            return False
        async with self._feed.lock:
            while not self._given and (taken := await self._feed.take(self.name, limit)):
                self._held |= {given.claimed.position: given.claimed for given in taken}
                alive = [given for given in taken if given.claimed.attempt <= self._group.max_attempts]
                if len(alive) < len(taken):
                    await self._give_up([given.claimed for given in taken if given not in alive])
                self._given.extend(alive)
        return True

    def _room(self) -> int:
        if len(self._held) >= self._max_held:
            now = self._clock.now()
            self._held = {position: held for position, held in self._held.items() if held.lease_until > now}
        return self._max_held - len(self._held)

    async def _give_up(self, spent: Sequence[Claimed]) -> None:
        attempts = self._group.max_attempts
        await self._bury([Failed(each.position, attempts, Reason.LEASE_EXPIRED, _LEASE_OVER) for each in spent])
        await self._finish(spent)

    async def _load(self, limit: int) -> list[Delivery]:
        """Take what was claimed, with its events, in the bounds of `next`."""
        found: list[Delivery] = []
        size = 0
        while self._given and len(found) < limit and size < MAX_BYTES:
            if self._given[0].stored is None:
                await self._fetch()
                continue
            given = self._given.popleft()
            delivery = given.delivery()
            size += len(delivery.event.event.data)
            found.append(delivery)
            counter("mnemo.events.deliveries").add(1, {"kind": given.kind})
        self._given = deque(replace(given, stored=None) for given in self._given)  # who knows when it is asked for
        return found

    async def _fetch(self) -> None:
        """Get events that were not read ahead. Those that are gone, since they were erased or trimmed, are done."""
        await self._renew([given.claimed for given in islice(self._given, FETCHED_AT_ONCE)])
        wanted = [given.claimed for given in islice(self._given, self._at_once) if given.stored is None]
        events = await self._burials.events(self._group, [claimed.position for claimed in wanted])
        is_small = sum(len(stored.event.data) for stored in events) <= SMALL_FETCH
        self._at_once = min(2 * self._at_once, MOST_FETCHED_AT_ONCE) if is_small else FETCHED_AT_ONCE
        found = {stored.position: stored for stored in events}
        gone = [claimed for claimed in wanted if claimed.position not in found]
        if gone:
            async with self._feed.lock:
                await self._finish(gone)
        missing = {claimed.position for claimed in gone}
        self._given = deque(
            replace(given, stored=found.get(given.claimed.position, given.stored))
            for given in self._given
            if given.claimed.position not in missing
        )

    async def _renew(self, claimed: Sequence[Claimed]) -> None:
        """Let the leases begin anew of what was kept back here for long. What others have by now is forgotten."""
        now = self._clock.now()
        late = [
            Outcome(each.position, each.attempt) for each in claimed if each.lease_until - now < self._group.lease / 2
        ]
        if not late:
            return
        async with self._feed.lock:
            lost = set((await self._engine_settle(late)).lost)
        for position in lost:
            self._held.pop(position, None)
        self._given = deque(
            replace(given, claimed=self._held.get(given.claimed.position, given.claimed))
            for given in self._given
            if given.claimed.position not in lost
        )

    async def _finish(self, claimed: Sequence[Claimed]) -> None:
        outcomes = [Outcome(each.position, each.attempt, done=True) for each in claimed]
        await self._engine_settle(outcomes)
        for each in claimed:
            self._held.pop(each.position, None)

    async def _settle(self, reports: Sequence[Report]) -> Settled:
        """First what ends nothing for good; what does, when it is certain then that the member still has it."""
        mine: dict[int, Report] = {}
        lost: list[int] = []
        for report in reports:
            held = self._held.get(report.position)
            if held is None or held.attempt != report.attempt or report.position in mine:
                lost.append(report.position)
            else:
                mine[report.position] = report
        last = {position: report for position, report in mine.items() if self._ends_its_copy(report)}
        first = [self._outcome(report) for position, report in mine.items() if position not in last]
        settled: list[int] = []
        if mine:
            answer = await self._engine_settle([*first, *(Outcome(p, each.attempt) for p, each in last.items())])
            lost += self._let_go(mine, answer, last)
            settled += [position for position in answer.settled if position not in last]
            last = {position: last[position] for position in answer.settled if position in last}
        if last:
            answer = await self._end(list(last.values()))
            lost += self._let_go(mine, answer, {})
            settled += answer.settled
        self._count([mine[position] for position in settled], len(lost))
        return Settled(tuple(sorted(settled)), tuple(sorted(lost)))

    def _ends_its_copy(self, report: Report) -> bool:
        """Whether a copy of the event is made or removed."""
        if isinstance(report, Failed):
            return self._is_last(report)
        return isinstance(report, Done) and self._held[report.position].replayed

    async def _end(self, last: Sequence[Report]) -> Settled:
        """Bury what died, remove the copies of what is done after a replay, and settle both."""
        await self._bury([report for report in last if isinstance(report, Failed)])
        if done := [report.position for report in last if isinstance(report, Done)]:
            await self._burials.done(self._group, done)
        return await self._engine_settle([self._outcome(report) for report in last])

    async def _bury(self, reports: Sequence[Failed]) -> None:
        if not reports:
            return
        now = self._clock.now()
        deaths = [
            Death(report.position, None, report.reason, _kept(report.message), report.attempt, now)
            for report in reports
        ]
        await self._burials.bury(self._group, deaths)
        for death in deaths:
            counter("mnemo.events.dead_letters").add(1, {"reason": death.reason.name.lower()})

    def _is_last(self, report: Failed) -> bool:
        return report.reason.permanent or report.attempt >= self._group.max_attempts

    def _outcome(self, report: Report) -> Outcome:
        if isinstance(report, Extended):
            return Outcome(report.position, report.attempt)
        if isinstance(report, Done) or self._is_last(report):
            return Outcome(report.position, report.attempt, done=True)
        delay = self._schedule.delay(report.attempt) if report.retry_after is None else report.retry_after
        return Outcome(report.position, report.attempt, retry_at=self._clock.now() + delay)

    async def _engine_settle(self, outcomes: Sequence[Outcome]) -> Settled:
        now = self._clock.now()
        lease_until = now + self._group.lease
        try:
            settled = await self._groups.settle(self._group, self.name, outcomes, now, lease_until)
        except GroupNotFoundError:
            await self._burials.sweep(self._group.tenant, self._group.id)
            raise
        extended = {each.position for each in outcomes if not each.done and each.retry_at is None}
        for position in extended.intersection(settled.settled, self._held):
            self._held[position] = replace(self._held[position], lease_until=lease_until)
        self._feed.expect(self.name, [each.retry_at for each in outcomes if each.retry_at is not None])
        self._feed.change()
        return settled

    def _let_go(self, mine: dict[int, Report], answer: Settled, kept: Container[int]) -> list[int]:
        """Forget what is not this member's any more, but not `kept`.

        Returns what it was given and has lost.
        """
        for position in answer.settled:
            if position not in kept and not isinstance(mine[position], Extended):
                self._held.pop(position, None)
        lost = set(answer.lost)
        for position in lost:
            self._held.pop(position, None)
        unseen = {given.claimed.position for given in self._given} & lost
        self._given = deque(given for given in self._given if given.claimed.position not in lost)
        return sorted(lost - unseen)

    def _count(self, settled: Sequence[Report], lost: int) -> None:
        for report in settled:
            name = "dead" if isinstance(report, Failed) and self._is_last(report) else type(report).__name__.lower()
            counter("mnemo.events.outcomes").add(1, {"outcome": name})
        if lost:
            counter("mnemo.events.outcomes").add(lost, {"outcome": "lost"})


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
        self._feeds: dict[str, _Feed] = {}
        self._leaving: set[asyncio.Task[None]] = set()
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
        """Drain, and return when everything that members had was given back."""
        self.drain()
        while self._leaving:
            await asyncio.wait(self._leaving)

    @contextmanager
    def _feed(self, group: Group) -> Iterator[_Feed]:
        feed = self._feeds.get(group.uid)
        if feed is None:
            feed = self._feeds[group.uid] = _Feed(group, self._engine, self._clock)
        feed.users += 1
        try:
            with self._arrivals.watch(feed):
                yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                del self._feeds[group.uid]

    async def _leave(self, feed: _Feed, member: Member, *, counted: bool) -> None:
        """Give back what a member had, whatever becomes of the call that ends."""
        work = self._release(feed, member, counted=counted)
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.shield(task)

    async def _release(self, feed: _Feed, member: Member, *, counted: bool) -> None:
        try:
            await self._engine.groups.release(feed.group, member.name, counted=counted)
        except GroupNotFoundError:
            return
        except MnemoError as error:
            _log.warning(
                "what %s of %s had stays its own until the lease is over: %s", member.name, feed.group.name, error
            )
        feed.change()


@dataclass(frozen=True, slots=True)
class _Given:
    """What was claimed, with its event if it was read ahead."""

    claimed: Claimed
    stored: StoredEvent | None

    @property
    def kind(self) -> str:
        if self.claimed.replayed:
            return "replay"
        return "first" if self.claimed.attempt == 1 else "again"

    def delivery(self) -> Delivery:
        assert self.stored is not None, "it was fetched"
        claimed = self.claimed
        return Delivery(self.stored, claimed.attempt, claimed.lease_until, claimed.replayed)


class _Feed:
    """What the members of a group in this process share: where the group is, events read ahead, and the news.

    `take` and what settles are called with `lock` held: what one call finds out is known to the next.
    """

    def __init__(self, group: Group, engine: Engine, clock: Clock) -> None:
        self.group = group
        self.groups = engine.groups
        self.lock = asyncio.Lock()
        self.members: set[Member] = set()
        self.users = 0
        self._log = engine.log
        self._clock = clock
        self._position: int | None = None
        self._resume = 0
        self._head = 0
        self._ahead: deque[StoredEvent] = deque()
        self._read_at = 0.0
        self._dues: dict[str, datetime] = {}
        """When members can be given something that is held, of those who can."""
        self._looked_at: dict[str, datetime] = {}
        self._has_news = True
        self._has_changed = True

    def set(self) -> None:
        """The log may have grown."""
        self._has_news = True
        for member in self.members:
            member.wake()

    def change(self) -> None:
        """Something may be due."""
        self._has_changed = True
        self.set()

    def forget(self) -> None:
        """What was read ahead is not to be given any more."""
        self._position = None
        self._ahead.clear()

    @property
    def known_lag(self) -> int:
        """Positions that were not looked at when the log was read last."""
        seen = self._position or 0 if self._ahead else self._resume
        return max(0, self._head - seen)

    async def measure_lag(self) -> int:
        """Positions that the group has not looked at."""
        standing = await self.groups.standing(self.group)
        return max(0, await self._log.head() - max(standing.position, 0 if self._ahead else self._resume))

    def seconds_to_due(self, member: str) -> float:
        """When a member may claim something, in seconds from now, at the earliest."""
        due = self._next_due(member)
        return float("inf") if due is None else max(0.0, (due - self._clock.now()).total_seconds())

    def expect(self, member: str, dues: Sequence[datetime]) -> None:
        """Something will be due that maybe only this member can be given."""
        if dues:
            self._dues[member] = min(*dues, self._dues.get(member, dues[0]))

    def expect_no_more(self, member: str) -> None:
        """A member is gone."""
        self._dues.pop(member, None)
        self._looked_at.pop(member, None)

    async def take(self, member: str, limit: int) -> list[_Given]:
        """Claim up to `limit` events for a member; none if there is nothing to claim."""
        while self._has_news or self._is_due(member):
            changed = self._has_changed or self._is_due(member)
            self._has_news = self._has_changed = False
            try:
                given = await self._look(member, limit, must_claim=changed)
            except BaseException:  # whatever ended the look, another has to be had
                self._has_news = self._has_changed = True
                raise
            if given:
                self._has_news = self._has_changed = True
                return given
        return []

    async def _look(self, member: str, limit: int, *, must_claim: bool) -> list[_Given]:
        fresh = await self._read_ahead(limit)
        if fresh is not None and not fresh.events and not must_claim:
            self._has_news |= self._resume < self._head
            return []
        now = self._clock.now()
        claim = await self.groups.claim(self.group, member, limit, now, now + self.group.lease, fresh)
        self._looked_at[member] = now
        self._dues.pop(member, None)
        if claim.next_due is not None and claim.next_due > now:
            self._dues[member] = claim.next_due
        ahead = {stored.position: stored for stored in self._ahead}
        has_moved = claim.position != self._position
        self._move_to(claim.position)
        self._has_news |= has_moved or (not self._ahead and self._resume < self._head)
        return [_Given(claimed, ahead.get(claimed.position)) for claimed in claim.claimed]

    async def _read_ahead(self, limit: int) -> Fresh | None:
        """What matches after the group's position; None if that is not known yet."""
        if self._position is None:
            return None
        if self._ahead and self._clock.monotonic() - self._read_at > LONGEST_STAY:
            self._ahead.clear()
            self._resume = self._position
        if not self._ahead and not await self._read_on(limit):
            return None
        events = tuple((stored.position, stored.event.ordering_key) for stored in self._ahead)
        return Fresh(self._position, self._resume, events)

    async def _read_on(self, limit: int) -> bool:
        """Read what comes next; whether it may be given, for it may have been forgotten meanwhile."""
        page = await self._log.read(self._resume, self.group.where, min(MAX_BATCH, max(limit, LEAST_READ)))
        if self._position is None:
            return False
        self._ahead.extend(page.events)
        self._resume, self._head = page.resume, page.head
        self._read_at = self._clock.monotonic()
        return True

    def _move_to(self, position: int) -> None:
        """The group is there now: what it has passed is not ahead any more; elsewhere everything is read anew."""
        if self._position is None or not self._position <= position <= self._resume:
            self._ahead.clear()
            self._resume = position
        while self._ahead and self._ahead[0].position <= position:
            self._ahead.popleft()
        self._position = position

    def _is_due(self, member: str) -> bool:
        due = self._next_due(member)
        return due is not None and due <= self._clock.now()

    def _next_due(self, member: str) -> datetime | None:
        """When something is due to anybody, but for what was due when this member looked last."""
        looked_at = self._looked_at.get(member)
        return min((due for due in self._dues.values() if looked_at is None or due > looked_at), default=None)


def _kept(message: str) -> str:
    return message.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:MAX_MESSAGE]
