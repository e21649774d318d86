"""API keys: what they open, and how their secrets are made and checked."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemocore.calls import Identity
from mnemocore.ids import ApiKeyId

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.ids import Tenant

SCOPES: Final = frozenset(
    {
        "*",
        "memory:read",
        "memory:write",
        "memory:admin",
        "events:read",
        "events:write",
        "events:admin",
        "cognitive:read",
        "cognitive:write",
        "cognitive:admin",
        "gateway:admin",
    }
)
"""What a key may be allowed. `<area>:admin` contains the area's read and write, `*` contains everything."""

_PREFIX: Final = "mnemo"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `secret_hash` is the SHA-256 of the secret, which has 256 random bits."""

    id: ApiKeyId
    tenant: Tenant
    principal: str
    scopes: frozenset[str]
    secret_hash: bytes
    created_at: datetime
    expires_at: datetime | None

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"apiKeys/{self.id}"

    @property
    def identity(self) -> Identity:
        """Who a caller with this key is."""
        return Identity(self.tenant, self.principal, self.scopes)

    def admits(self, secret: str, now: datetime) -> bool:
        """Whether `secret` is this key's and the key has not expired; takes the same time for every wrong secret."""
        same = hmac.compare_digest(self.secret_hash, hash_secret(secret))
        return same and (self.expires_at is None or now < self.expires_at)


def new_secret(key_id: ApiKeyId) -> str:
    """A new secret: `mnemo_<id of the key, 32 hex digits>_<43 random characters>`."""
    return f"{_PREFIX}_{UUID(key_id).hex}_{secrets.token_urlsafe(32)}"


def key_id_of(secret: str) -> ApiKeyId | None:
    """The id in a secret, None if the text is no secret of ours."""
    prefix, _, rest = secret.partition("_")
    digits, _, random = rest.partition("_")
    if prefix != _PREFIX or len(digits) != 32 or not random:
        return None
    try:
        return ApiKeyId(str(UUID(hex=digits)))
    except ValueError:
        return None


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret. A fast hash is enough: the secret itself is random, not a password."""
    return hashlib.sha256(secret.encode()).digest()
