"""What finds the same texts in one process: the index of the product, plain numpy, and two vector stores.

All of them encode with the encoder of the product, so they differ in what they do with vectors. Each keeps its files in
a directory of its own and takes a text in and gives texts out. The stores are measured only where they are installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mnemo_index.domain.documents import Change, Document
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.words import Stems
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.snapshots import SnapshotStore
from mnemocore.ids import MemoryId, SpaceUid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Encoder

BATCH: Final = 500
_SPACE: Final = SpaceUid("00000000-0000-7000-8000-000000000000")
_COLLECTION: Final = "texts"


class Contender(ABC):
    """Finds numbered texts. `search` may be called by several threads at a time, nothing else may.

    `needs` is the package that it takes, `most` how many texts it is made for at most, `ranks_by_vector` whether its
    answers are meant to be the nearest vectors.
    """

    needs = "numpy"
    most = 10_000_000
    ranks_by_vector = True

    def __init__(self, encoder: Encoder, directory: Path) -> None:
        self._encoder = encoder
        self._directory = directory

    @classmethod
    def installed(cls) -> bool:
        """Whether the package that it takes is there."""
        return importlib.util.find_spec(cls.needs) is not None

    @abstractmethod
    def create(self) -> None:
        """Begin with nothing."""

    @abstractmethod
    def put(self, texts: Mapping[int, str]) -> None:
        """Take in at most BATCH texts; a number that is there already has another text from now on."""

    @abstractmethod
    def search(self, query: str, limit: int) -> list[int]:
        """The numbers of the best texts, best first; their texts were read."""

    @abstractmethod
    def save(self) -> None:
        """Have everything in the directory."""

    @abstractmethod
    def open(self) -> None:
        """Begin with what is in the directory."""


class ProductIndex(Contender):
    """The index of one space, as the index service holds it; vectors and words."""

    needs = "mnemo_index"
    ranks_by_vector = False

    def create(self) -> None:
        """An empty index."""
        self._index = SpaceIndex(self._encoder, Stems(), hamming_distances)
        self._revision = 0

    def put(self, texts: Mapping[int, str]) -> None:
        """Apply one change a text."""
        changes = []
        for number, text in texts.items():
            self._revision += 1
            memory_id = MemoryId(f"00000000-0000-7000-8000-{number:012x}")
            document = Document(memory_id, text, "observation", datetime(2024, 1, 1, tzinfo=UTC))
            changes.append(Change(self._revision, memory_id, document))
        self._index.apply(changes)

    def search(self, query: str, limit: int) -> list[int]:
        """Vectors and words; the index holds no texts: memory-core loads them."""
        return [int(hit.memory_id[-12:], 16) for hit in self._index.search(query, limit)]

    def save(self) -> None:
        """Write the snapshot."""
        SnapshotStore(self._directory).save(_SPACE, self._index.state())

    def open(self) -> None:
        """Load the snapshot."""
        snapshots = SnapshotStore(self._directory)
        snapshots.kept()
        state = snapshots.load(_SPACE)
        self._index = SpaceIndex.restored(state, self._encoder, Stems(), hamming_distances)
        self._revision = state.applied_revision


class Numpy(Contender):
    """Exact cosine by one product of a matrix with a vector; float32."""

    def create(self) -> None:
        """No rows."""
        self._vectors: NDArray[np.float32] = np.empty((BATCH, self._encoder.dimension), dtype=np.float32)
        self._texts: dict[int, str] = {}

    def put(self, texts: Mapping[int, str]) -> None:
        """Write the rows; the matrix doubles when it is full."""
        while max(texts) >= len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        self._vectors[list(texts)] = self._encoder.encode(list(texts.values()))
        self._texts.update(texts)

    def search(self, query: str, limit: int) -> list[int]:
        """The highest cosines."""
        cosines = self._vectors[: len(self._texts)] @ self._encoder.encode([query])[0]
        best = np.argpartition(-cosines, min(limit, len(cosines) - 1))[:limit]
        return [number for number in best[np.argsort(-cosines[best])].tolist() if self._texts[number]]

    def save(self) -> None:
        """The matrix and the texts in two files."""
        np.save(self._directory / "vectors.npy", self._vectors[: len(self._texts)])
        (self._directory / "texts.json").write_text(json.dumps(self._texts))

    def open(self) -> None:
        """Read the two files."""
        self._vectors = np.load(self._directory / "vectors.npy")
        texts = json.loads((self._directory / "texts.json").read_text())
        self._texts = {int(number): text for number, text in texts.items()}


class Chroma(Contender):
    """A persistent Chroma collection with its defaults (HNSW) and cosine distance."""

    needs = "chromadb"

    def create(self) -> None:
        """An empty collection."""
        self._collection = self._client().create_collection(
            _COLLECTION, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def put(self, texts: Mapping[int, str]) -> None:
        """Upsert in one call."""
        vectors = self._encoder.encode(list(texts.values()))
        self._collection.upsert(ids=[str(number) for number in texts], embeddings=vectors, documents=[*texts.values()])

    def search(self, query: str, limit: int) -> list[int]:
        """One query that brings the texts."""
        found = self._collection.query(
            query_embeddings=self._encoder.encode([query]), n_results=limit, include=["documents", "distances"]
        )
        return [int(number) for number in found["ids"][0]]

    def save(self) -> None:
        """Nothing: every call is kept as it comes."""

    def open(self) -> None:
        """Open the collection."""
        self._collection = self._client().get_collection(_COLLECTION, embedding_function=None)

    def _client(self) -> Any:
        chroma = importlib.import_module("chromadb")
        return chroma.PersistentClient(
            str(self._directory), settings=chroma.config.Settings(anonymized_telemetry=False)
        )


class Qdrant(Contender):
    """A collection of the local mode of Qdrant's client: its server's interface, in this process, without an index."""

    needs = "qdrant_client"
    most = 100_000

    def create(self) -> None:
        """An empty collection."""
        self._client()
        models = self._models
        parameters = models.VectorParams(size=self._encoder.dimension, distance=models.Distance.COSINE)
        self._store.create_collection(_COLLECTION, vectors_config=parameters)

    def put(self, texts: Mapping[int, str]) -> None:
        """Upsert in one call."""
        vectors = self._encoder.encode(list(texts.values())).tolist()
        points = [
            self._models.PointStruct(id=number, vector=vector, payload={"text": text})
            for (number, text), vector in zip(texts.items(), vectors, strict=True)
        ]
        self._store.upsert(_COLLECTION, points)

    def search(self, query: str, limit: int) -> list[int]:
        """One query that brings the texts."""
        vector = self._encoder.encode([query])[0].tolist()
        return [point.id for point in self._store.query_points(_COLLECTION, query=vector, limit=limit).points]

    def save(self) -> None:
        """Close the files."""
        self._store.close()
        self._client()

    def open(self) -> None:
        """Open the collection."""
        self._client()

    def _client(self) -> None:
        warnings.filterwarnings("ignore", message="Local mode is not recommended")  # that is what is measured
        warnings.filterwarnings("ignore", message="overflow encountered")  # in rows that it has not filled yet
        self._models = importlib.import_module("qdrant_client.models")
        self._store = importlib.import_module("qdrant_client").QdrantClient(path=str(self._directory))


CONTENDERS: Final[Mapping[str, type[Contender]]] = {
    "index service": ProductIndex,
    "numpy, exact": Numpy,
    "chromadb": Chroma,
    "qdrant, local": Qdrant,
}


def nearest(encoder: Encoder, texts: Sequence[str], queries: Sequence[str], limit: int) -> list[set[int]]:
    """The numbers of the texts with the highest cosines to each query."""
    vectors = np.concatenate([encoder.encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])
    cosines = encoder.encode(queries) @ vectors.T
    return [{int(number) for number in np.argpartition(-row, limit)[:limit]} for row in cosines]
