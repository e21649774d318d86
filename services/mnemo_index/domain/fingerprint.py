"""The fingerprint of a space: by it two sides find out whether they hold the same memories in the same revisions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fingerprint(NamedTuple):
    """Of all memories of which anything is left: their number, and the XOR of a 64-bit hash of each.

    The hash of a memory is the first 8 bytes of the MD5 of `<id>@<revision>`, big-endian, signed: what SQL computes as
    `('x' || left(md5(id || '@' || revision), 16))::bit(64)::bigint`.
    """

    applied_revision: int
    memories: int
    checksum: int


NOTHING = Fingerprint(0, 0, 0)
"""The fingerprint of a space of which nothing is known."""


def fingerprint_of(applied_revision: int, held: Iterable[tuple[str, int]]) -> Fingerprint:
    """The fingerprint of memories, given as ids and revisions. About a microsecond a memory."""
    memories, combined = 0, 0
    for memory_id, revision in held:
        hashed = hashlib.md5(b"%b@%d" % (memory_id.encode(), revision), usedforsecurity=False).digest()
        combined ^= int.from_bytes(hashed[:8], "big")
        memories += 1
    return Fingerprint(applied_revision, memories, combined - (combined >> 63 << 64))
