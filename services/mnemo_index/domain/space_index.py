"""The index of one space: what the changes of its memories add up to, and the questions it answers.

It holds every memory of which anything is left, whatever its state; questions say which states they are about.

Safe for use by many threads. Changes are encoded beside the readers and put in under a lock that readers share; a
search sees a batch of changes as a whole or not at all.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mnemo_index.domain.documents import Filter, digest
from mnemo_index.domain.duplicates import near_duplicates
from mnemo_index.domain.read_write_lock import ReadWriteLock
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.search import EXACT_ROWS, Hit, Question, question_of, search, similar, weights_of
from mnemo_index.domain.state import SpaceState
from mnemo_index.domain.tables import Tables, compacted, conditions_of, prepare
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnemo_index.domain.documents import Change, Document
    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.search import HammingScan
    from mnemo_index.domain.words import Stems

_LEAST_DEAD: Final = 1024
_SKETCHES_AT_ONCE: Final = 4096
_EVERYTHING: Final = Filter()


class Similar(NamedTuple):
    """A memory that says something like a text; `similarity` is the cosine of the two."""

    memory_id: MemoryId
    similarity: float


class NearDuplicate(NamedTuple):
    """Two memories that say the same; `first` was written before `second`. `similarity` is their cosine."""

    first: MemoryId
    second: MemoryId
    similarity: float


class SpaceIndex:
    """Finds the memories of one space. `scan` compares sketches; `exact_rows` is where they come into use."""

    def __init__(self, encoder: Encoder, stems: Stems, scan: HammingScan, exact_rows: int = EXACT_ROWS) -> None:
        self._encoder = encoder
        self._stems = stems
        self._scan = scan
        self._exact_rows = exact_rows
        self._lock = ReadWriteLock()
        self._writer = threading.Lock()
        self._tables = Tables.empty(encoder.dimension)
        self.revisions = Revisions()
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
        index.revisions = Revisions(state.applied_revision, state.ahead, state.removed)
        return index

    @property
    def applied_revision(self) -> int:
        """The revision up to which every change is applied."""
        return self.revisions.applied

    @property
    def size(self) -> int:
        """Number of active memories, as the changes left them."""
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
            fresh = self.revisions.fresh(changes)
            latest = self.revisions.latest(fresh, self._revision_of)
            self._put(latest, fresh)

    def put(self, latest: Mapping[MemoryId, Change]) -> None:
        """Put in what memories are now, or take them out, without a look at the revisions. Fails as `apply` does."""
        with self._writer:
            self._put(latest, ())

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

    def similar(self, text: str, limit: int, least: float, wanted: Filter = _EVERYTHING) -> list[Similar]:
        """The `limit` memories that match `wanted` and are most like `text`, with a cosine of at least `least`.

        Exact. Most similar first, then the newer revision.
        """
        (vector,) = self._encoder.encode([text])
        with self._lock.reading():
            found = similar(self._tables, vector, limit, least, wanted)
            return [Similar(MemoryId(self._tables.ids[row]), cosine) for row, cosine in found]

    def near_duplicates(
        self, min_similarity: float, limit: int, wanted: Filter = _EVERYTHING
    ) -> tuple[list[NearDuplicate], bool]:
        """The `limit` most similar pairs of one kind and actor with a cosine of at least `min_similarity`.

        Both memories of a pair match `wanted`.

        Numbers, days, months and negations of both texts must agree. Most similar first; also tells whether there are
        more pairs. Writers are not kept waiting.
        """
        with self._lock.reading():
            tables = self._tables
            rows = np.flatnonzero(tables.allowed(wanted))
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
                applied_revision=self.revisions.applied,
                ahead=tuple(sorted(self.revisions.ahead)),
                removed=dict(self.revisions.removed),
                lists=self._tables.lists(),
                arrays=self._tables.arrays(),
            )

    def _revision_of(self, memory_id: MemoryId) -> int:
        """The revision that last changed a memory that is held; 0 for others."""
        row = self._tables.row_of.get(memory_id)
        return 0 if row is None else int(self._tables.columns["revisions"].values[row])

    def _put(self, latest: Mapping[MemoryId, Change], fresh: Sequence[Change]) -> None:
        """Put in what memories are now, and note the changes `fresh` that led there; readers see all or nothing of it.

        A document that says what its row says keeps the row it has.
        """
        documents = {name: change.document for name, change in latest.items() if change.document is not None}
        kept = {name: conditions_of(document) for name, document in documents.items() if self._says(document)}
        rows = [
            prepare(document, latest[name].revision, self._stems)
            for name, document in documents.items()
            if name not in kept
        ]
        vectors = self._encoder.encode([row.document.content for row in rows])
        with self._lock.writing():
            for memory_id, change in latest.items():
                if memory_id in kept:
                    self._tables.amend(memory_id, change.revision, kept[memory_id])
                elif memory_id in self._tables.row_of:
                    self._tables.remove(memory_id)
            if rows:
                self._tables.add(rows, vectors)
            self.revisions.note(fresh, latest)
        self._holds_erased |= any(change.removes for change in latest.values())
        self._sketch()
        self._compact()

    def _says(self, document: Document) -> bool:
        """Whether there is a row that says what `document` does."""
        row = self._tables.row_of.get(document.memory_id)
        return row is not None and bool(self._tables.columns["digests"].values[row] == digest(document))

    def _sketch(self) -> None:
        """Make the sketches of some rows once there are enough rows to need them; the others are compared exactly."""
        if len(self._tables) > self._exact_rows:
            sketches = self._tables.next_sketches(_SKETCHES_AT_ONCE)
            with self._lock.writing():
                self._tables.sketches.extend(sketches)

    def _compact(self) -> None:
        """Build the tables anew when a fifth of the rows is dead."""
        held = len(self._tables.row_of)
        if len(self._tables) - held > max(_LEAST_DEAD, held // 4):
            self._build_anew()

    def _build_anew(self) -> None:
        """Build the tables without dead rows, beside the readers."""
        tables = Tables(self._encoder.dimension, *compacted(self._tables.lists(), self._tables.arrays()))
        with self._lock.writing():
            self._tables = tables
        self._holds_erased = False
