"""An index that holds something else than the store: found and healed, on real services."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.index_space import created, document, encoder, memory_id

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_index.domain.documents import Change
from mnemo_index.domain.fingerprint import fingerprint_of
from mnemo_index.domain.models import Encoders
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.storage.generations import GenerationStore
from mnemo_memory.clients.event_log_client import EventLogClient
from mnemo_memory.clients.index_client import IndexClient
from mnemo_memory.domain.index_check import IndexCheck
from mnemo_memory.domain.memory import Draft, Filter, Space, State
from mnemo_memory.domain.ports import Author, Kept, Question
from mnemo_memory.domain.relay import Relay
from mnemo_memory.storage.postgres_contents import PostgresContents
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.ids import SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.server import BackgroundTask, Host, InternalAuthenticator
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mnemo_index.domain.residents import Held
    from mnemocore.ids import MemoryId
    from mnemocore.postgres import Database

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALICE = Author("alice", NOW, "a reason")
TEXTS = ("green tea", "a dog called Biscuit", "chess on Sundays", "the train to Lisbon")


class QuickClock(SystemClock):
    """The clock of the machine; who sleeps for a second wakes soon."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.02))


class Installation:
    """memory-core's store and relay, the event-bus, and an index that can be looked into."""

    def __init__(self, database: Database, index: ResilientChannel, events: ResilientChannel, app: IndexApp) -> None:
        clock = SystemClock()
        self.database = database
        self.app = app
        vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("m1", bytes(32))])))
        self.spaces = PostgresSpaces(database, vault)
        self.store = PostgresStore(database, vault)
        self.index = IndexClient(index, vault, clock)
        self.contents = PostgresContents(database)
        self.relay = Relay(self.spaces, self.store, EventLogClient(events, vault), clock, 0.02, lambda _: None)
        self.check = IndexCheck(
            self.contents, self.index, self.store.republish, QuickClock(), 60.0, random.Random(1)
        ).check

    async def make_space(self, *, encrypted: bool = False) -> Space:
        space = Space(SpaceUid(new_uuid(NOW)), Tenant("acme"), "notes", "", 0, 0, 0, 0, NOW, encrypted=encrypted)
        return await self.spaces.create_space(space, None)

    async def write(self, space: Space, *contents: str) -> list[MemoryId]:
        created = await self.store.create(space, [Draft(text) for text in contents], ALICE, None, each=False)
        await self.settled(space)
        return [outcome.memory.id for outcome in created.outcomes if isinstance(outcome, Kept)]

    async def erase(self, space: Space, memory: MemoryId) -> None:
        await self.store.erase(space, memory, "", ALICE, None)
        await self.settled(space)

    async def settled(self, space: Space) -> None:
        """Return when everything is published and applied."""
        now = await self.spaces.get_space(space.tenant, space.slug)
        await self.index.settled(space, now.revision)

        async def published() -> bool:
            return await self.contents.contents(space) is not None

        await until(published)

    async def found(self, space: Space) -> set[MemoryId]:
        now = await self.spaces.get_space(space.tenant, space.slug)
        question = Question("tea", 10, Filter(), (State.ACTIVE,), NOW, now.revision, now.revision)
        return {hit.memory_id for hit in (await self.index.search(space, question)).hits}

    async def held(self, space: Space) -> Held:
        held = await self.app.projection.at_revision(space.uid, 0)
        assert held is not None
        return held


@asynccontextmanager
async def running(database: Database, folder: Path) -> AsyncIterator[Installation]:
    async with AsyncExitStack() as stack:
        events = await _served(stack, EventsApp(database, SystemClock()))
        words = await asyncio.to_thread(encoder)
        snapshots = await asyncio.to_thread(GenerationStore, folder)
        app = IndexApp(Encoders(words), snapshots, events, SystemClock())
        installation = Installation(database, await _served(stack, app), events, app)
        task = BackgroundTask("relay", installation.relay.run)
        await task.start()
        stack.push_async_callback(task.stop)
        yield installation


async def _served(stack: AsyncExitStack, app: EventsApp | IndexApp) -> ResilientChannel:
    await app.start()
    stack.push_async_callback(app.stop)
    host = Host(app.name, app.services, authenticator=InternalAuthenticator("token"), clock=SystemClock())
    await host.start([])
    stack.push_async_callback(host.drain, 5.0)
    return ResilientChannel(host.channel(), app.name, credentials=InternalCredentials("token"), clock=SystemClock())


@pytest.fixture
async def installation(database: Database, tmp_path: Path) -> AsyncIterator[Installation]:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    async with running(database, tmp_path) as started:
        yield started


@pytest.mark.parametrize("encrypted", [False, True])
async def test_both_sides_compute_the_same(installation: Installation, encrypted: bool) -> None:
    space = await installation.make_space(encrypted=encrypted)
    assert await installation.check(space) is True
    written = await installation.write(space, *TEXTS)
    await installation.erase(space, written[1])
    contents = await installation.contents.contents(space)
    assert contents is not None
    held = (await installation.held(space)).fingerprint()
    assert held == (contents.revision, contents.memories, contents.checksum)
    revisions = {1: 0, 3: 2, 4: 3}
    assert held == fingerprint_of(5, [(written[place], revision) for revision, place in revisions.items()])
    assert await installation.check(space) is True
    assert (await installation.held(space)).fingerprint() == held


async def test_what_is_not_published_yet_is_not_compared(installation: Installation) -> None:
    space = await installation.make_space()
    await installation.write(space, *TEXTS)
    await installation.database.execute("UPDATE memory.spaces SET revision = 9")
    assert await installation.contents.contents(space) is None


@pytest.mark.parametrize("damage", ["a memory too few", "a memory too many", "an older revision"])
async def test_what_the_log_has_is_built_from_the_log(
    installation: Installation, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    space = await installation.make_space()
    written = await installation.write(space, *TEXTS)
    held = await installation.held(space)
    assert isinstance(held, SpaceIndex)
    if damage == "a memory too few":
        held.put({written[0]: Change(9, written[0])})
    elif damage == "a memory too many":
        held.put({memory_id(1): created(2, document(1, "nobody wrote this"))})
    else:
        held.put({written[2]: created(1, replace(document(1, "chess on Sundays"), memory_id=written[2]))})
    with caplog.at_level(logging.WARNING):
        assert await installation.check(space) is True
    assert await installation.found(space) == set(written)
    (differs, built) = (record.message for record in caplog.records)
    assert "differs from its source" in differs
    assert space.uid in differs
    assert "was built anew" in built
    again = await installation.spaces.get_space(space.tenant, space.slug)
    assert again.revision == len(TEXTS), "nothing was published again"


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_the_log_lacks_is_published_again(
    installation: Installation, encrypted: bool, tmp_path: Path
) -> None:
    space = await installation.make_space(encrypted=encrypted)
    written = await installation.write(space, *TEXTS)
    await installation.database.execute("DELETE FROM events.log WHERE revision = 2")
    async with running(installation.database, tmp_path / "anew") as other:
        assert await other.check(space) is True
        assert isinstance(await other.held(space), SealedSpace if encrypted else SpaceIndex)
        assert await other.found(space) == set(written)
        later = await other.write(space, "written later")
        assert await other.found(space) == {*written, *later}


async def test_what_the_log_cannot_take_back_leaves_the_index(installation: Installation, tmp_path: Path) -> None:
    space = await installation.make_space()
    written = await installation.write(space, *TEXTS)
    gone = written[1]
    await installation.database.execute("DELETE FROM memory.memories WHERE id = $1", gone)
    assert await installation.check(space) is True
    assert await installation.found(space) == set(written) - {gone}
    async with running(installation.database, tmp_path / "anew") as other:  # the log still tells of it
        assert await other.check(space) is True
        assert await other.found(space) == set(written) - {gone}


async def test_a_space_is_published_again_once_a_day(installation: Installation) -> None:
    space = await installation.make_space()
    written = await installation.write(space, *TEXTS)
    for memory in written[:2]:
        await installation.database.execute("DELETE FROM memory.memories WHERE id = $1", memory)
        before = (await installation.spaces.get_space(space.tenant, space.slug)).revision
        alike = await installation.check(space)
        after = (await installation.spaces.get_space(space.tenant, space.slug)).revision
        assert (alike, after > before) == ((True, True) if memory == written[0] else (False, False))
