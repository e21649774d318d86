"""The default encoder: static token embeddings from the wheel of WordLlama, mean-pooled. Needs no network.

Only the data files of the wheel are used; its code is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
MAX_CHARACTERS: Final = 32_768
"""Characters of a text that are encoded; the meaning of a longer text is that of its beginning."""

_TOKENS_AT_ONCE: Final = 8192


class WordLlamaEncoder:
    """256 numbers a text: the mean of its tokens' embeddings, scaled to length 1."""

    def __init__(self, weights: NDArray[np.float32], tokenizer: Tokenizer, model: str) -> None:
        self._weights = weights
        self._tokenizer = tokenizer
        self._model = model
        self._ones = np.ones(_TOKENS_AT_ONCE, dtype=np.float32)

    @classmethod
    def load(cls, directory: Path | None = None) -> WordLlamaEncoder:
        """The encoder from the files of the installed wheel, or of `directory` if one is given.

        Raises InvalidSettingError that names the missing file.
        """
        folder = _wheel_folder() if directory is None else directory
        for name in (WEIGHTS, TOKENIZER):
            if not (folder / name).is_file():
                raise InvalidSettingError(
                    f"encoder wordllama: {name} is missing; reinstall the package wordllama", setting="encoder"
                )
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]
        (weights,) = load_file(folder / WEIGHTS).values()
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(np.ascontiguousarray(weights, dtype=np.float32), tokenizer, f"wordllama/l2_supercat_256@{digest}")

    @property
    def model(self) -> str:
        """Name of the weights and the first 12 digits of their SHA-256."""
        return self._model

    @property
    def dimension(self) -> int:
        """256."""
        return int(self._weights.shape[1])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 a text; zeros for an empty text."""
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, tokens in zip(sums, self._tokens(texts), strict=True):
            for start in range(0, len(tokens), _TOKENS_AT_ONCE):
                part = self._weights.take(tokens[start : start + _TOKENS_AT_ONCE], axis=0)
                row += self._ones[: len(part)] @ part
        return _unit_rows(sums)

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """The vector of `words`, each of its tokens counted by the weight of the word."""
        tokens = self._tokens(words)
        flat = [token for of_word in tokens for token in of_word]
        if not flat:
            return np.zeros(self.dimension, dtype=np.float32)
        scale = np.repeat(np.asarray(weights, dtype=np.float32), [len(of_word) for of_word in tokens])
        vector: NDArray[np.float32] = scale @ self._weights[flat]
        (unit,) = _unit_rows(vector[None, :])
        return np.asarray(unit, dtype=np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [text[:MAX_CHARACTERS] for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)]


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidSettingError("encoder wordllama: the package wordllama is not installed", setting="encoder")
    return Path(spec.submodule_search_locations[0])


def _unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled
