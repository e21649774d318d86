"""Sharing spaces with principals, of the same tenant or of another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mnemo_memory.domain.memory import Role
from mnemocore import paging
from mnemocore.errors import (
    GrantNotFoundError,
    InvalidFieldError,
    RoleRequiredError,
    SpaceNotFoundError,
    Violation,
)
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mnemo_memory.domain.access import Access, Share
    from mnemo_memory.domain.memory import Kind, Space
    from mnemo_memory.domain.ports import Request
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant


@dataclass(frozen=True, slots=True)
class Part:
    """Which memories of a space are shared: of any of the kinds, with all of the tags; everything if both are empty."""

    kinds: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewGrant:
    """What a caller says of a grant when it makes one. `tenant` None is its own."""

    principal: str
    role: Role
    tenant: Tenant | None = None
    part: Part = Part()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A space, or part of it, shared with a principal.

    `id` is a UUID, `number` grows from grant to grant. `slug` is the name the owner knows, `accepted_as` the one under
    which a principal of another tenant has accepted it, empty before and within one tenant.
    """

    id: str
    number: int
    slug: str
    tenant: Tenant
    principal: str
    role: Role
    part: Part
    expires_at: datetime | None
    created_at: datetime
    grantor: str
    grantor_tenant: Tenant
    accepted_as: str = ""


class GrantStore(Protocol):
    """Keeps grants. One that has expired by `now` does not exist."""

    async def create(self, space: Space, grant: Grant, request: Request | None) -> Grant:
        """Write a grant; its number is chosen here.

        Raises SpaceNotFoundError, RequestIdReusedError, GrantNotFoundError if the request is repeated and its grant is
        gone.
        """
        ...

    async def of_space(self, space: Space, after: int, limit: int, now: datetime) -> list[Grant]:
        """Grants of a space by number, after `after`."""
        ...

    async def of_principal(self, tenant: Tenant, principal: str, after: int, limit: int, now: datetime) -> list[Grant]:
        """Grants to a principal by number, after `after`."""
        ...

    async def get(self, grant_id: str, now: datetime) -> Grant:
        """A grant, whoever asks. Raises GrantNotFoundError."""
        ...

    async def accept(self, grant: Grant, name: str, now: datetime) -> Grant:
        """Give a grant a name for the tenant of its principal.

        Raises GrantNotFoundError, SpaceExistsError if a space of the tenant has the name, or another grant to the
        principal.
        """
        ...

    async def delete(self, grant_id: str) -> None:
        """Remove a grant, if it is there."""
        ...

    async def forget_expired(self, now: datetime) -> int:
        """Remove grants that have expired; returns their number."""
        ...


class Grants:
    """Grants of all tenants; every call is made for one principal of one of them."""

    def __init__(self, store: GrantStore, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def create(self, caller: Identity, slug: str, new: NewGrant, request: Request | None) -> Grant:
        """Share a space or a part of it. Only who may do everything in it may share it, and that right is not shared.

        Raises SpaceNotFoundError, RoleRequiredError, InvalidFieldError, RequestIdReusedError.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        now = self._clock.now()
        _refuse_ownership(new)
        grant = Grant(
            id=new_uuid(now),
            number=0,
            slug=slug,
            tenant=new.tenant or caller.tenant,
            principal=new.principal,
            role=new.role,
            part=new.part,
            expires_at=new.expires_at,
            created_at=now,
            grantor=caller.principal,
            grantor_tenant=caller.tenant,
        )
        if new.expires_at is not None and new.expires_at <= now:
            described = f"{new.expires_at.isoformat()} has passed; a time after {now.isoformat()} is required"
            raise InvalidFieldError.of([Violation("expire_time", described)])
        return await self._store.create(entry.space, grant, request)

    async def of_space(self, caller: Identity, slug: str, page_size: int, page_token: str) -> tuple[list[Grant], str]:
        """One page of the grants of a space, by creation, and the token of the next page.

        Raises SpaceNotFoundError, RoleRequiredError, PageTokenMismatchError.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        query = ["grants", entry.space.uid]
        after = _after(query, page_token)
        size = paging.page_size(page_size)
        return _page(query, await self._store.of_space(entry.space, after, size + 1, self._clock.now()), size)

    async def received(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[Grant], str]:
        """One page of what is shared with the caller, accepted or not, by creation, and the token of the next page."""
        query = ["received grants", caller.tenant, caller.principal]
        after = _after(query, page_token)
        size = paging.page_size(page_size)
        now = self._clock.now()
        found = await self._store.of_principal(caller.tenant, caller.principal, after, size + 1, now)
        return _page(query, found, size)

    async def accept(self, caller: Identity, grant_id: str, name: str) -> Grant:
        """Take a space of another tenant into the caller's names; once more, to give it another name.

        Raises GrantNotFoundError, SpaceExistsError, InvalidFieldError for a space of the caller's own tenant.
        """
        now = self._clock.now()
        grant = await self._store.get(grant_id, now)
        if not _is_received_by(caller, grant):
            raise GrantNotFoundError(grant=grant_id)
        if grant.grantor_tenant == caller.tenant:
            described = f"{grant_id} is of a space of your own tenant, which keeps its name {grant.slug!r}"
            raise InvalidFieldError.of([Violation("id", described)])
        return await self._store.accept(grant, name, now)

    async def delete(self, caller: Identity, grant_id: str) -> None:
        """End the sharing: who received it may, and whoever may do everything in the space.

        Raises GrantNotFoundError, to all others too: they learn nothing of it.
        """
        grant = await self._store.get(grant_id, self._clock.now())
        if not _is_received_by(caller, grant) and not await self._may_share(caller, grant):
            raise GrantNotFoundError(grant=grant_id)
        await self._store.delete(grant_id)

    async def forget_expired(self) -> int:
        """Remove what has expired, which counts for nothing already; returns the number of grants."""
        return await self._store.forget_expired(self._clock.now())

    async def _may_share(self, caller: Identity, grant: Grant) -> bool:
        if grant.grantor_tenant != caller.tenant:
            return False
        try:
            await self._access.enter(caller, grant.slug, Role.OWNER)
        except (SpaceNotFoundError, RoleRequiredError):
            return False
        return True


def widest(shares: Iterable[Share]) -> Share | None:
    """The one that counts of several grants of one space to one principal, which come by creation; None of none.

    Grants are not added up, since a role in one part and a role in another are not a role in both. The highest role
    counts; of equal roles what is shared as a whole, then what asks for the fewest tags, then what names the most
    kinds, all of them being the most, then the oldest.
    """
    return max(shares, key=_width, default=None)


def _width(share: Share) -> tuple[int, bool, int, bool, int]:
    whole = not share.kinds and not share.tags
    return (share.role, whole, -len(share.tags), not share.kinds, len(share.kinds))


def _refuse_ownership(new: NewGrant) -> None:
    if new.role is Role.OWNER:
        raise InvalidFieldError.of([Violation("role", "OWNER is never granted; allowed are READ, ANNOTATE and WRITE")])


def _is_received_by(caller: Identity, grant: Grant) -> bool:
    return (grant.tenant, grant.principal) == (caller.tenant, caller.principal)


def _after(query: list[str], page_token: str) -> int:
    position = paging.decode(query, page_token)
    return position[0] if position else 0


def _page(query: list[str], found: list[Grant], size: int) -> tuple[list[Grant], str]:
    page = found[:size]
    return page, paging.encode(query, [page[-1].number]) if len(found) > size else ""
