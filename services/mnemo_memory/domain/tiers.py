"""Which tier a memory belongs to, and the keeper that moves memories there.

A move changes where the content of a memory is kept, never the memory: it is no revision, and nobody who reads notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.memory import State, Tier
from mnemo_memory.domain.retention import strength_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from mnemo_memory.domain.memory import Space
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId, SpaceUid

HOT_ABOVE: Final = 0.85
"""Threshold 0.7 and 0.15: what is stronger becomes HOT."""
HOT_UNTIL: Final = 0.60
"""Threshold 0.7 less 0.10: what is weaker is HOT no more."""
WARM_ABOVE: Final = 0.45
"""Threshold 0.3 and 0.15: what is stronger is COLD no more."""
WARM_UNTIL: Final = 0.20
"""Threshold 0.3 less 0.10: what is weaker becomes COLD."""
SETTLING: Final = timedelta(hours=1)
"""A memory stays where it is for so long after it was written."""

HOT_CAPACITY: Final = 2000
"""HOT memories of a space."""
SLICE: Final = 1000
"""Memories looked at in one go."""
SPACES_A_PAGE: Final = 100
UPGRADING: Final = timedelta(days=1)
"""The keeper rests for so long after an upgrade: replicas of the earlier release cannot read COLD memories."""
PAUSE_SECONDS: Final = 0.2
"""Rest after every slice."""
ROUND_SECONDS: Final = 300.0
"""Rest after all spaces."""


class Placed(Protocol):
    """What a place is chosen by; every memory has it."""

    @property
    def tier(self) -> Tier:
        """Where it is."""
        ...

    @property
    def updated_at(self) -> datetime:
        """When it was last written."""
        ...

    def state_at(self, now: datetime) -> State:
        """Its state at `now`."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A memory without its content: all that its strength and its place depend on."""

    id: MemoryId
    revision: int
    created_revision: int
    tier: Tier
    importance: float
    accesses: int
    accessed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    alpha: float
    beta: float
    active: bool
    expires_at: datetime | None

    def state_at(self, now: datetime) -> State:
        """ACTIVE, EXPIRED, or ARCHIVED for whatever else keeps it out of recall."""
        if not self.active:
            return State.ARCHIVED
        return State.EXPIRED if self.expires_at is not None and self.expires_at <= now else State.ACTIVE


@dataclass(frozen=True, slots=True)
class Move:
    """A memory that is to go from one tier to another, if it is still in `revision`."""

    id: MemoryId
    revision: int
    origin: Tier
    goal: Tier


class TierStore(Protocol):
    """Where memories stand, and moving them."""

    async def upgraded_at(self) -> datetime | None:
        """When the store of an earlier release became one of this release; None if it always was."""
        ...

    async def spaces_after(self, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`."""
        ...

    async def standings(self, space: Space, after: int, limit: int) -> list[Standing]:
        """Memories by rising `created_revision`, after `after`."""
        ...

    async def hot(self, space: Space) -> list[Standing]:
        """All HOT memories."""
        ...

    async def move(self, space: Space, moves: Sequence[Move]) -> list[MemoryId]:
        """Make the moves; returns the memories that moved.

        Each is atomic, and left out if the memory was written, moved or locked by another since it was looked at.
        """
        ...


def wanted_tier(memory: Placed, strength: float, now: datetime) -> Tier:
    """The tier a memory belongs to, by strength and hysteresis. Only active memories are HOT."""
    if now - memory.updated_at < SETTLING:
        return memory.tier
    hot = memory.state_at(now) is State.ACTIVE and (
        strength > HOT_ABOVE or (memory.tier is Tier.HOT and strength >= HOT_UNTIL)
    )
    if hot:
        return Tier.HOT
    if memory.tier is Tier.COLD:
        return Tier.WARM if strength > WARM_ABOVE else Tier.COLD
    return Tier.COLD if strength < WARM_UNTIL else Tier.WARM


def needed_moves(standings: Sequence[Standing], now: datetime) -> list[Move]:
    """The moves that bring memories to the tiers they belong to."""
    goals = [(each, wanted_tier(each, strength_of(each, now), now)) for each in standings]
    return [Move(each.id, each.revision, each.tier, goal) for each, goal in goals if goal is not each.tier]


def hot_moves(rising: Sequence[Standing], hot: Sequence[Standing], capacity: int, now: datetime) -> list[Move]:
    """The moves that make the `capacity` strongest of the HOT memories and of those that would be HOT.

    Of equal ones the newer stay. The weakest leave, but for those that were just written.
    """
    ranked = sorted([*hot, *rising], key=lambda each: (-strength_of(each, now), -each.created_revision))
    admitted = {each.id for each in ranked[:capacity]}
    leaving = [each for each in hot if each.id not in admitted and now - each.updated_at >= SETTLING]
    return [
        *(Move(each.id, each.revision, Tier.HOT, Tier.WARM) for each in leaving),
        *(Move(each.id, each.revision, each.tier, Tier.HOT) for each in rising if each.id in admitted),
    ]


class TierKeeper:
    """Moves memories to the tiers they belong to. `moved` is told of every memory that moved.

    It goes through all spaces in slices and rests after each, so that it never takes more than a small part of the
    database's time. Several may run beside one another: a move is made once. `run` begins a day after an upgrade.
    """

    def __init__(
        self,
        store: TierStore,
        clock: Clock,
        moved: Callable[[SpaceUid, Sequence[MemoryId]], None],
        hot_capacity: int = HOT_CAPACITY,
    ) -> None:
        self._store = store
        self._clock = clock
        self._moved = moved
        self._hot_capacity = hot_capacity

    async def run(self) -> None:
        """Keep until cancelled. Ends with the error of the store; nothing is lost by starting again."""
        upgraded_at = await self._store.upgraded_at()
        if upgraded_at is not None:
            await self._clock.sleep(max(0.0, (upgraded_at + UPGRADING - self._clock.now()).total_seconds()))
        while True:
            await self._round()
            await self._clock.sleep(ROUND_SECONDS)

    async def keep(self, space: Space) -> int:
        """Move what belongs elsewhere in one space, without rest; returns the number of moves."""
        return sum([moved async for moved in self._walk(space)])

    async def _round(self) -> None:
        last: SpaceUid | None = None
        while spaces := await self._store.spaces_after(last, SPACES_A_PAGE):
            for space in spaces:
                async for _ in self._walk(space):
                    await self._clock.sleep(PAUSE_SECONDS)
            last = spaces[-1].uid

    async def _walk(self, space: Space) -> AsyncIterator[int]:
        """Go through a space slice by slice; yields the number of moves after each."""
        after, more = 0, True
        while more:
            standings = await self._store.standings(space, after, SLICE)
            more = len(standings) == SLICE
            yield await self._settle(space, standings, last=not more)
            after = standings[-1].created_revision if more else after

    async def _settle(self, space: Space, standings: Sequence[Standing], *, last: bool) -> int:
        moves = needed_moves(standings, self._clock.now())
        moved = await self._make(space, [move for move in moves if move.goal is not Tier.HOT])
        wanted = {move.id for move in moves if move.goal is Tier.HOT}
        if wanted or last:
            rising = [each for each in standings if each.id in wanted]
            hot = await self._store.hot(space)
            moved += await self._make(space, hot_moves(rising, hot, self._hot_capacity, self._clock.now()))
        return moved

    async def _make(self, space: Space, moves: Sequence[Move]) -> int:
        if not moves:
            return 0
        moved = await self._store.move(space, moves)
        if moved:
            self._moved(space.uid, moved)
        return len(moved)
