"""A codebook: named hypervectors, and the clean-up that leads a noisy vector back to one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemocore.hypervector.algebra import BYTES, bundle, checked, invalid, nearest, random_hypervector, similarity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mnemocore.hypervector.algebra import Hypervector, Hypervectors

SETTLED: Final = 0.05
"""Clean-up ends when a step moves less than this share of the bits."""
NOISE: Final = 0.016
"""Excess over .5 that unrelated vectors do not reach (4 standard deviations); also how close entries are weighed alike.
"""
MAX_STEPS: Final = 10
"""Clean-up ends after this many steps in any case."""


@dataclass(frozen=True, slots=True)
class Match:
    """An entry and how like the question it is, 0 to 1; .5 is unrelated."""

    name: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What clean-up found: the name of the nearest entry, how like the question is to it, and the steps it took."""

    name: str
    similarity: float
    steps: int


class Codebook:
    """Named vectors, in the order in which they were added."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: dict[str, int] = {}
        self._table: Hypervectors = np.empty((16, BYTES), np.uint8)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> Hypervector:
        """The vector of `name`; KeyError if there is none."""
        vector: Hypervector = self._table[self._rows[name]]
        return vector

    @property
    def table(self) -> Hypervectors:
        """All vectors, one a row, in the order of iteration."""
        return self._table[: len(self._names)]

    def add(self, name: str, vector: Hypervector) -> None:
        """Put `vector` under `name`, in place of the one that was there."""
        if checked(vector, "vector").ndim != 1:
            raise invalid("vector", f"has shape {vector.shape}; allowed is ({BYTES},)")
        row = self._rows.get(name)
        if row is None:
            row = len(self._names)
            if row == len(self._table):
                self._table = np.concatenate((self._table, np.empty_like(self._table)))
            self._names.append(name)
            self._rows[name] = row
        self._table[row] = vector

    def symbol(self, name: str) -> Hypervector:
        """The vector of `name`; a new name gets its random vector."""
        if name not in self._rows:
            self.add(name, random_hypervector(name))
        return self[name]

    def nearest(self, vector: Hypervector, count: int, *, exclude: Collection[str] = ()) -> list[Match]:
        """The `count` entries most like `vector`, best first, those of equal similarity in order; at most all."""
        kept, table = self._without(exclude)
        rows, similarities = nearest(checked(vector, "vector"), table, count)
        found = zip(rows.tolist(), similarities.tolist(), strict=True)
        return [Match(self._names[kept[row]], alike) for row, alike in found]

    def clean_up(self, vector: Hypervector, neighbours: int = 5, *, exclude: Collection[str] = ()) -> Cleaned:
        """The entry that `vector` is a noisy form of.

        Each step replaces the vector by the majority of its nearest `neighbours`, until a step moves less than 5 % of
        the bits. A neighbour has weight exp(-d / .016), where d is how much less similar it is than the nearest one;
        none has any at .516 and below, where there is nothing but noise. Raises InvalidFieldError if no entry is left.
        """
        kept, table = self._without(exclude)
        if not kept:
            raise invalid("codebook", "has no entry to choose from; allowed is at least one")
        current, steps = checked(vector, "vector"), 0
        while steps < MAX_STEPS:
            rows, similarities = nearest(current, table, neighbours)
            if similarities[0] <= 0.5 + NOISE or similarities[0] == 1.0:
                break
            weights = np.exp((similarities - similarities[0]) / NOISE) * (similarities > 0.5 + NOISE)
            following = bundle(table[rows], weights.tolist())
            moved = 1.0 - float(similarity(current, following))
            current, steps = following, steps + 1
            if moved < SETTLED:
                break
        (row,), _ = nearest(current, table, 1)
        return Cleaned(self._names[kept[row]], float(similarity(vector, table[row])), steps)

    def _without(self, exclude: Collection[str]) -> tuple[Sequence[int], Hypervectors]:
        """The numbers of the rows whose names are not excluded, and these rows."""
        left_out = {self._rows[name] for name in exclude if name in self._rows}
        if not left_out:
            return range(len(self._names)), self.table
        kept = [row for row in range(len(self._names)) if row not in left_out]
        return kept, self.table[kept]
