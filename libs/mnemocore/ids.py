"""Identifiers: lower-case UUIDs, version 7 where we make them, so that they sort by time of creation."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NewType

import uuid_utils

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Tenant = NewType("Tenant", str)
"""Whose data it is. Comes from a credential, never from a request."""
SpaceUid = NewType("SpaceUid", str)
"""Internal id of a space: a UUID, unique over all tenants."""
MemoryId = NewType("MemoryId", str)
"""Id of a memory: a UUID, unique within its space."""
JobId = NewType("JobId", str)
"""Id of a job: a UUID."""
ApiKeyId = NewType("ApiKeyId", str)
"""Id of an API key: a UUID."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_uuid(now: datetime) -> str:
    """A new UUIDv7 whose time part is `now` (timezone-aware, 1970 or later)."""
    return str(uuid_utils.uuid7(nanoseconds=(now - _EPOCH) // timedelta(microseconds=1) * 1000))


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the one form that is accepted: 36 characters, lower-case."""
    return _UUID.fullmatch(text) is not None
