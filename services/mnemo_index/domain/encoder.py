"""The port to a text encoder: what turns the meaning of a text into a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mnemocore.errors import PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mnemo_index.domain.models import Model


class Encoder(Protocol):
    """Encodes texts. Safe for use by many threads.

    What it raises when it cannot encode now, though it may later, is an UnavailableError.
    """

    @property
    def model(self) -> str:
        """Name and version of the model. Vectors of different models are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of length 1 a text, shape (len(texts), dimension); zeros for a text without any token."""
        ...

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """The vector, shape (dimension,), of the text made of `words` where each word counts by its weight (>= 0).

        Of length 1; zeros if nothing has a weight. An encoder that cannot weigh encodes the text as it is.
        """
        ...


class Engine(Encoder, Protocol):
    """An encoder as it is opened by its setting: it knows the model it runs."""

    @property
    def card(self) -> Model:
        """What is known of the model; its name is `model`."""
        ...

    def close(self) -> None:
        """Let go of what it holds open; it is not used any more."""
        ...


@runtime_checkable
class WholeTextEncoder(Protocol):
    """An encoder that reads a question as a whole, order and case included, and cannot weigh its words."""

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """The vector, shape (dimension,), of a question as it was asked, of length 1; zeros without any token."""
        ...


def encode_question(
    encoder: Encoder, query: str, words: Sequence[str], weights: Sequence[float]
) -> NDArray[np.float32]:
    """The vector, shape (dimension,), of a question of which `words` are the words and `weights` says what they count.

    What cannot weigh is given the question as it was asked; so is every encoder if there are no words.
    """
    if isinstance(encoder, WholeTextEncoder):
        return encoder.encode_query(query)
    if words:
        return encoder.encode_weighted(words, weights)
    (vector,) = encoder.encode([query])
    return np.asarray(vector, dtype=np.float32)


class AbsentEncoder:
    """Stands for a model that cannot be opened any more: whatever it is asked raises PeerUnavailableError."""

    def __init__(self, model: str, dimension: int, why: str) -> None:
        self._model = model
        self._dimension = dimension
        self._why = why

    @property
    def model(self) -> str:
        """The model that is missing."""
        return self._model

    @property
    def dimension(self) -> int:
        """Numbers in each vector that the model made."""
        return self._dimension

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """No vector can be made, except of nothing."""
        if not texts:
            return np.empty((0, self._dimension), dtype=np.float32)
        raise self._error()

    def encode_weighted(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """No vector can be made."""
        raise self._error()

    def _error(self) -> PeerUnavailableError:
        return PeerUnavailableError(f"model {self._model} is not available: {self._why}", target=self._model)
