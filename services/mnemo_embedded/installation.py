"""An installation in one process: five services and PostgreSQL on one data directory.

The services are the same as in a cluster and talk through the same stubs, stages and policies; only their channels stay
in the process. One network hop is left for a client: to the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_cognitive.app import CognitiveApp
from mnemo_embedded.admin_key import read_or_make_admin_key
from mnemo_embedded.webhook_key import master_keys_file
from mnemo_events.app import EventsApp, open_engine
from mnemo_events.settings import PREFIX as EVENTS_PREFIX
from mnemo_events.settings import EventsSettings
from mnemo_gateway.app import GatewayApp
from mnemo_gateway.settings import PREFIX as GATEWAY_PREFIX
from mnemo_gateway.settings import GatewaySettings
from mnemo_index.app import IndexApp
from mnemo_index.settings import PREFIX as INDEX_PREFIX
from mnemo_index.settings import IndexSettings, encoder_of
from mnemo_memory.app import MemoryApp
from mnemocore import master_keys
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import InvalidSettingError
from mnemocore.postgres import Database, DiskReserve, EmbeddedPostgres
from mnemocore.postgres.reserve import RESERVE_BYTES
from mnemocore.server.main import Streaming, host_of
from mnemocore.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import grpc

    from mnemocore.server import Host, Service

DRAIN_SECONDS: Final = 30.0
_POOL_SIZE: Final = 16
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]", "::1")
_log = logging.getLogger(__name__)


class _App(Protocol):
    """A service as its composition root offers it."""

    name: str
    services: list[Service]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ready(self) -> bool: ...


class Installation:
    """Everything on `directory`; as an async context manager it runs between enter and exit.

    `listen` is the address of the gateway, `host:port` or `unix:PATH`; empty: no socket, clients use `channel` alone.
    Writes are refused while less than `reserve_bytes` are free on the disk.
    A gateway that only this machine can reach takes calls without a credential as the local principal's.
    Entering raises DataDirectoryError or InvalidSettingError; whatever was started by then is stopped again.
    """

    def __init__(self, directory: Path, listen: str = "", *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.directory = directory
        self.address = ""
        """Where the gateway answers, with the real port."""
        self._listen = listen
        self._reserve_bytes = reserve_bytes
        self._clock = SystemClock()
        self._token = secrets.token_urlsafe(32)
        self._hosts: dict[str, Host] = {}
        self._stack = AsyncExitStack()

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to the gateway in this process."""
        return self._hosts["gateway"].channel()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        directory = await asyncio.to_thread(DataDirectory.acquire, self.directory)
        self._stack.callback(directory.release)
        postgres = EmbeddedPostgres(self.directory / "postgres")
        await postgres.start()
        self._stack.push_async_callback(postgres.stop)
        database = await Database.open(postgres.url, max_size=_POOL_SIZE, application_name="mnemo")
        self._stack.push_async_callback(database.close)

        await self._serve(await self._events(postgres.url, database))
        await self._serve(await self._index())
        reserve = DiskReserve(self.directory, self._clock, self._reserve_bytes)
        memory = MemoryApp(
            database,
            self._channel("index"),
            self._channel("events"),
            self._clock,
            reserve=reserve,
            master_keys=master_keys.from_environment(os.environ),
        )
        await self._serve(memory)
        await self._serve(CognitiveApp(database, self._channel("memory"), self._channel("index"), self._clock))
        await self._open_gateway(postgres.url, database)
        await asyncio.to_thread(directory.publish_address, self.address)

    async def _events(self, database_url: str, database: Database) -> EventsApp:
        """The event-bus with the engine, the retention and the webhooks that the environment chooses."""
        chosen = load(
            EventsSettings,
            EVENTS_PREFIX,
            os.environ,
            database_url=database_url,
            internal_token=self._token,
            master_keys_file=await asyncio.to_thread(master_keys_file, self.directory, os.environ),
        )
        engine = open_engine(chosen.log_url, database)
        self._stack.push_async_callback(engine.stop)
        return EventsApp.of(chosen, database, self._clock, engine)

    async def _index(self) -> IndexApp:
        """The index with the encoder and the language that the environment chooses."""
        folder = self.directory / "index"
        chosen = load(IndexSettings, INDEX_PREFIX, os.environ, data_dir=folder, internal_token=self._token)
        keep = timedelta(hours=chosen.keep_replaced_hours)
        return await IndexApp.open(
            folder,
            self._channel("events"),
            self._clock,
            choice=encoder_of(chosen),
            keep_replaced=keep,
            language=chosen.language,
        )

    async def _serve(self, app: _App) -> None:
        """Run a service for the channels of the others."""
        await app.start()
        self._stack.push_async_callback(app.stop)
        await self._run(host_of(app, self._token, self._clock), [])
        if isinstance(app, Streaming):
            self._stack.callback(app.drain)

    async def _open_gateway(self, database_url: str, database: Database) -> None:
        chosen = load(
            GatewaySettings, GATEWAY_PREFIX, os.environ, database_url=database_url, internal_token=self._token
        )
        admin_key = await asyncio.to_thread(read_or_make_admin_key, self.directory)
        gateway = GatewayApp(
            database,
            {f"mnemocore.{name}.v1": self._channel(name) for name in self._hosts},
            self._clock,
            admin_key,
            trust_local=is_local(self._listen),
            max_streams=chosen.max_streams,
        )
        await gateway.start()
        addresses = await self._run(gateway.host(), [self._listen] if self._listen else [])
        self._stack.callback(gateway.drain)
        self.address = addresses[0] if addresses else ""

    async def _run(self, host: Host, listen: Sequence[str]) -> list[str]:
        addresses = await host.start(listen)
        self._stack.push_async_callback(host.drain, DRAIN_SECONDS)
        self._hosts[host.name] = host
        return addresses

    def _channel(self, name: str) -> ResilientChannel:
        return ResilientChannel(
            self._hosts[name].channel(), name, credentials=InternalCredentials(self._token), clock=self._clock
        )


def is_local(listen: str) -> bool:
    """Whether only this machine can reach an address. Raises InvalidSettingError for what is no address."""
    if not listen or listen.startswith("unix:"):
        return True
    host, separator, _ = listen.rpartition(":")
    if not separator:
        raise InvalidSettingError(f"listen = {listen!r}: allowed is host:port or unix:PATH", setting="listen")
    return host in _LOOPBACK
