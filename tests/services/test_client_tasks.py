"""Agents, tasks, schemas and webhooks with the client, against a real event-bus."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.event_house import EventHouse, event_house

from mnemocore.client import AgentState, EventInput, Reject, Retry, TaskState
from mnemocore.client.agents import Agents
from mnemocore.errors import (
    AgentNotFoundError,
    InvalidFieldError,
    LeaseLostError,
    SchemaIncompatibleError,
    SchemaNotFoundError,
    TaskExistsError,
    TaskNotFoundError,
    TaskStateError,
)
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mnemocore.client import AgentChanges, Task
    from mnemocore.client.tasks import Tasks
    from mnemocore.postgres import Database


@pytest.fixture
async def house(database: Database) -> AsyncIterator[EventHouse]:
    async with event_house(database) as running:
        yield running


@pytest.fixture
def agents(house: EventHouse) -> Agents:
    return house.agents


@pytest.fixture
def tasks(house: EventHouse) -> Tasks:
    return house.tasks


@asynccontextmanager
async def working(
    tasks: Tasks, handler: Callable[[Task], Any], agent: str = "a", **options: Any
) -> AsyncIterator[asyncio.Task[Any]]:
    """An agent that works inside the block; it must not have failed by its end."""
    running: asyncio.Task[Any] = asyncio.create_task(tasks.work(agent, handler, **options))
    try:
        yield running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until_state(tasks: Tasks, id: str, state: TaskState) -> Task:
    async def stands() -> bool:
        return (await tasks.get(id)).state is state

    await until(stands)
    return await tasks.get(id)


async def test_an_agent(agents: Agents) -> None:
    made = await agents.register("a", ["search.web"], description="looks", metadata={"model": "m", "n": 2})
    assert (made.id, made.capabilities, made.metadata, made.state) == (
        "a",
        ("search.web",),
        {"model": "m", "n": 2},
        AgentState.ONLINE,
    )
    assert (await agents.heartbeat("a", 0.5)).load == 0.5
    assert (await agents.get("a")).load == 0.5
    await agents.register("b", ["search.web", "summarise"])
    assert [agent.id async for agent in agents.list(page_size=1)] == ["a", "b"]
    assert [agent.id async for agent in agents.list(capabilities=["summarise"], state="online")] == ["b"]
    assert [agent.id async for agent in agents.list(state=AgentState.OFFLINE)] == []
    assert await agents.deregister("b")
    assert not await agents.deregister("b")
    with pytest.raises(AgentNotFoundError):
        await agents.heartbeat("b")
    with pytest.raises(InvalidFieldError):
        await agents.heartbeat("a", 2.0)


async def test_being_there(house: EventHouse) -> None:
    clock = ManualClock()
    agents = Agents(house.services(clock=clock))
    async with agents.agent("a", ["summarise"]) as present:
        present.load = 0.75
        assert (await house.agents.get("a")).load == 0
        await until(lambda: clock.sleepers == 1)
        await clock.advance(10)

        async def heard() -> bool:
            return (await house.agents.get("a")).load == 0.75

        await until(heard)
        await house.agents.deregister("a")  # somebody else does
        await until(lambda: clock.sleepers == 1)
        await clock.advance(10)

        async def there() -> bool:
            return [agent.id async for agent in house.agents.list()] == ["a"]

        await until(there)
    with pytest.raises(AgentNotFoundError):
        await house.agents.get("a")
    async with agents.agent("b", deregister=False):
        pass
    assert (await house.agents.get("b")).id == "b"


async def test_watching_agents(house: EventHouse, agents: Agents) -> None:
    other = house.agents
    await other.register("a")
    await other.register("b")
    seen: list[AgentChanges] = []
    note = seen.append

    async def watch() -> None:
        async with aclosing(agents.watch()) as changes:
            async for change in changes:
                note(change)

    watching = asyncio.create_task(watch())
    await until(lambda: any(change.complete for change in seen))
    assert {agent.id for change in seen for agent in change.agents} == {"a", "b"}
    await other.register("c", ["summarise"])
    await until(lambda: any(agent.id == "c" for change in seen for agent in change.agents))
    await other.deregister("a")
    await until(lambda: any("a" in change.gone for change in seen))
    await house.wire.down()
    away = asyncio.create_task(house.agents.deregister("b"))
    house.wire.up()
    await away
    await until(lambda: any("b" in change.gone for change in seen))
    assert sum(change.complete for change in seen) == 1
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def test_a_task_by_hand(agents: Agents, tasks: Tasks) -> None:
    made = await tasks.enqueue("summarise", {"text": "long"}, id="t1", capabilities=["summarise"], priority=3)
    assert made == await tasks.enqueue("summarise", {"text": "long"}, id="t1", capabilities=["summarise"], priority=3)
    assert (made.state, made.json(), made.content_type) == (TaskState.QUEUED, {"text": "long"}, "application/json")
    with pytest.raises(TaskExistsError):
        await tasks.enqueue("translate", id="t1")
    with pytest.raises(AgentNotFoundError):
        await tasks.claim("nobody")
    await agents.register("a")
    await agents.register("b", ["summarise"])
    assert await tasks.claim("a") == []
    [claimed] = await tasks.claim("b", lease=timedelta(seconds=30), wait=timedelta(seconds=1))
    assert (claimed.id, claimed.agent, claimed.attempts, claimed.state) == ("t1", "b", 1, TaskState.RUNNING)
    assert (await tasks.extend(claimed, timedelta(seconds=90))).state is TaskState.RUNNING
    done = await tasks.complete(claimed, {"summary": "short"})
    assert (done.state, done.result) == (TaskState.DONE, b'{"summary":"short"}')
    assert (await tasks.get("t1")).result == b'{"summary":"short"}'
    with pytest.raises(LeaseLostError):
        await tasks.extend(claimed)
    with pytest.raises(TaskStateError):
        await tasks.cancel("t1")
    with pytest.raises(TaskNotFoundError):
        await tasks.get("t2")
    assert [task.id async for task in tasks.list(state="done", type="summarise")] == ["t1"]
    assert await tasks.purge("done", before=datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert await tasks.purge(TaskState.DONE) == 1
    assert [task async for task in tasks.list()] == []


async def test_work(tasks: Tasks, agents: Agents) -> None:
    running, most = 0, 0

    async def handle(task: Task) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"double": task.json() * 2}  # type: ignore[operator]

    ids = [(await tasks.enqueue("double", number, capabilities=["count"])).id for number in range(20)]
    async with working(tasks, handle, capabilities=["count"], concurrency=4):
        for number, id in enumerate(ids):
            done = await until_state(tasks, id, TaskState.DONE)
            assert done.result == f'{{"double":{number * 2}}}'.encode()
    assert 1 <= most <= 4
    assert [agent async for agent in agents.list()] == []


async def test_a_function_that_blocks_and_a_result_that_no_task_may_have(tasks: Tasks) -> None:
    def handle(task: Task) -> Any:
        return object() if task.json() else b"x" * (1024 * 1024 + 1)

    ids = [(await tasks.enqueue("odd", number, max_attempts=1)).id for number in range(2)]
    async with working(tasks, handle):
        errors = [(await until_state(tasks, id, TaskState.DEAD)).error for id in ids]
    assert errors[0].startswith("InvalidFieldError: result")
    assert errors[1].startswith("InvalidFieldError: result: is not JSON")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Reject("not mine"), TaskState.DEAD, "rejected"),
        (Retry("later"), TaskState.QUEUED, "handler_error"),
        (TimeoutError(), TaskState.QUEUED, "timeout"),
    ],
)
async def test_work_that_fails(tasks: Tasks, error: Exception, state: TaskState, reason: str) -> None:
    tried = asyncio.Event()

    async def handle(task: Task) -> None:
        tried.set()
        raise error

    made = await tasks.enqueue("odd")
    async with working(tasks, handle):
        await tried.wait()
        stood = await until_state(tasks, made.id, state)
    assert (stood.attempts, stood.reason) == (1, reason)
    if state is TaskState.DEAD:
        assert (await tasks.retry(made.id)).state is TaskState.QUEUED


async def test_leases_are_extended_and_a_task_that_is_cancelled_is_stopped(tasks: Tasks, agents: Agents) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()
    attempts = 0

    async def handle(task: Task) -> None:
        nonlocal attempts
        attempts += 1
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    made = await tasks.enqueue("endless")
    async with working(tasks, handle, lease=timedelta(seconds=1)):
        await begun.wait()
        first = (await tasks.get(made.id)).lease_until
        assert first is not None

        async def is_longer() -> bool:
            lease_until = (await tasks.get(made.id)).lease_until
            return lease_until is not None and lease_until > first + timedelta(seconds=1)

        await until(is_longer)  # it was extended when the first lease was over already
        await agents.register("b")
        assert await tasks.claim("b") == []
        await tasks.cancel(made.id)
        await asyncio.wait_for(stopped.wait(), 60)
    assert attempts == 1
    assert (await tasks.get(made.id)).state is TaskState.CANCELLED


async def test_what_an_agent_has_when_it_goes_is_given_to_another(tasks: Tasks) -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def never(task: Task) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def at_once(task: Task) -> str:
        done.set()
        return task.agent

    made = await tasks.enqueue("slow")
    async with working(tasks, never, agent="a"):
        await begun.wait()
    async with working(tasks, at_once, agent="b"):
        assert (await until_state(tasks, made.id, TaskState.DONE)).result == b"b"


async def test_work_goes_on_after_breaks(house: EventHouse, tasks: Tasks) -> None:
    done: list[Any] = []

    async def handle(task: Task) -> None:
        done.append(task.json())

    async with working(tasks, handle, concurrency=2) as worker:
        for number in range(5):
            made = await house.tasks.enqueue("step", number)
            await house.wire.cut()
            await until_state(house.tasks, made.id, TaskState.DONE)
            assert not worker.done()
    assert set(done) == set(range(5))


async def test_an_agent_that_was_forgotten_registers_again(house: EventHouse, tasks: Tasks) -> None:
    done = asyncio.Event()

    async def handle(task: Task) -> None:
        done.set()

    async with working(tasks, handle):

        async def there() -> bool:
            return [agent.id async for agent in house.agents.list()] == ["a"]

        await until(there)
        await house.agents.deregister("a")
        await house.tasks.enqueue("step")
        await asyncio.wait_for(done.wait(), 60)


async def test_schemas(house: EventHouse) -> None:
    events = house.events
    schemas = events.schemas
    definition: Any = {
        "type": "object",
        "properties": {"amount": {"type": "integer"}},
        "required": ["amount"],
    }
    first = await schemas.register("order.placed", definition, description="An order.", compatibility="backward")
    assert (first.version, first.name, first.platform) == (1, "schemas/order.placed/versions/1", False)
    assert await schemas.register("order.placed", definition) == first
    await events.publish("order.placed", {"amount": 3})
    with pytest.raises(InvalidFieldError, match="amount"):
        await events.publish("order.placed", {"amount": "three"})
    found = await schemas.validate([EventInput("order.placed", {}), EventInput("order.placed", {"amount": 1})])
    assert [violation.field.startswith("events[0]") for violation in found] == [True]
    with pytest.raises(SchemaIncompatibleError):
        await schemas.register("order.placed", definition | {"required": ["amount", "who"]})
    more: Any = definition | {"properties": definition["properties"] | {"who": {"type": "string"}}}
    assert (await schemas.register("order.placed", more)).version == 2
    assert (await schemas.get("order.placed", 1)) == first
    assert [schema.version async for schema in schemas.list("order.placed")] == [2, 1]
    assert "order.placed" in [schema.type async for schema in schemas.list()]
    assert await schemas.delete("order.placed") == 2
    with pytest.raises(SchemaNotFoundError):
        await schemas.get("order.placed")


async def test_a_claim_that_is_repeated(tasks: Tasks, agents: Agents) -> None:
    await agents.register("a")
    ids = {(await tasks.enqueue("step", id=f"t-{uuid.uuid4()}")).id for _ in range(3)}
    first = await tasks.claim("a", limit=2)
    second = await tasks.claim("a", limit=2)
    assert {task.id for task in [*first, *second]} == ids
