"""Counts how often memories are used, without slowing down who uses them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from mnemocore.errors import MnemoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId, SpaceUid

BATCH: Final = 100
"""So many counted uses are written at once."""
PAUSE_SECONDS: Final = 5.0
"""After so many seconds whatever was counted is written."""
MOST_COUNTED: Final = 100_000
"""Beyond so many memories waiting to be written, uses of others are not counted: counts are statistics, not records."""
_log = logging.getLogger(__name__)


class UseStore(Protocol):
    """Where counts are kept."""

    async def count_uses(self, space_uid: SpaceUid, uses: Mapping[MemoryId, tuple[int, datetime]]) -> None:
        """Add uses to memories: how many, and the time of the last one. Memories that are gone are passed over."""
        ...


class Uses:
    """The uses that are counted and not written yet."""

    def __init__(self, store: UseStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[SpaceUid, dict[MemoryId, tuple[int, datetime]]] = {}
        self._count = 0
        self._memories = 0
        self._full = asyncio.Event()

    def note(self, space_uid: SpaceUid, ids: Iterable[MemoryId]) -> None:
        """Count one use of each of these memories."""
        now = self._clock.now()
        of_space = self._waiting.setdefault(space_uid, {})
        for memory_id in ids:
            counted = of_space.get(memory_id)
            if counted is None and self._memories >= MOST_COUNTED:
                continue
            self._memories += counted is None
            of_space[memory_id] = (1 if counted is None else counted[0] + 1, now)
            self._count += 1
        if self._count >= BATCH:
            self._full.set()

    async def write(self) -> None:
        """Write what was counted. What the store does not take is dropped."""
        waiting, self._waiting = self._waiting, {}
        self._count = self._memories = 0
        self._full.clear()
        for space_uid, uses in waiting.items():
            if not uses:
                continue
            try:
                await self._store.count_uses(space_uid, uses)
            except MnemoError as error:
                _log.warning("%d memories of space %s have uses that are not counted: %s", len(uses), space_uid, error)

    async def run(self) -> None:
        """Write every 100 uses or 5 seconds, until cancelled; then once more."""
        try:
            while True:
                await self._wait()
                await self.write()
        finally:
            await self.write()

    async def _wait(self) -> None:
        pause = asyncio.ensure_future(self._clock.sleep(PAUSE_SECONDS))
        full = asyncio.ensure_future(self._full.wait())
        try:
            await asyncio.wait((pause, full), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            full.cancel()
