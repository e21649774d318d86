"""GrantService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_memory import wire
from mnemo_memory.domain.grants import NewGrant, Part
from mnemo_memory.domain.memory import Kind, Role
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import grant_service_pb2 as pb
from mnemocore.memory.v1 import grant_service_pb2_grpc, resources_pb2
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    import grpc

    from mnemo_memory.domain.grants import Grant, Grants


class GrantServicer(grant_service_pb2_grpc.GrantServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    async def CreateGrant(
        self, request: pb.CreateGrantRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateGrantResponse:
        grant = await self._grants.create(
            caller(), wire.space_of(request.parent), _to_new(request), wire.request_of(request)
        )
        return pb.CreateGrantResponse(grant=_from_grant(grant))

    async def ListGrants(
        self, request: pb.ListGrantsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListGrantsResponse:
        grants, token = await self._grants.of_space(
            caller(), wire.space_of(request.parent), request.page_size, request.page_token
        )
        return pb.ListGrantsResponse(grants=[_from_grant(grant) for grant in grants], next_page_token=token)

    async def DeleteGrant(
        self, request: pb.DeleteGrantRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteGrantResponse:
        await self._grants.delete(caller(), request.id)
        return pb.DeleteGrantResponse()

    async def ListReceivedGrants(
        self, request: pb.ListReceivedGrantsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListReceivedGrantsResponse:
        grants, token = await self._grants.received(caller(), request.page_size, request.page_token)
        return pb.ListReceivedGrantsResponse(grants=[_from_grant(grant) for grant in grants], next_page_token=token)

    async def AcceptGrant(
        self, request: pb.AcceptGrantRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AcceptGrantResponse:
        return pb.AcceptGrantResponse(
            grant=_from_grant(await self._grants.accept(caller(), request.id, request.space_id))
        )


def _to_new(request: pb.CreateGrantRequest) -> NewGrant:
    wire.text("tags", "".join(request.tags))
    for number, kind in enumerate(request.kinds):
        if not kind:  # to pass over it could share more than was meant
            raise InvalidFieldError.of([Violation(f"kinds[{number}]", "MEMORY_KIND_UNSPECIFIED; a kind is required")])
    return NewGrant(
        principal=wire.text("principal", request.principal),
        role=Role(request.role),
        tenant=Tenant(wire.text("tenant", request.tenant)) if request.tenant else None,
        part=Part(tuple(Kind(kind) for kind in request.kinds), tuple(request.tags)),
        expires_at=to_datetime(request.expire_time) if request.HasField("expire_time") else None,
    )


def _from_grant(grant: Grant) -> pb.Grant:
    message = pb.Grant(
        id=grant.id,
        space=f"spaces/{grant.slug}",
        tenant=grant.tenant,
        principal=grant.principal,
        role=resources_pb2.GrantRole.ValueType(grant.role),
        kinds=[resources_pb2.MemoryKind.ValueType(kind) for kind in grant.part.kinds],
        tags=grant.part.tags,
        create_time=to_timestamp(grant.created_at),
        grantor=grant.grantor,
        grantor_tenant=grant.grantor_tenant,
        accepted_as=f"spaces/{grant.accepted_as}" if grant.accepted_as else "",
    )
    if grant.expires_at is not None:
        message.expire_time.CopyFrom(to_timestamp(grant.expires_at))
    return message
