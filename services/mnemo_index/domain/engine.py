"""The port to an engine: what holds the memories of one space in the open, and answers the questions about them.

There are two: `SpaceIndex`, tables in this process, and the one that keeps its rows in Milvus. One suite of tests says
what both promise. An encrypted space is always held by a `SealedSpace` in this process, whatever the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemo_index.domain.documents import Change, Filter
    from mnemo_index.domain.fingerprint import Fingerprint
    from mnemo_index.domain.revisions import Revisions
    from mnemo_index.domain.search import Hit
    from mnemo_index.domain.space_index import NearDuplicate, Similar
    from mnemo_index.domain.state import SpaceState


class SpaceEngine(Protocol):
    """Finds the memories of one space. Safe for use by many threads.

    What needs another machine raises PeerUnavailableError when that does not answer; properties never do.
    """

    @property
    def revisions(self) -> Revisions:
        """Which changes are applied."""
        ...

    @property
    def kept_model(self) -> str:
        """What the states are of: the model of the vectors, and what else tells engines apart."""
        ...

    @property
    def waiting(self) -> int:
        """Number of memories that wait for their vectors, whatever their state."""
        ...

    @property
    def applied_revision(self) -> int:
        """The revision up to which every change is applied."""
        ...

    @property
    def size(self) -> int:
        """Number of active memories, as the changes left them."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM that it takes in this process."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes in the order of their revisions; what is known already, or older, changes nothing.

        If it fails, applying the same changes again brings it where it should be.
        """
        ...

    def search(self, query: str, limit: int, wanted: Filter = ...) -> list[Hit]:
        """The best `limit` (at least 1) of the memories that match `wanted`; all of them if there are fewer.

        Relevance is 0 to 1 and the sum of the contributions of its components.
        """
        ...

    def similar(self, text: str, limit: int, least: float, wanted: Filter = ...) -> list[Similar]:
        """The `limit` memories that match `wanted` and are most like `text`, with a cosine of at least `least`."""
        ...

    def near_duplicates(
        self, min_similarity: float, limit: int, wanted: Filter = ...
    ) -> tuple[list[NearDuplicate], bool]:
        """The `limit` most similar pairs of one kind and actor with a cosine of at least `min_similarity`.

        Both memories of a pair match `wanted`. Also tells whether there are more pairs.
        """
        ...

    def fingerprint(self) -> Fingerprint:
        """What it holds, to be compared with what others do."""
        ...

    def drop_erased(self) -> None:
        """Let go of what was erased, wherever this process keeps it."""
        ...

    def state(self) -> SpaceState:
        """What a snapshot has to keep: everything, or, of an engine that keeps its rows itself, how far it is."""
        ...
