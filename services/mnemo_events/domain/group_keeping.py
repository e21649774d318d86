"""Making, showing, moving and deleting consumer groups."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.access import Action
from mnemo_events.domain.group import Group, Standing
from mnemo_events.domain.start import Latest, position_of
from mnemocore import paging
from mnemocore.errors import (
    GroupExistsError,
    GroupNotFoundError,
    InvalidFieldError,
    QuotaExceededError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.consumption import Consumption
    from mnemo_events.domain.dead_letters import Burials, DeadLetterStore
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.ports import Engine
    from mnemo_events.domain.start import Start
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

RESERVED: Final = "webhook-"
"""What the ids of groups begin with that the service makes for itself."""
MAX_GROUPS: Final = 1000
"""Groups of a tenant, those that are reserved not counted."""
DEFAULT_ATTEMPTS: Final = 5
DEFAULT_LEASE: Final = timedelta(seconds=60)
SHORTEST_LEASE: Final = timedelta(seconds=1)
LONGEST_LEASE: Final = timedelta(hours=1)
_COUNTED_AT_ONCE: Final = 1000
_ASKED_AT_ONCE: Final = 8
_LONGEST_VALUE: Final = 200
"""Characters of a value in an error."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What a group is to be. `where` names the tenant."""

    where: Filter
    max_attempts: int = DEFAULT_ATTEMPTS
    lease: timedelta = DEFAULT_LEASE


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group and how it stands: `dead` letters, and `lag`, the positions of the log behind the group's."""

    group: Group
    standing: Standing
    dead: int
    lag: int


class GroupKeeping:
    """The groups of all tenants; every call is made for one of them.

    Making, moving and deleting a group takes the right to read what it reads: AccessDeniedError is raised otherwise.
    """

    def __init__(
        self,
        engine: Engine,
        dead_letters: DeadLetterStore,
        burials: Burials,
        consumption: Consumption,
        access: Access,
        clock: Clock,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        self._log = engine.log
        self._groups = engine.groups
        self._dead_letters = dead_letters
        self._burials = burials
        self._consumption = consumption
        self._access = access
        self._clock = clock
        self._max_groups = max_groups

    async def create(self, caller: Identity, group_id: str, spec: GroupSpec, start: Start | None) -> GroupView:
        """Make a group that begins at `start`, with what comes from now on if there is none.

        The same group again changes nothing. Raises GroupExistsError, which names what differs, if there is another of
        that name, InvalidFieldError, EventsTrimmedError, and QuotaExceededError if the tenant has MAX_GROUPS.
        """
        _refuse_reserved("group_id", group_id)
        _check_lease(spec.lease)
        await self._access.check(caller, Action.SUBSCRIBE, spec.where.types, spec.where.subjects, "CreateGroup")
        if await self._groups.find(caller.tenant, group_id) is None:
            await self._check_number(caller.tenant)
        return await self._view(
            await self._create(caller.tenant, group_id, spec, caller.principal, start or Latest(), "start_at")
        )

    async def get(self, caller: Identity, group_id: str) -> GroupView:
        """A group and how it stands. Raises GroupNotFoundError."""
        return await self._view(await self.find(caller.tenant, group_id))

    async def list_page(self, caller: Identity, page_size: int, page_token: str) -> tuple[list[GroupView], str]:
        """A page of groups by name, and the token of the next one. Raises PageTokenMismatchError."""
        size = paging.page_size(page_size)
        query = ["groups", caller.tenant]
        start = paging.decode(query, page_token)
        found = await self._groups.list_groups(caller.tenant, start[0] if start else "", size + 1)
        token = paging.encode(query, [found[size - 1].id]) if len(found) > size else ""
        return await self._views(found[:size]), token

    async def delete(self, caller: Identity, group_id: str) -> bool:
        """Delete a group with its dead letters and tell its members; whether there was one."""
        _refuse_reserved("name", group_id)
        group = await self._groups.find(caller.tenant, group_id)
        if group is not None:
            await self._check_access(caller, group, "DeleteGroup")
        return await self.delete_internal(caller.tenant, group_id)

    async def seek(self, caller: Identity, group_id: str, start: Start) -> GroupView:
        """Let a group go on from another place. Raises GroupNotFoundError, InvalidFieldError, EventsTrimmedError."""
        group = await self.find(caller.tenant, group_id)
        await self._check_access(caller, group, "SeekGroup")
        position = await position_of(self._log, start, "start_at.after_position", whole=not group.where.space_uid)
        async with self._consumption.moving(group):
            await self._groups.seek(group, position)
        await self._dead_letters.unmark(group, [])
        return await self._view(group)

    async def open(self, caller: Identity, group_id: str) -> Group:
        """The group, for a member. Raises GroupNotFoundError, InvalidFieldError for a reserved one."""
        _refuse_reserved("start.name", group_id)
        return await self.find(caller.tenant, group_id)

    async def find(self, tenant: Tenant, group_id: str) -> Group:
        """The group of that name. Raises GroupNotFoundError."""
        group = await self._groups.find(tenant, group_id)
        if group is None:
            raise GroupNotFoundError(group=f"groups/{group_id}")
        return group

    async def create_internal(
        self, tenant: Tenant, group_id: str, spec: GroupSpec, owner: str, start: Start | None = None
    ) -> Group:
        """Make a group of the service's own, whose id begins with RESERVED; the same again changes nothing.

        It begins at `start`, with what comes from now on if there is none. Raises GroupExistsError.
        """
        return await self._create(tenant, group_id, spec, owner, start or Latest(), "start_at")

    async def delete_internal(self, tenant: Tenant, group_id: str) -> bool:
        """Delete a group with its dead letters and tell its members; whether there was one.

        Deleting it again finishes what was cut short.
        """
        group = await self._groups.find(tenant, group_id)
        deleted = group is not None and await self._groups.delete(group)
        if group is not None:
            self._consumption.deleted(group)
        await self._burials.sweep(tenant, group_id)
        return deleted

    async def _create(
        self, tenant: Tenant, group_id: str, spec: GroupSpec, owner: str, start: Start, field: str
    ) -> Group:
        wanted = Group(
            uid="",
            tenant=tenant,
            id=group_id,
            where=spec.where,
            max_attempts=spec.max_attempts,
            lease=spec.lease,
            owner=owner,
            created_at=self._clock.now(),
        )
        found = await self._groups.find(tenant, group_id)
        if found is None:
            whole = not spec.where.space_uid
            position = await position_of(self._log, start, f"{field}.after_position", whole=whole)
            found = await self._groups.create(wanted, position)
            await self._burials.sweep(tenant, group_id)
        if differences := list(_differences(found, wanted)):
            text = f"group {wanted.name!r} exists already and is another: {'; '.join(differences)}"
            raise GroupExistsError(text, group=wanted.name)
        return found

    async def _check_number(self, tenant: Tenant) -> None:
        number, after = 0, ""
        while groups := await self._groups.list_groups(tenant, after, _COUNTED_AT_ONCE):
            number += sum(not group.id.startswith(RESERVED) for group in groups)
            after = groups[-1].id
            if number >= self._max_groups:
                text = f"the tenant has {self._max_groups} groups, as many as are allowed; delete some first"
                raise QuotaExceededError(text, quota="groups", limit=str(self._max_groups))

    async def _check_access(self, caller: Identity, group: Group, method: str) -> None:
        await self._access.check(caller, Action.SUBSCRIBE, group.where.types, group.where.subjects, method)

    async def _view(self, group: Group) -> GroupView:
        if found := await self._views([group]):
            return found[0]
        raise GroupNotFoundError(group=group.name)

    async def _views(self, groups: Sequence[Group]) -> list[GroupView]:
        """How groups stand, but not those that are deleted meanwhile."""
        head, dead = await self._log.head(), await self._dead_letters.counts(groups)
        views: list[GroupView] = []
        for start in range(0, len(groups), _ASKED_AT_ONCE):
            some = groups[start : start + _ASKED_AT_ONCE]
            for group, standing in zip(some, await asyncio.gather(*map(self._standing, some)), strict=True):
                if standing is not None:
                    lag = max(0, head - standing.position)
                    views.append(GroupView(group, standing, dead.get(group.uid, 0), lag))
        return views

    async def _standing(self, group: Group) -> Standing | None:
        try:
            return await self._groups.standing(group)
        except GroupNotFoundError:
            return None


def _differences(found: Group, wanted: Group) -> Iterator[str]:
    """What makes two groups of one name different: each field with the value that is there, and that was asked for."""
    asked = _content(wanted)
    for field, value in _content(found).items():
        if value != asked[field]:
            yield f"{field} is {_shown(value)}, not {_shown(asked[field])}"


def _content(group: Group) -> dict[str, object]:
    """What makes two groups of one name the same, by the names that clients know. The order of patterns is nothing."""
    return {
        "filter.types": frozenset(group.where.types),
        "filter.subjects": frozenset(group.where.subjects),
        "filter.space_uid": group.where.space_uid or frozenset(),
        "max_attempts": group.max_attempts,
        "lease": group.lease,
    }


def _shown(value: object) -> str:
    """A value for people, cut if it is long."""
    if isinstance(value, timedelta):
        return f"{value / timedelta(seconds=1):.12g} s"
    text = (", ".join(sorted(value)) or "(any)") if isinstance(value, frozenset) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _refuse_reserved(field: str, group_id: str) -> None:
    if group_id.startswith(RESERVED):
        text = f"{group_id!r} begins with {RESERVED!r}, which is reserved for the groups of webhooks"
        raise InvalidFieldError.of([Violation(field, text)])


def _check_lease(lease: timedelta) -> None:
    if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
        text = f"{lease.total_seconds():g} s: allowed is 1 s to 3600 s"
        raise InvalidFieldError.of([Violation("group.lease", text)])
