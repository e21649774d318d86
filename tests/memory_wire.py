"""Services of memory-core on a real server, called by whom a test names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from mnemocore import calls, status
from mnemocore.server import Host, InternalAuthenticator

if TYPE_CHECKING:
    from types import ModuleType

    from mnemocore.calls import Identity
    from mnemocore.server import Service

TOKEN: Final = "the token of this installation"
SECONDS: Final = 60.0


async def asked(send: Any, request: Any, caller: Identity) -> Any:
    """The answer to a call of a stub's method; a MnemoError as the client library would raise it."""
    metadata = [
        (calls.INTERNAL_TOKEN_HEADER, TOKEN),
        (calls.TENANT_HEADER, caller.tenant),
        (calls.PRINCIPAL_HEADER, caller.principal),
        (calls.SCOPES_HEADER, ",".join(caller.scopes)),
    ]
    try:
        return await send(request, metadata=metadata, timeout=SECONDS)
    except grpc.aio.AioRpcError as error:
        raise status.from_rpc_error(error, "memory") from None


class Wire:
    """One service behind a socket: `stub` is the class of its stubs, `messages` the module of its requests."""

    def __init__(self, service: Service, stub: Any, messages: ModuleType) -> None:
        self.host = Host("memory", [service], authenticator=InternalAuthenticator(TOKEN))
        self._stub_class = stub
        self._messages = messages

    async def start(self) -> None:
        """Serve."""
        (address,) = await self.host.start(["127.0.0.1:0"])
        self.channel = grpc.aio.insecure_channel(address)
        self._stub = self._stub_class(self.channel)

    async def stop(self) -> None:
        """Serve no more."""
        await self.channel.close()
        await self.host.drain(5)

    async def call(self, method: str, caller: Identity, **fields: Any) -> Any:
        """The answer to a method with the fields of its request."""
        return await asked(getattr(self._stub, method), getattr(self._messages, f"{method}Request")(**fields), caller)
