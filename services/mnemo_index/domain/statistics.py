"""The statistics of a space whose rows are elsewhere: what its active rows have in common, without the rows."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.domain.documents import EPOCH
from mnemo_index.domain.postings import rarity_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray

_BYTES_A_NAME: Final = 180  # a string, its number, their places in a dictionary


class Statistics:
    """Counts over the active rows of a space. Not safe for use by several threads; the owner guards it."""

    def __init__(self, dimension: int) -> None:
        self.live = 0
        """Number of active rows."""
        self.total_length = 0
        """Number of their terms, repetitions included."""
        self.frequency: Counter[str] = Counter()
        """In how many of them each term is."""
        self.vector_sum: NDArray[np.float64] = np.zeros(dimension)
        """The sum of their vectors."""
        self._last_ordinal: dict[str, int] = {}
        self._earliest: int | None = None
        self._latest = 0

    @property
    def nbytes(self) -> int:
        """Bytes of RAM, estimated."""
        return _BYTES_A_NAME * (len(self.frequency) + len(self._last_ordinal)) + self.vector_sum.nbytes

    def add(self, terms: Sequence[str], vector: NDArray[np.float32]) -> None:
        """Count a row that is active now."""
        self._count(terms, vector, 1)

    def remove(self, terms: Sequence[str], vector: NDArray[np.float32]) -> None:
        """Count a row no more that was counted with the same terms and vector."""
        self._count(terms, vector, -1)

    def place(self, session: str, ordinal: int | None) -> int:
        """The ordinal of a row in its session: the given one; without one, that after the last one known there."""
        last = self._last_ordinal.get(session, -1)
        placed = last + 1 if ordinal is None else ordinal
        if session:
            self._last_ordinal[session] = max(last, placed)
        return placed

    def happened(self, occurred: int) -> None:
        """Note when a row happened, in microseconds from 1970."""
        self._earliest = occurred if self._earliest is None else min(self._earliest, occurred)
        self._latest = max(self._latest, occurred)

    def period(self) -> tuple[date, date] | None:
        """The first and the last day (UTC) on which a row ever happened; None if there was none."""
        if self._earliest is None:
            return None
        first, last = (EPOCH + timedelta(microseconds=moment) for moment in (self._earliest, self._latest))
        return first.date(), last.date()

    def terms(self) -> list[str]:
        """The different terms of the active rows, in no order; complete also while another thread counts."""
        return list(self.frequency)

    def rarity(self, term: str) -> float:
        """The inverse document frequency of `term`, as `Postings.rarity`."""
        return rarity_of(self.live, self.frequency[term])

    def _count(self, terms: Sequence[str], vector: NDArray[np.float32], times: int) -> None:
        self.live += times
        self.total_length += times * len(terms)
        for term in dict.fromkeys(terms):
            self.frequency[term] += times
            if not self.frequency[term]:
                del self.frequency[term]
        self.vector_sum += times * vector
