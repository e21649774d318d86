"""Revisions this process has just committed, so that publishing them need not read them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_memory.storage import rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnemo_memory.domain.memory import Revision
    from mnemocore.ids import SpaceUid

CAPACITY: Final = 16 * 1024 * 1024
"""Bytes of content and metadata held at most, with _ROW for everything else of a revision."""
_ROW: Final = 1024


class RecentRevisions:
    """Some of the newest revisions; what is missing is in the store. When there are too many it forgets them all."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._size = 0
        self._revisions: dict[SpaceUid, dict[int, tuple[Revision, int]]] = {}

    def add(self, space_uid: SpaceUid, revisions: Iterable[Revision]) -> None:
        """Hold revisions that are committed, in whatever order."""
        held = self._revisions.setdefault(space_uid, {})
        for revision in revisions:
            size = _ROW + (rows.size_of(revision.memory) if revision.memory else 0)
            held[revision.revision] = (revision, size)
            self._size += size
        if self._size > self._capacity:
            self.clear()

    def clear(self) -> None:
        """Hold nothing any more."""
        self._revisions.clear()
        self._size = 0

    def take(self, space_uid: SpaceUid, after: int, limit: int) -> list[Revision]:
        """The revisions that follow on `after` without a gap, at most `limit`; they are not held any longer."""
        held = self._revisions.get(space_uid, {})
        while held and (oldest := next(iter(held))) <= after:  # published by others, or read from the store
            self._size -= held.pop(oldest)[1]
        taken: list[Revision] = []
        while len(taken) < limit and (found := held.pop(after + len(taken) + 1, None)) is not None:
            taken.append(found[0])
            self._size -= found[1]
        if not held:
            self._revisions.pop(space_uid, None)
        return taken
