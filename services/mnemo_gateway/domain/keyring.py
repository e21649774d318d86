"""Issuing, checking and revoking API keys."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from mnemo_gateway.domain.api_key import SCOPES, ApiKey, hash_secret, key_id_of, new_secret
from mnemocore import paging
from mnemocore.errors import (
    ApiKeyNotFoundError,
    InvalidFieldError,
    PermissionDeniedError,
    UnauthenticatedError,
    Violation,
)
from mnemocore.ids import ApiKeyId, Tenant, new_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mnemo_gateway.domain.ports import KeyStore
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

CACHE_SECONDS: Final = 5.0
CACHE_KEYS: Final = 10_000


class Keyring:
    """The API keys of an installation. A key found is trusted for 5 seconds before the store is asked again."""

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cache: OrderedDict[ApiKeyId, tuple[float, ApiKey]] = OrderedDict()
        self._revocations = 0

    async def identify(self, secret: str) -> Identity:
        """Who holds `secret`. Raises UnauthenticatedError."""
        key_id = key_id_of(secret)
        key = await self._find(key_id) if key_id else None
        if key is None or not key.admits(secret, self._clock.now()):
            raise UnauthenticatedError("the API key is unknown, expired or revoked")
        return key.identity

    async def create(
        self, caller: Identity, tenant: str, principal: str, scopes: Sequence[str], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """Issue a key; returns it and its secret.

        Raises InvalidFieldError for an unknown scope or a past end, PermissionDeniedError for more than the caller has.
        """
        now = self._clock.now()
        _check(scopes, expires_at, now)
        owner = Tenant(tenant) if tenant else caller.tenant
        for scope in scopes:
            if not caller.allows(scope):
                raise PermissionDeniedError(scope=scope)
        if owner != caller.tenant and not self._installation_wide(caller):
            raise PermissionDeniedError("a key of another tenant needs the scope *", scope="*")
        key_id = ApiKeyId(new_uuid(now))
        secret = new_secret(key_id)
        key = ApiKey(key_id, owner, principal, frozenset(scopes), hash_secret(secret), now, expires_at)
        await self._store.add(key)
        return key, secret

    async def list(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[ApiKey], str]:
        """One page of the keys the caller may see, by creation, and the token of the next page."""
        tenant = None if self._installation_wide(caller) else caller.tenant
        query = ["api_keys", tenant]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        keys = await self._store.list(tenant, ApiKeyId(position[0]) if position else None, size + 1)
        page, more = keys[:size], len(keys) > size
        return page, paging.encode(query, [page[-1].id]) if more else ""

    async def revoke(self, caller: Identity, key_id: ApiKeyId) -> None:
        """End a key: at once here, within 5 seconds in other gateways. Raises ApiKeyNotFoundError."""
        tenant = None if self._installation_wide(caller) else caller.tenant
        if not await self._store.revoke(tenant, key_id, self._clock.now()):
            raise ApiKeyNotFoundError(api_key=f"apiKeys/{key_id}")
        self._revocations += 1
        self._cache.pop(key_id, None)

    @staticmethod
    def _installation_wide(caller: Identity) -> bool:
        return "*" in caller.scopes

    async def _find(self, key_id: ApiKeyId) -> ApiKey | None:
        now = self._clock.monotonic()
        cached = self._cache.get(key_id)
        if cached and now - cached[0] < CACHE_SECONDS:
            return cached[1]
        revocations = self._revocations
        key = await self._store.find(key_id)
        if key is None:
            self._cache.pop(key_id, None)
        elif revocations == self._revocations:  # else it may have been read before it was revoked
            self._cache[key_id] = (now, key)
            if len(self._cache) > CACHE_KEYS:
                self._cache.popitem(last=False)
        return key


def _check(scopes: Sequence[str], expires_at: datetime | None, now: datetime) -> None:
    broken = [
        Violation(f"scopes[{place}]", f"{scope!r}; allowed are {', '.join(sorted(SCOPES))}")
        for place, scope in enumerate(scopes)
        if scope not in SCOPES
    ]
    if expires_at is not None and expires_at <= now:
        broken.append(Violation("expire_time", f"{expires_at.isoformat()}; a time in the future is required"))
    if broken:
        raise InvalidFieldError.of(broken)
