"""What event-bus says in its log while a store of it is away: that it is, and that it is back, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import re
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests.event_processes import TOKEN, BusProcess, PostgresEngine
from tests.webhook_server import Endpoint, endpoint

from mnemocore import calls
from mnemocore.events.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    group_service_pb2,
    group_service_pb2_grpc,
    resources_pb2,
    webhook_service_pb2,
    webhook_service_pb2_grpc,
)
from mnemocore.testing.redis import TestRedis
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SECONDS: Final = 60.0
AWAY_SECONDS: Final = 3.0
"""Long enough for every worker to fail some times."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of PostgreSQL may reach."""
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as path:
        yield Path(path)


class Bus:
    """A process with a webhook, a member of a group and a watcher of agents, and what can be asked of it."""

    def __init__(self, process: BusProcess, log: Path, receiver: Endpoint) -> None:
        self.process = process
        self.receiver = receiver
        self._file = log
        self._channel = grpc.aio.insecure_channel(process.address, [("grpc.use_local_subchannel_pool", 1)])
        self._streams: list[Any] = []
        self.member: Any = None

    async def begin(self) -> None:
        webhook = resources_pb2.Webhook(url=self.receiver.url, secret="a secret of a webhook")
        request = webhook_service_pb2.CreateWebhookRequest(webhook_id="all", webhook=webhook)
        await self._ask(webhook_service_pb2_grpc.WebhookServiceStub(self._channel).CreateWebhook, request)
        groups = group_service_pb2_grpc.GroupServiceStub(self._channel)
        await self._ask(groups.CreateGroup, group_service_pb2.CreateGroupRequest(group_id="g"))
        self.member = await self.join()
        agents = agent_service_pb2_grpc.AgentServiceStub(self._channel)
        watching = agents.WatchAgents(agent_service_pb2.WatchAgentsRequest(), metadata=_metadata("acme"))
        await watching.read()
        self._streams.append(watching)

    async def join(self) -> Any:
        """A member of the group, that says of nothing what became of it."""
        consuming = group_service_pb2_grpc.GroupServiceStub(self._channel).ConsumeEvents(metadata=_metadata("acme"))
        start = group_service_pb2.ConsumeEventsRequest.Start(name="groups/g", credit=1000)
        await consuming.write(group_service_pb2.ConsumeEventsRequest(start=start))
        self._streams.append(consuming)
        return consuming

    async def publish(self, id: str) -> None:
        event = resources_pb2.Event(id=id, source="test", type="a.b", tenant="acme", time=Timestamp(seconds=1))
        stub = event_service_pb2_grpc.EventServiceStub(self._channel)
        request = event_service_pb2.PublishEventsRequest(events=[event])
        await stub.PublishEvents(request, timeout=5, metadata=_metadata(""))

    async def sends(self, id: str) -> bool:
        """Whether an event can be published again, and has arrived at the webhook."""
        with suppress(grpc.aio.AioRpcError):
            await self.publish(id)
        return id in self.receiver.ids

    async def end(self) -> None:
        for stream in self._streams:
            stream.cancel()
        await self._channel.close()

    def said(self) -> list[str]:
        """The lines of the log that are not about calls; those of a traceback are lines as well."""
        return [line for line in self._file.read_text().splitlines() if " ms tenant=" not in line]

    async def _ask(self, method: Any, request: Any) -> None:
        await method(request, timeout=SECONDS, metadata=_metadata("acme"))


def _metadata(tenant: str) -> list[tuple[str, str]]:
    metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
    if tenant:
        metadata += [
            (calls.TENANT_HEADER, tenant),
            (calls.PRINCIPAL_HEADER, "ada"),
            (calls.SCOPES_HEADER, "events:admin"),
        ]
    return metadata


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[Bus]:
    log = folder / "log"
    key = "one:" + base64.b64encode(bytes(32)).decode()
    options = {"webhook_allow": "127.0.0.0/8", "master_keys": key, "log_level": "INFO", "log_format": "text"}
    process = BusProcess(log, **options, **settings)
    await process.start()
    with endpoint() as receiver:
        bus = Bus(process, log, receiver)
        try:
            await bus.begin()
            await until(lambda: bus.sends("before"), SECONDS)
            yield bus
        finally:
            await bus.end()
            await process.stop()


async def outlast(bus: Bus) -> None:
    """Let a store be away for a while, with somebody asking for it."""
    until_then = time.monotonic() + AWAY_SECONDS

    async def over() -> bool:
        with suppress(grpc.aio.AioRpcError):
            await bus.publish("away")
        return time.monotonic() > until_then

    await until(over, SECONDS)


async def attempt(member: Any, id: str) -> int:
    """As which attempt a member is given an event, as soon as it is."""
    async with asyncio.timeout(SECONDS / 2):  # less than a lease
        while True:
            for delivery in (await member.read()).deliveries:
                if delivery.event.event.id == id:
                    return int(delivery.attempt)


def lines(said: list[str], what: str, level: str) -> list[str]:
    return [line for line in said if re.search(rf" {level} .*{what}", line)]


async def check(bus: Bus, store: str, leave: Callable[[], Any], come_back: Callable[[], Any]) -> None:
    await leave()
    await outlast(bus)
    await come_back()
    await until(lambda: bus.sends("after"), SECONDS)
    await until(lambda: bool(lines(bus.said(), f"{store} answers again", "INFO")), SECONDS)
    said = bus.said()
    assert len(lines(said, f"{store} does not answer", "WARNING")) == 1, said
    assert len(lines(said, f"{store} answers again", "INFO")) == 1, said
    assert not [line for line in said if "Traceback" in line or " ERROR " in line], said
    assert len(lines(said, "", "WARNING")) == 1, said


async def test_postgresql_is_away(folder: Path) -> None:
    postgres = PostgresEngine(folder)
    await postgres.start()
    try:
        async with running(folder, **await postgres.settings()) as bus:
            await check(bus, "PostgreSQL", postgres.stop, postgres.start)
    finally:
        await postgres.stop()


async def test_redis_is_away(folder: Path) -> None:
    postgres, redis = PostgresEngine(folder), TestRedis(own=True)
    await postgres.start()
    try:
        await asyncio.to_thread(redis.start)
        async with running(folder, **await postgres.settings(), log_url=redis.url) as bus:
            await check(bus, "Redis", lambda: asyncio.to_thread(redis.kill), lambda: asyncio.to_thread(redis.start))
    finally:
        await asyncio.to_thread(redis.stop)
        await postgres.stop()


async def test_what_a_member_had_when_redis_went_away_is_given_to_others_when_it_is_back(folder: Path) -> None:
    """Long before the lease of a minute is over, and as if it had not been given."""
    postgres, redis = PostgresEngine(folder), TestRedis(own=True)
    await postgres.start()
    try:
        await asyncio.to_thread(redis.start)
        async with running(folder, **await postgres.settings(), log_url=redis.url) as bus:
            assert await attempt(bus.member, "before") == 1
            await asyncio.to_thread(redis.kill)
            await outlast(bus)
            await asyncio.to_thread(redis.start)
            await until(lambda: bus.sends("after"), SECONDS)
            assert await attempt(await bus.join(), "before") == 1
    finally:
        await asyncio.to_thread(redis.stop)
        await postgres.stop()
