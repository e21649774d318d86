"""An encrypted space from the store through the event log to the index and back, on real services."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_memory.clients.event_log_client import EventLogClient
from mnemo_memory.clients.index_client import IndexClient
from mnemo_memory.domain.memory import Draft, Filter, Space, State
from mnemo_memory.domain.ports import Author, Kept, Question, Run
from mnemo_memory.domain.relay import Relay
from mnemo_memory.storage.key_rotation import KeyRotation
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.errors import KeyUnavailableError
from mnemocore.ids import SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import resources_pb2
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKey, MasterKeys, key_id_of
from mnemocore.server import BackgroundTask, Host, InternalAuthenticator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mnemocore.ids import MemoryId
    from mnemocore.postgres import Database

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALICE = Author("alice", NOW, "a reason")
EVERYTHING = Filter()
SECRET = "the vault is behind the picture"


class Replica:
    """memory-core without its wire, with a vault of its own."""

    def __init__(self, database: Database, index: ResilientChannel, events: ResilientChannel) -> None:
        clock = SystemClock()
        self.vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("m1", bytes(32))])))
        self.spaces = PostgresSpaces(database, self.vault)
        self.store = PostgresStore(database, self.vault)
        self.index = IndexClient(index, self.vault, clock)
        self.events = EventLogClient(events, self.vault)
        self.relay = Relay(self.spaces, self.store, self.events, clock, 0.02, lambda _: None)
        self.unpublished = self.spaces.unpublished
        self.mark_published = self.spaces.mark_published
        self.list_revisions = self.store.list_revisions
        self.rotation = KeyRotation(database, self.vault, self.store.republish, self.index.settled)

    async def write(self, space: Space, *contents: str) -> list[MemoryId]:
        drafts = [Draft(content, actor="Ada", tags=("house",)) for content in contents]
        created = await self.store.create(space, drafts, ALICE, None, each=False)
        return [outcome.memory.id for outcome in created.outcomes if isinstance(outcome, Kept)]

    async def recall(self, space: Space, query: str, where: Filter = EVERYTHING) -> list[str]:
        """Contents of what the index finds, in a state with everything written so far."""
        now = await self.spaces.get_space(space.tenant, space.slug)
        found = await self.index.search(
            space, Question(query, 10, where, (State.ACTIVE,), NOW, now.revision, now.revision)
        )
        memories = await self.store.get(space, [hit.memory_id for hit in found.hits], NOW)
        return [memories[hit.memory_id].content for hit in found.hits]


class Installation:
    """The event-bus and an index that can be started again."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self._folder = folder

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        async with AsyncExitStack() as stack:
            events = await _served(stack, EventsApp(self.database, SystemClock()))
            index = await _served(stack, await IndexApp.open(self._folder, events, SystemClock()))
            self.channels = index, events
            replica = self.replica()
            task = BackgroundTask("relay", replica.relay.run)
            await task.start()
            stack.push_async_callback(task.stop)
            yield replica

    def replica(self) -> Replica:
        """Another memory-core on the same services; it does not publish."""
        return Replica(self.database, *self.channels)


async def _served(stack: AsyncExitStack, app: EventsApp | IndexApp) -> ResilientChannel:
    await app.start()
    stack.push_async_callback(app.stop)
    host = Host(app.name, app.services, authenticator=InternalAuthenticator("token"), clock=SystemClock())
    await host.start([])
    stack.push_async_callback(host.drain, 5.0)
    return ResilientChannel(host.channel(), app.name, credentials=InternalCredentials("token"), clock=SystemClock())


@pytest.fixture
async def installation(database: Database, tmp_path: Path) -> Installation:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    return Installation(database, tmp_path)


async def make_space(replica: Replica, *, encrypted: bool = True) -> Space:
    space = Space(SpaceUid(new_uuid(NOW)), Tenant("acme"), "vault", "", 0, 0, 0, 0, NOW, encrypted=encrypted)
    return await replica.spaces.create_space(space, None)


async def logged(database: Database) -> list[resources_pb2.Revision]:
    """What the events hold, in their order."""
    found = await database.fetch("SELECT data FROM events.log ORDER BY position")
    return [resources_pb2.Revision.FromString(row["data"]) for row in found]


async def test_events_show_what_everybody_may_know_and_hold_the_rest_sealed(installation: Installation) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        (memory_id,) = await replica.write(space, SECRET)
        await replica.recall(space, "vault")
        (revision,) = await logged(installation.database)
        cipher = await replica.vault.cipher(space)
        assert cipher is not None
        opened = resources_pb2.Memory.FromString(cipher.open(f"{memory_id}@1", revision.sealed))
        assert (opened.content, opened.actor, list(opened.tags)) == (SECRET, "Ada", ["house"])
        shown = {field.name for field, _ in revision.memory.ListFields()}
        assert shown == {"name", "kind", "state", "revision", "occurred_at", "create_time", "update_time"}
        assert (revision.principal, revision.reason) == ("alice", "a reason")


def files_with(text: str, folder: Path) -> list[str]:
    """The files below a folder that hold a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if text.encode() in path.read_bytes()]


async def test_recall_brings_the_keys_also_after_a_restart(installation: Installation, tmp_path: Path) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        await replica.write(space, SECRET, "the garden needs water")
        assert (await replica.recall(space, "where is the vault"))[0] == SECRET
        assert await replica.recall(space, "vault", Filter(actors=("Eve",))) == []
    async with installation.running() as replica:
        assert (await replica.recall(space, "where is the vault", Filter(actors=("Ada",))))[0] == SECRET
        with pytest.raises(KeyUnavailableError):
            await replica.recall(replace(space, encrypted=False), "vault")
    assert files_with(space.uid, tmp_path), "what the index keeps"
    assert not files_with("picture", tmp_path)


async def test_the_index_follows_when_the_key_changes(installation: Installation) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        await replica.write(space, SECRET, "the garden needs water")
        other = installation.replica()
        assert (await other.recall(space, "where is the vault"))[0] == SECRET
        new, _ = await replica.rotation.rotate(space, ALICE)
        assert {key_id_of(each.sealed) for each in (await logged(installation.database))[-2:]} == {new}
        assert (await other.recall(space, "where is the vault"))[0] == SECRET
        await other.write(space, "the picture was sold")
        assert "the picture was sold" in await other.recall(space, "picture")
    async with installation.running() as replica:
        assert (await replica.recall(space, "where is the vault"))[0] == SECRET


async def test_no_event_is_sealed_with_a_key_that_is_gone(installation: Installation) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        await replica.write(space, SECRET)
        stale = installation.replica()
        (revision,) = await stale.list_revisions(space, None, 0, 10)
        new, _ = await replica.rotation.rotate(space, ALICE)
        await stale.events.publish([Run(space, [replace(revision, revision=99)])])
        (event,) = [each for each in await logged(installation.database) if each.revision == 99]
        assert key_id_of(event.sealed) == new


async def test_an_index_that_begins_anew_after_the_key_changed_finds_everything(
    installation: Installation, tmp_path: Path
) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        await replica.write(space, SECRET, "the garden needs water")
        assert await replica.recall(space, "vault"), "published with the first key"
        await replica.rotation.rotate(space, ALICE)
    anew = Installation(installation.database, tmp_path / "anew")
    async with anew.running() as replica:
        assert (await replica.recall(space, "where is the vault"))[0] == SECRET
        assert len(await replica.recall(space, "water picture vault garden")) == 2


async def test_recall_goes_on_while_keys_change(installation: Installation) -> None:
    async with installation.running() as replica:
        space = await make_space(replica)
        await replica.write(space, SECRET, *(f"note {number} on the garden" for number in range(100)))
        other = installation.replica()
        done = asyncio.Event()

        async def recall() -> int:
            answers = 0
            while not done.is_set():
                assert (await other.recall(space, "where is the vault"))[0] == SECRET
                answers += 1
            return answers

        task = asyncio.create_task(recall())
        try:
            for _ in range(4):
                await replica.rotation.rotate(space, ALICE)
        finally:
            done.set()
            assert await task > 0
