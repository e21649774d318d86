"""The relay between the real store and the real event-bus: what was committed is in the log, once and in order."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.event_bus import TOKEN, EventBus, started
from tests.memory_room import migrated

from mnemo_memory import wire
from mnemo_memory.clients.event_log_client import REQUEST_BYTES, SOURCE, EventLogClient
from mnemo_memory.domain import changes
from mnemo_memory.domain.memory import Change, Draft, Space
from mnemo_memory.domain.ports import Author, Kept
from mnemo_memory.domain.relay import BATCH, SPACES_A_ROUND, Relay
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.errors import InvalidFieldError, PeerUnavailableError
from mnemocore.ids import SpaceUid, Tenant, new_uuid
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import resources_pb2
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.server import BackgroundTask, Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import dict_to_struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemo_memory.domain.memory import Memory
    from mnemo_memory.domain.ports import EventLog, Run
    from mnemocore.events.v1 import event_service_pb2
    from mnemocore.postgres import Database
    from mnemocore.server import Service

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACME = Tenant("acme")
ALICE = Author("alice", NOW)
LARGEST = 102_400


class UnreliableLog:
    """Passes on to a real log; at random fails before, or after it has published."""

    def __init__(self, log: EventLog, chance: random.Random) -> None:
        self._log = log
        self._chance = chance
        self.trouble = 0.4
        self.failures = {"before": 0, "after": 0}

    async def publish(self, runs: Sequence[Run]) -> None:
        self._fail("before")
        await self._log.publish(runs)
        self._fail("after")

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        self._fail("before")
        await self._log.redact(space, revisions)
        self._fail("after")

    async def erase(self, tenant: Tenant, space_uid: SpaceUid, revision: int, at: datetime) -> None:
        self._fail("before")
        await self._log.erase(tenant, space_uid, revision, at)
        self._fail("after")

    def _fail(self, moment: str) -> None:
        if self._chance.random() < self.trouble / 2:
            self.failures[moment] += 1
            raise PeerUnavailableError(target="events")


class CountingLog(UnreliableLog):
    """Passes on to a real log, and remembers of how many spaces each request was."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log, random.Random(0))
        self.trouble = 0.0
        self.requests: list[int] = []

    async def publish(self, runs: Sequence[Run]) -> None:
        self.requests.append(len(runs))
        await super().publish(runs)


class Core:
    """The stores of memory-core, as far as the relay needs them, and a writer's ways to change memories."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.vault = PostgresVault(database, FixedMasterKeys(MasterKeys([MasterKey("m1", bytes(32))])))
        self.spaces = PostgresSpaces(database, self.vault)
        self.store = PostgresStore(database, self.vault)

    async def make_space(self, slug: str, *, encrypted: bool = False) -> Space:
        space = Space(SpaceUid(new_uuid(NOW)), ACME, slug, "", 0, 0, 0, 0, NOW, encrypted=encrypted)
        return await self.spaces.create_space(space, None)

    async def create(self, space: Space, drafts: Sequence[Draft], author: Author = ALICE) -> list[Memory]:
        created = await self.store.create(space, drafts, author, None, each=False)
        return [outcome.memory for outcome in created.outcomes if isinstance(outcome, Kept)]

    async def archive(self, space: Space, memory: Memory, author: Author = ALICE) -> None:
        alter = changes.archive(NOW, memory.id)
        await self.store.mutate(space, memory.id, "", Change.ARCHIVED, alter, author, None)

    async def restore(self, space: Space, memory: Memory) -> None:
        await self.store.mutate(space, memory.id, "", Change.RESTORED, changes.restore, ALICE, None)

    async def erase(self, space: Space, memory: Memory) -> None:
        await self.store.erase(space, memory.id, "", ALICE, None)


@pytest.fixture
async def core(database: Database) -> Core:
    await migrated(database)
    opened = Core(database)
    await opened.store.open()
    return opened


@pytest.fixture
async def bus(database: Database, core: Core) -> AsyncIterator[EventBus]:
    async with started(database, core.vault) as running:
        yield running


def relay_of(core: Core, log: EventLog, poll_seconds: float = 60.0) -> Relay:
    return Relay(core.spaces, core.store, log, SystemClock(), poll_seconds, lambda _: None)


async def everything_published(core: Core) -> bool:
    return await core.spaces.unpublished(1) == []


async def assert_log_equals_revisions(bus: EventBus, core: Core, space: Space) -> None:
    revisions = await core.store.list_revisions(space, None, 0, 100_000)
    events = await bus.of(space)
    assert [event.revision for event in events] == [revision.revision for revision in revisions]
    assert [event.revision for event in events] == list(range(1, len(events) + 1))
    erased = {revision.memory_id for revision in revisions if revision.change is Change.ERASED}
    for event, revision in zip(events, revisions, strict=True):
        assert event.id == f"{space.uid}:{revision.revision}"
        assert (event.source, event.tenant, event.type) == (SOURCE, ACME, wire.CHANGE_EVENTS[revision.change])
        assert event.subject == f"{space.name}/memories/{revision.memory_id}"
        carried = resources_pb2.Revision.FromString(event.data)
        if revision.memory_id in erased:
            assert carried.memory.content == ""
        else:
            assert carried == wire.from_revision(space, revision)


async def write_at_random(core: Core, space: Space, chance: random.Random, steps: int) -> None:
    """Create, archive, restore and erase, as a busy writer does."""
    mine: list[Memory] = []
    for step in range(steps):
        kind = chance.choice(["create", "create", "create", "archive", "restore", "erase"])
        if kind == "create" or not mine:
            drafts = [Draft(f"step {step}, {number}") for number in range(chance.randint(1, 4))]
            mine += await core.create(space, drafts)
        elif kind == "erase":
            await core.erase(space, mine.pop(chance.randrange(len(mine))))
        elif kind == "archive":
            await core.archive(space, chance.choice(mine))
        else:
            await core.restore(space, chance.choice(mine))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_fails_the_log_is_the_history_once_and_in_order(core: Core, bus: EventBus, seed: int) -> None:
    chance = random.Random(seed)
    spaces = [await core.make_space(f"space-{number}") for number in range(4)]
    log = UnreliableLog(bus.client, chance)
    relay = relay_of(core, log, poll_seconds=0.01)

    async def relay_that_is_restarted() -> None:
        longest = 0.1  # grows, so that on the slowest machine some relay lives long enough
        while True:
            try:
                await asyncio.wait_for(relay_of(core, log, 0.01).run(), chance.uniform(0.01, longest))
            except (PeerUnavailableError, TimeoutError):
                longest *= 1.005

    relaying = asyncio.create_task(relay_that_is_restarted())
    async with asyncio.TaskGroup() as writers:
        for number in range(12):
            writers.create_task(write_at_random(core, spaces[number % 4], random.Random(seed * 100 + number), 12))
    log.trouble = 0.2
    await until(lambda: everything_published(core))
    relaying.cancel()
    with suppress(asyncio.CancelledError):
        await relaying
    assert await relay.publish_pending() == 0
    assert min(log.failures.values()) > 0
    for space in spaces:
        await assert_log_equals_revisions(bus, core, space)


async def test_small_spaces_are_published_together(core: Core, bus: EventBus) -> None:
    spaces = [await core.make_space(f"space-{number}") for number in range(20)]
    for space in spaces:
        await core.create(space, [Draft("one"), Draft("two")])
    log = CountingLog(bus.client)
    assert await relay_of(core, log).publish_pending() == 40
    assert log.requests == [20]
    assert await everything_published(core)
    for space in spaces:
        await assert_log_equals_revisions(bus, core, space)


async def test_two_relays_at_once_repeat_each_other_and_change_nothing(core: Core, bus: EventBus) -> None:
    spaces = [await core.make_space(f"space-{number}") for number in range(3)]
    relays = [asyncio.create_task(relay_of(core, bus.client, 0.005).run()) for _ in range(2)]
    async with asyncio.TaskGroup() as writers:
        for number in range(6):
            writers.create_task(write_at_random(core, spaces[number % 3], random.Random(number), 15))
    await until(lambda: everything_published(core))
    for task in relays:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for space in spaces:
        await assert_log_equals_revisions(bus, core, space)


async def test_a_commit_is_published_when_it_is_announced(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes")
    relay = relay_of(core, bus.client)
    task = BackgroundTask("relay", relay.run)
    await task.start()
    for number in (1, 2):
        await core.create(space, [Draft("x")])
        relay.wake()
        await until(lambda: everything_published(core))
        assert len(await bus.of(space)) == number
    await task.stop()


async def test_a_commit_nobody_announced_is_found_by_looking(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes")
    task = BackgroundTask("relay", relay_of(core, bus.client, poll_seconds=0.02).run)
    await task.start()
    await core.create(space, [Draft("x")])
    await until(lambda: everything_published(core))
    await task.stop()


async def test_long_histories_and_many_spaces_take_several_rounds(core: Core, bus: EventBus) -> None:
    long = await core.make_space("long")
    await core.create(long, [Draft(str(number)) for number in range(BATCH + 10)])
    relay = relay_of(core, bus.client)
    assert [await relay.publish_pending() for _ in range(3)] == [BATCH, 10, 0]
    for number in range(SPACES_A_ROUND + 3):
        await core.create(await core.make_space(f"space-{number}"), [Draft("x")])
    assert [await relay.publish_pending() for _ in range(3)] == [SPACES_A_ROUND, 3, 0]
    await assert_log_equals_revisions(bus, core, long)


async def test_the_events_of_an_encrypted_space_hold_nothing_readable(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes", encrypted=True)
    secret = Draft("a secret", metadata={"secret": "secret"}, tags=("secret",), actor="secret", session="secret")
    (memory,) = await core.create(space, [secret], Author("alice", NOW))
    await relay_of(core, bus.client).publish_pending()
    (event,) = await bus.of(space)
    assert b"secret" not in event.data
    carried = resources_pb2.Revision.FromString(event.data)
    cipher = await core.vault.cipher(space)
    assert cipher is not None
    opened = resources_pb2.Memory.FromString(cipher.open(f"{memory.id}@1", carried.sealed))
    assert opened == wire.from_memory(space, memory)


async def test_the_lag_is_the_age_of_the_oldest_revision_that_waits(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes")
    await core.create(space, [Draft("x")])
    lags: list[float] = []
    clock = ManualClock(NOW)
    await clock.advance(7)
    relay = Relay(core.spaces, core.store, bus.client, clock, 60, lags.append)
    await relay.publish_pending()
    await relay.publish_pending()
    assert lags == [7.0, 0.0]


def largest_input() -> resources_pb2.MemoryInput:
    """As much as a memory may hold."""
    metadata = dict_to_struct({"k": "\u6771" * 34_000})
    metadata.fields["fill"].string_value = "x" * (LARGEST - metadata.ByteSize() - 20)
    assert LARGEST - 10 <= metadata.ByteSize() <= LARGEST
    return resources_pb2.MemoryInput(
        content="x" * LARGEST,
        metadata=metadata,
        tags=[f"{number:02}" + "\u6771" * 62 for number in range(32)],
        actor="\u6771" * 256,
        session="\u6771" * 256,
    )


async def test_the_largest_memories_pass(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes")
    drafts = [wire.to_draft(largest_input(), "memory")] * 3
    author = Author("a" * 128, NOW, "\u6771" * 512)
    for memory in await core.create(space, drafts, author):
        await core.archive(space, memory, author)
    relay = relay_of(core, bus.client)
    while await relay.publish_pending():
        pass
    await assert_log_equals_revisions(bus, core, space)


async def test_what_was_just_committed_is_published_as_it_is_stored(core: Core, bus: EventBus) -> None:
    """Written by two processes in turn: each has only its own revisions at hand, the store has all."""
    space = await core.make_space("notes")
    other = Core(core.database)
    written = []
    for round_ in range(4):
        for writer in (core, other):
            drafts = [Draft(f"note {round_}-{n}", metadata={"n": n, "half": 0.5}, tags=("a",)) for n in range(5)]
            written += await writer.create(space, drafts)
    relay = relay_of(core, bus.client)
    while await relay.publish_pending():
        pass
    await assert_log_equals_revisions(bus, core, space)
    assert len(written) == 40


async def test_what_was_erased_before_it_was_published_is_in_no_event(core: Core, bus: EventBus) -> None:
    space = await core.make_space("notes")
    (memory,) = await core.create(space, [Draft("a secret")])
    await core.erase(space, memory)
    relay = relay_of(core, bus.client)
    while await relay.publish_pending():
        pass
    assert all(b"a secret" not in event.data for event in await bus.of(space))
    await assert_log_equals_revisions(bus, core, space)


async def test_what_is_published_is_not_held_in_memory_any_longer(core: Core, bus: EventBus) -> None:
    """Another process publishes what this one wrote, and erases it: then this one does not know it any more either."""
    space = await core.make_space("notes")
    (memory,) = await core.create(space, [Draft("a secret")])
    other = Core(core.database)
    await other.erase(space, memory)
    relay = relay_of(other, bus.client)
    while await relay.publish_pending():
        pass
    assert await relay_of(core, bus.client).publish_pending() == 0
    revisions = await core.store.unpublished_revisions(space, 10)
    assert [revision.memory for revision in revisions] == [None, None]


def test_metadata_no_event_could_carry_is_refused() -> None:
    item = largest_input()
    item.metadata.fields["k"].string_value += "x" * 20
    with pytest.raises(
        InvalidFieldError, match=r"memories\[3\].metadata: has 1024\d\d bytes; allowed are at most 102400"
    ):
        wire.to_draft(item, "memories[3]")


class CountingChannel(ResilientChannel):
    """A channel that measures the requests it sends."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, "events", credentials=InternalCredentials(TOKEN))
        self.sizes: list[int] = []

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        send = super().unary_unary(method, *arguments, **options)

        async def measured(request: event_service_pb2.PublishEventsRequest) -> Any:
            self.sizes.append(request.ByteSize())
            return await send(request)

        return measured


async def test_a_batch_of_large_memories_is_sent_in_parts(core: Core, bus: EventBus) -> None:
    services: list[Service] = bus.app.services
    host = Host("events", services, authenticator=InternalAuthenticator(TOKEN))
    channel = CountingChannel(host.channel())
    space = await core.make_space("notes")
    await core.create(space, [Draft("x" * LARGEST)] * 90 + [Draft("small")] * 5)
    assert await relay_of(core, EventLogClient(channel, core.vault)).publish_pending() == 95
    assert len(channel.sizes) == 3
    assert max(channel.sizes) <= REQUEST_BYTES + 1000
    await assert_log_equals_revisions(bus, core, space)
