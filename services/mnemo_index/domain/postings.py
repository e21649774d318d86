"""The words of a space: which row has which term how often and where, and BM25 over them.

The terms of each row are kept one after another as in its text (what a snapshot stores, and a removal and a phrase
need), and the rows of each term with the number of times (what a search reads). The latter have a frozen part, sorted,
and a tail of what came since; the tail is merged when it has grown to a quarter of the frozen part. A row is found as
soon as it is added.
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
_READ_ALL: Final = 64
"""All terms are read rather than those of one row in so many: one after the other they are read faster."""
_IDEAL: Final = (K1 + 1.0) / (1.0 + K1 * (1.0 - B))


def rarity_of(live: int, having: int) -> float:
    """The inverse document frequency of a term that `having` of `live` rows have."""
    return float(np.log(1.0 + (live - having + 0.5) / (having + 0.5)))


class Postings:
    """The terms of numbered rows: `sizes` of each in `terms`, in the order of its text, repeated ones as well.

    `live` counts the rows that the statistics are of: at first the `counted` ones.
    """

    def __init__(
        self, vocabulary: list[str], terms: NDArray[np.int32], sizes: NDArray[np.int32], counted: NDArray[np.bool_]
    ) -> None:
        self.vocabulary = Names(vocabulary)
        self.terms = Column(terms)
        self.sizes = Column(sizes)
        self._ends = Column(np.cumsum(sizes, dtype=np.int64))
        self.live = int(np.count_nonzero(counted))
        self._total_length = float(sizes[counted].sum(dtype=np.int64))
        self._offsets = np.zeros(1, dtype=np.int64)
        self._rows = np.empty(0, dtype=np.int32)
        self._repeats = np.empty(0, dtype=np.uint16)
        self._frozen_rows = 0
        self._tail: dict[int, array[int]] = {}
        self._tail_size = 0
        self._merge()
        having = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counted[self._rows], dtype=np.int64)))
        self._frequency = Column(having[self._offsets[1:]] - having[self._offsets[:-1]])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and an estimate of those of the tail and the vocabulary."""
        columns = (self.terms, self.sizes, self._ends, self._frequency)
        frozen = self._offsets.nbytes + self._rows.nbytes + self._repeats.nbytes
        tail = 8 * self._tail_size + 200 * len(self._tail)
        return sum(column.nbytes for column in columns) + frozen + tail + 160 * len(self.vocabulary)

    def extend(self, documents: Sequence[Sequence[str]]) -> None:
        """Add the next rows, each with its terms in the order of its text. The statistics are of them too."""
        flat = np.array(self.vocabulary.codes(chain.from_iterable(documents)), dtype=np.int32)
        sizes = np.array([len(document) for document in documents], dtype=np.int32)
        owners = np.repeat(np.arange(len(self.sizes), len(self.sizes) + len(documents), dtype=np.int32), sizes)
        terms, rows, repeats = _grouped(flat, owners)
        self._frequency.extend(np.zeros(len(self.vocabulary) - len(self._frequency), dtype=np.int64))
        np.add.at(self._frequency.values, terms, 1)
        self._ends.extend(len(self.terms) + np.cumsum(sizes, dtype=np.int64))
        self.terms.extend(flat)
        self.sizes.extend(sizes)
        self.live += len(documents)
        self._total_length += float(len(flat))
        tail = self._tail
        for term, row, count in zip(terms.tolist(), rows.tolist(), repeats.tolist(), strict=True):
            entry = tail.get(term)
            if entry is None:
                entry = tail[term] = array("i")
            entry.extend((row, count))
        self._tail_size += len(terms)
        if self._tail_size > max(_LEAST_TAIL, len(self._rows) // 4):
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
        return rarity_of(self.live, self.frequency(term))

    def frequency(self, term: str) -> int:
        """How many of the rows that the statistics are of have `term`."""
        code = self.vocabulary.find(term)
        return 0 if code < 0 else int(self._frequency.values[code])

    def scores(self, terms: Sequence[str], variants: Sequence[Sequence[str]] = ()) -> NDArray[np.float32]:
        """For each row BM25 over the different `terms`, divided by that of a very short text with each term once.

        Each of `variants` are different terms that count as one: a row has it as often as all of them, and as many rows
        have it as have any of them, each counted for each. Between 0 and 1 (a text that repeats them may reach more and
        is given 1); all 0 without terms.
        """
        scores = np.zeros(len(self.sizes), dtype=np.float32)
        mean = max(self._total_length / max(self.live, 1), 1.0)
        ideal = 0.0
        for term in dict.fromkeys(terms):
            rarity = self.rarity(term)
            ideal += rarity * _IDEAL
            code = self.vocabulary.find(term)
            if code >= 0:
                for rows, repeats in self._of(code):
                    self._add(scores, rows, repeats, rarity, mean)
        for group in variants:
            rarity = rarity_of(self.live, min(sum(map(self.frequency, group)), self.live))
            ideal += rarity * _IDEAL
            repeated = self._repeated(group)
            having = np.flatnonzero(repeated)
            self._add(scores, having, repeated[having], rarity, mean)
        if ideal:
            scores *= np.float32(1.0 / ideal)
            np.minimum(scores, 1.0, out=scores)
        return scores

    def having_phrase(self, terms: Sequence[str]) -> NDArray[np.intp]:
        """The rows, ascending, in which the `terms`, at least one, stand next to each other in this order."""
        codes = [self.vocabulary.find(term) for term in terms]
        if min(codes) < 0:
            return np.empty(0, dtype=np.intp)
        flat, ends = self.terms.values, self._ends.values
        rows, *others = sorted(map(self._rows_of, set(codes)), key=len)
        if len(rows) > len(ends) // _READ_ALL:
            places = np.flatnonzero(flat == codes[0])
        else:
            for other in others:
                rows = rows[other[np.minimum(np.searchsorted(other, rows), len(other) - 1)] == rows]
            places = self._places(rows)
            places = places[flat[places] == codes[0]]
        places = places[places <= len(flat) - len(codes)]
        for further, code in enumerate(codes[1:], 1):
            places = places[flat[places + further] == code]
        owners = np.searchsorted(ends, places, side="right")
        owners = owners[places + len(codes) <= ends[owners]]
        return owners[np.diff(owners, prepend=-1) > 0]

    def _places(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where the terms of some rows stand."""
        sizes = self.sizes.values[rows]
        starts = self._ends.values[rows] - np.cumsum(sizes, dtype=np.int64)
        return np.arange(int(sizes.sum())) + np.repeat(starts, sizes)

    def _rows_of(self, code: int) -> NDArray[np.int32]:
        """The rows of a term, ascending."""
        return np.concatenate([np.empty(0, dtype=np.int32), *(rows for rows, _ in self._of(code))])

    def _count(self, row: int, times: int) -> None:
        end, size = int(self._ends.values[row]), int(self.sizes.values[row])
        # A term that the row repeats is counted once: of equal places of such an assignment only one has an effect.
        self._frequency.values[self.terms.values[end - size : end]] += times
        self._total_length += times * float(size)
        self.live += times

    def _add(
        self,
        scores: NDArray[np.float32],
        rows: NDArray[np.integer],
        repeats: NDArray[np.float32],
        rarity: float,
        mean: float,
    ) -> None:
        """Add what a term is worth in the different `rows`, which have it `repeats` times."""
        slope, base = np.float32(K1 * B / mean), np.float32(K1 * (1.0 - B))
        factor = np.float32(rarity * (K1 + 1.0))
        saturation = np.multiply(self.sizes.values[rows], slope, dtype=np.float32) + base
        scores[rows] += factor * repeats / (repeats + saturation)

    def _repeated(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """For each row how often it has any of the different `terms`."""
        repeated = np.zeros(len(self.sizes), dtype=np.float32)
        for code in map(self.vocabulary.find, terms):
            if code >= 0:
                for rows, repeats in self._of(code):
                    repeated[rows] += repeats
        return repeated

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
        sizes = self.sizes.values[self._frozen_rows :]
        owners = np.repeat(np.arange(self._frozen_rows, len(self.sizes), dtype=np.int32), sizes)
        terms, new_rows, new_repeats = _grouped(self.terms.values[start:], owners)
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
        total = len(self._rows) + len(terms)
        rows, repeats = np.empty(total, np.int32), np.empty(total, np.uint16)
        rows[old_places], rows[new_places] = self._rows, new_rows
        repeats[old_places], repeats[new_places] = self._repeats, new_repeats
        self._offsets, self._rows, self._repeats = offsets, rows, repeats
        self._frozen_rows = len(self.sizes)
        self._tail, self._tail_size = {}, 0


def _grouped(
    terms: NDArray[np.int32], rows: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]]:
    """The different pairs of a term and its row, by term and then by row, and how often each is there.

    `rows` are ascending.
    """
    order = np.argsort(terms, kind="stable")
    terms, rows = terms[order], rows[order]
    first = np.ones(len(terms), dtype=np.bool_)
    first[1:] = (terms[1:] != terms[:-1]) | (rows[1:] != rows[:-1])
    places = np.flatnonzero(first)
    repeats = np.minimum(np.diff(places, append=len(terms)), 0xFFFF).astype(np.uint16)
    return terms[places], rows[places], repeats
