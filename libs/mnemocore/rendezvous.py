"""Rendezvous hashing: which of several replicas a key belongs to, the same wherever it is asked.

Each replica draws a number for the key, and the highest one has it (highest random weight: Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). With n replicas
each has about 1/n of the keys. A replica that comes takes its share from the others and nothing else moves; of one that
goes only its own keys move.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def owner(key: str, replicas: Collection[str]) -> str:
    """The one of `replicas` (at least one) that has `key`. Their order makes no difference."""
    return max(replicas, key=lambda replica: (_weight(key, replica), replica))


def names(text: str) -> list[str]:
    """The replicas that a setting lists, separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _weight(key: str, replica: str) -> bytes:
    """What `replica` draws for `key`: 64 bits."""
    return hashlib.blake2b(replica.encode(), key=hashlib.blake2b(key.encode()).digest(), digest_size=8).digest()
