"""Static encoders: a table with one vector a token; a text is the mean of its tokens, scaled to length 1.

What WordLlama, Model2Vec and the static models of sentence-transformers have in common. Needs no network and no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from mnemo_index.domain.models import Model

MAX_CHARACTERS: Final = 32_768
"""Characters of a text that are encoded; the meaning of a longer text is that of its beginning."""

_TOKENS_AT_ONCE: Final = 8192


class TokenTableEncoder:
    """Encodes by `weights`, shape (tokens, dimension), of which `tokenizer` gives the rows. Safe for many threads."""

    def __init__(self, weights: NDArray[np.float32], tokenizer: Tokenizer, card: Model) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._weights = np.ascontiguousarray(weights, dtype=np.float32)
        self._tokenizer = tokenizer
        self._card = card
        self._ones = np.ones(_TOKENS_AT_ONCE, dtype=np.float32)

    def close(self) -> None:
        """There is nothing to let go of."""

    @property
    def card(self) -> Model:
        """What is known of the model."""
        return self._card

    @property
    def model(self) -> str:
        """Name of the weights and the first 12 digits of their SHA-256."""
        return self._card.name

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return int(self._weights.shape[1])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 a text; zeros for an empty text."""
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, tokens in zip(sums, self._tokens(texts), strict=True):
            for start in range(0, len(tokens), _TOKENS_AT_ONCE):
                part = self._weights.take(tokens[start : start + _TOKENS_AT_ONCE], axis=0)
                row += self._ones[: len(part)] @ part
        return unit_rows(sums)

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """The vector of `words`, each of its tokens counted by the weight of the word."""
        # one by one: for so few words threads are not worth being waited for
        tokens = [self._tokenizer.encode(word[:MAX_CHARACTERS], add_special_tokens=False).ids for word in words]
        flat = [token for of_word in tokens for token in of_word]
        if not flat:
            return np.zeros(self.dimension, dtype=np.float32)
        scale = np.repeat(np.asarray(weights, dtype=np.float32), [len(of_word) for of_word in tokens])
        vector: NDArray[np.float32] = scale @ self._weights[flat]
        (unit,) = unit_rows(vector[None, :])
        return np.asarray(unit, dtype=np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [text[:MAX_CHARACTERS] for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)]


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled
