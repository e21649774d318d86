"""Making and reading spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_memory.domain.memory import Space
from mnemo_memory.domain.ports import Author, Request, Store
from mnemocore import paging
from mnemocore.ids import SpaceUid, new_uuid

if TYPE_CHECKING:
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock


class Spaces:
    """The spaces of all tenants; every call is made for one of them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, caller: Identity, slug: str, description: str, request: Request | None) -> Space:
        """Make a space. Raises SpaceExistsError, RequestIdReusedError."""
        now = self._clock.now()
        space = Space(SpaceUid(new_uuid(now)), caller.tenant, slug, description, 0, 0, 0, 0, now)
        return await self._store.create_space(space, request)

    async def get(self, caller: Identity, slug: str) -> Space:
        """Read a space. Raises SpaceNotFoundError."""
        return await self._store.get_space(caller.tenant, slug)

    async def list(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[Space], str]:
        """One page of the tenant's spaces by name, and the token of the next page."""
        query = ["spaces", caller.tenant]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        spaces = await self._store.list_spaces(caller.tenant, position[0] if position else "", size + 1)
        page, more = spaces[:size], len(spaces) > size
        return page, paging.encode(query, [page[-1].slug]) if more else ""

    async def republish(self, caller: Identity, slug: str) -> int:
        """Publish every active memory of a space again; returns their number. Raises SpaceNotFoundError."""
        space = await self._store.get_space(caller.tenant, slug)
        return await self._store.republish(space, Author(caller.principal, self._clock.now(), "republished"))
