"""What is known of each space, whether it is in RAM or only on disk, and which ones have to leave the RAM first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from mnemo_index.domain.engine import SpaceEngine
from mnemo_index.domain.sealed_space import SealedSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemo_index.domain.documents import Change
    from mnemo_index.domain.state import Head
    from mnemocore.ids import SpaceUid

Held: TypeAlias = SpaceEngine | SealedSpace
"""What is held of a space in RAM: of an encrypted one, what opens with its keys."""

_BYTES_A_CHANGE: Final = 1000
"""RAM of a change that waits, its text aside."""


class Place:
    """What is known of one space. Whoever reads its snapshot, changes it or takes it out of RAM holds its `lock`."""

    __slots__ = (
        "_model",
        "_size",
        "_unencoded",
        "applied",
        "changed",
        "held",
        "lock",
        "losses",
        "owed",
        "saving",
        "stored",
        "uid",
        "waiting",
    )

    def __init__(self, uid: SpaceUid, owed: int | None = 0) -> None:
        self.uid = uid
        self.lock = asyncio.Lock()
        self.applied = 0
        """The revision up to which every change is taken, those that wait included."""
        self.held: Held | None = None
        """None while the space is only on disk."""
        self.waiting: list[Change] = []
        """Changes that follow what is on disk."""
        self.stored = False
        """Whether there is a snapshot."""
        self.changed = False
        """Whether the snapshot is older than what is known."""
        self.saving = False
        """Whether a snapshot is being written: until that is done nothing else has what it says."""
        self.owed = owed
        """Before this position of the log is applied the space is not whole; None: nobody knows yet, or it is lost."""
        self.losses = 0
        """How often it was lost."""
        self._size = 0
        self._unencoded = 0
        self._model = ""

    @classmethod
    def of(cls, uid: SpaceUid, head: Head, owed: int | None) -> Place:
        """The place of a space that is on disk."""
        place = cls(uid, owed)
        place.applied, place._size, place.stored = head.applied_revision, head.size, True
        place._model, place._unencoded = head.model, head.waiting
        return place

    @property
    def size(self) -> int:
        """Number of active memories; of a space that is not in RAM as it was when it left."""
        return self._size if self.held is None else self.held.size

    @property
    def model(self) -> str:
        """The model of its vectors; empty for an encrypted space, whose vectors are never on disk."""
        return self._model if self.held is None else self.held.kept_model

    @property
    def unencoded(self) -> int:
        """Number of memories that wait for their vectors; of a space that is not in RAM as it was when it left."""
        return self._unencoded if self.held is None else self.held.waiting

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM that it takes, estimated; 0 for a space that is only on disk."""
        waiting = sum(_BYTES_A_CHANGE + len(change.sealed) + _length(change) for change in self.waiting)
        return waiting + (0 if self.held is None else self.held.memory_bytes)

    @property
    def lost(self) -> bool:
        """Whether it was there and there is nothing left of it: it has to be built anew."""
        return self.held is None and not self.stored

    def hold(self, held: Held) -> None:
        """Take in what was read or built."""
        self.held = held
        self.applied = max(self.applied, held.applied_revision)

    def release(self) -> None:
        """Take it out of RAM; what it holds is on disk."""
        self._size, self._model, self._unencoded = self.size, self.model, self.unencoded
        self.held = None

    def lose(self) -> None:
        """Know nothing of it any more."""
        self.held, self.waiting, self.applied, self.stored, self.owed, self._size = None, [], 0, False, None, 0
        self.changed = False
        self.losses += 1


class Residents:
    """The places that take RAM, in the order of their use, and how much they take.

    `budget` is the number of bytes beyond which those not used for longest have to leave; 0: there is none.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._taken: OrderedDict[SpaceUid, tuple[Place, int]] = OrderedDict()
        self.bytes = 0
        """What all of them take."""

    @property
    def crowded(self) -> bool:
        """Whether somebody has to leave."""
        return 0 < self._budget < self.bytes

    def count(self, place: Place) -> None:
        """Note what a place takes now; its turn stays. A new one comes last."""
        _, before = self._taken.get(place.uid, (place, 0))
        if takes := place.memory_bytes:
            self._taken[place.uid] = place, takes
        else:
            self._taken.pop(place.uid, None)
        self.bytes += takes - before

    def use(self, place: Place) -> None:
        """Note that a place was used: all others leave before it."""
        if self._budget and place.uid in self._taken:
            self.count(place)
            self._taken.move_to_end(place.uid)

    def postpone(self, place: Place) -> None:
        """Note that a place was only read for others' sake: it leaves before all others."""
        if place.uid in self._taken:
            self._taken.move_to_end(place.uid, last=False)

    def drop(self, place: Place) -> None:
        """Forget a place."""
        _, before = self._taken.pop(place.uid, (place, 0))
        self.bytes -= before

    def next_to_leave(self, *, unchanged_only: bool) -> Place | None:
        """The place that was not used for longest and may leave; the one used last stays in any case.

        With `unchanged_only` those whose snapshots are older than what is known stay too.
        """
        last = next(reversed(self._taken), None)
        for place, _ in self._taken.values():
            busy = place.lock.locked() or place.saving or (unchanged_only and place.changed)
            if place.uid != last and not busy:
                return place
        return None


def follows(applied: int, changes: Sequence[Change]) -> bool:
    """Whether each change follows the one before it, and the first of them revision `applied`, without a gap."""
    for change in changes:
        if change.revision > applied + 1:
            return False
        applied = max(applied, change.revision)
    return True


def _length(change: Change) -> int:
    return 0 if change.document is None else len(change.document.content)
