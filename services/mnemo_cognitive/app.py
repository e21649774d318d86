"""The composition root of cognitive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mnemo_cognitive.api.cognition_service import CognitionServicer
from mnemo_cognitive.clients.index_client import IndexClient
from mnemo_cognitive.clients.memory_client import MemoryClient
from mnemo_cognitive.domain.jobs import Jobs, Worker
from mnemo_cognitive.storage.postgres_jobs import PostgresJobs
from mnemocore.cognitive.v1 import cognition_service_pb2_grpc
from mnemocore.postgres import migrate
from mnemocore.server import BackgroundTask, Service

if TYPE_CHECKING:
    import grpc

    from mnemocore.clock import Clock
    from mnemocore.postgres import Database


class CognitiveApp:
    """cognitive on a database, with channels to memory-core and the index."""

    name = "cognitive"

    def __init__(
        self,
        database: Database,
        memory_channel: grpc.aio.Channel,
        index_channel: grpc.aio.Channel,
        clock: Clock,
        job_poll_seconds: float = 1.0,
    ) -> None:
        self._database = database
        store, memories, wake = PostgresJobs(database), MemoryClient(memory_channel), asyncio.Event()
        jobs = Jobs(store, memories, clock, wake)
        worker = Worker(store, memories, IndexClient(index_channel), clock, wake, job_poll_seconds)
        self._worker = BackgroundTask("jobs", worker.run)
        self.services = [
            Service(
                CognitionServicer(jobs),
                cognition_service_pb2_grpc.add_CognitionServiceServicer_to_server,
                "mnemocore.cognitive.v1.CognitionService",
            )
        ]

    async def start(self) -> None:
        """Migrate the database and start the worker."""
        await migrate(self._database, "mnemo_cognitive.storage.migrations", schema="cognitive")
        await self._worker.start()

    async def stop(self) -> None:
        """Stop the worker. A job it was at is taken up again when its lease ends."""
        await self._worker.stop()

    async def ready(self) -> bool:
        """Whether the store answers."""
        return await self._database.ready()
