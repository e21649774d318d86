"""The gateway as a process: `python -m mnemo_gateway`, set up by `MNEMO_GATEWAY_*`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnemo_gateway.app import GatewayApp
from mnemo_gateway.settings import PREFIX, GatewaySettings
from mnemocore.client import BreakerRule, InternalCredentials, open_shared_channel
from mnemocore.clock import SystemClock
from mnemocore.postgres import Database
from mnemocore.server.main import run

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from mnemocore.server import Host


async def assemble(settings: GatewaySettings, resources: AsyncExitStack) -> GatewayApp:
    """The gateway on its database, with a channel to every service."""
    database = await Database.open(settings.database_url, max_size=settings.pool_size, application_name="mnemo-gateway")
    resources.push_async_callback(database.close)
    credentials = InternalCredentials(settings.internal_token)
    rule = BreakerRule(reset=settings.breaker_reset_seconds)
    targets = {
        "memory": settings.memory_target,
        "index": settings.index_target,
        "cognitive": settings.cognitive_target,
        "events": settings.events_target,
    }
    channels = {
        f"mnemocore.{name}.v1": await resources.enter_async_context(
            open_shared_channel(target, credentials, breaker_rule=rule)
        )
        for name, target in targets.items()
    }
    return GatewayApp(database, channels, SystemClock(), settings.admin_key, max_streams=settings.max_streams)


def make_host(app: GatewayApp, settings: GatewaySettings) -> Host:
    """The host clients speak to."""
    return app.host()


if __name__ == "__main__":
    sys.exit(run(GatewaySettings, PREFIX, assemble, make_host))
