"""event-bus as a process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mnemocore import calls
from mnemocore.events.v1 import event_service_pb2 as pb
from mnemocore.events.v1 import event_service_pb2_grpc
from mnemocore.free_port import free_port
from mnemocore.postgres import EmbeddedPostgres
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Iterator

TOKEN = "a token"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of pytest's own, whose permissions another session may tighten at any time."""
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as path:
        yield Path(path)


@asynccontextmanager
async def process(**settings: str) -> AsyncIterator[Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment |= {f"MNEMO_EVENTS_{name.upper()}": value for name, value in settings.items()}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mnemo_events", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def refusal(running: Process) -> str:
    """The last line of a process that cannot run."""
    _, errors = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 1
    assert b"Traceback" not in errors
    return errors.decode().splitlines()[-1]


async def serves(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_missing_setting_is_named() -> None:
    async with process() as running:
        assert await refusal(running) == (
            "mnemo-events: MNEMO_EVENTS_DATABASE_URL is not set: "
            "PostgreSQL URL of the log and of everything else of the service."
        )


async def test_a_database_that_can_lose_writes_is_refused(database_url: str) -> None:
    async with process(database_url=database_url, internal_token=TOKEN) as running:
        assert "fsync = off" in await refusal(running)


async def test_a_log_that_is_nowhere_is_refused(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgres")
    await postgres.start()
    settings = {"database_url": postgres.url, "internal_token": TOKEN, "log_url": "mysql://user:password@host"}
    async with process(**settings) as running:
        assert await refusal(running) == (
            "mnemo-events: MNEMO_EVENTS_LOG_URL = (hidden): "
            "allowed is a URL that begins with one of redis://, rediss://, unix://, or nothing"
        )
    await postgres.stop()


async def test_an_address_in_use_is_refused(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgres")
    await postgres.start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"database_url": postgres.url, "internal_token": TOKEN, "listen": address}
        async with process(**settings) as running:
            assert "cannot be bound" in await refusal(running)
    await postgres.stop()


async def test_it_waits_for_its_store_serves_its_streams_and_ends_in_peace(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgres")
    address = f"127.0.0.1:{free_port()}"
    settings = {"database_url": postgres.url, "internal_token": TOKEN, "listen": address, "max_streams": "1"}
    async with process(**settings) as running, grpc.aio.insecure_channel(address) as channel:
        assert running.stderr is not None
        assert b"waiting: the store does not answer" in await line_with(running.stderr, b"waiting")
        await postgres.start()
        channel.get_state(try_to_connect=True)
        await until(lambda: serves(channel), 60)
        events = event_service_pb2_grpc.EventServiceStub(channel)
        call, another = (events.SubscribeEvents(metadata=((calls.INTERNAL_TOKEN_HEADER, TOKEN),)) for _ in range(2))
        start = pb.SubscribeEventsRequest.Start(credit=1, head_at_once=True)
        await call.write(pb.SubscribeEventsRequest(start=start))
        await asyncio.wait_for(call.read(), 60)
        assert await failure(another) is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.terminate()
        assert await failure(call) is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(running.communicate(), 60)
        assert running.returncode == 0
    await postgres.stop()


async def failure(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 60)
    return caught.value.code()


async def line_with(stream: asyncio.StreamReader, part: bytes) -> bytes:
    async with asyncio.timeout(60):
        while part not in (line := await stream.readline()):
            assert line, "the process ended"
        return line
