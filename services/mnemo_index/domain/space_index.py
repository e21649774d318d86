"""The index of one space: what the changes of its memories add up to, and the questions it answers.

It holds every memory of which anything is left, whatever its state; questions say which states they are about.

Safe for use by many threads. Changes are encoded beside the readers and put in under a lock that readers share; a
search sees a batch of changes as a whole or not at all. Where encoding may take long or fail, memories are put in at
once, found by their words, and encoded later.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mnemo_index.domain.documents import Filter, digest
from mnemo_index.domain.duplicates import near_duplicates
from mnemo_index.domain.encoder import AbsentEncoder, encode_question
from mnemo_index.domain.fingerprint import Fingerprint, fingerprint_of
from mnemo_index.domain.read_write_lock import ReadWriteLock
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.search import EXACT_ROWS, Hit, Question, search, similar, weights_of
from mnemo_index.domain.state import SpaceState
from mnemo_index.domain.tables import Tables, compacted, conditions_of, prepare
from mnemo_index.domain.waiting_texts import WaitingTexts
from mnemo_index.domain.wording import wording_of
from mnemocore.errors import InvalidFieldError, UnavailableError, Violation
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.documents import Change, Document
    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.search import HammingScan
    from mnemo_index.domain.tables import Row
    from mnemo_index.domain.words import Stems

ENCODED_AT_ONCE: Final = 256
"""Texts that are encoded in one step."""
_LEAST_DEAD: Final = 1024
_SKETCHES_AT_ONCE: Final = 4096
_SKETCHES_WORTH_IT: Final = 2048
_EVERYTHING: Final = Filter()


class Similar(NamedTuple):
    """A memory that says something like a text; `similarity` is the cosine of the two."""

    memory_id: MemoryId
    similarity: float


class Asked(NamedTuple):
    """A query made ready for the vectors of one model; `by_words_only` if no encoder of that model answered."""

    question: Question
    model: str
    by_words_only: bool


class Made(NamedTuple):
    """Vectors, shape (len(texts), dimension), that a model made of the texts of memories."""

    model: str
    texts: Mapping[MemoryId, str]
    vectors: NDArray[np.float32]


class NearDuplicate(NamedTuple):
    """Two memories that say the same; `first` was written before `second`. `similarity` is their cosine."""

    first: MemoryId
    second: MemoryId
    similarity: float


class SpaceIndex:
    """Finds the memories of one space. `scan` compares sketches; `exact_rows` is where they come into use.

    With `deferred` memories are put in without vectors; their texts are kept in `waiting` for `encode_some`.
    """

    def __init__(
        self,
        encoder: Encoder,
        stems: Stems,
        scan: HammingScan,
        exact_rows: int = EXACT_ROWS,
        *,
        deferred: bool = False,
        waiting: WaitingTexts | None = None,
    ) -> None:
        self._encoder = encoder
        self._deferred = deferred
        self._texts = WaitingTexts() if waiting is None else waiting
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
        cls,
        state: SpaceState,
        encoder: Encoder,
        stems: Stems,
        scan: HammingScan,
        exact_rows: int = EXACT_ROWS,
        *,
        deferred: bool = False,
        waiting: WaitingTexts | None = None,
    ) -> SpaceIndex:
        """The index that `state` was taken of. Raises ValueError if its vectors are of another model."""
        if state.model != encoder.model:
            raise ValueError(f"the state was made by {state.model!r}, the encoder is {encoder.model!r}")
        index = cls(encoder, stems, scan, exact_rows, deferred=deferred, waiting=waiting)
        index._tables = Tables(encoder.dimension, state.lists, state.arrays)
        index.revisions = Revisions(state.applied_revision, state.ahead, state.removed)
        if index.waiting:
            index._texts.announce()
        return index

    @property
    def model(self) -> str:
        """The model of its vectors."""
        return self._encoder.model

    @property
    def kept_model(self) -> str:
        """The model of the vectors that are kept on disk."""
        return self.model

    @property
    def deferred(self) -> bool:
        """Whether its encoder may take long: then its questions are encoded where they keep nobody waiting."""
        return self._deferred

    @property
    def encodable(self) -> bool:
        """Whether there is an encoder that can make more of its vectors."""
        return not isinstance(self._encoder, AbsentEncoder)

    @property
    def waiting(self) -> int:
        """Number of memories that wait for their vectors, whatever their state."""
        return int(np.count_nonzero(self._tables.waiting.values))

    @property
    def waiting_texts(self) -> int:
        """Number of those whose texts are here; the others have to be brought by `supply`."""
        return len(self._texts)

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

    @property
    def has_texts_enough(self) -> bool:
        """Whether the texts of all that wait are here, or no more are taken."""
        return self._texts.full or len(self._texts) >= self.waiting

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
        return self.answer(self.ask(query), limit, wanted)

    def ask(self, query: str) -> Asked:
        """A query made ready for `answer`. What takes long with a remote encoder is done here, without any lock.

        Without an encoder that answers it is a question of words only.
        """
        wording = wording_of(query, self._stems)
        found = wording.words
        with self._lock.reading():
            weights = weights_of(found, self._stems, self._tables.postings.rarity) if found else []
        try:
            vector = encode_question(self._encoder, query, found, weights)
        except UnavailableError:
            nothing = np.zeros(self._encoder.dimension, dtype=np.float32)
            return Asked(Question(query, wording, nothing), self.model, by_words_only=True)
        return Asked(Question(query, wording, vector), self.model, by_words_only=False)

    def answer(self, asked: Asked, limit: int, wanted: Filter = _EVERYTHING) -> list[Hit]:
        """The best hits for a query that `ask` of an index of the same model made ready, as `search` gives them."""
        if asked.model != self.model:
            raise ValueError(f"a question of model {asked.model!r} is asked of vectors of model {self.model!r}")
        with self._lock.reading():
            postings, question = self._tables.postings, asked.question
            wording = question.wording.expanded(postings.vocabulary, postings.frequency)
            question = replace(question, wording=wording)
            return search(self._tables, self._scan, question, limit, wanted, self._exact_rows)

    def similar(self, text: str, limit: int, least: float, wanted: Filter = _EVERYTHING) -> list[Similar]:
        """The `limit` memories that match `wanted` and are most like `text`, with a cosine of at least `least`.

        Exact. Most similar first, then the newer revision. Those that wait for their vectors are not found. Raises what
        the encoder raises.
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
            rows = np.flatnonzero(tables.allowed(wanted) & ~tables.waiting.values)
            vectors, statements = tables.vectors.values, tables.columns["statements"].values
            revisions = tables.columns["revisions"].values.copy()
        pairs, more = near_duplicates(vectors, statements, rows, min_similarity, limit)
        duplicates = []
        for left, right, similarity in pairs:
            first, second = sorted((left, right), key=lambda row: (int(revisions[row]), row))
            duplicates.append(NearDuplicate(MemoryId(tables.ids[first]), MemoryId(tables.ids[second]), similarity))
        return duplicates, more

    def encode_some(self) -> bool:
        """Give some of the memories that wait for their vectors, and whose texts are here, theirs; False if none are.

        Raises what the encoder raises; then they go on waiting. Neither readers nor writers wait while it encodes.
        """
        made = self.made_vectors()
        if made is not None:
            self.give_vectors(made)
        return made is not None

    def made_vectors(self) -> Made | None:
        """Vectors for some of the memories that wait for theirs, to be given by `give_vectors`; None if none do.

        Raises what the encoder raises. Neither readers nor writers are kept waiting.
        """
        with self._writer:
            texts = self._texts.first(ENCODED_AT_ONCE)
        return Made(self.model, texts, self._encoder.encode(list(texts.values()))) if texts else None

    def give_vectors(self, made: Made) -> None:
        """Give memories their vectors, except those that do not wait for the vector of this text any more."""
        if made.model != self.model:
            raise ValueError(f"vectors of model {made.model!r} are given to an index of model {self.model!r}")
        with self._writer:
            rows, places = [], []
            for place, (memory_id, text) in enumerate(made.texts.items()):
                if self._texts.waits(memory_id, text):
                    self._texts.drop(memory_id)
                    rows.append(self._tables.row_of(memory_id))
                    places.append(place)
            with self._lock.writing():
                self._tables.give_vectors(np.array(rows, dtype=np.intp), made.vectors[places])

    def supply(self, changes: Sequence[Change]) -> int:
        """Bring texts of memories that wait for their vectors; what is not waited for is passed over.

        Returns how many of them were kept.
        """
        with self._writer:
            documents = (change.document for change in changes if change.document is not None)
            return sum(self._keep_text(document) for document in documents if self._says(document))

    def drop_erased(self) -> None:
        """Let go of what was erased since the tables were built: until then its words and its vector are kept."""
        with self._writer:
            if self._holds_erased:
                self._build_anew()

    def state(self) -> SpaceState:
        """What the index holds now. Takes about a millisecond for 10,000 memories; the arrays are not copied."""
        with self._lock.reading():
            tables, lists, arrays = self._tables, self._tables.lists(), self._tables.arrays()
            state = SpaceState(
                model=self._encoder.model,
                applied_revision=self.revisions.applied,
                ahead=tuple(sorted(self.revisions.ahead)),
                removed=dict(self.revisions.removed),
                lists=lists,
                arrays=arrays,
            )
        lists["ids"] = tables.ids.listed(len(arrays["alive"]))  # which never change: nobody waits for it
        return state

    def fingerprint(self) -> Fingerprint:
        """What it holds, to be compared with what others do."""
        with self._lock.reading():
            tables, rows = self._tables, np.flatnonzero(self._tables.alive.values).tolist()
            revisions = tables.columns["revisions"].values[rows].tolist()
            applied = self.revisions.applied
        return fingerprint_of(applied, zip(map(tables.ids.__getitem__, rows), revisions, strict=True))

    def _revision_of(self, memory_id: MemoryId) -> int:
        """The revision that last changed a memory that is held; 0 for others."""
        row = self._tables.row_of(memory_id)
        return 0 if row < 0 else int(self._tables.columns["revisions"].values[row])

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
        vectors = self._encoded(rows)
        with self._lock.writing():
            for memory_id, change in latest.items():
                if memory_id in kept:
                    self._tables.amend(memory_id, change.revision, kept[memory_id])
                elif self._tables.row_of(memory_id) >= 0:
                    self._tables.remove(memory_id)
            if rows:
                self._tables.add(rows, vectors)
            self.revisions.note(fresh, latest)
        self._holds_erased |= any(change.removes for change in latest.values())
        self._wait(latest)
        self._sketch()
        self._compact()

    def _encoded(self, rows: Sequence[Row]) -> NDArray[np.float32] | None:
        return None if self._deferred else self._encoder.encode([row.document.content for row in rows])

    def _wait(self, latest: Mapping[MemoryId, Change]) -> None:
        """Keep the texts of those memories that wait for their vectors now, and of no other."""
        kept = 0
        for memory_id, change in latest.items():
            self._texts.drop(memory_id)
            if change.document is not None:
                kept += self._keep_text(change.document)
        if kept:
            self._texts.announce()

    def _keep_text(self, document: Document) -> bool:
        row = self._tables.row_of(document.memory_id)
        waits = row >= 0 and bool(self._tables.waiting.values[row]) and document.memory_id not in self._texts
        return waits and self.encodable and self._texts.keep(document.memory_id, document.content)

    def _says(self, document: Document) -> bool:
        """Whether there is a row that says what `document` does."""
        row = self._tables.row_of(document.memory_id)
        return row >= 0 and bool(self._tables.columns["digests"].values[row] == digest(document))

    def _sketch(self) -> None:
        """Make the sketches of some rows once there are enough rows to need them; the others are compared exactly.

        Many at once cost less, so some rows are waited for.
        """
        missing = len(self._tables) - len(self._tables.sketches)
        if len(self._tables) > self._exact_rows and missing >= min(_SKETCHES_WORTH_IT, self._exact_rows // 4):
            sketches = self._tables.next_sketches(_SKETCHES_AT_ONCE)
            with self._lock.writing():
                self._tables.sketches.extend(sketches)

    def _compact(self) -> None:
        """Build the tables anew when a fifth of the rows is dead."""
        held = self._tables.held
        if len(self._tables) - held > max(_LEAST_DEAD, held // 4):
            self._build_anew()

    def _build_anew(self) -> None:
        """Build the tables without dead rows, beside the readers."""
        lists = {**self._tables.lists(), "ids": self._tables.ids.listed(len(self._tables))}
        tables = Tables(self._encoder.dimension, *compacted(lists, self._tables.arrays()))
        with self._lock.writing():
            self._tables = tables
        self._holds_erased = False
