"""The log and the groups in one PostgreSQL database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mnemo_events.storage.postgres_groups import GROUPS_CHANNEL, PostgresGroups
from mnemo_events.storage.postgres_log import CHANNEL, PostgresLog
from mnemocore.postgres import Listener, migrate

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemocore.postgres import Database


class PostgresEngine:
    """Implements `mnemo_events.domain.ports.Engine`. The database is closed by whoever opened it."""

    def __init__(self, database: Database) -> None:
        self.log = PostgresLog(database)
        self.groups = PostgresGroups(database)
        self._database = database

    async def start(self) -> None:
        """Bring the tables to this version. That the database is durable was seen to when it was opened."""
        await migrate(self._database, "mnemo_events.storage.migrations", schema="events")

    async def listen(
        self, log_grew: Callable[[int | None], None], groups_changed: Callable[[str | None], None]
    ) -> None:
        """Listen on both channels, each again whenever its connection breaks."""

        def hear(head: str | None) -> None:
            log_grew(None if head is None else int(head))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Listener(self._database, CHANNEL, hear).run())
            tasks.create_task(Listener(self._database, GROUPS_CHANNEL, groups_changed).run())

    async def ready(self) -> bool:
        """Whether the database answers."""
        return await self._database.ready()

    async def stop(self) -> None:
        """Nothing is left to let go of."""
