"""One member of a group: events that are its own for a while, and what became of them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.dead_letters import MAX_MESSAGE, Death
from mnemo_events.domain.feed import MAX_BATCH
from mnemo_events.domain.group import Outcome, Reason
from mnemo_events.domain.handed import Handed
from mnemo_events.domain.news import wait as wait_for
from mnemocore.errors import GroupNotFoundError, MnemoError
from mnemocore.telemetry import counter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from datetime import datetime, timedelta

    from mnemo_events.domain.dead_letters import Burials
    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.feed import Feed, Given
    from mnemo_events.domain.group import Claimed, Settled
    from mnemo_events.domain.handed import HandedEvent
    from mnemo_events.domain.retry_schedule import RetrySchedule
    from mnemocore.clock import Clock

MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which no further event is given at once."""
FETCHED_AT_ONCE: Final = 8
"""Events fetched at once that were not read ahead; each may have a payload of 1 MiB."""
MOST_FETCHED_AT_ONCE: Final = 64
SMALL_FETCH: Final = 256 * 1024
"""After a fetch of at most so much payload twice as many events are fetched, up to MOST_FETCHED_AT_ONCE."""
_LEASE_OVER: Final = "the member left, or the lease was over, before it said what became of the last attempt"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is a member's until `lease_until`, as its attempt `attempt`, counted from 1.

    `tag` is of this delivery alone: an event that a member is given again has another. `replayed`: it was a dead letter
    before.
    """

    tag: int
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

    tag: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed. It is tried again after `retry_after`, or by the schedule; or not, for some reasons."""

    tag: int
    reason: Reason
    message: str = ""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Extended:
    """It takes longer: the lease begins anew."""

    tag: int


Report = Done | Failed | Extended


@dataclass(frozen=True, slots=True)
class Answer:
    """Tags of deliveries whose reports counted, and of those that are not the member's any more, ascending.

    With one that is lost come all later ones of its key that are lost with it, whether they were reported or not.
    """

    settled: tuple[int, ...]
    lost: tuple[int, ...]


class Member:
    """One member of a group, in this process. Made by `Consumption.member`.

    One task may wait in `next` while another calls `settle`. Every method raises GroupNotFoundError when the group was
    deleted, ShuttingDownError when the service drains, and StoreUnavailableError.
    """

    def __init__(
        self,
        feed: Feed,
        name: str,
        burials: Burials,
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
        self._burials = burials
        self._clock = clock
        self._schedule = schedule
        self._allowed = allowed
        self._max_held = max_held
        self._changed = asyncio.Event()
        self._error: MnemoError | None = None
        self._interrupted = False
        self._given: deque[Given] = deque()
        """What was claimed and not handed over yet."""
        self._at_once = FETCHED_AT_ONCE
        self._held: dict[int, Claimed] = {}
        """What was claimed, handed over or not, and is not over as far as is known here."""
        self._handed = Handed()
        self._lost: list[int] = []

    @property
    def last_tag(self) -> int:
        """The tag of the newest delivery; 0 before the first."""
        return self._handed.last_tag

    async def next(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` events that are this member's from now on, the oldest first.

        Waits up to `wait` seconds of the clock for the first; none if none came, or after `interrupt`. At most
        MAX_BATCH and about MAX_BYTES of payload. A limit of 0 waits and takes nothing. Raises what `allowed` raises,
        too, which is asked before events are taken.
        """
        end = self._clock.monotonic() + wait
        limit = min(limit, MAX_BATCH)
        while True:
            await self._check()
            self._changed.clear()
            looked, deliveries = await self._take(limit) if limit else (False, [])
            if deliveries:
                return deliveries
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

    async def settle(self, reports: Sequence[Report]) -> Answer:
        """Say what became of events. A report counts if the member still has what was delivered with its tag.

        Of several for one tag the last counts, and one answer is for all of them.
        What failed for the last time, or for a reason no other attempt can help, is a dead letter when this returns.
        Whoever fails an event leaves later ones of its key alone until the answer is there.
        """
        async with self._feed.lock:
            return await self._settle(reports)

    def take_lost(self) -> list[int]:
        """Tags of deliveries that were lost without having been asked for, since this was called last.

        It is called after each `next`, for what was delivered before: an event that is delivered again loses its former
        tag, and later events of its key lose theirs.
        """
        lost, self._lost = self._lost, []
        return lost

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
        self._lost += self._handed.clear()
        self.interrupt()

    async def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._allowed is not None:
            await self._allowed()

    async def _take(self, limit: int) -> tuple[bool, list[Delivery]]:
        """What can be handed over now, and whether there was room to claim anything."""
        looked = False
        while True:
            async with self._feed.lock:
                looked |= await self._claim(limit)
                if not self._lacks_events(limit):
                    return looked, self._hand_over(limit)
            await self._fetch()

    async def _claim(self, limit: int) -> bool:
        """Claim events, unless some are left that were claimed before; whether it could.

        Those out of attempts become dead letters.
        """
        limit = min(limit, self._room())
        if self._given or limit <= 0:
            return False
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
            self._given = deque(given for given in self._given if given.claimed.position in self._held)
        return self._max_held - len(self._held)

    async def _give_up(self, spent: Sequence[Claimed]) -> None:
        attempts = self._group.max_attempts
        await self._bury([(each.position, attempts, Reason.LEASE_EXPIRED, _LEASE_OVER) for each in spent])
        await self._finish(spent)

    def _lacks_events(self, limit: int) -> bool:
        """Whether one of those that would be handed over was not fetched yet."""
        size = 0
        for given in islice(self._given, limit):
            if given.stored is None:
                return True
            size += len(given.stored.event.data)
            if size >= MAX_BYTES:
                return False
        return False

    def _hand_over(self, limit: int) -> list[Delivery]:
        """Hand over what was claimed, in the bounds of `next`."""
        found: list[Given] = []
        size = 0
        while self._given and len(found) < limit and size < MAX_BYTES:
            found.append(given := self._given.popleft())
            size += len(given.event.event.data)
            counter("mnemo.events.deliveries").add(1, {"kind": given.kind})
        self._given = deque(replace(given, stored=None) for given in self._given)  # who knows when it is asked for
        again = [given.claimed.position for given in found]
        later = [event.position for event in self._handed.later(again)]
        for position in set(later).difference(again, (given.claimed.position for given in self._given)):
            self._held.pop(position, None)  # it was taken back with the earlier one, and not given again
        self._lost += self._handed.end([*again, *later])
        return [self._deliver(given) for given in found]

    def _deliver(self, given: Given) -> Delivery:
        claimed = self._current(given)
        key = "" if claimed.replayed else given.event.event.ordering_key
        tag = self._handed.add(claimed.position, claimed.attempt, key)
        return Delivery(tag, given.event, claimed.attempt, claimed.lease_until, claimed.replayed)

    def _current(self, given: Given) -> Claimed:
        """With its lease of now."""
        return self._held.get(given.claimed.position, given.claimed)

    async def _fetch(self) -> None:
        """Get events that were not read ahead. Those that are gone, since they were erased or trimmed, are done."""
        await self._renew(self._next_lacking())
        wanted = self._next_lacking()
        if not wanted:
            return
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

    def _next_lacking(self) -> list[Claimed]:
        return [self._current(given) for given in islice((g for g in self._given if g.stored is None), self._at_once)]

    async def _renew(self, claimed: Sequence[Claimed]) -> None:
        """Let the leases begin anew of what was kept back here for long. What others have by now is forgotten."""
        now = self._clock.now()
        late = [each.position for each in claimed if each.lease_until - now < self._group.lease / 2]
        if late:
            async with self._feed.lock:
                if await self._extend(late):
                    await self._extend([given.claimed.position for given in self._given])

    async def _finish(self, claimed: Sequence[Claimed]) -> None:
        outcomes = [Outcome(each.position, each.attempt, done=True) for each in claimed]
        await self._engine_settle(outcomes)
        for each in claimed:
            self._held.pop(each.position, None)

    async def _settle(self, reports: Sequence[Report]) -> Answer:
        mine, stale, unknown = self._sort(reports)
        settled, taken = await self._end_or_extend(mine)
        lost = stale | taken
        if stale or not taken.isdisjoint(mine):
            lost |= await self._verify_later(lost)
        self._handed.end(position for position in settled if not isinstance(mine[position], Extended))
        lost_tags = [*unknown, *self._handed.end(lost)]
        if lost_tags:
            counter("mnemo.events.outcomes").add(len(lost_tags), {"outcome": "lost"})
        return Answer(tuple(sorted(mine[position].tag for position in settled)), tuple(sorted(lost_tags)))

    def _sort(self, reports: Sequence[Report]) -> tuple[dict[int, Report], set[int], list[int]]:
        """Reports that may count, by position; positions that were lost; tags of which nothing more can be said."""
        waiting = {given.claimed.position for given in self._given}
        mine: dict[int, Report] = {}
        lost: set[int] = set()
        unknown: list[int] = []
        for tag, report in _last_of_each(reports).items():
            event = self._handed.get(tag)
            if event is None:
                unknown.append(tag)
            elif self._has(event, waiting):
                mine[event.position] = report
            else:
                lost.add(event.position)
        return mine, lost, unknown

    def _has(self, event: HandedEvent, waiting: Collection[int]) -> bool:
        """Whether it is claimed as it was handed over, and not `waiting` to be handed over again."""
        held = self._held.get(event.position)
        return held is not None and held.attempt == event.attempt and event.position not in waiting

    async def _end_or_extend(self, mine: dict[int, Report]) -> tuple[list[int], set[int]]:
        """The positions whose reports counted, and those that were lost, reported or not.

        First what ends nothing for good; what does, when it is certain then that the member still has it.
        """
        if not mine:
            return [], set()
        last = {position: report for position, report in mine.items() if self._ends_its_copy(position, report)}
        first = [self._outcome(position, report) for position, report in mine.items() if position not in last]
        answer = await self._engine_settle([*first, *map(self._extension, last)])
        lost = set(answer.lost)
        settled = [position for position in answer.settled if position not in last]
        if last := {position: last[position] for position in answer.settled if position in last}:
            answer = await self._end(last)
            lost |= set(answer.lost)
            settled += answer.settled
        for position in settled:
            self._count(position, mine[position])
            if not isinstance(mine[position], Extended):
                self._held.pop(position, None)
        return settled, lost

    async def _verify_later(self, lost: set[int]) -> set[int]:
        """What was lost with these, of what has their keys and of what was not handed over yet."""
        waiting = {given.claimed.position for given in self._given}
        later = [event for event in self._handed.later(lost) if event.position not in lost]
        known = {event.position for event in later if not self._has(event, waiting)}
        return known | await self._extend([*waiting, *(e.position for e in later if e.position not in known)])

    async def _extend(self, positions: Iterable[int]) -> set[int]:
        """Let leases begin anew; what is not the member's any more."""
        outcomes = [self._extension(position) for position in positions if position in self._held]
        return set((await self._engine_settle(outcomes)).lost) if outcomes else set()

    def _extension(self, position: int) -> Outcome:
        return Outcome(position, self._held[position].attempt)

    def _ends_its_copy(self, position: int, report: Report) -> bool:
        """Whether a copy of the event is made or removed."""
        if isinstance(report, Failed):
            return self._is_last(position, report)
        return isinstance(report, Done) and self._held[position].replayed

    async def _end(self, last: dict[int, Report]) -> Settled:
        """Bury what died, remove the copies of what is done after a replay, and settle both."""
        await self._bury(
            [
                (position, self._held[position].attempt, report.reason, report.message)
                for position, report in last.items()
                if isinstance(report, Failed)
            ]
        )
        if done := [position for position, report in last.items() if isinstance(report, Done)]:
            await self._burials.done(self._group, done)
        return await self._engine_settle([self._outcome(position, report) for position, report in last.items()])

    async def _bury(self, dead: Sequence[tuple[int, int, Reason, str]]) -> None:
        """Make dead letters: of each its position, attempts, reason and message."""
        if not dead:
            return
        now = self._clock.now()
        await self._burials.bury(
            self._group,
            [
                Death(position, None, reason, _kept(message), attempts, now)
                for position, attempts, reason, message in dead
            ],
        )
        for _, _, reason, _ in dead:
            counter("mnemo.events.dead_letters").add(1, {"reason": reason.name.lower()})

    def _is_last(self, position: int, report: Failed) -> bool:
        return report.reason.permanent or self._held[position].attempt >= self._group.max_attempts

    def _outcome(self, position: int, report: Report) -> Outcome:
        attempt = self._held[position].attempt
        if isinstance(report, Extended):
            return Outcome(position, attempt)
        if isinstance(report, Done) or self._is_last(position, report):
            return Outcome(position, attempt, done=True)
        delay = self._schedule.delay(attempt) if report.retry_after is None else report.retry_after
        return Outcome(position, attempt, retry_at=self._clock.now() + delay)

    async def _engine_settle(self, outcomes: Sequence[Outcome]) -> Settled:
        """Say it to the engine. What is lost is not held here any more, nor handed over."""
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
        if settled.lost:
            for position in settled.lost:
                self._held.pop(position, None)
            lost = set(settled.lost)
            self._given = deque(given for given in self._given if given.claimed.position not in lost)
        self._feed.expect(self.name, [each.retry_at for each in outcomes if each.retry_at is not None])
        self._feed.change()
        return settled

    def _count(self, position: int, report: Report) -> None:
        is_dead = isinstance(report, Failed) and self._is_last(position, report)
        counter("mnemo.events.outcomes").add(1, {"outcome": "dead" if is_dead else type(report).__name__.lower()})


def _last_of_each(reports: Sequence[Report]) -> dict[int, Report]:
    """By tag, in the order of the last ones."""
    last: dict[int, Report] = {}
    for report in reports:
        last.pop(report.tag, None)
        last[report.tag] = report
    return last


def _kept(message: str) -> str:
    return message.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:MAX_MESSAGE]
