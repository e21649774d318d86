"""Sessions: conversations and runs with a life of their own, and the checkpoints an agent goes on from.

Memories may name any session; one that was started has an agent, metadata, a start and an end. Callers that may see
only a part of a space have no sessions in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from mnemo_memory.domain.consistency import encode_token
from mnemo_memory.domain.memories import refuse_repeated_ids
from mnemo_memory.domain.memory import Role
from mnemocore import paging
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Access
    from mnemo_memory.domain.media import MediaInput, MediaLibrary
    from mnemo_memory.domain.memory import Draft, Memory, Space
    from mnemo_memory.domain.ports import Author, Created, Request
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock

CHECKPOINTS_KEPT: Final = 100
"""Checkpoints a session; the oldest leaves first."""


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation or run. `memories` counts those that name it, whatever their state."""

    id: str
    agent: str
    metadata: Mapping[str, Any]
    started_at: datetime
    ended_at: datetime | None = None
    memories: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of an agent at a moment of a session; `state` is None in listings.

    `working_items` is the number of items of working memory it holds, `revision` that of the space when it was made.
    """

    id: str
    session: str
    label: str
    state: Mapping[str, Any] | None
    created_at: datetime
    working_items: int = 0
    revision: int = 0


class SessionStore(Protocol):
    """The sessions of all spaces. Every write is one transaction. What has a number is listed by falling numbers."""

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever."""
        ...

    async def start(self, space: Space, session: Session, request: Request | None) -> Session:
        """Start a session. Raises SessionExistsError, SpaceNotFoundError, RequestIdReusedError."""
        ...

    async def get(self, space: Space, session_id: str) -> Session:
        """Read a session. Raises SessionNotFoundError."""
        ...

    async def list_sessions(
        self, space: Space, agent: str, before: int | None, limit: int, *, open_only: bool
    ) -> list[tuple[int, Session]]:
        """Sessions with their numbers, those of one agent or all without one, before a number."""
        ...

    async def append(
        self, space: Space, session_id: str, drafts: Sequence[Draft], author: Author, request: Request | None
    ) -> Created:
        """Write memories of a session that has not ended, all or none.

        Raises SessionNotFoundError, SessionEndedError, or what writing memories raises.
        """
        ...

    async def end(self, space: Space, session_id: str, at: datetime) -> Session:
        """End a session unless it has ended. No memories are appended after. Raises SessionNotFoundError."""
        ...

    async def create_checkpoint(
        self, space: Space, checkpoint: Checkpoint, keep: int, request: Request | None
    ) -> Checkpoint:
        """Keep a checkpoint with the working memory of the session's agent, and the `keep` newest of the session.

        Raises SessionNotFoundError, RequestIdReusedError.
        """
        ...

    async def list_checkpoints(
        self, space: Space, session_id: str, before: int | None, limit: int
    ) -> list[tuple[int, Checkpoint]]:
        """Checkpoints with their numbers and without their states, before a number. Raises SessionNotFoundError."""
        ...

    async def restore(self, space: Space, session_id: str, checkpoint_id: str, now: datetime) -> Checkpoint:
        """Put the working memory of a checkpoint (the newest without an id) in the place of the one that is there.

        Items live on for as long as they had to live. Raises SessionNotFoundError, CheckpointNotFoundError.
        """
        ...


class Sessions:
    """The sessions of all spaces.

    `committed` is called after every commit of memories, to wake the relay; `check_room` before anything is added: it
    raises StoreFullError when the store has no room. Every method raises SpaceNotFoundError and RoleRequiredError.
    """

    def __init__(
        self,
        store: SessionStore,
        access: Access,
        media: MediaLibrary,
        clock: Clock,
        committed: Callable[[], None],
        check_room: Callable[[], None],
    ) -> None:
        self._store = store
        self._access = access
        self._media = media
        self._clock = clock
        self._committed = committed
        self._check_room = check_room

    async def start(
        self,
        caller: Identity,
        slug: str,
        session_id: str,
        agent: str,
        metadata: Mapping[str, Any],
        request: Request | None,
    ) -> Session:
        """Start a session; without an id it gets a new one. Raises SessionExistsError, RequestIdReusedError."""
        self._check_room()
        space = await self._space(caller, slug, Role.WRITE)
        now = self._clock.now()
        return await self._store.start(space, Session(session_id or new_uuid(now), agent, metadata, now), request)

    async def get(self, caller: Identity, slug: str, session_id: str) -> Session:
        """Read a session. Raises SessionNotFoundError."""
        return await self._store.get(await self._space(caller, slug, Role.READ), session_id)

    async def list_sessions(
        self, caller: Identity, slug: str, agent: str, page_size: int, page_token: str, *, open_only: bool
    ) -> tuple[list[Session], str]:
        """One page, newest first, and the token of the next. Raises PageTokenMismatchError."""
        space = await self._space(caller, slug, Role.READ)
        query = ["sessions", space.uid, agent, open_only]
        before, size = _position(query, page_token), paging.page_size(page_size)
        found = await self._store.list_sessions(space, agent, before, size + 1, open_only=open_only)
        page = [session for _, session in found[:size]]
        return page, _next_token(query, found, size)

    async def append(
        self,
        caller: Identity,
        slug: str,
        session_id: str,
        drafts: Sequence[tuple[Draft, MediaInput | None]],
        request: Request | None,
    ) -> tuple[Space, list[Memory], str]:
        """Write memories, with their media if they have any, at the end of a session, all or none.

        Returns the space, the memories and a consistency token. Raises InvalidFieldError, SessionNotFoundError,
        SessionEndedError, StoreFullError, or what taking media and writing memories raises.
        """
        refuse_repeated_ids(draft for draft, _ in drafts)
        mine = [(_of_session(draft, session_id, place), item) for place, (draft, item) in enumerate(drafts)]
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.WRITE)
        space = entry.require_whole()
        async with self._media.taking(entry, request) as taking:
            whole = [await taking.give(draft, item, place) for place, (draft, item) in enumerate(mine)]
            created = await self._store.append(space, session_id, whole, entry.author(self._clock.now()), request)
        self._committed()
        return space, _memories(created), encode_token(self._store.store_id, space.uid, created.revision)

    async def end(self, caller: Identity, slug: str, session_id: str) -> Session:
        """End a session; one that has ended stays as it is. Raises SessionNotFoundError."""
        space = await self._space(caller, slug, Role.WRITE)
        return await self._store.end(space, session_id, self._clock.now())

    # Checkpoints

    async def checkpoint(
        self,
        caller: Identity,
        slug: str,
        session_id: str,
        label: str,
        state: Mapping[str, Any],
        request: Request | None,
    ) -> Checkpoint:
        """Keep a state and the working memory of the session's agent. Raises SessionNotFoundError."""
        self._check_room()
        space = await self._space(caller, slug, Role.WRITE)
        now = self._clock.now()
        made = Checkpoint(new_uuid(now), session_id, label, state, now)
        return await self._store.create_checkpoint(space, made, CHECKPOINTS_KEPT, request)

    async def list_checkpoints(
        self, caller: Identity, slug: str, session_id: str, page_size: int, page_token: str
    ) -> tuple[list[Checkpoint], str]:
        """One page without states, newest first, and the token of the next.

        Raises SessionNotFoundError, PageTokenMismatchError.
        """
        space = await self._space(caller, slug, Role.READ)
        query = ["checkpoints", space.uid, session_id]
        before, size = _position(query, page_token), paging.page_size(page_size)
        found = await self._store.list_checkpoints(space, session_id, before, size + 1)
        page = [checkpoint for _, checkpoint in found[:size]]
        return page, _next_token(query, found, size)

    async def restore(self, caller: Identity, slug: str, session_id: str, checkpoint_id: str) -> Checkpoint:
        """Put the working memory of a checkpoint back, the newest without an id; returns it with its state.

        Raises SessionNotFoundError, CheckpointNotFoundError.
        """
        space = await self._space(caller, slug, Role.WRITE)
        return await self._store.restore(space, session_id, checkpoint_id, self._clock.now())

    async def _space(self, caller: Identity, slug: str, need: Role) -> Space:
        return (await self._access.enter(caller, slug, need)).require_whole()


def _of_session(draft: Draft, session_id: str, place: int) -> Draft:
    if draft.session not in ("", session_id):
        described = f"is {draft.session!r}; allowed is {session_id!r} or nothing"
        raise InvalidFieldError.of([Violation(f"memories[{place}].session", described)])
    return replace(draft, session=session_id)


def _memories(created: Created) -> list[Memory]:
    memories = []
    for outcome in created.outcomes:
        if isinstance(outcome, MnemoError):
            raise outcome
        memories.append(outcome.memory)
    return memories


def _position(query: list[Any], page_token: str) -> int | None:
    position = paging.decode(query, page_token)
    return None if position is None else int(position[0])


def _next_token(query: list[Any], found: Sequence[tuple[int, object]], size: int) -> str:
    return paging.encode(query, [found[size - 1][0]]) if len(found) > size else ""
