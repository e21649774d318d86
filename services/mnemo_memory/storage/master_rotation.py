"""Keeps the keys of all spaces encrypted with the current master key, so that older master keys can be taken away."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mnemocore.errors import KeyUnavailableError
from mnemocore.ids import SpaceUid
from mnemocore.sealing import Purpose

if TYPE_CHECKING:
    from asyncpg import Record

    from mnemocore.clock import Clock
    from mnemocore.master_keys import MasterKeySource
    from mnemocore.postgres import Database
    from mnemocore.sealing import MasterKeys

LOOK_SECONDS: Final = 1.0
"""How often the master keys are looked at."""
_LOOKS_A_ROUND: Final = 60
"""Looks after which the keys of spaces are gone through, also if the current master key is still the same."""
_BATCH: Final = 256
_log = logging.getLogger(__name__)


class MasterRotation:
    """Encrypts the keys of spaces anew when there is another current master key."""

    def __init__(self, database: Database, master_keys: MasterKeySource, clock: Clock) -> None:
        self._database = database
        self._master_keys = master_keys
        self._clock = clock
        self._reported: dict[str, int] = {}

    async def run(self) -> None:
        """Follow the master keys until cancelled."""
        current, looks = "", 0
        while True:
            keys = await self._master_keys.keys()
            if keys.ids and (keys.ids[0] != current or looks >= _LOOKS_A_ROUND):
                await self.wrap_again(keys)
                current, looks = keys.ids[0], 0
            looks += 1
            await self._clock.sleep(LOOK_SECONDS)

    async def wrap_again(self, keys: MasterKeys) -> int:
        """Encrypt with the current master key what is encrypted with another one of `keys`; returns the number.

        What does not open is left as it is. Says in the log with which master keys something is still encrypted.
        """
        before = await self._used()
        done = 0
        after: int | None = 0
        while after is not None:
            count, after = await self._wrap_some(keys, after)
            done += count
        left = await self._used()
        for master_id in before.keys() - left.keys():
            _log.info("nothing is encrypted with master key %s any more: it can be removed", master_id)
        if done:
            _log.info("%d keys of spaces are encrypted with master key %s now", done, keys.current.id)
        self._report(keys, left)
        return done

    async def _used(self) -> dict[str, int]:
        """How many keys of spaces are encrypted with which master key."""
        found = await self._database.fetch("SELECT master_key_id, count(*) FROM memory.space_keys GROUP BY 1")
        return {row["master_key_id"]: row["count"] for row in found}

    async def _wrap_some(self, keys: MasterKeys, after: int) -> tuple[int, int | None]:
        """Encrypt a batch anew, after a number; returns how many, and the last number, None if there are no more."""
        async with self._database.transaction() as connection:
            found = await connection.fetch(
                "SELECT space_uid, key_id, purpose, master_key_id, wrapped, number FROM memory.space_keys "
                "WHERE number > $1 AND master_key_id <> $2 AND master_key_id = ANY($3::text[]) "
                "ORDER BY number LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED",
                after,
                keys.current.id,
                keys.ids,
                _BATCH,
            )
            wrapped = [(row, again) for row in found if (again := _wrapped_again(keys, row)) is not None]
            await connection.execute(
                "UPDATE memory.space_keys AS k SET master_key_id = $1, wrapped = n.wrapped "
                "FROM unnest($2::bigint[], $3::bytea[]) AS n(number, wrapped) WHERE k.number = n.number",
                keys.current.id,
                [row["number"] for row, _ in wrapped],
                [again for _, again in wrapped],
            )
        return len(wrapped), found[-1]["number"] if found else None

    def _report(self, keys: MasterKeys, used: dict[str, int]) -> None:
        missing = {master_id: count for master_id, count in used.items() if master_id not in keys.ids}
        if missing != self._reported:
            for master_id, count in missing.items():
                _log.error("%d keys of spaces are encrypted with master key %s, which is not here", count, master_id)
            self._reported = missing


def _wrapped_again(keys: MasterKeys, row: Record) -> bytes | None:
    """A key of a space, encrypted with the current master key; None if it does not open."""
    space_uid, key_id, purpose = SpaceUid(str(row["space_uid"])), str(row["key_id"]), Purpose(row["purpose"])
    try:
        key = keys.get(row["master_key_id"]).unwrap(space_uid, purpose, key_id, row["wrapped"])
    except KeyUnavailableError as error:
        _log.error("left as it is: %s", error)
        return None
    return keys.current.wrap(space_uid, purpose, key_id, key)
