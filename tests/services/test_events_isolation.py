"""Nobody gets at events without being allowed to, and no tenant learns of anything of another one, by any method.

All tenants have things of the same names, and things of names that only they use. What a tenant writes holds its
canary; no answer, no stream and no error may hold the canary of somebody else, and what another tenant has is answered
exactly as what nobody ever had.
"""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from tests.event_requests import PACKAGE, REQUESTS, SHOWS_OR_TAKES_EVENTS, Things
from tests.webhook_server import endpoint

from mnemo_events.app import EventsApp, WebhookOptions
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemo_events.storage.redis_engine import open_redis_engine
from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.clock import SystemClock
from mnemocore.errors import AccessDeniedError, MnemoError, PermissionDeniedError, UnauthenticatedError
from mnemocore.events.v1 import group_service_pb2 as wire
from mnemocore.events.v1 import resources_pb2
from mnemocore.ids import Tenant
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.policy import all_methods
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator

    from tests.webhook_server import Endpoint

    from mnemo_events.domain.ports import Engine
    from mnemocore.policy import MethodInfo
    from mnemocore.postgres import Database
    from mnemocore.testing.redis import TestRedis

TOKEN: Final = "a token"
SECONDS: Final = 60.0
MOMENT: Final = 0.05
"""How long a stream is listened to that need not say anything."""
TENANTS: Final = 50
AT_ONCE: Final = 8
CANARY: Final = re.compile(rb"canary[0-9]+x")
METHODS: Final = {info.path.removeprefix(PACKAGE): info for info in all_methods() if info.path.startswith(PACKAGE)}
PUBLIC: Final = {name: info for name, info in METHODS.items() if info.public}
ALL_SCOPES: Final = frozenset({"events:read", "events:write", "events:admin"})


@dataclass(frozen=True)
class Answer:
    """What a call came to: its messages, or its error."""

    messages: tuple[Any, ...]
    error: MnemoError | None
    raw: bytes
    """Everything that was sent to the caller."""


class Bus:
    """event-bus, called as the gateway calls it."""

    def __init__(self, host: Host, hooks: str) -> None:
        self.hooks = hooks
        self._channel = host.channel()

    async def ask(
        self, method: str, request: Any, identity: Identity | None, *, messages: int = 1, patience: float = SECONDS
    ) -> Answer:
        """What a method answers; of a stream so many messages, or fewer if none comes for `patience` seconds."""
        info, metadata = PUBLIC[method], _headers(identity)
        found: list[Any] = []
        try:
            async with asyncio.timeout(SECONDS):
                if info.unary:
                    found.append(await self._callable(info)(request, metadata=metadata, timeout=SECONDS))
                else:
                    found += await self._listen(info, request, metadata, messages, patience)
        except grpc.aio.AioRpcError as error:
            raw = repr((error.details(), error.trailing_metadata())).encode()
            return Answer(tuple(found), from_rpc_error(error, "events"), raw)
        return Answer(tuple(found), None, b"".join(message.SerializeToString() for message in found))

    async def reject(self, things: Things, identity: Identity) -> None:
        """Consume one event of the group of the things, and refuse it: it is a dead letter then."""
        info = PUBLIC["GroupService/ConsumeEvents"]
        call = self._callable(info)(metadata=_headers(identity))
        try:
            async with asyncio.timeout(SECONDS):
                for message in REQUESTS["GroupService/ConsumeEvents"](things):
                    await call.write(message)
                while not (given := (await call.read()).deliveries):
                    pass
                failed = wire.ConsumeEventsRequest.Failed(
                    reason=resources_pb2.FAILURE_REASON_REJECTED, message=f"refused by {things.canary}"
                )
                outcome = wire.ConsumeEventsRequest.Outcome(tag=given[0].tag, failed=failed)
                await call.write(wire.ConsumeEventsRequest(settle=wire.ConsumeEventsRequest.Settle(outcomes=[outcome])))
                while given[0].tag not in (await call.read()).settled:
                    pass
        finally:
            call.cancel()

    def _callable(self, info: MethodInfo) -> Any:
        kind = ("stream" if info.client_streaming else "unary") + "_" + ("stream" if info.server_streaming else "unary")
        return getattr(self._channel, kind)(
            info.path,
            request_serializer=info.request.SerializeToString,
            response_deserializer=info.response.FromString,
        )

    async def _listen(self, info: MethodInfo, request: Any, metadata: Any, messages: int, patience: float) -> list[Any]:
        call = self._callable(info)(*(() if info.client_streaming else (request,)), metadata=metadata)
        try:
            if info.client_streaming:
                for message in request:
                    await call.write(message)
            found = []
            for _ in range(messages):
                reading = asyncio.ensure_future(call.read())
                await asyncio.wait([reading], timeout=patience)
                if not reading.done():
                    reading.cancel()
                    await asyncio.wait([reading])
                    break
                message = reading.result()
                if message is grpc.aio.EOF:
                    break
                found.append(message)
            return found
        finally:
            call.cancel()


def _headers(identity: Identity | None) -> list[tuple[str, str]]:
    token = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
    if identity is None:
        return token
    return [
        *token,
        (calls.TENANT_HEADER, identity.tenant),
        (calls.PRINCIPAL_HEADER, identity.principal),
        (calls.SCOPES_HEADER, ",".join(identity.scopes)),
    ]


@pytest.fixture
def hooks() -> Iterator[Endpoint]:
    """What webhooks lead to."""
    with endpoint() as started:
        yield started


@pytest.fixture(params=["postgres", pytest.param("redis", marks=pytest.mark.slow)])
async def bus(request: pytest.FixtureRequest, database: Database, hooks: Endpoint) -> AsyncIterator[Bus]:
    """event-bus on each engine."""
    engine: Engine = PostgresEngine(database)
    if request.param == "redis":
        server: TestRedis = request.getfixturevalue("redis_server")
        engine = open_redis_engine(server.url, prefix=request.getfixturevalue("redis_prefix"))
    keys = FixedMasterKeys(MasterKeys([MasterKey("first", bytes(32))]))
    options = WebhookOptions(keys, allow="127.0.0.0/8")
    async with running(EventsApp(database, SystemClock(), engine=engine, webhooks=options), hooks.url) as started:
        yield started
    await engine.stop()


@asynccontextmanager
async def running(app: EventsApp, hooks: str) -> AsyncIterator[Bus]:
    await app.start()
    host = Host("events", app.services, authenticator=InternalAuthenticator(TOKEN))
    await host.start([])
    yield Bus(host, f"{hooks}/")
    app.drain()
    await host.drain(5)
    await app.stop()


def owner(tenant: str) -> Identity:
    """An administrator of a tenant's events."""
    return Identity(Tenant(tenant), "owner", ALL_SCOPES)


def anybody(tenant: str, *scopes: str) -> Identity:
    """A principal without any policy."""
    return Identity(Tenant(tenant), "anybody", frozenset(scopes))


def test_every_public_method_is_in_the_table() -> None:
    assert set(REQUESTS) == set(PUBLIC)
    assert set(PUBLIC) >= SHOWS_OR_TAKES_EVENTS
    assert {info.scope for info in PUBLIC.values()} == ALL_SCOPES
    of_services = {name for name, info in PUBLIC.items() if info.without_tenant}
    assert of_services == {"EventService/PublishEvents", "EventService/SubscribeEvents"}


async def test_nothing_is_allowed_by_default(bus: Bus) -> None:
    things = Things("shared", "canary1x", url=bus.hooks)
    await fill(bus, "acme", things)
    for method, make in REQUESTS.items():
        nobody = await bus.ask(method, make(things), anybody("acme"))
        assert type(nobody.error) is PermissionDeniedError, method
        assert not CANARY.findall(nobody.raw), method
        scope = PUBLIC[method].scope
        others = anybody("acme", *ALL_SCOPES - {scope, "events:admin"})
        assert type((await bus.ask(method, make(things), others)).error) is PermissionDeniedError, method
        if not PUBLIC[method].without_tenant:
            assert type((await bus.ask(method, make(things), None)).error) is UnauthenticatedError, method


async def test_events_are_shown_and_taken_by_policy_only(bus: Bus) -> None:
    things = Things("shared", "canary1x", url=bus.hooks)
    await fill(bus, "acme", things)
    without = anybody("acme", "events:read", "events:write")
    for method in sorted(SHOWS_OR_TAKES_EVENTS):
        refused = await bus.ask(method, REQUESTS[method](replace(things, number=9)), without)
        assert type(refused.error) is AccessDeniedError, (method, refused)
        assert not refused.messages, method
    for method, info in PUBLIC.items():
        if info.scope == "events:admin":
            refused = await bus.ask(method, REQUESTS[method](things), without)
            assert type(refused.error) is PermissionDeniedError, method
    for method, info in PUBLIC.items():  # what needs no policy says nothing of what is in events
        if info.scope != "events:admin" and method not in SHOWS_OR_TAKES_EVENTS:
            answer = await bus.ask(method, REQUESTS[method](things), without)
            assert b'{"text": "' not in answer.raw, method
    (refusals,) = (
        await bus.ask("AccessService/ListRefusals", REQUESTS["AccessService/ListRefusals"](things), owner("acme"))
    ).messages
    assert {refusal.principal for refusal in refusals.refusals} <= {"anybody"}


async def fill(bus: Bus, tenant: str, things: Things) -> int:
    """Make everything that can be made, with the canary in it; the position of a dead letter."""
    who = owner(tenant)

    async def made(method: str, *, messages: int = 1, **changes: Any) -> Any:
        answer = await bus.ask(method, REQUESTS[method](replace(things, **changes)), who, messages=messages)
        assert answer.error is None, (method, answer)
        return answer.messages[0]

    await made("SchemaService/RegisterSchema")
    await made("AccessService/CreatePolicy")
    await made("GroupService/CreateGroup")
    await made("WebhookService/CreateWebhook")
    positions = [(await made("EventService/PublishEvents", number=number)).positions[0] for number in range(3)]
    await made("AgentService/RegisterAgent")
    await made("TaskService/EnqueueTask")
    await bus.reject(things, who)
    refused = anybody(tenant, "events:read", "events:write")
    await bus.ask("EventService/PublishEvents", REQUESTS["EventService/PublishEvents"](things), refused)
    return int(positions[0])


class Customer:
    """A tenant: it writes its canary into everything, and looks at everything that comes back."""

    def __init__(self, bus: Bus, number: int) -> None:
        self.tenant = f"tenant{number}"
        self.canary = f"canary{number}x"
        self.shared = Things("shared", self.canary, url=bus.hooks)
        self.private = Things(f"private-{number}", self.canary, type=f"made.private{number}", url=bus.hooks)
        self._bus = bus

    async def fill(self) -> None:
        """Make things of a name that every tenant uses, and of one that no other does."""
        self.shared = replace(self.shared, position=await fill(self._bus, self.tenant, self.shared))
        self.private = replace(self.private, position=await fill(self._bus, self.tenant, self.private))

    async def ask(
        self, method: str, things: Things, identity: Identity | None = None, *, patience: float = SECONDS
    ) -> Answer:
        """What a method answers; it holds no foreign canary."""
        who = identity or owner(self.tenant)
        answer = await self._bus.ask(method, REQUESTS[method](things), who, patience=patience)
        assert set(CANARY.findall(answer.raw)) <= {self.canary.encode()}, (method, answer)
        return answer

    async def read_own(self) -> None:
        """Everything that shows something shows what is ours."""
        for method in SHOWS:
            for things in (self.shared, self.private):
                answer = await self.ask(method, things)
                assert answer.error is None, (method, answer)
                assert self.canary.encode() in answer.raw, method

    async def pry(self, other: Customer) -> None:
        """What only another tenant has is answered as what nobody has."""
        foreign, own = other.private, self.private
        nobodys = replace(own, id="private-nobody", type="made.privatenobody", position=10**15)
        for method in REQUESTS:
            if method not in MAKES_OR_LISTS:
                theirs = await self.ask(method, replace(foreign, canary=self.canary))
                none = await self.ask(method, nobodys)
                assert said(theirs, foreign) == said(none, nobodys), method
        letter = "GroupService/GetDeadLetter"
        theirs = await self.ask(letter, replace(own, position=foreign.position))
        none = await self.ask(letter, replace(own, position=nobodys.position))
        assert said(theirs, replace(own, position=foreign.position)) == said(
            none, replace(own, position=nobodys.position)
        )

    async def wander(self, others: list[Customer], steps: int) -> None:
        """Anything at all, with names of anybody's things."""
        chance = random.Random(self.tenant)
        who = [
            owner(self.tenant),
            Identity(Tenant(self.tenant), self.canary, frozenset({"events:read", "events:write"})),
            anybody(self.tenant, "events:read", "events:write"),
        ]
        for _ in range(steps):
            things = chance.choice([self.shared, self.private, chance.choice(others).private])
            things = replace(
                things,
                canary=self.canary,
                type=chance.choice([things.type, chance.choice(others).private.type]),
                position=chance.choice([things.position, chance.choice(others).private.position]),
                number=chance.randrange(10),
            )
            await self.ask(chance.choice(sorted(REQUESTS)), things, chance.choice(who), patience=MOMENT)


SHOWS: Final = (
    "EventService/SubscribeEvents",
    "EventService/ReadEvents",
    "GroupService/GetGroup",
    "GroupService/ListGroups",
    "GroupService/ListDeadLetters",
    "GroupService/GetDeadLetter",
    "SchemaService/GetSchema",
    "SchemaService/ListSchemas",
    "AccessService/ListPolicies",
    "AccessService/ListRefusals",
    "AccessService/CheckAccess",
    "WebhookService/GetWebhook",
    "WebhookService/ListWebhooks",
    "AgentService/GetAgent",
    "AgentService/ListAgents",
    "AgentService/WatchAgents",
    "TaskService/GetTask",
)
"""Methods that show something of what a tenant has."""
MAKES_OR_LISTS: Final = frozenset(
    {
        "EventService/PublishEvents",
        "EventService/SubscribeEvents",
        "EventService/ReadEvents",
        "GroupService/CreateGroup",
        "GroupService/ListGroups",
        "SchemaService/RegisterSchema",
        "SchemaService/ValidateEvents",
        "AccessService/CreatePolicy",
        "AccessService/ListPolicies",
        "AccessService/ListRefusals",
        "WebhookService/CreateWebhook",
        "WebhookService/ListWebhooks",
        "AgentService/RegisterAgent",
        "AgentService/ListAgents",
        "AgentService/WatchAgents",
        "TaskService/EnqueueTask",
        "TaskService/ListTasks",
        "TaskService/PurgeTasks",
    }
)
"""Methods that name nothing which must be there."""


def said(answer: Answer, things: Things) -> object:
    """What an answer says, whatever the names it was asked with."""
    text = str(answer.error) if answer.error else "".join(str(message) for message in answer.messages)
    for name in (things.id, things.type, str(things.position)):
        text = text.replace(name, "?")
    return type(answer.error), text


async def test_no_tenant_learns_of_anything_of_another(bus: Bus, hooks: Endpoint) -> None:
    customers = [Customer(bus, number) for number in range(TENANTS)]
    await at_once(customer.fill() for customer in customers)
    await at_once(
        customer.pry(other) for customer, other in zip(customers, [*customers[1:], customers[0]], strict=True)
    )
    await at_once(customer.read_own() for customer in customers)
    await at_once(customer.wander(customers, 40) for customer in customers)
    assert len({request.path for request in hooks.requests}) == TENANTS
    for request in hooks.requests:
        assert set(CANARY.findall(request.body)) <= {request.path.rpartition("/")[2].encode()}


async def at_once(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, AT_ONCE at a time."""
    waiting = iter(work)

    async def worker() -> None:
        for each in waiting:
            await each

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(worker())
