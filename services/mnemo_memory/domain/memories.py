"""Writing and reading memories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_memory.domain.consistency import encode_token
from mnemo_memory.domain.memory import Draft, Filter, Memory, Revision, Space, State
from mnemo_memory.domain.ports import Author, ListPosition, Request, Store
from mnemocore import paging
from mnemocore.errors import InvalidFieldError, MemoryNotFoundError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId


MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Content one answer carries at most, so that with everything around it it stays below the limit of a gRPC message."""
MAX_ANSWER: Final = f"the {MAX_ANSWER_BYTES // 1024 // 1024} MiB of content that one answer carries at most"


def fitting(memories: Iterable[Memory | None]) -> int:
    """How many of the first `memories` fit into one answer: at least one."""
    count = size = 0
    for memory in memories:
        size += _size(memory) if memory else 0
        if size > MAX_ANSWER_BYTES and count:
            break
        count += 1
    return count


def _refuse_repeated_ids(drafts: Sequence[Draft]) -> None:
    seen: set[MemoryId] = set()
    for place, draft in enumerate(drafts):
        if draft.id in seen:
            raise InvalidFieldError.of([Violation(f"memories[{place}].id", f"{draft.id} stands twice in the batch")])
        if draft.id is not None:
            seen.add(draft.id)


def _size(memory: Memory) -> int:
    """Bytes of what a memory holds, rather too many than too few."""
    size = len(memory.content) * (1 if memory.content.isascii() else 4)
    return size + 4 * len(repr(memory.metadata)) if memory.metadata else size


class Memories:
    """The memories of all spaces.

    `committed` is called after every commit, to wake the relay; `check_room` before anything is added: it raises
    StoreFullError when the store has no room.
    """

    def __init__(
        self, store: Store, clock: Clock, committed: Callable[[], None], check_room: Callable[[], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._committed = committed
        self._check_room = check_room

    async def create(
        self, caller: Identity, slug: str, drafts: Sequence[Draft], request: Request | None
    ) -> tuple[Space, tuple[Memory, ...], str]:
        """Write all drafts in one transaction; returns the space, the memories and a consistency token.

        Raises SpaceNotFoundError, MemoryExistsError, RequestIdReusedError, StoreFullError.
        """
        self._check_room()
        _refuse_repeated_ids(drafts)
        space = await self._store.get_space(caller.tenant, slug)
        written = await self._store.create(space, drafts, self._author(caller), request)
        self._committed()
        return space, written.memories, self._token(space, written.revision)

    async def create_each(
        self, caller: Identity, slug: str, drafts: Sequence[Draft], request: Request | None
    ) -> tuple[Space, list[Memory | None], str]:
        """Write the drafts whose ids are free in one transaction; None stands for one whose id is taken.

        Raises SpaceNotFoundError, RequestIdReusedError.
        """
        self._check_room()
        space = await self._store.get_space(caller.tenant, slug)
        memories, revision = await self._store.create_each(space, drafts, self._author(caller), request)
        self._committed()
        return space, memories, self._token(space, revision)

    async def get(
        self, caller: Identity, slug: str, ids: Sequence[MemoryId]
    ) -> tuple[Space, list[Memory], list[MemoryId]]:
        """The space, the memories in the order asked for, and the ids that name none. Raises SpaceNotFoundError."""
        space = await self._store.get_space(caller.tenant, slug)
        found = await self._store.get(space, ids)
        if fitting(found.values()) < len(found):
            raise InvalidFieldError.of([Violation("ids", f"{len(ids)} memories exceed {MAX_ANSWER}; ask for fewer")])
        return space, [found[each] for each in ids if each in found], [each for each in ids if each not in found]

    async def get_one(self, caller: Identity, slug: str, memory_id: MemoryId) -> tuple[Space, Memory]:
        """One memory in whatever state. Raises SpaceNotFoundError, MemoryNotFoundError."""
        space, memories, _ = await self.get(caller, slug, [memory_id])
        if not memories:
            raise MemoryNotFoundError(memory=f"{space.name}/memories/{memory_id}")
        return space, memories[0]

    async def list_memories(
        self, caller: Identity, slug: str, where: Filter, states: Sequence[State], page_size: int, page_token: str
    ) -> tuple[Space, list[Memory], str]:
        """One page, newest first, and the token of the next. Raises SpaceNotFoundError, PageTokenMismatchError."""
        space = await self._store.get_space(caller.tenant, slug)
        wanted = sorted(set(states)) or [State.ACTIVE]
        query = ["memories", space.uid, where.as_query(), wanted]
        token = paging.decode(query, page_token)
        position = ListPosition(*token) if token else ListPosition(space.revision + 1, space.revision)
        size = paging.page_size(page_size)
        memories = await self._store.list_memories(space, where, wanted, position, size + 1)
        page = memories[: min(size, fitting(memories))]
        more = len(memories) > len(page)
        return space, page, paging.encode(query, [page[-1].created_revision, position.as_of]) if more else ""

    async def delete(
        self,
        caller: Identity,
        slug: str,
        memory_id: MemoryId,
        *,
        purge: bool,
        etag: str,
        reason: str,
        request: Request | None,
    ) -> str:
        """Archive a memory, or erase it with `purge`; returns a consistency token.

        Raises SpaceNotFoundError, MemoryNotFoundError, EtagMismatchError, RequestIdReusedError.
        """
        space = await self._store.get_space(caller.tenant, slug)
        author = self._author(caller, reason)
        if purge:
            written = await self._store.erase(space, memory_id, etag, author, request)
        else:
            written = await self._store.change_state(space, memory_id, State.ARCHIVED, etag, author, request)
        self._committed()
        return self._token(space, written.revision)

    async def restore(
        self, caller: Identity, slug: str, memory_id: MemoryId, *, etag: str, reason: str, request: Request | None
    ) -> tuple[Space, Memory, str]:
        """Take an archived memory back into recall; returns it and a consistency token.

        Raises SpaceNotFoundError, MemoryNotFoundError, EtagMismatchError, RequestIdReusedError.
        """
        space = await self._store.get_space(caller.tenant, slug)
        author = self._author(caller, reason)
        written = await self._store.change_state(space, memory_id, State.ACTIVE, etag, author, request)
        self._committed()
        return space, written.memories[0], self._token(space, written.revision)

    async def history(
        self, caller: Identity, slug: str, memory_id: MemoryId | None, page_size: int, page_token: str
    ) -> tuple[Space, list[Revision], str]:
        """One page of the revisions of a space or a memory, oldest first, and the token of the next page."""
        space = await self._store.get_space(caller.tenant, slug)
        query = ["revisions", space.uid, memory_id]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        revisions = await self._store.list_revisions(space, memory_id, position[0] if position else 0, size + 1)
        page = revisions[: min(size, fitting(revision.memory for revision in revisions))]
        more = len(revisions) > len(page)
        return space, page, paging.encode(query, [page[-1].revision]) if more else ""

    def _author(self, caller: Identity, reason: str = "") -> Author:
        return Author(caller.principal, self._clock.now(), reason)

    def _token(self, space: Space, revision: int) -> str:
        return encode_token(self._store.store_id, space.uid, revision)
