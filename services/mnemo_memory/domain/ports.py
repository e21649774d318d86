"""What memory-core needs from others: a store, an index, and a log to publish to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mnemo_memory.domain.memory import Draft, Filter, Memory, Revision, Space, State
    from mnemocore.ids import MemoryId, SpaceUid, Tenant


@dataclass(frozen=True, slots=True)
class Request:
    """A mutating request that can be repeated: the same `id` with the same `digest` returns the first outcome."""

    id: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something, when, and why."""

    principal: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write: the memories after it, in the order of the request, and the space's newest revision."""

    memories: tuple[Memory, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a page of a listing starts: before this creation revision, in a listing begun at `as_of`."""

    before: int
    as_of: int


class Store(Protocol):
    """The system of record. Every write is one transaction that is durable when the call returns.

    The revisions of a space are 1, 2, 3 ... in the order of commit: who has seen n has seen all below.
    """

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever."""
        ...

    async def create_space(self, space: Space, request: Request | None) -> Space:
        """Make a space. Raises SpaceExistsError, RequestIdReusedError."""
        ...

    async def get_space(self, tenant: Tenant, slug: str) -> Space:
        """Read a space. Raises SpaceNotFoundError."""
        ...

    async def list_spaces(self, tenant: Tenant, after: str, limit: int) -> list[Space]:
        """The tenant's spaces by slug, after `after`."""
        ...

    async def create(self, space: Space, drafts: Sequence[Draft], author: Author, request: Request | None) -> Written:
        """Write all drafts or none. Raises MemoryExistsError, RequestIdReusedError."""
        ...

    async def create_each(
        self, space: Space, drafts: Sequence[Draft], author: Author, request: Request | None
    ) -> tuple[list[Memory | None], int]:
        """Write the drafts whose ids are free; None stands for one whose id is taken. Raises RequestIdReusedError."""
        ...

    async def get(self, space: Space, ids: Sequence[MemoryId]) -> dict[MemoryId, Memory]:
        """The memories among `ids` that exist."""
        ...

    async def list_memories(
        self, space: Space, where: Filter, states: Sequence[State], position: ListPosition, limit: int
    ) -> list[Memory]:
        """Memories by falling creation revision."""
        ...

    async def change_state(
        self, space: Space, memory_id: MemoryId, state: State, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Archive or restore. No change if the state is reached. Raises MemoryNotFoundError, EtagMismatchError."""
        ...

    async def erase(
        self, space: Space, memory_id: MemoryId, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Remove a memory and its content in every revision. Raises MemoryNotFoundError, EtagMismatchError."""
        ...

    async def republish(self, space: Space, author: Author) -> int:
        """Append a REPUBLISHED revision for every active memory; returns their number."""
        ...

    async def list_revisions(self, space: Space, memory_id: MemoryId | None, after: int, limit: int) -> list[Revision]:
        """Revisions of the space or of one memory after revision `after`, oldest first."""
        ...

    async def unpublished(self, limit: int) -> list[Space]:
        """Some of the spaces with revisions that are not marked as published, others every time."""
        ...

    async def mark_published(self, space_uid: SpaceUid, revision: int) -> None:
        """Remember that every revision up to `revision` is in the event log."""
        ...


@dataclass(frozen=True, slots=True)
class ScorePart:
    """One part of a score; contributions of all parts sum to the score."""

    name: str
    value: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory the index found: its relevance, 0 to 1, and the parts that sum to it."""

    memory_id: MemoryId
    relevance: float
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of the index and the revision it is based on."""

    hits: tuple[Hit, ...]
    applied_revision: int


class Index(Protocol):
    """Ranks the active memories of a space."""

    async def search(
        self, space_uid: SpaceUid, query: str, limit: int, where: Filter, min_revision: int, wanted_revision: int
    ) -> Found:
        """The best hits, best first, in a state with `min_revision` and, if a moment is enough, `wanted_revision`.

        Raises IndexLaggingError, PeerUnavailableError.
        """
        ...


class EventLog(Protocol):
    """Takes committed revisions for everybody who wants to know."""

    async def publish(self, space: Space, revisions: Sequence[Revision]) -> None:
        """Append the revisions in their order. Publishing one again has no effect."""
        ...

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        """Take the content out of published revisions, by their numbers (at most 1,000)."""
        ...
