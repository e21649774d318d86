"""What travels with a call: who calls, how much time is left, and which request it belongs to.

Servers set these variables around a handler; the client library reads them for every call the handler makes, so that
identity, remaining time and request id reach the next service without anybody passing them by hand.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnemocore.ids import Tenant

TENANT_HEADER: Final = "mnemo-tenant"
PRINCIPAL_HEADER: Final = "mnemo-principal"
SCOPES_HEADER: Final = "mnemo-scopes"
INTERNAL_TOKEN_HEADER: Final = "mnemo-internal-token"
REQUEST_ID_HEADER: Final = "x-request-id"
TRACEPARENT_HEADER: Final = "traceparent"
AUTHORIZATION_HEADER: Final = "authorization"

STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How much of a stream a receiver takes in before its reader asks for it: the flow-control window of HTTP/2.

It is fixed on both sides. gRPC would let it grow with the estimated bandwidth, without a bound, and a stream whose
reader has stopped would fill the memory of every process on its way.
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: the tenant whose data may be touched, the principal that is named in histories, and its scopes."""

    tenant: Tenant
    principal: str
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """Whether the scopes grant `scope`: by its name, by `{area}:admin` for the same area, or by `*`."""
        area = scope.partition(":")[0]
        return scope in self.scopes or "*" in self.scopes or (scope != "*" and f"{area}:admin" in self.scopes)


identity: ContextVar[Identity | None] = ContextVar("mnemo_identity", default=None)
"""The caller of the running handler; None outside of a call and in calls of no tenant."""

deadline: ContextVar[float | None] = ContextVar("mnemo_deadline", default=None)
"""When the running call must be answered, in seconds of `time.monotonic()`; None if it has no end."""


def caller() -> Identity:
    """The caller of the running handler. Raises UnauthenticatedError in a call of no tenant."""
    found = identity.get()
    if found is None:
        raise UnauthenticatedError
    return found


@contextmanager
def share_of_the_time(share: float) -> Iterator[None]:
    """Calls made inside have this part (0 to 1) of the time that is left; without a deadline all the time there is."""
    end = deadline.get()
    if end is None:
        yield
        return
    token = deadline.set(end - (1 - share) * (end - time.monotonic()))
    try:
        yield
    finally:
        deadline.reset(token)


request_id: ContextVar[str] = ContextVar("mnemo_request_id", default="")
"""The id that ties the log entries of one request together."""
