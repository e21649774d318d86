"""What the gateway needs from others: a store of API keys, and the services behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from mnemo_gateway.domain.api_key import ApiKey
    from mnemocore.ids import ApiKeyId, Tenant


class KeyStore(Protocol):
    """Keeps API keys."""

    async def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        ...

    async def find(self, key_id: ApiKeyId) -> ApiKey | None:
        """A key of any tenant that was not revoked, None if there is none."""
        ...

    async def list(self, tenant: Tenant | None, after: ApiKeyId | None, limit: int) -> list[ApiKey]:
        """Keys by creation, after `after`; of one tenant, or of all if `tenant` is None."""
        ...

    async def revoke(self, tenant: Tenant | None, key_id: ApiKeyId, now: datetime) -> bool:
        """End a key; False if there is none. Revoking a revoked key succeeds."""
        ...


class Backends(Protocol):
    """The services behind the gateway."""

    async def readiness(self) -> dict[str, bool]:
        """Proto package of each service and whether it answers its health check."""
        ...
