"""The engines of the index as one suite of tests runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.index_space import STEMS, encoder

from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.milvus_space import MilvusSpace
from mnemo_index.storage.milvus_store import MilvusStore
from mnemocore.ids import SpaceUid

if TYPE_CHECKING:
    from pathlib import Path

    from mnemo_index.domain.engine import SpaceEngine
    from mnemo_index.domain.state import SpaceState
    from mnemo_index.domain.words import Stems


def space_uid(number: int) -> SpaceUid:
    """The uid of the space of this number."""
    return SpaceUid(f"018f0000-0000-7000-8000-{number:012x}")


class Engines(Protocol):
    """Makes spaces of one engine. Each new space has a uid of its own, from 1."""

    stems: Stems

    def new(self) -> tuple[SpaceUid, SpaceEngine]:
        """An empty space."""
        ...

    def again(self, uid: SpaceUid) -> SpaceEngine:
        """The space built anew: an empty one in the place of what was there."""
        ...

    def restored(self, uid: SpaceUid, state: SpaceState) -> SpaceEngine:
        """The space that a state was taken of."""
        ...

    def restart(self) -> None:
        """End the process of the engine, as far as there is one, and begin another one on the same data."""
        ...

    def forget(self, uid: SpaceUid) -> None:
        """Leave nothing of a space where the engine keeps its rows."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class LocalEngines:
    """Spaces in this process. `exact_rows` is where their sketches come into use."""

    def __init__(self, exact_rows: int = 50_000) -> None:
        self.stems = STEMS
        self._exact_rows = exact_rows
        self._made = 0

    def new(self) -> tuple[SpaceUid, SpaceEngine]:
        self._made += 1
        uid = space_uid(self._made)
        return uid, self.again(uid)

    def again(self, uid: SpaceUid) -> SpaceEngine:
        return SpaceIndex(encoder(), self.stems, hamming_distances, self._exact_rows)

    def restored(self, uid: SpaceUid, state: SpaceState) -> SpaceEngine:
        return SpaceIndex.restored(state, encoder(), self.stems, hamming_distances, self._exact_rows)

    def restart(self) -> None:
        """There is no process but this one."""

    def forget(self, uid: SpaceUid) -> None:
        """The rows are with the space."""

    def close(self) -> None:
        """There is nothing to let go of."""


class MilvusEngines:
    """Spaces in Milvus: in the milvus-lite file `<folder>/milvus.db`."""

    def __init__(self, folder: Path) -> None:
        self.stems = STEMS
        self._uri = str(folder / "milvus.db")
        self._made = 0
        self.store = self._open()

    def new(self) -> tuple[SpaceUid, SpaceEngine]:
        self._made += 1
        uid = space_uid(self._made)
        return uid, self.again(uid)

    def again(self, uid: SpaceUid) -> SpaceEngine:
        return MilvusSpace(uid, self.store, encoder(), self.stems, hamming_distances)

    def restored(self, uid: SpaceUid, state: SpaceState) -> SpaceEngine:
        return MilvusSpace.restored(uid, state, self.store, encoder(), self.stems, hamming_distances)

    def restart(self) -> None:
        self.store.close()
        self.store = self._open()

    def forget(self, uid: SpaceUid) -> None:
        self.store.forget(uid)

    def close(self) -> None:
        self.store.close()

    def _open(self) -> MilvusStore:
        return MilvusStore.open(self._uri, "", encoder().model, encoder().dimension)
