"""The event-bus in this process, for tests of those who publish to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mnemo_events.app import EventsApp
from mnemo_events.domain.filter import Filter
from mnemo_events.storage.postgres_log import PostgresLog
from mnemo_memory.clients.event_log_client import EventLogClient
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.server import Host, InternalAuthenticator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_events.domain.event import Event
    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Vault
    from mnemocore.ids import SpaceUid
    from mnemocore.postgres import Database

TOKEN = "a token"


class EventBus:
    """event-bus on a database, its log, and memory-core's client of it."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self.app = EventsApp(database, SystemClock())
        self._log = PostgresLog(database)
        self._host = Host("events", self.app.services, authenticator=InternalAuthenticator(TOKEN))
        self.client = EventLogClient(
            ResilientChannel(self._host.channel(), "events", credentials=InternalCredentials(TOKEN)), vault
        )

    async def events(self) -> list[Event]:
        """The whole log."""
        found: list[Event] = []
        after, head = 0, 1
        while after < head:
            page = await self._log.read(after, Filter(), 1000)
            found += [stored.event for stored in page.events]
            after, head = page.resume, page.head
        return found

    async def of(self, space: Space | SpaceUid) -> list[Event]:
        """The events of a space in the order of the log."""
        uid = space if isinstance(space, str) else space.uid
        return [event for event in await self.events() if event.space_uid == uid]


@asynccontextmanager
async def started(database: Database, vault: Vault) -> AsyncIterator[EventBus]:
    """A running event-bus."""
    bus = EventBus(database, vault)
    await bus.app.start()
    yield bus
    await bus.app.stop()
