"""memory-core's stores on a fresh database, for tests of the rooms that stand on them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mnemo_memory.domain.access import Access, Share
from mnemo_memory.domain.media import MediaLibrary
from mnemo_memory.domain.memory import Filter, Policy, Role, Space, State
from mnemo_memory.domain.ports import ListPosition
from mnemo_memory.domain.sessions import Sessions
from mnemo_memory.domain.working_memory import WorkingMemory
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_sessions import PostgresSessions
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemo_memory.storage.postgres_working_memory import PostgresWorkingMemory
from mnemocore.calls import Identity
from mnemocore.ids import SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from mnemo_memory.domain.memory import Draft, Kind, Memory
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ADA = Identity(Tenant("acme"), "ada", frozenset({"*"}))
EVE = Identity(Tenant("globex"), "eve", frozenset({"*"}))


async def migrated(database: Database) -> None:
    """Bring the schema of memory-core to this version."""
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")


@asynccontextmanager
async def opened(postgres: TestPostgres) -> AsyncIterator[Room]:
    """A room on a database of its own."""
    url = await postgres.create(migrated)
    database = await postgres.open(url)
    room = Room(database)
    await room.store.open()
    yield room
    await database.close()
    await postgres.drop(url)


class ToldShares:
    """Implements the port to shared spaces: what a test says is shared, with everybody."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}

    def share(self, space: Space, slug: str, role: Role, kinds: tuple[Kind, ...] = ()) -> None:
        self.shares[slug] = Share(space, role, kinds, ())

    async def find(self, tenant: Tenant, principal: str, slug: str, now: datetime) -> Share | None:
        return self.shares.get(slug)


class ToldNovelty:
    """Implements the port that compares drafts: answers with what it was told, and counts."""

    def __init__(self) -> None:
        self.answer: float | None = None
        self.asked = 0

    async def of(self, space: Space, draft: Draft) -> float | None:
        self.asked += 1
        return self.answer


class Room:
    """Working memory and sessions of memory-core without its wire. `commits` counts how often the relay was woken."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock()
        self.vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("m1", bytes(32))])))
        self.spaces = PostgresSpaces(database, self.vault)
        self.store = PostgresStore(database, self.vault)
        self.shares = ToldShares()
        self.novelty = ToldNovelty()
        self.commits = 0
        self.access = Access(self.spaces, self.shares, self.clock)
        self.working_store = PostgresWorkingMemory(database, self.vault, self.store)
        self.working = self._working()
        library = MediaLibrary(PostgresMedia(database, self.vault), self.store, self.access, self.clock, lambda: None)
        self.sessions = Sessions(
            PostgresSessions(database, self.vault, self.store),
            self.access,
            library,
            self.clock,
            self._committed,
            lambda: None,
        )

    def _working(self) -> WorkingMemory:
        return WorkingMemory(self.working_store, self.access, self.clock, self.novelty, self._committed, lambda: None)

    async def make(
        self, slug: str, caller: Identity = ADA, *, encrypted: bool = False, policy: Policy | None = None
    ) -> Space:
        now = self.clock.now()
        space = Space(SpaceUid(new_uuid(now)), caller.tenant, slug, "", 0, 0, 0, 0, now, caller.principal)
        return await self.spaces.create_space(replace(space, encrypted=encrypted, policy=policy or Policy()), None)

    async def memories(self, space: Space) -> list[Memory]:
        """Every memory of a space, newest first."""
        position = ListPosition(2**62, 2**62)
        return await self.store.list_memories(space, Filter(), list(State), position, 10_000, self.clock.now())

    async def dump(self, *tables: str) -> str:
        """All that the tables of the schema hold, as text."""
        found = [
            str(row["text"])
            for table in tables
            for row in await self.database.fetch(f"SELECT t::text AS text FROM memory.{table} t")
        ]
        return "\n".join(found)

    def _committed(self) -> None:
        self.commits += 1
