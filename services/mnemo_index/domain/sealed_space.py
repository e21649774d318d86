"""An encrypted space: sealed memories, which are opened, encoded and searched in RAM once somebody brings the keys.

Until then the space is locked: it takes changes and answers no question. What it gives to be kept on disk is sealed in
any case. Keys are held in RAM for as long as the space is, so that what comes later is opened as it comes; every
question has to bring them nevertheless.
"""

from __future__ import annotations

import hmac
import logging
import threading
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mnemo_index.domain.documents import Change
from mnemo_index.domain.fingerprint import Fingerprint, fingerprint_of
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.state import SpaceState
from mnemocore.errors import InternalError, KeyUnavailableError
from mnemocore.ids import MemoryId
from mnemocore.sealing import SpaceCipher, key_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from mnemo_index.domain.documents import Document
    from mnemo_index.domain.space_index import SpaceIndex
    from mnemocore.ids import SpaceUid
    from mnemocore.sealing import DataKey

    Reader: TypeAlias = Callable[[MemoryId, bytes], Document]
    """Makes a document of what was sealed. Raises InternalError for what it cannot read."""

AT_ONCE: Final = 512
"""Memories opened in one step."""

_BYTES_A_MEMORY: Final = 300  # the id, the sealed bytes' own overhead, two places in dictionaries
_LEAST_BYTES: Final = 16
_log = logging.getLogger(__name__)


class Sealed(NamedTuple):
    """What an encrypted space holds of one memory: `data` opens for the memory's id and this revision."""

    revision: int
    data: bytes


class SealedSpace:
    """The memories of one encrypted space. `index` is the empty index they are put into as they are opened.

    Safe for use by many threads.
    """

    def __init__(self, space_uid: SpaceUid, index: SpaceIndex, read: Reader, revisions: Revisions) -> None:
        self._space_uid = space_uid
        self._index = index
        self._read = read
        self._writer = threading.Lock()
        self._revisions = revisions
        self._sealed: dict[MemoryId, Sealed] = {}
        self._pending: dict[MemoryId, Sealed] = {}
        self._bytes = 0
        self._key_ids: Counter[str] = Counter()
        self._proven: dict[str, bytes] = {}
        self._cipher: SpaceCipher | None = None

    @classmethod
    def restored(cls, space_uid: SpaceUid, state: SpaceState, index: SpaceIndex, read: Reader) -> SealedSpace:
        """The space that `state` was taken of, locked."""
        revisions = Revisions(state.applied_revision, state.ahead, state.removed)
        space = cls(space_uid, index, read, revisions)
        payloads, start = state.arrays["payloads"], 0
        numbers = zip(state.arrays["revisions"].tolist(), state.arrays["sizes"].tolist(), strict=True)
        for memory_id, (revision, size) in zip(state.lists["ids"], numbers, strict=True):
            space._keep(MemoryId(memory_id), Sealed(revision, payloads[start : start + size].tobytes()))
            start += size
        return space

    @property
    def applied_revision(self) -> int:
        """The revision up to which every change is taken."""
        return self._revisions.applied

    @property
    def locked(self) -> bool:
        """Whether there is a memory that was not opened yet."""
        return bool(self._pending)

    @property
    def index(self) -> SpaceIndex:
        """The index of what was opened so far."""
        return self._index

    @property
    def kept_model(self) -> str:
        """Empty: no vector of it is kept on disk."""
        return ""

    @property
    def waiting(self) -> int:
        """Number of opened memories that wait for their vectors. What is on disk of the space waits for nothing."""
        return self._index.waiting

    @property
    def size(self) -> int:
        """Number of active memories; of all while the space is locked, since nobody can tell their states."""
        return len(self._sealed) if self.locked else self._index.size

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM that it takes, strings and dictionaries estimated."""
        return self._bytes + _BYTES_A_MEMORY * len(self._sealed) + self._index.memory_bytes

    def apply(self, changes: Sequence[Change]) -> None:
        """Take changes in the order of their revisions; what is known already, or older, changes nothing.

        They are opened if the keys are there. What does not open waits for other keys. What comes in the open is not
        kept: an encrypted space sends nothing so.
        """
        with self._writer:
            fresh = self._revisions.fresh(changes)
            latest = self._revisions.latest(fresh, self._revision_of)
            gone = {name: Change(change.revision, name) for name, change in latest.items() if not change.sealed}
            self._index.put(gone)
            for memory_id, change in latest.items():
                self._keep(memory_id, Sealed(change.revision, change.sealed) if change.sealed else None)
            self._revisions.note(fresh, latest)
            self._open_what_comes()

    def opened(self, keys: Sequence[DataKey]) -> SpaceIndex | None:
        """The index of the memories, for who has the keys; None as long as `open_some` has something to do.

        Raises KeyUnavailableError unless `keys` has every key with which a memory is sealed. Takes no time.
        """
        given = {key.id: key.key for key in keys}
        if not given:
            raise KeyUnavailableError(f"space {self._space_uid} is encrypted and no key came with the request", key="")
        for key_id in list(self._key_ids):
            key, proven = given.get(key_id), self._proven.get(key_id)
            if key is None or (proven is not None and not hmac.compare_digest(key, proven)):
                raise KeyUnavailableError(key=key_id)
        return None if self.locked else self._index

    def unlocked(self) -> SpaceIndex:
        """The index of the memories. Raises KeyUnavailableError while the space is locked."""
        with self._writer:  # what came and is being opened was no reason to say that the space is locked
            if self.locked:
                key_id = next(iter(self._key_ids))
                raise KeyUnavailableError(f"space {self._space_uid} is encrypted and locked", key=key_id)
            return self._index

    def open_some(self, keys: Sequence[DataKey]) -> None:
        """Open some hundreds of the memories that were not opened yet; from then on `keys` opens what comes.

        Raises KeyUnavailableError if one does not open; it and those that were not tried stay locked.
        """
        with self._writer:
            cipher = SpaceCipher(self._space_uid, keys)
            self._open_some(cipher)
            self._cipher = cipher

    def drop_erased(self) -> None:
        """Let go of what was erased: until then its words and its vector are kept in RAM."""
        self._index.drop_erased()

    def state(self) -> SpaceState:
        """What is kept on disk: sealed bytes, and the ids and revisions they belong to."""
        with self._writer:
            held = sorted(self._sealed.items(), key=lambda item: item[1].revision)
            revisions = self._revisions
            applied, ahead, removed = revisions.applied, tuple(sorted(revisions.ahead)), dict(revisions.removed)
        return SpaceState(
            model="",
            applied_revision=applied,
            ahead=ahead,
            removed=removed,
            lists={"ids": [memory_id for memory_id, _ in held]},
            arrays={
                "revisions": np.array([sealed.revision for _, sealed in held], dtype=np.int64),
                "sizes": np.array([len(sealed.data) for _, sealed in held], dtype=np.int64),
                "payloads": np.frombuffer(b"".join(sealed.data for _, sealed in held), dtype=np.uint8),
            },
        )

    def fingerprint(self) -> Fingerprint:
        """What it holds, locked or not, to be compared with what others do."""
        with self._writer:
            held = [(memory_id, sealed.revision) for memory_id, sealed in self._sealed.items()]
            applied = self._revisions.applied
        return fingerprint_of(applied, held)

    def _revision_of(self, memory_id: MemoryId) -> int:
        sealed = self._sealed.get(memory_id)
        return 0 if sealed is None else sealed.revision

    def _keep(self, memory_id: MemoryId, sealed: Sealed | None) -> None:
        """Hold what is now known of a memory, last in order, in place of what was. No key is unneeded in between."""
        before = self._sealed.pop(memory_id, None)
        self._pending.pop(memory_id, None)
        if sealed is not None:
            self._sealed[memory_id] = self._pending[memory_id] = sealed
            self._bytes += len(sealed.data)
            self._key_ids[_key_id(sealed)] += 1
        if before is not None:
            self._bytes -= len(before.data)
            self._key_ids[_key_id(before)] -= 1
            self._key_ids += Counter()  # lets go of what is zero

    def _open_what_comes(self) -> None:
        """Open what is pending with the keys that are there, as far as it goes."""
        try:
            while self._cipher is not None and self._pending:
                self._open_some(self._cipher)
        except KeyUnavailableError as error:
            _log.info("space %s is locked until key %s comes", self._space_uid, error.metadata["key"])

    def _open_some(self, cipher: SpaceCipher) -> None:
        batch = dict(islice(self._pending.items(), AT_ONCE))
        opened = {
            memory_id: Change(sealed.revision, memory_id, self._document(cipher, memory_id, sealed))
            for memory_id, sealed in batch.items()
        }
        self._index.put(opened)
        keys = {key.id: key.key for key in cipher.keys}
        for memory_id, sealed in batch.items():
            self._proven[_key_id(sealed)] = keys[_key_id(sealed)]
            del self._pending[memory_id]

    def _document(self, cipher: SpaceCipher, memory_id: MemoryId, sealed: Sealed) -> Document:
        try:
            return self._read(memory_id, cipher.open(f"{memory_id}@{sealed.revision}", sealed.data))
        except InternalError as error:
            _log.warning("revision %d of space %s does not open with the given keys", sealed.revision, self._space_uid)
            raise KeyUnavailableError(key=_key_id(sealed)) from error


def _key_id(sealed: Sealed) -> str:
    """The id of the key that opens it; `unknown`, which no key has, if it is too short to name one."""
    return key_id_of(sealed.data) if len(sealed.data) > _LEAST_BYTES else "unknown"
