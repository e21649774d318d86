"""Encryption at rest: data keys of spaces, sealed texts, and names that can be compared without being read.

Sealed bytes are `version (1) | key id (16) | nonce (12) | ciphertext and tag`, AES-256-GCM. The associated data are the
space and a subject, such as the id of a memory: sealed bytes moved to another row or space do not open.

A space has data keys, which seal and are replaced from time to time, and one blinding key, with which texts are
compared and which it keeps for life. Both are stored wrapped: encrypted with a master key that is stored elsewhere.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mnemocore.errors import InternalError, KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemocore.ids import SpaceUid

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_KEY_ID: Final = slice(1, 17)
_NONCE: Final = slice(17, 29)
_HEADER_BYTES: Final = 29
_WRAP_NONCE: Final = 12


class Purpose(IntEnum):
    """What a key of a space is for. The numbers are those of the database."""

    DATA = 1
    BLINDING = 2


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key of one space: its id, a UUID, and 32 bytes."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id})"


class SpaceCipher:
    """Seals and opens what a space holds. The first of `keys` (at least one) seals, all of them open.

    `blind` and `digest` need the blinding key; who only seals and opens does without it.
    """

    def __init__(self, space_uid: SpaceUid, keys: Sequence[DataKey], blinding_key: bytes = b"") -> None:
        self._space = UUID(space_uid).bytes
        self.keys = tuple(keys)
        self._opening = {UUID(each.id).bytes: AESGCM(each.key) for each in keys}
        self._sealing_id = UUID(keys[0].id).bytes
        self._blinding_key = blinding_key
        self.outdated = False
        """Whether it was given something that is sealed with a key it does not have."""

    def __repr__(self) -> str:
        return f"SpaceCipher({UUID(bytes=self._space)}, {self.keys})"

    @property
    def key_id(self) -> str:
        """The id of the key that seals."""
        return self.keys[0].id

    def seal(self, subject: str, plain: bytes) -> bytes:
        """`plain`, readable only with the key and for the same subject."""
        nonce = os.urandom(12)
        header = _VERSION + self._sealing_id + nonce
        return header + self._opening[self._sealing_id].encrypt(nonce, plain, self._bound_to(subject))

    def open(self, subject: str, sealed: bytes) -> bytes:
        """What `seal` was given. Raises KeyUnavailableError; InternalError if it was changed or belongs elsewhere."""
        key_id, nonce = bytes(sealed[_KEY_ID]), bytes(sealed[_NONCE])
        if sealed[:1] != _VERSION or len(sealed) < _HEADER_BYTES:
            raise InternalError(f"the sealed bytes of {subject} are damaged")
        cipher = self._opening.get(key_id)
        if cipher is None:
            self.outdated = True
            raise KeyUnavailableError(key=str(UUID(bytes=key_id)))
        try:
            return cipher.decrypt(nonce, bytes(sealed[_HEADER_BYTES:]), self._bound_to(subject))
        except InvalidTag:
            raise InternalError(f"the sealed bytes of {subject} were changed or belong elsewhere") from None

    def blind(self, text: str) -> str:
        """32 hexadecimal digits that are equal for equal texts of the space and tell nothing else; empty for empty."""
        if not text:
            return ""
        return self._keyed(b"text:" + text.encode("utf-8", "surrogatepass")).hex()[:32]

    def digest(self, data: bytes) -> bytes:
        """32 bytes that are equal for equal data of the space and tell nothing else."""
        return self._keyed(b"digest:" + data)

    def _keyed(self, data: bytes) -> bytes:
        if not self._blinding_key:
            raise InternalError("the blinding key of the space is not here")
        return hmac.digest(self._blinding_key, data, "sha256")

    def _bound_to(self, subject: str) -> bytes:
        return self._space + subject.encode()


def key_id_of(sealed: bytes) -> str:
    """The id of the key that sealed some bytes."""
    return str(UUID(bytes=bytes(sealed[_KEY_ID])))


def derive(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(key)


def new_key_id() -> str:
    """A new id of a key of a space."""
    return str(uuid4())


class MasterKey:
    """A key that encrypts the keys of spaces: its id, and 32 bytes that it does not give away."""

    def __init__(self, id: str, key: bytes) -> None:
        self.id = id
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def wrap(self, space_uid: SpaceUid, purpose: Purpose, key_id: str, key: bytes | None = None) -> bytes:
        """A key of a space, encrypted; a new random one if none is given."""
        nonce = os.urandom(_WRAP_NONCE)
        plain = os.urandom(KEY_BYTES) if key is None else key
        return nonce + self._cipher.encrypt(nonce, plain, _bound_key(space_uid, purpose, key_id))

    def unwrap(self, space_uid: SpaceUid, purpose: Purpose, key_id: str, wrapped: bytes) -> bytes:
        """The key of a space. Raises KeyUnavailableError if it was encrypted with another master key, or changed."""
        bound = _bound_key(space_uid, purpose, key_id)
        try:
            return self._cipher.decrypt(wrapped[:_WRAP_NONCE], wrapped[_WRAP_NONCE:], bound)
        except InvalidTag:
            raise KeyUnavailableError(
                f"master key {self.id!r} has other bytes than the one that encrypted key {key_id} of space {space_uid}",
                key=self.id,
            ) from None

    def seal(self, subject: str, plain: bytes) -> bytes:
        """Something short that belongs to no space, encrypted; it opens for the same subject only."""
        nonce = os.urandom(_WRAP_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, f"sealed for {subject}".encode())

    def open(self, subject: str, sealed: bytes) -> bytes:
        """What `seal` was given. Raises KeyUnavailableError if it was sealed with another master key, or changed."""
        try:
            return self._cipher.decrypt(sealed[:_WRAP_NONCE], sealed[_WRAP_NONCE:], f"sealed for {subject}".encode())
        except InvalidTag:
            raise KeyUnavailableError(
                f"master key {self.id!r} has other bytes than the one that sealed what belongs to {subject}",
                key=self.id,
            ) from None


class MasterKeys:
    """The master keys of an installation at one time. The first encrypts, all of them open; there may be none."""

    def __init__(self, keys: Sequence[MasterKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """Their ids, that of the current one first."""
        return tuple(self._keys)

    @property
    def current(self) -> MasterKey:
        """The one that encrypts. Raises KeyUnavailableError if there is none."""
        for key in self._keys.values():
            return key
        raise KeyUnavailableError("no master key is configured; encrypted spaces need one", key="master")

    def get(self, id: str) -> MasterKey:
        """The one with this id. Raises KeyUnavailableError."""
        if id not in self._keys:
            known = ", ".join(self._keys) or "none"
            raise KeyUnavailableError(f"master key {id!r} is not configured; configured: {known}", key=id)
        return self._keys[id]


def _bound_key(space_uid: SpaceUid, purpose: Purpose, key_id: str) -> bytes:
    return f"{purpose.name} key".encode() + UUID(space_uid).bytes + UUID(key_id).bytes
