"""event-bus, its engine and its consumers as processes that can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, Protocol

import asyncpg
import grpc
import psutil
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mnemocore.free_port import free_port
from mnemocore.postgres import EmbeddedPostgres
from mnemocore.testing.redis import TestRedis
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

TOKEN: Final = "a token"
SECONDS: Final = 60.0


def environment_with(**settings: str) -> dict[str, str]:
    """The environment of a process of ours: no settings but these, in which `MNEMO_EVENTS_` is left out."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment | {f"MNEMO_EVENTS_{name.upper()}": value for name, value in settings.items()}


class Engine(Protocol):
    """A durable store that can be killed."""

    async def start(self) -> None:
        """Start it."""

    async def settings(self) -> dict[str, str]:
        """Settings of a bus on an empty part of it."""

    async def kill(self) -> None:
        """kill -9; it is started again on what it has written."""

    async def stop(self) -> None:
        """End it."""


class PostgresEngine:
    """PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._server = EmbeddedPostgres(self._folder)
        self._databases = 0

    async def start(self) -> None:
        """Start it."""
        await self._server.start()

    async def settings(self) -> dict[str, str]:
        """A database of its own."""
        self._databases += 1
        name = f"bus{self._databases}"
        connection = await asyncpg.connect(self._server.url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return {"database_url": self._server.url_for(name)}

    async def kill(self) -> None:
        """Kill the postmaster; the embedded server starts it again."""
        killed = int((self._folder / "postmaster.pid").read_text().split()[0])
        os.kill(killed, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(killed), SECONDS)
        await until(self._answers, SECONDS)

    async def stop(self) -> None:
        """End it."""
        await self._server.stop()

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self._server.url)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True


class RedisEngine:
    """Redis for the log and the groups, PostgreSQL for the rest; Redis is killed."""

    def __init__(self, folder: Path) -> None:
        self._postgres = PostgresEngine(folder)
        self._server = TestRedis(own=True)

    async def start(self) -> None:
        """Start both."""
        await self._postgres.start()
        await asyncio.to_thread(self._server.start)

    async def settings(self) -> dict[str, str]:
        """A database of Redis and one of PostgreSQL."""
        await asyncio.to_thread(self._empty)
        return await self._postgres.settings() | {"log_url": self._server.url}

    async def kill(self) -> None:
        """Kill Redis and start it again."""
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        """End both."""
        await asyncio.to_thread(self._server.stop)
        await self._postgres.stop()

    def _empty(self) -> None:
        with redis.Redis.from_url(self._server.url) as client:
            client.flushall()


class BusProcess:
    """`python -m mnemo_events` at one address, however often it is started; what it says goes to the file `log`.

    `settings` come before those that it has otherwise.
    """

    def __init__(self, log: Path, **settings: str) -> None:
        self._log = log
        self.address = f"127.0.0.1:{free_port()}"
        self._environment = environment_with(
            **{"internal_token": TOKEN, "listen": self.address, "log_level": "ERROR", "poll_seconds": "0.5"} | settings
        )
        self._process: Process | None = None

    async def start(self) -> None:
        """Return when it serves."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mnemo_events", env=self._environment, stderr=log
            )
        async with grpc.aio.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            await until(lambda: _serves(channel), SECONDS)

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM; it ends in peace."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), SECONDS)


class ConsumerProcess:
    """`python -m tests.event_consumer`."""

    def __init__(self, tenant: str, process: Process) -> None:
        self.tenant = tenant
        self._process = process

    @classmethod
    async def start(
        cls, bus: BusProcess, tenant: str, group: str, member: str, file: Path, **options: object
    ) -> ConsumerProcess:
        """Start a member of a group; it connects by itself."""
        command = [sys.executable, "-m", "tests.event_consumer", bus.address, TOKEN, tenant, group, member, str(file)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return cls(tenant, await asyncio.create_subprocess_exec(*command, env=environment_with()))

    def pause(self) -> None:
        """SIGSTOP."""
        psutil.Process(self._process.pid).suspend()

    def resume(self) -> None:
        """SIGCONT."""
        psutil.Process(self._process.pid).resume()

    async def kill(self) -> None:
        """kill -9."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.returncode is not None


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
