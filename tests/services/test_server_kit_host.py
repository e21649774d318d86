"""A host on its sockets: binding, health, reflection, drain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mnemocore.clock import SystemClock
from mnemocore.errors import InvalidSettingError
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.memory.v1 import space_service_pb2_grpc
from mnemocore.server import Host, HostPart, InternalAuthenticator, Lifecycle, Service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 60.0
NAME = "mnemocore.memory.v1.SpaceService"
IDENTITY = (("mnemo-internal-token", "secret"), ("mnemo-tenant", "acme"), ("mnemo-scopes", "*"))
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Spaces(space_service_pb2_grpc.SpaceServiceServicer):
    """Answers every space."""

    async def GetSpace(self, request: pb.GetSpaceRequest, context: Any) -> pb.GetSpaceResponse:
        response = pb.GetSpaceResponse()
        response.space.name = request.name
        return response


PARTIAL: Any = Spaces
"""The servicer without the methods that are left out, which its type insists on."""


class SteppingClock(SystemClock):
    """A clock whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._sleeping = asyncio.Event()
        self._step = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._step.clear()
        self._sleeping.set()
        await self._step.wait()

    def wake(self) -> None:
        """Wake the sleeper."""
        self._step.set()

    async def until_asleep(self, seconds: float) -> None:
        """Return when somebody sleeps for `seconds`."""
        async with asyncio.timeout(SECONDS):
            while seconds not in self.slept:
                self._sleeping.clear()
                await self._sleeping.wait()

    async def step(self) -> None:
        """Wake the sleeper and return when it sleeps again."""
        await asyncio.wait_for(self._sleeping.wait(), SECONDS)
        self._sleeping.clear()
        self._step.set()
        await asyncio.wait_for(self._sleeping.wait(), SECONDS)


def make_host(**options: Any) -> Host:
    service = Service(PARTIAL(), space_service_pb2_grpc.add_SpaceServiceServicer_to_server, NAME)
    return Host("test", [service], authenticator=InternalAuthenticator("secret"), **options)


async def get(channel: grpc.aio.Channel) -> str:
    stub: Any = space_service_pb2_grpc.SpaceServiceStub(channel)
    response = await stub.GetSpace(pb.GetSpaceRequest(name="spaces/a"), timeout=SECONDS, metadata=IDENTITY)
    return str(response.space.name)


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)).status)


async def test_it_listens_on_ports_and_sockets_at_once(tmp_path: Path) -> None:
    host = make_host()
    addresses = await host.start(["127.0.0.1:0", f"unix:{tmp_path}/s"])
    assert addresses[0].startswith("127.0.0.1:")
    assert not addresses[0].endswith(":0")
    for address in addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            assert await get(channel) == "spaces/a"
    await host.drain(SECONDS)


async def test_without_an_address_it_serves_in_process() -> None:
    host = make_host()
    assert await host.start() == []
    assert await get(host.channel()) == "spaces/a"
    await host.drain(SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(host.channel())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_taken_port_is_refused_by_name() -> None:
    first, second = make_host(), make_host()
    [address] = await first.start(["127.0.0.1:0"])
    with pytest.raises(InvalidSettingError, match=f"listen = '{address}': cannot be bound"):
        await second.start(["127.0.0.1:0", address])
    await first.drain(SECONDS)
    assert await second.start([address]) == [address]
    await second.drain(SECONDS)


async def test_a_socket_another_server_answers_on_is_refused(tmp_path: Path) -> None:
    first, second = make_host(), make_host()
    address = f"unix:{tmp_path}/s"
    await first.start([address])
    with pytest.raises(InvalidSettingError, match="another server answers there"):
        await second.start([address])
    async with grpc.aio.insecure_channel(address) as channel:
        assert await get(channel) == "spaces/a"
    await first.drain(SECONDS)
    await second.start([address])
    await second.drain(SECONDS)


@pytest.mark.parametrize("address", ["7400", "localhost", ":7400", "127.0.0.1:http", "unix:/no/such/directory/s"])
async def test_addresses_that_cannot_be_served(address: str) -> None:
    with pytest.raises(InvalidSettingError, match="listen = "):
        await make_host().start([address])


async def test_large_messages_pass() -> None:
    host = make_host()
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/{NAME}/GetSpace")
        huge = pb.GetSpaceRequest(name="spaces/" + "a" * 8_000_000).SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(huge, timeout=SECONDS, metadata=IDENTITY)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await host.drain(SECONDS)


class Readiness:
    """What the store says when it is asked."""

    def __init__(self) -> None:
        self.answer: Callable[[], bool] = lambda: True

    async def __call__(self) -> bool:
        return self.answer()


def fail() -> bool:
    raise ConnectionError("the store does not answer")


async def test_health_follows_readiness_and_never_swallows_a_failure() -> None:
    clock, readiness = SteppingClock(), Readiness()
    host = make_host(clock=clock, readiness=readiness)
    channel = host.channel()
    assert await health(channel) == NOT_SERVING
    await host.start()
    assert (await health(channel), await health(channel, NAME), host.ready) == (SERVING, SERVING, True)
    for answer, expected in ((fail, NOT_SERVING), (lambda: True, SERVING), (lambda: False, NOT_SERVING)):
        readiness.answer = answer
        await clock.step()
        assert (await health(channel), await health(channel, NAME)) == (expected, expected)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(channel, "no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await host.drain(SECONDS)


async def test_a_host_that_is_not_ready_does_not_say_so() -> None:
    readiness = Readiness()
    readiness.answer = fail
    host = make_host(readiness=readiness)
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        assert await health(channel) == NOT_SERVING
    await host.drain(SECONDS)


async def test_watchers_of_health_see_the_drain() -> None:
    host = make_host()
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == SERVING
        drained = asyncio.ensure_future(host.drain(SECONDS))
        assert (await asyncio.wait_for(watch.read(), SECONDS)).status == NOT_SERVING
        await asyncio.wait_for(drained, SECONDS)


async def test_a_probe_period_passes_before_calls_are_refused() -> None:
    clock = SteppingClock()
    host = make_host(clock=clock)
    await host.start()
    drained = asyncio.ensure_future(host.drain(SECONDS, probe_period=7.0))
    await clock.until_asleep(7.0)
    assert await health(host.channel()) == NOT_SERVING
    assert await get(host.channel()) == "spaces/a"
    assert not host.draining.is_set()
    clock.wake()
    await asyncio.wait_for(drained, SECONDS)


async def test_reflection_lists_the_services() -> None:
    host = make_host()
    [address] = await host.start(["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        ]
        listed, described = [response async for response in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert described.file_descriptor_response.file_descriptor_proto
    await host.drain(SECONDS)


class Echo(grpc.GenericRpcHandler):
    """A proxy that passes the bytes of one method back."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/ListSpaces"):
            return grpc.unary_unary_rpc_method_handler(self._echo)
        return None

    async def _echo(self, request: bytes, context: Any) -> bytes:
        return request


@pytest.mark.parametrize("wire", [True, False])
async def test_extra_handlers_pass_bytes_through_the_same_stages(wire: bool) -> None:
    host = Host("proxy", [], authenticator=InternalAuthenticator("secret"), extra_handlers=[Echo()])
    [address] = await host.start(["127.0.0.1:0"])
    channel = grpc.aio.insecure_channel(address) if wire else host.channel()
    async with channel:
        raw: Any = channel.unary_unary(f"/{NAME}/ListSpaces")
        assert await raw(b"\xff anything", timeout=SECONDS, metadata=IDENTITY) == b"\xff anything"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"", timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        typed: Any = channel.unary_unary(
            f"/{NAME}/ListSpaces", pb.ListSpacesRequest.SerializeToString, pb.ListSpacesResponse.FromString
        )
        answer = await typed(pb.ListSpacesRequest(page_token="t"), timeout=SECONDS, metadata=IDENTITY)
        assert answer.next_page_token == "t"
    await host.drain(SECONDS)


async def test_a_host_is_a_part_of_a_lifecycle() -> None:
    part = HostPart(make_host(), ["127.0.0.1:0"], grace=SECONDS)
    lifecycle = Lifecycle([part])
    await lifecycle.start()
    async with grpc.aio.insecure_channel(part.addresses[0]) as channel:
        assert await get(channel) == "spaces/a"
    await lifecycle.stop()
