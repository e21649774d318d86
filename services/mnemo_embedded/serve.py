"""`mnemo serve`: an installation in this process until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mnemo_embedded.installation import Installation
from mnemocore import telemetry
from mnemocore.server import collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_log = logging.getLogger(__name__)


async def serve(
    data_dir: Path, listen: str, *, log_level: str, log_format: str, on_ready: Callable[[str], None]
) -> None:
    """Serve `data_dir` on `listen` until SIGINT or SIGTERM, then drain. `on_ready` is told the address.

    Raises DataDirectoryError, InvalidSettingError.
    """
    telemetry.configure("mnemo", log_format="json" if log_format == "json" else "text", log_level=log_level)
    async with until_signal() as stopped, Installation(data_dir, listen) as installation:
        collector.settle()
        on_ready(installation.address)
        await stopped.wait()
        _log.info("draining")


@asynccontextmanager
async def until_signal() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set instead of ending the process; a second signal ends it as usual."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        stopped.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
