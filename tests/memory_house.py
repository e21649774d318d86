"""memory-core's spaces, grants and memories without its wire, on a fresh database."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.memory_room import migrated

from mnemo_memory.domain.access import Access
from mnemo_memory.domain.active_days import ActiveDays
from mnemo_memory.domain.associations import Associations
from mnemo_memory.domain.erasure import Erasures
from mnemo_memory.domain.extensions import Extensions
from mnemo_memory.domain.grants import Grant, Grants, NewGrant, Part
from mnemo_memory.domain.hot_cache import HotCache
from mnemo_memory.domain.media import MediaLibrary
from mnemo_memory.domain.memories import Edit, Memories, New
from mnemo_memory.domain.memory import Policy, Role, Space, SpaceAccess
from mnemo_memory.domain.novelty import Novelty
from mnemo_memory.domain.ports import Found, Hit, ScorePart
from mnemo_memory.domain.recall import Recall
from mnemo_memory.domain.spaces import NewSpace, Spaces
from mnemo_memory.domain.stats import SpaceStats
from mnemo_memory.domain.uses import Uses
from mnemo_memory.storage.key_rotation import KeyRotation
from mnemo_memory.storage.postgres_active_days import PostgresActiveDays
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_erasure import PostgresErasures
from mnemo_memory.storage.postgres_grants import PostgresGrants
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_stats import PostgresStats
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.calls import Identity
from mnemocore.ids import Tenant
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from mnemo_memory.domain.memory import Draft, Filter, Kind, Memory
    from mnemo_memory.domain.ports import Question
    from mnemocore.ids import MemoryId, SpaceUid
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ACME = Tenant("acme")
GLOBEX = Tenant("globex")
_USER = frozenset({"memory:read", "memory:write"})
ADA = Identity(ACME, "ada", _USER)
BOB = Identity(ACME, "bob", _USER)
ROOT = Identity(ACME, "root", frozenset({"memory:admin"}))
EVE = Identity(GLOBEX, "eve", _USER)
PRIVATE = Policy(access=SpaceAccess.OWNER)


class AllFindingIndex:
    """Implements the ports to the index: finds every memory there is, whatever the question and its filter."""

    def __init__(self, store: PostgresStore, database: Database) -> None:
        self._store = store
        self._database = database
        self.filters: list[Filter] = []

    async def search(self, space: Space, question: Question) -> Found:
        self.filters.append(question.where)
        found = await self._database.fetch("SELECT id FROM memory.memories WHERE space_uid = $1", space.uid)
        parts = (ScorePart("semantic", 0.5, 1.0, 0.5),)
        return Found(tuple(Hit(str(row["id"]), 0.5, parts) for row in found), space.revision)  # type: ignore[arg-type]

    async def similar(
        self, space: Space, text: str, limit: int, where: Filter, least: float, revision: int, now: datetime
    ) -> Sequence[tuple[MemoryId, float]]:
        self.filters.append(where)
        found = await self._database.fetch("SELECT id FROM memory.memories WHERE space_uid = $1", space.uid)
        return [(str(row["id"]), 0.99) for row in found]  # type: ignore[misc]


class House:
    """The domain classes on their stores. `removed` are the spaces whose removal was announced."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock()
        self.vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("m1", bytes(32))])))
        self.store = PostgresStore(database, self.vault)
        self.space_store = PostgresSpaces(database, self.vault)
        self.grant_store = PostgresGrants(database, self.vault)
        self.erasure_store = PostgresErasures(database)
        self.removed: list[SpaceUid] = []
        self.index = AllFindingIndex(self.store, database)
        self.active_days = ActiveDays(PostgresActiveDays(database), self.clock)
        access = Access(self.space_store, self.grant_store, self.clock, self.active_days.note)
        looking_after = Access(self.space_store, self.grant_store, self.clock)
        links = PostgresAssociations(database, self.vault)
        media = PostgresMedia(database, self.vault)
        uses = Uses(self.store, self.clock)
        self.rotation = KeyRotation(database, self.vault, self.store.republish, _settled)
        self.spaces = Spaces(self.space_store, self.store, self.rotation, looking_after, self.clock, _nothing)
        self.grants = Grants(self.grant_store, looking_after, self.clock)
        self.stats = SpaceStats(PostgresStats(database, self.vault), looking_after, self.clock)
        self.erasures = Erasures(self.erasure_store, looking_after, self.clock, self.removed.append)
        self.media = MediaLibrary(media, self.store, access, self.clock, _nothing)
        self.associations = Associations(links, self.store, access, self.clock, _nothing)
        self.memories = Memories(
            self.store,
            access,
            self.media,
            Novelty(self.index, self.store, Extensions(links), self.clock),
            uses,
            HotCache(self.clock, lambda *_: None),
            self.clock,
            _nothing,
            _nothing,
        )
        self.recall = Recall(self.store, self.index, access, self.associations, uses, self.clock)

    async def make(
        self, slug: str, caller: Identity = ADA, *, policy: Policy | None = None, encrypted: bool = False
    ) -> Space:
        new = NewSpace(slug, f"the space {slug}", policy or Policy(), encrypted)
        return (await self.spaces.create(caller, new, None)).space

    async def keep(self, slug: str, *drafts: Draft, caller: Identity = ADA) -> list[Memory]:
        _, kept, _ = await self.memories.create(caller, slug, [New(draft) for draft in drafts], None)
        return [each.memory for each in kept]

    async def share(
        self,
        slug: str,
        to: Identity,
        role: Role = Role.READ,
        *,
        by: Identity = ADA,
        kinds: tuple[Kind, ...] = (),
        tags: tuple[str, ...] = (),
        expires_at: datetime | None = None,
    ) -> Grant:
        """Share a space; one of another tenant is accepted under its own name."""
        new = NewGrant(to.principal, role, to.tenant, Part(kinds, tags), expires_at)
        grant = await self.grants.create(by, slug, new, None)
        return grant if to.tenant == by.tenant else await self.grants.accept(to, grant.id, slug)


@asynccontextmanager
async def opened(postgres: TestPostgres) -> AsyncIterator[House]:
    """A house on a database of its own."""
    url = await postgres.create(migrated)
    database = await postgres.open(url)
    house = House(database)
    await house.store.open()
    yield house
    await house.media.close()
    await database.close()
    await postgres.drop(url)


NO_EDIT = Edit()


async def _settled(space: Space, revision: int) -> None:
    """The index needs no time in these tests."""


def _nothing() -> None:
    """Nobody is to be woken, and there is always room."""
