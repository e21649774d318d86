"""cognitive as a process: `python -m mnemo_cognitive`, set up by `MNEMO_COGNITIVE_*`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnemo_cognitive.app import CognitiveApp
from mnemo_cognitive.settings import PREFIX, CognitiveSettings
from mnemocore.client import BreakerRule, InternalCredentials, open_channel, open_shared_channel
from mnemocore.clock import SystemClock
from mnemocore.postgres import Database
from mnemocore.server.main import run

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


async def assemble(settings: CognitiveSettings, resources: AsyncExitStack) -> CognitiveApp:
    """cognitive on its database, with channels to its peers."""
    database = await Database.open(
        settings.database_url, max_size=settings.pool_size, application_name="mnemo-cognitive"
    )
    resources.push_async_callback(database.close)
    credentials = InternalCredentials(settings.internal_token)
    rule = BreakerRule(reset=settings.breaker_reset_seconds)
    memory = await resources.enter_async_context(open_channel(settings.memory_target, credentials, breaker_rule=rule))
    index = await resources.enter_async_context(
        open_shared_channel(settings.index_target, credentials, breaker_rule=rule)
    )
    return CognitiveApp(database, memory, index, SystemClock(), settings.job_poll_seconds)


if __name__ == "__main__":
    sys.exit(run(CognitiveSettings, PREFIX, assemble))
