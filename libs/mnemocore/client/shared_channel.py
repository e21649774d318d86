"""A channel to a service whose replicas share the spaces: each call goes to the replica that its space falls to."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING, Any

import grpc

from mnemocore import rendezvous

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from mnemocore.client.channel import ResilientChannel


class SharedChannel(grpc.aio.Channel):
    """`replicas` by the names under which they share the spaces; generated stubs work on it unchanged.

    A request with a `space_uid` goes to the owner of the space by `mnemocore.rendezvous`, and to nobody else: whoever
    does not hold the space refuses it. Any other, and one that comes as bytes, goes to the replicas in turn. Owns the
    channels: closing closes them.
    """

    def __init__(self, replicas: Mapping[str, ResilientChannel]) -> None:
        self.replicas = dict(replicas)
        self._turns = cycle(self.replicas)

    def replica_for(self, request: Any) -> str:
        """The replica that a request goes to."""
        space_uid = getattr(request, "space_uid", "")
        return rendezvous.owner(space_uid, self.replicas) if space_uid else next(self._turns)

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """A method with one request and one response."""
        return self._routed("unary_unary", method, serializers, options)

    def unary_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        """A method with one request and many responses."""
        return self._routed("unary_stream", method, serializers, options)

    def stream_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """A method with many requests and one response: any replica."""
        return self._routed("stream_unary", method, serializers, options)

    def stream_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        """A method with many requests and many responses: any replica."""
        return self._routed("stream_stream", method, serializers, options)

    async def close(self, grace: float | None = None) -> None:
        """Close all channels; calls under way have `grace` seconds to end."""
        await asyncio.gather(*(channel.close(grace) for channel in self.replicas.values()))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connectivity of the replica that is worst off."""
        states = [channel.get_state(try_to_connect) for channel in self.replicas.values()]
        return next((state for state in states if state is not grpc.ChannelConnectivity.READY), states[0])

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the connectivity of a replica is another one."""
        waiting = [asyncio.ensure_future(c.wait_for_state_change(last_observed_state)) for c in self.replicas.values()]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def channel_ready(self) -> None:
        """Return when all replicas are connected."""
        await asyncio.gather(*(channel.channel_ready() for channel in self.replicas.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def _routed(self, kind: str, method: str, serializers: tuple[Any, ...], options: dict[str, Any]) -> Any:
        calls = {
            name: getattr(channel, kind)(method, *serializers, **options) for name, channel in self.replicas.items()
        }

        def call(request: Any = None, **arguments: Any) -> Any:
            return calls[self.replica_for(request)](request, **arguments)

        return call
