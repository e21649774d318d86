"""Whatever is done with tasks, in whatever order: the store says what a model in memory says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.event_work import Replica, migrated, person

from mnemo_events.domain.agent import SILENCE, Description
from mnemo_events.domain.agents import LATELY
from mnemo_events.domain.group import Reason
from mnemo_events.domain.task import STEP, Order, State, Task
from mnemocore.errors import LeaseLostError, TaskStateError
from mnemocore.ids import Tenant
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres

ADA: Final = person("ada")
AGENTS: Final = {"a": ("read",), "b": ("read", "write"), "c": ()}
NEEDS: Final[tuple[tuple[str, ...], ...]] = ((), ("read",), ("write",), ("read", "write"), ("fly",))
REASONS: Final = (Reason.UNSPECIFIED, Reason.HANDLER_ERROR, Reason.TIMEOUT, Reason.REJECTED)
DELAYS: Final = {1: 2, 2: 4, 3: 8}
"""Seconds after the attempts, give or take half a second."""
WEIGHTS: Final = {
    "enqueue": 4,
    "claim": 8,
    "complete": 3,
    "fail": 5,
    "extend": 2,
    "cancel": 1,
    "retry": 2,
    "heartbeat": 4,
    "leave_and_return": 1,
    "pass_time": 8,
    "sweep": 3,
    "purge": 1,
}
STEPS: Final = 200


@dataclass
class Known:
    """What a task should be."""

    id: str
    arrival: int
    capabilities: tuple[str, ...]
    rank: datetime
    max_attempts: int
    earliest: datetime
    """When it is certainly not due before."""
    latest: datetime
    """When it is certainly due."""
    state: State = State.QUEUED
    agent: str = ""
    until: datetime | None = None
    attempts: int = 0
    before: int = 0
    retries: int = 0
    reason: Reason = Reason.UNSPECIFIED
    ended_at: datetime | None = None

    @property
    def tries(self) -> int:
        return self.attempts - self.before

    def end(self, state: State, now: datetime) -> None:
        self.state, self.agent, self.until, self.ended_at = state, "", None, now

    def wait(self, earliest: datetime, latest: datetime) -> None:
        self.state, self.agent, self.until = State.QUEUED, "", None
        self.earliest, self.latest = earliest, latest


@dataclass
class Model:
    """What the queue should hold, who is there, and what should have been told."""

    tasks: dict[str, Known] = field(default_factory=dict)
    heard: dict[str, datetime] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)

    def die(self, task: Known, reason: Reason, now: datetime) -> None:
        task.reason = reason
        task.end(State.DEAD, now)
        self.told.append(("task.dead", task.id))

    def lose(self, task: Known, now: datetime) -> None:
        """The lease is over, or the agent gone."""
        if task.tries >= task.max_attempts:
            self.die(task, Reason.LEASE_EXPIRED, now)
        else:
            task.reason = Reason.LEASE_EXPIRED
            task.wait(now, now)

    def expire(self, now: datetime) -> None:
        for task in self.tasks.values():
            if task.until is not None and task.until <= now:
                self.lose(task, now)

    def lose_all(self, agent: str, now: datetime) -> None:
        for task in self.tasks.values():
            if task.agent == agent:
                self.lose(task, now)

    def hear(self, agent: str, now: datetime) -> None:
        if now - self.heard[agent] > SILENCE:
            self.lose_all(agent, now)
        self.heard[agent] = now


class Run:
    """One tenant's queue at two replicas, and the model of it."""

    def __init__(self, database: Database, seed: int) -> None:
        self.chance = Random(seed)
        self.clock = ManualClock()
        self.replicas = [Replica(database, self.clock) for _ in range(2)]
        self.model = Model()
        self.enqueued = 0

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @property
    def replica(self) -> Replica:
        return self.chance.choice(self.replicas)

    def one(self, state: State | None = None) -> Known | None:
        """One of the tasks, mostly one in a state; None if there is none."""
        known = list(self.model.tasks.values())
        if self.chance.random() < 0.9:
            known = [task for task in known if task.state is state] or known
        return self.chance.choice(known) if known else None

    async def go(self) -> None:
        """Do things, and compare after each."""
        for agent in AGENTS:
            await self.register(agent)
        actions, weights = list(WEIGHTS), list(WEIGHTS.values())
        for _ in range(STEPS):
            await getattr(self, self.chance.choices(actions, weights)[0])()
            await self.compare()

    async def compare(self) -> None:
        tasks = await self.replica.tasks.list_tasks(Tenant("acme"), None, 1000, None, "")
        newest_first = sorted(self.model.tasks.values(), key=lambda task: -task.arrival)
        assert [seen(task) for task in tasks] == [wanted(task) for task in newest_first]
        events = await self.replica.events()
        told = [(event.type, event.subject.removeprefix("tasks/")) for event in events if "task." in event.type]
        assert sorted(told) == sorted(self.model.told)

    async def register(self, agent: str) -> None:
        await self.replica.agents.register(ADA, agent, Description(AGENTS[agent], "", {}))
        self.model.heard[agent] = self.now

    async def enqueue(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            self.enqueued += 1
            name, needs = f"t{self.enqueued}", self.chance.choice(NEEDS)
            priority, attempts = self.chance.randrange(10), self.chance.randrange(1, 4)
            later = self.chance.choice([None, None, -5, 5, 40])
            not_before = None if later is None else self.now + timedelta(seconds=later)
            order = Order("work", b"payload", "", needs, priority, attempts, not_before)
            first = await self.replica.tasks.enqueue(ADA, name, order)
            assert await self.replica.tasks.enqueue(ADA, name, order) == first
            due = max(self.now, not_before or self.now)
            known = Known(name, first.number, needs, self.now - priority * STEP, attempts, due, due)
            self.model.tasks[name] = known

    async def claim(self) -> None:
        agent, limit = self.chance.choice(sorted(AGENTS)), self.chance.randrange(1, 5)
        lease = timedelta(seconds=self.chance.randrange(1, 90))
        given = await self.replica.tasks.claim(ADA, agent, limit, lease, 0, None)
        if self.now - self.model.heard[agent] > LATELY:
            self.model.hear(agent, self.now)
        self.model.expire(self.now)
        chosen = [self.model.tasks[task.id] for task in given]
        self.check_choice(agent, limit, chosen)
        for task in chosen:
            task.state, task.agent, task.attempts, task.until = (
                State.RUNNING,
                agent,
                task.attempts + 1,
                self.now + lease,
            )

    def check_choice(self, agent: str, limit: int, chosen: list[Known]) -> None:
        """The first of those that the agent can do and that are due, and as many as it may have."""
        able = [
            task
            for task in self.model.tasks.values()
            if task.state is State.QUEUED and set(task.capabilities) <= set(AGENTS[agent]) and task.earliest <= self.now
        ]
        order = [(task.rank, task.arrival) for task in chosen]
        left = [(task.rank, task.arrival) for task in able if task.latest <= self.now and task not in chosen]
        assert order == sorted(order)
        assert all(task in able for task in chosen)
        assert len(chosen) == limit if left else len(chosen) <= limit
        assert not left or min(left) > order[-1]

    async def complete(self) -> None:
        task, tasks = self.one(State.RUNNING), self.replica.tasks
        if task and await self.settle(task, lambda agent, n: tasks.complete(ADA, task.id, agent, n, b"r")):
            task.reason = Reason.UNSPECIFIED
            task.end(State.DONE, self.now)
            self.model.told.append(("task.done", task.id))

    async def fail(self) -> None:
        task, tasks, reason = self.one(State.RUNNING), self.replica.tasks, self.chance.choice(REASONS)
        if task is None or not await self.settle(
            task, lambda agent, n: tasks.fail(ADA, task.id, agent, n, reason, "why")
        ):
            return
        if reason.permanent or task.tries >= task.max_attempts:
            self.model.die(task, reason, self.now)
        else:
            task.reason = reason
            after = self.now + timedelta(seconds=DELAYS[task.tries])
            task.wait(after - timedelta(seconds=0.5), after + timedelta(seconds=0.5))

    async def extend(self) -> None:
        task, tasks = self.one(State.RUNNING), self.replica.tasks
        lease = timedelta(seconds=self.chance.randrange(1, 90))
        if task and await self.settle(task, lambda agent, n: tasks.extend(ADA, task.id, agent, n, lease)):
            task.until = self.now + lease

    async def settle(self, task: Known, word: Callable[[str, int], Awaitable[Task]]) -> bool:
        """Say it twice, as who has the task, as another, or of a later attempt; whether it counted, as it should."""
        agent, number = task.agent or "a", task.attempts
        who = self.chance.choice(["holder"] * 4 + ["another", "too soon"])
        if who == "another":
            agent = "another"
        elif who == "too soon" or task.state is not State.RUNNING:
            number += 1
        counts = task.state is State.RUNNING and who == "holder"
        try:
            said = await word(agent, number)
        except LeaseLostError:
            assert not counts
            return False
        assert counts
        assert await word(agent, number) == said
        return True

    async def cancel(self) -> None:
        if task := self.one():
            try:
                await self.replica.tasks.cancel(ADA, task.id)
            except TaskStateError:
                assert task.state in (State.DONE, State.DEAD)
                return
            assert task.state not in (State.DONE, State.DEAD)
            if task.state is not State.CANCELLED:
                task.end(State.CANCELLED, self.now)

    async def retry(self) -> None:
        if task := self.one(State.DEAD):
            try:
                await self.replica.tasks.retry(ADA, task.id)
            except TaskStateError:
                assert task.state in (State.DONE, State.CANCELLED)
                return
            if task.state is State.DEAD:
                task.retries, task.before, task.ended_at = task.retries + 1, task.attempts, None
                task.wait(self.now, self.now)

    async def heartbeat(self) -> None:
        agent = self.chance.choice(sorted(AGENTS))
        await self.replica.agents.heartbeat(ADA, agent, 0.5)
        self.model.hear(agent, self.now)

    async def leave_and_return(self) -> None:
        agent = self.chance.choice(sorted(AGENTS))
        await self.replica.agents.deregister(ADA, agent)
        self.model.lose_all(agent, self.now)
        await self.register(agent)

    async def pass_time(self) -> None:
        await self.clock.advance(self.chance.choice([0.3, 1, 2.5, 2.5, 10, 30, 61]))

    async def sweep(self) -> None:
        await asyncio.gather(*(replica.tasks.sweep() for replica in self.replicas))
        await asyncio.gather(*(replica.agents.sweep() for replica in self.replicas))
        self.model.expire(self.now)
        for agent, heard in self.model.heard.items():
            if self.now - heard > SILENCE:
                self.model.lose_all(agent, self.now)

    async def purge(self) -> None:
        state = self.chance.choice([State.DONE, State.DEAD, State.CANCELLED])
        gone = [task.id for task in self.model.tasks.values() if task.state is state]
        assert await self.replica.tasks.purge(ADA, state, None) == len(gone)
        for id in gone:
            del self.model.tasks[id]


def seen(task: Task) -> tuple[Any, ...]:
    agent, until = (task.lease.agent, task.lease.until) if task.lease else ("", None)
    return (task.id, task.state, agent, until, task.attempts, task.retries, task.reason, task.ended_at)


def wanted(task: Known) -> tuple[Any, ...]:
    return (task.id, task.state, task.agent, task.until, task.attempts, task.retries, task.reason, task.ended_at)


@pytest.mark.parametrize("seed", range(6))
async def test_a_queue_is_what_was_done_to_it(postgres: TestPostgres, seed: int) -> None:
    url = await postgres.create(migrated)
    database = await postgres.open(url)
    await Run(database, seed).go()
    await database.close()
    await postgres.drop(url)


@given(
    late=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3000)), max_size=50),
    priority=st.integers(0, 9),
)
def test_nothing_waits_for_ever(late: list[tuple[int, int]], priority: int) -> None:
    """What comes more than nine minutes after a task, however urgent, is not given before it."""
    start = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    order = Order("work", b"", "", (), priority, 5, None)
    task = Task(Tenant("acme"), "t", "", order, "ada", start, start)
    for other, seconds in late:
        came = start + timedelta(seconds=seconds)
        rival = replace(task, order=replace(order, priority=other), created_at=came)
        if seconds > (9 - priority) * STEP.total_seconds():
            assert task.rank < rival.rank
        if other <= priority:
            assert task.rank < rival.rank
