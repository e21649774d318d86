"""The keys of encrypted spaces on PostgreSQL, each encrypted with a master key that never enters the database.

A cipher is kept as long as it opens what it is given. Another replica may have given the space a new key meanwhile:
whoever meets that key, or seals with one that is gone, asks for the cipher anew (see `fresh_keys`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemocore.errors import SpaceNotFoundError
from mnemocore.sealing import DataKey, Purpose, SpaceCipher, new_key_id

if TYPE_CHECKING:
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemocore.ids import SpaceUid
    from mnemocore.master_keys import MasterKeySource
    from mnemocore.postgres import Database

_CIPHERS_KEPT: Final = 10_000
_INSERT: Final = (
    "INSERT INTO memory.space_keys (space_uid, key_id, purpose, master_key_id, wrapped, created_at) "
    "VALUES ($1, $2, $3, $4, $5, $6)"
)


class PostgresVault:
    """Implements `mnemo_memory.domain.ports.Vault`."""

    def __init__(self, database: Database, master_keys: MasterKeySource) -> None:
        self._database = database
        self._master_keys = master_keys
        self._ciphers: OrderedDict[SpaceUid, SpaceCipher] = OrderedDict()

    async def open(self) -> None:
        """Read the master keys, so that wrong ones are found at once. Raises InvalidSettingError."""
        await self._master_keys.keys()

    async def make_key(self, connection: Connection[Record], space: Space) -> None:
        """Give a new space its keys. Raises KeyUnavailableError if there is no master key."""
        await self._make(connection, space, Purpose.DATA, space.created_at)
        await self._make(connection, space, Purpose.BLINDING, space.created_at)

    async def add_data_key(self, connection: Connection[Record], space: Space, at: datetime) -> str:
        """Give a space another data key, from now on the one that seals; returns its id. Raises KeyUnavailableError."""
        return await self._make(connection, space, Purpose.DATA, at)

    async def cipher(self, space: Space) -> SpaceCipher | None:
        """What seals and opens what the space holds; None if it is not encrypted.

        Raises KeyUnavailableError, or SpaceNotFoundError if the space was erased.
        """
        if not space.encrypted:
            return None
        cipher = self._ciphers.get(space.uid)
        if cipher is None or cipher.outdated:
            return await self.renewed(space)
        self._ciphers.move_to_end(space.uid)
        return cipher

    async def renewed(self, space: Space) -> SpaceCipher | None:
        """As `cipher`, with the keys the space has at this moment."""
        if not space.encrypted:
            return None
        self._ciphers.pop(space.uid, None)
        cipher = await self._load(space)
        self._ciphers[space.uid] = cipher
        while len(self._ciphers) > _CIPHERS_KEPT:
            self._ciphers.popitem(last=False)
        return cipher

    def forget(self, space_uid: SpaceUid) -> None:
        """Keep no key of a space that was erased."""
        self._ciphers.pop(space_uid, None)

    async def _make(self, connection: Connection[Record], space: Space, purpose: Purpose, at: datetime) -> str:
        master = (await self._master_keys.keys()).current
        key_id = new_key_id()
        wrapped = master.wrap(space.uid, purpose, key_id)
        await connection.execute(_INSERT, UUID(space.uid), UUID(key_id), purpose, master.id, wrapped, at)
        return key_id

    async def _load(self, space: Space) -> SpaceCipher:
        found = await self._database.fetch(
            "SELECT key_id, purpose, master_key_id, wrapped FROM memory.space_keys WHERE space_uid = $1 "
            "ORDER BY number DESC",
            UUID(space.uid),
        )
        if not found:
            raise SpaceNotFoundError(space=space.name)  # erased with its keys
        master_keys = await self._master_keys.keys()
        keys: dict[Purpose, list[DataKey]] = {purpose: [] for purpose in Purpose}
        for row in found:
            key_id, purpose = str(row["key_id"]), Purpose(row["purpose"])
            key = master_keys.get(row["master_key_id"]).unwrap(space.uid, purpose, key_id, row["wrapped"])
            keys[purpose].append(DataKey(key_id, key))
        (blinding,) = keys[Purpose.BLINDING]
        return SpaceCipher(space.uid, keys[Purpose.DATA], blinding.key)
