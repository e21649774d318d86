"""The main of a service: settings, telemetry, the app behind its host, until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

import uvloop

from mnemocore import settings, telemetry
from mnemocore.clock import SystemClock
from mnemocore.errors import MnemoError, UnavailableError
from mnemocore.server import collector
from mnemocore.server.host import Host, HostPart
from mnemocore.server.identity import InternalAuthenticator
from mnemocore.server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mnemocore.clock import Clock
    from mnemocore.server.admission import AdmissionLimits
    from mnemocore.server.host import Service

GRACE_SECONDS: Final = 30.0
"""How long calls under way have to end after SIGTERM."""
PATIENCE_SECONDS: Final = 60.0
"""How long a process waits at its start for a store that does not answer yet."""
_PAUSE_SECONDS: Final = 0.5

_LOGGER: Final = logging.getLogger("mnemocore.server")


class ProcessSettings(Protocol):
    """The settings every service has."""

    @property
    def listen(self) -> str:
        """Address to serve on."""

    @property
    def internal_token(self) -> str:
        """Secret that the services of one installation share."""

    @property
    def log_format(self) -> str:
        """`json` or `text`."""

    @property
    def log_level(self) -> str:
        """Least level of log lines."""

    @property
    def otlp_endpoint(self) -> str:
        """Where traces and metrics go; empty: nowhere."""


class App(Protocol):
    """A service as its composition root offers it."""

    name: str
    services: list[Service]
    """What is served; complete after `start`."""

    async def start(self) -> None:
        """Be able to answer when this returns."""

    async def stop(self) -> None:
        """Be at rest when this returns."""

    async def ready(self) -> bool:
        """Whether the own store answers."""


@runtime_checkable
class Streaming(Protocol):
    """An app with streams that do not end by themselves."""

    def drain(self) -> None:
        """End them; called before the host waits for calls under way."""


@runtime_checkable
class Limited(Protocol):
    """An app that says how many calls its host takes at once."""

    limits: AdmissionLimits


S = TypeVar("S", bound=ProcessSettings)
A = TypeVar("A", bound=App)


def internal_host(app: App, configuration: ProcessSettings) -> Host:
    """A host that the services of the installation may call."""
    return host_of(app, configuration.internal_token, SystemClock())


def host_of(app: App, internal_token: str, clock: Clock) -> Host:
    """A host for those who know the secret of the installation."""
    return Host(
        app.name,
        app.services,
        authenticator=InternalAuthenticator(internal_token),
        limits=app.limits if isinstance(app, Limited) else None,
        clock=clock,
        readiness=app.ready,
    )


def run(
    settings_class: type[S],
    prefix: str,
    assemble: Callable[[S, AsyncExitStack], Awaitable[A]],
    make_host: Callable[[A, S], Host] = internal_host,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. What makes it impossible is one line on stderr, code 1.

    `assemble` opens stores and channels, hands their closing to the stack, and returns the app, not started. A store
    that does not answer is waited for, up to a minute.
    """
    name = prefix.lower().rstrip("_").replace("_", "-")
    try:
        configuration = settings.load(settings_class, prefix, os.environ)
        telemetry.configure(
            name,
            otlp_endpoint=configuration.otlp_endpoint,
            log_format="json" if configuration.log_format == "json" else "text",
            log_level=configuration.log_level,
        )
        serving = _Serving(lambda stack: _start(configuration, assemble, make_host, stack))
        uvloop.run(Lifecycle([serving]).run_until_signal(ready=collector.settle))
    except MnemoError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except ExceptionGroup:
        return 1  # what did not stop cleanly is in the log
    return 0


class _Serving:
    """What `start` starts, as one part of a lifecycle."""

    name = "service"

    def __init__(self, start: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
        self._start = start
        self._stack = AsyncExitStack()
        self._said = ""

    async def start(self) -> None:
        """Start in order; try again while a store does not answer."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            if await self._try_to_start(is_last=time.monotonic() > give_up):
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def stop(self) -> None:
        """Stop in reverse order."""
        await self._stack.aclose()

    async def _try_to_start(self, *, is_last: bool) -> bool:
        try:
            await self._start(self._stack)
        except BaseException as error:
            await self._stack.aclose()
            if is_last or not isinstance(error, UnavailableError):
                raise
            if str(error) != self._said:
                _LOGGER.warning("waiting: %s", error)
            self._said = str(error)
            return False
        return True


async def _start(
    configuration: S,
    assemble: Callable[[S, AsyncExitStack], Awaitable[A]],
    make_host: Callable[[A, S], Host],
    stack: AsyncExitStack,
) -> None:
    app = await assemble(configuration, stack)
    await app.start()
    stack.push_async_callback(app.stop)
    host = HostPart(make_host(app, configuration), [configuration.listen], grace=GRACE_SECONDS)
    await host.start()
    stack.push_async_callback(host.stop)
    streaming: object = app
    if isinstance(streaming, Streaming):
        stack.callback(streaming.drain)
