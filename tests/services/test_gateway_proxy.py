"""The gateway before services that do as they are told: what it passes on, what it keeps back, and whom it believes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import timestamp_pb2
from tests.client_server import running_server

from mnemo_events.app import EventsApp
from mnemo_gateway.api.proxy import Proxy
from mnemo_gateway.app import GatewayApp
from mnemocore.calls import (
    INTERNAL_TOKEN_HEADER,
    PRINCIPAL_HEADER,
    REQUEST_ID_HEADER,
    SCOPES_HEADER,
    TENANT_HEADER,
    Identity,
)
from mnemocore.client import InternalCredentials, ResilientChannel, open_channel
from mnemocore.client.streams import LOST_STATUS
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    AccessDeniedError,
    EtagMismatchError,
    InternalError,
    InvalidFieldError,
    MethodNotFoundError,
    MnemoError,
    OverloadedError,
    PeerUnavailableError,
    PermissionDeniedError,
    ShuttingDownError,
    UnauthenticatedError,
    Violation,
)
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import (
    memory_service_pb2,
    memory_service_pb2_grpc,
    resources_pb2,
    space_service_pb2,
    space_service_pb2_grpc,
)
from mnemocore.policy import MethodInfo, all_methods
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.status import from_rpc_error
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from tests.client_server import Desk, TestServer

    from mnemocore.postgres import Database

SECONDS = 60.0
TOKEN = "token of the installation"
ADMIN_KEY = "key of the admin"
MEMORY = "spaces/a/memories/018f0000-0000-7000-8000-000000000001"
FORGED = (
    (INTERNAL_TOKEN_HEADER, TOKEN),
    (TENANT_HEADER, "globex"),
    (PRINCIPAL_HEADER, "root"),
    (SCOPES_HEADER, "*"),
)


class Client:
    """A client of the gateway with a credential and headers of its own choice."""

    def __init__(self, channel: grpc.aio.Channel, key: str = "", extra: Sequence[tuple[str, str]] = ()) -> None:
        authorization = [("authorization", f"Bearer {key}")] if key else []
        self.options: dict[str, Any] = {"metadata": (*authorization, *extra)}
        self.channel = channel
        self._memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
        self._spaces: Any = space_service_pb2_grpc.SpaceServiceStub(channel)
        self._gateway: Any = gateway_service_pb2_grpc.GatewayServiceStub(channel)

    async def get(self, name: str = MEMORY) -> Any:
        request = memory_service_pb2.GetMemoryRequest(name=name)
        return await told(self._memories.GetMemory(request, timeout=SECONDS, **self.options))

    async def create_space(self) -> None:
        request = space_service_pb2.CreateSpaceRequest(space_id="a")
        await told(self._spaces.CreateSpace(request, timeout=SECONDS, **self.options))

    async def create(self, content: str) -> str:
        memory = resources_pb2.MemoryInput(content=content)
        request = memory_service_pb2.CreateMemoryRequest(parent="spaces/a", memory=memory)
        response = await told(self._memories.CreateMemory(request, timeout=SECONDS, **self.options))
        return str(response.memory.name)

    async def capabilities(self) -> Any:
        request = gateway_service_pb2.GetCapabilitiesRequest()
        return await told(self._gateway.GetCapabilities(request, timeout=SECONDS, **self.options))

    async def new_key(self, *scopes: str, tenant: str = "acme", principal: str = "ada") -> str:
        request = gateway_service_pb2.CreateApiKeyRequest(tenant=tenant, principal=principal, scopes=scopes)
        response = await told(self._gateway.CreateApiKey(request, timeout=SECONDS, **self.options))
        return str(response.secret)

    def ingest(self) -> Any:
        return self._memories.IngestMemories(timeout=SECONDS, **self.options)

    async def raw(self, method: str, request: bytes = b"") -> Any:
        call: Any = self.channel.unary_unary(method)
        return await told(call(request, timeout=SECONDS, **self.options))

    async def raw_stream(self, method: str) -> None:
        call: Any = self.channel.stream_stream(method)
        await asked(lambda: call(iter([b""]), timeout=SECONDS, **self.options).read())


async def asked(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer to a call with streamed requests; asked again while grpc.aio loses the status.

    It may put one of its own in the place of the server's if a message is written as the call ends.
    """
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as raw:
            if raw.details() != LOST_STATUS:
                raise from_rpc_error(raw, "gateway") from None


async def told(answer: Awaitable[Any]) -> Any:
    """The answer, or the error a client library would raise."""
    try:
        return await answer
    except grpc.aio.AioRpcError as raw:
        raise from_rpc_error(raw, "gateway") from None


async def read(call: Any) -> Any:
    return await told(call.read())


def batch(*contents: str) -> memory_service_pb2.IngestMemoriesRequest:
    memories = [resources_pb2.MemoryInput(content=content) for content in contents]
    return memory_service_pb2.IngestMemoriesRequest(parent="spaces/a", memories=memories)


class Installation:
    """A gateway before one host that has all services."""

    def __init__(
        self,
        app: GatewayApp,
        host: Host,
        behind: TestServer,
        channel: grpc.aio.Channel,
        channels: Mapping[str, grpc.aio.Channel],
    ) -> None:
        self.app = app
        self.channels = channels
        self.host = host
        self.behind = behind
        self.channel = channel

    @property
    def desk(self) -> Desk:
        return self.behind.desk

    def client(self, key: str = ADMIN_KEY, extra: Sequence[tuple[str, str]] = ()) -> Client:
        return Client(self.channel, key, extra)


@asynccontextmanager
async def installed(
    database: Database, *, over_sockets: bool = False, admin_key: str = ADMIN_KEY, trust_local: bool = False
) -> AsyncIterator[Installation]:
    credentials = InternalCredentials(TOKEN)
    async with running_server() as behind:
        inner = Host("behind", behind.services, authenticator=InternalAuthenticator(TOKEN))
        [address] = await inner.start(["127.0.0.1:0"])
        to_inner = (
            open_channel(address, credentials)
            if over_sockets
            else ResilientChannel(inner.channel(), "behind", credentials=credentials)
        )
        channels = {f"mnemocore.{name}.v1": to_inner for name in ("memory", "cognitive", "events")}
        app = GatewayApp(database, channels, SystemClock(), admin_key, trust_local=trust_local)
        await app.start()
        host = app.host()
        [gateway] = await host.start(["127.0.0.1:0"])
        async with grpc.aio.insecure_channel(gateway) as channel, to_inner:
            yield Installation(app, host, behind, channel, channels)
        app.drain()
        await host.drain(1)
        await inner.drain(1)


@pytest.fixture(params=["in process", "over sockets"])
async def installation(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Installation]:
    async with installed(database, over_sockets=request.param == "over sockets") as started:
        yield started


@pytest.fixture
async def near(database: Database) -> AsyncIterator[Installation]:
    """An installation in one process: for what does not depend on the way to the service."""
    async with installed(database) as started:
        yield started


async def test_a_call_passes_through_and_back(installation: Installation) -> None:
    client = installation.client()
    await client.create_space()
    name = await client.create("\u6771\u4eac is far; DROP TABLE")
    assert (await client.get(name)).memory.content == "\u6771\u4eac is far; DROP TABLE"


async def test_bytes_are_passed_on_as_they_are(near: Installation) -> None:
    client = near.client()
    await client.create_space()
    unknown = b"\xfa\x3e\x03new"  # field 1007, which no proto of this release has
    request = memory_service_pb2.GetMemoryRequest(name=await client.create("x")).SerializeToString()
    assert await client.raw("/mnemocore.memory.v1.MemoryService/GetMemory", request + unknown)
    [seen] = near.desk.calls("GetMemory")
    assert seen.request.SerializeToString() == request + unknown


async def test_the_deadline_and_the_request_id_travel(installation: Installation) -> None:
    client = installation.client(extra=[(REQUEST_ID_HEADER, "my-request")])
    await client.create_space()
    [seen] = installation.desk.calls("CreateSpace")
    assert seen.metadata[REQUEST_ID_HEADER] == "my-request"
    assert seen.time_remaining is not None
    default = next(method.default_deadline for method in PUBLIC if method.path.endswith("/CreateSpace"))
    assert default is not None
    assert default < seen.time_remaining < SECONDS + 1  # the wire rounds up


ERRORS: list[MnemoError] = [
    InvalidFieldError.of([Violation("memory.content", "is empty \u2026"), Violation("memory.tags[3]", "too long")]),
    OverloadedError("no room", retry_after=2.5),
    EtagMismatchError(memory=MEMORY),
    ShuttingDownError(retry_after=3600.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_arrives_whole(installation: Installation, error: MnemoError) -> None:
    installation.desk.script["GetMemory"].append(error)
    with pytest.raises(MnemoError) as caught:
        await installation.client().get()
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert caught.value.metadata == error.metadata
    assert caught.value.violations == error.violations
    assert caught.value.retry_after == error.retry_after
    assert len(installation.desk.calls("GetMemory")) == 1


async def test_a_bare_status_gets_a_reason(near: Installation) -> None:
    near.desk.script["CreateMemory"].append(grpc.StatusCode.DATA_LOSS)
    with pytest.raises(InternalError):
        await near.client().create("x")
    near.desk.script["CreateMemory"].append(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(PeerUnavailableError, match="behind does not answer"):
        await near.client().create("x")


async def test_a_stream_answers_batch_by_batch(installation: Installation) -> None:
    client = installation.client()
    await client.create_space()
    call = client.ingest()
    for number, size in enumerate((1, 3, 2)):
        await call.write(batch(*(f"{number} {place}" for place in range(size))))
        response = await read(call)
        assert (response.batch, len(response.results)) == (number, size)
    await call.done_writing()
    assert await read(call) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_error_ends_a_stream_whole(installation: Installation) -> None:
    client = installation.client()
    await client.create_space()
    call = client.ingest()
    await call.write(batch("one"))
    assert (await read(call)).batch == 0
    error = InvalidFieldError.of([Violation("memories[0].content", "is bad")])
    installation.desk.script["IngestMemories"].append(error)
    await call.write(batch("two"))
    with pytest.raises(InvalidFieldError) as caught:
        await read(call)
    assert caught.value.violations == error.violations


async def test_a_client_that_leaves_ends_the_call_behind(installation: Installation) -> None:
    client = installation.client()
    await client.create_space()
    installation.desk.script["IngestMemories"].append(asyncio.Event())
    call = client.ingest()
    await call.write(batch("never answered"))
    await until(lambda: bool(installation.desk.calls("IngestMemories")))
    call.cancel()
    await until(installation.desk.cancelled.is_set)


HIDDEN = [method for method in all_methods() if not method.public]
PUBLIC = [method for method in all_methods() if method.public]


async def test_internal_methods_do_not_exist(near: Installation) -> None:
    assert len(HIDDEN) > 5
    client = near.client()
    for method in HIDDEN:
        with pytest.raises(MethodNotFoundError, match="does not exist here"):
            await (client.raw if method.unary else client.raw_stream)(method.path)
    with pytest.raises(MethodNotFoundError):
        await client.raw("/mnemocore.memory.v1.MemoryService/Undeclared")
    assert near.desk.seen == []


async def test_no_public_method_is_open_to_strangers(near: Installation) -> None:
    for key in ("", "wrong", "mnemo_" + "0" * 32 + "_x"):
        for method in PUBLIC:
            await assert_refused(near.client(key), method, UnauthenticatedError)
    assert near.desk.seen == []


async def test_no_public_method_is_open_without_its_scope(near: Installation) -> None:
    for scope in ("events:write", "memory:read"):
        key = await near.client().new_key(scope)
        for method in PUBLIC:
            if method.scope != scope:
                await assert_refused(near.client(key), method, PermissionDeniedError)
    assert near.desk.seen == []


async def assert_refused(client: Client, method: MethodInfo, error: type[MnemoError]) -> None:
    with pytest.raises(error):
        await (client.raw if method.unary else client.raw_stream)(method.path)


async def test_a_client_cannot_say_who_it_is(installation: Installation) -> None:
    key = await installation.client().new_key("memory:read", "memory:write")
    await installation.client(key).create_space()
    forger = installation.client(key, FORGED)
    name = await forger.create("mine")
    call = forger.ingest()
    await call.write(batch("also mine"))
    await read(call)
    call.cancel()
    for method in ("CreateMemory", "IngestMemories"):
        [seen] = installation.desk.calls(method)
        assert seen.metadata[TENANT_HEADER] == "acme"
        assert seen.metadata[PRINCIPAL_HEADER] == "ada"
        assert seen.metadata[SCOPES_HEADER] == "memory:read,memory:write"
    read_only = await installation.client().new_key("memory:read")
    assert (await installation.client(read_only, FORGED).get(name)).memory.content == "mine"
    with pytest.raises(PermissionDeniedError):
        await installation.client(read_only, FORGED).create("with scopes I made up")


async def test_the_token_of_the_installation_opens_nothing_from_outside(near: Installation) -> None:
    stranger = near.client("", FORGED)
    for attempt in (stranger.get(), stranger.create("x"), stranger.capabilities()):
        with pytest.raises(UnauthenticatedError):
            await attempt
    for key in (TOKEN, ""):
        for method in HIDDEN:
            with pytest.raises(MethodNotFoundError):
                client = near.client(key, FORGED)
                await (client.raw if method.unary else client.raw_stream)(method.path)
    assert near.desk.seen == []


async def test_a_local_gateway_trusts_who_says_nothing_and_nobody_else(database: Database) -> None:
    async with installed(database, trust_local=True) as local:
        who = await local.client("").capabilities()
        assert (who.tenant, who.principal, list(who.scopes)) == ("local", "local", ["*"])
        who = await local.client("", FORGED).capabilities()
        assert (who.tenant, who.principal) == ("local", "local")
        for authorization in ("Bearer wrong", "Bearer ", "Bearer", "Basic bG9jYWw6", ADMIN_KEY):
            with pytest.raises(UnauthenticatedError):
                await local.client("", [("authorization", authorization)]).capabilities()


async def test_the_admin_key_is_the_admin_of_the_local_tenant(near: Installation) -> None:
    for authorization in (f"Bearer {ADMIN_KEY}", f"bearer  {ADMIN_KEY} "):
        who = await near.client("", [("authorization", authorization)]).capabilities()
        assert (who.tenant, who.principal, list(who.scopes)) == ("local", "admin", ["*"])
    for wrong in (ADMIN_KEY[:-1], ADMIN_KEY + "x", ADMIN_KEY.upper()):
        with pytest.raises(UnauthenticatedError):
            await near.client(wrong).capabilities()


async def test_without_an_admin_key_no_empty_one_opens(database: Database) -> None:
    async with installed(database, admin_key="") as strict:
        for authorization in ("Bearer ", "Bearer", "Bearer  "):
            with pytest.raises(UnauthenticatedError):
                await strict.client("", [("authorization", authorization)]).capabilities()


async def test_capabilities_name_what_is_ready_and_public(near: Installation) -> None:
    found = await near.client().capabilities()
    assert {status.service: status.ready for status in found.services} == {
        "mnemocore.cognitive.v1": True,
        "mnemocore.events.v1": True,
        "mnemocore.memory.v1": True,
    }
    assert set(found.methods) == {method.path.removeprefix("/") for method in PUBLIC}


async def test_a_drain_ends_open_streams_and_takes_no_more(installation: Installation) -> None:
    client = installation.client()
    await client.create_space()
    calls = [client.ingest(), client.ingest()]
    for call in calls:
        await call.write(batch("kept"))
        assert len((await read(call)).results) == 1
    installation.app.drain()
    calls.append(client.ingest())
    for call in calls:
        with pytest.raises(ShuttingDownError) as caught:
            await asyncio.wait_for(read(call), SECONDS / 2)
        assert caught.value.retry_after == 1.0
    assert len(installation.behind.book.spaces["spaces/a"]) == 2
    assert (await client.capabilities()).tenant == "local"
    await installation.host.drain(SECONDS)
    with pytest.raises(MnemoError):
        await client.capabilities()


class Somebody:
    """An authenticator that says the same of everybody."""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    async def authenticate(self, metadata: Mapping[str, str], method: MethodInfo, peer: str) -> Identity | None:
        return self._identity


WITHOUT_TENANT = [method for method in PUBLIC if method.without_tenant]


@pytest.mark.parametrize("nobody", [None, Identity(Tenant(""), "ada", frozenset({"*"}))])
async def test_nothing_is_passed_on_for_no_tenant(installation: Installation, nobody: Identity | None) -> None:
    channels = installation.channels
    host = Host("gateway", [], authenticator=Somebody(nobody), public_only=True, extra_handlers=[Proxy(channels.get)])
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        for method in PUBLIC:
            if method.path.startswith("/mnemocore.events."):
                await assert_refused(Client(channel, "", FORGED), method, UnauthenticatedError)
    await host.drain(1)
    assert [method.path.rpartition("/")[2] for method in WITHOUT_TENANT] == ["PublishEvents", "SubscribeEvents"]
    assert installation.desk.seen == []


@pytest.fixture(params=["in process", "over sockets"])
async def before_events(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[BeforeEvents]:
    """A gateway before a real event-bus."""
    events = EventsApp(database, SystemClock())
    await events.start()
    inner = Host("events", events.services, authenticator=InternalAuthenticator(TOKEN))
    [address] = await inner.start(["127.0.0.1:0"])
    credentials = InternalCredentials(TOKEN)
    to_inner = (
        open_channel(address, credentials)
        if request.param == "over sockets"
        else ResilientChannel(inner.channel(), "events", credentials=credentials)
    )
    app = GatewayApp(database, {"mnemocore.events.v1": to_inner}, SystemClock(), ADMIN_KEY)
    await app.start()
    host = app.host()
    [gateway] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(gateway) as channel, to_inner:
        yield BeforeEvents(channel, to_inner)
    app.drain()
    await host.drain(1)
    events.drain()
    await inner.drain(1)
    await events.stop()


class BeforeEvents:
    """Calls to event-bus, by services of the installation and by clients of the gateway that forge headers."""

    def __init__(self, channel: grpc.aio.Channel, to_inner: grpc.aio.Channel) -> None:
        self.channel = channel
        self.service: Any = event_service_pb2_grpc.EventServiceStub(to_inner)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)

    async def publish(self, key: str, headers: Sequence[tuple[str, str]], **fields: Any) -> None:
        request = event_service_pb2.PublishEventsRequest(events=[happened(**fields)])
        await told(self.events.PublishEvents(request, timeout=SECONDS, metadata=authorized(key, headers)))

    async def first(self, key: str, headers: Sequence[tuple[str, str]]) -> Any:
        start = event_service_pb2.SubscribeEventsRequest.Start(credit=100, head_at_once=True)

        async def ask() -> Any:
            call = self.events.SubscribeEvents(timeout=SECONDS, metadata=authorized(key, headers))
            await call.write(event_service_pb2.SubscribeEventsRequest(start=start))
            found = await call.read()
            call.cancel()
            return found

        return await asked(ask)


def happened(id: str = "1", type: str = "orders.created", **fields: Any) -> events_pb2.Event:
    return events_pb2.Event(id=id, type=type, time=timestamp_pb2.Timestamp(seconds=1), **fields)


def authorized(key: str, headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"), *headers)


@pytest.mark.parametrize("headers", [FORGED, FORGED[:1], (FORGED[0], (TENANT_HEADER, ""), (SCOPES_HEADER, "*"))])
async def test_no_client_is_taken_for_a_service(before_events: BeforeEvents, headers: Any) -> None:
    bus = before_events
    ours = happened("ours", tenant="acme", source="mnemocore/memory", type="memory.created")
    theirs = happened("theirs", tenant="globex", source="mnemocore/memory", type="memory.created")
    request = event_service_pb2.PublishEventsRequest(events=[ours, theirs])
    await told(bus.service.PublishEvents(request, timeout=SECONDS))
    key = await Client(bus.channel, ADMIN_KEY).new_key("events:read", "events:write")
    admin = await Client(bus.channel, ADMIN_KEY).new_key("events:admin")
    with pytest.raises(AccessDeniedError):
        await bus.publish(key, headers)
    with pytest.raises(AccessDeniedError):
        await bus.first(key, headers)
    for stranger in (key, admin, ADMIN_KEY):
        with pytest.raises(InvalidFieldError, match="is not your tenant"):
            await bus.publish(stranger, headers, tenant="globex")
        with pytest.raises(InvalidFieldError, match="is of the platform"):
            await bus.publish(stranger, headers, type="memory.created")
        with pytest.raises(InvalidFieldError, match="is of the platform"):
            await bus.publish(stranger, headers, source="mnemocore/memory")
    assert [stored.event.id for stored in (await bus.first(admin, headers)).events] == ["ours"]
    assert [stored.event.id for stored in (await bus.first(ADMIN_KEY, headers)).events] == []
    await bus.publish(admin, headers, id="mine")
    found = (await bus.first(admin, headers)).events
    assert [(stored.event.id, stored.event.tenant, stored.event.source) for stored in found] == [
        ("ours", "acme", "mnemocore/memory"),
        ("mine", "acme", "principals/ada"),
    ]
    for wrong in ("", TOKEN):
        with pytest.raises(UnauthenticatedError):
            await bus.first(wrong, headers)
