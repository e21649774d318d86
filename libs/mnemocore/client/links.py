"""Links between memories: setting them, and following them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.client.handle import SpaceHandle
from mnemocore.memory.v1 import association_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from typing import Any

    from mnemocore.memory.v1 import resources_pb2


def association_from_wire(message: resources_pb2.Association) -> values.Association:
    """One link."""
    return values.Association(
        source=convert.last_part(message.source),
        target=convert.last_part(message.target),
        type=convert.enum_from_wire(values.AssociationType, message.type),
        weight=message.weight,
        activations=message.activations,
        create_time=convert.time_from_wire(message, "create_time"),
        update_time=convert.time_from_wire(message, "update_time"),
        principal=message.principal,
    )


class Linking(SpaceHandle):
    """The links of a space. Memories are named by their ids."""

    async def associate(
        self,
        source: str,
        target: str,
        *,
        type: values.AssociationType | str = values.AssociationType.RELATED,
        weight: float | None = None,
        reinforce: bool = False,
        positive: bool = False,
    ) -> values.Association:
        """Link one memory to another, or set the weight of the link (above 0, at most 1; 0.3 for a new one).

        With `reinforce` the link is strengthened by one step instead, with `positive` by the step of good feedback.
        There is one link of each type from one memory to another. Raises MemoryNotFoundError.
        """
        request = wire.AssociateRequest(
            parent=self._name,
            type=_type_to_wire(type),
            reinforce=reinforce,
            positive=positive,
            request_id=self._services.request_id(),
        )
        convert.assign(request, "source_id", source, "source")
        convert.assign(request, "target_id", target, "target")
        if weight is not None:
            convert.assign(request, "weight", weight)
        response = await self._services.call(self._services.associations.Associate, request)
        return association_from_wire(response.association)

    async def dissociate(self, source: str, target: str, *, type: values.AssociationType | str | None = None) -> int:
        """Remove the link of one type, or of all types, from one memory to another; returns how many there were."""
        request = wire.DissociateRequest(parent=self._name, type=_type_to_wire(type))
        convert.assign(request, "source_id", source, "source")
        convert.assign(request, "target_id", target, "target")
        return (await self._services.call(self._services.associations.Dissociate, request)).removed

    async def associations(
        self,
        id: str = "",
        *,
        direction: values.Direction | str | None = None,
        types: Sequence[values.AssociationType | str] = (),
        min_weight: float = 0.0,
        page_size: int = 0,
    ) -> AsyncIterator[values.Association]:
        """The links of a memory, or without `id` those of the space, the strongest first. Reads page by page.

        Both ways unless `direction` names one; of all types unless `types` names some; at least as strong as
        `min_weight`.
        """
        request = wire.ListAssociationsRequest(
            parent=self._name,
            memory_id=id,
            direction=_direction_to_wire(direction),
            types=_types_to_wire(types),
            min_weight=min_weight,
            page_size=page_size,
        )
        async for page in self._services.pages(self._services.associations.ListAssociations, request):
            for association in page.associations:
                yield association_from_wire(association)

    async def paths(
        self,
        source: str,
        target: str,
        *,
        max_hops: int = 5,
        limit: int = 1,
        types: Sequence[values.AssociationType | str] = (),
        direction: values.Direction | str | None = None,
    ) -> list[values.AssociationPath]:
        """The ways along links from one memory to another, best first; none if there is none.

        The best one has the greatest product of weights. At most 5 hops a path, at most 10 paths. Raises
        MemoryNotFoundError.
        """
        request = wire.FindPathsRequest(
            parent=self._name,
            max_hops=max_hops,
            limit=limit,
            types=_types_to_wire(types),
            direction=_direction_to_wire(direction),
        )
        convert.assign(request, "source_id", source, "source")
        convert.assign(request, "target_id", target, "target")
        response = await self._services.call(self._services.associations.FindPaths, request)
        return [
            values.AssociationPath(tuple(map(association_from_wire, path.associations)), path.weight)
            for path in response.paths
        ]

    async def neighbourhood(
        self,
        ids: Iterable[str],
        *,
        max_hops: int = 3,
        limit: int = 100,
        types: Sequence[values.AssociationType | str] = (),
        sessions: bool = True,
    ) -> values.Neighbourhood:
        """The memories that activation reaches from those with `ids` (1 to 100), and the links between them all.

        It spreads over links and, unless `sessions` is False, over the neighbours in sessions, for at most 3 hops.
        Raises MemoryNotFoundError.
        """
        request = wire.GetNeighbourhoodRequest(
            parent=self._name,
            max_hops=max_hops,
            limit=limit,
            types=_types_to_wire(types),
            without_sessions=not sessions,
        )
        convert.extend(request, "ids", ids)
        response = await self._services.call(self._services.associations.GetNeighbourhood, request)
        neighbours = (
            values.Neighbour(convert.memory_from_wire(found.memory), found.activation, found.hops)
            for found in response.neighbours
        )
        return values.Neighbourhood(tuple(neighbours), tuple(map(association_from_wire, response.associations)))


def _type_to_wire(type: str | None) -> Any:
    return None if type is None else convert.enum_to_wire(values.AssociationType, type, "type")


def _types_to_wire(types: Sequence[str]) -> list[Any]:
    return convert.enums_to_wire(values.AssociationType, types, "types")


def _direction_to_wire(direction: str | None) -> Any:
    return None if direction is None else convert.enum_to_wire(values.Direction, direction, "direction")
