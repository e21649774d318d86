"""The work queue: who asks for work, who takes it, and what becomes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.limits import Limit
from mnemo_events.domain.news import wait
from mnemo_events.domain.task import KEPT, MAX_QUEUED, Lease, State, Task
from mnemocore.errors import AgentNotFoundError, InvalidFieldError, TaskExistsError, TaskNotFoundError, Violation
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime, timedelta

    from mnemo_events.domain.agent import Agent
    from mnemo_events.domain.agents import Agents
    from mnemo_events.domain.group import Reason
    from mnemo_events.domain.news import News
    from mnemo_events.domain.retry_schedule import RetrySchedule
    from mnemo_events.domain.task import Order
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

MAX_WAITING: Final = 128
"""Claims that wait in one replica; others are answered at once, so that waiting never keeps other calls out."""
SWEEP_SECONDS: Final = 1.0
"""How often leases are looked at."""
BATCH: Final = 500
"""Tasks of one transaction of a sweep."""
PURGED_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim gave, most urgent first.

    `next_due` is when a task that waits is due, None if none is to be; `told`: there is something to publish.
    """

    tasks: tuple[Task, ...]
    next_due: datetime | None = None
    told: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list goes on: behind the task that was made then and has that number."""

    created_at: datetime
    number: int


class TaskStore(Protocol):
    """The tasks of all tenants. Every write is one transaction; that a task is done or dead is told in the same one."""

    async def enqueue(self, task: Task, limit: int | None) -> Task:
        """Put a task into the queue; the one of that name that is there stays. The one that is there then.

        With `limit` the tasks of the tenant that wait are counted: raises QuotaExceededError if there are so many.
        """
        ...

    async def claim(self, agent: Agent, limit: int, lease: Lease, now: datetime) -> Claim | None:
        """Give up to `limit` tasks to an agent, as `Task.given` says, by rank; None if that very agent is gone.

        None after that with which 4 MiB of payload are reached. Only those that are due, and whose capabilities it
        has; none if it was told to be offline. With a request id: what the agent was given for it and has still, if
        there is such a task. Tasks of the tenant whose lease is over are taken back before. Two claims at a time never
        give the same task.
        """
        ...

    async def change(self, tenant: Tenant, task_id: str, become: Callable[[Task], Task], limit: int | None) -> Task:
        """Let a task become what `become` says; nothing happens if that is the same. Raises what `become` raises.

        Raises TaskNotFoundError. `limit` as in `enqueue`, for one that is put into the queue.
        """
        ...

    async def find(self, tenant: Tenant, task_id: str) -> Task | None:
        """The task of that name."""
        ...

    async def list_tasks(
        self, tenant: Tenant, behind: Place | None, limit: int, state: State | None, type: str
    ) -> list[Task]:
        """Up to `limit` tasks, newest first, without payloads and results."""
        ...

    async def purge(self, tenant: Tenant, state: State, before: datetime | None, limit: int) -> int:
        """Remove up to `limit` tasks that ended so, before that time; how many it removed."""
        ...

    async def take_expired(self, now: datetime, limit: int) -> tuple[int, Collection[Tenant]]:
        """Take up to `limit` tasks back whose lease is over, as `Task.lost` says; how many, and of which tenants."""
        ...

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Remove up to `limit` tasks that were done or cancelled before that time; how many it removed."""
        ...

    async def count_queued(self, tenant: Tenant, most: int) -> int:
        """How many tasks of a tenant wait, counting up to `most`."""
        ...


class Tasks:
    """What can be done with tasks. `told` is called when there is something to publish."""

    def __init__(
        self,
        store: TaskStore,
        agents: Agents,
        news: News,
        clock: Clock,
        schedule: RetrySchedule,
        told: Callable[[], None],
        poll_seconds: float,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._store = store
        self._agents = agents
        self._news = news
        self._clock = clock
        self._schedule = schedule
        self._told = told
        self._poll_seconds = poll_seconds
        self._max_waiting = max_waiting
        self._limit = Limit(MAX_QUEUED, store.count_queued, clock)
        self._waiting = 0
        self._draining = False

    @property
    def waiting(self) -> int:
        """How many claims wait for tasks, at most `max_waiting`."""
        return self._waiting

    async def enqueue(self, caller: Identity, task_id: str, order: Order) -> Task:
        """Put a task into the queue; an equal one that is there stays. Raises TaskExistsError, QuotaExceededError."""
        limit = await self._limit.near(caller.tenant)
        now = self._clock.now()
        due_at = max(now, order.not_before or now)
        task = Task(caller.tenant, task_id, new_uuid(now), order, caller.principal, now, due_at)
        stored = await self._store.enqueue(task, limit)
        if stored.order != order:
            raise TaskExistsError(task=stored.name)
        if stored.uid == task.uid:
            self._news.tell(caller.tenant)
        return stored

    async def claim(
        self,
        speaker: Identity,
        agent_id: str,
        limit: int,
        lease: timedelta,
        wait_seconds: float,
        request_id: str | None,
    ) -> tuple[Task, ...]:
        """Up to `limit` tasks for an agent, as soon as there are some, within `wait_seconds`; the agent is heard.

        Empty if there were none, if too many wait already, or when the service drains. Raises AgentNotFoundError,
        PermissionDeniedError.
        """
        agent = await self._agents.present(speaker, agent_id)
        ends_at = self._clock.monotonic() + wait_seconds
        waiter = asyncio.Event()
        with self._news.watch(speaker.tenant, waiter):
            while True:
                waiter.clear()
                now = self._clock.now()
                claim = await self._store.claim(
                    agent, limit, Lease(agent_id, agent.principal, now + lease, request_id), now
                )
                if claim is None:
                    raise AgentNotFoundError(agent=agent.name)
                if claim.told:
                    self._told()
                left = ends_at - self._clock.monotonic()
                if claim.tasks or left <= 0 or self._draining or self._waiting >= self._max_waiting:
                    return claim.tasks
                due = (claim.next_due - now).total_seconds() if claim.next_due else left
                await self._wait(waiter, min(left, due, self._poll_seconds))

    async def complete(self, speaker: Identity, task_id: str, agent: str, attempt: int, result: bytes) -> Task:
        """Take a result. Raises TaskNotFoundError, LeaseLostError, PermissionDeniedError."""
        now = self._clock.now()
        return await self._change(speaker, task_id, lambda task: task.completed(agent, attempt, speaker, result, now))

    async def fail(self, speaker: Identity, task_id: str, agent: str, attempt: int, reason: Reason, error: str) -> Task:
        """Take the word that an attempt failed. Raises TaskNotFoundError, LeaseLostError, PermissionDeniedError."""
        now = self._clock.now()
        return await self._change(
            speaker, task_id, lambda task: task.failed(agent, attempt, speaker, reason, error, now, self._schedule)
        )

    async def extend(self, speaker: Identity, task_id: str, agent: str, attempt: int, lease: timedelta) -> Task:
        """Let a lease begin anew. Raises TaskNotFoundError, LeaseLostError, PermissionDeniedError."""
        until = self._clock.now() + lease
        return await self._change(speaker, task_id, lambda task: task.extended(agent, attempt, speaker, until))

    async def get(self, tenant: Tenant, task_id: str) -> Task:
        """Read a task. Raises TaskNotFoundError."""
        task = await self._store.find(tenant, task_id)
        if task is None:
            raise TaskNotFoundError(task=f"tasks/{task_id}")
        return task

    async def list_tasks(
        self, tenant: Tenant, behind: Place | None, limit: int, state: State | None, type: str
    ) -> list[Task]:
        """Tasks, newest first, without payloads and results."""
        return await self._store.list_tasks(tenant, behind, limit, state, type)

    async def cancel(self, caller: Identity, task_id: str) -> Task:
        """See to it that a task is not given again. Raises TaskNotFoundError, TaskStateError."""
        now = self._clock.now()
        return await self._change(caller, task_id, lambda task: task.cancelled(now))

    async def retry(self, caller: Identity, task_id: str) -> Task:
        """Put a dead task into the queue. Raises TaskNotFoundError, TaskStateError, QuotaExceededError."""
        now, limit = self._clock.now(), await self._limit.near(caller.tenant)
        return await self._change(caller, task_id, lambda task: task.retried(now), limit)

    async def purge(self, caller: Identity, state: State, before: datetime | None) -> int:
        """Remove tasks that ended; how many, PURGED_AT_ONCE at most. Raises InvalidFieldError for another state."""
        if not state.ended:
            text = f"is {state.name}; allowed is a state of tasks that have ended: DONE, DEAD or CANCELLED"
            raise InvalidFieldError.of([Violation("state", text)])
        return await self._store.purge(caller.tenant, state, before, PURGED_AT_ONCE)

    async def sweep(self) -> None:
        """Take back tasks whose lease is over, and remove those that ended long ago."""
        now, taken = self._clock.now(), BATCH
        while taken == BATCH:
            taken, tenants = await self._store.take_expired(now, BATCH)
            for tenant in tenants:
                self._news.tell(tenant)
            if taken:
                self._told()
        await self._store.remove_ended(now - KEPT, BATCH)

    async def run_sweeps(self) -> None:
        """Sweep until cancelled. Ends with an error of the store; nothing is lost by starting again."""
        while True:
            await self.sweep()
            await self._clock.sleep(SWEEP_SECONDS)

    def drain(self) -> None:
        """Answer the claims that wait: their agents go to another replica."""
        self._draining = True
        self._news.tell_all()

    async def _wait(self, waiter: asyncio.Event, seconds: float) -> None:
        self._waiting += 1
        try:
            await wait(waiter, max(0.0, seconds), self._clock)
        finally:
            self._waiting -= 1

    async def _change(
        self, caller: Identity, task_id: str, become: Callable[[Task], Task], limit: int | None = None
    ) -> Task:
        task = await self._store.change(caller.tenant, task_id, become, limit)
        if task.state is State.QUEUED:
            self._news.tell(caller.tenant)
        elif task.state.ended:
            self._told()
        return task
