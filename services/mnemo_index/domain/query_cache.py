"""A cache of the vectors of questions: no question is encoded twice, which counts where a network is asked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.domain.encoder import WholeTextEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Encoder

CAPACITY: Final = 2048
"""Vectors kept: 2 MB at 256 numbers each, 24 MB at 3,072."""


class QueryCache:
    """The vectors of the questions asked last, for all models. Safe for use by many threads.

    `count` is called with True for a question that was found and False for one that was not.
    """

    def __init__(self, capacity: int = CAPACITY, count: Callable[[bool], None] = lambda found: None) -> None:
        self._capacity = capacity
        self._count = count
        self._lock = threading.Lock()
        self._vectors: OrderedDict[Hashable, NDArray[np.float32]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: Hashable, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The vector kept under `key`, or what `make` makes, which is kept then. A failure of `make` is not kept.

        Nobody waits for another one's `make`; the vector must not be changed.
        """
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
                self.hits += 1
            else:
                self.misses += 1
        self._count(vector is not None)
        if vector is not None:
            return vector
        made = make()
        made.flags.writeable = False
        with self._lock:
            self._vectors[key] = made
            self._vectors.move_to_end(key)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
        return made


class CachedEncoder:
    """An encoder whose questions are remembered: by model, words and weights; or by model and text.

    Several texts at once are memories to keep, not questions, and pass by the cache.
    """

    def __init__(self, encoder: Encoder, cache: QueryCache) -> None:
        self.encoder = encoder
        self._cache = cache

    @property
    def model(self) -> str:
        """The model of the encoder."""
        return self.encoder.model

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self.encoder.dimension

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the encoder does; a single text is remembered."""
        if len(texts) != 1:
            return self.encoder.encode(texts)
        return self._cache.get((self.model, texts[0]), lambda: self.encoder.encode(texts))

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """As the encoder does, remembered."""
        key = (self.model, tuple(words), tuple(weights))
        return self._cache.get(key, lambda: self.encoder.encode_weighted(words, weights))


class CachedWholeTextEncoder(CachedEncoder):
    """The same for an encoder that reads questions as a whole."""

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """As the encoder does, remembered."""
        encoder = self.encoder
        assert isinstance(encoder, WholeTextEncoder)
        return self._cache.get((self.model, "query", query), lambda: np.array(encoder.encode_query(query)))


def cached(encoder: Encoder, cache: QueryCache) -> CachedEncoder:
    """`encoder` with its questions remembered in `cache`."""
    return (CachedWholeTextEncoder if isinstance(encoder, WholeTextEncoder) else CachedEncoder)(encoder, cache)
