"""event-bus as a process: `python -m mnemo_events`, set up by `MNEMO_EVENTS_*`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnemo_events.app import EventsApp, open_engine
from mnemo_events.settings import PREFIX, EventsSettings
from mnemocore.clock import SystemClock
from mnemocore.postgres import Database
from mnemocore.server.main import run

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


async def assemble(settings: EventsSettings, resources: AsyncExitStack) -> EventsApp:
    """event-bus on its database and the engine of its log."""
    database = await Database.open(settings.database_url, max_size=settings.pool_size, application_name="mnemo-events")
    resources.push_async_callback(database.close)
    engine = open_engine(settings.log_url, database)
    resources.push_async_callback(engine.stop)
    return EventsApp.of(settings, database, SystemClock(), engine)


if __name__ == "__main__":
    sys.exit(run(EventsSettings, PREFIX, assemble))
