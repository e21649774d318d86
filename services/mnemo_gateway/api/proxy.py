"""The proxy: every public method of the services behind the gateway, by its own name, as bytes.

The stages of the server have checked credential and scope before a call gets here. The channel to the service adds the
caller's identity and what is left of the deadline. Nothing is declared again: the shape of a method comes from its
descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from mnemocore.policy import method_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mnemocore.policy import MethodInfo


class Proxy(grpc.GenericRpcHandler):
    """Answers for the services behind the gateway. `channel_of` knows the channel of a proto package, None if none."""

    def __init__(self, channel_of: Callable[[str], grpc.aio.Channel | None]) -> None:
        self._channel_of = channel_of

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, None if it is not public or its service is not behind this gateway."""
        method = method_info(handler_call_details.method)
        if method is None or not method.public:
            return None
        package = method.path[1:].rpartition("/")[0].rpartition(".")[0]
        channel = self._channel_of(package)
        return None if channel is None else _handler(method, channel)


def _handler(method: MethodInfo, channel: grpc.aio.Channel) -> grpc.RpcMethodHandler[Any, Any]:
    if method.unary:
        return grpc.unary_unary_rpc_method_handler(_unary(method, channel))
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream(method, channel))
    raise TypeError(f"{method.path}: only unary methods and streams in both directions are proxied")


def _unary(method: MethodInfo, channel: grpc.aio.Channel) -> Any:
    call: Any = channel.unary_unary(method.path)

    async def forward(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        response: bytes = await call(request)
        return response

    return forward


def _stream(method: MethodInfo, channel: grpc.aio.Channel) -> Any:
    open_call: Any = channel.stream_stream(method.path)

    async def forward(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        call = open_call(requests)
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    return forward
