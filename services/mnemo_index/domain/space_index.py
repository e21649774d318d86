"""The index of one space: what the changes of its memories add up to, and the questions it answers.

Safe for use by many threads. Changes are encoded beside the readers and put in under a lock that readers share; a
search sees a batch of changes as a whole or not at all.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mnemo_index.domain.documents import Change, ChangeType, Filter, digest
from mnemo_index.domain.duplicates import near_duplicates
from mnemo_index.domain.read_write_lock import ReadWriteLock
from mnemo_index.domain.search import EXACT_ROWS, Hit, Question, question_of, search, weights_of
from mnemo_index.domain.state import SpaceState
from mnemo_index.domain.tables import Row, Tables, compacted, prepare
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.search import HammingScan
    from mnemo_index.domain.words import Stems

_LEAST_DEAD: Final = 1024
_SKETCHES_AT_ONCE: Final = 4096
_EVERYTHING: Final = Filter()


class NearDuplicate(NamedTuple):
    """Two memories that say the same; `first` was written before `second`. `similarity` is their cosine."""

    first: MemoryId
    second: MemoryId
    similarity: float


class SpaceIndex:
    """Finds the active memories of one space. `scan` compares sketches; `exact_rows` is where they come into use."""

    def __init__(self, encoder: Encoder, stems: Stems, scan: HammingScan, exact_rows: int = EXACT_ROWS) -> None:
        self._encoder = encoder
        self._stems = stems
        self._scan = scan
        self._exact_rows = exact_rows
        self._lock = ReadWriteLock()
        self._writer = threading.Lock()
        self._tables = Tables.empty(encoder.dimension)
        self._applied = 0
        self._ahead: set[int] = set()
        self._removed: dict[str, int] = {}
        self._holds_erased = False

    @classmethod
    def restored(
        cls, state: SpaceState, encoder: Encoder, stems: Stems, scan: HammingScan, exact_rows: int = EXACT_ROWS
    ) -> SpaceIndex:
        """The index that `state` was taken of. Raises ValueError if its vectors are of another model."""
        if state.model != encoder.model:
            raise ValueError(f"the state was made by {state.model!r}, the encoder is {encoder.model!r}")
        index = cls(encoder, stems, scan, exact_rows)
        index._tables = Tables(encoder.dimension, state.lists, state.arrays)
        index._applied = state.applied_revision
        index._ahead = set(state.ahead)
        index._removed = dict(state.removed)
        return index

    @property
    def applied_revision(self) -> int:
        """The revision up to which every change is applied."""
        return self._applied

    @property
    def size(self) -> int:
        """Number of memories that can be found."""
        return self._tables.live

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM that it takes, strings and dictionaries estimated."""
        return self._tables.nbytes

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes in the order of their revisions; what is known already, or older, changes nothing.

        If the encoder fails its error is raised and no change of the batch is applied.
        """
        with self._writer:
            fresh = self._fresh(changes)
            last = {change.memory_id: change.revision for change in fresh}
            latest = {
                change.memory_id: change
                for change in fresh
                if change.revision == last[change.memory_id] > self._known(change.memory_id)
            }
            rows = self._rows(latest)
            vectors = self._encoder.encode([row.document.content for row in rows])
            with self._lock.writing():
                self._put(latest, rows, vectors)
                self._count(fresh, latest)
            self._holds_erased |= any(change.type is ChangeType.ERASED for change in fresh)
            self._sketch()
            self._compact()

    def search(self, query: str, limit: int, wanted: Filter = _EVERYTHING) -> list[Hit]:
        """The best `limit` (at least 1) of the memories that match `wanted`; all of them if there are fewer.

        A memory that has nothing in common with the query has relevance 0 and comes last, in the order of cosines.
        """
        if limit < 1:
            raise InvalidFieldError.of([Violation("limit", f"is {limit}; allowed is at least 1")])
        found, terms = question_of(query, self._stems)
        if found:
            with self._lock.reading():
                weights = weights_of(found, self._stems, self._tables.postings.rarity)
            vector = self._encoder.encode_weighted(found, weights)
        else:
            (vector,) = self._encoder.encode([query])
        with self._lock.reading():
            return search(self._tables, self._scan, Question(found, terms, vector), limit, wanted, self._exact_rows)

    def near_duplicates(self, min_similarity: float, limit: int) -> tuple[list[NearDuplicate], bool]:
        """The `limit` most similar pairs of one kind and actor with a cosine of at least `min_similarity`.

        Numbers, days, months and negations of both texts must agree. Most similar first; also tells whether there are
        more pairs. Writers are not kept waiting.
        """
        with self._lock.reading():
            tables = self._tables
            rows = np.flatnonzero(tables.alive.values)
            vectors, statements = tables.vectors.values, tables.columns["statements"].values
            revisions = tables.columns["revisions"].values.copy()
        pairs, more = near_duplicates(vectors, statements, rows, min_similarity, limit)
        duplicates = []
        for left, right, similarity in pairs:
            first, second = sorted((left, right), key=lambda row: (int(revisions[row]), row))
            duplicates.append(NearDuplicate(MemoryId(tables.ids[first]), MemoryId(tables.ids[second]), similarity))
        return duplicates, more

    def drop_erased(self) -> None:
        """Let go of what was erased since the tables were built: until then its words and its vector are kept."""
        with self._writer:
            if self._holds_erased:
                self._build_anew()

    def state(self) -> SpaceState:
        """What the index holds now. Takes about a millisecond for 10,000 memories; the arrays are not copied."""
        with self._lock.reading():
            return SpaceState(
                model=self._encoder.model,
                applied_revision=self._applied,
                ahead=tuple(sorted(self._ahead)),
                removed=dict(self._removed),
                lists=self._tables.lists(),
                arrays=self._tables.arrays(),
            )

    def _fresh(self, changes: Sequence[Change]) -> list[Change]:
        """The changes not yet applied, each revision once, in order."""
        known = {change.revision: change for change in changes if change.revision > self._applied}
        return [known[revision] for revision in sorted(known) if revision not in self._ahead]

    def _known(self, memory_id: str) -> int:
        """The revision that last changed a memory, as far as it is remembered; 0 if it is not."""
        row = self._tables.row_of.get(memory_id)
        return self._removed.get(memory_id, 0) if row is None else int(self._tables.columns["revisions"].values[row])

    def _rows(self, latest: Mapping[MemoryId, Change]) -> list[Row]:
        """The rows to add: a memory published again as it is known keeps the row it has."""
        rows = []
        for change in latest.values():
            if change.document is None or change.type.removes:
                continue
            row = self._tables.row_of.get(change.memory_id)
            if row is None or self._tables.columns["digests"].values[row] != digest(change.document):
                rows.append(prepare(change.document, change.revision, self._stems))
        return rows

    def _put(self, latest: Mapping[MemoryId, Change], rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
        added = {row.document.memory_id for row in rows}
        for memory_id, change in latest.items():
            row = self._tables.row_of.get(memory_id)
            if row is None:
                continue
            if change.type.removes or memory_id in added:
                self._tables.remove(memory_id)
            else:
                self._tables.columns["revisions"].values[row] = change.revision
        if rows:
            self._tables.add(rows, vectors)

    def _count(self, fresh: Sequence[Change], latest: Mapping[MemoryId, Change]) -> None:
        """Note the revisions; removed memories are remembered only while an older change may still come."""
        self._ahead.update(change.revision for change in fresh)
        while self._applied + 1 in self._ahead:
            self._applied += 1
            self._ahead.remove(self._applied)
        for memory_id, change in latest.items():
            self._removed.pop(memory_id, None)
            if change.type.removes:
                self._removed[memory_id] = change.revision
        if not self._ahead:
            self._removed.clear()

    def _sketch(self) -> None:
        """Make the sketches of some rows once there are enough rows to need them; the others are compared exactly."""
        if len(self._tables) > self._exact_rows:
            sketches = self._tables.next_sketches(_SKETCHES_AT_ONCE)
            with self._lock.writing():
                self._tables.sketches.extend(sketches)

    def _compact(self) -> None:
        """Build the tables anew when a fifth of the rows is dead."""
        dead = len(self._tables) - self._tables.live
        if dead > max(_LEAST_DEAD, self._tables.live // 4):
            self._build_anew()

    def _build_anew(self) -> None:
        """Build the tables without dead rows, beside the readers."""
        tables = Tables(self._encoder.dimension, *compacted(self._tables.lists(), self._tables.arrays()))
        with self._lock.writing():
            self._tables = tables
        self._holds_erased = False
