"""The index as a process: `python -m mnemo_index`, set up by `MNEMO_INDEX_*`."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from mnemo_index.app import IndexApp
from mnemo_index.settings import PREFIX, IndexSettings, encoder_of, milvus_of, share_of
from mnemocore.client import BreakerRule, InternalCredentials, open_channel
from mnemocore.clock import SystemClock
from mnemocore.server.main import run

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


async def assemble(settings: IndexSettings, resources: AsyncExitStack) -> IndexApp:
    """The index in its folder, with a channel to the event-bus."""
    credentials = InternalCredentials(settings.internal_token)
    rule = BreakerRule(reset=settings.breaker_reset_seconds)
    events = await resources.enter_async_context(open_channel(settings.events_target, credentials, breaker_rule=rule))
    return await IndexApp.open(
        settings.data_dir,
        events,
        SystemClock(),
        settings.search_threads,
        settings.save_seconds,
        settings.memory_budget_mib << 20,
        share_of(settings),
        milvus=milvus_of(settings),
        choice=encoder_of(settings),
        language=settings.language,
        keep_replaced=timedelta(hours=settings.keep_replaced_hours),
    )


if __name__ == "__main__":
    sys.exit(run(IndexSettings, PREFIX, assemble))
