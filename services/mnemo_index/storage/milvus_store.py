"""A collection of Milvus with the memories of all spaces: one partition key, one vector, one BM25 function.

The client of Milvus is imported when a store is opened. A path that ends with `.db` is opened with milvus-lite, which
serves it from threads of this process.
"""

from __future__ import annotations

import importlib
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from mnemo_index.domain.postings import K1, B
from mnemo_index.domain.words import DEFAULT_LANGUAGE
from mnemo_index.storage.milvus_rows import (
    ASKS,
    BOOK,
    IMPORTANCE,
    KEY,
    LABEL,
    LONGEST_NAME,
    LONGEST_TEXT,
    MARKS,
    MOST_MARKS,
    NAMES,
    NUMBERS,
    SPACE,
    STORED,
    TEXT,
    VECTOR,
    WORDS,
    Book,
    StoredRow,
    book_of,
    entity_of,
    entity_of_book,
    entity_of_label,
    in_space,
    key_of,
    memories,
    memory_of,
    stored_of,
    with_keys,
)
from mnemocore.errors import InvalidSettingError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pymilvus import CollectionSchema, MilvusClient

    from mnemocore.ids import MemoryId, SpaceUid

COLLECTION: Final = "mnemocore_memories"
VERSION: Final = 2
"""Of the fields of the collection and the terms in them: one of another version is made anew from the log."""
MOST: Final = 16_384
"""Rows that Milvus gives back at once."""
FILE: Final = ".db"
"""What the path of a milvus-lite file ends with."""

_log = logging.getLogger(__name__)
_SECONDS: Final = 10.0  # for a request that writes or prepares, attempts that failed included
_READING_SECONDS: Final = 3.0  # for one that somebody waits for
_AT_ONCE: Final = 512  # rows in one request
_PARTITIONS: Final = 64
_GRAPH: Final = {"M": 32, "efConstruction": 200}
_LEAST_BREADTH: Final = 256  # candidates that a walk through the graph keeps


class MilvusStore:
    """The rows of all spaces. Blocking; safe for use by many threads, in one process at a time.

    Every method raises PeerUnavailableError when Milvus does not answer or refuses.
    """

    def __init__(self, client: MilvusClient, uri: str, dimension: int) -> None:
        self._client = client
        self._uri = uri
        self.dimension = dimension
        self._writing = threading.Lock()
        self._failed = False
        self._turns: dict[SpaceUid, int] = {}

    @classmethod
    def open(cls, uri: str, token: str, model: str, dimension: int, language: str = DEFAULT_LANGUAGE) -> MilvusStore:
        """The store at `uri`, with an empty collection if there is none for vectors of `model` and words of `language`.

        Raises InvalidSettingError if `uri` is none or a package is missing.
        """
        _check(uri)
        try:
            pymilvus = importlib.import_module("pymilvus")
            if uri.endswith(FILE):
                importlib.import_module("milvus_lite")
        except ImportError as error:
            package = "milvus-lite" if error.name == "milvus_lite" else "mnemocore[milvus]"
            raise InvalidSettingError(f"engine milvus: install {package}", setting="engine") from None
        # What it logs is raised as well, or tells of attempts.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        with _translated(uri):
            store = cls(pymilvus.MilvusClient(uri, token=token, timeout=_SECONDS), uri, dimension)
            store._prepare(pymilvus, model if language == DEFAULT_LANGUAGE else f"{model} {language}")
        return store

    def close(self) -> None:
        """Let go of the connection; a file is written and closed."""
        self._client.close()
        if self._uri.endswith(FILE):
            manager = importlib.import_module("milvus_lite.server_manager").server_manager_instance
            manager.release_server(self._uri)

    def next_turn(self, space_uid: SpaceUid) -> int:
        """A number that is the turn of a space until the next one is taken: who holds it may look at the rows."""
        self._turns[space_uid] = turn = self._turns.get(space_uid, 0) + 1
        return turn

    def turn(self, space_uid: SpaceUid) -> int:
        """The turn of a space; 0 if none was taken."""
        return self._turns.get(space_uid, 0)

    def book(self, space_uid: SpaceUid) -> Book | None:
        """How far a space is; None if it has no rows."""
        found = self.fields(f"{in_space(space_uid)} and state == 0", (BOOK,), 1)
        return book_of(found[0]) if found else None

    def write(self, space_uid: SpaceUid, rows: Sequence[StoredRow], gone: Sequence[MemoryId], book: Book) -> None:
        """Put rows in the place of those with the same keys, take rows out, and note then how far the space is."""
        entities = [entity_of(space_uid, row) for row in rows]
        keys = [key_of(space_uid, memory_id) for memory_id in gone]
        with self._writing, self._answering():
            for start in range(0, len(entities), _AT_ONCE):
                self._upsert(entities[start : start + _AT_ONCE])
            for start in range(0, len(keys), _AT_ONCE):
                self._client.delete(COLLECTION, ids=keys[start : start + _AT_ONCE], timeout=_SECONDS)
            self._upsert([entity_of_book(space_uid, book, self.dimension)])

    def forget(self, space_uid: SpaceUid) -> None:
        """Take out everything of a space."""
        with self._writing, self._answering():
            self._client.delete(COLLECTION, filter=in_space(space_uid), timeout=_SECONDS)

    def held(self, space_uid: SpaceUid, memory_ids: Sequence[MemoryId]) -> list[StoredRow]:
        """The rows of those of the memories that are there, in no order."""
        return self.rows(
            [with_keys(space_uid, memory_ids[at : at + _AT_ONCE]) for at in range(0, len(memory_ids), _AT_ONCE)]
        )

    def rows(self, expressions: Iterable[str]) -> list[StoredRow]:
        """The rows that match any of the expressions, at most MOST for each."""
        return [stored_of(entity) for each in expressions for entity in self.fields(each, STORED)]

    def fields(self, expression: str, names: Sequence[str], limit: int = MOST) -> list[dict[str, Any]]:
        """Some fields of at most `limit` rows that match."""
        with self._answering():
            found = self._client.query(
                COLLECTION, filter=expression, output_fields=list(names), limit=limit, timeout=_READING_SECONDS
            )
        return [dict(entity) for entity in found]

    def all_rows(self, expression: str) -> Iterator[StoredRow]:
        """All rows that match, however many."""
        return (stored_of(entity) for entity in self._all(expression, STORED))

    def all_revisions(self, space_uid: SpaceUid) -> Iterator[tuple[MemoryId, int]]:
        """The ids and revisions of all memories of a space."""
        found = self._all(memories(space_uid), (KEY, "revision"))
        return ((memory_of(entity[KEY]), int(entity["revision"])) for entity in found)

    def nearest(self, vector: NDArray[np.float32], expression: str, limit: int) -> list[StoredRow]:
        """Of the rows that match, those with the greatest cosines, roughly the `limit` greatest."""
        parameters = {"metric_type": "IP", "params": {"ef": max(_LEAST_BREADTH, 2 * limit)}}
        return self._search(VECTOR, vector, parameters, expression, limit)

    def worded(self, terms: Sequence[str], expression: str, limit: int) -> list[StoredRow]:
        """Of the rows that match, those with the greatest BM25 for these tokens, of those that have any."""
        return self._search(WORDS, " ".join(terms), {"metric_type": "BM25"}, expression, limit)

    def _search(
        self, field: str, wanted: object, parameters: dict[str, Any], filter: str, most: int
    ) -> list[StoredRow]:
        with self._answering():
            (hits,) = self._client.search(
                COLLECTION,
                data=[wanted],
                anns_field=field,
                filter=filter,
                limit=min(most, MOST),
                output_fields=list(STORED),
                search_params=parameters,
                timeout=_READING_SECONDS,
            )
            return [stored_of({**hit["entity"], KEY: hit[KEY]}) for hit in hits]

    def _all(self, expression: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with self._answering():
            batches = self._client.query_iterator(
                COLLECTION, batch_size=1000, filter=expression, output_fields=list(names), timeout=_READING_SECONDS
            )
            try:
                while found := batches.next():
                    yield from (dict(entity) for entity in found)
            finally:
                batches.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Around whatever asks Milvus. After a failure the collection is loaded first: the server may be another."""
        with _translated(self._uri):
            try:
                if self._failed:
                    self._client.load_collection(COLLECTION, timeout=_READING_SECONDS)
                    self._failed = False
                yield
            except BaseException:  # also an interruption: nobody knows how far it came
                self._failed = True
                raise

    def _upsert(self, entities: list[dict[str, Any]]) -> None:
        self._client.upsert(COLLECTION, entities, timeout=_SECONDS)

    def _prepare(self, pymilvus: Any, model: str) -> None:
        """Make the collection; one of another model or version of the fields is dropped: the log fills it again."""
        client, made = self._client, f"{VERSION} {self.dimension} {model}"
        if client.has_collection(COLLECTION, timeout=_SECONDS):
            client.load_collection(COLLECTION, timeout=_SECONDS)
            if self._made_for() == made:
                return
            _log.warning("collection %s holds other vectors; it is dropped and filled from the log", COLLECTION)
            client.drop_collection(COLLECTION, timeout=_SECONDS)
        indexes = client.prepare_index_params()
        indexes.add_index(VECTOR, index_type="HNSW", metric_type="IP", params=_GRAPH)
        bm25 = {"bm25_k1": K1, "bm25_b": B}
        indexes.add_index(WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=bm25)
        client.create_collection(
            COLLECTION,
            schema=_schema(pymilvus, self.dimension),
            index_params=indexes,
            consistency_level="Strong",
            num_partitions=_PARTITIONS,
            timeout=_SECONDS,
        )
        client.load_collection(COLLECTION, timeout=_SECONDS)
        self._upsert([entity_of_label(made, self.dimension)])

    def _made_for(self) -> str:
        """What the collection says of itself: version, dimension and model; empty if nothing."""
        found = self._client.query(COLLECTION, filter=LABEL, output_fields=[BOOK], timeout=_SECONDS)
        return str(found[0][BOOK]) if found else ""


def _schema(pymilvus: Any, dimension: int) -> CollectionSchema:
    types = pymilvus.DataType
    schema: CollectionSchema = pymilvus.MilvusClient.create_schema(auto_id=False)
    schema.add_field(KEY, types.VARCHAR, is_primary=True, max_length=256)
    schema.add_field(SPACE, types.VARCHAR, max_length=128, is_partition_key=True)
    schema.add_field(
        TEXT, types.VARCHAR, max_length=LONGEST_TEXT, enable_analyzer=True, analyzer_params={"tokenizer": "standard"}
    )
    schema.add_field(WORDS, types.SPARSE_FLOAT_VECTOR)
    schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=dimension)
    for name in NUMBERS:
        schema.add_field(name, types.INT64)
    for name in NAMES:
        schema.add_field(name, types.VARCHAR, max_length=LONGEST_NAME)
    schema.add_field(IMPORTANCE, types.DOUBLE)
    schema.add_field(ASKS, types.BOOL)
    schema.add_field(MARKS, types.ARRAY, element_type=types.INT64, max_capacity=MOST_MARKS)
    schema.add_field(BOOK, types.VARCHAR, max_length=LONGEST_NAME)
    schema.add_function(
        pymilvus.Function(
            name="bm25",
            function_type=pymilvus.FunctionType.BM25,
            input_field_names=[TEXT],
            output_field_names=[WORDS],
        )
    )
    return schema


def _check(uri: str) -> None:
    if not (uri.startswith(("http://", "https://")) or uri.endswith(FILE)):
        text = f"milvus_uri = {uri!r}: allowed is http://HOST:PORT, https://HOST:PORT or a path that ends with {FILE}"
        raise InvalidSettingError(text, setting="milvus_uri")
    if "@" in uri and not uri.endswith(FILE):
        text = "milvus_uri holds a user name or password; allowed is to give them as USER:PASSWORD in milvus_token"
        raise InvalidSettingError(text, setting="milvus_uri")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turns every failure of the client into a PeerUnavailableError."""
    exceptions = importlib.import_module("pymilvus.exceptions")
    try:
        yield
    except (exceptions.MilvusException, ValueError) as error:  # ValueError: the channel was closed
        raise PeerUnavailableError(f"milvus at {uri} does not answer: {error}", target="milvus") from error
