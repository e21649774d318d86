"""Notices between the replicas of memory-core that memories have changed, by NOTIFY of PostgreSQL.

They are sent after the commit, many at once, and not by the transaction that writes: a transaction that notifies makes
all others wait with their commit until its own is on disk. So a notice is lost if a replica dies right after a commit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from mnemocore.ids import MemoryId, SpaceUid
from mnemocore.postgres import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnemo_memory.domain.hot_cache import HotCache
    from mnemocore.postgres import Database

CHANNEL: Final = "mnemo_memory_changes"
IDS_A_NOTICE: Final = 200
"""A payload has less than 8,000 bytes."""
MOST_IDS: Final = 1000
"""Of one space; beyond that the notice is for all of the space."""
MOST_SPACES: Final = 10_000
"""With a notice to send; beyond that the notice is for everything."""
_EVERYTHING: Final = "*"


class ChangeNotices:
    """Sends notices of changes, and drops from a cache what others send. `send` and `listen` run as tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[SpaceUid, set[MemoryId] | None] = {}
        self._everything = False
        self._wake = asyncio.Event()

    def announce(self, space_uid: SpaceUid, ids: Sequence[MemoryId] | None) -> None:
        """Send a notice soon: these memories of a space have changed, or with None any of them."""
        known = self._waiting.setdefault(space_uid, set())
        if known is not None and ids is not None:
            known.update(ids)
        if known is None or ids is None or len(known) > MOST_IDS:
            self._waiting[space_uid] = None
        if len(self._waiting) > MOST_SPACES:
            self._waiting.clear()
            self._everything = True
        self._wake.set()

    async def send(self) -> None:
        """Send notices until cancelled. Ends with the error of the database; nothing is lost by starting again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_waiting()

    async def listen(self, cache: HotCache) -> None:
        """Drop from `cache` what others change, until cancelled; everything after a gap in listening."""
        await Listener(self._database, CHANNEL, lambda payload: _receive(cache, payload)).run()

    async def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        everything, self._everything = self._everything, False
        payloads = [_EVERYTHING] if everything else list(_payloads(waiting))
        try:
            async with self._database.transaction() as connection:
                await connection.execute("SET LOCAL synchronous_commit = off")  # a notice holds nothing to be kept
                await connection.execute("SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p", CHANNEL, payloads)
        except BaseException:
            # Also when it is cancelled: what was not sent is sent by the next run.
            self._everything |= everything
            for space_uid, ids in waiting.items():
                self.announce(space_uid, None if ids is None else list(ids))
            self._wake.set()
            raise


def _payloads(waiting: dict[SpaceUid, set[MemoryId] | None]) -> Iterator[str]:
    for space_uid, ids in waiting.items():
        if ids is None:
            yield space_uid
            continue
        ordered = sorted(ids)
        for start in range(0, len(ordered), IDS_A_NOTICE):
            yield f"{space_uid} {','.join(ordered[start : start + IDS_A_NOTICE])}"


def _receive(cache: HotCache, payload: str | None) -> None:
    if payload is None or payload == _EVERYTHING:
        cache.forget_all()
        return
    space_uid, _, ids = payload.partition(" ")
    cache.forget(SpaceUid(space_uid), [MemoryId(each) for each in ids.split(",")] if ids else None)
