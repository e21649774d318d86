"""A real event-bus behind a wire that can be cut, and the client's services on it, for any caller."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from mnemo_events.app import EventsApp
from mnemocore import calls
from mnemocore.client import BreakerRule, open_channel
from mnemocore.client.agents import Agents
from mnemocore.client.events import Events
from mnemocore.client.services import Services
from mnemocore.client.tasks import Tasks
from mnemocore.clock import SystemClock
from mnemocore.server import Host, InternalAuthenticator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_events.domain.ports import Engine
    from mnemocore.client.event_values import ConsumerGroup
    from mnemocore.clock import Clock
    from mnemocore.postgres import Database

TOKEN = "a token"
RULE = BreakerRule(threshold=1000)  # what the breaker does is not the point here


class Wire:
    """A TCP relay to an address. `cut` breaks what is under way, `down` refuses what comes, `up` lets it through."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._open = True
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""
        self.opened = 0
        self.refused = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def down(self) -> None:
        self._open = False
        await self.cut()

    def up(self) -> None:
        self._open = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            self.refused += 1
            writer.close()
            return
        self.opened += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(asyncio.CancelledError, OSError):
            there, back = await asyncio.open_connection(self._host, self._port)
            try:
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                back.transport.abort()
        writer.transport.abort()
        self._connections.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class _Caller:
    """Says who calls."""

    def __init__(self, tenant: str, principal: str, scopes: str) -> None:
        self._headers = [
            (calls.INTERNAL_TOKEN_HEADER, TOKEN),
            (calls.TENANT_HEADER, tenant),
            (calls.PRINCIPAL_HEADER, principal),
            (calls.SCOPES_HEADER, scopes),
        ]

    def metadata(self) -> list[tuple[str, str]]:
        return list(self._headers)


class EventHouse:
    """One event-bus on a database, and the client on it through `wire`."""

    def __init__(self, database: Database, stack: AsyncExitStack, engine: Engine | None) -> None:
        self.app = EventsApp(database, SystemClock(), engine=engine)
        self.host = Host(
            "events", self.app.services, authenticator=InternalAuthenticator(TOKEN), readiness=self.app.ready
        )
        self.wire = Wire("127.0.0.1:0")
        self._stack = stack

    async def start(self) -> None:
        await self.app.start()
        self._stack.push_async_callback(self.app.stop)
        addresses = await self.host.start(["127.0.0.1:0"])
        self._stack.push_async_callback(self.host.drain, 5)
        self._stack.callback(self.app.drain)
        self.wire = Wire(addresses[0])
        await self.wire.start()
        self._stack.push_async_callback(self.wire.stop)

    def services(
        self,
        *,
        tenant: str = "acme",
        principal: str = "ana",
        scopes: str = "events:admin",
        clock: Clock | None = None,
        breaker_rule: BreakerRule = RULE,
    ) -> Services:
        """The client's services for a caller."""
        channel = open_channel(self.wire.address, _Caller(tenant, principal, scopes), breaker_rule=breaker_rule)
        self._stack.push_async_callback(channel.close)
        return Services(channel, clock or SystemClock(), None)

    @property
    def events(self) -> Events:
        """The events of one who may do everything."""
        return Events(self.services())

    @property
    def agents(self) -> Agents:
        """The agents of one who may do everything."""
        return Agents(self.services())

    @property
    def tasks(self) -> Tasks:
        """The tasks of one who may do everything."""
        return Tasks(self.services())


@asynccontextmanager
async def event_house(database: Database, engine: Engine | None = None) -> AsyncIterator[EventHouse]:
    """A running event-bus, on an engine of its own or on the database."""
    async with AsyncExitStack() as stack:
        if engine is not None:
            stack.push_async_callback(engine.stop)
        house = EventHouse(database, stack, engine)
        await house.start()
        yield house


def settled(group: ConsumerGroup) -> bool:
    """Whether a group has nothing left to do."""
    return (group.lag, group.in_flight, group.waiting) == (0, 0, 0)
