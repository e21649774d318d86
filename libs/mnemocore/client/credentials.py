"""Who a channel says it is: the headers that prove it, asked for anew for every call."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mnemocore import calls

if TYPE_CHECKING:
    from collections.abc import Iterator


class Credentials(Protocol):
    """What a channel asks before each call."""

    def metadata(self) -> list[tuple[str, str]]:
        """The headers to send; called in the context of the caller."""
        ...


class NoCredentials:
    """Sends nothing."""

    def metadata(self) -> list[tuple[str, str]]:
        """No headers."""
        return []


class ApiKeyCredentials:
    """Sends an API key."""

    def __init__(self, key: str) -> None:
        self._headers = [(calls.AUTHORIZATION_HEADER, f"Bearer {key}")]

    def metadata(self) -> list[tuple[str, str]]:
        """The header `authorization`."""
        return list(self._headers)


class InternalCredentials:
    """Sends the token of the installation and the identity of the caller on whose behalf the service acts."""

    def __init__(self, token: str) -> None:
        self._token = token

    def metadata(self) -> list[tuple[str, str]]:
        """The token, and the tenant, principal and scopes of `calls.identity`; without identity the token alone."""
        headers = [(calls.INTERNAL_TOKEN_HEADER, self._token)]
        identity = calls.identity.get()
        if identity is not None:
            headers += [
                (calls.TENANT_HEADER, identity.tenant),
                (calls.PRINCIPAL_HEADER, identity.principal),
                (calls.SCOPES_HEADER, ",".join(sorted(identity.scopes))),
            ]
        return headers


@contextmanager
def as_identity(identity: calls.Identity) -> Iterator[None]:
    """Make the calls inside the block on behalf of `identity`: for background tasks that belong to no request."""
    token = calls.identity.set(identity)
    try:
        yield
    finally:
        calls.identity.reset(token)
