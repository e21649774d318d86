"""The identity stage: who calls, and whether the method is theirs to call."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Protocol

from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.errors import MethodNotFoundError, PermissionDeniedError, UnauthenticatedError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemocore.policy import MethodInfo
    from mnemocore.server.chain import Proceed, ServerCall


class Authenticator(Protocol):
    """Turns the headers of a call into an identity."""

    async def authenticate(self, metadata: Mapping[str, str], method: MethodInfo, peer: str) -> Identity | None:
        """The caller; None if the credential is good and names no tenant. Raises UnauthenticatedError if it is not."""
        ...


class InternalAuthenticator:
    """Trusts the services of one installation: whoever knows the token may say for whom it calls."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("the internal token is empty; it must have at least one character")
        self._token = token.encode()

    async def authenticate(self, metadata: Mapping[str, str], method: MethodInfo, peer: str) -> Identity | None:
        """The identity in the internal headers. Some methods may be called for no tenant."""
        given = metadata.get(calls.INTERNAL_TOKEN_HEADER, "").encode()
        if not hmac.compare_digest(given, self._token):
            raise UnauthenticatedError(f"the header {calls.INTERNAL_TOKEN_HEADER} is missing or wrong")
        tenant = metadata.get(calls.TENANT_HEADER, "")
        if not tenant:
            return None
        scopes = metadata.get(calls.SCOPES_HEADER, "").split(",")
        return Identity(
            tenant=Tenant(tenant),
            principal=metadata.get(calls.PRINCIPAL_HEADER, ""),
            scopes=frozenset(scope.strip() for scope in scopes if scope.strip()),
        )


class IdentityStage:
    """Authenticates the caller, checks the method's scope, sets `calls.identity`.

    With `public_only` INTERNAL methods are answered as if they did not exist, and nobody calls for no tenant: what is
    passed on without one would be believed to come from the installation itself.
    """

    name = "identity"

    def __init__(self, authenticator: Authenticator, *, public_only: bool) -> None:
        self._authenticator = authenticator
        self._public_only = public_only

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Run the call for its caller."""
        info = call.info
        if info is None or (self._public_only and not info.public):
            raise MethodNotFoundError(method=call.path)
        identity = await self._authenticator.authenticate(call.metadata, info, call.context.peer())
        tenantless = identity is None and info.without_tenant and not self._public_only
        if not (tenantless or (identity and identity.tenant)):
            raise UnauthenticatedError(f"the call names no tenant; the header {calls.TENANT_HEADER} is required")
        if identity is not None and info.public and not identity.allows(info.scope):
            raise PermissionDeniedError(scope=info.scope)
        call.identity = identity
        calls.identity.set(identity)
        return await proceed(call)
