"""What agents have in mind for minutes, and how it becomes memory.

Working memory belongs to a space, an agent and a session (an empty one is a session too) and holds at most CAPACITY
items. An equal text (of one kind and actor) that is pushed again is the same item: it counts one more access, its
newest description and its new life count, it comes first in listings and leaves last, and it keeps its id, its time of
creation and its protection. Protected items do not expire, make no room and are not consolidated. Listing is no access.
Callers that may see only a part of a space have no working memory in it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.memory import OnDuplicate, Origin, Role
from mnemo_memory.domain.ports import Author
from mnemocore.errors import InvalidFieldError, MnemoError, UnavailableError, Violation, WorkingItemNotFoundError
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnemo_memory.domain.access import Access
    from mnemo_memory.domain.memory import Draft, Memory, Space
    from mnemo_memory.domain.ports import Request
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

CAPACITY: Final = 100
"""Items an agent and session."""
LIFE: Final = timedelta(seconds=600)
"""How long an item lives unless a push says otherwise."""
LONGEST_LIFE: Final = timedelta(days=1)
RIPE_AGE: Final = timedelta(seconds=30)
"""Consolidation leaves alone what is not older than this."""
THRESHOLD: Final = 0.3
"""The least score of what consolidation keeps."""
MOST_KEPT: Final = 50
"""Items one consolidation keeps at most."""
MOST_EXAMINED: Final = 1000
"""Items one consolidation looks at, at most; the next one goes on behind them."""
CONSOLIDATOR: Final = "memory-core"
"""The principal that histories name for what was consolidated."""

_PAGE: Final = 100
_IMPORTANCE, _USE, _NOVELTY, _AGE = 0.4, 0.3, 0.2, 0.1
_FULL_USE: Final = 10
_FULL_AGE: Final = 300.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkingItem:
    """Something an agent has in mind. `draft` is the memory it would become, `expires_at` None if it is protected."""

    id: str
    agent: str
    session: str
    draft: Draft
    protected: bool
    accesses: int
    created_at: datetime
    expires_at: datetime | None

    def pushed_again(self, newer: WorkingItem) -> WorkingItem:
        """What becomes of it when an equal text is pushed as `newer`."""
        protected = self.protected or newer.protected
        return replace(
            newer,
            id=self.id,
            protected=protected,
            accesses=self.accesses + 1,
            created_at=self.created_at,
            expires_at=None if protected else newer.expires_at,
        )

    def as_memory(self) -> Draft:
        """The memory it becomes: of its agent, session and time of creation, where the draft says nothing else."""
        provenance = replace(
            self.draft.provenance,
            origin=self.draft.provenance.origin or Origin.AGENT,
            agent=self.draft.provenance.agent or self.agent,
        )
        return replace(
            self.draft,
            session=self.draft.session or self.session,
            occurred_at=self.draft.occurred_at or self.created_at,
            provenance=provenance,
        )


@dataclass(frozen=True, slots=True)
class Pushed:
    """The outcome of a push: the item, and the id of the one that made room, empty if none did."""

    item: WorkingItem
    evicted_id: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk over all items goes on: behind the item with this end of life and this id."""

    expires_at: datetime
    id: str


class WorkingStore(Protocol):
    """Working memory of all spaces. Every write is one transaction. Items whose time is over are not there."""

    async def push(self, space: Space, item: WorkingItem, capacity: int, request: Request | None) -> Pushed:
        """Put an item first, pushed at its time of creation; the last one without protection makes room.

        An equal one that is there becomes what `WorkingItem.pushed_again` says. Raises WorkingMemoryFullError,
        SpaceNotFoundError, RequestIdReusedError.
        """
        ...

    async def list_items(self, space: Space, agent: str, session: str, now: datetime) -> list[WorkingItem]:
        """The items, the one that was pushed last first."""
        ...

    async def clear(self, space: Space, agent: str, session: str, ids: Sequence[str], now: datetime) -> int:
        """Remove the named items, all without `ids`; returns how many were there. Raises SpaceNotFoundError."""
        ...

    async def promote(
        self,
        space: Space,
        item_id: str,
        draft_of: Callable[[WorkingItem], Draft],
        author: Author,
        request: Request | None,
    ) -> Memory:
        """Write an item as the memory that `draft_of` makes of it and remove it, in one transaction.

        Raises WorkingItemNotFoundError, or what writing a memory raises.
        """
        ...

    async def ripe(
        self, now: datetime, born_before: datetime, after: Place | None, limit: int
    ) -> tuple[list[tuple[Space, WorkingItem]], Place | None]:
        """Items of all spaces without protection, born before a time, by the end of their lives, after a place.

        At most `limit`, fewer if the key of a space is not there; and the place where to go on, None at the end.
        """
        ...

    async def remove_expired(self, now: datetime) -> int:
        """Remove items whose time is over; returns their number."""
        ...


class Novelty(Protocol):
    """Compares drafts with what is known."""

    async def of(self, space: Space, draft: Draft) -> float | None:
        """One minus the similarity of a draft to the nearest known memory of its space, 0 to 1; None if unknown."""
        ...


def score(importance: float, accesses: int, novelty: float, age: timedelta) -> float:
    """How much an item deserves to be kept, 0 to 1: what matters, is used, is new, and has been in mind for long."""
    use = min(1.0, accesses / _FULL_USE)
    maturity = min(1.0, age.total_seconds() / _FULL_AGE)
    return _IMPORTANCE * importance + _USE * use + _NOVELTY * novelty + _AGE * maturity


class WorkingMemory:
    """The working memory of all spaces.

    `committed` is called after every commit of a memory, to wake the relay; `check_room` before anything is written: it
    raises StoreFullError when the store has no room.
    """

    def __init__(
        self,
        store: WorkingStore,
        access: Access,
        clock: Clock,
        novelty: Novelty,
        committed: Callable[[], None],
        check_room: Callable[[], None],
    ) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._novelty = novelty
        self._committed = committed
        self._check_room = check_room
        self._place: Place | None = None

    async def push(
        self,
        caller: Identity,
        slug: str,
        agent: str,
        session: str,
        draft: Draft,
        *,
        protected: bool,
        life: timedelta | None,
        request: Request | None,
    ) -> Pushed:
        """Put something into working memory, for `life`, LIFE if None.

        Raises InvalidFieldError, SpaceNotFoundError, RoleRequiredError, WorkingMemoryFullError, RequestIdReusedError,
        StoreFullError.
        """
        life = LIFE if life is None else life
        if not timedelta(0) < life <= LONGEST_LIFE:
            allowed = f"more than 0 s and at most {LONGEST_LIFE.total_seconds():.0f} s"
            raise InvalidFieldError.of([Violation("ttl", f"is {life.total_seconds():g} s; allowed is {allowed}")])
        if draft.media is not None:
            raise InvalidFieldError.of([Violation("memory.media", "is not allowed: working memory holds text only")])
        self._check_room()
        space = await self._space(caller, slug, Role.WRITE)
        now = self._clock.now()
        expires_at = None if protected else now + life
        item = WorkingItem(new_uuid(now), agent, session, draft, protected, 1, now, expires_at)
        return await self._store.push(space, item, CAPACITY, request)

    async def list_items(self, caller: Identity, slug: str, agent: str, session: str) -> list[WorkingItem]:
        """The items of an agent and session, the one that was pushed last first.

        Raises SpaceNotFoundError, RoleRequiredError.
        """
        space = await self._space(caller, slug, Role.READ)
        return await self._store.list_items(space, agent, session, self._clock.now())

    async def clear(self, caller: Identity, slug: str, agent: str, session: str, ids: Sequence[str]) -> int:
        """Remove the named items, all without `ids`, protected ones too; returns how many were there.

        Raises SpaceNotFoundError, RoleRequiredError.
        """
        space = await self._space(caller, slug, Role.WRITE)
        return await self._store.clear(space, agent, session, ids, self._clock.now())

    async def promote(self, caller: Identity, slug: str, item_id: str, request: Request | None) -> tuple[Space, Memory]:
        """Write an item as a memory and take it out, in one transaction; returns the space and the memory.

        Raises SpaceNotFoundError, RoleRequiredError, WorkingItemNotFoundError, StoreFullError, or what writing raises.
        """
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.WRITE)
        space = entry.require_whole()
        author = entry.author(self._clock.now(), "promoted from working memory")
        memory = await self._store.promote(space, item_id, WorkingItem.as_memory, author, request)
        self._committed()
        return space, memory

    # By itself

    async def consolidate(self, now: datetime) -> int:
        """Make memories of the items that deserve it, MOST_KEPT at most; returns their number.

        What cannot be kept, for want of room in its space for instance, stays where it is. Raises UnavailableError,
        StoreFullError.
        """
        self._check_room()
        kept = examined = 0
        while examined < MOST_EXAMINED:
            found, place = await self._store.ripe(now, now - RIPE_AGE, self._place, _PAGE)
            for space, item in found:
                if await self._deserves(space, item, now) and await self._keep(space, item, now):
                    kept += 1
                if kept == MOST_KEPT:
                    self._place = _place_of(item)
                    return kept
            examined += _PAGE
            self._place = place
            if place is None:
                break
        return kept

    async def keep_consolidating(self, seconds: float) -> None:
        """Consolidate every so many seconds until cancelled."""
        while True:
            await self._clock.sleep(seconds)
            await self.consolidate(self._clock.now())

    async def keep_clean(self, seconds: float) -> None:
        """Remove items whose time is over every so many seconds until cancelled."""
        while True:
            await self._clock.sleep(seconds)
            await self._store.remove_expired(self._clock.now())

    async def _deserves(self, space: Space, item: WorkingItem, now: datetime) -> bool:
        """Whether the score is high enough. Novelty is asked for only if it decides; unknown it counts nothing."""
        importance, age = item.draft.importance, now - item.created_at
        if score(importance, item.accesses, 0.0, age) >= THRESHOLD:
            return True
        if score(importance, item.accesses, 1.0, age) < THRESHOLD:
            return False
        novelty = await self._novelty.of(space, item.draft)
        return score(importance, item.accesses, novelty or 0.0, age) >= THRESHOLD

    async def _keep(self, space: Space, item: WorkingItem, now: datetime) -> bool:
        author = Author(CONSOLIDATOR, now, "consolidated from working memory")
        try:
            await self._store.promote(space, item.id, _consolidated, author, None)
        except UnavailableError:
            raise  # the store does not answer: no item can be kept
        except WorkingItemNotFoundError:
            return False  # promoted, cleared or consolidated by another replica meanwhile
        except MnemoError as error:
            _log.warning("an item of space %s is not consolidated, the others go on: %s", space.uid, error)
            return False
        self._committed()
        return True

    async def _space(self, caller: Identity, slug: str, need: Role) -> Space:
        return (await self._access.enter(caller, slug, need)).require_whole()


def _consolidated(item: WorkingItem) -> Draft:
    """The memory an item becomes by itself: not a second one of the same content unless another rule was named."""
    draft = item.as_memory()
    return replace(draft, on_duplicate=draft.on_duplicate or OnDuplicate.KEEP)


def _place_of(item: WorkingItem) -> Place | None:
    return None if item.expires_at is None else Place(item.expires_at, item.id)
