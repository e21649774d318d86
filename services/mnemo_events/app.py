"""The composition root of event-bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.api.event_service import EventServicer
from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.subscription import Subscriptions
from mnemo_events.storage.postgres_log import CHANNEL, PostgresLog
from mnemocore.events.v1 import event_service_pb2_grpc
from mnemocore.postgres import Listener, migrate
from mnemocore.server import BackgroundTask, Service

if TYPE_CHECKING:
    from mnemocore.clock import Clock
    from mnemocore.postgres import Database


class EventsApp:
    """event-bus on a database."""

    name = "events"

    def __init__(self, database: Database, clock: Clock, poll_seconds: float = 5.0) -> None:
        self._database = database
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._arrivals = Arrivals()
        log = PostgresLog(database)
        self._subscriptions = Subscriptions(log, self._arrivals, clock)
        self._tasks = (
            BackgroundTask("news of other replicas", Listener(database, CHANNEL, self._hear).run),
            BackgroundTask("look for missed news", self._poll),
        )
        self.services = [
            Service(
                EventServicer(log, Publisher(log, self._arrivals, clock), self._subscriptions),
                event_service_pb2_grpc.add_EventServiceServicer_to_server,
                "mnemocore.events.v1.EventService",
            )
        ]

    async def start(self) -> None:
        """Migrate the database and listen for what other replicas append."""
        await migrate(self._database, "mnemo_events.storage.migrations", schema="events")
        for task in self._tasks:
            await task.start()

    def drain(self) -> None:
        """End the streams of all subscribers; they go on at another replica, or here after the restart."""
        self._subscriptions.drain()

    async def stop(self) -> None:
        """End the streams that are left, and stop listening."""
        self.drain()
        for task in reversed(self._tasks):
            await task.stop()

    async def ready(self) -> bool:
        """Whether the store answers."""
        return await self._database.ready()

    def _hear(self, head: str | None) -> None:
        if head is None:
            self._arrivals.look_again()
        else:
            self._arrivals.advance(int(head))

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(self._poll_seconds)
            self._arrivals.look_again()
