"""Agents on the real store and behind the real host, with a clock that is moved by hand, at two replicas."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.event_work import POLL_SECONDS, Replica, migrated, person

from mnemo_events.domain.agent import MAX_AGENTS, Description, Presence
from mnemo_events.domain.agent_watch import PAGE, Watched
from mnemo_events.domain.heartbeats import Beat, Heartbeats
from mnemo_events.domain.limits import FRESH_SECONDS
from mnemocore.errors import (
    AgentNotFoundError,
    DeadlineExceededError,
    PermissionDeniedError,
    QuotaExceededError,
    ShuttingDownError,
    StoreUnavailableError,
)
from mnemocore.events.v1 import agent_service_pb2 as pb
from mnemocore.events.v1 import resources_pb2
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import dict_to_struct

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence

    from mnemo_events.domain.agent import Agent
    from mnemo_events.domain.event import Event
    from mnemo_events.domain.heartbeats import Heard
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ADA, BOB, ROOT = person("ada"), person("bob"), person("root", "acme", "events:admin")
SECONDS = 60.0
ANY = Description((), "", {})


def able(*capabilities: str) -> Description:
    return Description(tuple(sorted(capabilities)), "", {})


@pytest.fixture
async def database(postgres: TestPostgres) -> AsyncIterator[Database]:
    url = await postgres.create(migrated)
    opened = await postgres.open(url)
    yield opened
    await opened.close()
    await postgres.drop(url)


class CountingClock(ManualClock):
    """Counts how often somebody began to sleep."""

    sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


@pytest.fixture
def here(database: Database, clock: ManualClock) -> Replica:
    return Replica(database, clock)


@pytest.fixture
def there(database: Database, clock: ManualClock) -> Replica:
    return Replica(database, clock)


def told(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.type.removeprefix("agent."), event.subject.removeprefix("agents/")) for event in events]


async def test_one_name_is_one_agent_and_two_names_are_two(here: Replica, clock: ManualClock) -> None:
    first = await here.agents.register(ADA, "reader", able("read"))
    await clock.advance(5)
    again = await here.agents.register(ADA, "reader", Description(("read", "write"), "reads", {"n": 1}))
    other = await here.agents.register(ADA, "writer", ANY)
    assert (again.uid, again.created_at, again.principal) == (first.uid, first.created_at, "ada")
    assert again.description == Description(("read", "write"), "reads", {"n": 1})
    assert again.heard_at == clock.now()
    assert other.uid != first.uid
    assert await here.agents.get(ADA.tenant, "reader") == again
    assert told(await here.events()) == [("registered", "reader"), ("registered", "writer")]


async def test_many_at_once_register_one_agent(here: Replica, there: Replica) -> None:
    agents = await asyncio.gather(*(replica.agents.register(ADA, "one", ANY) for replica in [here, there] * 8))
    assert len({agent.uid for agent in agents}) == 1
    assert told(await here.events()) == [("registered", "one")]


async def test_coming_and_going_at_once_is_told_in_its_order(here: Replica, there: Replica) -> None:
    calls: list[Awaitable[object]] = []
    for n in range(40):
        replica = [here, there][n % 2]
        going = n % 4 in (1, 2)
        calls.append(replica.agents.deregister(ADA, "one") if going else replica.agents.register(ADA, "one", ANY))
        if n % 10 == 0:
            calls += [here.relay.publish_pending(), there.relay.publish_pending()]
    await asyncio.gather(*calls)
    kinds = [kind for kind, _ in told(await here.events())]
    assert kinds[0] == "registered"
    assert all(before != after for before, after in pairwise(kinds))


async def test_an_event_says_who_it_is_about(here: Replica, clock: ManualClock) -> None:
    agent = await here.agents.register(ADA, "reader", able("read"))
    await here.agents.heartbeat(ADA, "reader", 0.5)
    await clock.advance(61)
    await here.agents.sweep()
    event = (await here.events())[-1]
    assert (event.type, event.source, event.subject) == ("agent.offline", "mnemocore/events", "agents/reader")
    assert (event.tenant, event.datacontenttype, event.id) == ("acme", "application/json", f"{agent.uid}/1/offline")
    assert (event.time - agent.heard_at).total_seconds() == 60
    assert json.loads(event.data) == {
        "name": "agents/reader",
        "capabilities": ["read"],
        "load": 0.5,
        "principal": "ada",
    }


async def test_an_agent_is_offline_after_60_s_of_silence_and_one_event_says_so(
    here: Replica, there: Replica, clock: ManualClock
) -> None:
    await here.agents.register(ADA, "reader", ANY)
    await clock.advance(60)
    assert (await here.agents.get(ADA.tenant, "reader")).presence_at(clock.now()) is Presence.ONLINE
    assert await here.agents.sweep() == 0
    await clock.advance(0.1)
    assert (await there.agents.get(ADA.tenant, "reader")).presence_at(clock.now()) is Presence.OFFLINE
    swept = await asyncio.gather(*(replica.agents.sweep() for replica in [here, there] * 4))
    assert sum(swept) == 1
    await asyncio.gather(*(replica.relay.publish_pending() for replica in [here, there] * 4))
    assert told(await here.logged()) == [("registered", "reader"), ("offline", "reader")]


async def test_a_late_heartbeat_revives_and_the_next_silence_is_told_again(here: Replica, clock: ManualClock) -> None:
    await here.agents.register(ADA, "reader", ANY)
    for _ in range(2):
        await clock.advance(61)
        await here.agents.sweep()
        agent = await here.agents.heartbeat(ADA, "reader", 0.25)
        assert agent.presence_at(clock.now()) is Presence.ONLINE
    await clock.advance(61)
    await here.agents.sweep()
    await here.agents.register(ADA, "reader", ANY)
    kinds = ["registered", "offline", "online", "offline", "online", "offline", "online"]
    assert [kind for kind, _ in told(await here.events())] == kinds


async def test_silence_is_told_even_if_the_heartbeat_comes_before_the_sweep(here: Replica, clock: ManualClock) -> None:
    await here.agents.register(ADA, "reader", ANY)
    await clock.advance(70)
    await here.agents.heartbeat(ADA, "reader", 0)
    assert await here.agents.sweep() == 0
    await clock.advance(70)
    assert await here.agents.deregister(ADA, "reader")
    kinds = ["registered", "offline", "online", "offline", "deregistered"]
    assert [kind for kind, _ in told(await here.events())] == kinds


class Stops(Exception):
    pass


class Mortal(Replica):
    """A replica that dies before or after it publishes."""

    async def publish(self, events: Sequence[Event]) -> list[int]:
        if self.survives:
            await self.log.append(events, self.clock.now())
        raise Stops

    def dying(self, *, survives: bool) -> Mortal:
        self.survives = survives
        self.relay = type(self.relay)(self.outbox, self, self.clock)
        return self


@pytest.mark.parametrize("appended", [False, True])
async def test_a_crash_before_or_after_the_append_loses_and_doubles_nothing(
    database: Database, here: Replica, clock: ManualClock, appended: bool
) -> None:
    await here.agents.register(ADA, "reader", ANY)
    await here.relay.publish_pending()
    await clock.advance(61)
    dying = Mortal(database, clock).dying(survives=appended)
    await dying.agents.sweep()
    with pytest.raises(Stops):
        await dying.relay.publish_pending()
    assert len(await here.logged()) == 1 + appended
    await here.agents.sweep()
    assert told(await here.events()) == [("registered", "reader"), ("offline", "reader")]
    assert await here.relay.publish_pending() == 0


async def test_a_crash_before_the_commit_leaves_neither_mark_nor_event(
    database: Database, here: Replica, clock: ManualClock
) -> None:
    await here.agents.register(ADA, "reader", ANY)
    await clock.advance(61)
    await database.execute("ALTER TABLE events.outbox ADD CONSTRAINT broken CHECK (type <> 'agent.offline') NOT VALID")
    with pytest.raises(Exception, match="broken"):
        await here.agents.sweep()
    assert (await here.agents.get(ADA.tenant, "reader")).online
    await database.execute("ALTER TABLE events.outbox DROP CONSTRAINT broken")
    assert await here.agents.sweep() == 1
    assert told(await here.events())[1:] == [("offline", "reader")]


async def test_an_event_that_is_refused_holds_up_no_other(here: Replica, database: Database) -> None:
    await here.agents.register(ADA, "first", ANY)
    await database.execute(
        "INSERT INTO events.outbox (tenant, id, type, subject, occurred_at, data) "
        "SELECT '', '', '', '', now(), '' FROM generate_series(1, 2)"
    )
    await here.agents.register(ADA, "second", ANY)

    class Picky(Replica):
        async def publish(self, events: Sequence[Event]) -> list[int]:
            if not all(event.type for event in events):
                raise QuotaExceededError("refused", quota="test", limit="0")
            return await self.log.append(events, self.clock.now())

    picky = Picky(database, here.clock)
    picky.relay = type(picky.relay)(picky.outbox, picky, here.clock)
    assert await picky.relay.publish_pending() == 2
    assert told(await here.logged()) == [("registered", "first"), ("registered", "second")]
    assert len(await here.outbox.pending(0, 10)) == 2


async def test_nobody_speaks_for_the_agent_of_another(here: Replica) -> None:
    await here.agents.register(ADA, "reader", ANY)
    for call in (
        here.agents.register(BOB, "reader", able("all")),
        here.agents.heartbeat(BOB, "reader", 1),
        here.agents.deregister(BOB, "reader"),
    ):
        with pytest.raises(PermissionDeniedError, match="'agents/reader' was registered by 'ada', you are 'bob'"):
            await call
    agent = await here.agents.get(ADA.tenant, "reader")
    assert (agent.load, agent.description) == (0, ANY)
    await here.agents.register(ROOT, "reader", able("read"))
    await here.agents.heartbeat(ROOT, "reader", 0.5)
    assert (await here.agents.get(ADA.tenant, "reader")).principal == "ada"
    assert await here.agents.deregister(ROOT, "reader")


async def test_tenants_never_meet(here: Replica) -> None:
    other = person("ada", "other", "events:admin")
    await here.agents.register(ADA, "reader", ANY)
    with pytest.raises(AgentNotFoundError):
        await here.agents.get(other.tenant, "reader")
    with pytest.raises(AgentNotFoundError):
        await here.agents.heartbeat(other, "reader", 1)
    assert not await here.agents.deregister(other, "reader")
    assert (await here.agents.register(other, "reader", ANY)).tenant == "other"
    assert {(event.tenant, event.type) for event in await here.events()} == {
        ("acme", "agent.registered"),
        ("other", "agent.registered"),
    }


async def test_deregistering_twice_does_nothing_and_a_new_agent_is_another(here: Replica) -> None:
    first = await here.agents.register(ADA, "reader", ANY)
    assert [await here.agents.deregister(ADA, "reader") for _ in range(2)] == [True, False]
    with pytest.raises(AgentNotFoundError, match="'agents/reader' is not registered"):
        await here.agents.heartbeat(ADA, "reader", 0)
    assert (await here.agents.register(BOB, "reader", ANY)).uid != first.uid
    kinds = ["registered", "deregistered", "registered"]
    assert [kind for kind, _ in told(await here.events())] == kinds


async def test_a_tenant_has_no_more_than_the_limit(here: Replica, database: Database, clock: ManualClock) -> None:
    await here.agents.register(ADA, "a", ANY)
    await database.execute(
        "INSERT INTO events.agents SELECT tenant, 'n' || n, gen_random_uuid(), capabilities, description, metadata, "
        "principal, load, heard_at, online, period, edition, created_at "
        "FROM events.agents, generate_series(1, $1::int) AS n WHERE id = 'a'",
        MAX_AGENTS - 4,
    )
    await clock.advance(FRESH_SECONDS)
    outcomes = await asyncio.gather(
        *(here.agents.register(ADA, f"b{n}", ANY) for n in range(6)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceededError)]
    assert len(refused) == 3
    assert "10000 agents, the most there may be" in str(refused[0])
    assert (await here.agents.register(ADA, "a", able("more"))).edition == 2
    assert await here.agents.register(person("ada", "other"), "a", ANY)


async def test_heartbeats_that_come_together_are_committed_together(here: Replica) -> None:
    for n in range(20):
        await here.agents.register(ADA, f"a{n}", ANY)
    batches: list[int] = []

    async def hear(beats: Sequence[Beat]) -> list[Heard | None]:
        batches.append(len(beats))
        return await here.agent_store.hear(beats, here.clock.now())

    heartbeats = Heartbeats(hear)
    beats = [Beat(ADA, f"a{n % 20}", n / 100) for n in range(60)]
    heard = await asyncio.gather(*(heartbeats.add(beat) for beat in beats), heartbeats.add(beats[0]))
    assert [each.agent.id for each in heard if each] == [f"a{n % 20}" for n in range(60)] + ["a0"]
    assert sum(batches) == 61
    assert len(batches) <= 3


async def test_a_heartbeat_that_is_cancelled_or_too_late_fails_no_other() -> None:
    waiting, rounds = asyncio.Event(), 0

    async def hear(beats: Sequence[Beat]) -> list[Heard | None]:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0)
        if rounds == 1:
            await waiting.wait()
        if rounds == 2:
            raise DeadlineExceededError
        if rounds == 5:
            raise StoreUnavailableError
        return [None for _ in beats]

    heartbeats = Heartbeats(hear)
    first, second, third = (asyncio.create_task(heartbeats.add(Beat(ADA, "a", 0))) for _ in range(3))
    await until(lambda: rounds == 1)
    first.cancel()
    with pytest.raises(DeadlineExceededError):
        await second
    assert await third is None
    pair = await asyncio.gather(*(heartbeats.add(Beat(ADA, "a", 0)) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in pair] == [type(None), StoreUnavailableError, StoreUnavailableError]
    assert rounds == 5


async def test_lists_by_capability_and_state(here: Replica, clock: ManualClock) -> None:
    await here.agents.register(ADA, "silent", able("read"))
    await clock.advance(61)
    await here.agents.register(ADA, "b", able("read", "write"))
    await here.agents.register(ADA, "a", able("write"))

    async def listed(*capabilities: str, presence: Presence | None = None) -> list[str]:
        found = await here.agents.list_agents(ADA.tenant, "", 10, capabilities, presence)
        return [agent.id for agent in found]

    assert await listed() == ["a", "b", "silent"]
    assert await listed("read") == ["b", "silent"]
    assert await listed("read", "write") == ["b"]
    assert await listed(presence=Presence.ONLINE) == ["a", "b"]
    assert await listed("read", presence=Presence.OFFLINE) == ["silent"]


# Watching


@asynccontextmanager
async def watching(replica: Replica, *capabilities: str) -> AsyncIterator[AsyncGenerator[Watched]]:
    with replica.watches.open(ADA.tenant, capabilities) as watch:
        async with aclosing(watch.pages()) as pages:
            yield pages


async def first(pages: AsyncGenerator[Watched]) -> list[str]:
    found: list[str] = []
    async for page in pages:
        found += [agent.id for agent in page.agents]
        if page.complete:
            break
    return found


async def asleep(clock: ManualClock) -> None:
    await until(lambda: clock.sleepers == 1)


async def next_change(pages: AsyncGenerator[Watched], clock: CountingClock) -> tuple[Agent, ...]:
    """The agents of the next page that has some; time passes until then."""
    for _ in range(10):
        coming = asyncio.ensure_future(anext(pages))
        while not await _moved(coming, clock):
            pass
        if agents := (await coming).agents:
            return agents
    raise AssertionError("no change")


async def _moved(coming: asyncio.Future[Watched], clock: CountingClock) -> bool:
    """Whether the page has come; if not, some time passes, and the watch has looked again."""
    await until(lambda: clock.sleepers == 1 or coming.done())
    if not coming.done():
        sleeps = clock.sleeps
        await clock.advance(POLL_SECONDS)
        await until(lambda: clock.sleeps > sleeps or coming.done())
    return coming.done()


async def test_a_watch_tells_all_first_and_then_what_changes(here: Replica, clock: ManualClock) -> None:
    for n in range(PAGE + 5):
        await here.agents.register(ADA, f"a{n:04}", ANY)
    async with watching(here) as pages:
        assert await first(pages) == [f"a{n:04}" for n in range(PAGE + 5)]
        coming = asyncio.ensure_future(anext(pages))
        await asleep(clock)
        await clock.advance(2)
        await here.agents.register(ADA, "new", ANY)
        assert [agent.id for agent in (await coming).agents] == ["new"]
        coming = asyncio.ensure_future(anext(pages))
        await here.agents.deregister(ADA, "new")
        await asleep(clock)
        await clock.advance(1)
        assert await coming == Watched(gone=("agents/new",))


async def test_what_changes_often_comes_once_a_second(here: Replica, clock: ManualClock) -> None:
    await here.agents.register(ADA, "a", ANY)
    async with watching(here) as pages:
        await first(pages)
        coming = asyncio.ensure_future(anext(pages))
        for load in (0.1, 0.2, 0.3):
            await here.agents.heartbeat(ADA, "a", load)
            await asleep(clock)
            assert not coming.done()
        await clock.advance(1)
        assert [agent.load for agent in (await coming).agents] == [0.3]


async def test_a_heartbeat_with_the_same_load_is_no_change_and_the_stream_shows_life(
    here: Replica, clock: ManualClock
) -> None:
    await here.agents.register(ADA, "a", ANY)
    async with watching(here) as pages:
        await first(pages)
        coming = asyncio.ensure_future(anext(pages))
        for _ in range(14):
            await asleep(clock)
            await here.agents.heartbeat(ADA, "a", 0.0)
            await clock.advance(1)
        await asleep(clock)
        assert not coming.done()
        await clock.advance(1)
        assert await coming == Watched()


async def test_changes_at_another_replica_and_silence_are_noticed(
    here: Replica, there: Replica, clock: CountingClock
) -> None:
    await there.agents.register(ADA, "a", able("read"))
    async with watching(here, "read") as pages:
        assert await first(pages) == ["a"]
        for change in (
            there.agents.register(ADA, "b", able("read")),
            there.agents.heartbeat(ADA, "b", 0.7),
            there.agents.register(ADA, "b", able("write")),
        ):
            coming = asyncio.ensure_future(anext(pages))
            await asleep(clock)
            await change
            await clock.advance(POLL_SECONDS)
            assert [agent.id for agent in (await coming).agents] == ["b"]
        await there.agents.heartbeat(ADA, "a", 0)
        silent = await next_change(pages, clock)
        assert [(agent.id, agent.presence_at(clock.now())) for agent in silent] == [("a", Presence.OFFLINE)]


async def test_a_change_that_commits_late_is_not_missed(here: Replica, database: Database, clock: ManualClock) -> None:
    await here.agents.register(ADA, "a", ANY)
    async with watching(here) as pages:
        await first(pages)
        async with database.transaction() as open_still:
            await open_still.execute(
                "UPDATE events.agents SET edition = 2, change = pg_current_xact_id()::text::bigint WHERE id = 'a'"
            )
            coming = asyncio.ensure_future(anext(pages))
            await asleep(clock)
            await here.agents.register(ADA, "b", ANY)
            await clock.advance(1)
            assert [agent.id for agent in (await coming).agents] == ["b"]
        coming = asyncio.ensure_future(anext(pages))
        await asleep(clock)
        await clock.advance(POLL_SECONDS)
        assert [agent.id for agent in (await coming).agents] == ["a"]


async def test_draining_ends_watches(here: Replica, clock: ManualClock) -> None:
    async with watching(here) as pages:
        await first(pages)
        coming = asyncio.ensure_future(anext(pages))
        await asleep(clock)
        here.watches.drain()
        with pytest.raises(ShuttingDownError):
            await coming
    with pytest.raises(ShuttingDownError):
        async with watching(here):
            pass


# On the wire


async def test_the_wire_brings_all_of_an_agent(here: Replica) -> None:
    stub = here.agents_stub()
    said = resources_pb2.Agent(
        capabilities=["write", "read"], description="reads", metadata=dict_to_struct({"a": {"b": [1, None, "x"]}})
    )
    registered = (await stub.RegisterAgent(pb.RegisterAgentRequest(agent_id="a", agent=said), timeout=SECONDS)).agent
    assert (registered.name, registered.principal, registered.state) == (
        "agents/a",
        "ada",
        resources_pb2.AGENT_STATE_ONLINE,
    )
    assert list(registered.capabilities) == ["read", "write"]
    assert (registered.description, registered.metadata) == (said.description, said.metadata)
    beaten = (await stub.Heartbeat(pb.HeartbeatRequest(name="agents/a", load=0.5), timeout=SECONDS)).agent
    assert beaten.load == 0.5
    assert (await stub.GetAgent(pb.GetAgentRequest(name="agents/a"), timeout=SECONDS)).agent == beaten
    assert (await stub.DeregisterAgent(pb.DeregisterAgentRequest(name="agents/a"), timeout=SECONDS)).deregistered


async def test_pages_of_agents(here: Replica) -> None:
    stub = here.agents_stub()
    for n in range(5):
        await here.agents.register(ADA, f"a{n}", able("read"))
    names, token = [], ""
    for _ in range(3):
        page = await stub.ListAgents(
            pb.ListAgentsRequest(page_size=2, page_token=token, capabilities=["read"]), timeout=SECONDS
        )
        names += [agent.name for agent in page.agents]
        token = page.next_page_token
    assert names == [f"agents/a{n}" for n in range(5)]
    assert token == ""


@pytest.mark.parametrize(
    ("agent_id", "said", "field"),
    [
        ("No", {}, "agent_id"),
        ("a", {"capabilities": [""]}, "agent.capabilities[0]"),
        ("a", {"capabilities": ["a\x00"]}, "agent.capabilities[0]"),
        ("a", {"description": "a\x00"}, "agent.description"),
        ("a", {"metadata": dict_to_struct({"k": ["\x00"]})}, "agent.metadata"),
        ("a", {"metadata": dict_to_struct({"k": "x" * 20_000})}, "agent.metadata"),
    ],
)
async def test_what_registering_refuses(here: Replica, agent_id: str, said: dict[str, Any], field: str) -> None:
    request = pb.RegisterAgentRequest(agent_id=agent_id, agent=resources_pb2.Agent(**said))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await here.agents_stub().RegisterAgent(request, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_the_wire_refuses_other_principals_and_scopes(here: Replica) -> None:
    await here.agents.register(ADA, "a", ANY)
    beat = pb.HeartbeatRequest(name="agents/a")
    for stub in (here.agents_stub("bob"), here.agents_stub(scopes="events:read")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Heartbeat(beat, timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await here.agents_stub("root", scopes="events:admin").Heartbeat(beat, timeout=SECONDS)


async def test_a_watch_on_the_wire(here: Replica) -> None:
    await here.agents.register(ADA, "a", able("read"))
    await here.agents.register(ADA, "b", ANY)
    call: Any = here.agents_stub().WatchAgents(pb.WatchAgentsRequest(capabilities=["read"]), timeout=SECONDS)
    assert [agent.name for agent in (await call.read()).agents] == ["agents/a"]
    assert (await call.read()).complete
    here.watches.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
