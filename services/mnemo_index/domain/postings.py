"""The words of a space: which row has which term how often, and BM25 over them.

The terms of each row are kept in the order of rows (what a snapshot stores and a removal needs) and in the order of
terms (what a search reads). The latter has a frozen part, sorted, and a tail of what came since; the tail is merged
when it has grown to a quarter of the frozen part. A row is found as soon as it is added.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.domain.columns import Column, Names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

K1: Final = 1.2
"""BM25: how soon repeating a word stops counting."""
B: Final = 0.4
"""BM25: how much a long text is held against it."""

_LEAST_TAIL: Final = 16_384
_IDEAL: Final = (K1 + 1.0) / (1.0 + K1 * (1.0 - B))


def rarity_of(live: int, having: int) -> float:
    """The inverse document frequency of a term that `having` of `live` rows have."""
    return float(np.log(1.0 + (live - having + 0.5) / (having + 0.5)))


class Postings:
    """The terms of numbered rows. `live` counts those that the statistics are of: at first the `counted` ones."""

    def __init__(
        self,
        vocabulary: list[str],
        terms: NDArray[np.int32],
        counts: NDArray[np.uint16],
        sizes: NDArray[np.int32],
        counted: NDArray[np.bool_],
    ) -> None:
        self.vocabulary = Names(vocabulary)
        self.terms = Column(terms)
        self.counts = Column(counts)
        self.sizes = Column(sizes)
        self._ends = Column(np.cumsum(sizes, dtype=np.int64))
        owners = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self._lengths = Column(np.bincount(owners, counts, len(sizes)).astype(np.float32))
        self._frequency = Column(np.bincount(terms[counted[owners]], minlength=len(vocabulary)).astype(np.int64))
        self.live = int(np.count_nonzero(counted))
        self._total_length = float(self._lengths.values[counted].sum(dtype=np.float64))
        self._offsets = np.zeros(1, dtype=np.int64)
        self._rows = np.empty(0, dtype=np.int32)
        self._repeats = np.empty(0, dtype=np.uint16)
        self._frozen_rows = 0
        self._tail: dict[int, array[int]] = {}
        self._merge()

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and an estimate of those of the tail and the vocabulary."""
        columns = (self.terms, self.counts, self.sizes, self._ends, self._lengths, self._frequency)
        frozen = self._offsets.nbytes + self._rows.nbytes + self._repeats.nbytes
        tail = 8 * (len(self.terms) - len(self._rows)) + 200 * len(self._tail)
        return sum(column.nbytes for column in columns) + frozen + tail + 160 * len(self.vocabulary)

    def extend(self, documents: Sequence[Sequence[str]]) -> None:
        """Add the next rows, each with its terms in any order. The statistics are of them too."""
        flat = np.array(self.vocabulary.codes(chain.from_iterable(documents)), dtype=np.int64)
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        first = len(self.sizes)
        owners = np.repeat(np.arange(len(documents), dtype=np.int64), lengths)
        pairs, repeats = np.unique(owners << 32 | flat, return_counts=True)
        terms, rows = pairs & 0xFFFFFFFF, pairs >> 32
        sizes = np.bincount(rows, minlength=len(documents))
        counts = np.minimum(repeats, 0xFFFF).astype(np.uint16)
        self._frequency.extend(np.zeros(len(self.vocabulary) - len(self._frequency), dtype=np.int64))
        np.add.at(self._frequency.values, terms, 1)
        self._ends.extend(len(self.terms) + np.cumsum(sizes, dtype=np.int64))
        self.terms.extend(terms.astype(np.int32))
        self.counts.extend(counts)
        self.sizes.extend(sizes.astype(np.int32))
        self._lengths.extend(np.bincount(rows, counts, len(documents)).astype(np.float32))
        self.live += len(documents)
        self._total_length += float(counts.sum(dtype=np.int64))
        tail = self._tail
        for term, row, count in zip(terms.tolist(), (rows + first).tolist(), counts.tolist(), strict=True):
            entry = tail.get(term)
            if entry is None:
                entry = tail[term] = array("i")
            entry.extend((row, count))
        if len(self.terms) - len(self._rows) > max(_LEAST_TAIL, len(self._rows) // 4):
            self._merge()

    def remove(self, row: int) -> None:
        """Take `row` out of the statistics; searches still see it and must leave it out themselves."""
        self._count(row, -1)

    def restore(self, row: int) -> None:
        """Put a row back into the statistics that was taken out."""
        self._count(row, 1)

    def count_as(self, live: int, total_length: int, frequency: Mapping[str, int]) -> None:
        """Go on with the statistics of other rows, of which these are some.

        There are `live` with `total_length` terms in all; `frequency` says how many have each of some terms, and the
        other terms are not asked for.
        """
        codes = self.vocabulary.codes(frequency)
        self._frequency.extend(np.zeros(len(self.vocabulary) - len(self._frequency), dtype=np.int64))
        self._frequency.values[codes] = list(frequency.values())
        self.live, self._total_length = live, float(total_length)

    def rarity(self, term: str) -> float:
        """The inverse document frequency of `term`: ln(1 + (N - n + .5) / (n + .5)); greatest if no row has it."""
        code = self.vocabulary.find(term)
        return rarity_of(self.live, 0 if code < 0 else int(self._frequency.values[code]))

    def scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """For each row BM25 over the different `terms`, divided by that of a very short text with each term once.

        Between 0 and 1 (a text that repeats them may reach more and is given 1); all 0 without terms.
        """
        scores = np.zeros(len(self.sizes), dtype=np.float32)
        mean = max(self._total_length / max(self.live, 1), 1.0)
        ideal = 0.0
        for term in dict.fromkeys(terms):
            rarity = self.rarity(term)
            ideal += rarity * _IDEAL
            code = self.vocabulary.find(term)
            if code >= 0:
                self._add(scores, code, rarity, mean)
        if ideal:
            scores *= np.float32(1.0 / ideal)
            np.minimum(scores, 1.0, out=scores)
        return scores

    def _count(self, row: int, times: int) -> None:
        end = int(self._ends.values[row])
        self._frequency.values[self.terms.values[end - int(self.sizes.values[row]) : end]] += times
        self._total_length += times * float(self._lengths.values[row])
        self.live += times

    def _add(self, scores: NDArray[np.float32], code: int, rarity: float, mean: float) -> None:
        slope, base = np.float32(K1 * B / mean), np.float32(K1 * (1.0 - B))
        factor = np.float32(rarity * (K1 + 1.0))
        for rows, repeats in self._of(code):
            saturation = self._lengths.values[rows] * slope + base
            scores[rows] += factor * repeats / (repeats + saturation)

    def _of(self, code: int) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Rows of a term, each once, and how often each has it: the frozen part and the tail."""
        parts = []
        if code < len(self._offsets) - 1:
            part = slice(int(self._offsets[code]), int(self._offsets[code + 1]))
            parts.append((self._rows[part], self._repeats[part].astype(np.float32)))
        entry = self._tail.get(code)
        if entry is not None:
            recent = np.array(entry, dtype=np.int32)
            parts.append((recent[0::2], recent[1::2].astype(np.float32)))
        return parts

    def _merge(self) -> None:
        """Move the tail into the frozen part. Each term's rows stay in ascending order."""
        start = int(self._ends.values[self._frozen_rows - 1]) if self._frozen_rows else 0
        terms, sizes = self.terms.values[start:], self.sizes.values[self._frozen_rows :]
        order = np.argsort(terms, kind="stable")
        known = len(self.vocabulary)
        added = np.bincount(terms, minlength=known)
        kept = np.zeros(known, dtype=np.int64)
        kept[: len(self._offsets) - 1] = np.diff(self._offsets)
        offsets = np.zeros(known + 1, dtype=np.int64)
        np.cumsum(kept + added, out=offsets[1:])
        from_old = offsets[:-1] - (np.cumsum(kept) - kept)
        from_new = offsets[:-1] + kept - (np.cumsum(added) - added)
        old_places = np.arange(len(self._rows)) + np.repeat(from_old, kept)
        new_places = np.arange(len(terms)) + np.repeat(from_new, added)
        owners = np.repeat(np.arange(self._frozen_rows, len(self.sizes), dtype=np.int32), sizes)
        rows, repeats = np.empty(len(self.terms), np.int32), np.empty(len(self.terms), np.uint16)
        rows[old_places], rows[new_places] = self._rows, owners[order]
        repeats[old_places], repeats[new_places] = self._repeats, self.counts.values[start:][order]
        self._offsets, self._rows, self._repeats = offsets, rows, repeats
        self._frozen_rows = len(self.sizes)
        self._tail = {}
