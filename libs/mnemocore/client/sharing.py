"""Sharing spaces with other principals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.client.handle import SpaceHandle
from mnemocore.memory.v1 import grant_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime


def grant_from_wire(message: wire.Grant) -> values.Grant:
    """One grant."""
    return values.Grant(
        id=message.id,
        space=convert.last_part(message.space),
        tenant=message.tenant,
        principal=message.principal,
        role=convert.enum_from_wire(values.GrantRole, message.role),
        kinds=tuple(convert.enum_from_wire(values.MemoryKind, kind) for kind in message.kinds),
        tags=tuple(message.tags),
        expire_time=convert.time_from_wire(message, "expire_time"),
        create_time=convert.time_from_wire(message, "create_time"),
        grantor=message.grantor,
        grantor_tenant=message.grantor_tenant,
        accepted_as=convert.last_part(message.accepted_as),
    )


class Sharing(SpaceHandle):
    """With whom a space is shared."""

    async def share(
        self,
        principal: str,
        role: values.GrantRole | str,
        *,
        tenant: str = "",
        kinds: Sequence[values.MemoryKind | str] = (),
        tags: Sequence[str] = (),
        expire_time: datetime | None = None,
    ) -> values.Grant:
        """Let `principal` read, annotate or write, in the whole space or in the part that kinds and tags name.

        A principal of another `tenant` has to accept the grant first, see `Connection.accept_grant`. End the sharing
        with `Connection.delete_grant`. Raises SpaceNotFoundError, RoleRequiredError unless the space is ours.
        """
        request = wire.CreateGrantRequest(
            parent=self._name,
            role=convert.enum_to_wire(values.GrantRole, role, "role"),
            kinds=convert.enums_to_wire(values.MemoryKind, kinds, "kinds"),
            request_id=self._services.request_id(),
        )
        convert.assign(request, "principal", principal)
        convert.assign(request, "tenant", tenant)
        convert.extend(request, "tags", tags)
        if expire_time is not None:
            convert.time_to_wire(expire_time, request.expire_time, "expire_time")
        return grant_from_wire((await self._services.call(self._services.grants.CreateGrant, request)).grant)

    async def grants(self, *, page_size: int = 0) -> AsyncIterator[values.Grant]:
        """With whom the space is shared, by creation; what has expired is gone. Reads page by page."""
        request = wire.ListGrantsRequest(parent=self._name, page_size=page_size)
        async for page in self._services.pages(self._services.grants.ListGrants, request):
            for grant in page.grants:
                yield grant_from_wire(grant)
