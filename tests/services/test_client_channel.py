"""The policy of the channel, against real servers: deadlines, identity, retries, breaker, streams, errors."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from tests.client_server import TestServer, running_server

from mnemocore import calls
from mnemocore.client import (
    BreakerRule,
    BreakerState,
    InternalCredentials,
    NoCredentials,
    ResilientChannel,
    TlsFiles,
    as_identity,
    open_channel,
)
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    IndexLaggingError,
    MemoryNotFoundError,
    MethodNotFoundError,
    MnemoError,
    OverloadedError,
    PeerUnavailableError,
    ShuttingDownError,
    SpaceNotFoundError,
    StoreUnavailableError,
)
from mnemocore.events.v1 import event_service_pb2
from mnemocore.events.v1.event_service_pb2_grpc import EventServiceStub
from mnemocore.gateway.v1 import gateway_service_pb2
from mnemocore.gateway.v1.gateway_service_pb2_grpc import GatewayServiceStub
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import memory_service_pb2, resources_pb2, space_service_pb2
from mnemocore.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from mnemocore.memory.v1.space_service_pb2_grpc import SpaceServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

SPACES = "mnemocore.memory.v1.SpaceService"
GET = space_service_pb2.GetSpaceRequest(name="spaces/a")
CAPABILITIES = gateway_service_pb2.GetCapabilitiesRequest()


class FastClock:
    """The machine's clock, plus what was slept: pauses cost no time, but are counted."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.skipped = 0.0

    def now(self) -> datetime:
        return SystemClock().now()

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.skipped += seconds
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with running_server() as running:
        running.book.spaces["spaces/a"] = {}
        yield running


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
async def channel(server: TestServer, clock: FastClock) -> AsyncIterator[ResilientChannel]:
    async with open_channel(server.target, NoCredentials(), clock=clock) as opened:
        yield opened


def spaces(channel: ResilientChannel) -> Any:
    return SpaceServiceStub(channel)


async def fail(times: int, call: Any, error: type[MnemoError] = MnemoError) -> None:
    for _ in range(times):
        with pytest.raises(error):
            await call()


# Deadlines


async def test_the_methods_default_the_callers_wish_and_the_maximum(
    server: TestServer, channel: ResilientChannel
) -> None:
    for timeout in (None, 3, 30, 3600):
        await spaces(channel).GetSpace(GET, timeout=timeout)
    default, shorter, longer, longest = (seen.time_remaining or 0 for seen in server.desk.seen)
    assert 0 < shorter <= 3.1 < default <= 5.1 < longer <= 30.1 < longest <= 60.1  # the wire rounds up


async def test_the_running_request_passes_on_what_is_left(server: TestServer, channel: ResilientChannel) -> None:
    token = calls.deadline.set(time.monotonic() + 4)
    try:
        await spaces(channel).GetSpace(GET)
        await spaces(channel).GetSpace(GET, timeout=2)
    finally:
        calls.deadline.reset(token)
    of_the_request, of_the_caller = (seen.time_remaining or 0 for seen in server.desk.seen)
    assert 0 < of_the_caller <= 2.1
    assert 0 < of_the_request <= 4.1


@pytest.mark.parametrize("left", [-1.0, 0.0, 0.005])
async def test_a_request_without_time_sends_nothing(server: TestServer, channel: ResilientChannel, left: float) -> None:
    token = calls.deadline.set(time.monotonic() + left)
    try:
        await fail(1, lambda: spaces(channel).GetSpace(GET), DeadlineExceededError)
        with pytest.raises(DeadlineExceededError):
            EventServiceStub(channel).SubscribeEvents()
    finally:
        calls.deadline.reset(token)
    await fail(1, lambda: spaces(channel).GetSpace(GET, timeout=0), DeadlineExceededError)
    assert server.desk.seen == []


async def test_expiry_cancels_the_handler(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = asyncio.Event()
    await fail(1, lambda: spaces(channel).GetSpace(GET, timeout=0.05), DeadlineExceededError)
    await asyncio.wait_for(server.desk.cancelled.wait(), 60)


# Identity


async def test_a_service_speaks_for_its_caller(server: TestServer) -> None:
    async with open_channel(server.target, InternalCredentials("secret")) as channel:
        await spaces(channel).GetSpace(GET)
        with as_identity(calls.Identity(Tenant("t1"), "alice", frozenset({"b:read", "a:write"}))):
            await spaces(channel).GetSpace(GET)
        await spaces(channel).GetSpace(GET)
    first, second, third = (seen.metadata for seen in server.desk.seen)
    assert second["mnemo-internal-token"] == first["mnemo-internal-token"] == "secret"
    assert (second["mnemo-tenant"], second["mnemo-principal"], second["mnemo-scopes"]) == (
        "t1",
        "alice",
        "a:write,b:read",
    )
    for metadata in (first, third):
        assert not {"mnemo-tenant", "mnemo-principal", "mnemo-scopes"} & set(metadata)


async def test_request_id_and_trace_travel(server: TestServer, channel: ResilientChannel) -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    token = calls.request_id.set("r-1")
    try:
        with trace.use_span(span):
            await spaces(channel).GetSpace(GET)
    finally:
        calls.request_id.reset(token)
    await spaces(channel).GetSpace(GET)
    await spaces(channel).GetSpace(GET, metadata=(("x-request-id", "mine"), ("other", "kept")))
    first, second, third = (seen.metadata for seen in server.desk.seen)
    assert first["x-request-id"] == "r-1"
    assert first["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert second["x-request-id"] not in ("", "r-1")
    assert "traceparent" not in second
    assert (third["x-request-id"], third["other"]) == ("mine", "kept")


# Retries


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_read_is_repeated(
    server: TestServer, channel: ResilientChannel, clock: FastClock, failures: int
) -> None:
    server.desk.script["GetSpace"].extend([grpc.StatusCode.UNAVAILABLE] * failures)
    assert (await spaces(channel).GetSpace(GET)).space.name == "spaces/a"
    assert len(server.desk.seen) == failures + 1
    assert len({seen.metadata["x-request-id"] for seen in server.desk.seen}) == 1
    assert len(clock.slept) == failures
    assert all(pause <= limit for pause, limit in zip(clock.slept, (0.1, 0.2), strict=False))


async def test_three_attempts_and_no_more(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(PeerUnavailableError, match=rf"^{server.target} does not answer$") as caught:
        await spaces(channel).GetSpace(GET)
    assert len(server.desk.seen) == 3
    assert caught.value.metadata == {"target": server.target}


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
    ],
)
async def test_nothing_else_is_repeated(server: TestServer, channel: ResilientChannel, code: grpc.StatusCode) -> None:
    server.desk.always["GetSpace"] = code
    await fail(1, lambda: spaces(channel).GetSpace(GET))
    assert len(server.desk.seen) == 1


async def test_a_write_is_repeated_only_under_a_request_id(server: TestServer, channel: ResilientChannel) -> None:
    stub = MemoryServiceStub(channel)
    server.desk.script["CreateMemory"].append(grpc.StatusCode.UNAVAILABLE)
    request = memory_service_pb2.CreateMemoryRequest(parent="spaces/a", memory=resources_pb2.MemoryInput(content="x"))
    await fail(1, lambda: stub.CreateMemory(request), PeerUnavailableError)
    assert len(server.desk.seen) == 1
    request.request_id = "00000000-0000-7000-8000-000000000001"
    server.desk.script["CreateMemory"].append(grpc.StatusCode.UNAVAILABLE)
    await stub.CreateMemory(request)
    assert len(server.desk.seen) == 3
    server.desk.script["CreateMemory"].append(grpc.StatusCode.UNAVAILABLE)
    raw = channel.unary_unary("/mnemocore.memory.v1.MemoryService/CreateMemory")
    assert isinstance(await raw(request.SerializeToString()), bytes)
    assert len(server.desk.seen) == 5


async def test_the_server_names_the_pause_if_it_fits(
    server: TestServer, channel: ResilientChannel, clock: FastClock
) -> None:
    lagging = IndexLaggingError(space="a", wanted="2", applied="1", retry_after=4.5)
    server.desk.script["GetSpace"].append(lagging)
    await spaces(channel).GetSpace(GET, timeout=60)
    assert clock.slept == [4.5]
    server.desk.script["GetSpace"].append(lagging)
    with pytest.raises(IndexLaggingError) as caught:
        await spaces(channel).GetSpace(GET, timeout=4)
    assert caught.value.metadata == {"space": "a", "wanted": "2", "applied": "1"}
    assert caught.value.retry_after == 4.5
    assert clock.slept == [4.5]


async def test_retries_end_with_their_budget(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = ShuttingDownError()
    calls_made = 40
    await fail(calls_made, lambda: spaces(channel).GetSpace(GET), ShuttingDownError)
    assert len(server.desk.seen) <= calls_made + 10 + calls_made * 0.1
    assert channel.retry_budget.tokens < 1


# Breaker


async def test_a_dead_service_is_left_alone(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = grpc.StatusCode.UNAVAILABLE
    await fail(2, lambda: spaces(channel).GetSpace(GET), MnemoError)
    assert len(server.desk.seen) == 5
    assert channel.breaker(SPACES).state is BreakerState.OPEN
    await fail(100, lambda: spaces(channel).GetSpace(GET), CircuitOpenError)
    assert len(server.desk.seen) == 5
    # The other services at the same target are not touched.
    await GatewayServiceStub(channel).GetCapabilities(CAPABILITIES)


@pytest.mark.parametrize("answer", [grpc.StatusCode.UNAVAILABLE, StoreUnavailableError(retry_after=1.0)])
async def test_fifty_callers_of_a_dead_service_for_thirty_seconds(
    server: TestServer, channel: ResilientChannel, clock: FastClock, answer: Any
) -> None:
    server.desk.always["GetSpace"] = answer
    start = clock.monotonic()
    probes = 0
    while clock.monotonic() < start + 95:
        round_started = clock.monotonic() - start
        results = await asyncio.gather(*(spaces(channel).GetSpace(GET) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(result, MnemoError) for result in results)
        probes = int((clock.monotonic() - start) // 30)
        assert len(server.desk.seen) <= 5 + probes, f"after {round_started} s"
        clock.skipped += 1
    assert probes == 3
    assert len(server.desk.seen) == 5 + probes


async def test_recovery_is_one_probe_away(server: TestServer, channel: ResilientChannel, clock: FastClock) -> None:
    server.desk.always["GetSpace"] = grpc.StatusCode.UNAVAILABLE
    await fail(2, lambda: spaces(channel).GetSpace(GET))
    del server.desk.always["GetSpace"]
    gate = asyncio.Event()
    server.desk.script["GetSpace"].append(gate)
    server.desk.seen.clear()
    server.desk.arrived.clear()
    clock.skipped += 30
    probe = asyncio.create_task(spaces(channel).GetSpace(GET))
    await asyncio.wait_for(server.desk.arrived.wait(), 60)
    await fail(5, lambda: spaces(channel).GetSpace(GET), CircuitOpenError)
    assert len(server.desk.seen) == 1
    gate.set()
    await probe
    await spaces(channel).GetSpace(GET)
    assert channel.breaker(SPACES).state is BreakerState.CLOSED


async def test_a_cancelled_probe_gives_its_place_back(
    server: TestServer, channel: ResilientChannel, clock: FastClock
) -> None:
    server.desk.always["GetSpace"] = grpc.StatusCode.UNAVAILABLE
    await fail(2, lambda: spaces(channel).GetSpace(GET))
    server.desk.always["GetSpace"] = asyncio.Event()
    server.desk.arrived.clear()
    clock.skipped += 30
    probe = asyncio.create_task(spaces(channel).GetSpace(GET))
    await asyncio.wait_for(server.desk.arrived.wait(), 60)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert channel.breaker(SPACES).state is BreakerState.HALF_OPEN
    del server.desk.always["GetSpace"]
    await spaces(channel).GetSpace(GET)


@pytest.mark.parametrize(
    "answer",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        SpaceNotFoundError(space="a"),
        OverloadedError(),
        grpc.StatusCode.INTERNAL,
        ShuttingDownError(),
        IndexLaggingError(space="a", wanted="2", applied="1"),
        PeerUnavailableError(target="index"),
    ],
)
async def test_answers_of_a_working_service_never_open_the_breaker(
    server: TestServer, channel: ResilientChannel, answer: Any
) -> None:
    server.desk.always["GetSpace"] = answer
    await fail(12, lambda: spaces(channel).GetSpace(GET, timeout=1))
    assert channel.breaker(SPACES).state is BreakerState.CLOSED


async def test_cancelled_callers_never_open_the_breaker(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = asyncio.Event()
    for _ in range(12):
        server.desk.arrived.clear()
        call = asyncio.create_task(spaces(channel).GetSpace(GET))
        await asyncio.wait_for(server.desk.arrived.wait(), 60)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert channel.breaker(SPACES).state is BreakerState.CLOSED


async def test_deadlines_count_only_if_there_was_time(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.always["GetSpace"] = asyncio.Event()
    await fail(8, lambda: spaces(channel).GetSpace(GET, timeout=0.02), DeadlineExceededError)
    assert channel.breaker(SPACES).state is BreakerState.CLOSED
    server.desk.always["GetSpace"] = grpc.StatusCode.DEADLINE_EXCEEDED  # as if all the time had passed
    await fail(5, lambda: spaces(channel).GetSpace(GET), DeadlineExceededError)
    assert channel.breaker(SPACES).state is BreakerState.OPEN


async def test_a_rule_of_its_own(server: TestServer, clock: FastClock) -> None:
    inner = grpc.aio.insecure_channel(server.target)
    async with ResilientChannel(inner, "db", clock=clock, breaker_rule=BreakerRule(threshold=1)) as channel:
        server.desk.always["GetSpace"] = grpc.StatusCode.UNAVAILABLE
        await fail(1, lambda: spaces(channel).GetSpace(GET), CircuitOpenError)
        assert len(server.desk.seen) == 1


# Streams


def start(after: int = 0) -> event_service_pb2.SubscribeEventsRequest:
    return event_service_pb2.SubscribeEventsRequest(
        start=event_service_pb2.SubscribeEventsRequest.Start(after_position=after, credit=10)
    )


async def test_a_stream_is_read_until_it_breaks(server: TestServer, channel: ResilientChannel) -> None:
    call: Any = EventServiceStub(channel).SubscribeEvents()
    await call.write(start())
    assert (await anext(call)).resume_position == 1
    assert server.desk.seen[0].time_remaining is None
    server.events.hang_up.set()
    with pytest.raises(PeerUnavailableError, match=server.target):
        await anext(call)
    assert call.done()
    with pytest.raises(PeerUnavailableError):
        await call.write(start())


async def test_a_stream_of_requests_from_an_iterator(server: TestServer, channel: ResilientChannel) -> None:
    async def requests() -> AsyncIterator[memory_service_pb2.IngestMemoriesRequest]:
        for _ in range(3):
            yield memory_service_pb2.IngestMemoriesRequest(
                parent="spaces/a", memories=[resources_pb2.MemoryInput(content="x")]
            )

    call: Any = MemoryServiceStub(channel).IngestMemories(requests())
    assert [answer.batch async for answer in call] == [0, 1, 2]
    assert len(server.book.spaces["spaces/a"]) == 3


async def test_a_stream_that_is_refused_says_why(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.script["SubscribeEvents"].append(ShuttingDownError())
    call: Any = EventServiceStub(channel).SubscribeEvents()
    with pytest.raises(ShuttingDownError):
        await call.read()


async def test_a_stream_may_have_a_deadline(channel: ResilientChannel) -> None:
    call: Any = EventServiceStub(channel).SubscribeEvents(timeout=0.2)
    with pytest.raises(DeadlineExceededError):
        async for _ in call:
            pass


async def test_streams_pass_the_breaker(server: TestServer, channel: ResilientChannel, clock: FastClock) -> None:
    stub: Any = EventServiceStub(channel)
    server.desk.always["SubscribeEvents"] = grpc.StatusCode.UNAVAILABLE
    await fail(5, lambda: stub.SubscribeEvents().read(), PeerUnavailableError)
    with pytest.raises(CircuitOpenError):
        stub.SubscribeEvents()
    del server.desk.always["SubscribeEvents"]
    clock.skipped += 30
    dropped = stub.SubscribeEvents()
    with pytest.raises(CircuitOpenError):
        stub.SubscribeEvents()
    del dropped
    cancelled = stub.SubscribeEvents()
    assert cancelled.cancel()
    probe = stub.SubscribeEvents()
    await anext(probe)
    probe.cancel()
    second = stub.SubscribeEvents()
    await anext(second)
    second.cancel()
    assert channel.breaker("mnemocore.events.v1.EventService").state is BreakerState.CLOSED


async def test_unary_stream_and_stream_unary() -> None:
    """No method of ours has these shapes yet; a proxy may meet them."""

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()
        if request == b"3":
            await context.abort(grpc.StatusCode.NOT_FOUND, "three")

    async def total(requests: AsyncIterator[bytes], context: Any) -> bytes:
        numbers = []
        async for request in requests:
            if request == b"0":
                await context.abort(grpc.StatusCode.NOT_FOUND, "zero")
            numbers.append(int(request))
        return str(sum(numbers)).encode()

    handlers = grpc.method_handlers_generic_handler(
        "test.v1.Shapes",
        {"Count": grpc.unary_stream_rpc_method_handler(count), "Total": grpc.stream_unary_rpc_method_handler(total)},
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            counting: Any = channel.unary_stream("/test.v1.Shapes/Count")(b"2")
            assert [item async for item in counting] == [b"0", b"1"]
            failing: Any = channel.unary_stream("/test.v1.Shapes/Count")(b"3")
            with pytest.raises(MnemoError, match="NOT_FOUND"):
                [item async for item in failing]
            adding: Any = channel.stream_unary("/test.v1.Shapes/Total")()
            await adding.write(b"1")
            await adding.write(b"2")
            await adding.done_writing()
            assert await adding == b"3"
            summing: Any = channel.stream_unary("/test.v1.Shapes/Total")(iter([b"4", b"5"]))
            assert await summing == b"9"
            refused: Any = channel.stream_unary("/test.v1.Shapes/Total")()
            await refused.write(b"0")
            with pytest.raises(MnemoError, match="NOT_FOUND"):
                await refused
            with pytest.raises(MnemoError, match="NOT_FOUND"):
                await refused.write(b"1")
    finally:
        await server.stop(None)


# Errors and channels


async def test_errors_keep_their_class_and_values(server: TestServer, channel: ResilientChannel) -> None:
    server.desk.script["GetSpace"].append(MemoryNotFoundError(memory="m"))
    with pytest.raises(MemoryNotFoundError) as caught:
        await spaces(channel).GetSpace(GET)
    assert caught.value.metadata == {"memory": "m"}
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_method_nobody_declares_has_a_deadline_too(server: TestServer, channel: ResilientChannel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    await fail(8, lambda: health.Check(health_pb2.HealthCheckRequest()), MethodNotFoundError)


async def test_a_server_that_is_slow_to_greet_is_waited_for(server: TestServer) -> None:
    """As one is on a busy machine, or over TLS to another continent."""
    host, _, port = server.target.rpartition(":")
    connections = 0

    async def greet_late(theirs: asyncio.StreamReader, ours: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        reader, writer = await asyncio.open_connection(host, int(port))
        greeting = await reader.read(1)
        await asyncio.sleep(0.8)  # the fault itself: gRPC counts the time for one attempt to connect by no other clock
        ours.write(greeting)
        await asyncio.gather(_forward(theirs, writer), _forward(reader, ours))

    async with await asyncio.start_server(greet_late, "127.0.0.1", 0) as slow:
        slow_port = slow.sockets[0].getsockname()[1]
        async with open_channel(f"127.0.0.1:{slow_port}") as opened:
            await spaces(opened).GetSpace(GET)
    assert connections == 1


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    target.close()


async def test_the_channel_shows_its_state(server: TestServer) -> None:
    channel = open_channel(server.target)
    assert channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.SHUTDOWN
    await asyncio.wait_for(channel.channel_ready(), 60)
    waiting = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
    await channel.close()
    await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 60)


async def test_encrypted_channels(server: TestServer) -> None:
    for tls in (True, TlsFiles()):
        async with open_channel(server.target, tls=tls) as channel:
            with pytest.raises(PeerUnavailableError):  # the server speaks plain text
                await spaces(channel).GetSpace(GET, timeout=5)
