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
from mnemocore.server import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    from mnemocore.clock import Clock
    from mnemocore.postgres import Database


class GatewayApp:
    """The gateway on a database, with a channel to each service by its proto package.

    `authenticator` and `proxy` are for the server that hosts it. `trust_local` is for a gateway that only this machine
    can reach.
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
    ) -> None:
        self._database = database
        backends = ChannelBackends(channels)
        keyring = Keyring(PostgresKeys(database), clock)
        self.authenticator = GatewayAuthenticator(keyring, admin_key, trust_local=trust_local)
        self.proxy = Proxy(backends.channel)
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

    async def stop(self) -> None:
        """There is nothing to stop: the gateway holds no state."""

    async def ready(self) -> bool:
        """Whether the store of API keys answers."""
        return await self._database.ready()
