"""What the product is compared with: BM25 alone, and numpy cosine + BM25 in one process, over the same texts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mnemo_index.domain.words import Stems, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.encoder import Encoder

K1: Final = 1.2
B: Final = 0.4


class Bm25:
    """Okapi BM25 over stemmed words without stop words, k1 1.2, b .4, in plain Python."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._stems = Stems()
        counts = [Counter(self._terms(text)) for text in texts]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._size = len(texts)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            for term, frequency in count.items():
                weight = frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length / mean))
                self._postings[term].append((place, weight))

    def _terms(self, text: str) -> list[str]:
        return self._stems.terms(words(text))

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every text, shape (texts,)."""
        scores = np.zeros(self._size)
        for term in set(self._terms(query)):
            postings = self._postings.get(term, [])
            idf = math.log(1 + (self._size - len(postings) + 0.5) / (len(postings) + 0.5))
            for place, weight in postings:
                scores[place] += idf * weight
        return scores


class InProcess:
    """Cosine over all vectors plus BM25, min-max fused half and half: the least one could write by hand."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        batches = [encoder.encode(texts[start : start + 256]) for start in range(0, len(texts), 256)]
        self._vectors = np.concatenate(batches)
        self._bm25 = Bm25(texts)

    def search(self, query: str, limit: int) -> list[int]:
        """Places of the best texts, best first."""
        cosine = self._vectors @ self._encoder.encode([query])[0]
        fused = _unit(cosine) + _unit(self._bm25.scores(query))
        best = np.argpartition(-fused, min(limit, len(fused) - 1))[:limit]
        return [int(place) for place in best[np.argsort(-fused[best])]]


def _unit(values: NDArray[Any]) -> NDArray[Any]:
    span = float(values.max() - values.min()) or 1.0
    return np.asarray((values - values.min()) / span)
