"""The composition root of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_gateway.api.authentication import GatewayAuthenticator
from mnemo_gateway.api.gateway_service import GatewayServicer
from mnemo_gateway.api.proxy import Proxy
from mnemo_gateway.clients.backends import ChannelBackends
from mnemo_gateway.domain.keyring import Keyring
from mnemo_gateway.storage.postgres_keys import PostgresKeys
from mnemocore.gateway.v1 import gateway_service_pb2_grpc
from mnemocore.postgres import migrate
from mnemocore.server import MAX_STREAMS, AdmissionLimits, Host, Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    from mnemocore.clock import Clock
    from mnemocore.postgres import Database


class GatewayApp:
    """The gateway on a database, with a channel to each service by its proto package.

    `trust_local` is for a gateway that only this machine can reach: without a credential a call is the
    local principal's. `max_streams` are open at once at most, over all callers.
    """

    name = "gateway"

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, grpc.aio.Channel],
        clock: Clock,
        admin_key: str = "",
        *,
        trust_local: bool = False,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._database = database
        backends = ChannelBackends(channels)
        keyring = Keyring(PostgresKeys(database), clock)
        self._clock = clock
        self._limits = AdmissionLimits(stream_running=max_streams)
        self._authenticator = GatewayAuthenticator(keyring, admin_key, trust_local=trust_local)
        self._proxy = Proxy(backends.channel)
        self.services = [
            Service(
                GatewayServicer(keyring, backends),
                gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server,
                "mnemocore.gateway.v1.GatewayService",
            )
        ]

    async def start(self) -> None:
        """Migrate the database."""
        await migrate(self._database, "mnemo_gateway.storage.migrations", schema="gateway")

    def host(self) -> Host:
        """The host that clients speak to: the public methods of all services, nothing else."""
        return Host(
            self.name,
            self.services,
            authenticator=self._authenticator,
            limits=self._limits,
            clock=self._clock,
            public_only=True,
            extra_handlers=[self._proxy],
            reflected=self._proxy.service_names,
            readiness=self.ready,
        )

    def drain(self) -> None:
        """End the streams that are proxied; their clients go on at another replica, or here after the restart."""
        self._proxy.drain()

    async def stop(self) -> None:
        """There is nothing to stop: the gateway holds no state."""

    async def ready(self) -> bool:
        """Whether the store of API keys answers."""
        return await self._database.ready()
