"""Carrying whole spaces out and in, record by record.

An export shows a space as it was at one revision, however long it takes and wherever it is taken up again.
Associations, sessions and uses have no history: they are shown as they are when they are read.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from mnemo_memory.domain.associations import Association, AssociationType, Link
from mnemo_memory.domain.media import PART_BYTES
from mnemo_memory.domain.memory import Change, Filter, Media, Memory, Revision, Role
from mnemo_memory.domain.sessions import Session
from mnemocore import paging
from mnemocore.errors import (
    InvalidFieldError,
    MnemoError,
    PageTokenMismatchError,
    RoleRequiredError,
    SpaceNotFoundError,
    Violation,
)
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.media import MediaStore
    from mnemo_memory.domain.memory import Space, State
    from mnemo_memory.domain.ports import Author
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

IMPORTED: Final = "imported"
"""The reason of the revisions that an import makes."""
MAX_TAGS: Final = 32
MAX_METADATA_KEYS: Final = 64

_EVERYTHING: Final = Filter()
_MEMORIES: Final = "memories"
_REVISIONS: Final = "revisions"
_ASSOCIATIONS: Final = "associations"
_SESSIONS: Final = "sessions"
_END: Final = "end"
_WITH_MEDIA: Final = frozenset({Change.CREATED, Change.UPDATED})


class OnConflict(IntEnum):
    """What to do with a record whose id is taken. The numbers are those of the contract."""

    SKIP = 1
    OVERWRITE = 2
    MERGE = 3
    ERROR = 4


class Outcome(IntEnum):
    """What became of a record. The numbers are those of the contract."""

    WRITTEN = 1
    SKIPPED = 2
    OVERWRITTEN = 3
    MERGED = 4


@dataclass(frozen=True, slots=True)
class MediaPart:
    """A part of a medium: PART_BYTES from `offset` on, the last one what is left."""

    media: Media
    offset: int
    data: bytes


Record: TypeAlias = Memory | Revision | Association | Session | MediaPart


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export. `up_to` is the last revision of a history, 0 the newest."""

    where: Filter = _EVERYTHING
    states: tuple[State, ...] = ()
    history: bool = False
    media: bool = False
    up_to: int = 0

    @property
    def everything(self) -> bool:
        """Whether no memory is left out."""
        return self.where == _EVERYTHING and not self.states


@dataclass(frozen=True, slots=True)
class View:
    """What an export shows of a space: the state after `revision`, seen at `at`, by one who sees only `part`."""

    revision: int
    at: datetime
    part: Filter
    where: Filter
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of an export. `position` is where to go on after it, `total` the memories or revisions of the whole."""

    records: tuple[Record, ...]
    position: str
    total: int
    revision: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the records of a batch, whether it made revisions, and which memories it changed."""

    results: tuple[Outcome | MnemoError, ...]
    wrote: bool
    changed: tuple[MemoryId, ...]


class TransferStore(Protocol):
    """Reads and writes records. A page is bounded in bytes and comes with the key of its last row, or None."""

    async def count(self, space: Space, view: View, *, history: bool) -> int:
        """How many memories, or revisions with content, the export has."""
        ...

    async def memories(self, space: Space, view: View, after: int) -> tuple[list[Memory], int | None]:
        """Memories made after revision `after`, by creation, as the view shows them."""
        ...

    async def revisions(self, space: Space, view: View, after: int) -> tuple[list[Revision], int | None]:
        """Revisions with content after `after`, in order; their memories with the uses they have now."""
        ...

    async def associations(self, space: Space, view: View, after: Link | None) -> list[Association]:
        """Links between memories of the view, by source, target and type."""
        ...

    async def sessions(self, space: Space, after: int) -> list[tuple[int, Session]]:
        """Sessions with their numbers, by number."""
        ...

    async def write(self, space: Space, records: Sequence[Record], on_conflict: OnConflict, author: Author) -> Settled:
        """Write records in one transaction. Raises SpaceNotFoundError, QuotaExceededError."""
        ...


_Step: TypeAlias = "tuple[list[Record], list[Any]]"


class Transfer:
    """Exports and imports of all spaces.

    `committed` is called after every commit of memories, to wake the relay; `changed` with memories that are replaced,
    for caches; `check_room` raises StoreFullError when the store has no room for more.
    """

    def __init__(
        self,
        store: TransferStore,
        media: MediaStore,
        access: Access,
        clock: Clock,
        committed: Callable[[], None],
        changed: Callable[[SpaceUid, Sequence[MemoryId]], None],
        check_room: Callable[[], None],
    ) -> None:
        self._store = store
        self._media = media
        self._access = access
        self._clock = clock
        self._committed = committed
        self._changed = changed
        self._check_room = check_room

    async def export(
        self, caller: Identity, slug: str, selection: Selection, position: str
    ) -> AsyncGenerator[tuple[Space, Page]]:
        """The pages of an export after `position`; the last one has no records.

        Raises SpaceNotFoundError, also in the midst of it, RoleRequiredError, PageTokenMismatchError, and
        InvalidFieldError for a filter on a history.
        """
        entry = await self._enter(caller, slug, selection)
        query = _query(entry, selection)
        found = paging.decode(query, position)
        if found is None:
            newest = entry.space.revision
            revision = min(newest, selection.up_to) if selection.up_to else newest
            view = _view(entry, selection, revision, self._clock.now())
            total = await self._store.count(entry.space, view, history=selection.history)
            phase = _phases(entry, selection)[0]
            key: list[Any] = []
        else:
            view, total, phase, key = _resumed(entry, selection, found)
        for each in _from(phase, _phases(entry, selection)):
            async with aclosing(self._steps(entry.space, selection, view, each, key)) as steps:
                async for records, key_after in steps:
                    await self._require_unchanged(caller, slug, selection, entry)
                    token = _token(query, view, total, each, key_after)
                    yield entry.space, Page(tuple(records), token, total, view.revision)
            key = []
        await self._require_unchanged(caller, slug, selection, entry)
        yield entry.space, Page((), _token(query, view, total, _END, []), total, view.revision)

    async def write(
        self, caller: Identity, slug: str, records: Sequence[Record | MnemoError], on_conflict: OnConflict
    ) -> list[Outcome | MnemoError]:
        """Write a batch; durable when it returns. Of records that are errors already, the errors are returned.

        Raises SpaceNotFoundError, RoleRequiredError, StoreFullError, QuotaExceededError: nothing is written then.
        """
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.OWNER)
        space = entry.require_whole()
        good = [record for record in records if not isinstance(record, MnemoError)]
        author = entry.author(self._clock.now(), IMPORTED)
        settled = await self._store.write(space, good, on_conflict, author)
        if settled.wrote:
            self._committed()
        if settled.changed:
            self._changed(space.uid, settled.changed)
        following = iter(settled.results)
        return [record if isinstance(record, MnemoError) else next(following) for record in records]

    async def _enter(self, caller: Identity, slug: str, selection: Selection) -> Entry:
        if selection.history and not selection.everything:
            described = "is allowed without history only: a history is exported as a whole"
            raise InvalidFieldError.of([Violation("filter" if selection.where != _EVERYTHING else "states", described)])
        if selection.up_to and not selection.history:
            raise InvalidFieldError.of([Violation("up_to_revision", "is allowed with history only")])
        entry = await self._access.enter(caller, slug, Role.READ)
        if selection.history:
            entry.require_whole()
        return entry

    async def _require_unchanged(self, caller: Identity, slug: str, selection: Selection, entry: Entry) -> None:
        """Raise unless the space is still there and shows the caller what it did at the beginning."""
        now = await self._enter(caller, slug, selection)
        if now.space.uid != entry.space.uid:
            raise SpaceNotFoundError(space=entry.space.name)
        if now.part != entry.part:
            raise RoleRequiredError(
                f"what is shared with you of {entry.space.name!r} has changed; begin the export again",
                space=entry.space.name,
                role=Role.READ.name,
            )

    async def _steps(
        self, space: Space, selection: Selection, view: View, phase: str, key: list[Any]
    ) -> AsyncGenerator[_Step]:
        """The records of one phase after `key`, and the keys after each step."""
        if phase in (_MEMORIES, _REVISIONS):
            steps = self._history(space, selection, view, key) if phase == _REVISIONS else None
            async with aclosing(steps or self._memories(space, selection, view, key)) as inner:
                async for step in inner:
                    yield step
        elif phase == _ASSOCIATIONS:
            link = Link(MemoryId(key[0]), MemoryId(key[1]), AssociationType(key[2])) if key else None
            while links := await self._store.associations(space, view, link):
                link = links[-1].link
                yield list(links), [link.source, link.target, int(link.type)]
        elif phase == _SESSIONS:
            number = key[0] if key else 0
            while found := await self._store.sessions(space, number):
                number = found[-1][0]
                yield [session for _, session in found], [number]

    async def _memories(self, space: Space, selection: Selection, view: View, key: list[Any]) -> AsyncGenerator[_Step]:
        after, resumed = (key[0], key[1:]) if key else (0, [])
        last: int | None = after
        while last is not None:
            found, last = await self._store.memories(space, view, after)
            rows = [(memory.created_revision, memory, memory if selection.media else None) for memory in found]
            async with aclosing(self._with_media(space, rows, after, resumed)) as steps:
                async for step in steps:
                    yield step
            after, resumed = last if last is not None else after, []

    async def _history(self, space: Space, selection: Selection, view: View, key: list[Any]) -> AsyncGenerator[_Step]:
        after, resumed = (key[0], key[1:]) if key else (0, [])
        last: int | None = after
        while last is not None:
            found, last = await self._store.revisions(space, view, after)
            rows = [
                (each.revision, each, each.memory if selection.media and each.change in _WITH_MEDIA else None)
                for each in found
            ]
            async with aclosing(self._with_media(space, rows, after, resumed)) as steps:
                async for step in steps:
                    yield step
            after, resumed = last if last is not None else after, []

    async def _with_media(
        self,
        space: Space,
        rows: Sequence[tuple[int, Memory | Revision, Memory | None]],
        after: int,
        resumed: list[Any],
    ) -> AsyncGenerator[_Step]:
        """Rows with their keys, and before each the parts of the medium of the memory that stands with it."""
        waiting: list[Record] = []
        for number, row, owner in rows:
            if owner is not None and owner.media is not None:
                if waiting:
                    yield waiting, [after]
                    waiting = []
                first = resumed[1] if resumed and resumed[0] == owner.media.id else 0
                for part in range(first, -(-owner.media.size // PART_BYTES)):
                    data = await self._media.part(space, owner.media.id, part)
                    if data is None:  # it was erased, or another medium took its place
                        break
                    yield [MediaPart(owner.media, part * PART_BYTES, data)], [after, owner.media.id, part + 1]
            waiting.append(row)
            after = number
        if waiting:
            yield waiting, [after]


def merged(there: Memory, new: Memory) -> Memory:
    """The memory that changed last, with the tags and metadata of both and the greater statistics.

    Raises InvalidFieldError if they have too many tags or keys together.
    """
    base, other = (new, there) if new.updated_at > there.updated_at else (there, new)
    tags = tuple(dict.fromkeys((*there.tags, *new.tags)))
    metadata = {**other.metadata, **base.metadata}
    for field, size, most in (("tags", len(tags), MAX_TAGS), ("metadata", len(metadata), MAX_METADATA_KEYS)):
        if size > most:
            described = f"{size} of memory {new.id} together with those that are there; allowed are {most}"
            raise InvalidFieldError.of([Violation(field, described)])
    return replace(
        base,
        tags=there.tags if set(tags) == set(there.tags) else tags,
        metadata=there.metadata if metadata == there.metadata else metadata,
        created_at=min(there.created_at, new.created_at),
        accesses=max(there.accesses, new.accesses),
        accessed_at=latest(there.accessed_at, new.accessed_at),
        alpha=max(there.alpha, new.alpha),
        beta=max(there.beta, new.beta),
    )


def latest(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two times, of which either may be missing."""
    return max(filter(None, (one, other)), default=None)


def same(one: Memory, other: Memory) -> bool:
    """Whether two memories differ in the numbers of their revisions and in the state of the moment only."""
    return replace(one, revision=0, created_revision=0, state=other.state) == replace(
        other, revision=0, created_revision=0
    )


def _phases(entry: Entry, selection: Selection) -> list[str]:
    """The phases of an export; sessions stand for the whole space, so a part of it has none."""
    first = _REVISIONS if selection.history else _MEMORIES
    whole = entry.whole and selection.everything
    return [first, _ASSOCIATIONS, *([_SESSIONS] if whole else []), _END]


def _from(phase: str, phases: list[str]) -> list[str]:
    if phase not in phases:
        raise PageTokenMismatchError
    return phases[phases.index(phase) :]


def _query(entry: Entry, selection: Selection) -> list[Any]:
    states = [int(state) for state in selection.states]
    part, where = entry.part.as_query(), selection.where.as_query()
    return ["export", entry.space.uid, part, where, states, selection.history, selection.media, selection.up_to]


def _view(entry: Entry, selection: Selection, revision: int, at: datetime) -> View:
    return View(revision, at, entry.part, selection.where, selection.states)


def _token(query: list[Any], view: View, total: int, phase: str, key: list[Any]) -> str:
    return paging.encode(query, [view.revision, view.at.isoformat(), total, phase, key])


def _resumed(entry: Entry, selection: Selection, found: list[Any]) -> tuple[View, int, str, list[Any]]:
    revision, at, total, phase, key = found
    return _view(entry, selection, revision, datetime.fromisoformat(at)), total, phase, key
