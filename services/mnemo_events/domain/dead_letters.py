"""Dead letters: events that a group could not do, each with a copy of its event, until it is done or purged.

Whatever is done in several steps is done in an order that loses nothing when it breaks off between two of them, and the
whole may be done again. An event is buried before the group lets go of it. A replay is marked before the group takes
the event in again: one that is marked only is taken in by the next replay. A replayed event that is done is removed
before the group lets go of it: if the group gives it out again, it was done twice, and never not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.access import Action
from mnemocore import paging
from mnemocore.errors import DeadLetterNotFoundError, GroupNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.group import Group, Reason
    from mnemo_events.domain.ports import Engine
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid, Tenant

MAX_MESSAGE: Final = 1000
"""Characters of what a member said that are kept."""
MAX_REPLAYED: Final = 1000
"""Dead letters one call replays at most."""
BATCH: Final = 1000
"""Rows removed at once."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which a page ends."""
BURIED_AT_ONCE: Final = 16
"""Events copied at once; each may have a payload of 1 MiB."""


@dataclass(frozen=True, slots=True)
class Death:
    """An event that a group gives up after an attempt. `event` None: its copy is there already."""

    position: int
    event: StoredEvent | None
    reason: Reason
    message: str
    attempt: int
    at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is kept. `attempts` counts over all replays."""

    event: StoredEvent
    reason: Reason
    message: str
    attempts: int
    replays: int
    first_died_at: datetime
    died_at: datetime
    replaying: bool


class DeadLetterStore(Protocol):
    """Keeps dead letters by group (its uid) and position. Methods raise StoreUnavailableError."""

    async def bury(self, group: Group, deaths: Sequence[Death]) -> None:
        """Keep dead letters; a replay of one that is there has failed.

        Burying again changes no more than the reason, and not for LEASE_EXPIRED: the attempt that was not settled after
        its burial. A death without an event, and no copy, is passed over.
        """
        ...

    async def find(self, group: Group, positions: Sequence[int]) -> list[DeadLetter]:
        """The dead letters at these positions that are there, in their order."""
        ...

    async def list_after(self, group: Group, after: int, reason: Reason | None, limit: int) -> list[DeadLetter]:
        """Up to `limit` dead letters after a position, of a reason or of any, in their order.

        None after that with which MAX_BYTES of payload are reached.
        """
        ...

    async def mark(self, group: Group, positions: Sequence[int], limit: int) -> tuple[list[int], list[int]]:
        """Mark up to `limit` dead letters (at these positions; none: any) as replayed, those that are not yet first.

        Returns the positions of those that are marked now, and of those that were.
        """
        ...

    async def unmark(self, group: Group, positions: Sequence[int]) -> None:
        """Take the mark of replays that did not begin, or were let go (at these positions; none: any)."""
        ...

    async def unmarked(self, group: Group, positions: Sequence[int]) -> bool:
        """Whether there are any that are not replayed (at these positions; none: any)."""
        ...

    async def remove(self, group: Group, positions: Sequence[int]) -> None:
        """Remove dead letters."""
        ...

    async def purge(self, group: Group, before: datetime | None, positions: Sequence[int], limit: int) -> int:
        """Remove up to `limit` that are not replayed, died last before a time, and are at these positions.

        Returns how many it removed; no time means any, no positions any.
        """
        ...

    async def counts(self, groups: Sequence[Group]) -> dict[str, int]:
        """How many dead letters groups have, by uid; those with none may be left out."""
        ...

    async def remove_group(self, uid: str, limit: int) -> int:
        """Remove up to `limit` of a group; how many it removed."""
        ...

    async def uids(self, tenant: Tenant, group_id: str) -> list[str]:
        """The uids of the groups of a name, of today and of before, that have dead letters."""
        ...

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> None:
        """Take payloads, and what members said of them, out of the copies with these keys (tenant, source, id)."""
        ...

    async def remove_space(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str, limit: int) -> int:
        """Remove up to `limit` copies of events of a space, but not of that with the id `keep_id`; how many."""
        ...


class Burials:
    """Puts events aside for good, and takes them up again when they are done."""

    def __init__(self, engine: Engine, store: DeadLetterStore) -> None:
        self._log = engine.log
        self._groups = engine.groups
        self._store = store

    async def bury(self, group: Group, deaths: Sequence[Death]) -> None:
        """Keep copies of events that the group gives up, given without their events.

        What is in neither the log nor a copy was erased, and is passed over.
        """
        for first in range(0, len(deaths), BURIED_AT_ONCE):
            await self._bury(group, deaths[first : first + BURIED_AT_ONCE])

    async def _bury(self, group: Group, deaths: Sequence[Death]) -> None:
        positions = [death.position for death in deaths]
        events = {stored.position: stored for stored in await self._log.get(positions)}
        complete = [
            Death(death.position, events.get(death.position), death.reason, death.message, death.attempt, death.at)
            for death in deaths
        ]
        await self._store.bury(group, complete)
        await self._follow_the_log(group, events)

    async def events(self, group: Group, positions: Sequence[int]) -> list[StoredEvent]:
        """The events at these positions, in their order, from the log, or from copies where the log was trimmed."""
        found = {stored.position: stored for stored in await self._log.get(positions)}
        if missing := [position for position in positions if position not in found]:
            found |= {letter.event.position: letter.event for letter in await self._store.find(group, missing)}
        return [found[position] for position in sorted(found)]

    async def done(self, group: Group, positions: Sequence[int]) -> None:
        """Replayed events are done: they are no dead letters any more."""
        await self._store.remove(group, positions)

    async def sweep(self, tenant: Tenant, group_id: str) -> None:
        """Remove the dead letters of groups of that name that are gone."""
        uids = await self._store.uids(tenant, group_id)
        group = await self._groups.find(tenant, group_id) if uids else None
        for uid in uids:
            if group is None or group.uid != uid:
                while await self._store.remove_group(uid, BATCH) == BATCH:
                    pass

    async def _follow_the_log(self, group: Group, copied: dict[int, StoredEvent]) -> None:
        """Erase in copies what was erased in the log while they were made."""
        now = {stored.position: stored for stored in await self._log.get(list(copied))} if copied else {}
        gone = [position for position, stored in copied.items() if position not in now and stored.event.space_uid]
        redacted = [
            stored.event.key
            for position, stored in now.items()
            if copied[position].event.data and not stored.event.data
        ]
        if gone:
            await self._store.remove(group, gone)
        if redacted:
            await self._store.redact(redacted)


class DeadLetters:
    """What clients do with the dead letters of their groups; it takes the right to read what the group reads.

    Methods raise GroupNotFoundError and AccessDeniedError.
    """

    def __init__(
        self, engine: Engine, store: DeadLetterStore, access: Access, clock: Clock, revived: Callable[[Group], None]
    ) -> None:
        self._groups = engine.groups
        self._store = store
        self._access = access
        self._clock = clock
        self._revived = revived

    async def list_page(
        self, caller: Identity, group_id: str, reason: Reason | None, page_size: int, page_token: str
    ) -> tuple[list[DeadLetter], str]:
        """A page by position, and the token of the next one. Raises PageTokenMismatchError."""
        group = await self._group(caller, group_id, "ListDeadLetters")
        size = paging.page_size(page_size)
        query = ["dead letters", group.uid, reason]
        start = paging.decode(query, page_token)
        found = await self._store.list_after(group, start[0] if start else 0, reason, size + 1)
        page = found[:size]
        is_cut = len(found) > size or sum(len(letter.event.event.data) for letter in page) >= MAX_BYTES
        return page, paging.encode(query, [page[-1].event.position]) if is_cut else ""

    async def get(self, caller: Identity, group_id: str, position: int) -> DeadLetter:
        """One dead letter. Raises DeadLetterNotFoundError."""
        group = await self._group(caller, group_id, "GetDeadLetter")
        if found := await self._store.find(group, [position]):
            return found[0]
        raise DeadLetterNotFoundError(dead_letter=f"{group.name}/deadLetters/{position}")

    async def replay(self, caller: Identity, group_id: str, positions: Sequence[int]) -> tuple[int, bool]:
        """Give dead letters (at these positions; none: any) to the group again, up to MAX_REPLAYED.

        Returns how many are replayed now, and whether there are more that could be.
        """
        group = await self._group(caller, group_id, "ReplayDeadLetters")
        marked, were_marked = await self._store.mark(group, positions, MAX_REPLAYED)
        revived = await self._groups.revive(group, sorted(marked + were_marked), self._clock.now())
        if held := sorted(set(marked) - set(revived)):
            await self._store.unmark(group, held)
        self._revived(group)
        more = len(marked) == MAX_REPLAYED and await self._store.unmarked(group, positions)
        return len(revived), more

    async def purge(self, caller: Identity, group_id: str, before: datetime | None, positions: Sequence[int]) -> int:
        """Remove dead letters that died last before a time and are at these positions; how many."""
        group = await self._group(caller, group_id, "PurgeDeadLetters")
        total = 0
        while purged := await self._store.purge(group, before, positions, BATCH):
            total += purged
        return total

    async def _group(self, caller: Identity, group_id: str, method: str) -> Group:
        group = await self._groups.find(caller.tenant, group_id)
        if group is None:
            raise GroupNotFoundError(group=f"groups/{group_id}")
        await self._access.check(caller, Action.SUBSCRIBE, group.where.types, group.where.subjects, method)
        return group
