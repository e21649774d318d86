"""Working as an agent: claiming tasks, running their handler, saying what became of them."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mnemocore.client import convert
from mnemocore.client.event_values import FailureReason
from mnemocore.client.failures import failure_of, log_failure
from mnemocore.client.handlers import call_handler
from mnemocore.client.reconnecting import BREAKS, PATIENCE
from mnemocore.client.retries import pause_after
from mnemocore.errors import (
    AgentNotFoundError,
    InvalidArgumentError,
    LeaseLostError,
    MnemoError,
    TaskNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from mnemocore.client.agents import Presence
    from mnemocore.client.event_values import Task
    from mnemocore.client.services import Services
    from mnemocore.client.tasks import Tasks

WAIT: Final = timedelta(seconds=20)
"""How long a claim waits for a task."""

DEFAULT_LEASE: Final = timedelta(seconds=60)
MOST_BREAKS: Final = 10
"""Failures in a row that make the next pause longer."""

_log = logging.getLogger(__name__)


class Worker:
    """One run of `work`: call `run` once."""

    def __init__(
        self,
        tasks: Tasks,
        services: Services,
        presence: Presence,
        handler: Callable[[Task], Any],
        concurrency: int,
        lease: timedelta | None,
    ) -> None:
        self._tasks = tasks
        self._services = services
        self._clock = services.clock
        self._presence = presence
        self._handler = handler
        self._concurrency = concurrency
        self._lease = lease or DEFAULT_LEASE
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> NoReturn:
        """Work until cancelled. Raises what no other try can help, such as PermissionDeniedError."""
        async with self._presence:
            try:
                failures = 0
                while True:
                    await self._room()
                    try:
                        await self._claim()
                        failures = 0
                    except AgentNotFoundError:
                        await self._presence.register()
                    except BREAKS as error:
                        failures += 1
                        await self._pause(error, failures)
            finally:
                for task in self._running:
                    task.cancel()
                await asyncio.gather(*self._running, return_exceptions=True)

    async def _room(self) -> None:
        """Return when another task can be taken."""
        while len(self._running) >= self._concurrency:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _claim(self) -> None:
        free = self._concurrency - len(self._running)
        for task in await self._tasks.claim(self._presence.id, limit=free, lease=self._lease, wait=WAIT):
            running = asyncio.create_task(self._do(task))
            self._running.add(running)
            running.add_done_callback(self._ended)
        self._presence.load = len(self._running) / self._concurrency

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._presence.load = len(self._running) / self._concurrency
        if not running.cancelled() and (error := running.exception()) is not None:
            _log.error("a task could not be settled", exc_info=error)

    async def _do(self, task: Task) -> None:
        handling = asyncio.create_task(call_handler(self._handler, task))
        extending = asyncio.create_task(self._extend(task, handling))
        try:
            await asyncio.wait([handling])
            if not extending.done():
                await self._settle(task, handling)
        finally:
            handling.cancel()
            extending.cancel()
            await asyncio.gather(handling, extending, return_exceptions=True)

    async def _settle(self, task: Task, handling: asyncio.Task[Any]) -> None:
        """Say what became of a task whose handler has ended."""
        error = _error_of(handling)
        if error is None:
            result = handling.result()
            try:
                await self._tell(task, lambda: self._tasks.complete(task, result))
            except InvalidArgumentError as refused:  # the result is one that no task may have
                error = refused
            else:
                return
        log_failure(_log, error, f"task {task.id} ({task.type})")
        failed = failure_of(error)
        reason = convert.enum_from_wire(FailureReason, failed.reason)
        await self._tell(task, lambda: self._tasks.fail(task, failed.message, reason=reason))

    async def _tell(self, task: Task, settle: Callable[[], Awaitable[Task]]) -> None:
        """Say what became of a task until it is heard, or until it is not ours any more."""
        failures = 0
        while True:
            try:
                await settle()
            except (LeaseLostError, TaskNotFoundError) as error:
                _log.warning("task %s was not ours any more: %s", task.id, error)
            except BREAKS as error:
                failures += 1
                await self._pause(error, failures)
                continue
            return

    async def _pause(self, error: MnemoError, failures: int) -> None:
        """Return when the next try after so many `failures` may find somebody."""
        await self._clock.sleep(pause_after(error, min(failures, MOST_BREAKS)))
        await self._services.connected(PATIENCE)

    async def _extend(self, task: Task, handling: asyncio.Task[Any]) -> None:
        """Extend the lease until cancelled; ends, and ends the handler, when the task is not ours any more."""
        while True:
            await self._clock.sleep(self._lease.total_seconds() / 3)
            try:
                await self._tasks.extend(task, self._lease)
            except (LeaseLostError, TaskNotFoundError) as error:
                _log.warning("task %s is not ours any more: %s", task.id, error)
                handling.cancel()
                return
            except MnemoError as error:  # the lease lasts for another try
                _log.warning("the lease of task %s could not be extended: %s", task.id, error)


def _error_of(handling: asyncio.Task[Any]) -> BaseException | None:
    """What a handler that has ended has raised."""
    if handling.cancelled():
        return asyncio.CancelledError("the handler was cancelled")
    return handling.exception()
