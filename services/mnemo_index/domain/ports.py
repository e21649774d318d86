"""What the index needs from others: the feed of changes, and a place for snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from mnemo_index.domain.documents import Change
    from mnemo_index.domain.state import Kept, Progress, SpaceState
    from mnemocore.ids import SpaceUid


class UnusableSnapshotError(ValueError):
    """What is kept of a space cannot be used, and why: the space has to be built anew from the log."""


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Changes in the order of the event log; everything up to `position` is in this batch or an earlier one.

    `head` is the newest position of the log, `oldest` the time of the oldest change in the batch, `erased` the spaces
    that were erased in it: no change of theirs comes after it.
    """

    changes: tuple[tuple[SpaceUid, Change], ...]
    position: int
    head: int
    oldest: datetime | None
    erased: frozenset[SpaceUid] = frozenset()


class LogTooShortError(Exception):
    """The event log ends before a position that was read before: it is another one."""


class Feed(Protocol):
    """The event log as the index reads it."""

    def changes(self, after: int, space_uid: SpaceUid | None = None) -> AsyncGenerator[FeedBatch]:
        """Changes after a position, of all spaces or of one, for ever.

        The first batch comes at once, even if it is empty, and tells the head. Raises PeerUnavailableError when it
        breaks, LogTooShortError if the position lies beyond the head.
        """
        ...


class Snapshots(Protocol):
    """Keeps the states of spaces and how far they are. Blocking; one call that writes at a time."""

    def kept(self) -> Kept:
        """What there is, without reading the states; what cannot be used is set aside. Called once, at first."""
        ...

    def load(self, space_uid: SpaceUid) -> SpaceState:
        """The state of a space. Raises UnusableSnapshotError if there is none that is whole."""
        ...

    def save(self, space_uid: SpaceUid, state: SpaceState) -> None:
        """Keep a state in the place of the one before, as a whole. Raises StoreFullError."""
        ...

    def save_progress(self, progress: Progress) -> None:
        """Say how far the kept states are, all together. Raises StoreFullError."""
        ...

    def forget(self, space_uid: SpaceUid) -> None:
        """Keep nothing of a space any more."""
        ...
