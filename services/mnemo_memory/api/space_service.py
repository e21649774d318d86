"""SpaceService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemocore.calls import caller
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.memory.v1 import space_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from mnemo_memory.domain.spaces import Spaces


class SpaceServicer(space_service_pb2_grpc.SpaceServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, spaces: Spaces, committed: Callable[[], None]) -> None:
        self._spaces = spaces
        self._committed = committed

    async def CreateSpace(
        self, request: pb.CreateSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateSpaceResponse:
        space = await self._spaces.create(
            caller(), request.space_id, wire.text("description", request.description), wire.request_of(request)
        )
        return pb.CreateSpaceResponse(space=wire.from_space(space))

    async def GetSpace(
        self, request: pb.GetSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetSpaceResponse:
        space = await self._spaces.get(caller(), wire.space_of(request.name))
        return pb.GetSpaceResponse(space=wire.from_space(space))

    async def ListSpaces(
        self, request: pb.ListSpacesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListSpacesResponse:
        spaces, token = await self._spaces.list(caller(), request.page_size, request.page_token)
        return pb.ListSpacesResponse(spaces=[wire.from_space(space) for space in spaces], next_page_token=token)

    async def RepublishSpace(
        self, request: pb.RepublishSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RepublishSpaceResponse:
        memories = await self._spaces.republish(caller(), wire.space_of(request.name))
        self._committed()
        return pb.RepublishSpaceResponse(memories=memories)
