"""Events, groups, schemas, policies, webhooks, agents and tasks without `async`, on a real installation."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from tests.e2e.conftest import wait_until

from mnemocore.client import AccessAction, Agents, EventInput, Events, Policies, Presence, Schemas, Tasks, Webhooks
from mnemocore.errors import CancelledError, GroupNotFoundError, MnemoError
from mnemocore.sync import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Server

Calls: TypeAlias = dict[str, Callable[[Any, str], Any]]

EVENTS: Calls = {
    "publish": lambda events, name: events.publish(f"{name}.a", 1),
    "publish_many": lambda events, name: events.publish_many(EventInput(f"{name}.b", n) for n in range(3)),
    "read": lambda events, name: list(events.read(types=[f"{name}.*"])),
    "pages": lambda events, name: list(events.pages(types=[f"{name}.*"])),
    "create_group": lambda events, name: events.create_group(name, types=[f"{name}.*"], start="earliest"),
    "group": lambda events, name: events.group(name),
    "groups": lambda events, name: list(events.groups()),
    "seek_group": lambda events, name: events.seek_group(name, "latest"),
    "dead_letters": lambda events, name: list(events.dead_letters(name)),
    "dead_letter": lambda events, name: events.dead_letter(name, 1),
    "replay_dead_letters": lambda events, name: events.replay_dead_letters(name),
    "purge_dead_letters": lambda events, name: events.purge_dead_letters(name),
    "delete_group": lambda events, name: events.delete_group(name),
    "consume": lambda events, name: events.consume(name, print),
}
SCHEMAS: Calls = {
    "register": lambda schemas, name: schemas.register(f"{name}.a", {"type": "object"}),
    "get": lambda schemas, name: schemas.get(f"{name}.a"),
    "list": lambda schemas, name: list(schemas.list(f"{name}.a")),
    "validate": lambda schemas, name: schemas.validate([EventInput(f"{name}.a", {})]),
    "delete": lambda schemas, name: schemas.delete(f"{name}.a"),
}
POLICIES: Calls = {
    "allow": lambda policies, name: policies.allow(name.replace("_", "-"), name, [AccessAction.PUBLISH], ["a.b"]),
    "list": lambda policies, name: list(policies.list(name)),
    "check": lambda policies, name: policies.check(name, "publish", "a.b").allowed or pytest.fail("it is not allowed"),
    "refusals": lambda policies, name: list(policies.refusals()),
    "remove": lambda policies, name: policies.remove(name.replace("_", "-")),
}
WEBHOOKS: Calls = {
    "create": lambda webhooks, name: webhooks.create(name, "https://1.1.1.1/", "x" * 16),
    "get": lambda webhooks, name: webhooks.get(name),
    "list": lambda webhooks, name: list(webhooks.list()),
    "update": lambda webhooks, name: webhooks.update(name, description="d"),
    "pause": lambda webhooks, name: webhooks.pause(name),
    "resume": lambda webhooks, name: webhooks.resume(name),
    "test": lambda webhooks, name: webhooks.test("nothing"),
    "deliveries": lambda webhooks, name: list(webhooks.deliveries(name)),
    "delete": lambda webhooks, name: webhooks.delete(name),
}
AGENTS: Calls = {
    "register": lambda agents, name: agents.register(name, [name]),
    "heartbeat": lambda agents, name: agents.heartbeat(name, 0.5),
    "get": lambda agents, name: agents.get(name),
    "list": lambda agents, name: list(agents.list(capabilities=[name])),
    "watch": lambda agents, name: next(agents.watch(capabilities=[name])),
    "deregister": lambda agents, name: agents.deregister(name),
}
PRESENCE: Calls = {
    "open": lambda agent, name: agent.open(),
    "register": lambda agent, name: agent.register(),
    "close": lambda agent, name: agent.close(),
}
TASKS: Calls = {
    "enqueue": lambda tasks, name: tasks.enqueue(name, 1, id=name),
    "claim": lambda tasks, name: tasks.claim(name),
    "complete": lambda tasks, name: tasks.complete(tasks.get(name)),
    "fail": lambda tasks, name: tasks.fail(tasks.get(name)),
    "extend": lambda tasks, name: tasks.extend(tasks.get(name)),
    "get": lambda tasks, name: tasks.get(name),
    "list": lambda tasks, name: list(tasks.list(type=name)),
    "retry": lambda tasks, name: tasks.retry(name),
    "cancel": lambda tasks, name: tasks.cancel(name),
    "purge": lambda tasks, name: tasks.purge("cancelled"),
    "work": lambda tasks, name: tasks.work("No name of an agent", print),
}


@pytest.fixture
def mnemo(served: Server) -> Iterator[Any]:
    with connect(served.address, api_key=served.api_key) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    """What everything of this test is called: the server is shared with other tests."""
    return f"s{uuid.uuid4().hex[:8]}"


def async_methods(cls: type) -> set[str]:
    return {
        name
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }


@pytest.mark.parametrize(
    ("cls", "calls", "handle"),
    [
        (Events, EVENTS, lambda mnemo, name: mnemo.events),
        (Schemas, SCHEMAS, lambda mnemo, name: mnemo.events.schemas),
        (Policies, POLICIES, lambda mnemo, name: mnemo.events.policies),
        (Webhooks, WEBHOOKS, lambda mnemo, name: mnemo.webhooks),
        (Agents, AGENTS, lambda mnemo, name: mnemo.agents),
        (Presence, PRESENCE, lambda mnemo, name: mnemo.agents.agent(name)),
        (Tasks, TASKS, lambda mnemo, name: mnemo.tasks),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_every_async_method_can_be_called_without_async(
    mnemo: Any, name: str, cls: type, calls: Calls, handle: Callable[[Any, str], Any]
) -> None:
    assert async_methods(cls) == set(calls)
    about = handle(mnemo, name)
    for call in calls.values():
        try:
            result = call(about, name)
        except MnemoError:  # such as of a task that nobody has: the server has answered
            continue
        assert not inspect.isawaitable(result)
        assert not hasattr(result, "__anext__")


def test_following_without_async(mnemo: Any, name: str) -> None:
    mnemo.events.publish(f"{name}.a", 1)
    mnemo.events.publish(f"{name}.a", 2)
    tail = mnemo.events.tail(types=[f"{name}.*"], start="earliest")
    assert [next(tail).json(), next(tail).json()] == [1, 2]
    tail.close()
    assert [event.json() for event in mnemo.events(types=[f"{name}.*"])] == [1, 2]


def test_a_handler_may_use_the_connection_it_is_called_by(mnemo: Any, served: Server, name: str) -> None:
    mnemo.events.create_group(name, types=[f"{name}.asked"])
    ended = threading.Event()

    def consume() -> None:
        with connect(served.address, api_key=served.api_key) as connection:
            member: Any = connection

            def answer(event: Any) -> None:
                member.events.publish(f"{name}.answered", event.json() * 2, causation_id=event.id)

            with pytest.raises((CancelledError, GroupNotFoundError)):
                member.events.consume(name, answer)
        ended.set()

    threading.Thread(target=consume, daemon=True).start()
    asked = mnemo.events.publish(f"{name}.asked", 21)
    tail = mnemo.events.tail(types=[f"{name}.answered"], start=asked.position)
    answered = next(tail)
    assert (answered.json(), answered.causation_id) == (42, asked.id)
    tail.close()
    mnemo.events.delete_group(name)
    assert wait_until(ended.is_set, 60)


def test_being_an_agent_without_async(mnemo: Any, name: str) -> None:
    with mnemo.agents.agent(name, ["summarise"]) as present:
        assert present.id == name
        assert mnemo.agents.get(name).capabilities == ("summarise",)
    assert [agent.id for agent in mnemo.agents.list() if agent.id == name] == []
