"""What the members of a group in one process share: where the group is, events read ahead, and the news."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.group import Fresh

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.group import Claimed, Group
    from mnemo_events.domain.member import Member
    from mnemo_events.domain.ports import Engine
    from mnemocore.clock import Clock

MAX_BATCH: Final = 512
"""Events given at once at most."""
LEAST_READ: Final = 64
"""Events read ahead at least, however few are asked for."""
LONGEST_STAY: Final = 5.0
"""Seconds that events are kept after they were read; what is erased in the log is given to nobody after that."""


@dataclass(frozen=True, slots=True)
class Given:
    """What was claimed for a member, with its event if it was read ahead."""

    claimed: Claimed
    stored: StoredEvent | None

    @property
    def event(self) -> StoredEvent:
        """The event, which was read ahead or fetched."""
        assert self.stored is not None, "it was fetched"
        return self.stored

    @property
    def kind(self) -> str:
        """The attempt, for the metric of deliveries."""
        if self.claimed.replayed:
            return "replay"
        return "first" if self.claimed.attempt == 1 else "again"


class Feed:
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

    async def take(self, member: str, limit: int) -> list[Given]:
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

    async def _look(self, member: str, limit: int, *, must_claim: bool) -> list[Given]:
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
        return [Given(claimed, ahead.get(claimed.position)) for claimed in claim.claimed]

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
