"""Who may do what in which space: the tenant's own spaces, and those shared with the caller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mnemo_memory.domain.memory import Filter, Role, SpaceAccess
from mnemo_memory.domain.ports import Author
from mnemocore.errors import MemoryNotFoundError, PermissionDeniedError, RoleRequiredError, SpaceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from mnemo_memory.domain.memory import Draft, Kind, Memory, Space
    from mnemo_memory.domain.ports import SpaceStore
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId, SpaceUid, Tenant

ADMIN_SCOPE = "memory:admin"


@dataclass(frozen=True, slots=True)
class Share:
    """A space shared with a principal: in which role, and which part of it; `name` is the one the principal knows."""

    space: Space
    role: Role
    kinds: tuple[Kind, ...]
    tags: tuple[str, ...]


class Shares(Protocol):
    """The spaces that are shared."""

    async def find(self, tenant: Tenant, principal: str, slug: str, now: datetime) -> Share | None:
        """What is shared with a principal under a name of its tenant; the widest if there are several."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A caller in a space. `space` has the name the caller knows; `part` says which memories it may see."""

    space: Space
    caller: Identity
    role: Role
    part: Filter

    @property
    def whole(self) -> bool:
        """Whether the caller may see every memory."""
        return self.part == _EVERYTHING

    def narrow(self, where: Filter) -> Filter:
        """`where`, and nothing outside of the part the caller may see."""
        if self.whole:
            return where
        kinds = tuple(kind for kind in where.kinds if kind in self.part.kinds) if self.part.kinds else where.kinds
        lost = bool(self.part.kinds and where.kinds and not kinds)
        tags = tuple(dict.fromkeys((*where.tags, *self.part.tags)))
        return replace(where, kinds=kinds or self.part.kinds, tags=tags, nothing=where.nothing or lost)

    def sees(self, memory: Memory) -> bool:
        """Whether the caller may see a memory."""
        return self.part.matches(memory)

    def visible(self, memories: Iterable[Memory]) -> list[Memory]:
        """Those of the memories the caller may see."""
        return [memory for memory in memories if self.sees(memory)]

    def require_visible(self, memory: Memory) -> Memory:
        """The memory. Raises MemoryNotFoundError if the caller may not see it."""
        if not self.sees(memory):
            raise self.unknown(memory.id)
        return memory

    def unknown(self, memory_id: MemoryId) -> MemoryNotFoundError:
        """The error that says a memory does not exist, as far as the caller may know."""
        return MemoryNotFoundError(memory=f"{self.space.name}/memories/{memory_id}")

    def require_inside(self, drafts: Iterable[Draft]) -> None:
        """Raise PermissionDeniedError if a draft lies outside of the part the caller may see."""
        for draft in drafts:
            kinds, tags = self.part.kinds, self.part.tags
            if (kinds and draft.kind not in kinds) or not set(tags) <= set(draft.tags):
                raise PermissionDeniedError(
                    f"space {self.space.name!r} is shared with you for kinds {[kind.name for kind in kinds] or 'all'} "
                    f"and tags {list(tags) or 'all'}; the memory lies outside of that",
                    scope="memory:write",
                )

    def require_whole(self) -> Space:
        """The space. Raises RoleRequiredError if the caller may see a part of it only."""
        if not self.whole:
            raise RoleRequiredError(
                f"space {self.space.name!r} is shared with you in part; this call needs the whole of it",
                space=self.space.name,
                role=self.role.name,
            )
        return self.space

    def author(self, now: datetime, reason: str = "") -> Author:
        """The caller as the author of a change; one of another tenant is named with it."""
        foreign = self.caller.tenant != self.space.tenant
        principal = f"{self.caller.tenant}/{self.caller.principal}" if foreign else self.caller.principal
        return Author(principal, now, reason)


class Access:
    """Lets callers into spaces. `used` is told of every space that somebody was let into."""

    def __init__(
        self, spaces: SpaceStore, shares: Shares, clock: Clock, used: Callable[[SpaceUid], None] | None = None
    ) -> None:
        self._spaces = spaces
        self._shares = shares
        self._clock = clock
        self._used = used

    async def enter(self, caller: Identity, slug: str, need: Role) -> Entry:
        """The caller in the space of this name.

        Raises SpaceNotFoundError, also if the caller may not know of it; RoleRequiredError if it may not do that much.
        """
        entry = await self._find(caller, slug, need)
        if self._used is not None:
            self._used(entry.space.uid)
        return entry

    async def _find(self, caller: Identity, slug: str, need: Role) -> Entry:
        try:
            space = await self._spaces.get_space(caller.tenant, slug)
        except SpaceNotFoundError:
            space = None
        if space is not None and _owns(caller, space):
            return Entry(space, caller, Role.OWNER, _EVERYTHING)
        share = await self._shares.find(caller.tenant, caller.principal, slug, self._clock.now())
        if share is None:
            raise SpaceNotFoundError(space=f"spaces/{slug}")
        if share.role < need:
            raise RoleRequiredError(space=f"spaces/{slug}", role=need.name)
        return Entry(replace(share.space, slug=slug), caller, share.role, Filter(kinds=share.kinds, tags=share.tags))


def _owns(caller: Identity, space: Space) -> bool:
    return space.policy.access is SpaceAccess.TENANT or space.owner == caller.principal or caller.allows(ADMIN_SCOPE)


_EVERYTHING = Filter()
