"""The generations of the vectors of spaces: those that serve, those that are being made, and those that were replaced.

The latter two are kept in folders beside the snapshots, which are there only as long as something is in them. What was
erased leaves them when it leaves the snapshot; a space that was erased leaves all of them.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from mnemo_index.domain.ports import UnusableSnapshotError
from mnemo_index.domain.state import SpaceState
from mnemo_index.domain.tables import compacted
from mnemo_index.domain.words import DEFAULT_LANGUAGE
from mnemo_index.storage.model_records import PlanFile
from mnemo_index.storage.snapshots import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mnemo_index.domain.state import Head
    from mnemocore.ids import SpaceUid

BUILDING: Final = "building"
REPLACED: Final = "replaced"
LANGUAGE: Final = "language"
"""The file that names the language of the words, unless it is the default one."""


class GenerationStore(SnapshotStore):
    """The snapshots of one directory, with the shelves `building` and `replaced` in it.

    If their words are of another language than `language` they are removed: all spaces are built anew from the log.
    """

    def __init__(self, directory: Path, language: str = DEFAULT_LANGUAGE) -> None:
        super().__init__(directory)
        self.building = FolderShelf(directory / BUILDING)
        self.replaced = FolderShelf(directory / REPLACED)
        self.plans = PlanFile(directory)
        kept = directory / LANGUAGE
        if (kept.read_text() if kept.exists() else DEFAULT_LANGUAGE) != language:
            for shelf in (self.building, self.replaced):
                shelf.clear()
            self.clear()
            self.write_file(LANGUAGE, language)  # the last step: what was begun is done again

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep `state`, and of the space nothing on the shelves that is not in it any more. Raises StoreFullError."""
        super().save(space_uid, state)
        for shelf in (self.building, self.replaced):
            shelf.forget_erased(space_uid, state)

    def forget(self, space_uid: SpaceUid) -> None:
        """Remove whatever is kept of a space, on the shelves too."""
        for shelf in (self.building, self.replaced):
            shelf.forget(space_uid)
        super().forget(space_uid)


class FolderShelf:
    """States of spaces in a folder. Safe for use by many threads; blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._ids: dict[SpaceUid, Collection[str]] = {}

    def kept(self) -> Mapping[SpaceUid, Head]:
        """What there is, without reading the states; what cannot be used is set aside."""
        with self._lock:
            return SnapshotStore(self._directory).kept().heads if self._directory.exists() else {}

    def load(self, space_uid: SpaceUid) -> SpaceState:
        """The state of a space. Raises UnusableSnapshotError if there is none that is whole."""
        with self._lock:
            return self._load(space_uid)

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep `state` durably in the place of what was kept of the space. Raises StoreFullError."""
        with self._lock:
            self._save(space_uid, state)

    def forget(self, space_uid: SpaceUid) -> None:
        """Remove whatever is kept of a space; the folder goes with the last one."""
        with self._lock:
            self._forget(space_uid)

    def clear(self) -> None:
        """Remove whatever is kept."""
        with self._lock:
            for space_uid in SnapshotStore(self._directory).spaces() if self._directory.exists() else ():
                self._forget(space_uid)

    def forget_erased(self, space_uid: SpaceUid, newest: SpaceState) -> None:
        """Keep no memory of a space that is not in its newest state; nothing at all once the space is encrypted."""
        with self._lock:
            if not (self._directory.exists() and space_uid in SnapshotStore(self._directory).spaces()):
                return
            if newest.sealed:
                self._forget(space_uid)
                return
            try:
                self._prune(space_uid, newest)
            except UnusableSnapshotError:  # it is set aside and has to be made again
                self._forget(space_uid)

    def _prune(self, space_uid: SpaceUid, newest: SpaceState) -> None:
        if space_uid not in self._ids:
            self._ids[space_uid] = _alive(self._load(space_uid))
        erased = frozenset(self._ids[space_uid]) - _alive(newest)
        if erased:
            state = self._load(space_uid)
            left = _without(state, erased, newest.applied_revision)
            self._save(space_uid, left)

    def _load(self, space_uid: SpaceUid) -> SpaceState:
        if not self._directory.exists():
            raise UnusableSnapshotError("there is none")
        return SnapshotStore(self._directory).load(space_uid)

    def _save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        SnapshotStore(self._directory).save(space_uid, state)
        self._ids[space_uid] = _alive(state)

    def _forget(self, space_uid: SpaceUid) -> None:
        self._ids.pop(space_uid, None)
        if self._directory.exists():
            SnapshotStore(self._directory).forget(space_uid)
            with contextlib.suppress(OSError):  # others are still in it
                self._directory.rmdir()


def _alive(state: SpaceState) -> frozenset[str]:
    rows = zip(state.lists["ids"], state.arrays["alive"].tolist(), strict=True)
    return frozenset(memory_id for memory_id, alive in rows if alive)


def _without(state: SpaceState, erased: frozenset[str], revision: int) -> SpaceState:
    """The same without the memories `erased`, unless they were written after `revision`, and without dead rows."""
    alive = state.arrays["alive"].copy()
    revisions = state.arrays["revisions"].tolist()
    for row, memory_id in enumerate(state.lists["ids"]):
        if memory_id in erased and revisions[row] <= revision:
            alive[row] = False
    lists, arrays = compacted(state.lists, {**state.arrays, "alive": alive})
    return SpaceState(state.model, state.applied_revision, state.ahead, state.removed, lists, arrays)
