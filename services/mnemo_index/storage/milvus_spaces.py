"""Makes spaces whose memories are in Milvus. Encrypted ones never are: they are made as they are without Milvus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_index.domain.revisions import Revisions
from mnemo_index.storage.milvus_space import MODEL_PREFIX, MilvusSpace

if TYPE_CHECKING:
    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.projection import Spaces
    from mnemo_index.domain.residents import Held
    from mnemo_index.domain.sealed_space import SealedSpace
    from mnemo_index.domain.search import HammingScan
    from mnemo_index.domain.state import SpaceState
    from mnemo_index.domain.words import Stems
    from mnemo_index.storage.milvus_store import MilvusStore
    from mnemocore.ids import SpaceUid


class MilvusSpaces:
    """Implements `mnemo_index.domain.projection.Spaces`; `local` makes the encrypted ones."""

    def __init__(self, local: Spaces, store: MilvusStore, encoder: Encoder, stems: Stems, scan: HammingScan) -> None:
        self._local = local
        self._store = store
        self._encoder = encoder
        self._stems = stems
        self._scan = scan

    @property
    def model(self) -> str:
        """The model of the encoder, whose vectors are in Milvus."""
        return MODEL_PREFIX + self._encoder.model

    def reads(self, model: str) -> bool:
        """Whether a state of a model can be restored: one that says what Milvus holds, or an encrypted one."""
        return model in ("", self.model)

    def new(self, space_uid: SpaceUid, after: int = 0) -> MilvusSpace:
        """An empty one in the place of whatever there was, for changes after a revision."""
        space = MilvusSpace(space_uid, self._store, self._encoder, self._stems, self._scan)
        space.revisions = Revisions(after)
        return space

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        """An encrypted space without memories. What was in the open of it leaves Milvus."""
        if revisions.applied:
            self._store.forget(space_uid)
        return self._local.sealed(space_uid, revisions)

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What a state was taken of. Raises ValueError if Milvus does not hold it, or vectors of another model."""
        if state.sealed:
            return self._local.restored(space_uid, state)
        return MilvusSpace.restored(space_uid, state, self._store, self._encoder, self._stems, self._scan)

    def forget(self, space_uid: SpaceUid) -> None:
        """Leave nothing of an erased space in Milvus."""
        self._local.forget(space_uid)
        self._store.forget(space_uid)
