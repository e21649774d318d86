"""A new data key for a space, and everything in it sealed anew, while it is in use.

From the moment the new key is there it seals what is written. What was sealed with older keys is sealed anew in small
steps, each a transaction of its own; rows in use are left for later. Then the memories are published again, so that
everybody who keeps their events has them under the new key, and the older keys are dropped. Writers hold the row of the
key they seal with (a trigger sees to it): while the older keys are locked nobody uses them, and if nothing is sealed
with them then, nothing will be.

A rotation that was stopped goes on when it is asked for again: as long as there are older keys, there is no newer one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.storage import transactions
from mnemo_memory.storage.sealed_columns import KEY_OF, SEALED_COLUMNS
from mnemocore.errors import SpaceNotEncryptedError
from mnemocore.sealing import Purpose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Author
    from mnemo_memory.storage.postgres_vault import PostgresVault
    from mnemo_memory.storage.sealed_columns import SealedColumn
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

_KEYS: Final = "SELECT key_id FROM memory.space_keys WHERE space_uid = $1 AND purpose = $2 ORDER BY number DESC"
_log = logging.getLogger(__name__)


class KeyRotation:
    """Gives spaces new data keys.

    `republish` publishes every memory of a space again; `settled` returns when the index has applied everything up to
    a revision, and raises UnavailableError if that takes too long.
    """

    def __init__(
        self,
        database: Database,
        vault: PostgresVault,
        republish: Callable[[Space, Author], Awaitable[int]],
        settled: Callable[[Space, int], Awaitable[None]],
    ) -> None:
        self._database = database
        self._vault = vault
        self._republish = republish
        self._settled = settled

    async def rotate(self, space: Space, author: Author) -> tuple[str, int]:
        """Change the data key of a space; returns the id of the new one and how much was sealed anew.

        Raises SpaceNotEncryptedError, KeyUnavailableError, SpaceNotFoundError, and UnavailableError if the index does
        not follow: then the older keys are kept, and the next call goes on from there.
        """
        if not space.encrypted:
            raise SpaceNotEncryptedError(space=space.name)
        new, older = await self._begin(space, author.at)
        sealed = await self._seal_again(space, older)
        await self._publish_again(space, new, author)
        while not await self._drop(space, older):
            sealed += await self._seal_again(space, older)
        await self._vault.renewed(space)
        _log.info("space %s: data key %s is in use, %d sealed anew, %d dropped", space.uid, new, sealed, len(older))
        return str(new), sealed

    async def _begin(self, space: Space, at: datetime) -> tuple[UUID, list[UUID]]:
        """The newest data key, made now unless a rotation is under way, and the older ones."""
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            keys = [row["key_id"] for row in await connection.fetch(_KEYS, UUID(space.uid), Purpose.DATA)]
            if len(keys) == 1:
                keys.insert(0, UUID(await self._vault.add_data_key(connection, space, at)))
        return keys[0], keys[1:]

    async def _seal_again(self, space: Space, older: Sequence[UUID]) -> int:
        cipher = await self._vault.renewed(space)
        assert cipher is not None, "the space is encrypted"
        sealed = 0
        for column in SEALED_COLUMNS:
            while done := await self._seal_some(space, column, older, cipher):
                sealed += done
        return sealed

    async def _seal_some(self, space: Space, column: SealedColumn, older: Sequence[UUID], cipher: SpaceCipher) -> int:
        """Seal some rows anew; 0 when there are none left. Rows that others have locked come last, one by one."""
        async with self._database.transaction() as connection:
            found = await _sealed_with(
                connection, space, column, older, f"{column.at_once} FOR NO KEY UPDATE SKIP LOCKED"
            )
            if not found:
                found = await _sealed_with(connection, space, column, older, "1 FOR NO KEY UPDATE")
            if found:
                anew = await asyncio.to_thread(_sealed_anew, column, found, cipher)
                await _replace(connection, space, column, found, anew)
            return len(found)

    async def _publish_again(self, space: Space, new: UUID, author: Author) -> None:
        revision = await self._database.fetchval(
            "SELECT republished_revision FROM memory.space_keys WHERE space_uid = $1 AND key_id = $2",
            UUID(space.uid),
            new,
        )
        if revision is None:
            await self._republish(space, author)
            revision = await self._database.fetchval(
                "UPDATE memory.space_keys AS k SET republished_revision = s.revision FROM memory.spaces AS s "
                "WHERE k.space_uid = $1 AND k.key_id = $2 AND s.uid = $1 RETURNING s.revision",
                UUID(space.uid),
                new,
            )
        if revision:
            await self._settled(space, revision)

    async def _drop(self, space: Space, older: Sequence[UUID]) -> bool:
        """Whether the older keys are gone; they are not if something is sealed with one of them."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT FROM memory.space_keys WHERE space_uid = $1 AND key_id = ANY($2::uuid[]) "
                "ORDER BY number FOR UPDATE",
                UUID(space.uid),
                older,
            )
            for column in SEALED_COLUMNS:
                if await _sealed_with(connection, space, column, older, "1"):
                    return False
            await connection.execute(
                "DELETE FROM memory.space_keys WHERE space_uid = $1 AND key_id = ANY($2::uuid[])",
                UUID(space.uid),
                older,
            )
            return True


async def _sealed_with(
    connection: Connection[Record], space: Space, column: SealedColumn, keys: Sequence[UUID], limit: str
) -> list[Record]:
    """Rows of a column that are sealed with one of some keys."""
    found: list[Record] = await connection.fetch(
        f"SELECT {', '.join(column.keys)}, {column.name} FROM memory.{column.table} WHERE space_uid = $1 "
        f"AND {KEY_OF.format(column.name)} = ANY($2::bytea[]) AND {column.condition} LIMIT {limit}",
        UUID(space.uid),
        [key.bytes for key in keys],
    )
    return found


def _sealed_anew(column: SealedColumn, found: Sequence[Record], cipher: SpaceCipher) -> list[bytes]:
    subjects = [column.subject(row) for row in found]
    plain = [cipher.open(subject, row[column.name]) for subject, row in zip(subjects, found, strict=True)]
    return [cipher.seal(subject, each) for subject, each in zip(subjects, plain, strict=True)]


async def _replace(
    connection: Connection[Record], space: Space, column: SealedColumn, found: Sequence[Record], anew: Sequence[bytes]
) -> None:
    """Put new sealed bytes in the place of the old ones."""
    arrays = [f"${number}::{type}[]" for number, type in enumerate((*column.keys.values(), "bytea"), 2)]
    same = [f"t.{key} = n.{key}" for key in column.keys]
    values: list[Any] = [[row[key] for row in found] for key in column.keys]
    await connection.execute(
        f"UPDATE memory.{column.table} AS t SET {column.name} = n.anew "
        f"FROM unnest({', '.join(arrays)}) AS n({', '.join(column.keys)}, anew) "
        f"WHERE t.space_uid = $1 AND {' AND '.join(same)}",
        UUID(space.uid),
        *values,
        anew,
    )
