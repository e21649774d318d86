"""The port to a text encoder: what turns the meaning of a text into a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Encoder(Protocol):
    """Encodes texts. Safe for use by many threads."""

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
