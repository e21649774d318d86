"""An installation in processes: PostgreSQL and the five services, each a process of its own, gRPC between them.

What containers do in a cluster, on one machine: the services talk over Unix sockets in the data directory, the gateway
also listens where clients expect it. A service that dies is started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mnemo_embedded.admin_key import read_or_make_admin_key
from mnemo_embedded.serve import until_signal
from mnemo_embedded.webhook_key import master_keys_file
from mnemocore import telemetry
from mnemocore.data_directory import DataDirectory
from mnemocore.errors import InvalidSettingError, PeerUnavailableError
from mnemocore.free_port import free_port
from mnemocore.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

SERVICES: Final = ("events", "index", "memory", "cognitive", "gateway")
"""In the order of starting; stopped in reverse."""

START_SECONDS: Final = 60.0
BREAKER_RESET_SECONDS: Final = 1.0
"""A service that dies is back within a second or two: nobody has to be kept away from it for longer."""

STOP_SECONDS: Final = 40.0
_LAST_PORT: Final = 65535
_LONGEST_SOCKET_PATH: Final = 100
_LONGEST_PAUSE: Final = 10.0
_HEALTHY_AFTER: Final = 10.0
_log = logging.getLogger(__name__)


class Processes:
    """The processes on `directory`; as an async context manager they run between enter and exit.

    Entering raises DataDirectoryError, InvalidSettingError for the address, or PeerUnavailableError if a service does
    not become ready.
    """

    def __init__(self, directory: Path, listen: str, *, log_level: str = "INFO", log_format: str = "text") -> None:
        self.directory = directory.absolute()
        self.address = _with_port(listen)
        """Where the gateway answers."""
        self._log_level = log_level
        self._log_format = log_format
        self._stack = AsyncExitStack()
        self._children: dict[str, _Child] = {}

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

    def pid(self, service: str) -> int:
        """The process id of a service that runs now."""
        return self._children[service].pid

    async def _start(self) -> None:
        await _refuse_taken(self.address)
        directory = await asyncio.to_thread(DataDirectory.acquire, self.directory)
        self._stack.callback(directory.release)
        postgres = EmbeddedPostgres(self.directory / "postgres")
        await postgres.start()
        self._stack.push_async_callback(postgres.stop)
        sockets = await asyncio.to_thread(self._socket_folder)
        environment = await asyncio.to_thread(self._environment, postgres.url, sockets)
        await self._run(["events"], environment, sockets)  # the others call it from the beginning
        await self._run([service for service in SERVICES if service != "events"], environment, sockets)
        await asyncio.to_thread(directory.publish_address, self.address)

    async def _run(self, services: Sequence[str], environment: Mapping[str, str], sockets: Path) -> None:
        """Start services and wait until they are ready."""
        for service in services:
            child = _Child(service, environment)
            self._children[service] = child
            await child.start()
            self._stack.push_async_callback(child.stop)
        for service in services:
            address = self.address if service == "gateway" else f"unix:{sockets / service}"
            await _until_ready(self._children[service], address)

    def _socket_folder(self) -> Path:
        folder = self.directory / "sockets"
        if len(os.fsencode(folder / max(SERVICES, key=len))) > _LONGEST_SOCKET_PATH:
            folder = Path(tempfile.mkdtemp(prefix="mnemo-"))
        folder.mkdir(mode=0o700, exist_ok=True)
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _environment(self, database_url: str, sockets: Path) -> dict[str, str]:
        """The settings of all services, over the environment of this process."""
        token = secrets.token_urlsafe(32)
        environment = dict(os.environ)
        for service in SERVICES:
            prefix = f"MNEMO_{service.upper()}_"
            environment |= {
                prefix + "INTERNAL_TOKEN": token,
                prefix + "LISTEN": f"unix:{sockets / service}",
                prefix + "LOG_LEVEL": self._log_level.upper(),
                prefix + "LOG_FORMAT": self._log_format,
            }
            for other in SERVICES:
                environment[f"{prefix}{other.upper()}_TARGET"] = f"unix:{sockets / other}"
            environment[prefix + "BREAKER_RESET_SECONDS"] = str(BREAKER_RESET_SECONDS)
            if service != "index":
                environment[prefix + "DATABASE_URL"] = database_url
        environment["MNEMO_MEMORY_STORE_FOLDER"] = str(self.directory)
        environment["MNEMO_INDEX_DATA_DIR"] = str(self.directory / "index")
        environment["MNEMO_EVENTS_MASTER_KEYS_FILE"] = master_keys_file(self.directory, os.environ)
        environment["MNEMO_GATEWAY_LISTEN"] = self.address
        environment["MNEMO_GATEWAY_ADMIN_KEY"] = read_or_make_admin_key(self.directory)
        return environment


class _Child:
    """One service as a child process, started again when it dies."""

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        self.restarts = 0
        """How often it was started again."""
        self.service = service
        own = f"MNEMO_{service.upper()}_"
        self._environment = {
            name: value for name, value in environment.items() if not name.startswith("MNEMO_") or name.startswith(own)
        }
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id; valid after `start`."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process and keep it running."""
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.service}")

    async def stop(self) -> None:
        """Ask the process to drain, and wait for its end; kill it if it does not come."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            _log.error("%s did not stop within %d s and is killed", self.service, STOP_SECONDS)
            process.kill()
            await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mnemo_embedded.child",
            f"mnemo_{self.service}",
            stdin=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )

    async def _keep(self) -> None:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        pause = 0.1
        while True:
            started = loop.time()
            code = await self._process.wait()
            pause = 0.1 if loop.time() - started > _HEALTHY_AFTER else min(_LONGEST_PAUSE, 2 * pause)
            _log.error("%s ended with code %d; starting it again in %.1f s", self.service, code, pause)
            await asyncio.sleep(pause)
            self._process = await self._spawn()
            self.restarts += 1


async def up(data_dir: Path, listen: str, *, log_level: str, log_format: str, on_ready: Callable[[str], None]) -> None:
    """Run the processes until SIGINT or SIGTERM. Raises DataDirectoryError, PeerUnavailableError."""
    telemetry.configure("mnemo-up", log_format="json" if log_format == "json" else "text", log_level=log_level)
    async with until_signal() as stopped, Processes(data_dir, listen, log_level=log_level, log_format=log_format) as it:
        on_ready(it.address)
        await stopped.wait()


async def _until_ready(child: _Child, address: str) -> None:
    """Return when a service answers its health check with SERVING. Raises PeerUnavailableError if it does not come."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _serves(stub):
                    if child.restarts:
                        raise PeerUnavailableError(f"{child.service} does not start; see its log", target=address)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = f"{child.service} did not become ready within {START_SECONDS:.0f} s; see its log"
            raise PeerUnavailableError(text, target=address) from None


async def _serves(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def _refuse_taken(listen: str) -> None:
    """Raise InvalidSettingError if somebody listens on the address already: its answers would be taken for ours."""
    try:
        if listen.startswith("unix:"):
            _, writer = await asyncio.open_unix_connection(listen.removeprefix("unix:"))
        else:
            host, _, port = listen.rpartition(":")
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, OverflowError):
        return
    writer.close()
    raise InvalidSettingError(f"listen = {listen!r}: another server answers there", setting="listen")


def _with_port(listen: str) -> str:
    """The address with a free port in the place of port 0. Raises InvalidSettingError for what is no address."""
    if listen.startswith("unix:"):
        return listen
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        text = f"listen = {listen!r}: allowed is host:port (port 0 to {_LAST_PORT}, 0 for any) or unix:PATH"
        raise InvalidSettingError(text, setting="listen")
    return listen if port != "0" else f"{host}:{free_port(host.strip('[]'))}"
