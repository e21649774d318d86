"""The memories of memory-core on PostgreSQL. How writes are made stands in `transactions`."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.memory import Change, Filter, OnDuplicate, Revision, State
from mnemo_memory.domain.ports import Answered, Author, Created, Kept, Swept, Written
from mnemo_memory.storage import drafts as drafting
from mnemo_memory.storage import rows, transactions
from mnemo_memory.storage.conditions import ARCHIVED, Conditions
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemo_memory.storage.recent_revisions import RecentRevisions
from mnemocore.errors import (
    AlreadySupersededError,
    DuplicateMemoryError,
    KeyUnavailableError,
    MediaNotFoundError,
    MemoryExistsError,
    MemoryNotFoundError,
    MemoryProtectedError,
    MnemoError,
    PeerUnavailableError,
    QuotaExceededError,
    RequestIdReusedError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, SpaceUid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Draft, Memory, Space
    from mnemo_memory.domain.ports import ListPosition, Request, Vault
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

REQUEST_LIFE_HOURS: Final = 24
REPUBLISH_BATCH: Final = 1000
SWEEPER: Final = "memory-core"
_EVERYTHING: Final = Filter()
_log = logging.getLogger(__name__)


class PostgresStore:
    """Implements `mnemo_memory.domain.ports.Store`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._recent = RecentRevisions()
        self._store_id = ""

    async def open(self) -> None:
        """Read the store's id; the database is migrated."""
        self._store_id = str(await self._database.fetchval("SELECT store_id FROM memory.store"))

    @property
    def store_id(self) -> str:
        """A UUID that names this store for ever; known after `open`."""
        return self._store_id

    # Writing

    @with_fresh_keys
    async def create(
        self,
        space: Space,
        drafts: Sequence[Draft],
        author: Author,
        request: Request | None,
        *,
        each: bool,
        within: Filter = _EVERYTHING,
        guard: Callable[[Connection[Record]], Awaitable[None]] | None = None,
    ) -> Created:
        """Write all drafts or none; with `each` those that nothing speaks against; duplicates are sought `within`.

        `guard` runs in the transaction with the space locked, before anything is written, and not for a repeated
        request: what it changes is committed with the memories, what it raises refuses all of them.
        """
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                return await self._replayed(connection, space, drafts, record, author, cipher)
            if guard is not None:
                await guard(connection)
            plan = await drafting.sort(connection, locked, drafts, author, cipher, within)
            if plan.refused and not each:
                raise plan.refused[min(plan.refused)]
            created, memories = await self._carry_out(connection, locked, drafts, plan, author, request, cipher)
        self._recent.add(space.uid, (_created(memory, author) for memory in memories))
        return created

    async def _carry_out(
        self,
        connection: Connection[Record],
        space: Space,
        drafts: Sequence[Draft],
        plan: drafting.Sorted,
        author: Author,
        request: Request | None,
        cipher: SpaceCipher | None,
    ) -> tuple[Created, list[Memory]]:
        """What became of the drafts, and the new memories as they were first."""
        fresh = [drafts[number] for number in plan.fresh]
        memories = await drafting.numbered(connection, space, fresh, author, cipher, space.revision + 1)
        last = await self._write(connection, space, fresh, memories, author, cipher)
        outcomes: dict[int, Kept | MnemoError] = dict(plan.refused)
        outcomes.update((number, Kept(memory)) for number, memory in zip(plan.fresh, memories, strict=True))
        for number, memory_id in sorted(plan.duplicates.items(), key=itemgetter(1)):
            there = await transactions.read(connection, space, memory_id, "", author.at, cipher)
            if drafts[number].on_duplicate is OnDuplicate.REINFORCE:
                last += 1
                there = await _reinforce(connection, space, there, last, author, cipher)
            outcomes[number] = Kept(there, duplicate=True)
        written = dict(zip(plan.fresh, memories, strict=True))
        for number, before in plan.same_as.items():
            if drafts[number].on_duplicate is OnDuplicate.REINFORCE:
                last += 1
                written[before] = await _reinforce(connection, space, written[before], last, author, cipher)
            outcomes[number] = Kept(written[before], duplicate=True)
        active = sum(memory.state is State.ACTIVE for memory in memories)
        size = sum(rows.size_of(memory) for memory in memories)
        await transactions.count(connection, space, last, active=active, archived=len(memories) - active, size=size)
        taken = [number for number, error in plan.refused.items() if isinstance(error, MemoryExistsError)]
        others = {
            number: _recorded(outcome)
            for number, outcome in outcomes.items()
            if number not in taken and not (isinstance(outcome, Kept) and not outcome.duplicate)
        }
        await transactions.remember(
            connection, space, request, space.revision + 1, last, author.at, taken=taken, duplicates=others
        )
        return Created(tuple(outcomes[number] for number in range(len(drafts))), last), memories

    async def _write(
        self,
        connection: Connection[Record],
        space: Space,
        drafts: Sequence[Draft],
        memories: Sequence[Memory],
        author: Author,
        cipher: SpaceCipher | None,
    ) -> int:
        """Insert new memories with their revisions and media; returns the newest revision."""
        if not memories:
            return space.revision
        sole = [
            draft.on_duplicate is not OnDuplicate.ALLOW and memory.state is State.ACTIVE
            for draft, memory in zip(drafts, memories, strict=True)
        ]
        claims = [rows.content_hash(memory, cipher) for memory, alone in zip(memories, sole, strict=True) if alone]
        if claims:
            await drafting.release_claims(connection, space, claims)
        await transactions.insert(connection, space, memories, sole, cipher)
        await transactions.append(connection, space, memories, Change.CREATED, author, cipher)
        await _take_media(connection, space, memories)
        return memories[-1].revision

    async def _replayed(
        self,
        connection: Connection[Record],
        space: Space,
        drafts: Sequence[Draft],
        record: Record,
        author: Author,
        cipher: SpaceCipher | None,
    ) -> Created:
        """The first answer to a request once more.

        Raises RequestIdReusedError if the drafts are more than there were: others were refused before they came here.
        """
        revisions = iter(await transactions.revisions_of(connection, record, cipher))
        taken = set(json.loads(record["taken"]))
        others = json.loads(record["duplicates"])
        outcomes: list[Kept | MnemoError] = []
        for number, draft in enumerate(drafts):
            if number in taken:
                outcomes.append(MemoryExistsError(memory=f"{space.name}/memories/{draft.id}"))
            elif str(number) in others:
                outcomes.append(await self._other(connection, space, others[str(number)], author, cipher))
            else:
                revision = next(revisions, None)
                if revision is None:
                    raise RequestIdReusedError
                if revision.memory is None:
                    raise MemoryNotFoundError(memory=f"{space.name}/memories/{revision.memory_id}")
                outcomes.append(Kept(revision.memory))
        return Created(tuple(outcomes), record["last_revision"])

    async def _other(
        self,
        connection: Connection[Record],
        space: Space,
        recorded: list[str],
        author: Author,
        cipher: SpaceCipher | None,
    ) -> Kept | MnemoError:
        what, value, limit = recorded
        if what == "there":
            memory = await transactions.read(connection, space, MemoryId(value), "", author.at, cipher)
            return Kept(memory, duplicate=True)
        if what == "duplicate":
            return DuplicateMemoryError(memory=value)
        if what == "media":
            return MediaNotFoundError(media=value)
        return QuotaExceededError(space=space.name, quota=value, limit=limit)

    @with_fresh_keys
    async def answered(self, space: Space, request: Request, now: datetime) -> Answered | None:
        """The first answer to a request that wrote one memory; None if there was none yet."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction(readonly=True) as connection:
            record = await transactions.earlier(connection, space.tenant, request)
            if record is None:
                return None
            there = json.loads(record["duplicates"]).get("0")
            if there is not None:
                kept = Kept(await transactions.read(connection, space, MemoryId(there[1]), "", now, cipher), True)
            else:
                first = (await transactions.revisions_of(connection, record, cipher))[0]
                if first.memory is None:
                    raise MemoryNotFoundError(memory=f"{space.name}/memories/{first.memory_id}")
                kept = Kept(first.memory)
            return Answered(kept, transactions.note_of(record), record["last_revision"])

    @with_fresh_keys
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
        """Replace a memory by what `alter` makes of it; None changes nothing."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                return await self._replayed_change(connection, space, memory_id, record, author, cipher)
            before = await transactions.read(connection, space, memory_id, etag, author.at, cipher)
            altered = alter(before)
            last = locked.revision if altered is None else locked.revision + 1
            await transactions.remember(connection, space, request, locked.revision + 1, last, author.at)
            if altered is None:
                return Written((before,), last)
            drafting.Room(locked).grow(before, altered)
            after = _stamped(drafting.warmed(before, altered), last, author)
            await _replace(connection, space, before, after, change, author, cipher)
            return Written((after,), last)

    @with_fresh_keys
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
        """Write a memory in the place of another: returns the new one and the old one."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                revisions = await transactions.revisions_of(connection, record, cipher)
                memories = tuple(revision.memory for revision in revisions if revision.memory is not None)
                if len(memories) < len(revisions):
                    raise MemoryNotFoundError(memory=f"{space.name}/memories/{old_id}")
                return Written(memories, record["last_revision"])
            old = await transactions.read(connection, space, old_id, etag, author.at, cipher)
            if old.superseded_by is not None:
                raise AlreadySupersededError(
                    memory=f"{space.name}/memories/{old_id}",
                    superseded_by=f"{space.name}/memories/{old.superseded_by}",
                )
            if old.protected:
                raise MemoryProtectedError(memory=f"{space.name}/memories/{old_id}")
            closed, new_draft = close(old, replace(draft, on_duplicate=OnDuplicate.ALLOW))
            plan = await drafting.sort(connection, locked, [new_draft], author, cipher, _EVERYTHING)
            if plan.refused:
                raise plan.refused[0]
            numbered = await drafting.numbered(connection, space, [new_draft], author, cipher, locked.revision + 1)
            new = replace(numbered[0], supersedes=old_id)
            await self._write(connection, space, [new_draft], [new], author, cipher)
            active = new.state is State.ACTIVE
            size = rows.size_of(new)
            await transactions.count(
                connection, space, new.revision, active=int(active), archived=int(not active), size=size
            )
            closed = drafting.warmed(old, replace(closed, superseded_by=new.id))
            after = _stamped(closed, new.revision + 1, author)
            await _replace(connection, space, old, after, Change.SUPERSEDED, author, cipher)
            await transactions.remember(connection, space, request, new.revision, after.revision, author.at)
            return Written((new, after), after.revision)

    @with_fresh_keys
    async def erase(
        self, space: Space, memory_id: MemoryId, etag: str, author: Author, request: Request | None
    ) -> Written:
        """Remove a memory and its content in every revision."""
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            if record := await transactions.earlier(connection, space.tenant, request):
                return Written((), record["last_revision"])
            memory = await transactions.read(connection, space, memory_id, etag, author.at, cipher)
            if memory.protected:
                raise MemoryProtectedError(memory=f"{space.name}/memories/{memory_id}")
            revision = locked.revision + 1
            await _erase(connection, space, memory, revision, author)
            await transactions.remember(connection, space, request, revision, revision, author.at)
            return Written((), revision)

    @with_fresh_keys
    async def republish(self, space: Space, author: Author) -> int:
        """Append a REPUBLISHED revision for every memory; returns their number."""
        cipher = await self._vault.cipher(space)
        published = after = 0
        while True:
            async with self._database.transaction() as connection:
                locked = await transactions.lock(connection, space)
                found = await connection.fetch(
                    f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 "
                    "AND created_revision > $2 ORDER BY created_revision LIMIT $3",
                    UUID(space.uid),
                    after,
                    REPUBLISH_BATCH,
                )
                if not found:
                    return published
                memories = [
                    replace(rows.to_memory(row, author.at, cipher), revision=revision)
                    for revision, row in enumerate(found, locked.revision + 1)
                ]
                await connection.execute(
                    "SELECT FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[]) ORDER BY id "
                    "FOR NO KEY UPDATE",  # in the order of all who lock several
                    UUID(space.uid),
                    [UUID(memory.id) for memory in memories],
                )
                await connection.execute(
                    "UPDATE memory.memories AS m SET revision = t.revision "
                    "FROM unnest($2::uuid[], $3::bigint[]) AS t(id, revision) WHERE m.space_uid = $1 AND m.id = t.id",
                    UUID(space.uid),
                    [UUID(memory.id) for memory in memories],
                    [memory.revision for memory in memories],
                )
                await transactions.append(connection, space, memories, Change.REPUBLISHED, author, cipher)
                await transactions.count(connection, space, memories[-1].revision)
            published += len(memories)
            after = memories[-1].created_revision

    async def sweep(self, now: datetime, limit: int, swept: Swept | None = None) -> int:
        """Take memories out of recall whose time is over, and erase those whose space says so; returns their number.

        `swept` is told which ones, once it is done. Encrypted spaces whose keys are missing are left as they are.
        """
        tell = swept or _tell_nobody
        count = 0
        closed: set[UUID] = set()
        while count < limit:
            found = await self._database.fetch(
                f"SELECT m.id, {', '.join('s.' + column.strip() for column in rows.SPACE_COLUMNS.split(','))} "
                "FROM memory.memories m JOIN memory.spaces s ON s.uid = m.space_uid "
                "WHERE m.expires_at <= $1 AND m.state = 1 AND NOT m.space_uid = ANY($3::uuid[]) "
                "ORDER BY m.expires_at LIMIT $2",
                now,
                limit - count,
                list(closed),
            )
            shut = await self._expire_found(found, now, tell)
            count += sum(row["uid"] not in shut for row in found)
            if not shut:
                break
            closed |= shut
        return count + await self._erase_ended(now, limit, tell)

    async def _expire_found(self, found: Sequence[Record], now: datetime, tell: Swept) -> set[UUID]:
        """Take memories out of recall; returns the spaces where that was not possible for want of their keys."""
        by_space: dict[UUID, list[Record]] = defaultdict(list)
        for row in found:
            by_space[row["uid"]].append(row)
        shut = set()
        for uid, expired in by_space.items():
            try:
                ids = sorted(MemoryId(str(row["id"])) for row in expired)
                await self._expire(rows.to_space(expired[0]), ids, now)
                tell(SpaceUid(str(uid)), ids)
            except (KeyUnavailableError, SpaceNotFoundError) as error:
                _log.warning("space %s is not swept, the others are: %s", uid, error)
                shut.add(uid)
        return shut

    @with_fresh_keys
    async def _expire(self, space: Space, ids: Sequence[MemoryId], now: datetime) -> None:
        cipher = await self._vault.cipher(space)
        author = Author(SWEEPER, now, "expired")
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            revision = locked.revision
            for memory_id in ids:
                row = await connection.fetchrow(
                    f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories "
                    "WHERE space_uid = $1 AND id = $2 AND state = 1 AND expires_at <= $3",
                    UUID(space.uid),
                    UUID(memory_id),
                    now,
                )
                if row is None:
                    continue
                before = rows.to_memory(row, now, cipher)
                revision += 1
                after = _stamped(drafting.warmed(before, before), revision, author)
                await _replace(connection, space, before, after, Change.EXPIRED, author, cipher)

    async def _erase_ended(self, now: datetime, limit: int, tell: Swept) -> int:
        """Erase what has been out of recall for longer than the policy of its space allows."""
        spaces = await self._database.fetch(
            f"SELECT {rows.SPACE_COLUMNS} FROM memory.spaces WHERE policy ->> 'erase_expired_after' IS NOT NULL "
            "OR policy ->> 'erase_archived_after' IS NOT NULL"
        )
        erased = 0
        for row in spaces:
            if erased >= limit:
                break
            try:
                space = rows.to_space(row)
                ids = await self._erase_ended_of(space, now, limit - erased)
                erased += len(ids)
                tell(space.uid, ids)
            except (KeyUnavailableError, SpaceNotFoundError) as error:
                _log.warning("space %s is not swept, the others are: %s", row["uid"], error)
        return erased

    @with_fresh_keys
    async def _erase_ended_of(self, space: Space, now: datetime, limit: int) -> list[MemoryId]:
        cipher = await self._vault.cipher(space)
        author = Author(SWEEPER, now, "retention policy")
        expired, archived = space.policy.erase_expired_after, space.policy.erase_archived_after
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            found = await connection.fetch(
                f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND state = 2 "
                "AND NOT protected AND (($3::timestamptz IS NOT NULL AND archived_at IS NULL AND expires_at <= $3) OR "
                f"($4::timestamptz IS NOT NULL AND {ARCHIVED} AND coalesce(archived_at, updated_at) <= $4)) "
                "ORDER BY updated_at LIMIT $2",
                UUID(space.uid),
                limit,
                None if expired is None else now - expired,
                None if archived is None else now - archived,
            )
            for revision, row in enumerate(found, locked.revision + 1):
                await _erase(connection, space, rows.to_memory(row, now, cipher), revision, author)
            return [MemoryId(str(row["id"])) for row in found]

    async def count_uses(self, space_uid: SpaceUid, uses: Mapping[MemoryId, tuple[int, datetime]]) -> None:
        """Add uses to memories: how many, and the time of the last one. In order of ids: two do not deadlock."""
        ordered = sorted(uses)
        await self._database.execute(
            "WITH used AS (SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::timestamptz[]) AS t(id, uses, at)), "
            "locked AS (SELECT m.id FROM memory.memories m JOIN used USING (id) WHERE m.space_uid = $1 "
            "ORDER BY m.id FOR NO KEY UPDATE OF m) "
            "UPDATE memory.memories AS m SET accesses = m.accesses + used.uses, "
            "accessed_at = greatest(m.accessed_at, used.at) "
            "FROM used JOIN locked USING (id) WHERE m.space_uid = $1 AND m.id = used.id",
            UUID(space_uid),
            [UUID(memory_id) for memory_id in ordered],
            [uses[memory_id][0] for memory_id in ordered],
            [uses[memory_id][1] for memory_id in ordered],
        )

    async def forget_old_requests(self, before: datetime) -> int:
        """Drop the records of requests older than `before`; returns their number."""
        status = await self._database.execute("DELETE FROM memory.requests WHERE created_at < $1", before)
        return int(status.rpartition(" ")[2])

    # Reading

    @with_fresh_keys
    async def get(self, space: Space, ids: Sequence[MemoryId], now: datetime) -> dict[MemoryId, Memory]:
        """The memories among `ids` that exist."""
        cipher = await self._vault.cipher(space)
        found = await self._database.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
            UUID(space.uid),
            [UUID(each) for each in ids],
        )
        memories = [rows.to_memory(row, now, cipher) for row in found]
        return {memory.id: memory for memory in memories}

    @with_fresh_keys
    async def get_as_of(self, space: Space, ids: Sequence[MemoryId], at: datetime) -> dict[MemoryId, Memory]:
        """The memories among `ids` that existed at `at` and still do, as they were then."""
        cipher = await self._vault.cipher(space)
        found = await self._database.fetch(
            f"SELECT DISTINCT ON (memory_id) {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 "
            "AND memory_id = ANY($2::uuid[]) AND committed_at <= $3 ORDER BY memory_id, revision DESC",
            UUID(space.uid),
            [UUID(each) for each in ids],
            at,
        )
        memories = [memory for row in found if (memory := rows.to_revision(row, cipher).memory) is not None]
        return {memory.id: replace(memory, state=memory.state_at(at)) for memory in memories}

    @with_fresh_keys
    async def list_memories(
        self, space: Space, where: Filter, states: Sequence[State], position: ListPosition, limit: int, now: datetime
    ) -> list[Memory]:
        """Memories by falling creation revision."""
        cipher = await self._vault.cipher(space)
        conditions = Conditions(UUID(space.uid), position.before, position.as_of, limit)
        conditions.filter(rows.blinded(where, cipher))
        conditions.states(states, now)
        found = await self._database.fetch(
            f"SELECT {rows.MEMORY_COLUMNS} FROM memory.memories WHERE space_uid = $1 AND created_revision < $2 "
            f"AND created_revision <= $3 AND {conditions.sql} "
            "ORDER BY created_revision DESC LIMIT $4",
            *conditions.values,
        )
        return [rows.to_memory(row, now, cipher) for row in found]

    async def search_words(
        self, space: Space, query: str, where: Filter, states: Sequence[State], limit: int, now: datetime
    ) -> list[tuple[Memory, float]]:
        """The memories that share words with `query`, and how well they match, 0 to 1, best first."""
        if space.encrypted:
            raise PeerUnavailableError(target="index")
        conditions = Conditions(UUID(space.uid), query, limit)
        conditions.filter(where)
        conditions.states(states, now)
        found = await self._database.fetch(
            "WITH asked AS (SELECT replace(plainto_tsquery('english', $2)::text, '&', '|')::tsquery AS words), "
            "best AS (SELECT id AS found_id, ts_rank_cd(memories.words, asked.words, 1 | 32) AS rank "
            "FROM memory.memories, asked "
            "WHERE space_uid = $1 AND memories.words @@ asked.words "
            f"AND {conditions.sql} ORDER BY rank DESC, created_revision DESC LIMIT $3) "
            f"SELECT {rows.MEMORY_COLUMNS}, rank FROM best JOIN memory.memories ON space_uid = $1 AND id = found_id "
            "ORDER BY rank DESC, created_revision DESC",
            *conditions.values,
        )
        return [(rows.to_memory(row, now, None), float(row["rank"])) for row in found]

    async def unpublished_revisions(self, space: Space, limit: int) -> list[Revision]:
        """Revisions right behind `space.published_revision`: as they were committed here, else as they are stored."""
        recent = self._recent.take(space.uid, space.published_revision, limit)
        if len(recent) == limit:
            return recent
        after = recent[-1].revision if recent else space.published_revision
        return recent + await self.list_revisions(space, None, after, limit - len(recent))

    def forget_recent(self) -> None:
        """Let go of what is held of committed revisions: all are published, by whomever."""
        self._recent.clear()

    @with_fresh_keys
    async def list_revisions(
        self, space: Space, memory_id: MemoryId | None, after: int, limit: int, until: datetime | None = None
    ) -> list[Revision]:
        """Revisions of the space or of one memory after revision `after`, oldest first, committed by `until`."""
        cipher = await self._vault.cipher(space)
        conditions = Conditions(UUID(space.uid), after, limit)
        if memory_id is not None:
            conditions.add("memory_id = {}", UUID(memory_id))
        if until is not None:
            conditions.add("committed_at <= {}", until)
        found = await self._database.fetch(
            f"SELECT {rows.REVISION_COLUMNS} FROM memory.revisions WHERE space_uid = $1 AND revision > $2 "
            f"AND {conditions.sql} ORDER BY revision LIMIT $3",
            *conditions.values,
        )
        return [rows.to_revision(row, cipher) for row in found]

    async def _replayed_change(
        self,
        connection: Connection[Record],
        space: Space,
        memory_id: MemoryId,
        record: Record,
        author: Author,
        cipher: SpaceCipher | None,
    ) -> Written:
        if record["first_revision"] > record["last_revision"]:
            memory = await transactions.read(connection, space, memory_id, "", author.at, cipher)
            return Written((memory,), record["last_revision"])
        revision = (await transactions.revisions_of(connection, record, cipher))[0]
        if revision.memory is None:
            raise MemoryNotFoundError(memory=f"{space.name}/memories/{memory_id}")
        return Written((revision.memory,), record["last_revision"])


def _created(memory: Memory, author: Author) -> Revision:
    """The first revision of a memory."""
    return Revision(memory.revision, memory.id, Change.CREATED, memory, author.at, author.principal, author.reason)


def _tell_nobody(space_uid: SpaceUid, ids: Sequence[MemoryId]) -> None:
    """Nobody wants to know."""


def _stamped(memory: Memory, revision: int, author: Author) -> Memory:
    changed = replace(memory, revision=revision, updated_at=author.at)
    return replace(changed, state=changed.state_at(author.at))


async def _replace(
    connection: Connection[Record],
    space: Space,
    before: Memory,
    after: Memory,
    change: Change,
    author: Author,
    cipher: SpaceCipher | None,
) -> None:
    """Put a changed memory in the place of the old one, with its revision and the counts of the locked space."""
    stored = await connection.fetchval(
        "SELECT state FROM memory.memories WHERE space_uid = $1 AND id = $2", UUID(space.uid), UUID(after.id)
    )
    await transactions.update(connection, space, before, after, cipher)
    await transactions.append(connection, space, [after], change, author, cipher)
    step = int(rows.stored_state(after, after.updated_at) == rows.IN_RECALL) - int(stored == rows.IN_RECALL)
    growth = rows.size_of(after) - rows.size_of(before)
    await transactions.count(connection, space, after.revision, active=step, archived=-step, size=growth)


async def _reinforce(
    connection: Connection[Record],
    space: Space,
    memory: Memory,
    revision: int,
    author: Author,
    cipher: SpaceCipher | None,
) -> Memory:
    used = replace(drafting.warmed(memory, memory), accesses=memory.accesses + 1, accessed_at=author.at)
    after = _stamped(used, revision, author)
    await _replace(connection, space, memory, after, Change.REINFORCED, author, cipher)
    return after


async def _erase(connection: Connection[Record], space: Space, memory: Memory, revision: int, author: Author) -> None:
    keys = (UUID(space.uid), UUID(memory.id))
    media = memory.media.size if memory.media else 0
    stored = await connection.fetchval(
        "DELETE FROM memory.memories WHERE space_uid = $1 AND id = $2 RETURNING state", *keys
    )
    await connection.execute(
        "UPDATE memory.revisions SET snapshot = NULL, sealed = NULL WHERE space_uid = $1 AND memory_id = $2", *keys
    )
    await connection.execute(
        "INSERT INTO memory.revisions (space_uid, revision, memory_id, change, committed_at, principal, reason) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        keys[0],
        revision,
        keys[1],
        Change.ERASED,
        author.at,
        author.principal,
        author.reason,
    )
    active = stored == rows.IN_RECALL
    await transactions.count(
        connection,
        space,
        revision,
        active=-int(active),
        archived=-int(not active),
        size=-rows.size_of(memory),
        media=-media,
    )


async def _take_media(connection: Connection[Record], space: Space, memories: Sequence[Memory]) -> None:
    """Give uploaded media to the memories that name them. Raises MediaNotFoundError if one is not there to be taken."""
    for memory in memories:
        if memory.media is None:
            continue
        status = await connection.execute(
            "UPDATE memory.media SET memory_id = $3 "
            "WHERE space_uid = $1 AND id = $2 AND complete AND memory_id IS NULL",
            UUID(space.uid),
            UUID(memory.media.id),
            UUID(memory.id),
        )
        if status != "UPDATE 1":
            raise MediaNotFoundError(media=f"{space.name}/media/{memory.media.id}")


def _recorded(outcome: Kept | MnemoError) -> list[Any]:
    """What a request record keeps of an item that was not written."""
    if isinstance(outcome, Kept):
        return ["there", outcome.memory.id, ""]
    if isinstance(outcome, DuplicateMemoryError):
        return ["duplicate", outcome.metadata["memory"], ""]
    if isinstance(outcome, MediaNotFoundError):
        return ["media", outcome.metadata["media"], ""]
    return ["quota", outcome.metadata["quota"], outcome.metadata["limit"]]
