"""One space whose memories are in Milvus.

Milvus chooses candidates: the nearest by vector, the best by words, and the neighbours in the session of the best of
those. They are ranked by the same code as rows in this process, with the statistics of the whole space, which are held
here: read once from the rows, then kept up to date by the changes.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import replace
from datetime import UTC
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mnemo_index.domain.dates import dates, may_name_dates
from mnemo_index.domain.documents import Filter, State, digest
from mnemo_index.domain.duplicates import near_duplicates
from mnemo_index.domain.encoder import encode_question
from mnemo_index.domain.fingerprint import Fingerprint, fingerprint_of
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.search import Question, search, similar, weights_of
from mnemo_index.domain.space_index import NearDuplicate, Similar
from mnemo_index.domain.state import SpaceState
from mnemo_index.domain.statistics import Statistics
from mnemo_index.domain.tables import Tables, conditions_of, prepare
from mnemo_index.domain.wording import Wording, wording_of
from mnemo_index.storage.milvus_rows import (
    KEY,
    Book,
    StoredRow,
    during,
    fitting,
    in_space,
    matching,
    memories,
    memory_of,
    session_mark,
    term_of,
    token,
    tokens,
)
from mnemocore.errors import IndexRebuildingError, InvalidFieldError, Violation
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from mnemo_index.domain.dates import Days
    from mnemo_index.domain.documents import Change, Document
    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.search import HammingScan, Hit
    from mnemo_index.domain.words import Stems
    from mnemo_index.storage.milvus_store import MilvusStore
    from mnemocore.ids import SpaceUid

MODEL_PREFIX: Final = "milvus "
"""What the model of a state begins with, so that no other engine takes it for its own."""

_CANDIDATES: Final = 256
_LEADERS: Final = 48
_MOST_DAYS: Final = 64
_REACH: Final = 6
"""Ordinals around a leader that are looked at for its neighbours: 3 on each side even if half of them are missing."""
_ROUGHLY: Final = 64
"""Rows more than wanted that are asked for where Milvus ranks and we cut."""
_RETRY_SECONDS: Final = 1.0
_EVERYTHING: Final = Filter()


class MilvusSpace:
    """Finds the memories of one space. Safe for use by many threads.

    `book` says how far the rows in Milvus are; without one whatever is there is taken out before anything is put in.
    Every method that looks at rows raises PeerUnavailableError when Milvus does not answer.
    """

    def __init__(
        self,
        space_uid: SpaceUid,
        store: MilvusStore,
        encoder: Encoder,
        stems: Stems,
        scan: HammingScan,
        book: Book | None = None,
    ) -> None:
        self._space_uid = space_uid
        self._store = store
        self._encoder = encoder
        self._stems = stems
        self._scan = scan
        self._writer = threading.Lock()
        self._clean = book is not None
        self._live = book.live if book else 0
        self._statistics: Statistics | None = None
        self._sound = True
        self._turn = store.next_turn(space_uid)
        self.revisions = Revisions(book.applied if book else 0)

    @classmethod
    def restored(
        cls,
        space_uid: SpaceUid,
        state: SpaceState,
        store: MilvusStore,
        encoder: Encoder,
        stems: Stems,
        scan: HammingScan,
    ) -> MilvusSpace:
        """The space that `state` was taken of, or what has become of it since.

        Raises ValueError if the state is of another engine or model, or Milvus has lost what it speaks of.
        """
        expected = MODEL_PREFIX + encoder.model
        if state.model != expected:
            raise ValueError(f"the state was made by {state.model!r}, the engine is {expected!r}")
        book = store.book(space_uid)
        if book is None or book.applied < state.applied_revision:
            held = 0 if book is None else book.applied
            raise ValueError(f"milvus holds it up to revision {held}, the state up to {state.applied_revision}")
        return cls(space_uid, store, encoder, stems, scan, book)

    @property
    def kept_model(self) -> str:
        """The model of its vectors, which are in Milvus."""
        return MODEL_PREFIX + self._encoder.model

    @property
    def waiting(self) -> int:
        """0: memories are put in with their vectors."""
        return 0

    @property
    def applied_revision(self) -> int:
        """The revision up to which every change is applied."""
        return self.revisions.applied

    @property
    def size(self) -> int:
        """Number of active memories, as the changes left them."""
        return self._live

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM that its statistics take here, estimated."""
        return 0 if self._statistics is None else self._statistics.nbytes

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes in the order of their revisions; what is known already, or older, changes nothing.

        If it fails, some changes may be in effect; applying the same again brings it where it should be.
        """
        with self._writer:
            fresh = self.revisions.fresh(changes)
            if not fresh:
                return
            statistics = self._counted()
            names = list(dict.fromkeys(change.memory_id for change in fresh))
            held = {stored.row.document.memory_id: stored for stored in self._store.held(self._space_uid, names)}
            latest = self.revisions.latest(fresh, lambda name: held[name].row.revision if name in held else 0)
            after = self.revisions.copy()
            after.note(fresh, latest)
            self._sound = False  # the statistics are read again from the rows if anything fails from here on
            self._put(statistics, held, latest, after.applied)
            self._sound, self._live, self.revisions = True, statistics.live, after

    def search(self, query: str, limit: int, wanted: Filter = _EVERYTHING) -> list[Hit]:
        """The best `limit` (at least 1) of the memories that match `wanted`; all of them if there are fewer.

        Ranked among candidates: a memory that is neither near, nor has a word of the query, nor is a neighbour of the
        best ones is found only where there are not enough others.
        """
        if limit < 1:
            raise InvalidFieldError.of([Violation("limit", f"is {limit}; allowed is at least 1")])
        wording = wording_of(query, self._stems)
        statistics = self._read()
        weights = weights_of(wording.words, self._stems, lambda term: statistics.rarity(token(term)))
        vector = encode_question(self._encoder, query, wording.words, weights)
        expanded = wording.expanded(map(term_of, statistics.terms()), lambda term: statistics.frequency[token(term)])
        question = Question(query, _with_tokens(expanded), vector)
        days = _days_of(query, wanted.now, statistics)
        candidates = self._candidates(question, limit, wanted, days)
        alone = [_moved(stored, "") for stored in candidates.values()]
        leading = self._ranked(statistics, alone, question, _LEADERS, wanted)
        rows = self._with_neighbours(candidates, [hit.memory_id for hit in leading])
        return self._ranked(statistics, rows, question, limit, wanted)

    def similar(self, text: str, limit: int, least: float, wanted: Filter = _EVERYTHING) -> list[Similar]:
        """The `limit` memories that match `wanted` and are most like `text`, with a cosine of at least `least`.

        Cosines are exact; which memories are compared is up to the graph of Milvus. Most similar first, then the newer
        revision.
        """
        self._read()
        (vector,) = self._encoder.encode([text])
        rows = self._store.nearest(vector, matching(self._space_uid, wanted), limit + _ROUGHLY)
        tables = self._tables(rows)
        return [
            Similar(MemoryId(tables.ids[row]), cosine) for row, cosine in similar(tables, vector, limit, least, wanted)
        ]

    def near_duplicates(
        self, min_similarity: float, limit: int, wanted: Filter = _EVERYTHING
    ) -> tuple[list[NearDuplicate], bool]:
        """The `limit` most similar pairs of one kind and actor with a cosine of at least `min_similarity`.

        Exact: the vectors of all memories that match are read from Milvus and compared here.
        """
        self._read()
        rows = sorted(self._store.all_rows(matching(self._space_uid, wanted)), key=lambda stored: stored.row.revision)
        vectors = np.array([stored.vector for stored in rows], dtype=np.float16).reshape(-1, self._store.dimension)
        statements = np.array([stored.row.statement for stored in rows], dtype=np.int64)
        pairs, more = near_duplicates(vectors, statements, np.arange(len(rows)), min_similarity, limit)
        ids = [stored.row.document.memory_id for stored in rows]
        return [NearDuplicate(ids[first], ids[second], similarity) for first, second, similarity in pairs], more

    def drop_erased(self) -> None:
        """Nothing to do: rows are taken out of Milvus as they are erased."""

    def state(self) -> SpaceState:
        """How far the space is. The rows stay in Milvus."""
        return SpaceState(
            model=self.kept_model,
            applied_revision=self.applied_revision,
            ahead=(),
            removed={},
            lists={"ids": []},
            arrays={
                "states": np.empty(0, dtype=np.int8),
                "waiting": np.empty(0, dtype=np.bool_),
                "vectors": np.empty(0, dtype=np.float16),
            },
            counted=self._live,
        )

    def fingerprint(self) -> Fingerprint:
        """What it holds, to be compared with what others do. Reads the ids of all memories from Milvus."""
        self._read()
        applied = self.applied_revision
        return fingerprint_of(applied, self._store.all_revisions(self._space_uid))

    def _read(self) -> Statistics:
        """The statistics, for a reader. Raises IndexRebuildingError if the space is being built anew by another one."""
        if self._turn != self._store.turn(self._space_uid):
            raise IndexRebuildingError(space=self._space_uid, retry_after=_RETRY_SECONDS)
        statistics = self._statistics
        if statistics is not None:
            return statistics
        with self._writer:
            return self._counted()

    def _counted(self) -> Statistics:
        """The statistics, read from the rows if they are not there. The writer's lock is held."""
        if not self._clean:
            self._store.forget(self._space_uid)
            self._clean = True
        if self._statistics is None or not self._sound:
            statistics = Statistics(self._store.dimension)
            for stored in self._store.all_rows(memories(self._space_uid)):
                _count(statistics, stored)
            self._statistics, self._live, self._sound = statistics, statistics.live, True
        return self._statistics

    def _put(
        self,
        statistics: Statistics,
        held: Mapping[MemoryId, StoredRow],
        latest: Mapping[MemoryId, Change],
        applied: int,
    ) -> None:
        """Write what memories are now, and how far the space is then."""
        rows = self._rows(statistics, held, latest)
        gone = [name for name, change in latest.items() if change.document is None and name in held]
        for name in latest:
            if name in held and held[name].active:
                statistics.remove(held[name].row.terms, held[name].vector)
        for stored in rows:
            if stored.active:
                statistics.add(stored.row.terms, stored.vector)
        self._store.write(self._space_uid, rows, gone, Book(applied, statistics.live))

    def _rows(
        self, statistics: Statistics, held: Mapping[MemoryId, StoredRow], latest: Mapping[MemoryId, Change]
    ) -> list[StoredRow]:
        """The rows of the documents that come. One that says what its row says keeps vector, words and place."""
        kept, new = [], []
        for name, change in latest.items():
            document = change.document
            if document is None:
                continue
            if name in held and held[name].row.digest == digest(document):
                kept.append(_amended(held[name], document, change.revision))
            else:
                new.append((document, change.revision))
        vectors = self._encoder.encode([document.content for document, _ in new])
        rounded = vectors.astype(np.float16).astype(np.float32)
        made = [
            self._made(statistics, document, revision, vector)
            for (document, revision), vector in zip(new, rounded, strict=True)
        ]
        return [*kept, *made]

    def _made(
        self, statistics: Statistics, document: Document, revision: int, vector: NDArray[np.float32]
    ) -> StoredRow:
        row = prepare(document, revision, self._stems)
        statistics.happened(row.occurred)
        place = statistics.place(document.session, document.ordinal) if document.session else document.ordinal
        return StoredRow(
            replace(row, document=replace(document, ordinal=place), terms=fitting(tokens(row.terms))), vector
        )

    def _candidates(
        self, question: Question, limit: int, wanted: Filter, days: Sequence[Days]
    ) -> dict[MemoryId, StoredRow]:
        """What Milvus finds near, worded alike, near among those of the days, and whatever matches if it is little."""
        expression = matching(self._space_uid, wanted)
        count = max(_CANDIDATES, 4 * limit)
        found = self._store.nearest(question.vector, expression, count)
        wording = question.wording
        for terms in (wording.terms, *wording.phrases, *wording.variants):
            if terms:
                found += self._store.worded(list(dict.fromkeys(terms)), expression, count)
        if days:
            found += self._store.nearest(question.vector, f"{expression} and {during(days)}", count)
        known = {stored.row.document.memory_id for stored in found}
        if len(known) < limit:
            found += self._others(expression, known, limit)
        return {stored.row.document.memory_id: stored for stored in found}

    def _others(self, expression: str, known: set[MemoryId], limit: int) -> list[StoredRow]:
        """Rows that match and are not known, so that there are `limit` if so many match."""
        names = [memory_of(entity[KEY]) for entity in self._store.fields(expression, (KEY,), limit + len(known))]
        missing = [name for name in names if name not in known]
        return self._store.held(self._space_uid, missing) if missing else []

    def _with_neighbours(
        self, candidates: Mapping[MemoryId, StoredRow], leaders: Sequence[MemoryId]
    ) -> list[StoredRow]:
        """The candidates, and the active rows around the leaders in their sessions.

        Each stretch of a session that was looked at as a whole is a session of its own; whatever is in none of them
        has no neighbours.
        """
        stretches = _stretches(candidates[name] for name in leaders)
        found = dict(candidates)
        places: dict[MemoryId, str] = {}
        if stretches:
            around = " or ".join(
                f"(session_mark == {mark} and ordinal >= {first} and ordinal <= {last})"
                for mark, first, last in stretches
            )
            active = f"{in_space(self._space_uid)} and state == {int(State.ACTIVE)}"
            near = self._store.fields(f"{active} and ({around})", (KEY, "session_mark", "ordinal"))
            for entity in near:
                name = memory_of(entity[KEY])
                places[name] = _stretch_of(stretches, int(entity["session_mark"]), int(entity["ordinal"]))
            missing = [name for name in places if name not in found]
            found |= {stored.row.document.memory_id: stored for stored in self._store.held(self._space_uid, missing)}
        return [_moved(stored, places.get(name, "")) for name, stored in found.items()]

    def _ranked(
        self, statistics: Statistics, rows: Iterable[StoredRow], question: Question, limit: int, wanted: Filter
    ) -> list[Hit]:
        """The best of some rows, ranked as if they stood among all of the space."""
        tables = self._tables(rows)
        tables.count_as(statistics, chain(question.wording.terms, *question.wording.variants))
        # Milvus has applied the filter on sessions; here they are stretches.
        chosen = replace(wanted, sessions=frozenset())
        return search(tables, self._scan, question, limit, chosen, len(tables))

    def _tables(self, rows: Iterable[StoredRow]) -> Tables:
        ordered = sorted(rows, key=lambda stored: stored.row.revision)
        tables = Tables.empty(self._store.dimension)
        if ordered:
            tables.add([stored.row for stored in ordered], np.array([stored.vector for stored in ordered]))
        return tables


def _with_tokens(wording: Wording) -> Wording:
    """The wording as rows of Milvus have it."""
    return replace(
        wording,
        terms=tokens(wording.terms),
        phrases=tuple(tuple(tokens(phrase)) for phrase in wording.phrases),
        variants=tuple(tuple(tokens(variants)) for variants in wording.variants),
    )


def _days_of(query: str, now: datetime | None, statistics: Statistics) -> list[Days]:
    """The days that a query names, seen from `now` or, without it, from the last day of the space."""
    period = statistics.period() if may_name_dates(query) else None
    if period is None:
        return []
    first, last = period
    return dates(query, last if now is None else now.astimezone(UTC).date(), first, last)[:_MOST_DAYS]


class _Stretch(NamedTuple):
    """The ordinals from `first` to `last` of a session."""

    session: int
    first: int
    last: int


def _stretches(leaders: Iterable[StoredRow]) -> list[_Stretch]:
    """What is looked at around the leaders: stretches that do not overlap, in order."""
    around = sorted(
        _Stretch(session_mark(document.session), document.ordinal - _REACH, document.ordinal + _REACH)
        for document in (leader.row.document for leader in leaders)
        if document.session and document.ordinal is not None
    )
    merged: list[_Stretch] = []
    for stretch in around:
        before = merged[-1] if merged else None
        if before and before.session == stretch.session and stretch.first <= before.last + 1:
            merged[-1] = before._replace(last=max(before.last, stretch.last))
        else:
            merged.append(stretch)
    return merged


def _stretch_of(stretches: Sequence[_Stretch], session: int, ordinal: int) -> str:
    """The name of the stretch in which a row stands."""
    at = bisect_right(stretches, (session, ordinal), key=lambda stretch: (stretch.session, stretch.first))
    return str(at)


def _moved(stored: StoredRow, session: str) -> StoredRow:
    """The row as one of another session."""
    return replace(stored, row=replace(stored.row, document=replace(stored.row.document, session=session)))


def _amended(stored: StoredRow, document: Document, revision: int) -> StoredRow:
    """The row of a document that says what it did, in another state, at other times or of other importance."""
    kept = replace(stored.row.document, state=document.state)
    return replace(
        stored, row=replace(stored.row, document=kept, revision=revision, conditions=conditions_of(document))
    )


def _count(statistics: Statistics, stored: StoredRow) -> None:
    """Count a row that is read from Milvus."""
    document = stored.row.document
    statistics.place(document.session, document.ordinal)
    statistics.happened(stored.row.occurred)
    if stored.active:
        statistics.add(stored.row.terms, stored.vector)
