"""AssociationService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemo_memory.domain.associations import AssociationType, Direction, Link, LinkFilter, Strength
from mnemocore.calls import caller
from mnemocore.ids import MemoryId
from mnemocore.memory.v1 import association_service_pb2 as pb
from mnemocore.memory.v1 import association_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    from mnemo_memory.domain.associations import AssociationPath, Associations, Neighbour
    from mnemo_memory.domain.memory import Space


class AssociationServicer(association_service_pb2_grpc.AssociationServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, associations: Associations) -> None:
        self._associations = associations

    async def Associate(
        self, request: pb.AssociateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AssociateResponse:
        link = Link(
            MemoryId(request.source_id),
            MemoryId(request.target_id),
            AssociationType(request.type or AssociationType.RELATED),
        )
        weight = request.weight if request.HasField("weight") else None
        space, association = await self._associations.associate(
            caller(),
            wire.space_of(request.parent),
            link,
            Strength(weight, request.reinforce, request.positive),
            wire.request_of(request),
        )
        return pb.AssociateResponse(association=wire.from_association(space, association))

    async def Dissociate(
        self, request: pb.DissociateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DissociateResponse:
        removed = await self._associations.dissociate(
            caller(),
            wire.space_of(request.parent),
            MemoryId(request.source_id),
            MemoryId(request.target_id),
            AssociationType(request.type) if request.type else None,
        )
        return pb.DissociateResponse(removed=removed)

    async def ListAssociations(
        self, request: pb.ListAssociationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListAssociationsResponse:
        where = LinkFilter(
            MemoryId(request.memory_id) if request.memory_id else None,
            Direction(request.direction),
            _types(request.types),
            request.min_weight,
        )
        space, associations, token = await self._associations.list_associations(
            caller(), wire.space_of(request.parent), where, request.page_size, request.page_token
        )
        return pb.ListAssociationsResponse(
            associations=[wire.from_association(space, each) for each in associations], next_page_token=token
        )

    async def FindPaths(
        self, request: pb.FindPathsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindPathsResponse:
        space, paths = await self._associations.find_paths(
            caller(),
            wire.space_of(request.parent),
            MemoryId(request.source_id),
            MemoryId(request.target_id),
            max_hops=request.max_hops,
            limit=request.limit,
            types=_types(request.types),
            direction=Direction(request.direction),
        )
        return pb.FindPathsResponse(paths=[_from_path(space, path) for path in paths])

    async def GetNeighbourhood(
        self, request: pb.GetNeighbourhoodRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetNeighbourhoodResponse:
        space, neighbours, associations = await self._associations.neighbourhood(
            caller(),
            wire.space_of(request.parent),
            wire.ids_of(request.ids),
            max_hops=request.max_hops,
            limit=request.limit,
            types=_types(request.types),
            sessions=not request.without_sessions,
        )
        return pb.GetNeighbourhoodResponse(
            neighbours=[_from_neighbour(space, each) for each in neighbours],
            associations=[wire.from_association(space, each) for each in associations],
        )


def _types(numbers: Iterable[int]) -> tuple[AssociationType, ...]:
    return tuple(AssociationType(number) for number in numbers if number)


def _from_path(space: Space, path: AssociationPath) -> pb.AssociationPath:
    return pb.AssociationPath(
        associations=[wire.from_association(space, each) for each in path.associations], weight=path.weight
    )


def _from_neighbour(space: Space, neighbour: Neighbour) -> pb.Neighbour:
    return pb.Neighbour(
        memory=wire.from_memory(space, neighbour.memory),
        activation=neighbour.activation.energy,
        hops=neighbour.activation.hops,
    )
