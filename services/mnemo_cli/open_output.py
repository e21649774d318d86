"""Ends what goes on for ever once nobody reads standard output any more, as after `| head`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import stat
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def while_read() -> AsyncIterator[None]:
    """Raises BrokenPipeError in the block when the pipe behind standard output is closed, although nothing is written.

    Without it one who waits would notice with the next line, which may never come. What is not a pipe is not watched.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None, "a coroutine runs in a task"
    inside, closed = True, False

    def close() -> None:
        nonlocal closed
        if inside:
            closed = True
            task.cancel()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(close)

    _watch(tell)
    try:
        yield
    except asyncio.CancelledError:
        if not closed:
            raise
        task.uncancel()
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
    finally:
        inside = False


def _watch(tell: Callable[[], None]) -> None:
    """Call `tell` in another thread when the pipe is closed; the process does not wait for that thread."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file is behind it
        return
    if stat.S_ISFIFO(os.fstat(output).st_mode):
        threading.Thread(target=_wait, args=(output, tell), name="mnemo-output", daemon=True).start()


def _wait(output: int, tell: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(output, 0)  # nothing but errors, of which a closed pipe is one
    poll.poll()
    tell()
