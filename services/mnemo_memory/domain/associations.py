"""Associations: weighted links between the memories of a space, and what can be found by following them.

Associations are no part of the history of a memory. Memories out of recall keep theirs, but nothing is found through
them; they count as the beginning or the end of a path, or as where activation begins, if they are named.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain import hebbian, paths, spreading
from mnemo_memory.domain.memories import MAX_ANSWER, fitting
from mnemo_memory.domain.memory import Role, State
from mnemocore import paging
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.memory import Filter, Memory, Space
    from mnemo_memory.domain.ports import Author, Request
    from mnemo_memory.domain.spreading import Activation, Edge
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId

LINKS_A_MEMORY: Final = 100
"""Links a memory may be the source of."""
NEW_LEARNT_LINKS: Final = 500
"""Links of the type CO_RECALLED that may be made in a space within LEARNING_WINDOW; others are not limited."""
LEARNING_WINDOW: Final = timedelta(hours=1)
MAX_PATHS: Final = 10
DEFAULT_NEIGHBOURS: Final = 100
MAX_NEIGHBOURS: Final = 1000
MAX_LINKS_SHOWN: Final = 1000
"""Links that come with a neighbourhood: the strongest ones."""
MAX_SPREAD: Final = 200
"""Memories that activation reaches for a recall."""


class AssociationType(IntEnum):
    """What sort of link. The numbers are those of the contract and of the database."""

    RELATED = 1
    PRECEDES = 2
    FOLLOWS = 3
    SUPPORTS = 4
    CONTRADICTS = 5
    EXTENDS = 6
    REFERENCES = 7
    DERIVED_FROM = 8
    CO_RECALLED = 9
    """The one that fades: it is learnt from use, the others are stated."""


class Direction(IntEnum):
    """Which way links are followed. The numbers are those of the contract."""

    BOTH = 0
    OUTGOING = 1
    INCOMING = 2

    @property
    def reverse(self) -> Direction:
        """The other way; both ways are their own reverse."""
        return _REVERSE[self]


_REVERSE: Final = {
    Direction.BOTH: Direction.BOTH,
    Direction.OUTGOING: Direction.INCOMING,
    Direction.INCOMING: Direction.OUTGOING,
}


@dataclass(frozen=True, slots=True)
class Link:
    """What a link is known by: there is one of each type from one memory to another."""

    source: MemoryId
    target: MemoryId
    type: AssociationType


@dataclass(frozen=True, slots=True)
class Association:
    """A link and its weight, above 0 and at most 1. `activations` counts how often it was reinforced, new is 1."""

    link: Link
    weight: float
    activations: int
    created_at: datetime
    updated_at: datetime
    principal: str


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a listing of links, the strongest first, of equal ones by source, target and type."""

    weight: float
    link: Link


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a link is to be: `weight` (None: as it is, 0.3 if new), or with `reinforce` one step more."""

    weight: float | None = None
    reinforce: bool = False
    positive: bool = False

    def after(self, before: float | None) -> float:
        """The weight after one of `before`, None for no link."""
        if self.reinforce:
            return hebbian.reinforced(before, positive=self.positive)
        if self.weight is not None:
            return self.weight
        return hebbian.NEW_WEIGHT if before is None else before


@dataclass(frozen=True, slots=True)
class LinkFilter:
    """Which links: those of a memory in a direction (None: of all), of any of `types` (all if empty), and so strong."""

    memory_id: MemoryId | None = None
    direction: Direction = Direction.BOTH
    types: tuple[AssociationType, ...] = ()
    min_weight: float = 0.0

    def as_query(self) -> list[object]:
        """The filter as JSON values, for page tokens."""
        return [self.memory_id, self.direction, sorted(self.types), self.min_weight]


@dataclass(frozen=True, slots=True)
class Conduct:
    """What conducts: links of any of `types` (all if empty), neighbours in sessions, and active memories in `part`.

    `now` is when they are active; the memories of `also` conduct in any state.
    """

    part: Filter
    now: datetime
    types: tuple[AssociationType, ...] = ()
    also: tuple[MemoryId, ...] = ()


@dataclass(frozen=True, slots=True)
class AssociationPath:
    """Links in the order of a path, and the product of their weights."""

    associations: tuple[Association, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A memory that activation reached."""

    memory: Memory
    activation: Activation


class AssociationStore(Protocol):
    """The links of all spaces. Every write is one transaction that is durable when the call returns."""

    async def put(
        self, space: Space, link: Link, strength: Strength, author: Author, request: Request | None
    ) -> Association:
        """Set or reinforce a link; the weakest other link of its source goes if there are too many.

        Raises SpaceNotFoundError, MemoryNotFoundError, RequestIdReusedError, QuotaExceededError if it is new, of the
        type CO_RECALLED, and NEW_LEARNT_LINKS were made in the LEARNING_WINDOW before.
        """
        ...

    async def remove(self, space: Space, source: MemoryId, target: MemoryId, type: AssociationType | None) -> int:
        """Remove the link of one type, or of all; returns the number."""
        ...

    async def list_links(
        self, space: Space, where: LinkFilter, part: Filter, after: Place | None, limit: int
    ) -> list[Association]:
        """Links between memories in `part`, in whatever state, after a place of the listing."""
        ...

    async def links_of(
        self, space: Space, ids: Sequence[MemoryId], direction: Direction, conduct: Conduct, limit: int
    ) -> list[Association]:
        """The strongest links of each of some memories, at most `limit` a memory, with what conducts."""
        ...

    async def edges_of(
        self,
        space: Space,
        ids: Sequence[MemoryId],
        passed: Collection[MemoryId],
        conduct: Conduct,
        limit: int,
        session_weights: Sequence[float],
    ) -> list[Edge]:
        """Where activation flows from each of some memories, but for those in `passed`: over links in both directions.

        At most `limit` links a memory, the strongest; and its neighbours in the session, as far as there are weights.
        """
        ...

    async def links_among(
        self, space: Space, ids: Sequence[MemoryId], types: Sequence[AssociationType], limit: int
    ) -> list[Association]:
        """The strongest links that have both ends in `ids`."""
        ...


class MemoryReader(Protocol):
    """Reads memories."""

    async def get(self, space: Space, ids: Sequence[MemoryId], now: datetime) -> dict[MemoryId, Memory]:
        """The memories among `ids` that exist, in their state at `now`."""
        ...


class Associations:
    """The associations of all spaces. `check_room` raises StoreFullError when the store has no room for more."""

    def __init__(
        self,
        store: AssociationStore,
        memories: MemoryReader,
        access: Access,
        clock: Clock,
        check_room: Callable[[], None],
    ) -> None:
        self._store = store
        self._memories = memories
        self._access = access
        self._clock = clock
        self._check_room = check_room

    async def associate(
        self, caller: Identity, slug: str, link: Link, strength: Strength, request: Request | None
    ) -> tuple[Space, Association]:
        """Set or reinforce a link; the space and the link as it is now.

        Raises InvalidFieldError, SpaceNotFoundError, RoleRequiredError, MemoryNotFoundError, RequestIdReusedError,
        StoreFullError, QuotaExceededError if too many links of the type CO_RECALLED were made in the hour before.
        """
        _refuse_contradictions(link, strength)
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.ANNOTATE)
        await self._require_visible(entry, [link.source, link.target])
        author = entry.author(self._clock.now())
        return entry.space, await self._store.put(entry.space, link, strength, author, request)

    async def dissociate(
        self, caller: Identity, slug: str, source: MemoryId, target: MemoryId, type: AssociationType | None
    ) -> int:
        """Remove the link of one type, or with None of all; returns the number. Raises SpaceNotFoundError."""
        entry = await self._access.enter(caller, slug, Role.ANNOTATE)
        if not entry.whole and len(await self._visible(entry, [source, target])) < 2:
            return 0
        return await self._store.remove(entry.space, source, target, type)

    async def list_associations(
        self, caller: Identity, slug: str, where: LinkFilter, page_size: int, page_token: str
    ) -> tuple[Space, list[Association], str]:
        """One page, strongest first, and the token of the next. Raises SpaceNotFoundError, PageTokenMismatchError."""
        entry = await self._access.enter(caller, slug, Role.READ)
        query = ["associations", entry.space.uid, where.as_query()]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        after = Place(position[0], Link(position[1], position[2], AssociationType(position[3]))) if position else None
        found = await self._store.list_links(entry.space, where, entry.part, after, size + 1)
        more = len(found) > size
        last = found[size - 1] if more else None
        token = paging.encode(query, [last.weight, last.link.source, last.link.target, last.link.type]) if last else ""
        return entry.space, found[:size], token

    async def find_paths(
        self,
        caller: Identity,
        slug: str,
        source: MemoryId,
        target: MemoryId,
        *,
        max_hops: int = 0,
        limit: int = 0,
        types: tuple[AssociationType, ...] = (),
        direction: Direction = Direction.BOTH,
    ) -> tuple[Space, list[AssociationPath]]:
        """The best paths without repeated memories, best first.

        Of several links between two memories the strongest counts. From each memory on the way the 100 strongest links
        are followed, and at each hop from the 100 most promising memories. `max_hops` 0 means 5; `limit` 0 means 1, and
        more than 10 means 10.
        Raises InvalidFieldError, SpaceNotFoundError, MemoryNotFoundError.
        """
        if source == target:
            raise InvalidFieldError.of([Violation("target_id", "is source_id; allowed is another memory")])
        entry = await self._access.enter(caller, slug, Role.READ)
        await self._require_visible(entry, [source, target])
        conduct = Conduct(entry.part, self._clock.now(), types, (source, target))
        hops = max_hops or paths.MAX_HOPS
        links = {
            *await self._reach(entry.space, source, direction, conduct, (hops + 1) // 2),
            *await self._reach(entry.space, target, direction.reverse, conduct, hops // 2),
        }
        steps = _steps(links, direction)
        weights = {origin: {goal: each.weight for goal, each in goals.items()} for origin, goals in steps.items()}
        wanted = min(limit, MAX_PATHS) or 1
        found = await asyncio.to_thread(paths.best_paths, weights, source, target, hops, wanted)
        return entry.space, [_path(path, steps) for path in found]

    async def neighbourhood(
        self,
        caller: Identity,
        slug: str,
        ids: Sequence[MemoryId],
        *,
        max_hops: int = 0,
        limit: int = 0,
        types: tuple[AssociationType, ...] = (),
        sessions: bool = True,
    ) -> tuple[Space, list[Neighbour], list[Association]]:
        """The active memories that activation reaches from `ids`, the most active first, and the links among them all.

        `max_hops` 0 means 3; `limit` 0 means 100, more than 1,000 means 1,000.
        Raises SpaceNotFoundError, MemoryNotFoundError, InvalidFieldError if they are more than one answer carries.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        await self._require_visible(entry, ids)
        conduct = Conduct(entry.part, self._clock.now(), types)
        hops = max_hops or spreading.MAX_HOPS
        reached = await self._activate(entry.space, dict.fromkeys(ids, 1.0), conduct, hops, sessions=sessions)
        best = _most_active(reached, min(limit, MAX_NEIGHBOURS) or DEFAULT_NEIGHBOURS)
        neighbours = await self._load(entry, best, conduct.now)
        if fitting(each.memory for each in neighbours) < len(neighbours):
            described = f"{len(neighbours)} neighbours exceed {MAX_ANSWER}; ask for fewer"
            raise InvalidFieldError.of([Violation("limit", described)])
        shown = [*ids, *(each.memory.id for each in neighbours)]
        return entry.space, neighbours, await self._store.links_among(entry.space, shown, types, MAX_LINKS_SHOWN)

    async def spread(self, entry: Entry, seeds: Mapping[MemoryId, float], now: datetime) -> dict[MemoryId, float]:
        """The activation of the active memories that the caller may see and the seeds reach, without the seeds.

        At most 200, the most active ones. Seeds are memories of the space the caller may see, each with its activation.
        """
        conduct = Conduct(entry.part, now)
        reached = await self._activate(entry.space, seeds, conduct, spreading.MAX_HOPS, sessions=True)
        return {memory_id: found.energy for memory_id, found in _most_active(reached, MAX_SPREAD).items()}

    async def _activate(
        self, space: Space, seeds: Mapping[MemoryId, float], conduct: Conduct, hops: int, *, sessions: bool
    ) -> dict[MemoryId, Activation]:
        weights = spreading.SESSION_WEIGHTS if sessions else ()

        async def load(ids: Sequence[MemoryId], passed: Collection[MemoryId]) -> Iterable[Edge]:
            return await self._store.edges_of(space, ids, passed, conduct, spreading.LINKS_A_MEMORY, weights)

        return await spreading.spread(seeds, load, hops)

    async def _reach(
        self, space: Space, start: MemoryId, direction: Direction, conduct: Conduct, hops: int
    ) -> set[Association]:
        """The links that are met by going `hops` far from a memory."""
        links: set[Association] = set()
        best = {start: 1.0}
        frontier = dict(best)
        for _ in range(hops):
            if not frontier:
                break
            found = await self._store.links_of(space, list(frontier), direction, conduct, spreading.LINKS_A_MEMORY)
            links.update(found)
            fresh: dict[MemoryId, float] = {}
            for origin, goals in _steps(found, direction).items():
                for goal, each in goals.items():
                    if origin in frontier and goal not in best:
                        fresh[goal] = max(fresh.get(goal, 0.0), frontier[origin] * each.weight)
            best.update(fresh)
            frontier = dict(sorted(fresh.items(), key=lambda item: (-item[1], item[0]))[: spreading.MAX_FRONTIER])
        return links

    async def _load(self, entry: Entry, reached: Mapping[MemoryId, Activation], now: datetime) -> list[Neighbour]:
        """The memories that were reached and still are what conducts."""
        found = await self._memories.get(entry.space, list(reached), now)
        return [
            Neighbour(memory, activation)
            for memory_id, activation in reached.items()
            if (memory := found.get(memory_id)) is not None and memory.state is State.ACTIVE and entry.sees(memory)
        ]

    async def _visible(self, entry: Entry, ids: Sequence[MemoryId]) -> set[MemoryId]:
        found = await self._memories.get(entry.space, ids, self._clock.now())
        return {memory.id for memory in entry.visible(found.values())}

    async def _require_visible(self, entry: Entry, ids: Sequence[MemoryId]) -> None:
        visible = await self._visible(entry, ids)
        for memory_id in ids:
            if memory_id not in visible:
                raise entry.unknown(memory_id)


def _refuse_contradictions(link: Link, strength: Strength) -> None:
    broken = []
    if link.source == link.target:
        broken.append(Violation("target_id", "is source_id; allowed is another memory of the space"))
    if strength.reinforce and strength.weight is not None:
        broken.append(Violation("weight", "is set together with reinforce; allowed is one of them"))
    if strength.positive and not strength.reinforce:
        broken.append(Violation("positive", "is set without reinforce; allowed is only together with it"))
    if broken:
        raise InvalidFieldError.of(broken)


def _steps(links: Iterable[Association], direction: Direction) -> dict[MemoryId, dict[MemoryId, Association]]:
    """From where one can go where, and over which link: the strongest."""
    steps: dict[MemoryId, dict[MemoryId, Association]] = {}
    for each in sorted(links, key=lambda each: (-each.weight, each.link.type, each.link.source)):
        link = each.link
        if direction is not Direction.INCOMING:
            steps.setdefault(link.source, {}).setdefault(link.target, each)
        if direction is not Direction.OUTGOING:
            steps.setdefault(link.target, {}).setdefault(link.source, each)
    return steps


def _path(path: paths.Path, steps: Mapping[MemoryId, Mapping[MemoryId, Association]]) -> AssociationPath:
    between = zip(path.memories, path.memories[1:], strict=False)
    return AssociationPath(tuple(steps[origin][goal] for origin, goal in between), path.weight)


def _most_active(reached: Mapping[MemoryId, Activation], limit: int) -> dict[MemoryId, Activation]:
    ranked = sorted(reached.items(), key=lambda item: (-item[1].energy, item[0]))
    return dict(ranked[:limit])
