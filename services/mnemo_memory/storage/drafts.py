"""What becomes of drafts in a locked space: which are refused, which are there already, which are written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.memory import Memory, OnDuplicate, State, Tier
from mnemo_memory.storage import rows
from mnemo_memory.storage.conditions import Conditions
from mnemocore.errors import DuplicateMemoryError, MediaNotFoundError, MemoryExistsError, QuotaExceededError
from mnemocore.ids import MemoryId, new_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Draft, Filter, Space
    from mnemo_memory.domain.ports import Author
    from mnemocore.errors import MnemoError
    from mnemocore.sealing import SpaceCipher

LAST_ORDINAL: Final = 2**53
"""The greatest place in a session that a caller can name; what arrives after it has the same place."""


class Sorted:
    """Drafts by what becomes of them, each by its number: refused, equal to a memory or an earlier draft, or fresh."""

    def __init__(self) -> None:
        self.refused: dict[int, MnemoError] = {}
        self.duplicates: dict[int, MemoryId] = {}
        self.same_as: dict[int, int] = {}
        self.fresh: list[int] = []


async def sort(
    connection: Connection[Record],
    space: Space,
    drafts: Sequence[Draft],
    author: Author,
    cipher: SpaceCipher | None,
    within: Filter,
) -> Sorted:
    """Say of each draft what becomes of it. `space` is locked; duplicates are looked for `within` a part of it."""
    taken = await _taken(connection, space, drafts)
    known = await _known(connection, space, drafts, author, cipher, within)
    missing = await _missing_media(connection, space, drafts)
    result = Sorted()
    first: dict[bytes, int] = {}
    compared = any(draft.on_duplicate is not OnDuplicate.ALLOW for draft in drafts)
    room = Room(space)
    for number, draft in enumerate(drafts):
        if number in taken:
            result.refused[number] = MemoryExistsError(memory=f"{space.name}/memories/{draft.id}")
            continue
        if draft.media is not None and number in missing:
            result.refused[number] = MediaNotFoundError(media=f"{space.name}/media/{draft.media.id}")
            continue
        key = rows.content_hash(draft, cipher) if compared else b""
        if draft.on_duplicate is not OnDuplicate.ALLOW:
            there, before = known.get(key), first.get(key)
            if draft.on_duplicate is OnDuplicate.REJECT and (there is not None or before is not None):
                result.refused[number] = DuplicateMemoryError(
                    memory=f"{space.name}/memories/{there}" if there else "of the same batch"
                )
                continue
            if there is not None:
                result.duplicates[number] = there
                continue
            if before is not None:
                result.same_as[number] = before
                continue
        refusal = room.take(draft)
        if refusal is not None:
            result.refused[number] = refusal
            continue
        result.fresh.append(number)
        if compared and (draft.expires_at is None or draft.expires_at > author.at):
            first.setdefault(key, number)
    return result


class Room:
    """What the limits of a space leave for more, less what has taken room here."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._memories = space.active + space.archived
        self._bytes = space.bytes + space.media_bytes

    def take(self, draft: Draft) -> MnemoError | None:
        """Take room for a draft; the error if there is none. Its medium has room already."""
        size = rows.size_of(draft)
        limits = self._space.policy.limits
        refusal = self._refusal(rows.bytes_of(draft.content), size)
        if refusal is None and 0 < limits.max_memories <= self._memories:
            refusal = self._exceeded("max_memories", limits.max_memories)
        if refusal is not None:
            return refusal
        self._memories += 1
        self._bytes += size
        return None

    def grow(self, before: Memory, after: Memory) -> None:
        """Take room for what a changed memory has more. Raises QuotaExceededError, never if it is not larger."""
        growth = rows.size_of(after) - rows.size_of(before)
        if growth > 0 and (refusal := self._refusal(rows.bytes_of(after.content), growth)) is not None:
            raise refusal
        self._bytes += growth

    def grow_by_media(self, size: int) -> None:
        """Take room for the bytes of a medium. Raises QuotaExceededError."""
        if (refusal := self._refusal(0, size)) is not None:
            raise refusal
        self._bytes += size

    def _refusal(self, content: int, growth: int) -> QuotaExceededError | None:
        limits = self._space.policy.limits
        for quota, wanted, limit in (
            ("max_content_bytes", content, limits.max_content_bytes),
            ("max_bytes", self._bytes + growth, limits.max_bytes),
        ):
            if 0 < limit < wanted:
                return self._exceeded(quota, limit)
        return None

    def _exceeded(self, quota: str, limit: int) -> QuotaExceededError:
        return QuotaExceededError(space=self._space.name, quota=quota, limit=str(limit))


async def numbered(
    connection: Connection[Record],
    space: Space,
    drafts: Sequence[Draft],
    author: Author,
    cipher: SpaceCipher | None,
    first_revision: int,
) -> list[Memory]:
    """The drafts as memories: with ids, ordinals in the order of arrival, and revisions from `first_revision` on."""
    ordinals = await _next_ordinals(connection, space, drafts, cipher)
    memories = []
    for revision, draft in enumerate(drafts, first_revision):
        ordinal = draft.ordinal if draft.session else None
        if draft.session:
            ordinal = ordinals[draft.session] if ordinal is None else ordinal
            ordinals[draft.session] = min(max(ordinals.get(draft.session, 0), ordinal + 1), LAST_ORDINAL)
        memories.append(_memory(draft, ordinal, revision, author))
    return memories


def warmed(before: Memory, after: Memory) -> Memory:
    """A changed memory: what was COLD is WARM again, for its content is written anew."""
    return replace(after, tier=Tier.WARM) if before.tier is Tier.COLD else after


async def release_claims(connection: Connection[Record], space: Space, hashes: Sequence[bytes]) -> None:
    """Let go of the claims to be the only one of its content that memories hold which are not active any more."""
    await connection.execute(
        "UPDATE memory.memories SET sole = false WHERE space_uid = $1 AND content_hash = ANY($2::bytea[]) AND sole",
        UUID(space.uid),
        list(hashes),
    )


def _memory(draft: Draft, ordinal: int | None, revision: int, author: Author) -> Memory:
    memory = Memory(
        id=draft.id or MemoryId(new_uuid(author.at)),
        kind=draft.kind,
        content=draft.content,
        metadata=draft.metadata,
        tags=draft.tags,
        actor=draft.actor,
        session=draft.session,
        ordinal=ordinal,
        occurred_at=draft.occurred_at or author.at,
        importance=draft.importance,
        confidence=draft.confidence,
        state=State.ACTIVE,
        revision=revision,
        created_revision=revision,
        created_at=author.at,
        updated_at=author.at,
        modality=draft.modality,
        media=draft.media,
        valid_from=draft.valid_from,
        valid_to=draft.valid_to,
        expires_at=draft.expires_at,
        provenance=draft.provenance,
        protected=draft.protected,
    )
    state = memory.state_at(author.at)
    return memory if state is memory.state else replace(memory, state=state)


async def _taken(connection: Connection[Record], space: Space, drafts: Sequence[Draft]) -> set[int]:
    """Numbers of the drafts whose chosen ids exist in the space or stand in an earlier draft."""
    chosen = [UUID(draft.id) for draft in drafts if draft.id is not None]
    if not chosen:
        return set()
    found = await connection.fetch(
        "SELECT id FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])", UUID(space.uid), chosen
    )
    seen = {str(row["id"]) for row in found}
    taken = set()
    for number, draft in enumerate(drafts):
        if draft.id in seen:
            taken.add(number)
        elif draft.id is not None:
            seen.add(draft.id)
    return taken


async def _missing_media(connection: Connection[Record], space: Space, drafts: Sequence[Draft]) -> set[int]:
    """Numbers of the drafts whose media are not there to be taken, or are named by an earlier draft."""
    named = [UUID(draft.media.id) for draft in drafts if draft.media is not None]
    if not named:
        return set()
    found = await connection.fetch(
        "SELECT id FROM memory.media WHERE space_uid = $1 AND id = ANY($2::uuid[]) AND complete AND memory_id IS NULL",
        UUID(space.uid),
        named,
    )
    free, missing = {str(row["id"]) for row in found}, set()
    for number, draft in enumerate(drafts):
        if draft.media is not None and draft.media.id not in free:
            missing.add(number)
        elif draft.media is not None:
            free.discard(draft.media.id)
    return missing


async def _known(
    connection: Connection[Record],
    space: Space,
    drafts: Sequence[Draft],
    author: Author,
    cipher: SpaceCipher | None,
    within: Filter,
) -> Mapping[bytes, MemoryId]:
    """The active memories of a part of the space that equal drafts which ask for it, by their content."""
    asking = [rows.content_hash(draft, cipher) for draft in drafts if draft.on_duplicate is not OnDuplicate.ALLOW]
    if not asking:
        return {}
    conditions = Conditions(UUID(space.uid), asking, author.at)
    conditions.filter(rows.blinded(within, cipher))
    found = await connection.fetch(
        "SELECT DISTINCT ON (content_hash) content_hash, id FROM memory.memories WHERE space_uid = $1 "
        "AND content_hash = ANY($2::bytea[]) AND state = 1 AND (expires_at IS NULL OR expires_at > $3) "
        f"AND {conditions.sql} ORDER BY content_hash, created_revision",
        *conditions.values,
    )
    return {row["content_hash"]: MemoryId(str(row["id"])) for row in found}


async def _next_ordinals(
    connection: Connection[Record], space: Space, drafts: Sequence[Draft], cipher: SpaceCipher | None
) -> dict[str, int]:
    sessions = sorted({draft.session for draft in drafts if draft.session and draft.ordinal is None})
    if not sessions:
        return {}
    stored = {(cipher.blind(session) if cipher else session): session for session in sessions}
    found: list[Any] = await connection.fetch(
        "SELECT s.session, (SELECT max(m.ordinal) FROM memory.memories m WHERE m.space_uid = $1 "
        "AND m.session = s.session AND m.session <> '') AS newest FROM unnest($2::text[]) AS s(session)",
        UUID(space.uid),
        list(stored),
    )
    return {
        stored[row["session"]]: 0 if row["newest"] is None else min(row["newest"] + 1, LAST_ORDINAL) for row in found
    }
