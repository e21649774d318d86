"""The state of a space as plain arrays and lists: what a snapshot keeps and an index starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnemo_index.domain.documents import State
from mnemo_index.domain.share import Share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mnemocore.ids import SpaceUid


@dataclass(frozen=True, slots=True)
class SpaceState:
    """All rows of a space, and how far it is.

    `model` made the vectors; it is empty in the state of an encrypted space, which holds sealed bytes, the ids and
    revisions they belong to, and nothing else. `applied_revision` is the last of the revisions applied without a gap,
    `ahead` are those applied beyond it, `removed` the last revisions of removed memories beyond it. `lists` are the
    strings, `arrays` the columns by name; nobody changes them any more. An engine that keeps its rows itself gives no
    rows, and the number of the active ones in `counted`.
    """

    model: str
    applied_revision: int
    ahead: tuple[int, ...]
    removed: dict[str, int]
    lists: dict[str, list[str]]
    arrays: dict[str, NDArray[np.generic]]
    counted: int | None = None

    @property
    def sealed(self) -> bool:
        """Whether it is the state of an encrypted space."""
        return not self.model

    @property
    def size(self) -> int:
        """Number of active memories; of all if it is sealed."""
        if self.counted is not None:
            return self.counted
        return len(self.lists["ids"]) if self.sealed else int(np.count_nonzero(self.arrays["states"] == State.ACTIVE))

    @property
    def waiting(self) -> int:
        """Number of memories that wait for their vectors."""
        return 0 if self.sealed else int(np.count_nonzero(self.arrays["waiting"]))


class Head(NamedTuple):
    """What is known of a state without reading it.

    Its model, how far it is, how many memories it counts, and how many of all wait for their vectors.
    """

    model: str
    applied_revision: int
    size: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the snapshots of a replica are.

    They contain everything of `share` up to `position` of the log. Before position `owed` those of the spaces in
    `building`, and of spaces without a snapshot, are not the whole truth.
    """

    position: int = 0
    share: Share = field(default_factory=Share)
    owed: int = 0
    building: frozenset[SpaceUid] = frozenset()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process finds when it starts. `complete` tells whether every snapshot that is expected can be used."""

    progress: Progress
    heads: Mapping[SpaceUid, Head]
    complete: bool
