"""HOT memories kept in the process, for reads that asked to be answered at once and may be a moment behind.

What is written here leaves the cache at once, what another replica writes when its notice arrives; and no entry lives
longer than half a minute, so that is how far behind a read can be if a notice is lost.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mnemo_memory.domain.memory import Tier
from mnemo_memory.domain.retention import strength_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mnemo_memory.domain.memory import Memory
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId, SpaceUid

MAX_MEMORIES: Final = 50_000
MAX_BYTES: Final = 128 * 1024 * 1024
MAX_AGE_SECONDS: Final = 30.0
_SMALLEST_ENTRY_BYTES: Final = 2048
"""What an entry takes besides its texts."""
_SPACES_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    memory: Memory
    size: int
    number: int
    put_at: float


class HotCache:
    """A bounded cache; when it is full the weakest memories leave, of equal ones the oldest entries.

    `announce` is told which memories of a space were dropped (None: all), for the other replicas to `forget` them.
    """

    def __init__(
        self,
        clock: Clock,
        announce: Callable[[SpaceUid, Sequence[MemoryId] | None], None],
        max_memories: int = MAX_MEMORIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._announce = announce
        self._max_memories = max_memories
        self._max_bytes = max_bytes
        self._entries: dict[SpaceUid, dict[MemoryId, _Entry]] = {}
        self._leaving: list[tuple[float, int, SpaceUid, MemoryId]] = []
        self._forgotten: dict[SpaceUid, int] = {}
        self._all_forgotten = 0
        self._number = 0
        self.memories = 0
        """How many there are."""
        self.bytes = 0
        """About how much memory they take."""

    @property
    def mark(self) -> int:
        """This moment; to be taken before a memory is read that is to be put here."""
        return self._number

    def get(self, space_uid: SpaceUid, memory_id: MemoryId, now: datetime) -> Memory | None:
        """A memory in its state at `now`; None if it is not here."""
        entry = self._entries.get(space_uid, {}).get(memory_id)
        if entry is None:
            return None
        if self._clock.monotonic() - entry.put_at > MAX_AGE_SECONDS:
            self._remove(space_uid, memory_id)
            return None
        return replace(entry.memory, state=entry.memory.state_at(now))

    def put(self, space_uid: SpaceUid, memory: Memory, mark: int) -> None:
        """Keep a memory if it is HOT, unless something of its space was dropped since `mark`: it may be an old one."""
        if memory.tier is not Tier.HOT or self._forgotten.get(space_uid, self._all_forgotten) > mark:
            return
        self._remove(space_uid, memory.id)
        self._number += 1
        entry = _Entry(memory, _size(memory), self._number, self._clock.monotonic())
        self._entries.setdefault(space_uid, {})[memory.id] = entry
        strength = strength_of(memory, self._clock.now())
        heapq.heappush(self._leaving, (strength, entry.number, space_uid, memory.id))
        self.memories += 1
        self.bytes += entry.size
        self._shrink()

    def drop(self, space_uid: SpaceUid, ids: Sequence[MemoryId]) -> None:
        """Drop memories that were changed or erased, here and in the other replicas."""
        if ids:
            self.forget(space_uid, ids)
            self._announce(space_uid, ids)

    def drop_space(self, space_uid: SpaceUid) -> None:
        """Drop all memories of a space, here and in the other replicas."""
        self.forget(space_uid, None)
        self._announce(space_uid, None)

    def forget(self, space_uid: SpaceUid, ids: Sequence[MemoryId] | None) -> None:
        """Drop memories of a space here, all with None."""
        self._number += 1
        self._forgotten[space_uid] = self._number
        if len(self._forgotten) > _SPACES_REMEMBERED:
            self._forgotten.clear()
            self._all_forgotten = self._number
        for memory_id in list(self._entries.get(space_uid, ())) if ids is None else ids:
            self._remove(space_uid, memory_id)

    def forget_all(self) -> None:
        """Drop everything here: changes may have passed unnoticed."""
        self._number += 1
        self._all_forgotten = self._number
        self._forgotten.clear()
        self._entries.clear()
        self._leaving.clear()
        self.memories = self.bytes = 0

    def _remove(self, space_uid: SpaceUid, memory_id: MemoryId) -> None:
        of_space = self._entries.get(space_uid)
        entry = of_space.pop(memory_id, None) if of_space else None
        if entry is None or of_space is None:
            return
        if not of_space:
            del self._entries[space_uid]
        self.memories -= 1
        self.bytes -= entry.size

    def _shrink(self) -> None:
        """Let the weakest leave until the rest has room; forget the places of those that have left otherwise."""
        while self.memories > self._max_memories or self.bytes > self._max_bytes:
            _, number, space_uid, memory_id = heapq.heappop(self._leaving)
            if self._is_here(space_uid, memory_id, number):
                self._remove(space_uid, memory_id)
        if len(self._leaving) > 2 * self.memories + 100:
            self._leaving = [place for place in self._leaving if self._is_here(place[2], place[3], place[1])]
            heapq.heapify(self._leaving)

    def _is_here(self, space_uid: SpaceUid, memory_id: MemoryId, number: int) -> bool:
        entry = self._entries.get(space_uid, {}).get(memory_id)
        return entry is not None and entry.number == number


def _size(memory: Memory) -> int:
    """About how many bytes a memory takes, rather too many than too few."""
    content = len(memory.content) * (1 if memory.content.isascii() else 4)
    return _SMALLEST_ENTRY_BYTES + content + 4 * len(repr(memory.metadata)) + 4 * len(repr(memory.tags))
