"""memory-core, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_cognitive.domain.ports import SpaceState
from mnemocore.errors import MemoryNotFoundError
from mnemocore.ids import SpaceUid
from mnemocore.memory.v1 import (
    memory_service_pb2,
    memory_service_pb2_grpc,
    space_service_pb2,
    space_service_pb2_grpc,
)

if TYPE_CHECKING:
    import grpc


class MemoryClient:
    """Implements `mnemo_cognitive.domain.ports.Memories` on a channel to memory-core."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._memories = memory_service_pb2_grpc.MemoryServiceStub(channel)
        self._spaces = space_service_pb2_grpc.SpaceServiceStub(channel)

    async def space(self, name: str) -> SpaceState:
        """Describe a space. Raises SpaceNotFoundError."""
        response = await self._spaces.GetSpace(space_service_pb2.GetSpaceRequest(name=name))
        return SpaceState(SpaceUid(response.space.uid), response.space.revision)

    async def archive(self, name: str, reason: str, request_id: str) -> bool:
        """Take a memory out of recall; False if it no longer exists. Repeating a request id has no effect."""
        request = memory_service_pb2.DeleteMemoryRequest(name=name, reason=reason, request_id=request_id)
        try:
            await self._memories.DeleteMemory(request)
        except MemoryNotFoundError:
            return False
        return True
