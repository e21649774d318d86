"""Ids that are the same when the same file is ingested again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mnemocore.client.values import MemoryInput

REMEMBERED: Final = 65_536
"""Different texts of a file that are counted at a time; bounds the memory that takes."""


class StableIds:
    """Gives each memory of one file a UUIDv8, made from the space, the file's name, the memory, and its repetitions.

    The memory counts with content, actor, session and time; what comes again is told apart by how often it came. Text
    that is added, moved or removed elsewhere in the file changes no other id. (In a file of more than REMEMBERED
    different memories, the id of a repeated one may change if something is inserted before it.)
    """

    def __init__(self, space: str, source: str) -> None:
        self._origin = f"{space}\0{source}\0"
        self._seen: dict[bytes, int] = {}
        self._generation = 0

    def assign(self, item: MemoryInput) -> MemoryInput:
        """`item` with its id, unless it has one."""
        if item.id:
            return item
        time = item.occurred_at.isoformat() if item.occurred_at else ""
        said = self._origin + json.dumps([item.content, item.actor, item.session, time])
        digest = hashlib.sha256(said.encode()).digest()
        return dataclasses.replace(item, id=self._uuid(digest, self._times_before(digest)))

    def _times_before(self, digest: bytes) -> tuple[int, int]:
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
            self._generation += 1
        times = self._seen.get(digest[:16], 0)
        self._seen[digest[:16]] = times + 1
        return self._generation, times

    @staticmethod
    def _uuid(digest: bytes, before: tuple[int, int]) -> str:
        raw = hashlib.sha256(digest + b"%d.%d" % before).digest()[:16]
        number = int.from_bytes(raw) & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return str(uuid.UUID(int=number))
