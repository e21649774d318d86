"""A running event-bus without a network between, and its stubs in the name of any caller."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mnemo_events.app import EventsApp
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import (
    access_service_pb2_grpc,
    event_service_pb2_grpc,
    group_service_pb2_grpc,
    resources_pb2,
    schema_service_pb2_grpc,
)
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.status import from_rpc_error
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mnemocore.clock import Clock
    from mnemocore.errors import MnemoError
    from mnemocore.postgres import Database

TOKEN = "a token"
SECONDS = 60.0


class Caller:
    """The stubs of one caller; of a service of the installation without a tenant."""

    def __init__(self, host: Host, tenant: str, principal: str, scopes: str) -> None:
        metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
        if tenant:
            metadata += [
                (calls.TENANT_HEADER, tenant),
                (calls.PRINCIPAL_HEADER, principal),
                (calls.SCOPES_HEADER, scopes),
            ]
        channel = host.channel(metadata)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self.access: Any = access_service_pb2_grpc.AccessServiceStub(channel)
        self.groups: Any = group_service_pb2_grpc.GroupServiceStub(channel)
        self.schemas: Any = schema_service_pb2_grpc.SchemaServiceStub(channel)


class EventCallers:
    """An event-bus on a database."""

    def __init__(self, database: Database, clock: Clock, poll_seconds: float) -> None:
        self.app = EventsApp(database, clock, poll_seconds)
        self.host = Host("events", self.app.services, authenticator=InternalAuthenticator(TOKEN))

    def caller(self, principal: str = "", tenant: str = "acme", scopes: str = "events:write,events:read") -> Caller:
        """Somebody of a tenant."""
        return Caller(self.host, tenant, principal, scopes)

    @property
    def admin(self) -> Caller:
        """Who may do everything in acme."""
        return self.caller("root", scopes="events:admin")

    @property
    def service(self) -> Caller:
        """A service of the installation."""
        return self.caller(tenant="")


@asynccontextmanager
async def event_callers(
    database: Database, *, clock: Clock | None = None, poll_seconds: float = 60.0
) -> AsyncIterator[EventCallers]:
    """A running event-bus; news of other replicas that are lost are looked for after `poll_seconds`."""
    bus = EventCallers(database, clock or SystemClock(), poll_seconds)
    await bus.app.start()
    yield bus
    bus.app.drain()
    await bus.app.stop()


@contextmanager
def refused(kind: type[MnemoError], *parts: str) -> Iterator[pytest.ExceptionInfo[grpc.aio.AioRpcError]]:
    """A call inside fails with an error of this kind, whose text has all the parts."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    error = from_rpc_error(caught.value, "event-bus")
    assert type(error) is kind, error
    for part in parts:
        assert part in str(error)


def event(id: str, type: str = "orders.created", **attributes: Any) -> resources_pb2.Event:
    """An event of a client."""
    found = resources_pb2.Event(id=id, type=type, **attributes)
    if not found.HasField("time"):
        found.time.CopyFrom(to_timestamp(SystemClock().now()))
    return found
