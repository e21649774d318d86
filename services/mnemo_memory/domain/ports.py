"""What memory-core needs from others: a store, an index, and a log to publish to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mnemo_memory.domain.memory import Change, Draft, Filter, Memory, Policy, Revision, Space, State
    from mnemocore.errors import MnemoError
    from mnemocore.ids import MemoryId, SpaceUid, Tenant
    from mnemocore.sealing import SpaceCipher


@dataclass(frozen=True, slots=True)
class Request:
    """A mutating request that can be repeated: the same `id` with the same `digest` returns the first outcome.

    `note` is kept with the outcome, for who asks for the answer.
    """

    id: str
    digest: bytes
    note: str = ""


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
class Kept:
    """What stands for a draft: the memory it became, or with `duplicate` the equal one that was there."""

    memory: Memory
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """What became of each draft, in their order: kept, or the error that refused it; the space's newest revision."""

    outcomes: tuple[Kept | MnemoError, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The first answer to a request that wrote one memory, its note, and the space's newest revision then."""

    kept: Kept
    note: str
    revision: int


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a page of a listing starts: before this creation revision, in a listing begun at `as_of`."""

    before: int
    as_of: int


class Swept(Protocol):
    """Is told which memories of a space were swept."""

    def __call__(self, space_uid: SpaceUid, ids: Sequence[MemoryId], /) -> None:
        """Take note."""
        ...


class Vault(Protocol):
    """Has the keys of encrypted spaces."""

    async def cipher(self, space: Space) -> SpaceCipher | None:
        """What seals and opens what the space holds; None if it is not encrypted.

        Raises KeyUnavailableError, or SpaceNotFoundError if the space was erased.
        """
        ...

    async def renewed(self, space: Space) -> SpaceCipher | None:
        """As `cipher`, with the keys the space has at this moment."""
        ...


class Store(Protocol):
    """The system of record. Every write is one transaction that is durable when the call returns.

    The revisions of a space are 1, 2, 3 ... in the order of commit: who has seen n has seen all below.
    Memories are in their state at `now`.
    """

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever."""
        ...

    async def create(
        self,
        space: Space,
        drafts: Sequence[Draft],
        author: Author,
        request: Request | None,
        *,
        each: bool,
        within: Filter,
    ) -> Created:
        """Write all drafts or none; with `each` those that nothing speaks against; duplicates are sought `within`.

        What speaks against one is MemoryExistsError, DuplicateMemoryError, QuotaExceededError or MediaNotFoundError.
        Raises SpaceNotFoundError, RequestIdReusedError, and MemoryNotFoundError if the request is repeated and its
        memory was erased meanwhile.
        """
        ...

    async def answered(self, space: Space, request: Request, now: datetime) -> Answered | None:
        """The first answer to a request that wrote one memory; None if there was none yet.

        Raises RequestIdReusedError, and MemoryNotFoundError if the memory was erased meanwhile.
        """
        ...

    async def mutate(
        self,
        space: Space,
        memory_id: MemoryId,
        etag: str,
        change: Change,
        alter: Callable[[Memory], Memory | None],
        author: Author,
        request: Request | None,
    ) -> Written:
        """Replace a memory by what `alter` makes of it; None changes nothing.

        Raises MemoryNotFoundError, EtagMismatchError, QuotaExceededError, RequestIdReusedError, or what `alter` raises.
        """
        ...

    async def supersede(
        self,
        space: Space,
        old_id: MemoryId,
        etag: str,
        draft: Draft,
        close: Callable[[Memory, Draft], tuple[Memory, Draft]],
        author: Author,
        request: Request | None,
    ) -> Written:
        """Write a memory in the place of another: returns the new one and the old one.

        `close` makes of the old memory and the draft what they are to be. Raises what `create` and `mutate` raise, or
        AlreadySupersededError.
        """
        ...

    async def erase(
        self, space: Space, memory_id: MemoryId, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Remove a memory and its content in every revision.

        Raises MemoryNotFoundError, EtagMismatchError, MemoryProtectedError.
        """
        ...

    async def get(self, space: Space, ids: Sequence[MemoryId], now: datetime) -> dict[MemoryId, Memory]:
        """The memories among `ids` that exist."""
        ...

    async def get_as_of(self, space: Space, ids: Sequence[MemoryId], at: datetime) -> dict[MemoryId, Memory]:
        """The memories among `ids` that existed at `at` and still do, as they were then."""
        ...

    async def list_memories(
        self, space: Space, where: Filter, states: Sequence[State], position: ListPosition, limit: int, now: datetime
    ) -> list[Memory]:
        """Memories by falling creation revision."""
        ...

    async def search_words(
        self, space: Space, query: str, where: Filter, states: Sequence[State], limit: int, now: datetime
    ) -> list[tuple[Memory, float]]:
        """The memories that share words with `query`, and how well they match, 0 to 1, best first.

        Raises PeerUnavailableError for an encrypted space, which has no words to search.
        """
        ...

    async def republish(self, space: Space, author: Author) -> int:
        """Append a REPUBLISHED revision for every memory; returns their number."""
        ...

    async def unpublished_revisions(self, space: Space, limit: int) -> list[Revision]:
        """Revisions right behind `space.published_revision`, oldest first: as stored, or as they were committed.

        What was erased since may still be in those of this process; the revision that erased it comes later.
        """
        ...

    def forget_recent(self) -> None:
        """Let go of what is held of committed revisions: all are published, by whomever."""
        ...

    async def list_revisions(
        self, space: Space, memory_id: MemoryId | None, after: int, limit: int, until: datetime | None = None
    ) -> list[Revision]:
        """Revisions of the space or of one memory after revision `after`, oldest first, committed by `until`."""
        ...

    async def sweep(self, now: datetime, limit: int, swept: Swept | None = None) -> int:
        """Take memories out of recall whose time is over, and erase those whose space says so; returns their number.

        `swept` is told which ones, once it is done.
        """
        ...

    async def count_uses(self, space_uid: SpaceUid, uses: Mapping[MemoryId, tuple[int, datetime]]) -> None:
        """Add uses to memories: how many, and the time of the last one."""
        ...


class SpaceStore(Protocol):
    """The spaces of all tenants."""

    async def create_space(self, space: Space, request: Request | None) -> Space:
        """Make a space. Raises SpaceExistsError, RequestIdReusedError, KeyUnavailableError."""
        ...

    async def get_space(self, tenant: Tenant, slug: str) -> Space:
        """Read a space. Raises SpaceNotFoundError."""
        ...

    async def list_spaces(self, tenant: Tenant, principal: str | None, after: str, limit: int) -> list[Space]:
        """The tenant's spaces by slug, after `after`: those that `principal` may use as its own, with None all."""
        ...

    async def unswept(self, spaces: Sequence[Space], now: datetime) -> dict[SpaceUid, int]:
        """Memories of each space that count as active and whose time is over; spaces without any are left out."""
        ...

    async def update_space(self, space: Space, alter: Callable[[Space], tuple[str, Policy]], etag: str) -> Space:
        """Give a space the description and the policy that `alter` makes of what is stored; equal ones change nothing.

        Raises SpaceNotFoundError, SpaceEtagMismatchError, and what `alter` raises.
        """
        ...


class Publications(Protocol):
    """What of the store is published already. Marks only; the relay does the work."""

    async def unpublished(self, limit: int) -> list[Space]:
        """Some of the spaces with revisions that are not marked as published, others every time."""
        ...

    async def mark_published(self, marks: Mapping[SpaceUid, int]) -> None:
        """Remember that of these spaces every revision up to the one named is in the event log."""
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
    """The answer of the index, the revision it is based on, and whether only words were searched."""

    hits: tuple[Hit, ...]
    applied_revision: int
    without_encoder: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What the index is asked: the best `limit` memories in one of `states` at `now` that match `where`.

    The answer is based on a state with `min_revision` and, if a moment is enough, `wanted_revision`.
    """

    query: str
    limit: int
    where: Filter
    states: tuple[State, ...]
    now: datetime
    min_revision: int = 0
    wanted_revision: int = 0


class Index(Protocol):
    """Ranks the memories of a space."""

    async def search(self, space: Space, question: Question) -> Found:
        """The best hits, best first. Raises IndexLaggingError, PeerUnavailableError, KeyUnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Revisions of one space, at least one, in their order, without gaps."""

    space: Space
    revisions: Sequence[Revision]


class EventLog(Protocol):
    """Takes committed revisions for everybody who wants to know."""

    async def publish(self, runs: Sequence[Run]) -> None:
        """Append the revisions of every run in their order. Publishing one again has no effect.

        Nor has publishing those of a space that was erased. If it raises, some may be published and others not.
        """
        ...

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        """Take the content out of published revisions, by their numbers (at most 1,000)."""
        ...

    async def erase(self, tenant: Tenant, space_uid: SpaceUid, revision: int, at: datetime) -> None:
        """Tell everybody that a space was erased at `at`, in a revision after all of its others, and remove those.

        From then on the log takes nothing more of the space. Doing it again has no effect.
        """
        ...
