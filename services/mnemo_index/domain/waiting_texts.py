"""Texts that wait for their vectors, for as long as they do."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemocore.ids import MemoryId

MOST_BYTES: Final = 32 << 20
"""Bytes of waiting texts kept in RAM for one space; those that are not kept are read from the event log."""


class WaitingTexts:
    """The texts of memories that have no vector yet. Not safe for use by several threads; the owner guards it.

    Beyond `most_bytes` no more are kept. `arrived` is called when there is something to encode.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, arrived: Callable[[], object] = lambda: None) -> None:
        self._most_bytes = most_bytes
        self._arrived = arrived
        self._texts: dict[MemoryId, str] = {}
        self._bytes = 0
        self._full = False

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, memory_id: MemoryId) -> bool:
        return memory_id in self._texts

    @property
    def full(self) -> bool:
        """Whether a text was not kept for want of room since none was here."""
        return self._full

    def keep(self, memory_id: MemoryId, text: str) -> bool:
        """Keep a text in place of the memory's former one; False if there is no room for it."""
        self.drop(memory_id)
        if self._texts and self._bytes + len(text) > self._most_bytes:
            self._full = True
            return False
        self._texts[memory_id] = text
        self._bytes += len(text)
        return True

    def drop(self, memory_id: MemoryId) -> None:
        """Let go of the text of a memory, if there is one."""
        self._bytes -= len(self._texts.pop(memory_id, ""))
        self._full = self._full and bool(self._texts)

    def first(self, most: int) -> dict[MemoryId, str]:
        """The texts that have waited longest, at most `most`."""
        return dict(islice(self._texts.items(), most))

    def waits(self, memory_id: MemoryId, text: str) -> bool:
        """Whether a memory still waits for the vector of this text."""
        return self._texts.get(memory_id) == text

    def announce(self) -> None:
        """Say that there is something to encode."""
        self._arrived()
