"""The composition root of memory-core."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mnemo_memory.api.memory_service import MemoryServicer
from mnemo_memory.api.space_service import SpaceServicer
from mnemo_memory.clients.event_log_client import EventLogClient
from mnemo_memory.clients.index_client import IndexClient
from mnemo_memory.domain.memories import Memories
from mnemo_memory.domain.recall import Recall
from mnemo_memory.domain.relay import Relay
from mnemo_memory.domain.spaces import Spaces
from mnemo_memory.storage.postgres_store import REQUEST_LIFE_HOURS, PostgresStore
from mnemocore.memory.v1 import memory_service_pb2_grpc, space_service_pb2_grpc
from mnemocore.postgres import migrate
from mnemocore.server import BackgroundTask, Service
from mnemocore.telemetry import gauge

if TYPE_CHECKING:
    import grpc

    from mnemocore.clock import Clock
    from mnemocore.postgres import Database, DiskReserve

_CLEANING_SECONDS: Final = 3600.0


class MemoryApp:
    """memory-core on a database, with channels to the index and the event-bus.

    `reserve` watches the disk of a database on this machine.
    """

    name = "memory"

    def __init__(
        self,
        database: Database,
        index_channel: grpc.aio.Channel,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        relay_poll_seconds: float = 1.0,
        reserve: DiskReserve | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._store = PostgresStore(database)
        relay = Relay(
            self._store, EventLogClient(events_channel), clock, relay_poll_seconds, gauge("mnemo.relay.lag").set
        )
        memories = Memories(self._store, clock, relay.wake, reserve.check if reserve else _always_room)
        recall = Recall(self._store, IndexClient(index_channel), clock)
        self._tasks = [BackgroundTask("relay", relay.run), BackgroundTask("request records", self._clean)]
        if reserve:
            self._tasks.append(BackgroundTask("disk reserve", reserve.watch))
        self.services = [
            Service(
                MemoryServicer(memories, recall),
                memory_service_pb2_grpc.add_MemoryServiceServicer_to_server,
                "mnemocore.memory.v1.MemoryService",
            ),
            Service(
                SpaceServicer(Spaces(self._store, clock), relay.wake),
                space_service_pb2_grpc.add_SpaceServiceServicer_to_server,
                "mnemocore.memory.v1.SpaceService",
            ),
        ]

    async def start(self) -> None:
        """Migrate the database and start the relay."""
        await migrate(self._database, "mnemo_memory.storage.migrations", schema="memory")
        await self._store.open()
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """Stop the relay. What is not published yet is published after the next start."""
        for task in reversed(self._tasks):
            await task.stop()

    async def ready(self) -> bool:
        """Whether the store answers."""
        return await self._database.ready()

    async def _clean(self) -> None:
        while True:
            await self._store.forget_old_requests(self._clock.now() - timedelta(hours=REQUEST_LIFE_HOURS))
            await self._clock.sleep(_CLEANING_SECONDS)


def _always_room() -> None:
    """The disk of a database elsewhere is not ours to watch."""
