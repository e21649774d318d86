"""What the index needs from others: the feed of changes, and a place for snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from mnemo_index.domain.documents import Change
    from mnemocore.ids import SpaceUid


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


class Feed(Protocol):
    """The event log as the index reads it."""

    def changes(self, after: int, space_uid: SpaceUid | None = None) -> AsyncGenerator[FeedBatch]:
        """Changes after a position, of all spaces or of one, for ever. Raises PeerUnavailableError when it breaks."""
        ...
