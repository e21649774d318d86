"""Page sizes and page tokens, the same in every service.

A page token is opaque: it holds where the next page starts and a hash of that and of the query it belongs to, so that a
damaged token, or one of another query, is noticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from mnemocore.errors import PageTokenMismatchError

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page_size(asked: int) -> int:
    """The number of items of a page: 0 is the default, more than the maximum is the maximum."""
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def encode(query: Any, position: list[Any]) -> str:
    """A token for the page after `position` (JSON values) of `query` (JSON values that describe the whole query)."""
    raw = json.dumps([_digest([query, position]), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def decode(query: Any, token: str) -> list[Any] | None:
    """The position in `token`, None for an empty one.

    Raises PageTokenMismatchError if the token is damaged or belongs to another query.
    """
    if not token:
        return None
    try:
        digest, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise PageTokenMismatchError from None
    if not isinstance(position, list) or digest != _digest([query, position]):
        raise PageTokenMismatchError
    return position


def _digest(query: Any) -> str:
    raw = json.dumps(query, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2s(raw.encode(), digest_size=8).hexdigest()
