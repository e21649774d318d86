"""The services behind the gateway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from mnemocore.errors import MnemoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

_HEALTH_SECONDS: Final = 1.0


class ChannelBackends:
    """Implements `mnemo_gateway.domain.ports.Backends` on a channel for each proto package."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._channels = dict(channels)

    def channel(self, package: str) -> grpc.aio.Channel | None:
        """The channel to the service of a proto package, None if it is not behind this gateway."""
        return self._channels.get(package)

    async def readiness(self) -> dict[str, bool]:
        """Proto package of each service and whether it answers its health check."""
        ready = await asyncio.gather(*(_is_ready(channel) for channel in self._channels.values()))
        return dict(zip(self._channels, ready, strict=True))


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    try:
        response = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS
        )
    except MnemoError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
