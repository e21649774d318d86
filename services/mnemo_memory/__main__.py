"""memory-core as a process: `python -m mnemo_memory`, set up by `MNEMO_MEMORY_*`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnemo_memory.app import MemoryApp
from mnemo_memory.settings import PREFIX, MemorySettings
from mnemocore import master_keys
from mnemocore.client import BreakerRule, InternalCredentials, open_channel, open_shared_channel
from mnemocore.clock import SystemClock
from mnemocore.postgres import Database, DiskReserve
from mnemocore.server.main import run

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


async def assemble(settings: MemorySettings, resources: AsyncExitStack) -> MemoryApp:
    """memory-core on its database, with channels to its peers."""
    database = await Database.open(settings.database_url, max_size=settings.pool_size, application_name="mnemo-memory")
    resources.push_async_callback(database.close)
    credentials = InternalCredentials(settings.internal_token)
    rule = BreakerRule(reset=settings.breaker_reset_seconds)
    index = await resources.enter_async_context(
        open_shared_channel(settings.index_target, credentials, breaker_rule=rule)
    )
    events = await resources.enter_async_context(open_channel(settings.events_target, credentials, breaker_rule=rule))
    clock = SystemClock()
    reserve = DiskReserve(Path(settings.store_folder), clock) if settings.store_folder else None
    return MemoryApp(
        database,
        index,
        events,
        clock,
        settings.relay_poll_seconds,
        reserve,
        master_keys.source(settings.master_keys, settings.master_keys_file),
        settings.consolidation_seconds,
        settings.index_check_seconds,
    )


if __name__ == "__main__":
    sys.exit(run(MemorySettings, PREFIX, assemble))
