"""What is in a space, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.memory import Filter, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mnemo_memory.domain.access import Access
    from mnemo_memory.domain.memory import Kind, Space, State, Tier
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

GROWTH_DAYS: Final = 30
"""Days the growth is told of if nobody says otherwise."""
_EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True)
class Day:
    """Memories written on a day that are still there, and the bytes of their content and metadata now.

    `start` is the beginning of the day in UTC.
    """

    start: datetime
    memories: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Memories of each kind, state and tier; what there are none of is left out, as are days of the growth.

    `media_bytes` are those of media that the memories have, `associations` those between the memories.
    """

    kinds: Mapping[Kind, int]
    states: Mapping[State, int]
    tiers: Mapping[Tier, int]
    content_bytes: int
    media_bytes: int
    associations: int
    growth: tuple[Day, ...]


class StatsStore(Protocol):
    """Counts."""

    async def count(self, space: Space, where: Filter, now: datetime, days: int) -> Stats:
        """Count the memories for which `where` holds, in their state at `now`; growth of the last `days` days."""
        ...


class SpaceStats:
    """Counts what is in the spaces."""

    def __init__(self, store: StatsStore, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def of(self, caller: Identity, slug: str, days: int) -> Stats:
        """The counts of a space, with the growth of the last `days` days (0: GROWTH_DAYS), today included.

        A caller who sees only a part of the space is told of that part only: of its memories, their media, and the
        associations from one of them to another. Raises SpaceNotFoundError.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        where = entry.narrow(_EVERYTHING)
        return await self._store.count(entry.space, where, self._clock.now(), days or GROWTH_DAYS)
