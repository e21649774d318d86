"""Who calls the gateway: an API key, or, where it is allowed, the local principal."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from mnemocore.calls import AUTHORIZATION_HEADER, Identity
from mnemocore.errors import UnauthenticatedError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemo_gateway.domain.keyring import Keyring
    from mnemocore.policy import MethodInfo

LOCAL_TENANT: Final = Tenant("local")
EVERYTHING: Final = frozenset({"*"})
_SCHEME: Final = "bearer "


class GatewayAuthenticator:
    """Implements the server kit's `Authenticator`.

    `admin_key` is a key that may do everything for the tenant `local`; empty: there is none. With `trust_local` a call
    without a credential is the local principal's: for a gateway that only this machine can reach.
    """

    def __init__(self, keyring: Keyring, admin_key: str, *, trust_local: bool) -> None:
        self._keyring = keyring
        self._admin_key = admin_key.encode()
        self._trust_local = trust_local

    async def authenticate(self, metadata: Mapping[str, str], method: MethodInfo, peer: str) -> Identity | None:
        """The caller. Raises UnauthenticatedError."""
        header = metadata.get(AUTHORIZATION_HEADER, "")
        if not header:
            if self._trust_local:
                return Identity(LOCAL_TENANT, "local", EVERYTHING)
            raise UnauthenticatedError
        if not header.lower().startswith(_SCHEME):
            raise UnauthenticatedError
        secret = header[len(_SCHEME) :].strip()
        if self._admin_key and hmac.compare_digest(secret.encode(), self._admin_key):
            return Identity(LOCAL_TENANT, "admin", EVERYTHING)
        return await self._keyring.identify(secret)
