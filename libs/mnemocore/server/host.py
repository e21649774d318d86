"""A host: the services of one process behind their stages, on sockets and in process, with health and reflection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from mnemocore.calls import STREAM_WINDOW_BYTES
from mnemocore.clock import SystemClock
from mnemocore.errors import InvalidSettingError
from mnemocore.policy import method_info
from mnemocore.server.admission import AdmissionLimits, AdmissionStage
from mnemocore.server.chain import Chain
from mnemocore.server.deadlines import DeadlineStage
from mnemocore.server.failures import ErrorsStage
from mnemocore.server.identity import IdentityStage
from mnemocore.server.inprocess import LocalChannel, LocalTransport
from mnemocore.server.lifecycle import BackgroundTask
from mnemocore.server.observation import AccessLogStage, MetricsStage, RequestIdStage, TracingStage
from mnemocore.server.validation import ValidationStage, Validator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mnemocore.clock import Clock
    from mnemocore.server.chain import Handler
    from mnemocore.server.identity import Authenticator

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The largest message a server takes or sends."""
READINESS_PERIOD: Final = 1.0
"""Seconds between two looks at the readiness of a service."""
READINESS_TIMEOUT: Final = 2.0
"""Seconds after which a readiness check that does not answer counts as not ready."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_LAST_PORT: Final = 65535
_FLUSH_SECONDS: Final = 1.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ("grpc.so_reuseport", 0),
    # Clients come back by way of name resolution, so new replicas get their share; streams may finish first.
    ("grpc.max_connection_age_ms", 5 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 60 * 60 * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
_LOGGER: Final = logging.getLogger("mnemocore.server")


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer, the generated function that registers it, and the full name of its service."""

    servicer: object
    add: Callable[[Any, Any], None]
    name: str


class HandlerTable(grpc.GenericRpcHandler):
    """The handlers of a host by path; stands in for a server where generated code registers servicers."""

    def __init__(self, extra: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers: dict[str, Handler] = {}
        self._extra = tuple(extra)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code before add_registered_method_handlers, which brings the same handlers."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Take the handlers of a service."""
        for method, handler in method_handlers.items():
            self._handlers[f"/{service_name}/{method}"] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a path; the extra handlers are asked last."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            return handler
        found = (extra.service(handler_call_details) for extra in self._extra)
        return next((handler for handler in found if handler is not None), None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all registered methods."""
        return tuple(self._handlers)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Health that says NOT_SERVING until somebody has looked."""

    def __init__(self) -> None:
        super().__init__()
        self._server_status[""] = _NOT_SERVING


@dataclass(slots=True)
class _LocalDetails:
    """What an extra handler is asked with for an in-process call."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Host:
    """Serves `services`, on sockets after `start` and to `channel` from the beginning.

    `readiness` tells whether the host's own store answers; it drives `grpc.health.v1`, which never says SERVING without
    its word. `public_only` hides INTERNAL methods. `extra_handlers` are asked for methods no service has, as a proxy
    needs; their handlers pass through the same stages. `reflected` names the services that those handlers answer for.
    """

    def __init__(
        self,
        name: str,
        services: Sequence[Service],
        *,
        authenticator: Authenticator,
        limits: AdmissionLimits | None = None,
        clock: Clock | None = None,
        public_only: bool = False,
        extra_handlers: Sequence[grpc.GenericRpcHandler] = (),
        reflected: Sequence[str] = (),
        readiness: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.name = name
        self._clock: Clock = clock or SystemClock()
        self._readiness = readiness
        self._ready = False
        self._admission = AdmissionStage(limits or AdmissionLimits())
        self._chain = Chain(
            (
                RequestIdStage(),
                TracingStage(),
                MetricsStage(),
                AccessLogStage(),
                ErrorsStage(),
                self._admission,
                DeadlineStage(),
                IdentityStage(authenticator, public_only=public_only),
                ValidationStage(),
            )
        )
        self._health = _Health()
        self._names = tuple(service.name for service in services)
        self._reflected = tuple(reflected)
        self._table = HandlerTable(extra_handlers)
        self._register(services)
        self._transport = LocalTransport(name, self._local_handler)
        self._poll = BackgroundTask(f"{name} readiness", self._poll_readiness, clock=self._clock)
        self._server: grpc.aio.Server | None = None

    @property
    def draining(self) -> asyncio.Event:
        """Set when the host drains; a handler of an endless stream may end its stream then."""
        return self._admission.draining

    @property
    def ready(self) -> bool:
        """Whether the last look found the host ready."""
        return self._ready

    def channel(self, metadata: Sequence[tuple[str, str | bytes]] = ()) -> LocalChannel:
        """A channel to this host in the running event loop; `metadata` goes with every call."""
        return LocalChannel(self._transport, metadata)

    async def start(self, listen: Sequence[str] = ()) -> list[str]:
        """Serve on every address of `listen`, `host:port` or `unix:PATH`; port 0 takes a free one.

        Returns the real addresses. Raises InvalidSettingError for one that cannot be bound; nothing is served then.
        """
        await self._look()
        addresses: list[str] = []
        if listen:
            self._server = grpc.aio.server(interceptors=(self._chain,), options=_OPTIONS)
            self._server.add_generic_rpc_handlers((self._table,))
            try:
                addresses = [await _bind(self._server, address) for address in listen]
            except InvalidSettingError:
                await self._server.stop(None)
                self._server = None
                raise
            await self._server.start()
        await self._poll.start()
        _LOGGER.info("%s serves on %s", self.name, ", ".join(addresses) or "no socket")
        return addresses

    async def drain(self, grace: float, *, probe_period: float = 0.0) -> None:
        """Stop serving: health turns NOT_SERVING, `probe_period` seconds pass, new calls get ShuttingDownError.

        Calls under way finish within `grace` seconds; those that do not are ended. Returns when all is over.
        """
        loop = asyncio.get_running_loop()
        await self._health.enter_graceful_shutdown()
        self._ready = False
        if probe_period:
            await self._clock.sleep(probe_period)
        self._admission.close()
        deadline = loop.time() + grace
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._admission.idle()
        if self._server is not None:
            # Answers that are written but not sent yet get a moment, and watchers of health no more than that.
            await self._server.stop(min(_FLUSH_SECONDS, max(0.0, deadline - loop.time())))
            self._server = None
        await self._transport.stop()
        await self._poll.stop()

    def _register(self, services: Sequence[Service]) -> None:
        table: Any = self._table
        for service in services:
            service.add(service.servicer, table)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, table)
        names = (*self._names, *self._reflected, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), table)
        for path in self._table.paths:
            self._chain.wrap(path, self._table.service(_LocalDetails(path)))
            info = method_info(path)
            if info is not None:
                Validator.for_message(info.request.DESCRIPTOR)

    def _local_handler(self, path: str) -> Handler | None:
        return self._chain.wrap(path, self._table.service(_LocalDetails(path)))

    async def _poll_readiness(self) -> None:
        while True:
            await self._clock.sleep(READINESS_PERIOD)
            await self._look()

    async def _look(self) -> None:
        """Ask for readiness and let health say it."""
        ready = await self._ask()
        if ready != self._ready:
            _LOGGER.info("%s is %s", self.name, "ready" if ready else "not ready")
        self._ready = ready
        for name in ("", *self._names):
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)

    async def _ask(self) -> bool:
        if self._readiness is None:
            return True
        try:
            async with asyncio.timeout(READINESS_TIMEOUT):
                return await self._readiness()
        except Exception:  # a check that fails means not ready; the next look comes in a second
            if self._ready:
                _LOGGER.warning("the readiness check of %s failed", self.name, exc_info=True)
            return False


class HostPart:
    """A host as a part of a lifecycle: serves on `listen`, drains with `grace` seconds for calls under way."""

    def __init__(self, host: Host, listen: Sequence[str], *, grace: float, probe_period: float = 0.0) -> None:
        self.name = f"{host.name} server"
        self.addresses: list[str] = []
        """The real addresses once started."""
        self._host = host
        self._listen = tuple(listen)
        self._grace = grace
        self._probe_period = probe_period

    async def start(self) -> None:
        """Serve."""
        self.addresses = await self._host.start(self._listen)

    async def stop(self) -> None:
        """Drain."""
        await self._host.drain(self._grace, probe_period=self._probe_period)


async def _bind(server: grpc.aio.Server, address: str) -> str:
    if address.startswith("unix:"):
        await _refuse_live_socket(address)
    else:
        host, _, port_text = address.rpartition(":")
        if not host or not port_text.isdecimal() or int(port_text) > _LAST_PORT:
            text = f"listen = {address!r}: allowed is host:port (port 0 to {_LAST_PORT}, 0 for any) or unix:PATH"
            raise InvalidSettingError(text, setting="listen")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidSettingError(
            f"listen = {address!r}: cannot be bound; the port is in use or the address is not of this machine",
            setting="listen",
        ) from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


async def _refuse_live_socket(address: str) -> None:
    """Raise if another process answers on a socket file; gRPC itself would take the file over."""
    path = Path(address.removeprefix("unix:"))
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return
    writer.close()
    await writer.wait_closed()
    raise InvalidSettingError(f"listen = {address!r}: another server answers there", setting="listen")
