"""The relay between the real store and the real event-bus: what was committed is in the log, once and in order."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from mnemo_events.app import EventsApp
from mnemo_events.domain.filter import Filter
from mnemo_events.storage.postgres_log import PostgresLog
from mnemo_memory import wire
from mnemo_memory.clients.event_log_client import REQUEST_BYTES, SOURCE, EventLogClient
from mnemo_memory.domain.memory import Change, Draft, Space, State
from mnemo_memory.domain.ports import Author
from mnemo_memory.domain.relay import BATCH, SPACES_A_ROUND, Relay
from mnemo_memory.storage.postgres_store import PostgresStore
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.errors import InvalidFieldError, PeerUnavailableError
from mnemocore.ids import SpaceUid, Tenant, new_uuid
from mnemocore.memory.v1 import resources_pb2
from mnemocore.postgres import migrate
from mnemocore.server import BackgroundTask, Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import dict_to_struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemo_events.domain.event import Event
    from mnemo_memory.domain.memory import Memory, Revision
    from mnemo_memory.domain.ports import EventLog
    from mnemocore.events.v1 import event_service_pb2
    from mnemocore.postgres import Database
    from mnemocore.server import Service

TOKEN = "a token"
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

    async def publish(self, space: Space, revisions: Sequence[Revision]) -> None:
        self._fail("before")
        await self._log.publish(space, revisions)
        self._fail("after")

    async def redact(self, space: Space, revisions: Sequence[int]) -> None:
        self._fail("before")
        await self._log.redact(space, revisions)
        self._fail("after")

    def _fail(self, moment: str) -> None:
        if self._chance.random() < self.trouble / 2:
            self.failures[moment] += 1
            raise PeerUnavailableError(target="events")


class EventBus:
    """event-bus in this process, and its log."""

    def __init__(self, database: Database) -> None:
        self.app = EventsApp(database, SystemClock())
        self._log = PostgresLog(database)
        self._host = Host("events", self.app.services, authenticator=InternalAuthenticator(TOKEN))
        self.client = EventLogClient(
            ResilientChannel(self._host.channel(), "events", credentials=InternalCredentials(TOKEN))
        )

    async def events(self) -> list[Event]:
        """The whole log."""
        found: list[Event] = []
        after, head = 0, 1
        while after < head:
            page = await self._log.read(after, Filter(), 1000)
            found += [stored.event for stored in page.events]
            after, head = page.resume, page.head
        return found

    async def of(self, space: Space) -> list[Event]:
        """The events of a space in the order of the log."""
        return [event for event in await self.events() if event.space_uid == space.uid]


@pytest.fixture
async def store(database: Database) -> PostgresStore:
    await migrate(database, "mnemo_memory.storage.migrations", schema="memory")
    opened = PostgresStore(database)
    await opened.open()
    return opened


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventBus]:
    started = EventBus(database)
    await started.app.start()
    yield started
    await started.app.stop()


async def make_space(store: PostgresStore, slug: str) -> Space:
    return await store.create_space(Space(SpaceUid(new_uuid(NOW)), ACME, slug, "", 0, 0, 0, 0, NOW), None)


def relay_of(store: PostgresStore, log: EventLog, poll_seconds: float = 60.0) -> Relay:
    return Relay(store, log, SystemClock(), poll_seconds, lambda _: None)


async def everything_published(store: PostgresStore) -> bool:
    return await store.unpublished(1) == []


async def assert_log_equals_revisions(bus: EventBus, store: PostgresStore, space: Space) -> None:
    revisions = await store.list_revisions(space, None, 0, 100_000)
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


async def write_at_random(store: PostgresStore, space: Space, chance: random.Random, steps: int) -> None:
    """Create, archive, restore and erase, as a busy writer does."""
    mine: list[Memory] = []
    for step in range(steps):
        kind = chance.choice(["create", "create", "create", "archive", "restore", "erase"])
        if kind == "create" or not mine:
            drafts = [Draft(f"step {step}, {number}") for number in range(chance.randint(1, 4))]
            mine += (await store.create(space, drafts, ALICE, None)).memories
        elif kind == "erase":
            await store.erase(space, mine.pop(chance.randrange(len(mine))).id, "", ALICE, None)
        else:
            state = State.ARCHIVED if kind == "archive" else State.ACTIVE
            await store.change_state(space, chance.choice(mine).id, state, "", ALICE, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_fails_the_log_is_the_history_once_and_in_order(
    store: PostgresStore, bus: EventBus, seed: int
) -> None:
    chance = random.Random(seed)
    spaces = [await make_space(store, f"space-{number}") for number in range(4)]
    log = UnreliableLog(bus.client, chance)
    relay = relay_of(store, log, poll_seconds=0.01)

    async def relay_that_is_restarted() -> None:
        while True:
            try:
                await asyncio.wait_for(relay_of(store, log, 0.01).run(), chance.uniform(0.01, 0.1))
            except (PeerUnavailableError, TimeoutError):
                continue

    relaying = asyncio.create_task(relay_that_is_restarted())
    async with asyncio.TaskGroup() as writers:
        for number in range(12):
            writers.create_task(write_at_random(store, spaces[number % 4], random.Random(seed * 100 + number), 12))
    log.trouble = 0.2
    await until(lambda: everything_published(store))
    relaying.cancel()
    with suppress(asyncio.CancelledError):
        await relaying
    assert await relay.publish_pending() == 0
    assert min(log.failures.values()) > 0
    for space in spaces:
        await assert_log_equals_revisions(bus, store, space)


async def test_two_relays_at_once_repeat_each_other_and_change_nothing(store: PostgresStore, bus: EventBus) -> None:
    spaces = [await make_space(store, f"space-{number}") for number in range(3)]
    relays = [asyncio.create_task(relay_of(store, bus.client, 0.005).run()) for _ in range(2)]
    async with asyncio.TaskGroup() as writers:
        for number in range(6):
            writers.create_task(write_at_random(store, spaces[number % 3], random.Random(number), 15))
    await until(lambda: everything_published(store))
    for task in relays:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for space in spaces:
        await assert_log_equals_revisions(bus, store, space)


async def test_a_commit_is_published_when_it_is_announced(store: PostgresStore, bus: EventBus) -> None:
    space = await make_space(store, "notes")
    relay = relay_of(store, bus.client)
    task = BackgroundTask("relay", relay.run)
    await task.start()
    for number in (1, 2):
        await store.create(space, [Draft("x")], ALICE, None)
        relay.wake()
        await until(lambda: everything_published(store))
        assert len(await bus.of(space)) == number
    await task.stop()


async def test_a_commit_nobody_announced_is_found_by_looking(store: PostgresStore, bus: EventBus) -> None:
    space = await make_space(store, "notes")
    task = BackgroundTask("relay", relay_of(store, bus.client, poll_seconds=0.02).run)
    await task.start()
    await store.create(space, [Draft("x")], ALICE, None)
    await until(lambda: everything_published(store))
    await task.stop()


async def test_long_histories_and_many_spaces_take_several_rounds(store: PostgresStore, bus: EventBus) -> None:
    long = await make_space(store, "long")
    await store.create(long, [Draft(str(number)) for number in range(BATCH + 10)], ALICE, None)
    relay = relay_of(store, bus.client)
    assert [await relay.publish_pending() for _ in range(3)] == [BATCH, 10, 0]
    for number in range(SPACES_A_ROUND + 3):
        await store.create(await make_space(store, f"space-{number}"), [Draft("x")], ALICE, None)
    assert [await relay.publish_pending() for _ in range(3)] == [SPACES_A_ROUND, 3, 0]
    await assert_log_equals_revisions(bus, store, long)


async def test_the_lag_is_the_age_of_the_oldest_revision_that_waits(store: PostgresStore, bus: EventBus) -> None:
    space = await make_space(store, "notes")
    await store.create(space, [Draft("x")], ALICE, None)
    lags: list[float] = []
    clock = ManualClock(NOW)
    await clock.advance(7)
    relay = Relay(store, bus.client, clock, 60, lags.append)
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


async def test_the_largest_memories_pass(store: PostgresStore, bus: EventBus) -> None:
    space = await make_space(store, "notes")
    drafts = [wire.to_draft(largest_input(), "memory")] * 3
    author = Author("a" * 128, NOW, "\u6771" * 512)
    for memory in (await store.create(space, drafts, author, None)).memories:
        await store.change_state(space, memory.id, State.ARCHIVED, "", author, None)
    await relay_of(store, bus.client).publish_pending()
    await assert_log_equals_revisions(bus, store, space)


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


async def test_a_batch_of_large_memories_is_sent_in_parts(store: PostgresStore, bus: EventBus) -> None:
    services: list[Service] = bus.app.services
    host = Host("events", services, authenticator=InternalAuthenticator(TOKEN))
    channel = CountingChannel(host.channel())
    space = await make_space(store, "notes")
    await store.create(space, [Draft("x" * LARGEST)] * 90 + [Draft("small")] * 5, ALICE, None)
    assert await relay_of(store, EventLogClient(channel)).publish_pending() == 95
    assert len(channel.sizes) == 3
    assert max(channel.sizes) <= REQUEST_BYTES + 1000
    await assert_log_equals_revisions(bus, store, space)
