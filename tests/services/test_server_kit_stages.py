"""The stages around a call: order, admission, deadlines, identity, logs, traces and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.errors import (
    DeadlineRequiredError,
    InvalidFieldError,
    MethodNotFoundError,
    MnemoError,
    OverloadedError,
    PermissionDeniedError,
    ShuttingDownError,
    UnauthenticatedError,
)
from mnemocore.ids import Tenant
from mnemocore.index.v1 import index_service_pb2, index_service_pb2_grpc
from mnemocore.memory.v1 import memory_service_pb2 as memory
from mnemocore.memory.v1 import memory_service_pb2_grpc, space_service_pb2_grpc
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.server import AdmissionLimits, Host, InternalAuthenticator, Service
from mnemocore.server.admission import Gate
from mnemocore.server.chain import ORDER, Chain
from mnemocore.server.failures import ErrorsStage
from mnemocore.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

SECONDS = 60.0
TOKEN = ("mnemo-internal-token", "secret")
IDENTITY = (TOKEN, ("mnemo-tenant", "acme"), ("mnemo-principal", "tester"), ("mnemo-scopes", "memory:read"))


class Spaces(space_service_pb2_grpc.SpaceServiceServicer):
    """GetSpace tells what the handler sees; `spaces/hold` waits for `release`. The other methods are left out."""

    def __init__(self) -> None:
        self.held = 0
        self.hold_changed = asyncio.Condition()
        self.release = asyncio.Event()
        self.time_left = 0.0

    async def GetSpace(self, request: pb.GetSpaceRequest, context: Any) -> pb.GetSpaceResponse:
        if request.name == "spaces/hold":
            await self._hold()
        deadline = calls.deadline.get()
        self.time_left = 0.0 if deadline is None else deadline - time.monotonic()
        response = pb.GetSpaceResponse()
        response.space.description = calls.request_id.get()
        return response

    async def _hold(self) -> None:
        async with self.hold_changed:
            self.held += 1
            self.hold_changed.notify_all()
        await self.release.wait()

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(SECONDS), self.hold_changed:
            await self.hold_changed.wait_for(lambda: self.held == count)


class Index(index_service_pb2_grpc.IndexServiceServicer):
    """An internal service."""

    async def GetIndexStatus(
        self, request: index_service_pb2.GetIndexStatusRequest, context: Any
    ) -> index_service_pb2.GetIndexStatusResponse:
        identity = calls.identity.get()
        return index_service_pb2.GetIndexStatusResponse(model=identity.tenant if identity else "nobody")


class Memories(memory_service_pb2_grpc.MemoryServiceServicer):
    """A bidirectional stream that answers each batch with its size."""

    async def IngestMemories(
        self, request_iterator: AsyncIterator[memory.IngestMemoriesRequest], context: Any
    ) -> AsyncIterator[memory.IngestMemoriesResponse]:
        async for request in request_iterator:
            yield memory.IngestMemoriesResponse(batch=len(request.memories))


def _partial(servicer: Any) -> Any:
    """A servicer without the methods that are left out, which its type insists on."""
    return servicer()


class World:
    """A host on the wire and what a test calls it by."""

    def __init__(self, host: Host, spaces: Spaces, channel: grpc.aio.Channel) -> None:
        self.host = host
        self.spaces = spaces
        self.channel = channel
        self.stub: Any = space_service_pb2_grpc.SpaceServiceStub(channel)
        self.index: Any = index_service_pb2_grpc.IndexServiceStub(channel)
        self.memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)

    def get(self, name: str = "spaces/a", *, timeout: float | None = SECONDS, metadata: Any = IDENTITY) -> Any:
        return self.stub.GetSpace(pb.GetSpaceRequest(name=name), timeout=timeout, metadata=metadata)


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    spaces = _partial(Spaces)
    services = [
        Service(spaces, space_service_pb2_grpc.add_SpaceServiceServicer_to_server, "mnemocore.memory.v1.SpaceService"),
        Service(
            _partial(Index),
            index_service_pb2_grpc.add_IndexServiceServicer_to_server,
            "mnemocore.index.v1.IndexService",
        ),
        Service(
            _partial(Memories),
            memory_service_pb2_grpc.add_MemoryServiceServicer_to_server,
            "mnemocore.memory.v1.MemoryService",
        ),
    ]
    host = Host("test", services, authenticator=InternalAuthenticator("secret"), **options)
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield World(host, spaces, channel)
        finally:
            spaces.release.set()
            await host.drain(SECONDS)


async def error_of(call: Awaitable[Any]) -> MnemoError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, "server")


def test_the_order_of_the_stages_is_asserted() -> None:
    with pytest.raises(ValueError, match="they must be"):
        Chain([ErrorsStage()])
    assert ORDER.index("errors") < ORDER.index("admission") < ORDER.index("identity") < ORDER.index("validation")


@pytest.mark.parametrize("given", ["", "x" * 129, "tab\tbed"])
async def test_a_request_id_is_made_unless_a_good_one_is_given(given: str) -> None:
    async with world() as w:
        metadata = IDENTITY if "\t" in given or not given else (*IDENTITY, ("x-request-id", given))
        call = w.get(metadata=metadata)
        response = await call
        made = dict(await call.trailing_metadata())["x-request-id"]
        assert response.space.description == made != given
        call = w.get(metadata=(*IDENTITY, ("x-request-id", "mine 1")))
        assert (await call).space.description == dict(await call.trailing_metadata())["x-request-id"] == "mine 1"


async def test_a_full_server_refuses_at_once_and_serves_again() -> None:
    async with world(limits=AdmissionLimits(unary_running=2, unary_waiting=1, retry_after=0.5)) as w:
        held = [asyncio.ensure_future(w.get("spaces/hold")) for _ in range(2)]
        await w.spaces.until_held(2)
        waiting = [asyncio.ensure_future(w.get()) for _ in range(4)]
        refused, _ = await asyncio.wait(waiting, timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        error = await error_of(refused.pop())
        assert type(error) is OverloadedError
        assert error.retry_after == 0.5
        health: Any = w.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await health(b"", timeout=SECONDS) == b"\x08\x01"
        w.spaces.release.set()
        results = await asyncio.gather(*held, *waiting, return_exceptions=True)
        assert sum(isinstance(result, pb.GetSpaceResponse) for result in results) == 3
        await w.get()


async def test_streams_have_their_own_limits() -> None:
    async with world(limits=AdmissionLimits(stream_running=1, stream_waiting=0)) as w:
        batch = memory.IngestMemoriesRequest(parent="spaces/a", memories=[{"content": "x"}])  # type: ignore[list-item]
        metadata = (TOKEN, ("mnemo-tenant", "acme"), ("mnemo-scopes", "memory:write"))
        first = w.memories.IngestMemories(metadata=metadata)
        await first.write(batch)
        assert (await first.read()).batch == 1
        second = w.memories.IngestMemories(metadata=metadata)
        assert type(await error_of(second.read())) is OverloadedError
        await w.get()
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF


async def test_a_place_is_never_lost_to_a_waiter_that_gave_up() -> None:
    gate = Gate(1, 2, 1.0)
    await gate.enter()
    first, second = asyncio.ensure_future(gate.enter()), asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    assert (gate.running, gate.waiting) == (1, 2)
    with pytest.raises(OverloadedError):
        await gate.enter()
    first.cancel()
    await asyncio.wait([first])
    gate.leave()
    await asyncio.wait_for(second, SECONDS)
    third = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    third.cancel()
    await asyncio.wait([third])
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_call_without_a_deadline_is_refused() -> None:
    async with world() as w:
        assert type(await error_of(w.get(timeout=None))) is DeadlineRequiredError


@pytest.mark.parametrize(("asked", "least", "most"), [(5.0, 0.0, 5.0), (3600.0, 5.1, 60.0)])
async def test_a_deadline_travels_and_is_capped_by_the_method(asked: float, least: float, most: float) -> None:
    async with world() as w:
        await w.get(timeout=asked)
        assert least < w.spaces.time_left <= most + 0.1  # the wire rounds a timeout up


@pytest.mark.parametrize(
    ("scopes", "wanted", "allowed"),
    [
        ({"memory:read"}, "memory:read", True),
        ({"memory:read"}, "memory:write", False),
        ({"memory:admin"}, "memory:write", True),
        ({"memory:admin"}, "memory:read", True),
        ({"memory:admin"}, "events:read", False),
        ({"*"}, "gateway:admin", True),
        (set(), "memory:read", False),
        ({"memory:write"}, "memory:admin", False),
    ],
)
def test_scopes(scopes: set[str], wanted: str, allowed: bool) -> None:
    assert Identity(Tenant("t"), "p", frozenset(scopes)).allows(wanted) is allowed


async def test_who_may_call_what() -> None:
    async with world() as w:
        assert type(await error_of(w.get(metadata=()))) is UnauthenticatedError
        assert type(await error_of(w.get(metadata=(TOKEN,)))) is UnauthenticatedError
        events_only = (TOKEN, ("mnemo-tenant", "acme"), ("mnemo-scopes", "events:read"))
        denied = await error_of(w.get(metadata=events_only))
        assert type(denied) is PermissionDeniedError
        assert denied.metadata == {"scope": "memory:read"}
        status = index_service_pb2.GetIndexStatusRequest()
        assert (await w.index.GetIndexStatus(status, timeout=SECONDS, metadata=(TOKEN,))).model == "nobody"
        assert (await w.index.GetIndexStatus(status, timeout=SECONDS, metadata=IDENTITY)).model == "acme"
        assert type(await error_of(w.index.GetIndexStatus(status, timeout=SECONDS))) is UnauthenticatedError


async def test_internal_methods_do_not_exist_in_public() -> None:
    async with world(public_only=True) as w:
        await w.get()
        status = index_service_pb2.GetIndexStatusRequest()
        error = await error_of(w.index.GetIndexStatus(status, timeout=SECONDS, metadata=IDENTITY))
        unknown: Any = w.channel.unary_unary("/mnemocore.index.v1.IndexService/Nothing")
        assert type(error) is MethodNotFoundError
        assert type(await error_of(unknown(b"", timeout=SECONDS))) is MethodNotFoundError


async def test_methods_that_were_not_written_do_not_exist() -> None:
    async with world() as w:
        error = await error_of(w.stub.ListSpaces(pb.ListSpacesRequest(), timeout=SECONDS, metadata=IDENTITY))
        assert type(error) is MethodNotFoundError
        assert error.metadata == {"method": "/mnemocore.memory.v1.SpaceService/ListSpaces"}


async def test_a_thousand_violations_fit_into_the_answer() -> None:
    async with world() as w:
        request = memory.BatchGetMemoriesRequest(parent="spaces/a", ids=[f"\U0001f600{n}" * 20 for n in range(1000)])
        error = await error_of(w.memories.BatchGetMemories(request, timeout=SECONDS, metadata=IDENTITY))
        assert type(error) is InvalidFieldError
        assert error.violations[0].field == "ids[0]"
        assert error.violations[-1].description.endswith("violations from here on are not listed")


class Blocking(space_service_pb2_grpc.SpaceServiceServicer):
    """A mistake."""

    def GetSpace(self, request: pb.GetSpaceRequest, context: Any) -> pb.GetSpaceResponse:
        return pb.GetSpaceResponse()


def test_a_blocking_handler_is_refused_at_start() -> None:
    service = Service(_partial(Blocking), space_service_pb2_grpc.add_SpaceServiceServicer_to_server, "SpaceService")
    with pytest.raises(TypeError, match="GetSpace is not asynchronous"):
        Host("test", [service], authenticator=InternalAuthenticator("secret"))


def test_an_empty_internal_token_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        InternalAuthenticator("")


async def test_a_draining_server_refuses_new_calls_and_finishes_those_under_way() -> None:
    async with world() as w:
        local = space_service_pb2_grpc.SpaceServiceStub(w.host.channel(IDENTITY))
        held = asyncio.ensure_future(w.get("spaces/hold"))
        await w.spaces.until_held(1)
        drained = asyncio.ensure_future(w.host.drain(SECONDS))
        await asyncio.wait_for(w.host.draining.wait(), SECONDS)
        error = await error_of(w.get())
        assert type(error) is ShuttingDownError
        assert error.retry_after == 1.0
        in_process: Any = local.GetSpace(pb.GetSpaceRequest(name="spaces/a"), timeout=SECONDS)
        assert type(await error_of(in_process)) is ShuttingDownError
        assert not drained.done()
        w.spaces.release.set()
        assert type(await held) is pb.GetSpaceResponse
        await asyncio.wait_for(drained, SECONDS)


async def test_calls_that_outlast_the_grace_are_ended() -> None:
    async with world() as w:
        local: Any = space_service_pb2_grpc.SpaceServiceStub(w.host.channel(IDENTITY))
        wire = asyncio.ensure_future(w.get("spaces/hold"))
        inside = asyncio.ensure_future(_answer(local.GetSpace(pb.GetSpaceRequest(name="spaces/hold"), timeout=SECONDS)))
        await w.spaces.until_held(2)
        await asyncio.wait_for(w.host.drain(0.05), SECONDS)
        results: Any = await asyncio.gather(wire, inside, return_exceptions=True)
        assert [result.code() for result in results] == [grpc.StatusCode.UNAVAILABLE] * 2


async def _answer(call: Any) -> Any:
    return await call


async def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mnemocore.server.access")
    async with world() as w:
        channel = w.host.channel((*IDENTITY, ("x-request-id", "r1")))
        stub: Any = space_service_pb2_grpc.SpaceServiceStub(channel)
        await stub.GetSpace(pb.GetSpaceRequest(name="spaces/a"), timeout=SECONDS)
        await error_of(stub.GetSpace(pb.GetSpaceRequest(name="nowhere"), timeout=SECONDS))
        w.host.draining.set()
        await error_of(stub.GetSpace(pb.GetSpaceRequest(name="spaces/a"), timeout=SECONDS))
    records = [record for record in caplog.records if record.name == "mnemocore.server.access"]
    assert [record.levelname for record in records] == ["DEBUG", "INFO", "WARNING"]
    first: Any = records[0]
    assert (first.status, first.tenant, first.request_id) == ("OK", "acme", "r1")
    assert first.getMessage().startswith("/mnemocore.memory.v1.SpaceService/GetSpace OK ")
    assert [record.__dict__["status"] for record in records[1:]] == ["INVALID_ARGUMENT", "UNAVAILABLE"]


OBSERVED = """
import asyncio, json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from mnemocore.memory.v1 import space_service_pb2 as pb, space_service_pb2_grpc as rpc
from mnemocore.server import Host, InternalAuthenticator, Service

class Spaces(rpc.SpaceServiceServicer):
    async def GetSpace(self, request, context):
        return pb.GetSpaceResponse()

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))

async def main():
    service = Service(Spaces(), rpc.add_SpaceServiceServicer_to_server, "mnemocore.memory.v1.SpaceService")
    host = Host("test", [service], authenticator=InternalAuthenticator("t"))
    parent = "00-11111111111111111111111111111111-2222222222222222-01"
    stub = rpc.SpaceServiceStub(host.channel((
        ("mnemo-internal-token", "t"), ("mnemo-tenant", "a"), ("mnemo-scopes", "*"), ("traceparent", parent))))
    await stub.GetSpace(pb.GetSpaceRequest(name="spaces/a"), timeout=5)
    try:
        await stub.GetSpace(pb.GetSpaceRequest(name="nowhere"), timeout=5)
    except Exception:
        pass

asyncio.run(main())
found = {
    metric.name: [[dict(point.attributes), getattr(point, "value", None)] for point in metric.data.data_points]
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
}
[good, bad] = spans.get_finished_spans()
print(json.dumps({
    "metrics": found, "name": good.name,
    "trace": f"{good.context.trace_id:032x}", "parent": f"{good.parent.span_id:016x}",
    "status": [good.attributes["rpc.grpc.status"], bad.attributes["rpc.grpc.status"]],
}))
"""


def test_traces_continue_and_metrics_count() -> None:
    paths = [entry for entry in sys.path if entry.endswith("libs")]
    script = f"import sys; sys.path[:0] = {paths!r}\n{OBSERVED}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    seen = json.loads(result.stdout)
    method = "mnemocore.memory.v1.SpaceService/GetSpace"
    assert (seen["name"], seen["trace"], seen["parent"]) == (method, "1" * 32, "2" * 16)
    assert seen["status"] == ["OK", "INVALID_ARGUMENT"]
    assert seen["metrics"]["mnemo.server.calls"] == [
        [{"method": method, "status": "OK"}, 1],
        [{"method": method, "status": "INVALID_ARGUMENT"}, 1],
    ]
    assert seen["metrics"]["mnemo.server.in_flight"] == [[{"method": method}, 0]]
    assert len(seen["metrics"]["mnemo.server.duration"]) == 2
