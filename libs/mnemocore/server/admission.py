"""The admission stage: bounded concurrency, bounded queues, and the closed door of a draining server."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mnemocore.errors import OverloadedError, ShuttingDownError

if TYPE_CHECKING:
    from mnemocore.server.chain import Proceed, ServerCall

MAX_STREAMS: Final = 256
"""Streams that are open at once, unless an operator says otherwise."""
DRAIN_RETRY_SECONDS: Final = 1.0
"""After how many seconds a caller of a draining server may try again: another replica answers then."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many calls run and wait at once. Beyond that calls are refused with `retry_after` seconds of advice."""

    unary_running: int = 256
    unary_waiting: int = 1024
    stream_running: int = MAX_STREAMS
    stream_waiting: int = 0
    retry_after: float = 1.0


class Gate:
    """Lets `running` holders in at a time and `waiting` more queue for it, first come, first served."""

    def __init__(self, running: int, waiting: int, retry_after: float) -> None:
        self._limit = running
        self._queue_limit = waiting
        self._retry_after = retry_after
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """How many are in."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many queue."""
        return len(self._queue)

    async def enter(self) -> None:
        """Come in now, or when it is one's turn. Raises OverloadedError at once if the queue is full."""
        if self._running < self._limit:
            self._running += 1
            return
        if len(self._queue) >= self._queue_limit:
            raise OverloadedError(retry_after=self._retry_after)
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    self._queue.remove(turn)
            else:
                self.leave()
            raise

    def leave(self) -> None:
        """Go out; the place passes to whoever waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1


class AdmissionStage:
    """Admits calls by class, unary or stream, until the server drains."""

    name = "admission"

    def __init__(self, limits: AdmissionLimits) -> None:
        self.unary = Gate(limits.unary_running, limits.unary_waiting, limits.retry_after)
        self.stream = Gate(limits.stream_running, limits.stream_waiting, limits.retry_after)
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Run the call when there is room."""
        if self.draining.is_set():
            raise ShuttingDownError(retry_after=DRAIN_RETRY_SECONDS)
        gate = self.unary if call.info is not None and call.info.unary else self.stream
        await gate.enter()
        self._idle.clear()
        try:
            return await proceed(call)
        finally:
            gate.leave()
            if not (self.unary.running or self.stream.running):
                self._idle.set()

    def close(self) -> None:
        """Refuse calls from now on with ShuttingDownError; those admitted or queued before are answered."""
        self.draining.set()

    async def idle(self) -> None:
        """Return when no admitted call is running."""
        await self._idle.wait()
