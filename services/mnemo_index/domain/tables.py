"""The rows of a space: one a document, with its columns, vector, words and session neighbours.

What is searched of a row is written once: a document that says something else gets a new row and its old one is no
longer alive, so whoever holds views of those columns can go on reading them. What a row is chosen by (state, times,
importance) changes in its place. Dead rows leave when the tables are built anew from their state.

Statistics, session neighbours and named actors are those of the rows whose state is ACTIVE: the others are there to be
asked for, and change nothing for the active ones. A row whose time is over leaves the statistics with the change that
says so.

A row may wait for its vector. Until it is given one it has zeros, which are near nothing, and does not count where
vectors are averaged; nobody else than who looks for similar ones has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from mnemo_index.domain.columns import Column, Names
from mnemo_index.domain.documents import EPOCH, Document, Filter, State, digest, fingerprint, marks, microseconds
from mnemo_index.domain.nearness import nearness
from mnemo_index.domain.postings import Postings
from mnemo_index.domain.row_ids import RowIds
from mnemo_index.domain.sessions import Sessions
from mnemo_index.domain.words import STOP_WORDS, Stems, asks, guard, names, words
from mnemocore.hypervector import SignProjection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime

    from numpy.typing import NDArray

    from mnemo_index.domain.dates import Days
    from mnemo_index.domain.statistics import Statistics

SKETCH_BITS: Final = 2048
"""Bits of a row's sketch: the prefix of its hypervector."""

_BYTES_A_NAME: Final = 180  # the string, its number, their places in a dictionary
_GONE: Final = 0
"""The state of a row that is not alive."""
_SUMMED_AT_ONCE: Final = 4096
_ALWAYS: Final = np.iinfo(np.int64).min
_NEVER: Final = np.iinfo(np.int64).max
_WRITTEN_ONCE: Final[dict[str, type[np.generic]]] = {
    "revisions": np.int64,
    "digests": np.int64,
    "statements": np.int64,
    "occurred": np.int64,
    "kinds": np.int32,
    "actors": np.int32,
    "sessions": np.int32,
    "asks": np.bool_,
}
_CHANGING: Final[dict[str, type[np.generic]]] = {
    "states": np.int8,
    "created": np.int64,
    "valid_from": np.int64,
    "valid_to": np.int64,
    "expires": np.int64,
    "importance": np.float64,
    "modalities": np.int32,
}
_COLUMNS: Final = _WRITTEN_ONCE | _CHANGING

Conditions: TypeAlias = tuple[int, int, int, int, int, float, int]
"""What a row is chosen by: a value for each of the columns that change, in their order."""


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
    asks: bool
    conditions: Conditions


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
        stems.terms(found) + names(document.content),
        asks(document.content),
        conditions_of(document),
    )


def conditions_of(document: Document) -> Conditions:
    """What the row of `document` is chosen by, in the order of the columns that change."""
    return (
        int(document.state),
        microseconds(document.created_at),
        _ALWAYS if document.valid_from is None else microseconds(document.valid_from),
        _NEVER if document.valid_to is None else microseconds(document.valid_to),
        _NEVER if document.expires_at is None else microseconds(document.expires_at),
        document.importance,
        document.modality,
    )


class Tables:
    """Rows in the order of their arrival. Not safe for use by several threads; the owner guards it."""

    def __init__(self, dimension: int, lists: dict[str, list[str]], arrays: dict[str, NDArray[Any]]) -> None:
        rows = len(lists["ids"])
        self.kinds, self.actors = Names(lists["kinds"]), Names(lists["actors"])
        self.sessions = Names(lists["sessions"])
        self.columns: dict[str, Column[Any]] = {name: Column(arrays[name].copy()) for name in _COLUMNS}
        self.alive = Column(arrays["alive"].astype(np.bool_))
        alive = self.alive.values
        active = self.columns["states"].values == State.ACTIVE
        self.waiting = Column(arrays["waiting"].copy() if "waiting" in arrays else np.zeros(rows, dtype=np.bool_))
        """For each row whether it waits for its vector."""
        self._active_waiting = int(np.count_nonzero(self.waiting.values & active))
        self.ids = RowIds(lists["ids"], np.flatnonzero(alive))
        self.held = int(np.count_nonzero(alive))
        """Number of living rows."""
        given_later = bool(self.waiting.values.any())  # else what was read is never written again
        vectors = arrays["vectors"].astype(np.float16, copy=given_later)
        self.vectors = Column(vectors.reshape(rows, dimension))
        self.vectors.values[self.waiting.values] = 0.0  # whatever was read while one was being given
        self._sum = _sum_of(self.vectors.values, np.flatnonzero(active))
        self._projection = _projection_of(dimension)
        sketches = arrays["sketches"].astype(np.uint8, copy=given_later)
        self.sketches = Column(sketches.reshape(-1, SKETCH_BITS // 8))
        self._marks, self._mark_rows = Column(arrays["marks"]), Column(arrays["mark_rows"])
        self.postings = Postings(lists["terms"], arrays["terms"], arrays["sizes"], active)
        self.neighbours = Sessions(arrays["sessions"], arrays["ordinals"], active)
        self._soonest = int(self.columns["expires"].values.min(initial=_NEVER))
        self._speakers: dict[int, int] = {}  # active rows of each actor
        for code in self.columns["actors"].values[active].tolist():
            self._speakers[code] = self._speakers.get(code, 0) + 1
        self._actor_words: dict[str, set[int]] = {}
        for code, actor in enumerate(lists["actors"]):
            self._learn_actor(actor, code)

    @classmethod
    def empty(cls, dimension: int) -> Tables:
        """Tables without rows."""
        arrays: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in _COLUMNS.items()}
        arrays |= {
            "alive": np.empty(0, np.bool_),
            "waiting": np.empty(0, np.bool_),
            "vectors": np.empty((0, dimension), np.float16),
            "sketches": np.empty((0, SKETCH_BITS // 8), np.uint8),
            "marks": np.empty(0, np.int64),
            "mark_rows": np.empty(0, np.int32),
            "terms": np.empty(0, np.int32),
            "sizes": np.empty(0, np.int32),
            "ordinals": np.empty(0, np.int64),
        }
        return cls(dimension, {name: [] for name in ("ids", "kinds", "actors", "sessions", "terms")}, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def live(self) -> int:
        """Number of active documents."""
        return self.postings.live

    @property
    def nbytes(self) -> int:
        """Bytes of RAM; the strings and dictionaries are estimated."""
        flags, numbers = (self.alive, self.waiting), (self.vectors, self.sketches, self._marks, self._mark_rows)
        arrays = (*self.columns.values(), *flags, *numbers)
        names = _BYTES_A_NAME * (len(self.kinds) + len(self.actors) + len(self.sessions))
        rest = self.ids.nbytes + self.postings.nbytes + self.neighbours.nbytes
        return sum(column.nbytes for column in arrays) + rest + names

    def row_of(self, memory_id: str) -> int:
        """The number of the living row of a document; -1 if there is none."""
        row = self.ids.find(memory_id)
        return row if row >= 0 and self.alive.values[row] else -1

    def add(self, rows: Sequence[Row], vectors: NDArray[np.float32] | None) -> None:
        """Add documents that have no living row; without `vectors` they wait for theirs.

        Vectors are kept as float16, as snapshots do.
        """
        first = len(self.ids)
        if vectors is None:
            rounded = np.zeros((len(rows), self.vectors.values.shape[1]), dtype=np.float16)
            self._active_waiting += len(rows)
        else:
            rounded = vectors.astype(np.float16)
        self.waiting.extend(np.full(len(rows), vectors is None, dtype=np.bool_))
        self.postings.extend([row.terms for row in rows])
        self.vectors.extend(rounded)
        self._sum += rounded.sum(axis=0, dtype=np.float64)
        self.alive.extend(np.ones(len(rows), dtype=np.bool_))
        values: dict[str, list[int]] = {name: [] for name in _WRITTEN_ONCE}
        for row in rows:
            self._place(row, values)
        for name, dtype in _WRITTEN_ONCE.items():
            self.columns[name].extend(np.array(values[name], dtype=dtype))
        for place, (name, dtype) in enumerate(_CHANGING.items()):
            self.columns[name].extend(np.array([row.conditions[place] for row in rows], dtype=dtype))
        self._soonest = min(self._soonest, int(self.columns["expires"].values[first:].min(initial=_NEVER)))
        active = [row.document.state == State.ACTIVE for row in rows]
        sessions = [code if counts else -1 for code, counts in zip(values["sessions"], active, strict=True)]
        self.neighbours.extend(sessions, [row.document.ordinal for row in rows])
        found = [(mark, number) for number, row in enumerate(rows, first) for mark in row.marks]
        self._marks.extend(np.array([mark for mark, _ in found], dtype=np.int64))
        self._mark_rows.extend(np.array([number for _, number in found], dtype=np.int32))
        for number, (actor, counts) in enumerate(zip(values["actors"], active, strict=True), first):
            if counts:
                self._speakers[actor] = self._speakers.get(actor, 0) + 1
            else:
                self.postings.remove(number)
                self._sum -= self.vectors.values[number]
                self._active_waiting -= int(self.waiting.values[number])

    def give_vectors(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Give living rows that wait for one their vectors, in their order."""
        rounded = vectors.astype(np.float16)
        self.vectors.values[rows] = rounded
        self.waiting.values[rows] = False
        active = self._active()[rows]
        self._sum += rounded[active].sum(axis=0, dtype=np.float64)
        self._active_waiting -= int(np.count_nonzero(active))
        sketched = rows < len(self.sketches)
        if sketched.any():
            self.sketches.values[rows[sketched]] = self._projection.project(
                rounded[sketched].astype(np.float32), SKETCH_BITS
            )

    def amend(self, memory_id: str, revision: int, conditions: Conditions) -> None:
        """Change what the row of a document is chosen by, and its revision; KeyError if it is not there."""
        row = self._row(memory_id)
        states = self.columns["states"].values
        was_active = states[row] == State.ACTIVE
        self.columns["revisions"].values[row] = revision
        for name, value in zip(_CHANGING, conditions, strict=True):
            self.columns[name].values[row] = value
        self._soonest = min(self._soonest, int(self.columns["expires"].values[row]))
        if was_active and states[row] != State.ACTIVE:
            self._rest(row)
        elif not was_active and states[row] == State.ACTIVE:
            self._wake(row)

    def remove(self, memory_id: str) -> None:
        """Take a document out; KeyError if it is not there."""
        row = self._row(memory_id)
        self.alive.values[row] = False
        self.held -= 1
        states = self.columns["states"].values
        if states[row] == State.ACTIVE:
            self._rest(row)
        self.waiting.values[row] = False
        states[row] = _GONE

    def count_as(self, statistics: Statistics, terms: Iterable[str]) -> None:
        """Rank by the statistics of a space of which these rows are some; only `terms` are asked for from now on."""
        frequency = {term: statistics.frequency[term] for term in terms}
        self.postings.count_as(statistics.live, statistics.total_length, frequency)
        self._sum = statistics.vector_sum.copy()

    def next_sketches(self, most: int) -> NDArray[np.uint8]:
        """The sketches of at most `most` of the rows that have none in `sketches` yet, in their order."""
        start = len(self.sketches)
        return self._projection.project(self.vectors.values[start : start + most].astype(np.float32), SKETCH_BITS)

    def sketch_of(self, vector: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The sketch of one vector."""
        (sketch,) = self._projection.project(vector[None, :], SKETCH_BITS)
        return np.asarray(sketch, dtype=np.uint8)

    def centre(self) -> NDArray[np.float32]:
        """The mean of all active vectors, drawn towards zero while there are few: what every text has in common."""
        mean: NDArray[np.float32] = (self._sum / (self.live - self._active_waiting + 16)).astype(np.float32)
        return mean

    def period(self) -> tuple[date, date] | None:
        """The first and the last day (UTC) on which active memories happened; None if there are none."""
        moments = self.columns["occurred"].values[self._active()]
        if not len(moments):
            return None
        first, last = (EPOCH + timedelta(microseconds=int(moment)) for moment in (moments.min(), moments.max()))
        return first.date(), last.date()

    def nearness(self, days: Sequence[Days]) -> NDArray[np.float32]:
        """For each row how near it happened to one of `days`, 0 to 1, by as much as that sets it apart.

        1 on the days, halved for every third of their length before or after them, at least for every 2 days; less
        the mean of that over the active rows: where most rows are of the days named it says little.
        """
        near = nearness(self.columns["occurred"].values, days)
        common = float(near[self._active()].sum(dtype=np.float64)) / (self.live + 16)
        return near * np.float32(1.0 - common)

    def allowed(self, wanted: Filter) -> NDArray[np.bool_]:
        """For each row whether it is alive and matches `wanted`."""
        allowed = self._in_states(wanted.states, wanted.now)
        for name, codes, chosen in (
            ("kinds", self.kinds, wanted.kinds),
            ("actors", self.actors, wanted.actors),
            ("sessions", self.sessions, wanted.sessions),
        ):
            if chosen:
                allowed &= np.isin(self.columns[name].values, [codes.find(value) for value in chosen if value in codes])
        for name, start, end in (
            ("occurred", wanted.occurred_from, wanted.occurred_to),
            ("created", wanted.created_from, wanted.created_to),
        ):
            if start is not None:
                allowed &= self.columns[name].values >= microseconds(start)
            if end is not None:
                allowed &= self.columns[name].values < microseconds(end)
        if wanted.valid_at is not None:
            moment = microseconds(wanted.valid_at)
            allowed &= (self.columns["valid_from"].values <= moment) & (self.columns["valid_to"].values > moment)
        if wanted.min_importance is not None:
            allowed &= self.columns["importance"].values >= wanted.min_importance
        if wanted.modalities:
            allowed &= np.isin(self.columns["modalities"].values, list(wanted.modalities))
        for mark in marks(wanted.tags, wanted.metadata):
            having = np.zeros(len(allowed), dtype=np.bool_)
            having[self._mark_rows.values[self._marks.values == mark]] = True
            allowed &= having
        return allowed

    def named_actor(self, found: Iterable[str], allowed: NDArray[np.bool_]) -> int:
        """The number of the one actor of the allowed rows whom the words `found` name; -1 if there is none or several.

        An actor is named by any word of its name, unless another one is named by the same words and more. Actors
        without an active row are not named.
        """
        matched: dict[int, set[str]] = {}
        for word in found:
            for code in self._actor_words.get(word, ()):
                if self._speakers.get(code):
                    matched.setdefault(code, set()).add(word)
        best = [code for code, own in matched.items() if not any(own < other for other in matched.values())]
        actors = self.columns["actors"].values
        present = [code for code in best[:8] if bool(np.any(allowed & (actors == code)))]
        return present[0] if len(present) == 1 else -1

    def lists(self) -> dict[str, list[str]]:
        """The strings of the state but for the ids."""
        return {
            "kinds": self.kinds.listed(),
            "actors": self.actors.listed(),
            "sessions": self.sessions.listed(),
            "terms": self.postings.vocabulary.listed(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns of the state: views of what is never changed, copies of what is."""
        arrays: dict[str, NDArray[Any]] = {name: column.values for name, column in self.columns.items()}
        arrays |= {name: self.columns[name].values.copy() for name in ("revisions", *_CHANGING)}
        arrays |= {
            "alive": self.alive.values.copy(),
            "waiting": self.waiting.values.copy(),
            "vectors": self.vectors.values,
            "sketches": self.sketches.values,
            "marks": self._marks.values,
            "mark_rows": self._mark_rows.values,
            "terms": self.postings.terms.values,
            "sizes": self.postings.sizes.values,
            "ordinals": self.neighbours.ordinals.copy(),
        }
        return arrays

    def _row(self, memory_id: str) -> int:
        row = self.row_of(memory_id)
        if row < 0:
            raise KeyError(memory_id)
        return row

    def _active(self) -> NDArray[np.bool_]:
        """For each row whether it is active, as the changes left it."""
        active: NDArray[np.bool_] = self.columns["states"].values == State.ACTIVE
        return active

    def _in_states(self, states: frozenset[State], now: datetime | None) -> NDArray[np.bool_]:
        """For each row whether its state at `now` is one of `states`."""
        held = self.columns["states"].values
        if now is not None and self._soonest <= (moment := microseconds(now)):
            over = (self.columns["expires"].values <= moment) & (held != State.ARCHIVED) & (held != _GONE)
            held = np.where(over, np.int8(State.EXPIRED), held)
        first, *others = map(np.int8, states)
        allowed: NDArray[np.bool_] = held == first
        for state in others:
            allowed |= held == state
        return allowed

    def _rest(self, row: int) -> None:
        """Take an active row out of what is counted."""
        self._sum -= self.vectors.values[row]
        self._active_waiting -= int(self.waiting.values[row])
        self.postings.remove(row)
        self.neighbours.remove(int(self.columns["sessions"].values[row]), row)
        self._speakers[int(self.columns["actors"].values[row])] -= 1

    def _wake(self, row: int) -> None:
        """Put a row that has become active into what is counted."""
        self._sum += self.vectors.values[row]
        self._active_waiting += int(self.waiting.values[row])
        self.postings.restore(row)
        self.neighbours.insert(int(self.columns["sessions"].values[row]), row)
        actor = int(self.columns["actors"].values[row])
        self._speakers[actor] = self._speakers.get(actor, 0) + 1

    def _place(self, row: Row, values: dict[str, list[int]]) -> None:
        document = row.document
        session = self.sessions.code(document.session) if document.session else -1
        self.ids.append(document.memory_id)
        self.held += 1
        values["revisions"].append(row.revision)
        values["digests"].append(row.digest)
        values["statements"].append(row.statement)
        values["occurred"].append(row.occurred)
        values["kinds"].append(self.kinds.code(document.kind))
        values["actors"].append(self._actor(document.actor))
        values["sessions"].append(session)
        values["asks"].append(row.asks)

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


def _sum_of(vectors: NDArray[np.float16], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """The sum of some rows, without a copy of all of them."""
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(rows), _SUMMED_AT_ONCE):
        total += vectors[rows[start : start + _SUMMED_AT_ONCE]].sum(axis=0, dtype=np.float64)
    return total


@cache
def _projection_of(dimension: int) -> SignProjection:
    """One for all spaces: its signs take 128 KiB."""
    return SignProjection(dimension)


def compacted(
    lists: dict[str, list[str]], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, list[str]], dict[str, NDArray[Any]]]:
    """The same lists and arrays without dead rows and without strings that only dead rows had."""
    alive = arrays["alive"]
    number = np.cumsum(alive) - 1
    kept = {name: arrays[name][alive] for name in (*_COLUMNS, "alive", "waiting", "vectors", "ordinals", "sizes")}
    kept["sketches"] = arrays["sketches"][alive[: len(arrays["sketches"])]]
    marked = alive[arrays["mark_rows"]]
    kept["marks"] = arrays["marks"][marked]
    kept["mark_rows"] = number[arrays["mark_rows"][marked]].astype(np.int32)
    held = np.repeat(alive, arrays["sizes"])
    kept["terms"] = arrays["terms"][held]
    strings = {"ids": [memory_id for memory_id, live in zip(lists["ids"], alive.tolist(), strict=True) if live]}
    for name in ("kinds", "actors", "sessions", "terms"):
        strings[name], kept[name] = _renumbered(lists[name], kept[name])
    return strings, kept


def _renumbered(names: list[str], codes: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    used = np.unique(codes[codes >= 0])
    places = np.full(len(names) + 1, -1, dtype=np.int32)  # the last one is for code -1
    places[used] = np.arange(len(used), dtype=np.int32)
    return [names[code] for code in used.tolist()], places[codes]
