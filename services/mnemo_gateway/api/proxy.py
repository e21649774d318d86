"""The proxy: every public method of the services behind the gateway, by its own name, as bytes.

The stages of the server have checked credential and scope before a call gets here. The channel to the service adds the
caller's identity and what is left of the deadline. Nothing is declared again: the shape of a method comes from its
descriptor.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from mnemocore.errors import MnemoError, ShuttingDownError
from mnemocore.policy import all_methods, method_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mnemocore.policy import MethodInfo

RETRY_SECONDS: Final = 1.0
"""What the client of a stream that is ended by a shutdown is told to wait."""


class Proxy(grpc.GenericRpcHandler):
    """Answers for the services behind the gateway. `channel_of` knows the channel of a proto package, None if none."""

    def __init__(self, channel_of: Callable[[str], grpc.aio.Channel | None]) -> None:
        self._channel_of = channel_of
        self._streams: set[Any] = set()
        self._draining = False

    @property
    def service_names(self) -> list[str]:
        """Full names of the services with public methods behind this gateway."""
        names = {_service(method) for method in all_methods() if method.public}
        return sorted(name for name in names if self._channel_of(_package(name)) is not None)

    def drain(self) -> None:
        """End the streams in both directions with ShuttingDownError and take no more; what they acknowledged is kept.

        Uploads and downloads end by themselves: they have the time that the host gives to calls under way.
        """
        self._draining = True
        for stream in self._streams:
            stream.cancel()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, None if it is not public or its service is not behind this gateway."""
        method = method_info(handler_call_details.method)
        if method is None or not method.public:
            return None
        channel = self._channel_of(_package(_service(method)))
        return None if channel is None else self._handler(method, channel)

    def _handler(self, method: MethodInfo, channel: grpc.aio.Channel) -> grpc.RpcMethodHandler[Any, Any]:
        if method.unary:
            return grpc.unary_unary_rpc_method_handler(_unary(method, channel))
        if not method.server_streaming:
            return grpc.stream_unary_rpc_method_handler(_upload(method, channel))
        if not method.client_streaming:
            return grpc.unary_stream_rpc_method_handler(_download(method, channel))
        return grpc.stream_stream_rpc_method_handler(self._stream(method, channel))

    def _stream(self, method: MethodInfo, channel: grpc.aio.Channel) -> Any:
        open_call: Any = channel.stream_stream(method.path)

        async def forward(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
        ) -> AsyncIterator[bytes]:
            if self._draining:
                raise ShuttingDownError(retry_after=RETRY_SECONDS)
            call = open_call(requests, timeout=context.time_remaining())
            self._streams.add(call)
            try:
                async for response in call:
                    yield response
            except (MnemoError, asyncio.CancelledError):
                if self._draining:
                    raise ShuttingDownError(retry_after=RETRY_SECONDS) from None
                raise
            finally:
                self._streams.discard(call)
                call.cancel()

        return forward


def _service(method: MethodInfo) -> str:
    """The full name of a method's service."""
    return method.path[1:].rpartition("/")[0]


def _package(service: str) -> str:
    """The proto package of a service."""
    return service.rpartition(".")[0]


def _unary(method: MethodInfo, channel: grpc.aio.Channel) -> Any:
    call: Any = channel.unary_unary(method.path)

    async def forward(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        response: bytes = await call(request, timeout=context.time_remaining())
        return response

    return forward


def _upload(method: MethodInfo, channel: grpc.aio.Channel) -> Any:
    open_call: Any = channel.stream_unary(method.path)

    async def forward(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        call = open_call(requests, timeout=context.time_remaining())
        try:
            response: bytes = await call
            return response
        finally:
            call.cancel()

    return forward


def _download(method: MethodInfo, channel: grpc.aio.Channel) -> Any:
    open_call: Any = channel.unary_stream(method.path)

    async def forward(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        call = open_call(request, timeout=context.time_remaining())
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    return forward
