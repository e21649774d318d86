"""Starting and stopping the parts of a process in order, and keeping background work alive in between."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from mnemocore.clock import SystemClock
from mnemocore.errors import DeadlineExceededError, ExhaustedError, UnavailableError
from mnemocore.outages import level_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from mnemocore.clock import Clock

_LOGGER: Final = logging.getLogger("mnemocore.server")

FIRST_PAUSE: Final = 0.1
"""Seconds before background work that failed is started again; doubled with every failure in a row."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between attempts at most; work that ran longer than this counts as recovered."""


_PASSING: Final = (UnavailableError, ExhaustedError, DeadlineExceededError)
"""What may go wrong with a sound program, and be over a moment later."""


class Part(Protocol):
    """Something that runs as long as its process: a store, a server, a worker."""

    name: str

    async def start(self) -> object:
        """Be ready when this returns. After an exception or a cancellation nothing of the part is left running."""
        ...

    async def stop(self) -> None:
        """Be gone when this returns."""
        ...


class Lifecycle:
    """Starts parts in order and stops them in reverse."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._started: list[Part] = []

    async def start(self) -> None:
        """Start every part. If one fails, those before it are stopped in reverse and its error is raised."""
        try:
            for part in self._parts:
                await part.start()
                self._started.append(part)
        except BaseException:  # also a cancellation leaves no half process behind; what stopping adds is in the log
            with suppress(ExceptionGroup):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every started part, the last one first. A failing one never keeps the others from being stopped.

        Raises an ExceptionGroup of all that went wrong, when everything has been tried.
        """
        failures: list[Exception] = []
        while self._started:
            part = self._started.pop()
            try:
                await part.stop()
            except Exception as error:  # the other parts are stopped all the same; it is raised at the end
                _LOGGER.exception("%s did not stop cleanly", part.name)
                failures.append(error)
        if failures:
            raise ExceptionGroup("parts did not stop cleanly", failures)

    async def run_until_signal(self, ready: Callable[[], object] | None = None) -> None:
        """Start, call `ready`, wait for SIGTERM or SIGINT, stop. A second signal ends at once, without waiting.

        A signal during the start rolls it back.
        """
        signals = _Signals()
        with signals:
            if not await signals.interrupt(self.start(), signals.first):
                return
            if ready is not None:
                ready()
            await signals.first.wait()
            _LOGGER.info("stopping; a second signal ends at once")
            if not await signals.interrupt(self.stop(), signals.second):
                _LOGGER.warning("ended by a second signal before every part had stopped")


class _Signals:
    """Counts SIGTERM and SIGINT while it is entered."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def __exit__(self, *exc_info: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    async def interrupt(self, work: Coroutine[object, object, None], event: asyncio.Event) -> bool:
        """Run `work`, or cancel it when `event` comes first. Whether it was completed; its errors are raised."""
        task = asyncio.ensure_future(work)
        waiter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
            completed = task.done()
            if not completed:
                await _cancel(task)
            else:
                task.result()
            return completed
        finally:
            await _cancel(waiter)
            await _cancel(task)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class BackgroundTask:
    """A part that keeps one coroutine function running.

    If it raises, it is called again after a pause that doubles from FIRST_PAUSE to LONGEST_PAUSE. If it returns, its
    work is done. `stop` cancels it and waits for its end. An error that nobody expects is logged with its traceback
    every time; that a peer or a store is unavailable, full or slow in one line, once as long as it is the same; that
    the own store does not answer is left to `mnemocore.outages`.
    """

    def __init__(self, name: str, run: Callable[[], Awaitable[object]], *, clock: Clock | None = None) -> None:
        self.name = name
        self.failures = 0
        """Failures in a row; 0 while all is well."""
        self.last_failure = ""
        """The last failure in one line; empty if there was none."""
        self._run = run
        self._clock: Clock = clock or SystemClock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to run; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=self.name)

    async def stop(self) -> None:
        """End the work; returns when it has ended."""
        if self._task is not None:
            await _cancel(self._task)
            self._task = None

    @property
    def running(self) -> bool:
        """Whether the work goes on, or will again after a pause."""
        return self._task is not None and not self._task.done()

    async def _supervise(self) -> None:
        while True:
            started = self._clock.monotonic()
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001
                # The work goes on after a pause.
                if self._clock.monotonic() - started > LONGEST_PAUSE:
                    self.failures = 0
                self.failures += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.failures - 1, 16))
                self._log(error, pause)
                await self._clock.sleep(pause)
            else:
                self.failures = 0
                return

    def _log(self, error: Exception, pause: float) -> None:
        before, self.last_failure = self.last_failure, f"{type(error).__name__}: {error}"
        if not isinstance(error, _PASSING):
            _LOGGER.error("%s failed (%d in a row); again in %.1f s", self.name, self.failures, pause, exc_info=error)
            return
        is_known = self.failures > 1 and self.last_failure == before
        level = logging.DEBUG if is_known else level_of(error)
        _LOGGER.log(level, "%s waits: %s; it goes on when that is over", self.name, self.last_failure)


async def _cancel(task: asyncio.Task[None] | asyncio.Task[bool] | asyncio.Future[bool]) -> None:
    """Cancel a task and wait for its end. Its own cancellation is expected, the caller's passes through."""
    if task.done():
        return
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        # Whoever cancels does not want the result; asking for it keeps asyncio from calling it forgotten.
        task.exception()
