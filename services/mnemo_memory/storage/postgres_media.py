"""Media on PostgreSQL: a row of what it is, and its bytes in parts, sealed in an encrypted space.

A row counts for its space, and can be found, once it is complete. Parts are written one by one, so an upload of any
size holds no transaction open and no more than a part in memory. In an encrypted space the hash of the bytes is sealed
too: a hash tells who holds a copy.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final
from uuid import UUID

from asyncpg.exceptions import ForeignKeyViolationError

from mnemo_memory.domain.media import StoredMedia, refuse_beyond_quota
from mnemo_memory.domain.memory import Media
from mnemo_memory.storage import rows, transactions
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemocore.errors import MediaNotFoundError, SpaceNotFoundError
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Vault
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

_BATCH: Final = 16
"""Untaken media removed in one transaction."""
_SPACE_COLUMNS: Final = ", ".join(f"s.{column}" for column in rows.SPACE_COLUMNS.split(", "))
_INSERT_PART: Final = "INSERT INTO memory.media_parts (space_uid, media_id, number, data) VALUES ($1, $2, $3, $4)"
_FIND: Final = (
    "SELECT mime_type, size, sha256, memory_id FROM memory.media WHERE space_uid = $1 AND id = $2 AND complete"
)
_DELETE_UNTAKEN: Final = (
    "DELETE FROM memory.media WHERE space_uid = $1 AND id = ANY($2::uuid[]) AND memory_id IS NULL RETURNING size"
)


class PostgresMedia:
    """Implements `mnemo_memory.domain.media.MediaStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def begin(self, space: Space, media_id: str, mime_type: str, at: datetime) -> None:
        """Begin a medium. Raises SpaceNotFoundError."""
        try:
            await self._database.execute(
                "INSERT INTO memory.media (space_uid, id, mime_type, size, sha256, created_at) "
                "VALUES ($1, $2, $3, 0, '', $4)",
                UUID(space.uid),
                UUID(media_id),
                mime_type,
                at,
            )
        except ForeignKeyViolationError:
            raise SpaceNotFoundError(space=space.name) from None

    @with_fresh_keys
    async def append(self, space: Space, media_id: str, number: int, data: bytes) -> None:
        """Add part `number`, from 0. Raises MediaNotFoundError if the medium is gone."""
        cipher = await self._vault.cipher(space)
        stored = await _sealed_part(cipher, media_id, number, data)
        try:
            await self._database.execute(_INSERT_PART, UUID(space.uid), UUID(media_id), number, stored)
        except ForeignKeyViolationError:
            raise _unknown(space, media_id) from None

    @with_fresh_keys
    async def finish(self, space: Space, media: Media) -> None:
        """Make a medium whole and count its bytes.

        Raises QuotaExceededError, MediaNotFoundError if it is gone, SpaceNotFoundError.
        """
        cipher = await self._vault.cipher(space)
        async with self._database.transaction() as connection:
            await _count(connection, space, media.size)
            status = await connection.execute(
                "UPDATE memory.media SET size = $3, sha256 = $4, complete = true "
                "WHERE space_uid = $1 AND id = $2 AND NOT complete",
                UUID(space.uid),
                UUID(media.id),
                media.size,
                _stored_hash(media, cipher),
            )
            if status != "UPDATE 1":
                raise _unknown(space, media.id)

    @with_fresh_keys
    async def put(self, space: Space, media: Media, parts: Sequence[bytes], at: datetime) -> StoredMedia:
        """Keep a medium in one step and count its bytes; the one that is there if the id is in use.

        Raises QuotaExceededError, SpaceNotFoundError.
        """
        cipher = await self._vault.cipher(space)
        stored = [await _sealed_part(cipher, media.id, number, part) for number, part in enumerate(parts)]
        async with self._database.transaction() as connection:
            if not await _insert_whole(connection, space, media, cipher, at):
                return await self._there(connection, space, media.id, cipher)
            keys = (UUID(space.uid), UUID(media.id))
            await connection.executemany(_INSERT_PART, [(*keys, number, part) for number, part in enumerate(stored)])
            await _count(connection, space, media.size)
        return StoredMedia(media, None)

    @with_fresh_keys
    async def find(self, space: Space, media_id: str) -> StoredMedia | None:
        """A whole medium."""
        cipher = await self._vault.cipher(space)
        row = await self._database.fetchrow(_FIND, UUID(space.uid), UUID(media_id))
        return None if row is None else _to_stored(row, media_id, cipher)

    @with_fresh_keys
    async def part(self, space: Space, media_id: str, number: int) -> bytes | None:
        """Part `number` of a medium; None if it is gone."""
        cipher = await self._vault.cipher(space)
        data: bytes | None = await self._database.fetchval(
            "SELECT data FROM memory.media_parts WHERE space_uid = $1 AND media_id = $2 AND number = $3",
            UUID(space.uid),
            UUID(media_id),
            number,
        )
        if data is None or cipher is None:
            return data
        return await asyncio.to_thread(cipher.open, part_subject(media_id, number), data)

    async def discard(self, space: Space, ids: Sequence[str]) -> None:
        """Remove those of the media that no memory has taken, finished or not."""
        with suppress(SpaceNotFoundError):
            await self._remove(space, [UUID(each) for each in ids])

    async def remove_untaken(self, before: datetime) -> int:
        """Remove the media begun before `before` that no memory has taken; returns their number."""
        removed = 0
        while True:
            found = await self._database.fetch(
                f"SELECT m.id AS media_id, {_SPACE_COLUMNS} "
                "FROM memory.media m JOIN memory.spaces s ON s.uid = m.space_uid "
                "WHERE m.memory_id IS NULL AND m.created_at < $1 ORDER BY m.space_uid, m.created_at LIMIT $2",
                before,
                _BATCH,
            )
            for space, ids in _by_space(found):
                with suppress(SpaceNotFoundError):
                    removed += await self._remove(space, ids)
            if len(found) < _BATCH:
                return removed

    async def _remove(self, space: Space, ids: Sequence[UUID]) -> int:
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            deleted = await connection.fetch(_DELETE_UNTAKEN, UUID(space.uid), ids)
            await _add(connection, space, -sum(row["size"] for row in deleted))
            return len(deleted)

    async def _there(
        self, connection: Connection[Record], space: Space, media_id: str, cipher: SpaceCipher | None
    ) -> StoredMedia:
        row = await connection.fetchrow(_FIND, UUID(space.uid), UUID(media_id))
        if row is None:
            raise _unknown(space, media_id)
        return _to_stored(row, media_id, cipher)


async def _insert_whole(
    connection: Connection[Record], space: Space, media: Media, cipher: SpaceCipher | None, at: datetime
) -> bool:
    """Insert the row of a medium; False if its id is in use. Raises SpaceNotFoundError."""
    try:
        status: str = await connection.execute(
            "INSERT INTO memory.media (space_uid, id, mime_type, size, sha256, complete, created_at) "
            "VALUES ($1, $2, $3, $4, $5, true, $6) ON CONFLICT (space_uid, id) DO NOTHING",
            UUID(space.uid),
            UUID(media.id),
            media.mime_type,
            media.size,
            _stored_hash(media, cipher),
            at,
        )
    except ForeignKeyViolationError:
        raise SpaceNotFoundError(space=space.name) from None
    return status == "INSERT 0 1"


async def _count(connection: Connection[Record], space: Space, size: int) -> None:
    """Lock the space and add to its bytes of media. Raises QuotaExceededError if it may not hold so much."""
    locked = await transactions.lock(connection, space)
    refuse_beyond_quota(replace(locked, slug=space.slug), size)  # by the name the caller knows
    await _add(connection, space, size)


async def _add(connection: Connection[Record], space: Space, size: int) -> None:
    await connection.execute(
        "UPDATE memory.spaces SET media_bytes = media_bytes + $2 WHERE uid = $1", UUID(space.uid), size
    )


async def _sealed_part(cipher: SpaceCipher | None, media_id: str, number: int, data: bytes) -> bytes:
    return data if cipher is None else await asyncio.to_thread(cipher.seal, part_subject(media_id, number), data)


def part_subject(media_id: str, number: int) -> str:
    """What a part is sealed for."""
    return f"{media_id}#{number}"


def hash_subject(media_id: str) -> str:
    """What the hash of a medium is sealed for."""
    return f"{media_id}#sha256"


def _stored_hash(media: Media, cipher: SpaceCipher | None) -> bytes:
    plain = bytes.fromhex(media.sha256)
    return plain if cipher is None else cipher.seal(hash_subject(media.id), plain)


def _to_stored(row: Record, media_id: str, cipher: SpaceCipher | None) -> StoredMedia:
    stored: bytes = row["sha256"]
    plain = stored if cipher is None else cipher.open(hash_subject(media_id), stored)
    owner = row["memory_id"]
    return StoredMedia(
        Media(media_id, row["mime_type"], row["size"], plain.hex()), None if owner is None else MemoryId(str(owner))
    )


def _by_space(found: Sequence[Record]) -> list[tuple[Space, list[UUID]]]:
    """The ids of media by their spaces."""
    return [
        (rows.to_space(group[0]), [row["media_id"] for row in group])
        for group in (list(each) for _, each in groupby(found, key=lambda row: row["uid"]))
    ]


def _unknown(space: Space, media_id: str) -> MediaNotFoundError:
    return MediaNotFoundError(media=f"{space.name}/media/{media_id}")
