"""The work queue on the real store and behind the real host, with a clock that is moved by hand, at two replicas."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.event_work import TOKEN, Replica, headers, migrated, person

from mnemo_events.app import EventsApp
from mnemo_events.domain.agent import Description
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import Reason
from mnemo_events.domain.limits import FRESH_SECONDS
from mnemo_events.domain.outbox import OutboxRelay
from mnemo_events.domain.task import KEPT, MAX_QUEUED, Order, State, Task
from mnemo_events.storage.postgres_log import PostgresLog
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    AgentNotFoundError,
    InvalidFieldError,
    LeaseLostError,
    PermissionDeniedError,
    QuotaExceededError,
    TaskExistsError,
    TaskNotFoundError,
    TaskStateError,
)
from mnemocore.events.v1 import resources_pb2
from mnemocore.events.v1 import task_service_pb2 as pb
from mnemocore.events.v1.agent_service_pb2 import RegisterAgentRequest
from mnemocore.events.v1.agent_service_pb2_grpc import AgentServiceStub
from mnemocore.events.v1.task_service_pb2_grpc import TaskServiceStub
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemo_events.domain.event import Event
    from mnemocore.calls import Identity
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ADA, BOB, ROOT = person("ada"), person("bob"), person("root", "acme", "events:admin")
SECONDS = 60.0
MINUTE = timedelta(seconds=60)
REQUEST = "018f0000-0000-7000-8000-00000000000a"
WORK = Order("summarise", b"\x00text", "text/plain", (), 0, 5, None)


def able(*capabilities: str) -> Description:
    return Description(tuple(sorted(capabilities)), "", {})


@pytest.fixture
async def database(postgres: TestPostgres) -> AsyncIterator[Database]:
    url = await postgres.create(migrated)
    opened = await postgres.open(url)
    yield opened
    await opened.close()
    await postgres.drop(url)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def here(database: Database, clock: ManualClock) -> Replica:
    replica = Replica(database, clock)
    for id in ("a", "b"):
        await replica.agents.register(ADA, id, able())
    return replica


@pytest.fixture
def there(database: Database, clock: ManualClock) -> Replica:
    return Replica(database, clock)


async def enqueue(replica: Replica, *ids: str, **changes: Any) -> None:
    for id in ids:
        await replica.tasks.enqueue(ADA, id, replace(WORK, **changes))


async def claim(
    replica: Replica,
    agent: str = "a",
    limit: int = 1,
    *,
    lease: timedelta = MINUTE,
    wait: float = 0,
    request_id: str | None = None,
    speaker: Identity = ADA,
) -> list[Task]:
    return list(await replica.tasks.claim(speaker, agent, limit, lease, wait, request_id))


async def ids(replica: Replica, agent: str = "a", limit: int = 100) -> list[str]:
    return [task.id for task in await claim(replica, agent, limit)]


async def endings(replica: Replica) -> list[tuple[str, str]]:
    return [(event.type, event.subject) for event in await replica.events() if event.type.startswith("task.")]


# Enqueuing


async def test_a_task_is_enqueued_once(here: Replica, there: Replica) -> None:
    stored = await asyncio.gather(*(replica.tasks.enqueue(ADA, "t", WORK) for replica in [here, there] * 4))
    assert len({task.uid for task in stored}) == 1
    assert (stored[0].state, stored[0].principal, stored[0].order) == (State.QUEUED, "ada", WORK)
    with pytest.raises(TaskExistsError, match="'tasks/t' exists already and is another"):
        await here.tasks.enqueue(BOB, "t", replace(WORK, payload=b"other"))
    assert await ids(here) == ["t"]


async def test_an_equal_task_stays_what_it_became(here: Replica) -> None:
    await enqueue(here, "t")
    await claim(here)
    await here.tasks.complete(ADA, "t", "a", 1, b"done")
    again = await here.tasks.enqueue(BOB, "t", WORK)
    assert (again.state, again.result, again.principal) == (State.DONE, b"done", "ada")
    assert await ids(here) == []


async def test_a_tenant_has_no_more_waiting_than_the_limit(
    here: Replica, database: Database, clock: ManualClock
) -> None:
    await enqueue(here, "t")
    await database.execute(
        "INSERT INTO events.tasks SELECT n + 9, gen_random_uuid(), tenant, 'n' || n, type, payload, content_type, "
        "capabilities, priority, max_attempts, not_before, principal, created_at, rank, state, due_at, attempts, "
        "tried_before, retries, agent, holder, lease_until, request_id, result, reason, error, ended_at, word_agent, "
        "word_holder, word_attempt, word_done FROM events.tasks, generate_series(1, $1::int) AS n WHERE id = 't'",
        MAX_QUEUED - 3,
    )
    await clock.advance(FRESH_SECONDS)
    outcomes = await asyncio.gather(*(here.tasks.enqueue(ADA, f"x{n}", WORK) for n in range(4)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceededError)]
    assert len(refused) == 2
    assert "100000 tasks of the tenant wait, the most that may" in str(refused[0])
    assert (await here.tasks.enqueue(ADA, "t", WORK)).id == "t"
    assert await here.tasks.enqueue(person("ada", "other"), "t", WORK)
    [given] = await claim(here)
    assert await here.tasks.enqueue(ADA, "room", WORK)
    await here.tasks.fail(ADA, given.id, "a", 1, Reason.REJECTED, "")
    with pytest.raises(QuotaExceededError):
        await here.tasks.retry(ADA, given.id)


# Claiming


async def test_the_most_urgent_comes_first_and_waiting_makes_urgent(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "old")
    await clock.advance(30)
    await enqueue(here, "urgent", priority=1)
    await clock.advance(31)
    await enqueue(here, "newer", priority=1)
    await enqueue(here, "most", priority=9)
    assert await ids(here) == ["most", "urgent", "old", "newer"]


async def test_only_tasks_that_the_agent_can_do(here: Replica) -> None:
    await here.agents.register(ADA, "a", able("read", "web"))
    await enqueue(here, "any")
    await enqueue(here, "both", capabilities=("read", "web"))
    await enqueue(here, "more", capabilities=("read", "shell"))
    await enqueue(here, "web", capabilities=("web",))
    assert await ids(here, "b") == ["any"]
    assert await ids(here, "a") == ["both", "web"]
    await here.agents.register(ADA, "b", able("read", "shell", "x"))
    assert await ids(here, "b") == ["more"]


async def test_many_sets_of_capabilities_are_given_by_urgency_over_all(here: Replica) -> None:
    chance = random.Random(3)
    names = [f"c{n}" for n in range(6)]
    wanted = []
    for n in range(120):
        order = replace(
            WORK, capabilities=tuple(sorted(chance.sample(names, chance.randrange(4)))), priority=chance.randrange(10)
        )
        task = await here.tasks.enqueue(ADA, f"t{n}", order)
        if set(order.capabilities) <= set(names[:4]):
            wanted.append(task)
    await here.agents.register(ADA, "a", able(*names[:4]))
    found: list[str] = []
    while some := await ids(here, limit=7):
        found += some
    assert found == [task.id for task in sorted(wanted, key=lambda task: (task.rank, task.number))]


async def test_not_before_its_time(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "later", not_before=clock.now() + MINUTE)
    assert await ids(here) == []
    await clock.advance(59.9)
    assert await ids(here) == []
    await clock.advance(0.1)
    assert await ids(here) == ["later"]


async def test_eight_claimers_never_have_the_same_task_and_leave_none(
    here: Replica, there: Replica, clock: ManualClock
) -> None:
    agents = [f"c{n}" for n in range(8)]
    for agent in agents:
        await here.agents.register(ADA, agent, able("x") if agent > "c3" else able())
    await enqueue(here, *(f"t{n}" for n in range(90)))
    await enqueue(here, *(f"x{n}" for n in range(30)), capabilities=("x",))
    held: dict[str, str] = {}
    given: Counter[str] = Counter()

    async def work(replica: Replica, agent: str, chance: random.Random) -> None:
        while tasks := await claim(replica, agent, chance.randrange(1, 6)):
            for task in tasks:
                assert task.id not in held
                held[task.id] = agent
                given[task.id] += 1
            await asyncio.sleep(0)
            for task in tasks:
                del held[task.id]
                await replica.tasks.complete(ADA, task.id, agent, task.attempts, b"")

    await asyncio.gather(*(work([here, there][n % 2], agent, random.Random(n)) for n, agent in enumerate(agents)))
    assert given == dict.fromkeys([*(f"t{n}" for n in range(90)), *(f"x{n}" for n in range(30))], 1)
    assert Counter(await endings(here)) == {("task.done", f"tasks/{id}"): 1 for id in given}


async def test_a_claim_waits_for_work_and_is_woken_here(here: Replica, clock: ManualClock) -> None:
    waiting = asyncio.ensure_future(claim(here, wait=30))
    await until(lambda: clock.sleepers == 1)
    await enqueue(here, "t")
    assert [task.id for task in await waiting] == ["t"]


async def test_a_claim_ends_empty_when_its_time_is_over(here: Replica, clock: ManualClock) -> None:
    waiting = asyncio.ensure_future(claim(here, wait=30))
    for _ in range(6):
        await until(lambda: clock.sleepers == 1)
        assert not waiting.done()
        await clock.advance(5)
        await until(lambda: clock.sleepers == 0 or waiting.done() or clock.now().second % 5 == 0)
    assert await waiting == []


async def test_a_claim_is_woken_when_a_task_is_due(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "later", not_before=clock.now() + timedelta(seconds=2))
    waiting = asyncio.ensure_future(claim(here, wait=30))
    await until(lambda: clock.sleepers == 1)
    await clock.advance(2)
    assert [task.id for task in await waiting] == ["later"]


async def test_a_claim_is_woken_by_the_end_of_a_lease(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t")
    await claim(here, "a", lease=timedelta(seconds=3))
    waiting = asyncio.ensure_future(claim(here, "b", wait=30))
    await until(lambda: clock.sleepers == 1)
    await clock.advance(3)
    await here.tasks.sweep()
    assert [(task.id, task.attempts) for task in await waiting] == [("t", 2)]


async def test_a_drain_answers_the_claims_that_wait(here: Replica, clock: ManualClock) -> None:
    waiting = asyncio.ensure_future(claim(here, wait=30))
    await until(lambda: clock.sleepers == 1)
    here.tasks.drain()
    assert await waiting == []


async def test_no_more_claims_wait_than_a_replica_has_room_for(
    here: Replica, database: Database, clock: ManualClock
) -> None:
    full = Replica(database, clock, max_waiting=1)
    waiting = asyncio.ensure_future(claim(full, wait=30))
    await until(lambda: clock.sleepers == 1)
    assert await claim(full, "b", wait=30) == []
    await enqueue(full, "t")
    assert [task.id for task in await waiting] == ["t"]


async def test_a_claim_is_bounded_in_bytes(here: Replica) -> None:
    """So that its answer is no larger than a message may be; what is left is for the next claim."""
    for number in range(12):
        await enqueue(here, f"t{number:02}", payload=bytes(1 << 20))
    names: list[str] = []
    while taken := await claim(here, limit=100):
        assert len(taken) == 4
        names += [task.id for task in taken]
    assert names == [f"t{number:02}" for number in range(12)]
    await enqueue(here, *(f"small{number:02}" for number in range(60)))
    assert len(await claim(here, limit=50)) == 50


async def test_the_same_request_is_given_the_same_while_it_is_held(here: Replica, there: Replica) -> None:
    await enqueue(here, *(f"t{n}" for n in range(9)))
    both = await asyncio.gather(*(claim(replica, limit=2, request_id=REQUEST) for replica in [here, there] * 3))
    assert all(tasks == both[0] for tasks in both)
    assert [task.id for task in both[0]] == ["t0", "t1"]
    await here.tasks.complete(ADA, "t0", "a", 1, b"")
    assert [task.id for task in await claim(here, limit=2, request_id=REQUEST)] == ["t1"]
    assert [task.id for task in await claim(here, "b", limit=2, request_id=REQUEST)] == ["t2", "t3"]
    await here.tasks.complete(ADA, "t1", "a", 1, b"")
    assert [task.id for task in await claim(here, limit=2, request_id=REQUEST)] == ["t4", "t5"]


async def test_only_a_registered_agent_claims_and_only_by_its_principal(here: Replica) -> None:
    await enqueue(here, "t")
    with pytest.raises(AgentNotFoundError):
        await claim(here, "nobody")
    with pytest.raises(PermissionDeniedError, match="'agents/a' was registered by 'ada', you are 'bob'"):
        await claim(here, speaker=BOB)
    assert [task.id for task in await claim(here, speaker=ROOT)] == ["t"]


async def test_an_agent_that_is_forgotten_while_it_waits_is_told(here: Replica, clock: ManualClock) -> None:
    waiting = asyncio.ensure_future(claim(here, wait=30))
    await until(lambda: clock.sleepers == 1)
    await here.agents.deregister(ADA, "a")
    with pytest.raises(AgentNotFoundError):
        await waiting


async def test_a_claim_is_a_sign_of_life(here: Replica, clock: ManualClock) -> None:
    await here.agents.heartbeat(ADA, "a", 0.5)
    await clock.advance(61)
    await here.agents.sweep()
    await enqueue(here, "t")
    assert await ids(here) == ["t"]
    agent = await here.agents.get(ADA.tenant, "a")
    assert (agent.online, agent.heard_at, agent.load) == (True, clock.now(), 0.5)


# Settling


async def test_a_result_is_kept_and_the_same_word_answers_the_same(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t")
    [given] = await claim(here)
    assert given.lease is not None
    assert (given.attempts, given.lease.until) == (1, clock.now() + MINUTE)
    done = await here.tasks.complete(ADA, "t", "a", 1, b"\x00result")
    assert (done.state, done.result, done.lease, done.ended_at) == (State.DONE, b"\x00result", None, clock.now())
    await clock.advance(5)
    assert await here.tasks.complete(ADA, "t", "a", 1, b"another") == done
    assert await here.tasks.get(ADA.tenant, "t") == done
    event = [event for event in await here.events() if event.type == "task.done"]
    assert [(each.subject, each.source, each.tenant, each.time) for each in event] == [
        ("tasks/t", "mnemocore/events", "acme", done.ended_at)
    ]
    assert json.loads(event[0].data) == {
        "name": "tasks/t",
        "type": "summarise",
        "principal": "ada",
        "agent": "agents/a",
        "attempts": 1,
        "retries": 0,
    }


async def test_only_who_has_it_settles_it(here: Replica) -> None:
    await enqueue(here, "t")
    await claim(here)
    for agent, attempt in (("b", 1), ("a", 2)):
        for call in (
            here.tasks.complete(ADA, "t", agent, attempt, b""),
            here.tasks.fail(ADA, "t", agent, attempt, Reason.TIMEOUT, ""),
            here.tasks.extend(ADA, "t", agent, attempt, MINUTE),
        ):
            with pytest.raises(LeaseLostError, match="'tasks/t' is not yours any more"):
                await call
    with pytest.raises(PermissionDeniedError):
        await here.tasks.complete(BOB, "t", "a", 1, b"")
    with pytest.raises(TaskNotFoundError):
        await here.tasks.complete(person("ada", "other"), "t", "a", 1, b"")
    assert (await here.tasks.complete(ROOT, "t", "a", 1, b"")).state is State.DONE
    with pytest.raises(PermissionDeniedError):
        await here.tasks.complete(BOB, "t", "a", 1, b"")


async def test_a_failure_is_tried_again_later_and_later_and_is_dead_in_the_end(
    here: Replica, clock: ManualClock
) -> None:
    await enqueue(here, "t", max_attempts=4)
    for attempt, seconds in ((1, 2), (2, 4), (3, 8)):
        [given] = await claim(here)
        failed = await here.tasks.fail(ADA, "t", "a", attempt, Reason.HANDLER_ERROR, f"no {attempt}")
        assert given.attempts == attempt
        assert (failed.state, failed.reason, failed.error) == (State.QUEUED, Reason.HANDLER_ERROR, f"no {attempt}")
        assert abs((failed.due_at - clock.now()).total_seconds() - seconds) <= 0.5
        assert await here.tasks.fail(ADA, "t", "a", attempt, Reason.HANDLER_ERROR, f"no {attempt}") == failed
        assert await ids(here) == []
        await here.agents.heartbeat(ADA, "a", 0)
        await clock.advance(seconds + 0.5)
    await claim(here)
    dead = await here.tasks.fail(ADA, "t", "a", 4, Reason.TIMEOUT, "slow")
    assert (dead.state, dead.reason, dead.error, dead.attempts) == (State.DEAD, Reason.TIMEOUT, "slow", 4)
    assert await here.tasks.fail(ADA, "t", "a", 4, Reason.TIMEOUT, "slow") == dead
    assert await endings(here) == [("task.dead", "tasks/t")]


@pytest.mark.parametrize("reason", [Reason.INVALID_EVENT, Reason.REJECTED, Reason.REFUSED_BY_TARGET])
async def test_what_no_other_attempt_helps_is_dead_at_once(here: Replica, reason: Reason) -> None:
    await enqueue(here, "t")
    await claim(here)
    dead = await here.tasks.fail(ADA, "t", "a", 1, reason, "no")
    assert (dead.state, dead.reason) == (State.DEAD, reason)
    [event] = [event for event in await here.events() if event.type == "task.dead"]
    assert json.loads(event.data)["reason"] == reason.name


async def test_a_late_word_does_not_count_for_another_attempt(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t")
    await claim(here, lease=timedelta(seconds=1))
    await clock.advance(1)
    [again] = await claim(here, "a")
    assert again.attempts == 2
    with pytest.raises(LeaseLostError):
        await here.tasks.complete(ADA, "t", "a", 1, b"late")
    assert (await here.tasks.complete(ADA, "t", "a", 2, b"")).state is State.DONE


async def test_extending_begins_the_lease_anew(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t")
    await claim(here)
    await clock.advance(50)
    extended = await here.tasks.extend(ADA, "t", "a", 1, MINUTE)
    assert extended.lease is not None
    assert extended.lease.until == clock.now() + MINUTE
    await here.agents.heartbeat(ADA, "a", 0)
    await clock.advance(50)
    await here.agents.heartbeat(ADA, "a", 0)
    await here.tasks.sweep()
    assert (await here.tasks.get(ADA.tenant, "t")).state is State.RUNNING
    await clock.advance(10)
    await here.tasks.sweep()
    assert (await here.tasks.get(ADA.tenant, "t")).state is State.QUEUED


async def test_leases_that_are_over_count_and_are_dead_in_the_end(
    here: Replica, there: Replica, clock: ManualClock
) -> None:
    await enqueue(here, "t", max_attempts=2)
    for _ in range(2):
        await claim(here)
        await clock.advance(60)
        await asyncio.gather(*(replica.tasks.sweep() for replica in [here, there] * 3))
    dead = await here.tasks.get(ADA.tenant, "t")
    assert (dead.state, dead.reason, dead.attempts) == (State.DEAD, Reason.LEASE_EXPIRED, 2)
    await asyncio.gather(*(replica.relay.publish_pending() for replica in [here, there] * 3))
    assert await endings(here) == [("task.dead", "tasks/t")]


async def test_an_agent_that_leaves_or_is_silent_loses_its_tasks_at_once(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t", "u")
    await enqueue(here, "last", max_attempts=1)
    assert len(await claim(here, "a", 3, lease=timedelta(hours=1))) == 3
    await clock.advance(61)
    await here.agents.heartbeat(ADA, "b", 0)
    await here.agents.sweep()
    assert [task.attempts for task in await claim(here, "b", 3, lease=timedelta(hours=1))] == [2, 2]
    await here.agents.deregister(ADA, "b")
    assert await ids(here, "a") == ["t", "u"]
    assert await endings(here) == [("task.dead", "tasks/last")]


async def test_a_late_heartbeat_does_not_save_the_tasks(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t")
    await claim(here, "a", lease=timedelta(hours=1))
    await clock.advance(61)
    await here.agents.heartbeat(ADA, "a", 0)
    with pytest.raises(LeaseLostError):
        await here.tasks.extend(ADA, "t", "a", 1, MINUTE)


# What else is done with tasks


async def test_cancelling(here: Replica) -> None:
    await enqueue(here, "waits", "runs")
    await claim(here)
    assert (await here.tasks.get(ADA.tenant, "waits")).state is State.RUNNING
    cancelled = [await here.tasks.cancel(BOB, id) for id in ("waits", "runs", "waits")]
    assert {task.state for task in cancelled} == {State.CANCELLED}
    with pytest.raises(LeaseLostError):
        await here.tasks.complete(ADA, "waits", "a", 1, b"")
    assert await ids(here) == []
    await enqueue(here, "done")
    await claim(here)
    await here.tasks.complete(ADA, "done", "a", 1, b"")
    with pytest.raises(TaskStateError, match="'tasks/done' is done; only one that waits or runs is cancelled"):
        await here.tasks.cancel(ADA, "done")
    assert await endings(here) == [("task.done", "tasks/done")]


async def test_a_retried_task_has_as_many_attempts_as_a_new_one(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "t", max_attempts=2)
    for _ in range(2):
        [given] = await claim(here)
        await here.tasks.fail(ADA, "t", "a", given.attempts, Reason.TIMEOUT, "")
        await clock.advance(2.5)
    for _ in range(2):
        again = await here.tasks.retry(ADA, "t")
        assert (again.state, again.retries, again.ended_at) == (State.QUEUED, 1, None)
    for _ in range(2):
        [given] = await claim(here)
        failed = await here.tasks.fail(ADA, "t", "a", given.attempts, Reason.TIMEOUT, "")
        await clock.advance(2.5)
    assert (failed.state, failed.attempts, failed.tries) == (State.DEAD, 4, 2)
    assert await endings(here) == [("task.dead", "tasks/t")] * 2
    await here.tasks.retry(ADA, "t")
    [given] = await claim(here)
    await here.tasks.complete(ADA, "t", "a", given.attempts, b"")
    with pytest.raises(TaskStateError, match="'tasks/t' is done; only a dead one is retried"):
        await here.tasks.retry(ADA, "t")


async def test_tenants_never_meet(here: Replica) -> None:
    other = person("ada", "other", "events:admin")
    await enqueue(here, "t")
    await here.agents.register(other, "a", able())
    assert await claim(here, speaker=other) == []
    for call in (here.tasks.get(other.tenant, "t"), here.tasks.cancel(other, "t"), here.tasks.retry(other, "t")):
        with pytest.raises(TaskNotFoundError):
            await call
    assert await here.tasks.list_tasks(other.tenant, None, 10, None, "") == []
    await here.tasks.cancel(ADA, "t")
    assert await here.tasks.purge(other, State.CANCELLED, None) == 0


async def test_purging_removes_what_ended_and_nothing_else(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "early", "late", "waits")
    await here.tasks.cancel(ADA, "early")
    await clock.advance(1)
    await here.tasks.cancel(ADA, "late")
    assert await here.tasks.purge(ROOT, State.CANCELLED, clock.now()) == 1
    assert await here.tasks.purge(ROOT, State.DONE, None) == 0
    assert await here.tasks.purge(ROOT, State.CANCELLED, None) == 1
    with pytest.raises(InvalidFieldError, match="state: is QUEUED; allowed is a state of tasks that have ended"):
        await here.tasks.purge(ROOT, State.QUEUED, None)
    assert await ids(here) == ["waits"]


async def test_the_sweep_removes_what_ended_seven_days_ago_but_no_dead_ones(here: Replica, clock: ManualClock) -> None:
    await enqueue(here, "done", "dead", "cancelled", "waits")
    await claim(here, limit=2)
    await here.tasks.complete(ADA, "done", "a", 1, b"")
    await here.tasks.fail(ADA, "dead", "a", 1, Reason.REJECTED, "")
    await here.tasks.cancel(ADA, "cancelled")
    await clock.advance(KEPT.total_seconds())
    await here.tasks.sweep()
    assert len(await here.tasks.list_tasks(ADA.tenant, None, 10, None, "")) == 4
    await clock.advance(1)
    await here.tasks.sweep()
    left = await here.tasks.list_tasks(ADA.tenant, None, 10, None, "")
    assert {task.id for task in left} == {"dead", "waits"}


# Crashes


class Stops(Exception):
    pass


class Dying:
    """Publishes and dies, or dies before."""

    def __init__(self, replica: Replica, *, appends: bool) -> None:
        self._replica = replica
        self._appends = appends

    async def publish(self, events: Sequence[Event]) -> list[int]:
        if self._appends:
            await self._replica.log.append(events, self._replica.clock.now())
        raise Stops


@pytest.mark.parametrize("appends", [False, True])
async def test_a_crash_before_or_after_the_append_loses_and_doubles_nothing(
    here: Replica, there: Replica, appends: bool
) -> None:
    await enqueue(here, "t")
    await here.relay.publish_pending()
    await claim(here)
    await here.tasks.complete(ADA, "t", "a", 1, b"")
    dying = OutboxRelay(here.outbox, Dying(here, appends=appends), here.clock)
    with pytest.raises(Stops):
        await dying.publish_pending()
    assert await endings(there) == [("task.done", "tasks/t")]
    assert await there.relay.publish_pending() == 0


async def test_a_crash_before_the_commit_leaves_neither_result_nor_event(here: Replica, database: Database) -> None:
    await enqueue(here, "t")
    await claim(here)
    await database.execute("ALTER TABLE events.outbox ADD CONSTRAINT broken CHECK (type <> 'task.done') NOT VALID")
    with pytest.raises(Exception, match="broken"):
        await here.tasks.complete(ADA, "t", "a", 1, b"")
    assert (await here.tasks.get(ADA.tenant, "t")).state is State.RUNNING
    await database.execute("ALTER TABLE events.outbox DROP CONSTRAINT broken")
    await here.tasks.complete(ADA, "t", "a", 1, b"")
    assert await endings(here) == [("task.done", "tasks/t")]


# On the wire


async def test_the_wire_brings_all_of_a_task(here: Replica, clock: ManualClock) -> None:
    stub = here.tasks_stub()
    await here.agents.register(ADA, "a", able("read", "write"))
    order = resources_pb2.Task(
        type="summarise.text",
        payload=bytes(range(256)),
        content_type="text/plain",
        capabilities=["write", "read"],
        priority=7,
        not_before=to_timestamp(clock.now()),
    )
    queued = (await stub.EnqueueTask(pb.EnqueueTaskRequest(task_id="t", task=order), timeout=SECONDS)).task
    assert (queued.name, queued.state, queued.max_attempts) == ("tasks/t", resources_pb2.TASK_STATE_QUEUED, 5)
    assert (queued.payload, queued.principal, list(queued.capabilities)) == (order.payload, "ada", ["read", "write"])
    answer = await stub.ClaimTasks(
        pb.ClaimTasksRequest(agent="agents/a", lease=Duration(seconds=5), wait=Duration(seconds=1)), timeout=SECONDS
    )
    [given] = answer.tasks
    assert (given.agent, given.attempts) == ("agents/a", 1)
    assert given.lease_until == to_timestamp(clock.now() + timedelta(seconds=5))
    held: dict[str, Any] = {"name": "tasks/t", "agent": "agents/a", "attempt": 1}
    extended = await stub.ExtendTask(pb.ExtendTaskRequest(**held), timeout=SECONDS)
    assert extended.task.lease_until == to_timestamp(clock.now() + MINUTE)
    failed = pb.FailTaskRequest(**held, reason=resources_pb2.FAILURE_REASON_REJECTED, message="no")
    dead = (await stub.FailTask(failed, timeout=SECONDS)).task
    assert (dead.state, dead.reason, dead.error) == (
        resources_pb2.TASK_STATE_DEAD,
        resources_pb2.FAILURE_REASON_REJECTED,
        "no",
    )
    assert (await stub.RetryTask(pb.RetryTaskRequest(name="tasks/t"), timeout=SECONDS)).task.retries == 1
    await stub.ClaimTasks(pb.ClaimTasksRequest(agent="agents/a"), timeout=SECONDS)
    held["attempt"] = 2
    done = (await stub.CompleteTask(pb.CompleteTaskRequest(**held, result=b"r"), timeout=SECONDS)).task
    assert (await stub.GetTask(pb.GetTaskRequest(name="tasks/t"), timeout=SECONDS)).task == done
    assert done.result == b"r"
    [listed] = (await stub.ListTasks(pb.ListTasksRequest(), timeout=SECONDS)).tasks
    assert (listed.name, listed.payload, listed.result) == ("tasks/t", b"", b"")
    purge = pb.PurgeTasksRequest(state=resources_pb2.TASK_STATE_DONE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PurgeTasks(purge, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    purged = await here.tasks_stub("root", scopes="events:admin").PurgeTasks(purge, timeout=SECONDS)
    assert (purged.purged, purged.more) == (1, False)


async def test_pages_of_tasks_newest_first(here: Replica, clock: ManualClock) -> None:
    stub = here.tasks_stub()
    for n in range(7):
        await enqueue(here, f"t{n}", type="even" if n % 2 == 0 else "odd")
        await clock.advance(n % 3)
    await here.tasks.cancel(ADA, "t4")

    async def listed(**where: Any) -> list[str]:
        names, token = [], ""
        while True:
            page = await stub.ListTasks(pb.ListTasksRequest(page_size=2, page_token=token, **where), timeout=SECONDS)
            names += [task.name.removeprefix("tasks/") for task in page.tasks]
            token = page.next_page_token
            if not token:
                return names

    assert await listed() == ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]
    assert await listed(type="even") == ["t6", "t4", "t2", "t0"]
    assert await listed(type="even", state=resources_pb2.TASK_STATE_QUEUED) == ["t6", "t2", "t0"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lease": Duration(nanos=999_999_999)}, "lease"),
        ({"lease": Duration(seconds=3601)}, "lease"),
        ({"lease": Duration(seconds=-1)}, "lease"),
        ({"wait": Duration(seconds=31)}, "wait"),
        ({"wait": Duration(seconds=-1)}, "wait"),
        ({"wait": Duration(seconds=2**62)}, "wait"),
        ({"agent": "a"}, "agent"),
        ({"limit": 101}, "limit"),
        ({"request_id": "x"}, "request_id"),
    ],
)
async def test_what_a_claim_refuses(here: Replica, changes: dict[str, Any], field: str) -> None:
    request = pb.ClaimTasksRequest(**({"agent": "agents/a"} | changes))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await here.tasks_stub().ClaimTasks(request, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "No"}, "task.type"),
        ({"priority": 10}, "task.priority"),
        ({"max_attempts": 101}, "task.max_attempts"),
        ({"payload": bytes(1_048_577)}, "task.payload"),
        ({"content_type": "a\x00"}, "task.content_type"),
        ({"capabilities": ["a", ""]}, "task.capabilities[1]"),
    ],
)
async def test_what_enqueuing_refuses(here: Replica, changes: dict[str, Any], field: str) -> None:
    task = resources_pb2.Task(**({"type": "work"} | changes))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await here.tasks_stub().EnqueueTask(pb.EnqueueTaskRequest(task_id="t", task=task), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_a_text_no_store_holds_is_refused_in_a_failure(here: Replica) -> None:
    request = pb.FailTaskRequest(name="tasks/t", agent="agents/a", attempt=1, message="\x00")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await here.tasks_stub().FailTask(request, timeout=SECONDS)
    assert "message: contains the character U+0000" in (caught.value.details() or "")


# The whole service


@asynccontextmanager
async def running(database: Database) -> AsyncIterator[tuple[EventsApp, Host]]:
    """One event-bus; only news of others wakes it within a minute."""
    app = EventsApp(database, SystemClock(), poll_seconds=60)
    host = Host("events", app.services, authenticator=InternalAuthenticator(TOKEN), readiness=app.ready)
    await app.start()
    try:
        yield app, host
    finally:
        app.drain()
        await host.drain(5)
        await app.stop()


async def test_another_replica_wakes_a_claim_and_the_end_is_in_the_log(database: Database) -> None:
    async with running(database) as (_, first), running(database) as (app, second):
        here, there = (
            TaskServiceStub(host.channel(headers("ada", "acme", "events:read,events:write")))
            for host in (first, second)
        )
        agents: Any = AgentServiceStub(second.channel(headers("ada", "acme", "events:read,events:write")))
        await agents.RegisterAgent(RegisterAgentRequest(agent_id="a", agent=resources_pb2.Agent()), timeout=SECONDS)
        request = pb.ClaimTasksRequest(agent="agents/a", wait=Duration(seconds=30))
        waiting = asyncio.ensure_future(there.ClaimTasks(request, timeout=40))
        await until(lambda: app.waiting_claims == 1)
        task = resources_pb2.Task(type="work")
        await here.EnqueueTask(pb.EnqueueTaskRequest(task_id="t", task=task), timeout=SECONDS)
        [given] = (await asyncio.wait_for(waiting, SECONDS)).tasks
        held = pb.CompleteTaskRequest(name=given.name, agent=given.agent, attempt=given.attempts)
        await there.CompleteTask(held, timeout=SECONDS)
        log = PostgresLog(database)

        async def told() -> bool:
            page = await log.read(0, Filter(), 100)
            return [stored.event.type for stored in page.events] == ["agent.registered", "task.done"]

        await until(told)


async def test_a_claim_that_waits_does_not_hold_up_the_end_of_the_service(database: Database) -> None:
    async with running(database) as (app, host):
        agents: Any = AgentServiceStub(host.channel(headers("ada", "acme", "events:write")))
        tasks: Any = TaskServiceStub(host.channel(headers("ada", "acme", "events:write")))
        await agents.RegisterAgent(RegisterAgentRequest(agent_id="a", agent=resources_pb2.Agent()), timeout=SECONDS)
        request = pb.ClaimTasksRequest(agent="agents/a", wait=Duration(seconds=30))
        waiting = asyncio.ensure_future(tasks.ClaimTasks(request, timeout=40))
        await until(lambda: app.waiting_claims == 1)
        app.drain()
        assert list((await asyncio.wait_for(waiting, SECONDS)).tasks) == []
