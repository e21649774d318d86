"""The rows of a space: one a document, with its columns, vector, words and session neighbours.

A row is written once. An updated document gets a new row and its old one is no longer alive, so whoever holds views of
the columns can go on reading them. Dead rows leave when the tables are built anew from their state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mnemo_index.domain.columns import Column, Names
from mnemo_index.domain.documents import Document, Filter, digest, fingerprint, marks, microseconds
from mnemo_index.domain.postings import Postings
from mnemo_index.domain.sessions import Sessions
from mnemo_index.domain.words import STOP_WORDS, Stems, guard, words
from mnemocore.hypervector import SignProjection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

SKETCH_BITS: Final = 2048
"""Bits of a row's sketch: the prefix of its hypervector."""

_BYTES_A_DOCUMENT: Final = 260  # the id, its place in the dictionary and in the list
_COLUMNS: Final = {
    "revisions": np.int64,
    "digests": np.int64,
    "statements": np.int64,
    "occurred": np.int64,
    "kinds": np.int32,
    "actors": np.int32,
    "sessions": np.int32,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A document made ready: whatever can fail or takes time has been done before the tables are touched."""

    document: Document
    revision: int
    digest: int
    statement: int
    occurred: int
    marks: tuple[int, ...]
    terms: list[str]


def prepare(document: Document, revision: int, stems: Stems) -> Row:
    """The row of `document` after `revision`."""
    found = words(document.content)
    return Row(
        document,
        revision,
        digest(document),
        fingerprint(document.kind, document.actor, guard(found)),
        microseconds(document.occurred_at),
        tuple(marks(document.tags, document.metadata)),
        stems.terms(found),
    )


class Tables:
    """Rows in the order of their arrival. Not safe for use by several threads; the owner guards it."""

    def __init__(self, dimension: int, lists: dict[str, list[str]], arrays: dict[str, NDArray[Any]]) -> None:
        rows = len(lists["ids"])
        self.ids = list(lists["ids"])
        self.kinds, self.actors = Names(lists["kinds"]), Names(lists["actors"])
        self.sessions = Names(lists["sessions"])
        self.columns: dict[str, Column[Any]] = {name: Column(arrays[name].copy()) for name in _COLUMNS}
        self.alive = Column(arrays["alive"].astype(np.bool_))
        alive = self.alive.values
        self.row_of = {self.ids[row]: row for row in np.flatnonzero(alive).tolist()}
        self.vectors = Column(np.empty((0, dimension), dtype=np.float32))
        self.vectors.extend(arrays["vectors"].astype(np.float32).reshape(rows, dimension))
        self._sum = self.vectors.values[alive].sum(axis=0, dtype=np.float64)
        self._projection = SignProjection(dimension)
        self.sketches = Column(arrays["sketches"].reshape(-1, SKETCH_BITS // 8))
        self._marks, self._mark_rows = Column(arrays["marks"]), Column(arrays["mark_rows"])
        self.postings = Postings(lists["terms"], arrays["terms"], arrays["counts"], arrays["sizes"], alive)
        self.neighbours = Sessions(arrays["sessions"], arrays["ordinals"], alive)
        self._actor_words: dict[str, set[int]] = {}
        for code, actor in enumerate(lists["actors"]):
            self._learn_actor(actor, code)

    @classmethod
    def empty(cls, dimension: int) -> Tables:
        """Tables without rows."""
        arrays: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in _COLUMNS.items()}
        arrays |= {
            "alive": np.empty(0, np.bool_),
            "vectors": np.empty((0, dimension), np.float32),
            "sketches": np.empty((0, SKETCH_BITS // 8), np.uint8),
            "marks": np.empty(0, np.int64),
            "mark_rows": np.empty(0, np.int32),
            "terms": np.empty(0, np.int32),
            "counts": np.empty(0, np.uint16),
            "sizes": np.empty(0, np.int32),
            "ordinals": np.empty(0, np.int64),
        }
        return cls(dimension, {name: [] for name in ("ids", "kinds", "actors", "sessions", "terms")}, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def live(self) -> int:
        """Number of documents."""
        return self.postings.live

    @property
    def nbytes(self) -> int:
        """Bytes of RAM; the strings and dictionaries are estimated."""
        arrays = (*self.columns.values(), self.alive, self.vectors, self.sketches, self._marks, self._mark_rows)
        texts = _BYTES_A_DOCUMENT * len(self.ids)
        return sum(column.nbytes for column in arrays) + self.postings.nbytes + self.neighbours.nbytes + texts

    def add(self, rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
        """Add documents that have no living row. Vectors are kept to the precision of float16, as snapshots do."""
        first = len(self.ids)
        rounded = vectors.astype(np.float16).astype(np.float32)
        self.postings.extend([row.terms for row in rows])
        self.vectors.extend(rounded)
        self._sum += rounded.sum(axis=0, dtype=np.float64)
        self.alive.extend(np.ones(len(rows), dtype=np.bool_))
        values: dict[str, list[int]] = {name: [] for name in _COLUMNS}
        for number, row in enumerate(rows, first):
            self._place(row, number, values)
        for name, dtype in _COLUMNS.items():
            self.columns[name].extend(np.array(values[name], dtype=dtype))
        self.neighbours.extend(values["sessions"], [row.document.ordinal for row in rows])
        found = [(mark, number) for number, row in enumerate(rows, first) for mark in row.marks]
        self._marks.extend(np.array([mark for mark, _ in found], dtype=np.int64))
        self._mark_rows.extend(np.array([number for _, number in found], dtype=np.int32))

    def remove(self, memory_id: str) -> None:
        """Take a document out; KeyError if it is not there."""
        row = self.row_of.pop(memory_id)
        self.alive.values[row] = False
        self._sum -= self.vectors.values[row]
        self.postings.remove(row)
        self.neighbours.remove(int(self.columns["sessions"].values[row]), row)

    def next_sketches(self, most: int) -> NDArray[np.uint8]:
        """The sketches of at most `most` of the rows that have none in `sketches` yet, in their order."""
        start = len(self.sketches)
        return self._projection.project(self.vectors.values[start : start + most], SKETCH_BITS)

    def sketch_of(self, vector: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The sketch of one vector."""
        (sketch,) = self._projection.project(vector[None, :], SKETCH_BITS)
        return np.asarray(sketch, dtype=np.uint8)

    def centre(self) -> NDArray[np.float32]:
        """The mean of all vectors, drawn towards zero while there are few: what every text has in common."""
        mean: NDArray[np.float32] = (self._sum / (self.live + 16)).astype(np.float32)
        return mean

    def allowed(self, wanted: Filter) -> NDArray[np.bool_]:
        """For each row whether it is alive and matches `wanted`."""
        allowed = self.alive.values.copy()
        for name, codes, chosen in (
            ("kinds", self.kinds, wanted.kinds),
            ("actors", self.actors, wanted.actors),
            ("sessions", self.sessions, wanted.sessions),
        ):
            if chosen:
                allowed &= np.isin(self.columns[name].values, [codes.find(value) for value in chosen if value in codes])
        occurred = self.columns["occurred"].values
        if wanted.occurred_from is not None:
            allowed &= occurred >= microseconds(wanted.occurred_from)
        if wanted.occurred_to is not None:
            allowed &= occurred < microseconds(wanted.occurred_to)
        for mark in marks(wanted.tags, wanted.metadata):
            having = np.zeros(len(allowed), dtype=np.bool_)
            having[self._mark_rows.values[self._marks.values == mark]] = True
            allowed &= having
        return allowed

    def named_actor(self, found: Iterable[str], allowed: NDArray[np.bool_]) -> int:
        """The number of the one actor of the allowed rows whom the words `found` name; -1 if there is none or several.

        An actor is named by any word of its name, unless another one is named by the same words and more.
        """
        matched: dict[int, set[str]] = {}
        for word in found:
            for code in self._actor_words.get(word, ()):
                matched.setdefault(code, set()).add(word)
        best = [code for code, own in matched.items() if not any(own < other for other in matched.values())]
        actors = self.columns["actors"].values
        present = [code for code in best[:8] if bool(np.any(allowed & (actors == code)))]
        return present[0] if len(present) == 1 else -1

    def lists(self) -> dict[str, list[str]]:
        """The strings of the state."""
        return {
            "ids": list(self.ids),
            "kinds": self.kinds.listed(),
            "actors": self.actors.listed(),
            "sessions": self.sessions.listed(),
            "terms": self.postings.vocabulary.listed(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns of the state: views of what is never changed, copies of what is."""
        arrays: dict[str, NDArray[Any]] = {name: column.values for name, column in self.columns.items()}
        arrays |= {
            "revisions": self.columns["revisions"].values.copy(),
            "alive": self.alive.values.copy(),
            "vectors": self.vectors.values,
            "sketches": self.sketches.values,
            "marks": self._marks.values,
            "mark_rows": self._mark_rows.values,
            "terms": self.postings.terms.values,
            "counts": self.postings.counts.values,
            "sizes": self.postings.sizes.values,
            "ordinals": self.neighbours.ordinals,
        }
        return arrays

    def _place(self, row: Row, number: int, values: dict[str, list[int]]) -> None:
        document = row.document
        session = self.sessions.code(document.session) if document.session else -1
        self.ids.append(document.memory_id)
        self.row_of[document.memory_id] = number
        values["revisions"].append(row.revision)
        values["digests"].append(row.digest)
        values["statements"].append(row.statement)
        values["occurred"].append(row.occurred)
        values["kinds"].append(self.kinds.code(document.kind))
        values["actors"].append(self._actor(document.actor))
        values["sessions"].append(session)

    def _actor(self, actor: str) -> int:
        if not actor:
            return -1
        known = len(self.actors)
        code = self.actors.code(actor)
        if code == known:
            self._learn_actor(actor, code)
        return code

    def _learn_actor(self, actor: str, code: int) -> None:
        for word in words(actor):
            if word not in STOP_WORDS:
                self._actor_words.setdefault(word, set()).add(code)


def compacted(
    lists: dict[str, list[str]], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, list[str]], dict[str, NDArray[Any]]]:
    """The same lists and arrays without dead rows and without strings that only dead rows had."""
    alive = arrays["alive"]
    number = np.cumsum(alive) - 1
    kept = {name: arrays[name][alive] for name in (*_COLUMNS, "alive", "vectors", "ordinals", "sizes")}
    kept["sketches"] = arrays["sketches"][alive[: len(arrays["sketches"])]]
    marked = alive[arrays["mark_rows"]]
    kept["marks"] = arrays["marks"][marked]
    kept["mark_rows"] = number[arrays["mark_rows"][marked]].astype(np.int32)
    held = np.repeat(alive, arrays["sizes"])
    kept["terms"], kept["counts"] = arrays["terms"][held], arrays["counts"][held]
    strings = {"ids": [memory_id for memory_id, live in zip(lists["ids"], alive.tolist(), strict=True) if live]}
    for name in ("kinds", "actors", "sessions", "terms"):
        strings[name], kept[name] = _renumbered(lists[name], kept[name])
    return strings, kept


def _renumbered(names: list[str], codes: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    used = np.unique(codes[codes >= 0])
    places = np.full(len(names) + 1, -1, dtype=np.int32)  # the last one is for code -1
    places[used] = np.arange(len(used), dtype=np.int32)
    return [names[code] for code in used.tolist()], places[codes]
