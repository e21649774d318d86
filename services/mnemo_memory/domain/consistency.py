"""Consistency tokens: proof that a state contains a revision of a space."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from typing import TYPE_CHECKING
from uuid import UUID

from mnemocore.errors import ForeignTokenError

if TYPE_CHECKING:
    from mnemocore.ids import SpaceUid

_LAYOUT = struct.Struct(">16s16sQ")
_CHECK = struct.Struct(">I")


def encode_token(store_id: str, space_uid: SpaceUid, revision: int) -> str:
    """The token for `revision` of a space in a store; opaque to callers."""
    body = _LAYOUT.pack(UUID(store_id).bytes, UUID(space_uid).bytes, revision)
    return base64.urlsafe_b64encode(body + _CHECK.pack(zlib.crc32(body))).decode()


def decode_token(token: str, store_id: str, space_uid: SpaceUid) -> int:
    """The revision in `token`. Raises ForeignTokenError if it is damaged or was issued for another store or space."""
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii"))
        body, check = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        store, space, revision = _LAYOUT.unpack(body)
        (expected,) = _CHECK.unpack(check)
    except (UnicodeEncodeError, binascii.Error, struct.error):
        raise ForeignTokenError from None
    if expected != zlib.crc32(body) or store != UUID(store_id).bytes or space != UUID(space_uid).bytes:
        raise ForeignTokenError
    if base64.urlsafe_b64encode(raw).decode() != token:  # decoding passes over foreign characters and spare bits
        raise ForeignTokenError
    return int(revision)
