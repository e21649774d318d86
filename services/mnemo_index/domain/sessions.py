"""Sessions: which rows are neighbours. The rows of a session stand in the order of their ordinals, then of arrival."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.domain.columns import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BYTES_A_SESSION: Final = 200  # the array without its numbers, its place in the dictionary
NOBODY: Final = 0
"""The slot of no row. Row r has slot r + 1, so that a missing neighbour can be looked up like any other."""


class Sessions:
    """The neighbours of each row within its session, as slots: `before` and `after`, one entry a slot.

    Only `linked` rows are neighbours; the others keep their ordinals and may be put in later.
    """

    def __init__(self, sessions: NDArray[np.int32], ordinals: NDArray[np.int64], linked: NDArray[np.bool_]) -> None:
        self._ordinals = Column(ordinals.copy())
        self.before = Column(np.zeros(len(sessions) + 1, dtype=np.int32))
        self.after = Column(np.zeros(len(sessions) + 1, dtype=np.int32))
        self._rows: dict[int, array[int]] = {}
        members = np.flatnonzero(linked & (sessions >= 0))
        members = members[np.lexsort((members, ordinals[members], sessions[members]))]
        following = sessions[members[:-1]] == sessions[members[1:]]
        left, right = members[:-1][following] + 1, members[1:][following] + 1
        self.after.values[left] = right
        self.before.values[right] = left
        cuts = np.flatnonzero(~following) + 1
        if len(members):
            for part in np.split(members, cuts):
                self._rows[int(sessions[part[0]])] = array("i", part.astype(np.int32).tobytes())

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and an estimate of those of the lists."""
        lists = _BYTES_A_SESSION * len(self._rows) + 5 * len(self._ordinals)
        return self.before.nbytes + self.after.nbytes + self._ordinals.nbytes + lists

    @property
    def ordinals(self) -> NDArray[np.int64]:
        """The place of each row in its session; -1 for a row that was given none."""
        return self._ordinals.values

    def extend(self, sessions: Sequence[int], ordinals: Sequence[int | None]) -> None:
        """Add the next rows, each to its session (-1: to none). A row without an ordinal comes last in its session."""
        first = len(self._ordinals)
        given = [-1 if ordinal is None else ordinal for ordinal in ordinals]
        self._ordinals.extend(np.array(given, dtype=np.int64))
        self.before.extend(np.zeros(len(sessions), dtype=np.int32))
        self.after.extend(np.zeros(len(sessions), dtype=np.int32))
        for row, session in enumerate(sessions, first):
            self.insert(session, row)

    def insert(self, session: int, row: int) -> None:
        """Put `row` into `session` (-1: into none), at its ordinal; without one it comes last and is given the next."""
        if session < 0:
            return
        rows = self._rows.setdefault(session, array("i"))
        if self.ordinals[row] < 0:
            self.ordinals[row] = int(self.ordinals[rows[-1]]) + 1 if rows else 0
        place = self._place(rows, int(self.ordinals[row]), row)
        rows.insert(place, row)
        self._link(rows[place - 1] if place else -1, row)
        self._link(row, rows[place + 1] if place + 1 < len(rows) else -1)

    def remove(self, session: int, row: int) -> None:
        """Take `row` out of `session` (-1: out of none); its neighbours become neighbours of each other."""
        if session < 0:
            return
        rows = self._rows[session]
        del rows[self._place(rows, int(self.ordinals[row]), row)]
        if not rows:
            del self._rows[session]
        before, after = int(self.before.values[row + 1]) - 1, int(self.after.values[row + 1]) - 1
        self._link(before, after)
        self.before.values[row + 1] = self.after.values[row + 1] = NOBODY

    def _place(self, rows: array[int], ordinal: int, row: int) -> int:
        ordinals = self.ordinals
        if not rows or (int(ordinals[rows[-1]]), rows[-1]) < (ordinal, row):
            return len(rows)
        return bisect_left(rows, (ordinal, row), key=lambda other: (int(ordinals[other]), other))

    def _link(self, left: int, right: int) -> None:
        if left >= 0:
            self.after.values[left + 1] = right + 1
        if right >= 0:
            self.before.values[right + 1] = left + 1
