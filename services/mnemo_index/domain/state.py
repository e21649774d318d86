"""The state of a space as plain arrays and lists: what a snapshot keeps and an index starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SpaceState:
    """All rows of a space, and how far it is.

    `model` made the vectors; it is empty in the state of an encrypted space, which holds sealed bytes, the ids and
    revisions they belong to, and nothing else. `applied_revision` is the last of the revisions applied without a gap,
    `ahead` are those applied beyond it, `removed` the last revisions of removed memories beyond it. `lists` are the
    strings, `arrays` the columns by name; nobody changes them any more.
    """

    model: str
    applied_revision: int
    ahead: tuple[int, ...]
    removed: dict[str, int]
    lists: dict[str, list[str]]
    arrays: dict[str, NDArray[np.generic]]

    @property
    def sealed(self) -> bool:
        """Whether it is the state of an encrypted space."""
        return not self.model
