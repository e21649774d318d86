"""Making, reading and changing spaces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.access import ADMIN_SCOPE
from mnemo_memory.domain.memory import Policy, Role, Space
from mnemocore import paging
from mnemocore.errors import PermissionDeniedError
from mnemocore.ids import SpaceUid, new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.ports import Author, Request, SpaceStore, Store
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock


_DEFAULT: Final = Policy()


@dataclass(frozen=True, slots=True)
class NewSpace:
    """What a caller says of a space when it makes one."""

    slug: str
    description: str = ""
    policy: Policy = _DEFAULT
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class SpaceView:
    """A space as a caller may see it, under the name it knows, and what it may do there.

    Memories whose time is over count as archived, whether they were swept or not. A caller who sees only a part of the
    space gets no counts and no revisions: they are 0.
    """

    space: Space
    role: Role


class KeyRotation(Protocol):
    """Gives encrypted spaces new data keys."""

    async def rotate(self, space: Space, author: Author) -> tuple[str, int]:
        """Change the data key of a space; returns the id of the new one and how much was sealed anew.

        Raises SpaceNotEncryptedError, KeyUnavailableError, SpaceNotFoundError, UnavailableError.
        """
        ...


class Spaces:
    """The spaces of all tenants; every call is made for one of them. `committed` wakes the relay."""

    def __init__(
        self,
        spaces: SpaceStore,
        store: Store,
        rotation: KeyRotation,
        access: Access,
        clock: Clock,
        committed: Callable[[], None],
    ) -> None:
        self._spaces = spaces
        self._store = store
        self._rotation = rotation
        self._access = access
        self._clock = clock
        self._committed = committed

    async def create(self, caller: Identity, new: NewSpace, request: Request | None) -> SpaceView:
        """Make a space, which belongs to the caller.

        A name under which a principal of the tenant has accepted a space of another tenant can be taken: whoever may
        use the new space finds it there from now on, and can accept the other one under another name. Raises
        SpaceExistsError, RequestIdReusedError, KeyUnavailableError.
        """
        now = self._clock.now()
        space = Space(
            uid=SpaceUid(new_uuid(now)),
            tenant=caller.tenant,
            slug=new.slug,
            description=new.description,
            revision=0,
            published_revision=0,
            active=0,
            archived=0,
            created_at=now,
            owner=caller.principal,
            policy=new.policy,
            encrypted=new.encrypted,
        )
        return SpaceView(await self._spaces.create_space(space, request), Role.OWNER)

    async def get(self, caller: Identity, slug: str) -> SpaceView:
        """Read a space. Raises SpaceNotFoundError."""
        return await self._view(await self._access.enter(caller, slug, Role.READ))

    async def of_tenant(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[SpaceView], str]:
        """One page of the spaces of the tenant that the caller may use as its own, by name, and the next page's token.

        Those that are shared with it are `Grants.received`.
        """
        principal = None if caller.allows(ADMIN_SCOPE) else caller.principal
        query = ["spaces", caller.tenant, principal]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        after = position[0] if position else ""
        found = await self._spaces.list_spaces(caller.tenant, principal, after, size + 1)
        page, more = found[:size], len(found) > size
        views = [SpaceView(space, Role.OWNER) for space in await self._swept(page)]
        return views, paging.encode(query, [page[-1].slug]) if more else ""

    async def update(
        self, caller: Identity, slug: str, alter: Callable[[str, Policy], tuple[str, Policy]], etag: str
    ) -> SpaceView:
        """Change description and policy. Raises SpaceNotFoundError, RoleRequiredError, SpaceEtagMismatchError.

        Who may use the space is changed by the principal that made it and by those with the scope `memory:admin` only:
        PermissionDeniedError for others.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)

        def permitted(space: Space) -> tuple[str, Policy]:
            description, policy = alter(space.description, space.policy)
            if policy.access is not space.policy.access and not _is_keeper(caller, space):
                raise PermissionDeniedError(
                    f"only its owner and principals with the scope {ADMIN_SCOPE} change who may use {space.name!r}",
                    scope=ADMIN_SCOPE,
                )
            return description, policy

        return await self._view(replace(entry, space=await self._spaces.update_space(entry.space, permitted, etag)))

    async def republish(self, caller: Identity, slug: str) -> int:
        """Publish every memory of a space again; returns their number. Raises SpaceNotFoundError, RoleRequiredError."""
        entry = await self._access.enter(caller, slug, Role.OWNER)
        published = await self._store.republish(entry.space, entry.author(self._clock.now(), "republished"))
        self._committed()
        return published

    async def rotate_key(self, caller: Identity, slug: str) -> tuple[str, int]:
        """Give an encrypted space a new data key; returns the id of the key and how much was sealed anew.

        Raises SpaceNotFoundError, RoleRequiredError, SpaceNotEncryptedError, KeyUnavailableError, UnavailableError.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        try:
            return await self._rotation.rotate(entry.space, entry.author(self._clock.now(), "key changed"))
        finally:
            self._committed()

    async def _view(self, entry: Entry) -> SpaceView:
        if entry.whole:
            (space,) = await self._swept([entry.space])
        else:
            space = replace(entry.space, revision=0, published_revision=0, active=0, archived=0, bytes=0, media_bytes=0)
        return SpaceView(space, entry.role)

    async def _swept(self, spaces: Sequence[Space]) -> list[Space]:
        """The spaces with their counts as a sweep at this moment would leave them."""
        waiting = await self._spaces.unswept(spaces, self._clock.now())
        return [
            replace(
                space,
                active=space.active - waiting.get(space.uid, 0),
                archived=space.archived + waiting.get(space.uid, 0),
            )
            for space in spaces
        ]


def _is_keeper(caller: Identity, space: Space) -> bool:
    return space.owner == caller.principal or caller.allows(ADMIN_SCOPE)
