"""Writing and reading memories."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from mnemo_memory.domain import changes
from mnemo_memory.domain.consistency import encode_token
from mnemo_memory.domain.memory import Change, Filter, Memory, NoveltyGate, Revision, Role, Space, State
from mnemo_memory.domain.novelty import Decision, Judgement, stands
from mnemo_memory.domain.ports import Kept, ListPosition, Request, Store
from mnemocore import paging
from mnemocore.errors import (
    AlreadySupersededError,
    InvalidFieldError,
    MemoryNotFoundError,
    MemoryProtectedError,
    MnemoError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from mnemo_memory.domain.access import Access, Entry
    from mnemo_memory.domain.hot_cache import HotCache
    from mnemo_memory.domain.media import MediaInput, MediaLibrary
    from mnemo_memory.domain.memory import Draft
    from mnemo_memory.domain.novelty import Novelty
    from mnemo_memory.domain.ports import Answered
    from mnemo_memory.domain.uses import Uses
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import MemoryId


MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Content one answer carries at most, so that with everything around it it stays below the limit of a gRPC message."""
MAX_ANSWER: Final = f"the {MAX_ANSWER_BYTES // 1024 // 1024} MiB of content that one answer carries at most"


_LOOKED_AT: Final = 256
"""Revisions looked at in one step for a caller who sees only a part of the space."""
_JUDGEMENTS: Final = 3
"""How often a memory is compared with what is known while that changes; then it is written as it is."""


class _ChangedMeanwhileError(Exception):
    """What a draft was compared with has changed before the draft was written."""


@dataclass(frozen=True, slots=True)
class New:
    """A memory to be written, and its medium if it has one."""

    draft: Draft
    media: MediaInput | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """What became of a memory to be written. `duplicate` says that it was there already."""

    memory: Memory
    duplicate: bool = False
    novelty: Decision | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """How a change is asked for: the etag the caller has seen, why, and the request it belongs to."""

    etag: str = ""
    reason: str = ""
    request: Request | None = None


def fitting(memories: Iterable[Memory | None]) -> int:
    """How many of the first `memories` fit into one answer: at least one."""
    count = size = 0
    for memory in memories:
        size += _size(memory) if memory else 0
        if size > MAX_ANSWER_BYTES and count:
            break
        count += 1
    return count


def refuse_repeated_ids(drafts: Iterable[Draft]) -> None:
    """Raise InvalidFieldError if two drafts of a batch choose the same id."""
    seen: set[MemoryId] = set()
    for place, draft in enumerate(drafts):
        if draft.id in seen:
            raise InvalidFieldError.of([Violation(f"memories[{place}].id", f"{draft.id} stands twice in the batch")])
        if draft.id is not None:
            seen.add(draft.id)


class Memories:
    """The memories of all spaces.

    `committed` is called after every commit, to wake the relay; `check_room` before anything is added: it raises
    StoreFullError when the store has no room.
    """

    def __init__(
        self,
        store: Store,
        access: Access,
        media: MediaLibrary,
        novelty: Novelty,
        uses: Uses,
        cache: HotCache,
        clock: Clock,
        committed: Callable[[], None],
        check_room: Callable[[], None],
    ) -> None:
        self._store = store
        self._access = access
        self._media = media
        self._novelty = novelty
        self._uses = uses
        self._cache = cache
        self._clock = clock
        self._committed = committed
        self._check_room = check_room

    # Writing

    async def create_one(
        self, caller: Identity, slug: str, new: New, request: Request | None
    ) -> tuple[Space, Remembered, str]:
        """Write one memory, through the novelty gate if it is asked for; the space, the outcome and a token.

        Raises SpaceNotFoundError, MemoryExistsError, DuplicateMemoryError, RequestIdReusedError, StoreFullError,
        QuotaExceededError, UnsupportedMediaError, MediaNotFoundError.
        """
        entry = await self._enter_to_add(caller, slug, [new])
        if self._gated(entry.space, new):
            remembered, revision = await self._create_gated(entry, new.draft, request)
            return entry.space, remembered, self._done(entry.space, revision)
        outcomes, token = await self._create(entry, [new], request, each=False)
        (remembered,) = _all_of(outcomes)
        return entry.space, remembered, token

    async def create(
        self, caller: Identity, slug: str, items: Sequence[New], request: Request | None
    ) -> tuple[Space, list[Remembered], str]:
        """Write all in one transaction, past the novelty gate; the space, the outcomes and a token.

        Raises what `create_one` raises.
        """
        refuse_repeated_ids(item.draft for item in items)
        entry = await self._enter_to_add(caller, slug, items)
        outcomes, token = await self._create(entry, items, request, each=False)
        return entry.space, _all_of(outcomes), token

    async def create_each(
        self, caller: Identity, slug: str, items: Sequence[New], request: Request | None
    ) -> tuple[Space, list[Remembered | MnemoError], str]:
        """Write those that nothing speaks against; the space, for each the outcome or what speaks against it, a token.

        Those that go through the novelty gate are written one by one, the others before them in one transaction.
        Raises SpaceNotFoundError, RequestIdReusedError, StoreFullError.
        """
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.WRITE)
        results: dict[int, Remembered | MnemoError] = {}
        plain: list[int] = []
        gated: list[int] = []
        for number, item in enumerate(items):
            try:
                entry.require_inside([item.draft])
            except MnemoError as error:
                results[number] = error
                continue
            (gated if self._gated(entry.space, item) else plain).append(number)
        revision = entry.space.revision
        token = ""
        if plain:
            outcomes, token = await self._create(entry, [items[number] for number in plain], request, each=True)
            results.update(zip(plain, outcomes, strict=True))
        for number in gated:
            try:
                results[number], revision = await self._create_gated(entry, items[number].draft, _part(request, number))
            except MnemoError as error:
                results[number] = error
        if gated:
            token = self._done(entry.space, max(revision, entry.space.revision))
        return entry.space, [results[number] for number in range(len(items))], token

    async def update(
        self, caller: Identity, slug: str, memory_id: MemoryId, update: changes.Update, edit: Edit
    ) -> tuple[Space, Memory, str]:
        """Change some fields; the space, the memory as it is now and a token.

        Raises SpaceNotFoundError, MemoryNotFoundError, EtagMismatchError, InvalidFieldError, QuotaExceededError,
        StoreFullError, RequestIdReusedError.
        """
        self._check_room()
        return await self._change(caller, slug, memory_id, Change.UPDATED, update, edit)

    async def protect(
        self, caller: Identity, slug: str, memory_id: MemoryId, wanted: bool, edit: Edit
    ) -> tuple[Space, Memory, str]:
        """Keep a memory from being archived, erased and forgotten, or no longer do so."""
        return await self._change(caller, slug, memory_id, Change.PROTECTED, changes.protect(wanted), edit)

    async def record_feedback(
        self, caller: Identity, slug: str, memory_id: MemoryId, positive: bool, weight: float, edit: Edit
    ) -> tuple[Space, Memory, str]:
        """Record whether a memory proved right."""
        alter = changes.judge(positive, weight)
        return await self._change(caller, slug, memory_id, Change.FEEDBACK, alter, edit, need=Role.ANNOTATE)

    async def restore(self, caller: Identity, slug: str, memory_id: MemoryId, edit: Edit) -> tuple[Space, Memory, str]:
        """Take an archived memory back into recall."""
        return await self._change(caller, slug, memory_id, Change.RESTORED, changes.restore, edit)

    async def archive(self, caller: Identity, slug: str, memory_id: MemoryId, edit: Edit) -> tuple[Space, Memory, str]:
        """Take a memory out of recall. Raises MemoryProtectedError too."""
        alter = changes.archive(self._clock.now(), f"spaces/{slug}/memories/{memory_id}")
        return await self._change(caller, slug, memory_id, Change.ARCHIVED, alter, edit)

    async def erase(self, caller: Identity, slug: str, memory_id: MemoryId, edit: Edit) -> str:
        """Erase a memory and its content in every revision; returns a token. Only owners of the space may.

        Raises SpaceNotFoundError, MemoryNotFoundError, EtagMismatchError, MemoryProtectedError, RoleRequiredError.
        """
        entry = await self._access.enter(caller, slug, Role.OWNER)
        author = entry.author(self._clock.now(), edit.reason)
        self._cache.drop(entry.space.uid, [memory_id])
        written = await self._store.erase(entry.space, memory_id, edit.etag, author, edit.request)
        self._cache.drop(entry.space.uid, [memory_id])
        return self._done(entry.space, written.revision)

    async def supersede(
        self, caller: Identity, slug: str, old_id: MemoryId, new: New, edit: Edit
    ) -> tuple[Space, Memory, Memory, str]:
        """Write a memory in the place of another: the space, the new one, the old one and a token.

        Raises what `create_one` and `update` raise, AlreadySupersededError, MemoryProtectedError.
        """
        entry = await self._enter_to_add(caller, slug, [new])
        await self._require_visible(entry, old_id)
        now = self._clock.now()
        close = changes.close(now)

        def visible(old: Memory, draft: Draft) -> tuple[Memory, Draft]:
            return close(entry.require_visible(old), draft)

        async with self._media.taking(entry, edit.request) as media:
            draft = await media.give(new.draft, new.media)
            written = await self._store.supersede(
                entry.space, old_id, edit.etag, draft, visible, entry.author(now, edit.reason), edit.request
            )
        self._cache.drop(entry.space.uid, [old_id])
        fresh, old = written.memories
        return entry.space, fresh, entry.require_visible(old), self._done(entry.space, written.revision)

    # Reading

    async def get(
        self, caller: Identity, slug: str, ids: Sequence[MemoryId]
    ) -> tuple[Space, list[Memory], list[MemoryId]]:
        """The space, the memories in the order asked for, and the ids that name none. Raises SpaceNotFoundError."""
        entry = await self._access.enter(caller, slug, Role.READ)
        found = await self._store.get(entry.space, ids, self._clock.now())
        found = {memory.id: memory for memory in entry.visible(found.values())}
        if fitting(found.values()) < len(found):
            raise InvalidFieldError.of([Violation("ids", f"{len(ids)} memories exceed {MAX_ANSWER}; ask for fewer")])
        return entry.space, [found[each] for each in ids if each in found], [each for each in ids if each not in found]

    async def get_one(
        self,
        caller: Identity,
        slug: str,
        memory_id: MemoryId,
        *,
        as_of: datetime | None = None,
        at_once: bool = False,
        touch: bool = False,
    ) -> tuple[Space, Memory]:
        """One memory in whatever state, or as it was at `as_of`; `at_once` allows an answer from the cache.

        Raises SpaceNotFoundError, MemoryNotFoundError.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        now = self._clock.now()
        mark = self._cache.mark
        cached = self._cache.get(entry.space.uid, memory_id, now) if at_once and as_of is None else None
        memory = cached or (await self._store.get(entry.space, [memory_id], now)).get(memory_id)
        if memory is None:
            raise entry.unknown(memory_id)
        entry.require_visible(memory)
        if as_of is not None:
            then = (await self._store.get_as_of(entry.space, [memory_id], as_of)).get(memory_id)
            if then is None:
                raise entry.unknown(memory_id)
            return entry.space, entry.require_visible(then)
        if cached is None:
            self._cache.put(entry.space.uid, memory, mark)
        if touch:
            self._uses.note(entry.space.uid, [memory_id])
        return entry.space, memory

    async def list_memories(
        self, caller: Identity, slug: str, where: Filter, states: Sequence[State], page_size: int, page_token: str
    ) -> tuple[Space, list[Memory], str]:
        """One page, newest first, and the token of the next. Raises SpaceNotFoundError, PageTokenMismatchError."""
        entry = await self._access.enter(caller, slug, Role.READ)
        space, narrowed = entry.space, entry.narrow(where)
        wanted = sorted(set(states)) or [State.ACTIVE]
        query = ["memories", space.uid, narrowed.as_query(), wanted]
        token = paging.decode(query, page_token)
        position = ListPosition(*token) if token else ListPosition(space.revision + 1, space.revision)
        size = paging.page_size(page_size)
        now = self._clock.now()
        memories = await self._store.list_memories(space, narrowed, wanted, position, size + 1, now)
        page = memories[: min(size, fitting(memories))]
        more = len(memories) > len(page)
        return space, page, paging.encode(query, [page[-1].created_revision, position.as_of]) if more else ""

    async def history(
        self,
        caller: Identity,
        slug: str,
        memory_id: MemoryId | None,
        as_of: datetime | None,
        page_size: int,
        page_token: str,
    ) -> tuple[Space, list[Revision], str]:
        """One page of the revisions of a space or a memory, oldest first, and the token of the next page.

        A caller that may see a part of the space sees the revisions of the memories that lie in it, while they did.
        """
        entry = await self._access.enter(caller, slug, Role.READ)
        space = entry.space
        query = ["revisions", space.uid, memory_id, as_of and as_of.isoformat()]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        after = position[0] if position else 0
        if entry.whole:
            revisions = await self._store.list_revisions(space, memory_id, after, size + 1, as_of)
        else:
            revisions = await self._seen_revisions(entry, memory_id, after, size + 1, as_of)
        page = revisions[: min(size, fitting(revision.memory for revision in revisions))]
        more = len(revisions) > len(page)
        return space, page, paging.encode(query, [page[-1].revision]) if more else ""

    # Steps

    async def _enter_to_add(self, caller: Identity, slug: str, items: Sequence[New]) -> Entry:
        self._check_room()
        entry = await self._access.enter(caller, slug, Role.WRITE)
        entry.require_inside(item.draft for item in items)
        return entry

    async def _create(
        self, entry: Entry, items: Sequence[New], request: Request | None, *, each: bool
    ) -> tuple[list[Remembered | MnemoError], str]:
        refused: dict[int, MnemoError] = {}
        drafts: list[tuple[int, Draft]] = []
        async with self._media.taking(entry, request) as media:
            for number, item in enumerate(items):
                try:
                    drafts.append((number, await media.give(item.draft, item.media, number)))
                except MnemoError as error:
                    if not each:
                        raise
                    refused[number] = error
            author = entry.author(self._clock.now())
            created = await self._store.create(
                entry.space, [draft for _, draft in drafts], author, request, each=each, within=entry.part
            )
        outcomes: dict[int, Remembered | MnemoError] = dict(refused)
        for (number, _), outcome in zip(drafts, created.outcomes, strict=True):
            outcomes[number] = self._seen_outcome(entry, outcome)
        self._cache.drop(
            entry.space.uid, [each.memory.id for each in created.outcomes if isinstance(each, Kept) and each.duplicate]
        )
        return [outcomes[number] for number in range(len(items))], self._done(entry.space, created.revision)

    def _seen_outcome(self, entry: Entry, outcome: Kept | MnemoError) -> Remembered | MnemoError:
        """The outcome; not what was a duplicate when the request came first and lies outside of the part by now."""
        if isinstance(outcome, MnemoError):
            return outcome
        if outcome.duplicate and not entry.sees(outcome.memory):
            return MemoryNotFoundError(
                "an equal memory lies outside of what is shared with you", memory=entry.space.name
            )
        return Remembered(outcome.memory, outcome.duplicate)

    def _gated(self, space: Space, new: New) -> bool:
        """Whether it is compared with what is known; one with a medium is not, for its text is not all it says."""
        gate = new.draft.novelty_gate
        wanted = space.policy.novelty_gate if gate is NoveltyGate.UNNAMED else gate
        return new.media is None and wanted is NoveltyGate.ON

    async def _create_gated(self, entry: Entry, draft: Draft, request: Request | None) -> tuple[Remembered, int]:
        """Write one memory as the novelty gate decides; the outcome and the newest revision.

        It is judged again when what it was compared with has changed meanwhile.
        """
        if request is not None:
            first = await self._store.answered(entry.space, request, self._clock.now())
            if first is not None:
                return self._once_more(entry, first), first.revision
        for _ in range(_JUDGEMENTS):
            judgement = await self._novelty.judge(entry, draft)
            try:
                return await self._write_judged(entry, draft, judgement, request)
            except (_ChangedMeanwhileError, MemoryNotFoundError, AlreadySupersededError, MemoryProtectedError):
                continue
        return await self._write_judged(entry, draft, Judgement(Decision.UNKNOWN), request)

    def _once_more(self, entry: Entry, first: Answered) -> Remembered:
        """The first answer of the novelty gate to a repeated request."""
        novelty = Decision(int(first.note)) if first.note else None
        duplicate = first.kept.duplicate or novelty is Decision.REDUNDANT
        return Remembered(entry.require_visible(first.kept.memory), duplicate, novelty)

    async def _write_judged(
        self, entry: Entry, draft: Draft, judgement: Judgement, request: Request | None
    ) -> tuple[Remembered, int]:
        """Write what was judged. Raises _ChangedMeanwhileError if it was compared with what is no more."""
        known, decision, now = judgement.known, judgement.decision, self._clock.now()
        noted = None if request is None else replace(request, note=str(int(decision)))
        author = entry.author(now)
        if decision is Decision.REDUNDANT and known is not None:
            reinforce = changes.reinforce(now)

            def again(memory: Memory) -> Memory:
                return reinforce(_require_same(entry, known, memory))

            written = await self._store.mutate(entry.space, known.id, "", Change.REINFORCED, again, author, noted)
            self._cache.drop(entry.space.uid, [known.id])
            return Remembered(written.memories[0], duplicate=True, novelty=decision), written.revision
        if judgement.replaces and known is not None:
            close = changes.close(now)

            def replaced(old: Memory, new: Draft) -> tuple[Memory, Draft]:
                return close(_require_same(entry, known, old), new)

            written = await self._store.supersede(entry.space, known.id, "", draft, replaced, author, noted)
            self._cache.drop(entry.space.uid, [known.id])
            return Remembered(written.memories[0], novelty=decision), written.revision
        created = await self._store.create(entry.space, [draft], author, noted, each=False, within=entry.part)
        (outcome,) = created.outcomes
        assert isinstance(outcome, Kept), "an error of one is raised"
        if decision is Decision.REFINEMENT and known is not None:
            with suppress(MemoryNotFoundError):  # erased meanwhile: there is nothing to link to
                await self._novelty.link(entry, outcome.memory.id, known.id)
        return Remembered(outcome.memory, outcome.duplicate, decision), created.revision

    async def _change(
        self,
        caller: Identity,
        slug: str,
        memory_id: MemoryId,
        change: Change,
        alter: Callable[[Memory], Memory | None],
        edit: Edit,
        need: Role = Role.WRITE,
    ) -> tuple[Space, Memory, str]:
        entry = await self._access.enter(caller, slug, need)
        await self._require_visible(entry, memory_id)

        def within(memory: Memory) -> Memory | None:
            after = alter(entry.require_visible(memory))
            if after is not None and not entry.sees(after):
                raise InvalidFieldError.of(
                    [Violation("memory", "would lie outside of the part of the space that is shared with you")]
                )
            return after

        author = entry.author(self._clock.now(), edit.reason)
        written = await self._store.mutate(entry.space, memory_id, edit.etag, change, within, author, edit.request)
        self._cache.drop(entry.space.uid, [memory_id])
        return entry.space, entry.require_visible(written.memories[0]), self._done(entry.space, written.revision)

    async def _require_visible(self, entry: Entry, memory_id: MemoryId) -> None:
        """Raise MemoryNotFoundError for a memory outside of the part, before anything else tells that it exists."""
        if not entry.whole:
            found = await self._store.get(entry.space, [memory_id], self._clock.now())
            if memory_id not in found:
                raise entry.unknown(memory_id)
            entry.require_visible(found[memory_id])

    async def _seen_revisions(
        self, entry: Entry, memory_id: MemoryId | None, after: int, limit: int, as_of: datetime | None
    ) -> list[Revision]:
        """Revisions the caller may see. All that come are looked at: a short page would tell of others."""
        seen: list[Revision] = []
        while len(seen) < limit:
            revisions = await self._store.list_revisions(entry.space, memory_id, after, _LOOKED_AT, as_of)
            seen += await self._seen(entry, revisions)
            if len(revisions) < _LOOKED_AT:
                break
            after = revisions[-1].revision
        return seen[:limit]

    async def _seen(self, entry: Entry, revisions: Sequence[Revision]) -> list[Revision]:
        """Those of the revisions whose memory the caller may see, now and as it was then."""
        ids = list({revision.memory_id for revision in revisions})
        now = await self._store.get(entry.space, ids, self._clock.now())
        seen = {memory.id for memory in entry.visible(now.values())}
        return [
            revision
            for revision in revisions
            if revision.memory_id in seen and revision.memory is not None and entry.sees(revision.memory)
        ]

    def _done(self, space: Space, revision: int) -> str:
        """Wake the relay; the token of a write."""
        self._committed()
        return encode_token(self._store.store_id, space.uid, revision)


def _all_of(outcomes: Iterable[Remembered | MnemoError]) -> list[Remembered]:
    """The outcomes. Raises the first error among them."""
    remembered = []
    for outcome in outcomes:
        if isinstance(outcome, MnemoError):
            raise outcome
        remembered.append(outcome)
    return remembered


def _require_same(entry: Entry, known: Memory, memory: Memory) -> Memory:
    """The memory. Raises _ChangedMeanwhileError if it is not what it was when something was compared with it."""
    if not stands(entry, memory) or memory.content != known.content:
        raise _ChangedMeanwhileError
    return memory


def _part(request: Request | None, number: int) -> Request | None:
    """The request that stands for one item of a request."""
    return None if request is None else replace(request, id=str(uuid5(UUID(request.id), str(number))))


def _size(memory: Memory) -> int:
    """Bytes of what a memory holds, rather too many than too few."""
    size = len(memory.content) * (1 if memory.content.isascii() else 4)
    return size + 4 * len(repr(memory.metadata)) if memory.metadata else size
