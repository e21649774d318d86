"""The days on which spaces are used: what forgetting is counted in, so that a month of holiday forgets nothing.

A space is active on a day of UTC on which somebody wrote, read, recalled or linked memories in it, or used its working
memory, sessions or media. Looking after a space (settings, grants, statistics, export and import) is no use of it.
"""

from __future__ import annotations

import logging
from datetime import UTC
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.retention import Retained, last_used, retained
from mnemocore.errors import MnemoError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date, datetime

    from mnemo_memory.domain.memory import Memory, Space
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

PAUSE_SECONDS: Final = 5.0
"""After so many seconds what was noted is written."""
MOST_NOTED: Final = 100_000
"""So many spaces are known to be written for a day; beyond that they are written again, to no effect."""
_log = logging.getLogger(__name__)


class ActiveDayStore(Protocol):
    """Where active days are kept."""

    async def record(self, days: Collection[tuple[SpaceUid, date]]) -> None:
        """Keep active days; those that are kept already, and of spaces that are gone, are passed over."""
        ...

    async def count_between(self, space: Space, after: Sequence[date], before: date) -> list[int]:
        """For each day of `after` how many active days lie after it and before `before`, neither included."""
        ...


class ActiveDays:
    """The active days of all spaces. Noting one costs no statement: each is written once, in batches, by `run`.

    With `most_noted` days that wait to be written nothing more is noted. When the process is killed, spaces that were
    used for the first time that day within the last seconds lose the day.
    """

    def __init__(self, store: ActiveDayStore, clock: Clock, most_noted: int = MOST_NOTED) -> None:
        self._store = store
        self._clock = clock
        self._most_noted = most_noted
        self._today = clock.now().date()
        self._noted: set[SpaceUid] = set()
        self._waiting: set[tuple[SpaceUid, date]] = set()

    def note(self, space_uid: SpaceUid) -> None:
        """Take note that a space is used now."""
        today = self._clock.now().date()
        if today != self._today:
            self._today = today
            self._noted.clear()
        if space_uid in self._noted or len(self._waiting) >= self._most_noted:
            return
        if len(self._noted) >= self._most_noted:
            self._noted.clear()
        self._noted.add(space_uid)
        self._waiting.add((space_uid, today))

    async def write(self) -> None:
        """Write what was noted. What the store does not take is kept for the next time."""
        days = frozenset(self._waiting)
        if not days:
            return
        try:
            await self._store.record(days)
        except MnemoError as error:
            _log.warning("%d active days of spaces are not recorded yet: %s", len(days), error)
        else:
            self._waiting -= days

    async def run(self) -> None:
        """Write every 5 seconds, until cancelled; then once more."""
        try:
            while True:
                await self._clock.sleep(PAUSE_SECONDS)
                await self.write()
        finally:
            await self.write()

    async def since(self, space: Space, moments: Sequence[datetime]) -> list[int]:
        """For each moment how many days after its own the space was used, today included: who asks uses it."""
        today = self._clock.now().date()
        days = [moment.astimezone(UTC).date() for moment in moments]
        counts = await self._store.count_between(space, days, today)
        return [count + (day < today) for day, count in zip(days, counts, strict=True)]

    async def retained(self, space: Space, memory: Memory) -> Retained:
        """How much of a memory is retained by now, and what is to be done about it."""
        (days,) = await self.since(space, [last_used(memory)])
        return retained(memory, days)
